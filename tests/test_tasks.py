"""Cancellation cuts off what it may, and waits for what must be known."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from riva_stream import Event, stage
from riva_stream.tasks import await_shielded, in_child_task
from tests.copying import Watched, asked, made


async def test_a_cancelled_task_finishes_its_clean_up() -> None:
    began, told = asyncio.Event(), []

    @in_child_task
    async def work() -> None:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            with anyio.CancelScope(shield=True):
                told.append("begun")
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                told.append("done")

    task = asyncio.create_task(work())
    await began.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # an impatient caller cuts nothing off either
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == ["begun", "done"]


async def test_a_result_and_an_error_come_as_they_are() -> None:
    @in_child_task
    async def work(number: int, *, fails: bool = False) -> int:
        await asyncio.sleep(0)
        if fails:
            raise LookupError(number)
        return number

    assert await work(3) == 3
    with pytest.raises(LookupError):
        await work(4, fails=True)


async def test_what_a_clean_up_runs_into_is_told() -> None:
    began = asyncio.Event()

    @in_child_task
    async def work() -> None:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            raise LookupError

    task = asyncio.create_task(work())
    await began.wait()
    task.cancel()
    with pytest.raises(LookupError):
        await task


async def test_the_answer_to_a_request_is_waited_for() -> None:
    sent, answer, known = asyncio.Event(), asyncio.Event(), []

    async def request() -> None:
        sent.set()
        await answer.wait()
        known.append("u1")

    task = asyncio.create_task(in_child_task(lambda: await_shielded(request, grace=60))())
    await sent.wait()
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    answer.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert known == ["u1"]


async def test_an_answer_that_does_not_come_is_not_waited_for_for_ever() -> None:
    sent = asyncio.Event()

    async def request() -> None:
        sent.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(in_child_task(lambda: await_shielded(request, grace=0))())
    await sent.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_a_request_comes_as_it_is() -> None:
    async def request() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await await_shielded(request, grace=1)


@pytest.mark.parametrize("raises", [False, True])
async def test_a_child_that_is_cancelled_from_within_is_a_cancellation(raises: bool) -> None:
    @in_child_task
    async def work() -> int:
        if raises:
            raise asyncio.CancelledError
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)
        return 1

    with pytest.raises(asyncio.CancelledError):
        await work()
    with pytest.raises(asyncio.CancelledError):
        await await_shielded(work, grace=1.0)


@pytest.mark.parametrize("raises", [False, True])
async def test_an_observer_that_cancels_its_task_cancels_the_call(raises: bool) -> None:
    """Wherever it is called, and so in whichever task of the call: nothing waits for the one that is gone."""

    def observe(event: Event) -> None:
        seen.append(event)
        if len(seen) == last:
            if raises:
                raise asyncio.CancelledError
            task = asyncio.current_task()
            assert task is not None
            task.cancel()

    model, last, seen = made("tar"), 0, list[Event]()
    while last <= len(seen):  # until the run has fewer events than that
        store, last, seen = Watched(), last + 1, []
        await store.put_source(model.key, model.data)
        with anyio.fail_after(20):
            outcomes = await asyncio.gather(
                stage(asked(model), store=store, observer=observe), return_exceptions=True
            )
        if last <= len(seen):
            assert isinstance(outcomes[0], asyncio.CancelledError), seen[-1]
    assert last > 10
