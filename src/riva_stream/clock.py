"""The one door to clocks, sleeps and worker threads.

Everything that waits or measures within a run asks here, so that a simulation can run the real thing on virtual time
and in one thread: time is the event loop's (a loop may have a clock of its own), and what would run in a worker
thread runs inline while :func:`threads_inline` holds. Nothing else in the package calls ``time``, ``anyio.sleep`` or
``anyio.to_thread`` for a run's sake.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import TypeVar, TypeVarTuple

import anyio
import anyio.lowlevel
import anyio.to_thread

__all__ = ["cpu", "in_thread", "monotonic", "now", "sleep", "threads_inline"]

T = TypeVar("T")
Args = TypeVarTuple("Args")

_INLINE: ContextVar[bool] = ContextVar("riva_stream_threads_inline", default=False)
_EPOCH: ContextVar[datetime | None] = ContextVar("riva_stream_epoch", default=None)
"""The time of day at which the event loop's clock showed 0; None: the system's clock is asked."""


def monotonic() -> float:
    """Seconds of the event loop's clock; only differences mean anything."""
    return anyio.current_time()


def now() -> datetime:
    """The time of day, in UTC; for time stamps that people read, never to be compared with another clock's."""
    epoch = _EPOCH.get()
    return datetime.now(UTC) if epoch is None else epoch + timedelta(seconds=anyio.current_time())


def cpu() -> float:
    """User and system seconds of this process; none in a simulation, which shares its process with others."""
    return 0.0 if _INLINE.get() else time.process_time()


async def sleep(seconds: float) -> None:
    """Wait on the event loop's clock, a millisecond at least: what is left of a time may be too little to add to it."""
    await anyio.sleep(max(seconds, 0.001))


async def in_thread(function: Callable[[*Args], T], *args: *Args, abandon_on_cancel: bool = False) -> T:
    """Run a blocking function in a worker thread, which is waited for even when cancelled, unless it may be abandoned."""
    if _INLINE.get():
        await anyio.lowlevel.checkpoint()
        return function(*args)
    return await anyio.to_thread.run_sync(function, *args, abandon_on_cancel=abandon_on_cancel)


@contextmanager
def threads_inline(epoch: datetime) -> Iterator[None]:
    """Within it, and in tasks that are started within it: no threads, and a time of day that the loop's clock drives."""
    tokens = _INLINE.set(True), _EPOCH.set(epoch)
    try:
        yield
    finally:
        _INLINE.reset(tokens[0])
        _EPOCH.reset(tokens[1])
