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


async def test_expired_credentials_are_renewed_once() -> None:
    renewals = [0]

    async def renew() -> bool:
        renewals[0] += 1
        return True

    def expired() -> ConfigurationError:
        return ConfigurationError("expired", where=Where(code="ExpiredToken"))

    worker = retrier(renew=renew)
    attempt, calls = failing(expired())
    assert await worker("UploadPart", attempt) == "done"
    assert (calls, renewals) == ([2], [1])
    attempt, _ = failing(expired())
    with pytest.raises(ConfigurationError):
        await worker("UploadPart", attempt)
    assert renewals == [1]
