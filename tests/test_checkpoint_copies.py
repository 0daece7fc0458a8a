"""An interrupted run goes on in the middle of the archive while the store copies it: on the store in memory."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from riva_stream import DigestMismatchError, run
from riva_stream.archive import DEEP
from riva_stream.cli.progress import Counters
from riva_stream.events import Event, Progress, Resumed, Warned
from riva_stream.pipeline import copies
from riva_stream.retry import RetryPolicy
from riva_stream.s3 import CopiedPart, CopySource, PartBody
from riva_stream.s3.errors import refusal
from tests.test_checkpoint import (
    BUCKET,
    PART,
    PREFIX,
    Cut,
    documents,
    gzip_of,
    interrupted,
    nothing_is_left,
    staged,
    tar_of,
)
from tests.test_checkpoint_corners import status_of
from tests.test_checkpoint_hostile import JOURNAL, change_checkpoints, read

COPIED = 100_000
"""Bytes of a part that the store copies: none ends where a part that is read does."""
SOURCES: dict[str, tuple[Callable[[], bytes], str]] = {
    "gzip": (lambda: gzip_of(tar_of()), "m.tar.gz"),
    "tar": (tar_of, "m.tar"),
    "bare": (lambda: random.Random(3).randbytes(20 * PART + 17), "m.riva"),
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of a few KiB, and retries that do not wait."""
    monkeypatch.setattr(copies, "LEAST_COPY", COPIED)
    monkeypatch.setattr(copies, "FEW_BYTES", 1)
    monkeypatch.setattr(RetryPolicy, "delay", lambda policy, attempt, draw: 0.0)


class Copying(Cut):
    """The same, and nothing is copied either once it is cut off."""

    fails_after: int | None = None
    """Checkpoints after which nothing is copied any more."""

    def __init__(self, *buckets: str, **options: Any) -> None:
        super().__init__(*buckets, **options)
        self.copied, self.enough = 0, anyio.Event()

    async def put(self, bucket: str, key: str, body: PartBody, **options: Any) -> Any:
        stored = await super().put(bucket, key, body, **options)
        if self.fails_after is not None and len(self.checkpoints) >= self.fails_after:
            self.enough.set()
        return stored

    async def copy_part(
        self, bucket: str, key: str, upload_id: str, number: int, source: CopySource
    ) -> CopiedPart:
        self._require_line()
        if self.fails_after is not None and self.copied > 4:
            await self.enough.wait()
            raise refusal("UploadPartCopy", bucket, key, "NotImplemented", 501)
        self.copied += 1
        return await super().copy_part(bucket, key, upload_id, number, source)


async def store_with(kind: str, **options: Any) -> tuple[Copying, bytes]:
    make, name = SOURCES[kind]
    data, store = make(), Copying(BUCKET, "sources", **options)
    await store.put("sources", name, PartBody((data,), len(data)), content_type="a/b", metadata={})
    return store, data


def asked(kind: str, **options: Any) -> dict[str, Any]:
    return {"source": f"s3://sources/{SOURCES[kind][1]}", "source_copy": "auto"} | options


async def uninterrupted(kind: str, **options: Any) -> dict[str, Any]:
    store, _ = await store_with(kind)
    await staged(store, **asked(kind, **options))
    return documents(store)


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("after", [1, 3])
@pytest.mark.parametrize(("check", "by"), [("auto", "crc64nvme"), ("md5", "etag")])
async def test_what_was_read_is_not_read_again_to_compare_it_with_the_copies(
    kind: str, after: int, check: str, by: str
) -> None:
    options = asked(kind, upload_check=check)
    (store, data), events = await store_with(kind), list[Event]()
    await interrupted(store, after, **options)
    newest = json.loads(store.checkpoints[-1])["offset"]
    report = await staged(store, events, **options)
    assert store.copied
    assert documents(store) == await uninterrupted(kind, upload_check=check)
    (told,) = [event for event in events if isinstance(event, Resumed)]
    assert told.offset == newest > 0
    assert sum(store.read) == len(data) - newest + (DEEP if kind == "bare" else 0)
    assert report.artifact is not None
    validation = report.artifact.validation
    assert (validation.resumed_by, validation.source_copy) == (
        by,
        "crc64nvme" if check == "auto" else "plain-etag",
    )
    nothing_is_left(store)


@pytest.mark.parametrize("kind", SOURCES)
async def test_it_is_interrupted_again_and_again(kind: str) -> None:
    store, data = await store_with(kind)
    offsets = [0]
    for _ in range(3):
        await interrupted(store, 1, **asked(kind))
        offsets.append(json.loads(store.checkpoints[-1])["offset"])
    await staged(store, **asked(kind))
    assert offsets == sorted(set(offsets))
    name = "models/m.riva" if kind == "bare" else "source/" + SOURCES[kind][1]
    assert documents(store)[name] == hashlib.sha256(data).hexdigest()
    assert documents(store) == await uninterrupted(kind)
    nothing_is_left(store)


@pytest.mark.parametrize("kind", SOURCES)
async def test_a_copy_of_other_bytes_is_found_by_what_an_earlier_run_has_read(kind: str) -> None:
    """The flipped byte lies in what only that one has read."""
    store, _ = await store_with(kind, copies="flipped")
    await interrupted(store, 1, **asked(kind))
    with pytest.raises(DigestMismatchError) as caught:
        await staged(store, **asked(kind))
    assert caught.value.where.operation == "UploadPartCopy"
    assert not [key for key in store.keys(BUCKET, PREFIX) if "/.riva-stream/" not in key]


@pytest.mark.parametrize("kind", ["gzip", "tar"])
async def test_where_md5s_prove_copies_nothing_can_be_gone_on_from(kind: str) -> None:
    """With ``--source-copy store`` and no CRC64NVME: an MD5 has no state that can be written down."""
    (store, _), events = await store_with(kind), list[Event]()
    await staged(store, events, **asked(kind, upload_check="md5", source_copy="store"))
    assert not store.checkpoints or kind == "gzip"  # a gzip's members are sent, its ETag proves the copy


@pytest.mark.parametrize("before", ["send", "auto"])
async def test_a_checkpoint_of_a_run_that_copied_is_none_of_one_that_sends(before: str) -> None:
    store, data = await store_with("gzip")
    await interrupted(store, 2, **asked("gzip", source_copy=before))
    after = "auto" if before == "send" else "send"
    report = await staged(store, **asked("gzip", source_copy=after))
    assert report.outcome == "staged"
    assert sum(store.read) >= len(data)
    nothing_is_left(store)


@pytest.mark.parametrize("kind", SOURCES)
async def test_what_turns_out_not_to_be_copied_is_sent_from_the_start(kind: str) -> None:
    (store, data), events = await store_with(kind), list[Event]()
    store.fails_after = 2
    report = await staged(store, events, **asked(kind))
    codes = [event.code for event in events if isinstance(event, Warned)]
    assert "source-copy" in codes
    assert "checkpoint" not in codes
    assert report.artifact is not None
    assert report.artifact.validation.source_copy == "sent"
    assert sum(store.read) > len(data)
    assert documents(store) == await uninterrupted(kind, source_copy="send")
    nothing_is_left(store)


def _without(document: dict[str, Any]) -> None:
    document["copied"] = []


def _too_many(document: dict[str, Any]) -> None:
    document["copied"] *= 2


def _shorter(document: dict[str, Any]) -> None:
    document["copied"][0]["values"].pop()


def _longer(document: dict[str, Any]) -> None:
    document["copied"][0]["values"] *= 50


def _sent(document: dict[str, Any]) -> None:
    document["copied_by"] = ""


def _otherwise(document: dict[str, Any]) -> None:
    document["copied_by"] = "plain-etag"


@pytest.mark.parametrize("change", [_without, _too_many, _shorter, _longer, _sent, _otherwise])
@pytest.mark.parametrize("kind", SOURCES)
async def test_digests_of_copies_that_do_not_fit_are_not_used(kind: str, change: Any) -> None:
    (store, data), events = await store_with(kind), list[Event]()
    await interrupted(store, 3, **asked(kind))
    assert read(store, JOURNAL)["checkpoints"]
    await change_checkpoints(store, change)
    await staged(store, events, **asked(kind))
    assert [event for event in events if isinstance(event, Warned) and event.code == "checkpoint"]
    assert sum(store.read) >= len(data)
    assert documents(store) == await uninterrupted(kind)


@pytest.mark.parametrize("kind", SOURCES)
async def test_another_digest_of_what_was_read_is_found(kind: str) -> None:
    """Whoever may write the checkpoint and its digest in the journal can only make the run fail."""

    def flip(document: dict[str, Any]) -> None:
        document["copied"][0]["crc"] ^= 1

    store, _ = await store_with(kind)
    await interrupted(store, 2, **asked(kind))
    await change_checkpoints(store, flip)
    with pytest.raises(DigestMismatchError):
        await staged(store, **asked(kind))


async def test_a_member_beyond_the_source_costs_no_memory() -> None:
    """Its parts are not counted out before it is known that there can be so many."""

    def change(document: dict[str, Any]) -> None:
        snapshot = json.loads(document["extractor"])
        if snapshot["found"]["staged"]:
            snapshot["found"]["staged"][0]["member"]["size"] = document["members"][0]["size"] = 1 << 60
            document["extractor"] = json.dumps(snapshot, separators=(",", ":"))

    store, _ = await store_with("tar")
    await interrupted(store, 5, **asked("tar"))
    await change_checkpoints(store, change)
    assert (await staged(store, **asked("tar"))).outcome == "staged"


@pytest.mark.parametrize("kind", SOURCES)
async def test_status_tells_where_a_copying_run_would_begin_though_its_upload_is_gone(kind: str) -> None:
    store, _ = await store_with(kind)
    await interrupted(store, 2, **asked(kind))
    for upload in store.open_uploads(BUCKET):
        if upload.key.endswith(SOURCES[kind][1]):
            await store.abort_upload(BUCKET, upload.key, upload.upload_id)
    told = await status_of(store)
    report = await staged(store, **asked(kind))
    assert told.run is not None
    assert report.artifact is not None
    assert told.run.resumes_at == report.artifact.build_info.resumed_from != 0
    assert told.rerun.code == "resume"


@pytest.mark.parametrize("kind", SOURCES)
async def test_what_is_told_of_a_resumed_copy_is_what_there_is_and_only_grows(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_INTERVAL", 0.0)
    store, _ = await store_with(kind)
    await interrupted(store, 2, **asked(kind))
    for upload in store.open_uploads(BUCKET):
        await store.abort_upload(BUCKET, upload.key, upload.upload_id)
    events: list[Event] = []
    store.copied, store.fails_after = 0, 0  # and it turns out on the way that nothing is copied
    store.enough.set()
    await staged(store, events, **asked(kind))
    told = [event for event in events if isinstance(event, Progress)]
    for name in ("fetched", "hashed", "extracted", "expanded", "durable", "durable_source", "copied"):
        values = [getattr(event, name) for event in told]
        assert values == sorted(values), name
    assert told[0].durable_source <= told[0].copied
    counters = Counters()
    for event in told:
        counters.update(event, event.elapsed)
    assert counters.percent == 100.0
