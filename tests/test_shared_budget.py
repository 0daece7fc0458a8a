"""A budget of memory that several runs share: it is whole again whenever a run ends, and no run waits past its deadline."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from riva_stream import StalledError, stage
from riva_stream.flow.buffers import Credits
from riva_stream.pipeline.begin import reserve_memory
from riva_stream.sizes import MIB
from tests.copying import Watched, asked, made


async def test_a_run_that_is_cancelled_as_it_gets_its_share_gives_it_back() -> None:
    budget = Credits(100)
    await budget.acquire(100)
    scope = anyio.CancelScope()

    async def run() -> None:
        with scope:
            async with reserve_memory(budget, 100):
                await anyio.sleep(10)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await anyio.wait_all_tasks_blocked()
        budget.release(100)  # another run ends: the waiting one is granted its share ...
        await asyncio.sleep(0)  # ... and goes on, to the end of its group
        scope.cancel()  # its caller gives up just then
    assert budget.in_use == 0


async def test_one_that_finds_room_at_once_too() -> None:
    budget = Credits(100)
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with reserve_memory(budget, 100):
            pass
    assert budget.in_use == 0


@pytest.mark.parametrize("turns", range(12))
async def test_the_budget_is_whole_after_a_cancellation(turns: int) -> None:
    store, model = Watched(), made("riva")
    await store.put_source(model.key, model.data)
    budget = Credits(192 * MIB)
    task = asyncio.ensure_future(stage(asked(model), store=store, budget=budget))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert budget.in_use == 0
    with anyio.fail_after(20):
        await stage(asked(model), store=store, budget=budget)


async def test_the_deadline_bounds_the_waiting_for_a_shared_budget() -> None:
    store, model = Watched(), made("riva")
    await store.put_source(model.key, model.data)
    budget = Credits(192 * MIB)
    await budget.acquire(192 * MIB)  # another run has all of it
    with anyio.fail_after(5), pytest.raises(StalledError):
        await stage(asked(model, deadline=0.2), store=store, budget=budget)
