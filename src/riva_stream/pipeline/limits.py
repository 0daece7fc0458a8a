"""What bounds a run from outside: a shared budget of memory, the deadline, and the watch for a stall."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

from riva_stream import clock
from riva_stream.errors import ConfigurationError, StalledError
from riva_stream.flow.buffers import Credits
from riva_stream.run import Meter
from riva_stream.sizes import human_size

__all__ = ["deadline", "reserve_memory", "stall_timeout"]


@asynccontextmanager
async def reserve_memory(
    budget: Credits | None, amount: int, *, waiting: Callable[[], None] = lambda: None
) -> AsyncIterator[None]:
    """Hold ``amount`` bytes of a budget that several runs share; ``waiting`` is called each second until they come.

    Raises:
        ConfigurationError: the budget is smaller than that; it would never come.
    """
    if budget is None:
        yield
        return
    if amount > budget.limit:
        raise ConfigurationError(
            f"the run asks for {human_size(amount)} of memory, the budget that it shares has {human_size(budget.limit)}",
            hint="give the budget more, or the request less (memory)",
        )
    taken = 0
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_call_each_second, waiting)
            await budget.acquire(amount)
            taken = amount  # from here on, be it that the end of this group is cancelled
            tasks.cancel_scope.cancel()
        yield
    finally:
        budget.release(taken)


async def _call_each_second(act: Callable[[], None]) -> None:
    while True:
        act()
        await clock.sleep(1.0)


@asynccontextmanager
async def deadline(seconds: float | None) -> AsyncIterator[None]:
    """End what is inside after ``seconds``.

    Raises:
        StalledError: they have passed.
    """
    with anyio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise StalledError(
            f"the deadline of {seconds:.0f} s has passed",
            hint="run the same command again, with a later --deadline",
        )


@asynccontextmanager
async def stall_timeout(meter: Meter, limit: float) -> AsyncIterator[None]:
    """End what is inside when nothing has moved, and no request was answered, for ``limit`` seconds.

    Raises:
        StalledError: so it is (in a group, with what it interrupted).
    """
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_raise_on_stall, meter, limit)
        yield
        tasks.cancel_scope.cancel()


async def _raise_on_stall(meter: Meter, limit: float) -> None:
    while True:
        idle = clock.monotonic() - meter.moved_at
        if idle >= limit:
            raise StalledError(
                f"nothing moved for {limit:.0f} s (waiting for: {meter.lanes.bottleneck() or 'source'})",
                hint="check the network and the store, or give it longer with --timeout",
            )
        await clock.sleep(limit - idle)
