"""Trying again: how often, how patiently, how many at once. Time and chance are injected."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from riva_stream.errors import (
    ConfigurationError,
    IntegrityError,
    RivaStreamError,
    ThrottledError,
    TransientError,
    Where,
)
from riva_stream.events import Event, RetryScheduled
from riva_stream.retry import Retrier, RetryPolicy


@given(
    attempt=st.integers(1, 1000),
    draw=st.floats(0, 1, exclude_max=True),
    base=st.floats(0.001, 10),
    cap=st.floats(0.001, 100),
)
def test_a_delay_is_drawn_between_nothing_and_the_capped_backoff(
    attempt: int, draw: float, base: float, cap: float
) -> None:
    delay = RetryPolicy(base=base, cap=cap).delay(attempt, draw)
    assert 0 <= delay <= min(cap, base * 2.0 ** (attempt - 1)) if attempt < 60 else 0 <= delay <= cap


def failing(*errors: RivaStreamError) -> tuple[Callable[[], Awaitable[str]], list[int]]:
    """An operation that fails with each of these, and then succeeds; and the count of its attempts."""
    left, calls = list(errors), [0]

    async def attempt() -> str:
        calls[0] += 1
        if left:
            raise left.pop(0)
        return "done"

    return attempt, calls


def retrier(slept: list[float] | None = None, **options: object) -> Retrier:
    async def sleep(seconds: float) -> None:
        if slept is not None:
            slept.append(seconds)
        await anyio.lowlevel.checkpoint()

    return Retrier(sleep=sleep, draw=lambda: 0.5, **options)  # type: ignore[arg-type]


async def test_transport_is_retried_with_growing_delays() -> None:
    slept: list[float] = []
    events: list[Event] = []
    attempt, calls = failing(*(TransientError("broken") for _ in range(4)))
    policy = RetryPolicy(retries=5, base=1.0, cap=3.0)
    assert await retrier(slept, policy=policy, observer=events.append)("GetObject", attempt) == "done"
    assert calls == [5]
    assert slept == [0.5, 1.0, 1.5, 1.5]
    assert [event.attempt for event in events if isinstance(event, RetryScheduled)] == [1, 2, 3, 4]


async def test_the_last_error_tells_the_attempt() -> None:
    attempt, calls = failing(*(TransientError("broken") for _ in range(9)))
    with pytest.raises(TransientError) as caught:
        await retrier(policy=RetryPolicy(retries=2))("UploadPart", attempt)
    assert calls == [3]
    assert caught.value.where == Where("UploadPart", attempt=3)


@pytest.mark.parametrize("error", [IntegrityError("wrong"), ConfigurationError("no"), RivaStreamError("bug")])
async def test_what_is_final_is_tried_once(error: RivaStreamError) -> None:
    attempt, calls = failing(error)
    with pytest.raises(type(error)):
        await retrier()("GetObject", attempt)
    assert calls == [1]


async def test_a_run_has_one_budget_for_all_its_requests() -> None:
    spender = retrier(policy=RetryPolicy(retries=100, budget=5))
    first, _ = failing(*(TransientError("broken") for _ in range(4)))
    await spender("GetObject", first)
    second, calls = failing(*(TransientError("broken") for _ in range(4)))
    with pytest.raises(TransientError) as caught:
        await spender("GetObject", second)
    assert calls == [2]
    assert "5 retries are spent" in caught.value.hint


async def test_a_store_that_asks_for_fewer_gets_fewer_and_later_more_again() -> None:
    running, most = [0], [0]

    async def work() -> str:
        running[0] += 1
        most[0] = max(most[0], running[0])
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        running[0] -= 1
        return "done"

    async def burst(paced: Retrier) -> int:
        most[0] = 0
        async with anyio.create_task_group() as tasks:
            for _ in range(40):
                tasks.start_soon(paced, "UploadPart", work)
        return most[0]

    paced = retrier(slots=16)
    assert await burst(paced) == 16
    slow, _ = failing(ThrottledError("slow down"), ThrottledError("slow down"))
    await paced("UploadPart", slow)
    assert await burst(paced) <= 12  # halved twice, to 4, and grown by one a few times on the way
    for _ in range(20):
        await burst(paced)
    assert await burst(paced) == 16


def expired(code: str = "ExpiredToken") -> ConfigurationError:
    return ConfigurationError("expired", where=Where(code=code))


class Token:
    """Credentials that a store takes for an hour, on a clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.until = 3600.0
        self.client = 0
        """Of which generation the credentials are that a request begins with."""
        self.renewals = 0
        self.failures: list[RivaStreamError] = []
        self.helps = True
        self.on_renewal: Callable[[], object] = lambda: None

    async def renew(self) -> bool:
        self.renewals += 1
        self.on_renewal()
        await anyio.sleep(0.01)  # long enough for all that were refused to come and ask
        if self.failures:
            raise self.failures.pop(0)
        if self.helps:
            self.client += 1
            self.until = self.now + 3600.0
        return True

    async def request(self) -> str:
        until = self.until
        await anyio.lowlevel.checkpoint()
        if self.now >= until:
            raise expired()
        return "done"


async def at_once(worker: Retrier, token: Token, count: int) -> list[str | type[BaseException]]:
    """What becomes of so many requests that begin in the same moment."""
    outcomes: list[str | type[BaseException]] = []

    async def one() -> None:
        try:
            outcomes.append(await worker("UploadPart", token.request))
        except RivaStreamError as error:
            outcomes.append(type(error))

    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(one)
    return outcomes


@pytest.mark.parametrize("count", [1, 4, 16])
async def test_credentials_that_expire_under_many_requests_are_renewed_once(count: int) -> None:
    token = Token()
    worker = retrier(renew=token.renew)
    token.now = 3600.0
    assert await at_once(worker, token, count) == ["done"] * count
    assert token.renewals == 1
    assert worker.spent == 0  # it is no failure of the transport


async def test_credentials_are_renewed_as_often_as_they_expire() -> None:
    token = Token()
    worker = retrier(renew=token.renew)
    for hour in range(1, 6):
        token.now = hour * 3600.0
        assert await at_once(worker, token, 4) == ["done"] * 4
        assert token.renewals == hour


async def test_credentials_that_are_refused_right_after_their_renewal_are_of_no_use() -> None:
    token = Token()
    token.helps = False
    worker = retrier(renew=token.renew)
    token.now = 3600.0
    assert await at_once(worker, token, 4) == [ConfigurationError] * 4
    assert token.renewals == 1


async def test_a_request_may_outlive_several_credentials() -> None:
    """One that another failure came between was not refused right after a renewal."""
    token = Token()
    attempt, calls = failing(expired(), TransientError("broken"), expired("ExpiredTokenException"))
    assert await retrier(renew=token.renew)("GetObject", attempt) == "done"
    assert (calls, token.renewals) == ([4], 2)


async def test_a_renewal_that_fails_for_a_while_is_tried_again() -> None:
    token = Token()
    token.failures = [TransientError("the helper's own network")] * 2
    worker = retrier(renew=token.renew)
    token.now = 3600.0
    assert await at_once(worker, token, 4) == ["done"] * 4


async def test_a_renewal_that_fails_for_good_is_what_is_told() -> None:
    token = Token()
    token.failures = [ConfigurationError("no such helper", where=Where(code="Helper"))]
    attempt, calls = failing(expired())
    with pytest.raises(ConfigurationError) as caught:
        await retrier(renew=token.renew)("GetObject", attempt)
    assert (caught.value.where.code, caught.value.where.operation, calls) == ("Helper", "GetObject", [1])


async def test_a_renewal_that_is_cancelled_is_made_by_the_next() -> None:
    token = Token()
    worker = retrier(renew=token.renew)
    token.now = 3600.0
    outcomes: list[str] = []

    async def second() -> None:
        outcomes.append(await worker("UploadPart", token.request))

    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            token.on_renewal = scope.cancel
            tasks.start_soon(second)
            await worker("UploadPart", token.request)
    assert outcomes == ["done"]
    assert token.renewals == 2


async def test_without_a_way_to_renew_an_expired_token_is_told() -> None:
    attempt, calls = failing(expired(), expired())
    with pytest.raises(ConfigurationError) as caught:
        await retrier()("UploadPart", attempt)
    assert (caught.value.where.code, calls) == ("ExpiredToken", [1])
