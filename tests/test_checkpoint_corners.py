"""Checkpoints where several things meet: threads, refusals, journals and objects that do not fit each other."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
import tracemalloc
from collections.abc import Iterator
from typing import Any, cast

import anyio
import pytest

from riva_stream import AccessDeniedError, RivaStreamError
from riva_stream.archive import Snapshot
from riva_stream.errors import TransientError, Where
from riva_stream.events import Event, Warned
from riva_stream.flow.digest import Digest
from riva_stream.inspection.reports import StatusReport
from riva_stream.inspection.status import _StatusReader
from riva_stream.layout import Layout
from riva_stream.lease import Process
from riva_stream.pipeline import stream
from riva_stream.pipeline.checkpoint import Checkpointer, ObjectProgress
from riva_stream.pipeline.traced import TracedDigest
from riva_stream.retry import Retrier, RetryPolicy
from riva_stream.s3 import Bucket, PartBody
from riva_stream.s3.errors import refusal
from riva_stream.sink import Upload, Uploads
from tests.support.ceilings import ceiling_for
from tests.test_checkpoint import (
    BUCKET,
    OWN,
    PART,
    PREFIX,
    Cut,
    gzip_of,
    interrupted,
    staged,
    store_with,
    tar_of,
)
from tests.test_checkpoint_hostile import JOURNAL, change_checkpoints, put, read

BARE = "s3://sources/m.riva"


def upload(key: str = "k", parts: int = 0) -> Upload:
    made = Upload(key, "", {}, key, "r", lambda *_: None)
    made.numbered = parts
    return made


async def filled(store: Cut, data: bytes, key: str = "m.tar.gz") -> Cut:
    await store.put("sources", key, PartBody((data,), len(data)), content_type="a/b", metadata={})
    return store


def one_member(size: int) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        info = tarfile.TarInfo("a.riva")
        info.size = size
        tar.addfile(info, io.BytesIO(random.Random(1).randbytes(size)))
    return raw.getvalue()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries come at once."""
    monkeypatch.setattr(RetryPolicy, "delay", lambda *_: 0.0)


# ── taken ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_model_is_marked_where_a_chunk_ends_not_within_one() -> None:
    """A part becomes durable while the lane's thread hashes: the state that its checkpoint would need is that of no chunk."""
    digest = TracedDigest(Digest())
    checkpointer = Checkpointer(cast("Any", None), PART * 3 // 2, PART, upload(), digest, bare=True)

    def pieces() -> Iterator[bytes]:
        for _ in range(4):
            yield bytes(PART // 4)
            checkpointer.moved()

    for _ in range(3):
        digest.update(cast("Any", pieces()))
        checkpointer.moved()
    assert checkpointer.is_waiting
    assert {taken.offset for taken in checkpointer._taken} <= {*digest.states}


async def test_a_model_whose_parts_do_not_divide_what_is_between_checkpoints() -> None:
    part, data = 2 << 20, random.Random(1).randbytes(60 << 20)
    store = await filled(Cut(BUCKET, "sources"), data, "m.riva")
    await staged(store, source=BARE, part_size=part, checkpoint=part * 5 // 2, memory=ceiling_for(part, 5))
    assert store.checkpoints


def test_whoever_goes_on_has_something_left_to_read() -> None:
    archive, digest = upload("a"), TracedDigest(Digest())
    archive.expected = 4 * PART
    checkpointer = Checkpointer(cast("Any", None), PART, PART, archive, digest)
    for parts in (3, 4):
        snapshot = Snapshot(b"", parts * PART, 0, None, 0, parts * PART, ())
        checkpointer.take(snapshot, [], parts * PART)
    assert [taken.offset for taken in checkpointer._taken] == [3 * PART]


async def test_what_is_still_to_be_sent_once_the_source_is_read_has_checkpoints_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read_whole, close = anyio.Event(), Uploads.close

    class Slow(Cut):
        async def upload_part(self, *args: Any) -> str:
            await read_whole.wait()
            return await super().upload_part(*args)

    def closed(uploads: Uploads) -> None:
        close(uploads)
        read_whole.set()

    monkeypatch.setattr(Uploads, "close", closed)
    store = await filled(Slow(BUCKET, "sources"), tar_of())
    await staged(store, memory=ceiling_for(PART, 200), connections=2)
    assert store.checkpoints


def test_checkpoints_that_wait_do_not_each_list_all_parts_there_are() -> None:
    part, archive, model, digest = 8 << 20, upload("a", 10_000), upload("b", 10_000), TracedDigest(Digest())
    checkpointer = Checkpointer(cast("Any", None), part, part, archive, digest)
    tracemalloc.start()
    for number in range(9_900, 10_000):
        if checkpointer.is_due(number * part):
            snapshot = Snapshot(bytes(50_000), number * part, 0, None, 0, number * part, ())
            checkpointer.take(snapshot, [ObjectProgress(model, digest, number * part)], number * part)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 10 << 20


async def test_once_no_checkpoint_can_be_kept_no_states_are_kept_for_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = anyio.Event()

    class Denied(Cut):
        async def put(self, bucket: str, key: str, body: PartBody, **options: Any) -> Any:
            if "/checkpoint-" in key:
                refused.set()
                raise AccessDeniedError("no", where=Where("PutObject"))
            return await super().put(bucket, key, body, **options)

        async def upload_part(
            self, bucket: str, key: str, upload_id: str, number: int, body: PartBody
        ) -> str:
            if number > 60:
                await refused.wait()
            return await super().upload_part(bucket, key, upload_id, number, body)

    made: list[Checkpointer] = []

    def remembered(*args: Any, **options: Any) -> Checkpointer:
        made.append(Checkpointer(*args, **options))
        return made[-1]

    monkeypatch.setattr(stream, "Checkpointer", remembered)
    store = await filled(Denied(BUCKET, "sources"), one_member(300 * PART))
    await staged(store, checkpoint=PART, memory=ceiling_for(PART, 40))
    assert made[0].is_over
    assert not made[0].is_waiting
    assert len(made[0].digest.states) < 150


async def test_one_checkpoint_that_could_not_be_deleted_does_not_end_them() -> None:
    class Undeletable(Cut):
        async def delete(self, bucket: str, key: str, **options: Any) -> Any:
            if "/checkpoint-" in key and not failed:
                failed.append(len(self.checkpoints))
                raise TransientError("503", where=Where("DeleteObject"))
            return await super().delete(bucket, key, **options)

    events: list[Event] = []
    failed: list[int] = []
    store = await filled(Undeletable(BUCKET, "sources"), one_member(300 * PART))
    await staged(store, events, checkpoint=PART, memory=ceiling_for(PART, 8), retries=0)
    assert not [event for event in events if isinstance(event, Warned) and event.code == "checkpoint"]
    assert len(store.checkpoints) > failed[0]
    assert not store.keys(BUCKET, OWN)


# ── gone on from ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_is_odd_of_a_model_is_told_after_a_resume_too() -> None:
    store = await store_with(gzip_of(tar_of()), "m.riva")
    await interrupted(store, 2, source=BARE)
    report = await staged(store, source=BARE)
    assert report.artifact is not None
    assert report.artifact.build_info.resumed_from
    assert "bare-model" in {warning.code for warning in report.warnings}


async def test_a_checkpoint_of_a_bare_model_is_none_of_an_archive() -> None:
    """With a header wherever a part begins, an archive can be read on from anywhere: models would be left out."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for n in range(20):
            info = tarfile.TarInfo(f"{n:02}.riva")
            info.size = PART - 512
            tar.addfile(info, io.BytesIO(random.Random(n).randbytes(info.size)))
    store = await store_with(raw.getvalue())
    await interrupted(store, 3)
    (archive,) = (it for it in read(store, JOURNAL)["uploads"] if "/source/" in it["key"])

    def without_its_archive(document: dict[str, Any]) -> None:
        crcs = [part["crc64nvme"] for part in archive["parts"][: document["offset"] // PART]]
        told = hashlib.sha256(f"{len(crcs)} {' '.join(crcs)}\n".encode()).hexdigest()
        document.update(extractor=None, members=[], open=None, parts=told)

    await change_checkpoints(store, without_its_archive)
    report = await staged(store)
    assert report.artifact is not None
    assert len(report.artifact.models) == 20


async def test_a_window_that_a_checkpoint_makes_up_ends_no_run() -> None:
    zstandard = pytest.importorskip("zstandard")
    raw = tar_of()
    frames = (
        zstandard.ZstdCompressor().compress(raw[at : at + 100_000]) for at in range(0, len(raw), 100_000)
    )
    store = await store_with(b"".join(frames))
    await interrupted(store, 2)

    def widen(document: dict[str, Any]) -> None:
        snapshot = json.loads(document["extractor"])
        snapshot["state"]["place"]["window"] = 32 << 20
        document["extractor"] = json.dumps(snapshot)

    await change_checkpoints(store, widen)
    assert (await staged(store)).outcome == "staged"


async def test_the_checkpoint_that_held_is_one_of_the_two() -> None:
    store = await store_with(tar_of())
    await interrupted(store, 4)
    bad, good = read(store, JOURNAL)["checkpoints"]
    await store.put(BUCKET, bad["key"], PartBody((b"{}",), 2), content_type="a/b", metadata={})
    await interrupted(store, 1)
    _, other = read(store, JOURNAL)["checkpoints"]
    assert other["key"] == good["key"]


@pytest.mark.parametrize("last", [False, True])
async def test_of_two_uploads_of_one_key_the_one_with_the_parts_is_gone_on_with(last: bool) -> None:
    """One whose abort failed is journaled beside the one in its place; nothing else tells of it where nothing is listed."""
    store = await store_with(tar_of())
    await interrupted(store, 4)
    journal = read(store, JOURNAL)
    (archive,) = (it for it in journal["uploads"] if "/source/" in it["key"])
    options: dict[str, Any] = {"metadata": {"run-id": archive["created_by"]}, "crc64nvme": True, "tags": {}}
    other = await store.create_upload(BUCKET, archive["key"], content_type="a/b", **options)
    at = len(journal["uploads"]) if last else 0
    journal["uploads"].insert(at, archive | {"upload_id": other, "parts": []})
    await put(store, JOURNAL, journal)

    async def denied(*_: Any, **__: Any) -> Any:
        raise AccessDeniedError("no", where=Where("ListMultipartUploads"))

    store.list_uploads = denied  # type: ignore[method-assign]
    report = await staged(store)
    assert not store.open_uploads(BUCKET)
    assert report.artifact is not None
    assert report.artifact.build_info.resumed_from


class NoVersions(Cut):
    """s3:GetObject is granted, s3:GetObjectVersion is not."""

    def get_range(self, bucket: str, key: str, *, version_id: str | None = None, **options: Any) -> Any:
        if version_id is not None:
            raise refusal("GetObject", bucket, key, "AccessDenied", 403)
        return super().get_range(bucket, key, version_id=version_id, **options)


@pytest.mark.usefixtures("impatient")
async def test_a_bare_model_goes_on_without_the_right_to_versions() -> None:
    store = NoVersions(BUCKET, "sources", versioned=True)
    await filled(store, random.Random(3).randbytes(20 * PART + 17), "m.riva")
    await interrupted(store, 2, source=BARE)
    report = await staged(store, source=BARE)
    assert report.artifact is not None
    assert report.artifact.build_info.resumed_from


async def test_what_may_not_be_deleted_does_not_pile_up() -> None:
    class NoDelete(Cut):
        async def delete(self, bucket: str, key: str, **options: Any) -> Any:
            raise refusal("DeleteObject", bucket, key, "AccessDenied", 403)

    events: list[Event] = []
    store = await filled(NoDelete(BUCKET, "sources"), one_member(400 * PART))
    await staged(store, events, checkpoint=PART, memory=ceiling_for(PART, 8))
    assert "checkpoint" in {event.code for event in events if isinstance(event, Warned)}
    assert 2 < len(store.keys(BUCKET, OWN)) < 10


@pytest.mark.usefixtures("impatient")
async def test_one_upload_that_is_gone_does_not_cost_the_others() -> None:
    class Unaborted(Cut):
        fails = False

        async def abort_upload(self, bucket: str, key: str, upload_id: str) -> None:
            if self.fails:
                raise TransientError("no", where=Where("AbortMultipartUpload"))
            await super().abort_upload(bucket, key, upload_id)

    store = Unaborted(BUCKET, "sources")
    await filled(store, tar_of())
    await interrupted(store, 6)
    (gone,) = (upload for upload in store.open_uploads(BUCKET) if upload.key.endswith("c.riva"))
    await store.abort_upload(BUCKET, gone.key, gone.upload_id)
    store.fails = True
    with pytest.raises(RivaStreamError):
        await staged(store)
    assert read(store, JOURNAL)["identity"] is not None
    store.fails = False
    events: list[Event] = []
    await staged(store, events)
    assert "resume" in {event.code for event in events if isinstance(event, Warned)}
    assert not store.open_uploads(BUCKET)


# ── told ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def status_of(store: Cut) -> StatusReport:
    bucket = Bucket(store, BUCKET, Retrier(RetryPolicy(), lambda _: None))
    reader = _StatusReader(bucket, Layout(BUCKET, PREFIX), Process.this(), lambda _: None)
    return await reader.report(wait=False, lease=None, last_run=None)


@pytest.mark.parametrize("far", [10**400, -5], ids=["huge", "negative"])
@pytest.mark.parametrize("what", ["offset", "size", "part"])
async def test_status_of_a_journal_with_sizes_that_cannot_be(what: str, far: int) -> None:
    store = await store_with(tar_of())
    await interrupted(store, 4)
    journal = read(store, JOURNAL)
    if what == "part":
        journal["uploads"][0]["parts"][0]["size"] = far
    else:
        (journal["checkpoints"][0] if what == "offset" else journal["identity"])[what] = far
    await put(store, JOURNAL, journal)
    report = await status_of(store)
    assert (report.rerun.left_bytes or 0) >= 0
    assert report.run is None or (report.run.resumes_at or 0) >= 0


async def test_status_tells_where_a_run_would_begin_once_the_checkpoints_are_gone() -> None:
    store = await store_with(tar_of())
    await interrupted(store, 4)
    for key in store.keys(BUCKET, OWN):
        if "/checkpoint-" in key:
            await store.delete(BUCKET, key)
    told = (await status_of(store)).run
    assert told is not None
    report = await staged(store)
    assert report.artifact is not None
    assert told.resumes_at == (report.artifact.build_info.resumed_from or 0)
