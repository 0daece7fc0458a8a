"""An interrupted run goes on in the middle of the archive: on the store in memory."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import anyio
import pytest
from isal import isal_zlib

from riva_stream import (
    ArchiveError,
    DigestMismatchError,
    RivaStreamError,
    StageReport,
    StageRequest,
    TransientError,
    clock,
    stage,
)
from riva_stream.archive import DEEP
from riva_stream.errors import Where
from riva_stream.events import Event, Progress, Resumed
from riva_stream.inspection.gc import collect
from riva_stream.pipeline.traced import TracedDigest
from riva_stream.s3 import PartBody, StoreSettings
from riva_stream.s3.memory import MemoryStore
from tests.support.ceilings import ceiling_for
from tests.support.small_parts import SmallStageRequest

KIB = 1 << 10
BUCKET, PREFIX = "staging", "prod/m/v1/"
OWN = PREFIX + ".riva-stream/"
PART = 64 * KIB


class Cut(MemoryStore):
    """A store that can be cut off from a run once its journal names a certain number of checkpoints."""

    def __init__(self, *buckets: str, **options: Any) -> None:
        super().__init__(*buckets, smallest_part=1, **options)
        self.allowed: int | None = None
        """Checkpoints that may be named before it is cut off; None: it never is."""
        self.is_cut = False
        self.read: list[int] = []
        """Bytes of each range that was given."""
        self.checkpoints: list[bytes] = []

    def get_range(self, bucket: str, key: str, *, first: int, last: int, **options: Any) -> Any:
        self._require_line()
        self.read.append(last - first + 1)
        return super().get_range(bucket, key, first=first, last=last, **options)

    async def upload_part(self, bucket: str, key: str, upload_id: str, number: int, body: PartBody) -> str:
        self._require_line()
        return await super().upload_part(bucket, key, upload_id, number, body)

    async def create_upload(self, bucket: str, key: str, **options: Any) -> str:
        self._require_line()
        return await super().create_upload(bucket, key, **options)

    async def put(self, bucket: str, key: str, body: PartBody, **options: Any) -> Any:
        if "/checkpoint-" in key:
            self._require_line()
        stored = await super().put(bucket, key, body, **options)
        data = b"".join(map(bytes, body.pieces))
        if "/checkpoint-" in key:
            self.checkpoints.append(data)
        elif key.endswith("journal.json") and self.allowed is not None and b"/checkpoint-" in data:
            self.is_cut = len(self.checkpoints) >= self.allowed
        return stored

    def _require_line(self) -> None:
        if self.is_cut:
            raise TransientError("cut off", where=Where("GetObject"))


def tar_of(seed: int = 1) -> bytes:
    draw = random.Random(seed)
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, size in {"a.riva": 300_000, "notes.txt": 70_000, "c.riva": 1_900_001, "d.riva": 10}.items():
            # Half of it can be compressed: blocks of deflate of every kind.
            data = b"".join(draw.randbytes(97) + b"model " * 17 for _ in range(size // 199 + 1))[:size]
            info = tarfile.TarInfo(name)
            info.size = size
            tar.addfile(info, io.BytesIO(data))
    return raw.getvalue()


def gzip_of(data: bytes) -> bytes:
    return bytes(isal_zlib.compress(data, 1, wbits=31))


ARCHIVES: dict[str, Callable[[], bytes]] = {
    "gzip": lambda: gzip_of(tar_of()),
    "gzip members": lambda: b"".join(
        gzip_of(tar_of()[at : at + 100_000]) for at in range(0, len(tar_of()), 100_000)
    ),
    "tar": tar_of,
}


async def store_with(data: bytes, key: str = "m.tar.gz", **options: Any) -> Cut:
    store = Cut(BUCKET, "sources", **options)
    await store.put("sources", key, PartBody((data,), len(data)), content_type="a/b", metadata={})
    return store


def request(**options: Any) -> StageRequest:
    fields: dict[str, Any] = {
        "source": "s3://sources/m.tar.gz",
        "bucket": BUCKET,
        "env": "prod",
        "model_name": "m",
        "model_version": "v1",
        "region": "us-east-1",
        "retries": 0,
        "source_copy": "send",
    }
    small = {"part_size": PART, "checkpoint": 2 * PART, "memory": ceiling_for(PART, 5)}
    return SmallStageRequest(**fields | small | options)


async def staged(store: Cut, events: list[Event] | None = None, **options: Any) -> StageReport:
    seen: list[Event] = [] if events is None else events
    return await stage(request(**options), store=store, source_store=store, observer=seen.append)


async def interrupted(store: Cut, after: int, **options: Any) -> None:
    """Stage until so many checkpoints are kept.

    Without threads: else a host that is busy elsewhere would come to the end of the archive first, having written few.
    """
    store.allowed, store.is_cut = after, False
    store.checkpoints.clear()
    epoch = datetime.now(UTC) - timedelta(seconds=anyio.current_time())
    with clock.threads_inline(epoch), pytest.raises(RivaStreamError) as stopped:
        await staged(store, **options)
    assert stopped.value.exit_code == 75
    store.allowed, store.is_cut = None, False
    store.read.clear()


def documents(store: Cut) -> dict[str, Any]:
    """What is staged, without what tells of the run."""
    found: dict[str, Any] = {}
    for key in store.keys(BUCKET, PREFIX):
        data = store.look(BUCKET, key).data  # type: ignore[union-attr]
        name = key.removeprefix(PREFIX)
        if name == "artifact.json":
            told = json.loads(data)
            found[name] = [told["source"]["sha256"], [(m["filename"], m["sha256"]) for m in told["models"]]]
            found[name] += [told["validation"]["contents"], told["validation"]["archive_members"]]
        elif not name.endswith((".json", ".txt")):
            found[name] = hashlib.sha256(data).hexdigest()
    return found


async def whole(data: bytes, **options: Any) -> dict[str, Any]:
    """What an uninterrupted run stages."""
    store = await store_with(data)
    await staged(store, **options)
    return documents(store)


def nothing_is_left(store: Cut) -> None:
    assert not store.keys(BUCKET, OWN)
    assert not store.open_uploads(BUCKET)


@pytest.mark.parametrize("kind", ARCHIVES)
@pytest.mark.parametrize("after", [1, 2, 3])
async def test_what_was_read_is_not_read_again(kind: str, after: int) -> None:
    data = ARCHIVES[kind]()
    store, events = await store_with(data), list[Event]()
    await interrupted(store, after)
    newest = json.loads(store.checkpoints[-1])["offset"]
    report = await staged(store, events)
    assert documents(store) == await whole(data)
    (told,) = [event for event in events if isinstance(event, Resumed)]
    assert told.offset == newest > 0
    assert sum(store.read) == len(data) - newest
    assert report.artifact is not None
    assert report.artifact.build_info.resumed_from == newest
    assert report.artifact.validation.resumed_by == told.by == "crc64nvme"
    progress = [event for event in events if isinstance(event, Progress)]
    assert {event.resumed_from for event in progress} == {newest}
    assert progress[-1].fetched == progress[-1].hashed == progress[-1].durable_source == len(data)
    nothing_is_left(store)


@pytest.mark.parametrize("kind", ARCHIVES)
async def test_a_run_that_is_interrupted_again_and_again_reads_every_byte_about_once(kind: str) -> None:
    data = ARCHIVES[kind]()
    store, offsets = await store_with(data), [0]
    for _ in range(3):
        await interrupted(store, 1)
        offsets.append(json.loads(store.checkpoints[-1])["offset"])
    await staged(store)
    assert offsets == sorted(set(offsets))
    assert sum(store.read) == len(data) - offsets[-1]
    assert documents(store) == await whole(data)
    nothing_is_left(store)


async def test_a_bare_model_goes_on_as_well() -> None:
    data = random.Random(3).randbytes(20 * PART + 17)
    store = await store_with(data, "m.riva")
    await interrupted(store, 2, source="s3://sources/m.riva")
    events: list[Event] = []
    await staged(store, events, source="s3://sources/m.riva")
    (told,) = [event for event in events if isinstance(event, Resumed)]
    assert told.offset > 0
    assert (
        sum(store.read) == len(data) - told.offset + DEEP
    )  # it is looked at again whether it looks like a model
    assert documents(store)["models/m.riva"] == hashlib.sha256(data).hexdigest()
    nothing_is_left(store)


async def test_a_store_without_checksums_vouches_by_etag() -> None:
    data = ARCHIVES["gzip"]()
    store = await store_with(data, is_aws=False)
    await interrupted(store, 1, upload_check="md5")
    report = await staged(store, upload_check="md5")
    assert report.artifact is not None
    assert report.artifact.validation.resumed_by == "etag"
    assert documents(store) == await whole(data)


async def test_from_the_start_if_that_is_asked_for() -> None:
    data = ARCHIVES["gzip"]()
    store = await store_with(data)
    await interrupted(store, 2)
    report = await staged(store, resume="full")
    assert sum(store.read) == len(data)
    assert report.artifact is not None
    assert report.artifact.build_info.resumed_from is None
    assert report.artifact.validation.resumed_by is None
    nothing_is_left(store)


async def test_without_checkpoints_none_is_kept() -> None:
    store = await store_with(ARCHIVES["gzip"]())
    await staged(store, checkpoint=0)
    assert store.checkpoints == []


Damage = Callable[[bytes], bytes | None]


def of_another_digest(data: bytes) -> bytes:
    """As good a checkpoint as before, but for the SHA-256 of what was read."""
    told = json.loads(data)
    told["archive"]["sha256"]["words"] = "0" * 64
    return json.dumps(told).encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: None,
        lambda data: data[:-1],
        lambda data: data.replace(b"1", b"2", 1),
        lambda _: b"{}",
        of_another_digest,
    ],
    ids=["gone", "cut", "changed", "another", "another digest"],
)
async def test_a_checkpoint_that_does_not_hold_costs_no_more_than_reading_on_from_the_one_before(
    damage: Damage,
) -> None:
    data = ARCHIVES["tar"]()
    store = await store_with(data)
    await interrupted(store, 3)
    newest = max(key for key in store.keys(BUCKET, OWN) if "checkpoint" in key)
    damaged = damage(store.look(BUCKET, newest).data)  # type: ignore[union-attr]
    if damaged is None:
        await store.delete(BUCKET, newest)
    else:
        await store.put(BUCKET, newest, PartBody((damaged,), len(damaged)), content_type="a/b", metadata={})
    report = await staged(store)
    assert report.artifact is not None
    assert report.artifact.build_info.resumed_from == json.loads(store.checkpoints[1])["offset"]
    assert documents(store) == await whole(data)
    nothing_is_left(store)


async def test_a_part_that_the_store_has_no_more_is_sent_again() -> None:
    data = ARCHIVES["gzip"]()
    store = await store_with(data, is_aws=False)
    await interrupted(store, 2, upload_check="md5")
    for upload in store.open_uploads(BUCKET):
        if upload.key.endswith("m.tar.gz"):
            await store.upload_part(BUCKET, upload.key, upload.upload_id, 2, PartBody((bytes(PART),), PART))
    report = await staged(store, upload_check="md5")
    assert report.artifact is not None
    assert report.artifact.build_info.resumed_from is None
    assert sum(store.read) == len(data)
    assert documents(store) == await whole(data)
    nothing_is_left(store)


@pytest.mark.parametrize(
    "change", [{"include": ("c.riva",)}, {"part_size": 2 * PART, "memory": 512 << 20}, {"max_members": 99}]
)
async def test_a_run_that_is_asked_for_something_else_reads_from_the_start(change: dict[str, Any]) -> None:
    data = ARCHIVES["gzip"]()
    store = await store_with(data)
    await interrupted(store, 2)
    report = await staged(store, **change)
    assert report.artifact is not None
    assert report.artifact.build_info.resumed_from is None
    assert documents(store) == await whole(data, **change)
    nothing_is_left(store)


async def test_a_source_that_was_replaced_is_read_from_its_start() -> None:
    store = await store_with(ARCHIVES["gzip"]())
    await interrupted(store, 2)
    data = gzip_of(tar_of(2))
    await store.put("sources", "m.tar.gz", PartBody((data,), len(data)), content_type="a/b", metadata={})
    await staged(store)
    assert documents(store) == await whole(data)
    nothing_is_left(store)


async def test_the_digest_of_the_whole_archive_is_compared_after_a_resume() -> None:
    store = await store_with(ARCHIVES["gzip"]())
    await interrupted(store, 2)
    with pytest.raises(DigestMismatchError):
        await staged(store, expect_sha256="0" * 64)
    assert store.keys(BUCKET, PREFIX) == []
    nothing_is_left(store)


async def test_damage_behind_the_checkpoint_is_refused_as_in_one_go() -> None:
    data = bytearray(ARCHIVES["gzip"]())
    data[-6] ^= 1
    store = await store_with(bytes(data))
    with pytest.raises(ArchiveError) as at_once:
        await staged(store)
    await interrupted(store, 2)
    with pytest.raises(ArchiveError) as later:
        await staged(store)
    assert str(later.value) == str(at_once.value)
    nothing_is_left(store)


async def test_gc_removes_what_nobody_goes_on_from(monkeypatch: pytest.MonkeyPatch) -> None:
    store = await store_with(ARCHIVES["gzip"]())
    await interrupted(store, 2)
    stray = OWN + "checkpoint-0011223344556677-1.json"
    await store.put(BUCKET, stray, PartBody((b"{}",), 2), content_type="a/b", metadata={})

    @asynccontextmanager
    async def opened(*_: Any, **__: Any) -> AsyncIterator[Cut]:
        yield store

    monkeypatch.setattr("riva_stream.inspection.gc.open_store", opened)
    ask = partial(collect, StoreSettings(), BUCKET, PREFIX, lease=1.0, apply=True)
    young = await ask(older_than=3600.0)
    assert [left.kind for left in young.found if left.removed] == []
    assert stray in {left.key for left in young.found if left.kind == "checkpoint"}
    old = await ask(older_than=-1.0)
    assert all(left.removed for left in old.found)
    nothing_is_left(store)


@pytest.mark.parametrize("every", [0, 2 * PART, 1 << 30])
async def test_states_are_kept_no_longer_than_a_checkpoint_may_ask_for_them(
    every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []

    class Watched(TracedDigest):
        def update(self, pieces: Any) -> None:
            super().update(pieces)
            kept.append(len(self.states))

    for module in ("stream", "unpack"):
        monkeypatch.setattr(f"riva_stream.pipeline.{module}.TracedDigest", Watched)
    data = ARCHIVES["tar"]()
    await staged(await store_with(data), checkpoint=every)
    in_flight = 5
    assert len(kept) > 60
    assert max(kept) <= (
        0 if not every else 2 * in_flight + 2 * every // PART if every < 1 << 30 else 2 * in_flight
    )


async def test_a_checkpoint_need_not_wait_for_the_one_before_it() -> None:
    """More is in flight than lies between two of them: each counts once its own parts are durable."""
    store = await store_with(ARCHIVES["gzip"]())
    unpacked, found = anyio.Event(), anyio.Event()
    send, put = store.upload_part, store.put

    async def late(bucket: str, key: str, upload_id: str, number: int, body: PartBody) -> str:
        if key.endswith("c.riva") and number == 18:
            unpacked.set()
        if key.endswith("m.tar.gz"):
            await (unpacked if number <= 8 else found).wait()
        return await send(bucket, key, upload_id, number, body)

    async def seen(bucket: str, key: str, body: PartBody, **options: Any) -> Any:
        stored = await put(bucket, key, body, **options)
        if store.checkpoints and json.loads(store.checkpoints[-1])["offset"] >= 5 * PART:
            found.set()
        return stored

    store.upload_part, store.put = late, seen  # type: ignore[method-assign]
    with anyio.fail_after(60):  # it would wait for ever
        await staged(store, connections=32, memory=512 << 20)
    offsets = [json.loads(checkpoint)["offset"] for checkpoint in store.checkpoints]
    assert offsets == sorted(offsets)
    assert any(5 * PART <= offset <= 8 * PART for offset in offsets)


async def test_a_limit_without_end_keeps_no_run_from_going_on() -> None:
    """JSON has no infinity."""
    data = ARCHIVES["gzip"]()
    store = await store_with(data)
    await interrupted(store, 2, max_ratio=float("inf"))
    report = await staged(store, max_ratio=float("inf"))
    assert report.artifact is not None
    assert report.artifact.build_info.resumed_from is not None


async def test_the_same_patterns_in_another_order_are_the_same_job() -> None:
    """docs/semantics.md: what must agree is the *set* of patterns."""
    data = ARCHIVES["gzip"]()
    store = await store_with(data)
    await interrupted(store, 2, include=("*.riva", "*.txt"))
    report = await staged(store, include=("*.txt", "*.riva"))
    assert report.artifact is not None
    assert report.artifact.build_info.resumed_from is not None
