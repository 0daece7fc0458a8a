"""Ranges of the source: what of a store's answers is believed. The store in memory, made to answer wrongly."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import pytest

from riva_stream.errors import (
    AccessDeniedError,
    ConfigurationError,
    SourceChangedError,
    TransientError,
    Where,
)
from riva_stream.events import Event, RetryScheduled, Warned
from riva_stream.flow.buffers import Credits
from riva_stream.flow.lanes import Lane
from riva_stream.retry import Retrier
from riva_stream.s3 import Bucket, PartBody, RangeReply
from riva_stream.s3.memory import MemoryStore
from riva_stream.s3.responses import unquoted
from riva_stream.source import RANGES_IGNORED, PinnedSource, SourceReader, find_source

DATA = os.urandom(1000)
PART = 100
REFUSED = SourceChangedError("the source was replaced", where=Where(status=412, code="PreconditionFailed"))

Change = Callable[[RangeReply], RangeReply]


class OddStore(MemoryStore):
    """Answers ranges in its own way, and keeps what it was asked."""

    def __init__(self, bucket: str) -> None:
        super().__init__(bucket)
        self.asked: list[tuple[int, str]] = []
        """First byte and ETag of each range."""
        self.heads = 0
        self.refuses_conditions = False
        self.head_raises: Exception | None = None
        self.change: Change = lambda reply: reply
        self.before: Callable[[], None] = lambda: None
        self.delay: Callable[[int], float] = lambda _: 0.0

    @asynccontextmanager
    async def get_range(
        self, bucket: str, key: str, *, first: int, last: int, etag: str, version_id: str | None
    ) -> AsyncIterator[RangeReply]:
        self.asked.append((first, etag))
        self.before()
        await anyio.sleep(self.delay(first))
        if etag and self.refuses_conditions:
            raise SourceChangedError(REFUSED.what, where=REFUSED.where)
        async with super().get_range(
            bucket, key, first=first, last=last, etag=etag, version_id=version_id
        ) as reply:
            yield self.change(reply)

    async def head(self, bucket: str, key: str, **options: Any) -> Any:
        self.heads += 1
        if self.head_raises is not None:
            raise self.head_raises
        return await super().head(bucket, key, **options)


async def put(store: MemoryStore, data: bytes) -> None:
    await store.put("b", "k", PartBody((data,), len(data)), content_type="a/b", metadata={})


async def pinned(store: OddStore) -> PinnedSource:
    await put(store, DATA)
    source = await find_source(store, "b", "k", Retrier())
    store.heads = 0
    return source


async def read(store: OddStore, source: PinnedSource, *, connections: int = 3) -> tuple[bytes, list[Event]]:
    """The bytes, and what was told on the way."""
    events: list[Event] = []

    async def no_wait(_: float) -> None:
        await anyio.lowlevel.checkpoint()

    retrier = Retrier(observer=events.append, sleep=no_wait)
    bucket = Bucket(store, "b", retrier)
    lane = Lane("source")
    reader = SourceReader(bucket, source, PART, Credits(10 * PART), lane, lambda _: None, retrier.observer)
    data = b""
    try:
        async with anyio.create_task_group() as tasks:
            for _ in range(connections):
                tasks.start_soon(reader.fetch)
            async for chunk in reader.chunks():
                data += b"".join(chunk.pieces)
                chunk.release()
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    return data, events


def warnings(events: list[Event]) -> list[str]:
    return [event.code for event in events if isinstance(event, Warned)]


async def test_a_412_that_a_look_at_the_source_denies_is_not_believed() -> None:
    store = OddStore("b")
    source = await pinned(store)
    store.refuses_conditions = True
    data, events = await read(store, source)
    assert data == DATA
    assert warnings(events) == ["source-condition"]  # once, whatever the number of ranges
    conditional = [first for first, etag in store.asked if etag]
    assert len(conditional) <= 3  # those that were under way at once
    assert sorted(first for first, etag in store.asked if not etag) == list(range(0, 1000, PART))


async def test_a_412_that_comes_after_another_was_denied_is_not_believed_either() -> None:
    store = OddStore("b")
    source = await pinned(store)
    store.refuses_conditions = True
    store.delay = lambda first: 0.02 if first else 0.0  # the first one has been looked into by then
    data, events = await read(store, source)
    assert data == DATA
    assert (warnings(events), store.heads) == (["source-condition"], 1)


async def test_a_412_that_a_look_at_the_source_confirms_ends_the_run() -> None:
    store = OddStore("b")
    source = await pinned(store)
    await put(store, DATA[::-1])
    with pytest.raises(SourceChangedError) as caught:
        await read(store, source, connections=1)
    assert (caught.value.where.status, store.heads) == (412, 1)


@pytest.mark.parametrize("reason", ["removed", "denied"])
async def test_a_412_is_believed_when_the_source_cannot_be_looked_at(reason: str) -> None:
    store = OddStore("b")
    source = await pinned(store)
    store.refuses_conditions = True
    if reason == "denied":
        store.head_raises = AccessDeniedError("no")
    else:
        await store.delete("b", "k")
    with pytest.raises(SourceChangedError):
        await read(store, source, connections=1)


async def test_a_412_is_looked_into_again_when_the_look_fails_for_a_while() -> None:
    store = OddStore("b")
    source = await pinned(store)
    store.refuses_conditions = True
    store.head_raises = TransientError("broken")

    def mend() -> None:
        if len(store.asked) == 3:
            store.head_raises = None

    store.before = mend
    data, events = await read(store, source, connections=1)
    assert data == DATA
    assert len([event for event in events if isinstance(event, RetryScheduled)]) == 2


async def test_without_the_condition_another_etag_still_ends_the_run() -> None:
    store = OddStore("b")
    source = await pinned(store)
    store.refuses_conditions = True
    store.change = lambda reply: replace(reply, etag="0" * 32) if len(store.asked) > 4 else reply
    with pytest.raises(SourceChangedError) as caught:
        await read(store, source, connections=1)
    assert caught.value.where.operation == "GetObject"


@pytest.mark.parametrize(
    ("told", "etag"), [('W/"abc"', "abc"), ('"abc-2"', "abc-2"), ("abc", "abc"), (None, "")]
)
def test_the_mark_of_a_weak_etag_is_no_part_of_it(told: str | None, etag: str) -> None:
    assert unquoted(told) == etag


async def test_a_store_that_ignores_ranges_ends_the_run_at_its_second_answer() -> None:
    store, moved = OddStore("b"), []
    source = await pinned(store)

    async def pieces() -> AsyncIterator[bytes]:
        moved.append(True)
        yield DATA

    store.change = lambda reply: replace(reply, status=200, content_range="", pieces=pieces())
    with pytest.raises(ConfigurationError) as caught:
        await read(store, source, connections=1)
    assert (caught.value.where.code, caught.value.where.status, caught.value.exit_code) == (
        RANGES_IGNORED,
        200,
        78,
    )
    assert (len(store.asked), moved) == (2, [])


async def test_one_answer_with_the_whole_object_is_a_slip() -> None:
    store = OddStore("b")
    source = await pinned(store)
    odd = {1, 2, 3}  # one for each connection
    store.change = lambda reply: replace(reply, status=200) if len(store.asked) in odd else reply
    data, events = await read(store, source)
    assert data == DATA
    assert [event.operation for event in events if isinstance(event, RetryScheduled)] == ["GetObject"] * 3


@pytest.mark.parametrize(
    "change",
    [
        lambda reply: replace(reply, etag=""),
        lambda reply: replace(reply, content_range=""),
        lambda reply: replace(reply, content_range="bytes 0-99/1001"),
        lambda reply: replace(reply, content_length=7),
        lambda reply: replace(reply, status=204),
    ],
    ids=["no ETag", "no Content-Range", "another size", "another length", "another status"],
)
async def test_an_answer_that_lacks_something_is_asked_for_again(change: Change) -> None:
    store = OddStore("b")
    source = await pinned(store)
    store.change = lambda reply: change(reply) if len(store.asked) == 1 else reply
    data, events = await read(store, source, connections=1)
    assert data == DATA
    assert len([event for event in events if isinstance(event, RetryScheduled)]) == 1
