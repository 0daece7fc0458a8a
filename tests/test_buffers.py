"""Credits, chunks and channels: what bounds the memory of a run."""

from __future__ import annotations

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from riva_stream.buffers import Channel, Chunk, Credits
from riva_stream.tee import tee


async def test_a_request_beyond_the_budget_is_refused_not_hung() -> None:
    with pytest.raises(ValueError, match="budget of 10"):
        await Credits(10).acquire(11)


async def test_a_large_request_is_not_overtaken() -> None:
    budget, order = Credits(10), list[str]()

    async def take(name: str, amount: int) -> None:
        await budget.acquire(amount)
        order.append(name)

    await budget.acquire(6)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take, "large", 8)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(take, "small", 2)
        await anyio.wait_all_tasks_blocked()
        assert order == []
        budget.release(6)
    assert order == ["large", "small"]
    assert budget.statistics().in_use == 10


async def test_a_cancelled_wait_takes_nothing_and_lets_others_pass() -> None:
    budget = Credits(10)
    await budget.acquire(9)
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            tasks.start_soon(budget.acquire, 1)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
            await budget.acquire(5)
    assert budget.statistics().in_use == 10
    assert budget.statistics().waiting == 0


@settings(max_examples=60, deadline=None)
@given(amounts=st.lists(st.integers(1, 20), min_size=1, max_size=40), limit=st.integers(20, 60))
def test_credits_never_exceed_their_limit_and_all_come_back(amounts: list[int], limit: int) -> None:
    budget = Credits(limit)

    async def use(amount: int) -> None:
        await budget.acquire(amount)
        assert budget.statistics().in_use <= limit
        await anyio.lowlevel.checkpoint()
        budget.release(amount)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for amount in amounts:
                tasks.start_soon(use, amount)

    anyio.run(main)
    statistics = budget.statistics()
    assert (statistics.in_use, statistics.waiting) == (0, 0)
    assert statistics.peak <= limit


async def test_a_chunk_pays_until_its_last_holder_lets_go() -> None:
    budget = Credits(100)
    await budget.acquire(40)
    chunk = Chunk(0, 40, [b"x" * 40], budget, 40)
    named = chunk.pieces  # a name that outlives the chunk must not keep its bytes
    taken: list[Chunk] = []
    tee(chunk, (taken.append, taken.append, taken.append))
    for holder in taken[:2]:
        holder.release()
    assert budget.statistics().in_use == 40
    assert chunk.pieces
    taken[2].release()
    assert budget.statistics().in_use == 0
    assert named == []
    with pytest.raises(ValueError, match="released more often"):
        chunk.release()


async def test_a_channel_keeps_its_order_and_ends_when_it_is_closed() -> None:
    channel: Channel[int] = Channel()
    got: list[int] = []

    async def consume() -> None:
        async for item in channel:
            got.append(item)  # noqa: PERF401 - as a consumer does

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consume)
        await anyio.wait_all_tasks_blocked()
        for item in range(5):
            channel.send(item)
        channel.close()
    assert got == list(range(5))
    with pytest.raises(ValueError, match="closed"):
        channel.send(9)


async def test_every_item_of_a_channel_goes_to_one_of_its_consumers() -> None:
    channel: Channel[int] = Channel()
    got: list[int] = []

    async def consume() -> None:
        async for item in channel:
            await anyio.lowlevel.checkpoint()
            got.append(item)

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(consume)
        await anyio.wait_all_tasks_blocked()
        for item in range(100):
            channel.send(item)
            if item % 7 == 0:
                await anyio.lowlevel.checkpoint()
        channel.close()
    assert sorted(got) == list(range(100))
