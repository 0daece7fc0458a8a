"""The single entry point for clocks, sleeps and worker threads.

Everything in a run that waits or measures time goes through this module, so that a simulation can run the real code on
virtual time and in one thread: time is the event loop's (a loop may have its own clock), and work for a worker thread
runs inline within :func:`threads_inline`. Nothing else in the package calls ``time``, ``anyio.sleep`` or
``anyio.to_thread`` on behalf of a run.
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
"""The time of day when the event loop's clock read 0; None: use the system's clock."""


def monotonic() -> float:
    """Seconds on the event loop's clock; only differences are meaningful."""
    return anyio.current_time()


def now() -> datetime:
    """The time of day, in UTC; for timestamps that people read, never for comparison with another clock."""
    epoch = _EPOCH.get()
    return datetime.now(UTC) if epoch is None else epoch + timedelta(seconds=anyio.current_time())


def cpu() -> float:
    """User and system seconds of this process; 0 in a simulation, which shares its process with others."""
    return 0.0 if _INLINE.get() else time.process_time()


async def sleep(seconds: float) -> None:
    """Wait on the event loop's clock for at least a millisecond: a smaller delay may be too small to advance it."""
    await anyio.sleep(max(seconds, 0.001))


async def in_thread(function: Callable[[*Args], T], *args: *Args, abandon_on_cancel: bool = False) -> T:
    """Run a blocking function in a worker thread, and wait for it even when cancelled, unless it may be abandoned."""
    if _INLINE.get():
        await anyio.lowlevel.checkpoint()
        return function(*args)
    return await anyio.to_thread.run_sync(function, *args, abandon_on_cancel=abandon_on_cancel)


@contextmanager
def threads_inline(epoch: datetime) -> Iterator[None]:
    """Use no threads here and in tasks started here, and let the event loop's clock drive the time of day."""
    tokens = _INLINE.set(True), _EPOCH.set(epoch)
    try:
        yield
    finally:
        _INLINE.reset(tokens[0])
        _EPOCH.reset(tokens[1])
