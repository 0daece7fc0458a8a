"""Retries: a policy as data, and the code that applies it.

The SDK below makes one attempt only, so that the layers do not multiply; all retries happen
here. Delays are drawn with full jitter, uniformly from 0 to the capped exponential backoff, after
https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import anyio

from riva_stream import clock
from riva_stream.errors import EXPIRED, RivaStreamError, ThrottledError
from riva_stream.events import Observer, RetryScheduled, ignore

__all__ = ["EXPIRED", "Retrier", "RetryPolicy"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently to retry. Seconds."""

    retries: int = 8
    """Attempts after the first, of one request."""
    base: float = 0.2
    cap: float = 20.0
    budget: int = 1000
    """Attempts after the first, of all requests of a run together."""

    def delay(self, attempt: int, draw: float) -> float:
        """Seconds before attempt ``attempt + 1``; ``draw`` is uniform in [0, 1)."""
        # 2**n is a float here so that a thousand retries overflow to the cap, not into a huge integer
        return draw * min(self.cap, self.base * 2.0 ** min(attempt - 1, 64))


async def _cannot_renew() -> bool:
    return False


@dataclass(eq=False)
class Retrier:
    """Runs one request until it succeeds, fails for good, or has used up its attempts.

    It also paces: at most ``slots`` requests run at once, half as many after each throttled request, and
    one more after as many successes as requests may then run at once.
    """

    policy: RetryPolicy = field(default_factory=RetryPolicy)
    observer: Observer = ignore
    on_success: Callable[[], None] = lambda: None
    """Called after each success: the run is alive."""
    renew: Callable[[], Awaitable[bool]] = _cannot_renew
    """Opens new sessions when a token has expired; returns whether that may help. Called once for each expiry, however
    many requests the store refused for it."""
    slots: int = 64
    sleep: Callable[[float], Awaitable[None]] = clock.sleep
    draw: Callable[[], float] = random.random
    spent: int = field(default=0, init=False)
    """Retries so far, of all requests."""
    _pace: anyio.CapacityLimiter = field(init=False)
    _successes: int = field(default=0, init=False)
    _generation: int = field(default=0, init=False)
    """How often the credentials were renewed."""
    _renewal_lock: anyio.Lock = field(default_factory=anyio.Lock, init=False)

    def __post_init__(self) -> None:
        self._pace = anyio.CapacityLimiter(self.slots)

    async def __call__(self, operation: str, attempt_once: Callable[[], Awaitable[T]]) -> T:
        """Await ``attempt_once()`` until it does not raise a retryable error.

        Raises:
            RivaStreamError: the last attempt's error, with the number of the attempt filled in.
        """
        attempt = 1
        while True:
            try:
                result = await self._with_good_credentials(attempt_once)
            except RivaStreamError as error:
                error.located(operation=operation, attempt=attempt)
                if isinstance(error, ThrottledError):
                    self._slow_down()
                if not error.retryable or attempt > self.policy.retries:
                    raise
                if self.spent >= self.policy.budget:
                    error.hint = (
                        f"{self.spent} retries are spent, the maximum for one run: run it again later"
                    )
                    raise
                delay = self.policy.delay(attempt, self.draw())
                self.spent += 1
                self.observer(
                    RetryScheduled(
                        operation=operation,
                        attempt=attempt,
                        delay=delay,
                        reason=str(error),
                        request_id=error.where.request_id,
                    )
                )
            else:
                self._record_success()
                return result
            await self.sleep(delay)
            attempt += 1

    async def _with_good_credentials(self, attempt_once: Callable[[], Awaitable[T]]) -> T:
        """Make one attempt; another with renewed credentials if those of the first were refused as expired.

        Raises:
            RivaStreamError: the attempt's, or the renewal's; the attempt's too if credentials are refused right after
                they were renewed.
        """
        renewed = False
        while True:
            async with self._pace:
                generation = self._generation
                try:
                    return await attempt_once()
                except RivaStreamError as error:
                    refused = error
                    # Another request may have renewed them meanwhile: then those refused were not the newest.
                    newest = generation == self._generation
                    if error.where.code not in EXPIRED or (renewed and newest):
                        raise
            # Outside ``_pace``: a request that waits for a renewal occupies no slot.
            if not await self._renewed_after(generation):
                raise refused
            renewed = True

    async def _renewed_after(self, generation: int) -> bool:
        """Renew credentials that were refused; later callers wait for the first, and use its renewal.

        Args:
            generation: of the credentials that were refused.

        Returns:
            Whether there are new ones now.

        Raises:
            RivaStreamError: they could not be read.
        """
        async with self._renewal_lock:
            if self._generation == generation:
                if not await self.renew():
                    return False
                self._generation += 1
            return True

    def _slow_down(self) -> None:
        self._successes = 0
        self._pace.total_tokens = max(1, int(self._pace.total_tokens) // 2)

    def _record_success(self) -> None:
        self.on_success()
        self._successes += 1
        if self._successes >= self._pace.total_tokens and self._pace.total_tokens < self.slots:
            self._successes = 0
            self._pace.total_tokens += 1
