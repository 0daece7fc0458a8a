"""Virtual time, and what freezing, suspending and killing a process means."""

from __future__ import annotations

import asyncio
from contextvars import Context, copy_context

import anyio
import pytest

from tests.sim.loop import Host, VirtualLoop


class Ticker:
    """Ticks every second, and says so when it is ended."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop, self.host = loop, Host()
        self.ticks: list[tuple[float, float]] = []
        """By the world's clock, and by its own."""
        self.ended = False
        self.task = loop.spawn(self.host, self.run(), copy_context())

    async def run(self) -> None:
        try:
            while True:
                await anyio.sleep(1)
                self.ticks.append((self.loop.now, anyio.current_time()))
        finally:
            self.ended = True


@pytest.fixture
def loop() -> VirtualLoop:
    return VirtualLoop()


def until(loop: VirtualLoop, moment: float) -> None:
    loop.call_at(moment, loop.stop, context=Context())
    assert loop.run(limit=moment)


def test_time_passes_when_nothing_is_left_to_do(loop: VirtualLoop) -> None:
    ticker = Ticker(loop)
    until(loop, 3.5)
    assert ticker.ticks == [(1, 1), (2, 2), (3, 3)]
    assert loop.now == 3.5
    loop.kill(ticker.host)


def test_a_frozen_process_waits_and_then_finds_that_time_has_passed(loop: VirtualLoop) -> None:
    frozen, other = Ticker(loop), Ticker(loop)
    until(loop, 1.5)
    loop.freeze(frozen.host)
    until(loop, 10.5)
    assert (len(frozen.ticks), len(other.ticks)) == (1, 10)
    loop.thaw(frozen.host, clock_stood_still=False)
    until(loop, 12)
    assert frozen.ticks == [(1, 1), (10.5, 10.5), (11.5, 11.5)]
    for ticker in (frozen, other):
        loop.kill(ticker.host)


def test_a_suspended_machine_does_not_notice(loop: VirtualLoop) -> None:
    ticker = Ticker(loop)
    until(loop, 1.5)
    loop.freeze(ticker.host)
    until(loop, 10)
    loop.thaw(ticker.host, clock_stood_still=True)
    until(loop, 12)
    assert ticker.ticks == [(1, 1), (10.5, pytest.approx(2)), (pytest.approx(11.5), pytest.approx(3))]
    loop.kill(ticker.host)


def test_nothing_of_a_killed_process_runs(loop: VirtualLoop) -> None:
    ticker = Ticker(loop)
    until(loop, 1.5)
    loop.kill(ticker.host)
    until(loop, 10)
    assert len(ticker.ticks) == 1
    assert not ticker.ended
    assert not ticker.task.done()


def test_a_cancelled_one_cleans_up(loop: VirtualLoop) -> None:
    ticker = Ticker(loop)
    until(loop, 1.5)
    ticker.task.cancel()
    until(loop, 2)
    assert ticker.ended
    assert ticker.task.cancelled()


def test_a_loop_with_nothing_to_wait_for_says_so(loop: VirtualLoop) -> None:
    async def wait() -> None:
        await asyncio.get_running_loop().create_future()

    host = Host()
    loop.spawn(host, wait(), copy_context())
    assert not loop.run(limit=1e9)
    loop.kill(host)
