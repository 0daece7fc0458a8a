"""A run, made from its request, and its outer limits: a shared memory budget, the deadline, the stall timeout."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

from riva_stream import clock
from riva_stream.config import StageRequest
from riva_stream.errors import ConfigurationError, StalledError
from riva_stream.events import Observer
from riva_stream.flow.buffers import Credits
from riva_stream.flow.lanes import Lanes
from riva_stream.manifest import json_bytes
from riva_stream.naming import option
from riva_stream.pipeline.copies import COPIES
from riva_stream.redact import SECRETS
from riva_stream.retry import Retrier, RetryPolicy
from riva_stream.run import Meter, Run
from riva_stream.sizes import human_size, in_seconds
from riva_stream.state import write_state

__all__ = ["deadline", "open_run", "reserve_memory", "stall_timeout"]

_FREE = ("source", "server_path", "replicate_to", "description")
"""Fields of a request that may contain anything, including a signature or a password."""


@asynccontextmanager
async def open_run(request: StageRequest, run_id: str, observer: Observer) -> AsyncIterator[Run]:
    """Open a run that ends when nothing moves for ``request.timeout`` seconds. It has no stores yet.

    Raises:
        ConfigurationError: its state cannot be stored.
        StalledError: nothing has moved (in a group, with what it interrupted).
    """
    lanes = Lanes()
    meter = Meter(observer, lanes)
    retrier = Retrier(
        RetryPolicy(retries=request.retries),
        observer,
        meter.touch,
        slots=2 * request.connections + 8 + COPIES,
    )
    run = Run(request, run_id, observer, retrier, lanes, meter)
    # Find out now whether state can be stored, not when the bytes are moved.
    given = request.model_dump(mode="json")
    # `status` reads the rest back; a short word there that happens to be a password is just a word.
    kept = given | {name: SECRETS.value(given[name]) for name in _FREE}
    await write_state(request.state_dir, run_id, "request.json", json_bytes(kept))
    async with stall_timeout(meter, request.timeout):
        yield run


@asynccontextmanager
async def reserve_memory(
    budget: Credits | None, amount: int, *, waiting: Callable[[], None] = lambda: None
) -> AsyncIterator[None]:
    """Hold ``amount`` bytes of a budget that several runs share; ``waiting`` is called each second until granted.

    Raises:
        ConfigurationError: the budget is smaller than that, so it would never be granted.
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
            taken = amount  # from here on, even if the end of this group is cancelled
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
    """Cancel the body after ``seconds``.

    Raises:
        StalledError: the time is up.
    """
    with anyio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught and seconds is not None:
        raise StalledError(
            f"the deadline of {in_seconds(seconds)} has passed",
            hint=f"run the same command again, with a longer {option('deadline')}",
        )


@asynccontextmanager
async def stall_timeout(meter: Meter, limit: float) -> AsyncIterator[None]:
    """Cancel the body when nothing has moved, and no request was answered, for ``limit`` seconds.

    Raises:
        StalledError: nothing has moved (in a group, with what it interrupted).
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
                f"nothing moved for {in_seconds(limit)} (waiting for: {meter.lanes.bottleneck() or 'source'})",
                hint=f"check the network and the store, or give it longer with {option('timeout')}",
            )
        await clock.sleep(limit - idle)
