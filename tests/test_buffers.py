"""Credits, chunks and channels: what bounds the memory of a run."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from riva_stream.flow.buffers import Channel, Chunk, Credits
from riva_stream.flow.tee import tee

EXAMPLES = int(
    os.environ.get("RIVA_STREAM_PROPERTY_EXAMPLES", "200")
)  # read before the environment is isolated


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
    assert budget.in_use == 10


async def test_a_cancelled_wait_takes_nothing_and_lets_others_pass() -> None:
    budget = Credits(10)
    await budget.acquire(9)
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            tasks.start_soon(budget.acquire, 1)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
            await budget.acquire(5)
    assert budget.in_use == 10
    budget.release(10)
    assert budget.in_use == 0, "who was cancelled is granted nothing any more"


@settings(max_examples=60, deadline=None)
@given(amounts=st.lists(st.integers(1, 20), min_size=1, max_size=40), limit=st.integers(20, 60))
def test_credits_never_exceed_their_limit_and_all_come_back(amounts: list[int], limit: int) -> None:
    budget = Credits(limit)

    async def use(amount: int) -> None:
        await budget.acquire(amount)
        assert budget.in_use <= limit
        await anyio.lowlevel.checkpoint()
        budget.release(amount)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for amount in amounts:
                tasks.start_soon(use, amount)

    anyio.run(main)
    assert budget.in_use == 0
    assert budget.peak <= limit


async def test_a_chunk_pays_until_its_last_holder_lets_go() -> None:
    budget = Credits(100)
    await budget.acquire(40)
    chunk = Chunk(0, 40, [b"x" * 40], budget, 40)
    named = chunk.pieces  # a name that outlives the chunk must not keep its bytes
    taken: list[Chunk] = []
    tee(chunk, (taken.append, taken.append, taken.append))
    for holder in taken[:2]:
        holder.release()
    assert budget.in_use == 40
    assert chunk.pieces
    taken[2].release()
    assert budget.in_use == 0
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


@dataclass(eq=False)
class Consumers:
    """Tasks that iterate one channel and can be cancelled in both ways: by anyio's scope, or by asyncio itself."""

    channel: Channel[int]
    got: list[int] = field(default_factory=list)
    scopes: list[anyio.CancelScope] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def join(self) -> None:
        scope = anyio.CancelScope()
        self.scopes.append(scope)
        self.tasks.append(asyncio.create_task(self._consume(scope)))

    async def _consume(self, scope: anyio.CancelScope) -> None:
        with scope:
            async for item in self.channel:
                self.got.append(item)
                if item % 3 == 0:
                    await anyio.lowlevel.checkpoint()

    def cancel(self, number: int, *, by_scope: bool) -> None:
        if by_scope:
            self.scopes[number].cancel()
        else:
            self.tasks[number].cancel()

    @property
    def alive(self) -> bool:
        return not all(task.done() for task in self.tasks)


@pytest.mark.parametrize(
    "how", ["scope, then send", "task, then send", "send, then task", "close, then task"]
)
async def test_a_wake_up_of_a_cancelled_consumer_goes_to_the_next(how: str) -> None:
    channel: Channel[int] = Channel()
    consumers = Consumers(channel)
    for _ in range(3):
        consumers.join()
        await anyio.wait_all_tasks_blocked()
    for step in how.split(", then "):
        if step == "send":
            channel.send(1)
        elif step == "close":
            channel.send(1)
            channel.close()
        else:
            consumers.cancel(0, by_scope=step == "scope")
    await anyio.wait_all_tasks_blocked()
    assert consumers.got == [1]
    if how.startswith("close"):
        assert not consumers.alive
    else:
        channel.send(2)
        await anyio.wait_all_tasks_blocked()
        assert consumers.got == [1, 2]
        channel.close()
    await asyncio.gather(*consumers.tasks, return_exceptions=True)


async def test_consumers_that_were_cancelled_while_they_waited_are_not_remembered() -> None:
    channel: Channel[int] = Channel()
    consumers = Consumers(channel)
    for number in range(100):
        consumers.join()
        await anyio.wait_all_tasks_blocked()
        consumers.cancel(number, by_scope=bool(number % 2))
        await anyio.wait_all_tasks_blocked()
    consumers.join()
    await anyio.wait_all_tasks_blocked()
    channel.send(1)
    await anyio.wait_all_tasks_blocked()
    assert consumers.got == [1]
    channel.close()
    await asyncio.gather(*consumers.tasks, return_exceptions=True)


async def settle() -> None:
    """Let every task go on until it waits; quicker than anyio's own, which sleeps for a tenth of a second."""
    for _ in range(60):
        await asyncio.sleep(0)


STEPS = st.one_of(
    st.just(("send", 0)),
    st.tuples(st.sampled_from(["scope", "task"]), st.integers(0, 5)),
    st.tuples(st.sampled_from(["send", "turn", "settle", "join", "close"]), st.just(0)),
)


@settings(max_examples=EXAMPLES, deadline=None)
@given(first=st.integers(1, 5), steps=st.lists(STEPS, min_size=3, max_size=40))
def test_no_item_is_lost_and_no_consumer_sleeps_on_one_whoever_is_cancelled(
    first: int, steps: list[tuple[str, int]]
) -> None:
    async def main() -> None:
        channel: Channel[int] = Channel()
        consumers = Consumers(channel)
        sent, closed = 0, False
        for _ in range(first):
            consumers.join()
        await settle()
        for step, number in [*steps, ("settle", 0)]:
            if step == "send" and not closed:
                channel.send(sent)
                sent += 1
            elif step in {"scope", "task"}:
                consumers.cancel(number % len(consumers.tasks), by_scope=step == "scope")
            elif step == "turn":
                await anyio.lowlevel.checkpoint()
            elif step == "join":
                consumers.join()
            elif step == "close":
                channel.close()
                closed = True
            elif step == "settle":
                await settle()
                assert not consumers.alive or sorted(consumers.got) == list(range(sent)), (
                    "one sleeps on an item"
                )
        channel.close()
        await settle()
        assert not consumers.alive, "one sleeps on a closed channel"
        await asyncio.gather(*consumers.tasks, return_exceptions=True)
        consumers.got += [item async for item in channel]  # what nobody was left to take
        assert sorted(consumers.got) == list(range(sent))

    anyio.run(main)
