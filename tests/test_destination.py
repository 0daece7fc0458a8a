"""What the destination does in corners that are about one answer of the store: on the store in memory, no network."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from isal import isal_zlib

from riva_stream import (
    AccessDeniedError,
    ArchiveError,
    ConfigurationError,
    DestinationConflictError,
    HeldError,
    IntegrityError,
    RivaStreamError,
    SourceChangedError,
    SourceNotFoundError,
    StageRequest,
    TransientError,
    stage,
)
from riva_stream.errors import ArchiveFault, Where
from riva_stream.lease import Process
from riva_stream.manifest import StagedFiles
from riva_stream.s3 import REQUEST_EXPIRED, OpenUpload, PartBody
from riva_stream.s3.errors import refusal
from riva_stream.s3.memory import MemoryStore

BUCKET = "staging"
PREFIX = "prod/m/v1/"
MARKER = PREFIX + "staging_complete.txt"
JOURNAL = PREFIX + ".riva-stream/journal.json"

Answer = Callable[[], Any]


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks at what may be there follow each other at once."""
    monkeypatch.setattr("riva_stream.s3.bucket._PAUSE", 0.001)
    monkeypatch.setattr("riva_stream.documents.compare._PAUSE", 0.001)


def archive(name: str) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for member in ("a.riva", "b.riva"):
            data = f"{name} {member} ".encode() * 50
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return bytes(isal_zlib.compress(raw.getvalue(), 1, wbits=31))


class Struck(MemoryStore):
    """A store some of whose answers are given by a test: ``strike(operation, key)`` may raise in their place."""

    def __init__(self, *buckets: str, **options: Any) -> None:
        super().__init__(*buckets, **options)
        self.strike: Callable[[str, str], None] = lambda operation, key: None
        self.after: Callable[[str, str], None] = lambda operation, key: None
        self.windows: list[tuple[str, str, bool]] = []
        """Of each change that readers can see: its operation and key, and whether it went with a window."""

    async def head(self, bucket: str, key: str, **options: Any) -> Any:
        self.strike("HeadObject", key)
        return await super().head(bucket, key, **options)

    async def get(self, bucket: str, key: str, **options: Any) -> Any:
        self.strike("GetObject", key)
        return await super().get(bucket, key, **options)

    async def list_objects(self, bucket: str, prefix: str, **options: Any) -> Any:
        self.strike("ListObjectsV2", prefix)
        return await super().list_objects(bucket, prefix, **options)

    async def put(self, bucket: str, key: str, body: PartBody, **options: Any) -> Any:
        self.strike("PutObject", key)
        return await super().put(bucket, key, body, **options)

    async def delete(self, bucket: str, key: str, **options: Any) -> Any:
        self.windows.append(("DeleteObject", key, options.get("window") is not None))
        self.strike("DeleteObject", key)
        done = await super().delete(bucket, key, **options)
        self.after("DeleteObject", key)
        return done

    async def complete_upload(self, bucket: str, key: str, upload_id: str, parts: Any, **options: Any) -> Any:
        self.windows.append(("CompleteMultipartUpload", key, options.get("window") is not None))
        self.strike("CompleteMultipartUpload", key)
        return await super().complete_upload(bucket, key, upload_id, parts, **options)

    async def abort_upload(self, bucket: str, key: str, upload_id: str) -> None:
        self.strike("AbortMultipartUpload", key)
        await super().abort_upload(bucket, key, upload_id)


def denied(action: str = "") -> AccessDeniedError:
    return AccessDeniedError("denied", where=Where(status=403, code="AccessDenied"), action=action)


def failed(status: int = 500, code: str = "InternalError") -> TransientError:
    return TransientError("failed", where=Where(status=status, code=code))


async def put(store: MemoryStore, key: str, data: bytes, metadata: Mapping[str, str] | None = None) -> None:
    body = PartBody((data,), len(data))
    await store.put(BUCKET, key, body, content_type="a/b", metadata=metadata or {})


async def store_with_sources(**options: Any) -> Struck:
    store = Struck(BUCKET, **options)
    for name in ("one", "two"):
        await put(store, f"archives/{name}.tar.gz", archive(name))
    return store


def request(source: str = "one", **fields: Any) -> StageRequest:
    return StageRequest.model_validate(
        {
            "source": f"s3://{BUCKET}/archives/{source}.tar.gz",
            "bucket": BUCKET,
            "env": "prod",
            "model_name": "m",
            "model_version": "v1",
            "retries": 2,
        }
        | fields
    )


CHANGES: tuple[Callable[[bytes], bytes | None], ...] = (
    lambda _: None,
    lambda data: data + b" ",
    lambda _: b"{}",
)
"""What somebody may do to a document: delete it, edit it (it is as good JSON as before), write another."""


def raise_once(error: RivaStreamError, operation: str, key: str) -> Callable[[str, str], None]:
    left = [error]

    def strike(asked: str, at: str) -> None:
        if (asked, at) == (operation, key) and left:
            raise left.pop()

    return strike


async def test_a_run_that_took_over_by_watching_signs_its_changes_to_expire(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = await store_with_sources()
    begun = asyncio.Event()

    def hang(operation: str, _: str) -> None:
        if operation == "CompleteMultipartUpload":
            begun.set()
            raise failed()

    store.strike = hang
    with pytest.raises(TransientError):
        await stage(request(lease=4, retries=0), store=store)
    assert begun.is_set()
    # Whoever left the journal is neither known to have stopped nor known to be dead: it has to be watched.
    document = await store.get(BUCKET, JOURNAL, limit=1 << 20)
    alive = document.data.replace(b'"stopped":true', b'"stopped":false')
    await put(store, JOURNAL, alive)
    monkeypatch.setattr(Process, "is_dead", lambda *_: False)
    store.strike, store.windows = lambda *_: None, []
    assert (await stage(request(lease=4), store=store)).outcome == "staged"
    assert store.windows
    assert all(windowed for _, _, windowed in store.windows)


async def test_a_deletion_in_doubt_keeps_the_journal_when_an_upload_is_gone() -> None:
    store = await store_with_sources()
    await stage(request("two"), store=store)
    lost = [True]

    def answer_is_lost(operation: str, key: str) -> None:
        if (operation, key) == ("DeleteObject", MARKER) and lost:
            lost.clear()
            raise failed()

    def gone(operation: str, key: str) -> None:
        if operation == "CompleteMultipartUpload":
            raise HeldError("gone", where=Where(status=404, code="NoSuchUpload"))

    store.after, store.strike = answer_is_lost, gone
    with pytest.raises(HeldError):
        await stage(request(force=True, lease=4), store=store)
    assert JOURNAL in store.keys(BUCKET)
    assert store.open_uploads(BUCKET) == []


@pytest.mark.parametrize("action", ["kms:Decrypt", "s3:GetObject", ""])
async def test_what_may_not_be_seen_is_never_written_over(action: str) -> None:
    """Without s3:ListBucket, and with a marker that this role may not read."""
    store = await store_with_sources()
    await stage(request("one"), store=store)
    before = {key: store.look(BUCKET, key) for key in store.keys(BUCKET, PREFIX)}

    def unseen(operation: str, key: str) -> None:
        if operation == "ListObjectsV2":
            raise denied("s3:ListBucket")
        if key == MARKER and operation in {"GetObject", "HeadObject"}:
            raise denied(action)
        if (
            action == ""
            and operation in {"GetObject", "HeadObject"}
            and key.startswith(PREFIX)
            and key != JOURNAL
        ):
            raise denied()

    store.strike = unseen
    with pytest.raises((AccessDeniedError, HeldError)):
        await stage(request("two", lease=1), store=store)
    assert {key: store.look(BUCKET, key) for key in before} == before


@pytest.mark.parametrize("conditions", ["refused", "ignored"])
async def test_a_store_without_conditions_needs_no_retries_to_be_found_out(conditions: Any) -> None:
    store = await store_with_sources(is_aws=False, conditions=conditions, windows=False)
    for source, outcome in (("one", "staged"), ("one", "already_staged"), ("two", "staged")):
        done = await stage(request(source, retries=0, lease=1, force=source == "two"), store=store)
        assert done.outcome == outcome


@pytest.mark.parametrize("error", [failed(), failed(503, "SlowDown")])
async def test_a_complete_that_fails_once_is_tried_again_where_nothing_may_be_listed(error: Any) -> None:
    store = await store_with_sources()
    fail = raise_once(error, "CompleteMultipartUpload", PREFIX + "artifact.json")

    def strike(operation: str, key: str) -> None:
        fail(operation, key)
        hidden = operation in {"HeadObject", "GetObject"} and key.startswith(PREFIX)
        if operation == "ListObjectsV2" or (hidden and store.look(BUCKET, key) is None):
            raise denied()

    store.strike = strike
    assert (await stage(request(), store=store)).outcome == "staged"


async def test_a_journal_that_is_gone_is_no_missing_right() -> None:
    store = await store_with_sources()

    def strike(operation: str, key: str) -> None:
        if operation == "CompleteMultipartUpload":
            store._bucket("DeleteObject", BUCKET).versions.pop(JOURNAL, None)
        hidden = operation in {"HeadObject", "GetObject"} and key.startswith(PREFIX)
        if operation == "ListObjectsV2" or (hidden and store.look(BUCKET, key) is None):
            raise denied()

    store.strike = strike
    with pytest.raises(HeldError):
        await stage(request(), store=store)
    assert store.open_uploads(BUCKET) == []


async def test_a_leftover_that_may_not_be_cleared_away_is_no_failure() -> None:
    store = await store_with_sources()
    store.strike = lambda operation, key: (
        (_ for _ in ()).throw(denied()) if (operation, key) == ("DeleteObject", JOURNAL) else None
    )
    assert (await stage(request(), store=store)).outcome == "staged"
    left = await store.create_upload(
        BUCKET, PREFIX + "models/a.riva", content_type="a/b", metadata={}, crc64nvme=False
    )

    def no_abort(operation: str, key: str) -> None:
        if operation == "AbortMultipartUpload" and not key.endswith("/probe"):
            raise denied("s3:AbortMultipartUpload")

    store.strike = no_abort
    report = await stage(request(lease=1), store=store)
    assert report.outcome == "already_staged"
    assert "journal" in [warning.code for warning in report.warnings]
    assert [upload.upload_id for upload in store.open_uploads(BUCKET)] == [left]


async def test_one_answer_that_does_not_fit_deletes_nothing() -> None:
    store = await store_with_sources()
    lies = [MARKER, PREFIX + "artifact.json", PREFIX + "models/a.riva"]
    real = store.head

    async def head(bucket: str, key: str, **options: Any) -> Any:
        if key in lies and store.look(BUCKET, key) is not None:
            lies.remove(key)
            return None
        return await real(bucket, key, **options)

    store.head = head  # type: ignore[method-assign]
    assert (await stage(request(retries=0), store=store)).outcome == "staged"


async def test_an_answer_that_never_fits_ends_with_65_and_takes_back_what_was_completed() -> None:
    store = await store_with_sources()
    real = store.head

    async def head(bucket: str, key: str, **options: Any) -> Any:
        return None if key == PREFIX + "models/a.riva" else await real(bucket, key, **options)

    store.head = head  # type: ignore[method-assign]
    with pytest.raises(IntegrityError):
        await stage(request(), store=store)
    assert MARKER not in store.keys(BUCKET)
    assert store.open_uploads(BUCKET) == []


async def test_a_refusal_of_another_source_changes_nothing() -> None:
    store = await store_with_sources()
    await stage(request("one"), store=store)
    before = {key: store.look(BUCKET, key) for key in store.keys(BUCKET, PREFIX)}
    with pytest.raises(DestinationConflictError):
        await stage(request("two"), store=store)
    assert {key: store.look(BUCKET, key) for key in store.keys(BUCKET, PREFIX)} == before


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("staging_complete.txt", lambda _: b"{}"),
        *((name, change) for name in ("artifact.json", "upload_manifest.json") for change in CHANGES),
    ],
)
async def test_what_its_marker_does_not_vouch_for_is_replaced_only_by_force(
    name: str, change: Callable[[bytes], bytes | None]
) -> None:
    store = await store_with_sources()
    await stage(request(), store=store)
    found = store.look(BUCKET, PREFIX + name)
    assert found is not None
    data = change(found.data)
    if data is None:
        await store.delete(BUCKET, found.key)
    else:
        await put(store, found.key, data)
    before = {key: store.look(BUCKET, key) for key in store.keys(BUCKET, PREFIX)}
    with pytest.raises(DestinationConflictError):
        await stage(request(), store=store)
    assert {key: store.look(BUCKET, key) for key in store.keys(BUCKET, PREFIX)} == before
    assert (await stage(request(force=True), store=store)).outcome == "staged"
    assert (await stage(request(), store=store)).outcome == "already_staged"


@pytest.mark.parametrize(("error", "dead"), [(PermissionError, False), (FileNotFoundError, True)])
def test_a_process_that_may_not_be_seen_is_not_dead(
    monkeypatch: pytest.MonkeyPatch, error: type[OSError], dead: bool
) -> None:
    here = Process.this()
    there = here.model_copy(update={"pid": 2**22 - 7, "started": "12345"})

    def read_text(self: Any, *_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr("pathlib.Path.read_text", read_text)
    assert there.is_dead(here) is dead


class Odd(Struck):
    """A store that is not AWS, whose Complete tells another ETag than its HEAD does from then on; or none."""

    told: str | None = "0" * 32
    """None: Complete tells the usual one, and HEAD that of the bytes."""

    async def complete_upload(self, bucket: str, key: str, *args: Any, **options: Any) -> Any:
        stored = await super().complete_upload(bucket, key, *args, **options)
        return stored if self.told is None else replace(stored, etag=self.told)

    async def head(self, bucket: str, key: str, **options: Any) -> Any:
        info = await super().head(bucket, key, **options)
        if info is None or self.told is not None or key == JOURNAL or not key.startswith(PREFIX):
            return info
        there = self.look(bucket, key)
        assert there is not None
        return replace(info, etag=hashlib.md5(there.data, usedforsecurity=False).hexdigest())


@pytest.mark.parametrize("told", ["", "0" * 32, "0" * 32 + "-1", "odd", None])
@pytest.mark.parametrize("asked", [{"reference_only": True}, {"source_copy": "send"}])
async def test_an_etag_that_complete_alone_tells_is_not_believed(
    told: str | None, asked: dict[str, Any]
) -> None:
    store = Odd(BUCKET, is_aws=False)
    store.told = told
    await put(store, "archives/one.tar.gz", archive("one"))
    report = await stage(request(upload_check="md5", **asked), store=store, source_store=store)
    assert report.outcome == "staged"
    again = await stage(request(upload_check="md5", **asked), store=store, source_store=store)
    assert again.outcome == "already_staged"
    assert again.objects


async def test_an_object_of_other_bytes_is_not_excused_by_an_odd_etag() -> None:
    class Changing(Odd):
        async def complete_upload(self, bucket: str, key: str, *args: Any, **options: Any) -> Any:
            stored = await super().complete_upload(bucket, key, *args, **options)
            if key.endswith("artifact.json"):
                there = self.look(bucket, key)
                assert there is not None
                data = there.data.replace(b"parakeet", b"PARAKEET").replace(b"one", b"ONE")
                body = PartBody((data,), len(data))
                await self.put(bucket, key, body, content_type="a/b", metadata=there.metadata)
            return stored

    store = Changing(BUCKET, is_aws=False)
    await put(store, "archives/one.tar.gz", archive("one"))
    with pytest.raises(IntegrityError):
        await stage(request(reference_only=True, upload_check="md5"), store=store, source_store=store)
    assert store.look(BUCKET, MARKER) is None


@pytest.mark.parametrize("mode", [{}, {"reference_only": True}])
@pytest.mark.parametrize("mark", [b"", b"somebody's own"])
async def test_a_mark_of_nobody_keeps_no_image_from_being_added(mode: dict[str, Any], mark: bytes) -> None:
    store = await store_with_sources()
    await put(store, "images/a", b"an image")
    assert (await stage(request(**mode), store=store)).outcome == "staged"
    await put(store, PREFIX + "deployment_ready.txt", mark)
    report = await stage(request(server_path="images/a", **mode), store=store)
    assert report.outcome == "deployment_added"


_POINTED_AT = ("archives/one.tar.gz", "images/a")


@pytest.mark.parametrize(
    "then", [{"server_path": "images/b"}, {"server_path": "images/b", "reference_only": True}]
)
async def test_a_pair_of_a_later_version_is_not_replaced_without_force(then: dict[str, Any]) -> None:
    """It is whole, by its mark, and for another image than is asked for; that it cannot be read does not make it nobody's."""
    store = await store_with_sources()
    for name in "ab":
        await put(store, f"images/{name}", name.encode())
    first = request(reference_only=True, server_path="images/a")
    assert (await stage(first, store=store)).outcome == "staged"
    document, mark = (
        store.look(BUCKET, PREFIX + name) for name in ("deployment.json", "deployment_ready.txt")
    )
    assert document is not None
    assert mark is not None
    later = json.dumps(json.loads(document.data) | {"deployment_type": "streamed_in_place"}).encode()
    before, after = (hashlib.sha256(data).hexdigest().encode() for data in (document.data, later))
    await put(store, document.key, later, document.metadata)
    await put(store, mark.key, mark.data.replace(before, after), mark.metadata)
    with pytest.raises(DestinationConflictError):
        await stage(request(**then), store=store)
    there = store.look(BUCKET, document.key)
    assert there is not None
    assert there.data == later
    assert (await stage(request(force=True, **then), store=store)).outcome == "staged"


@pytest.mark.parametrize(
    ("mode", "empty"),
    [
        *(({name: True}, key) for name in ("reference_only", "bintarball_reference") for key in _POINTED_AT),
        ({}, "images/a"),
    ],
)
async def test_what_is_empty_is_not_pointed_at(mode: dict[str, Any], empty: str) -> None:
    """A full staging of it, which an upgrade would be, ends with 65."""
    store = await store_with_sources()
    await put(store, "images/a", b"an image")
    await put(store, empty, b"")
    with pytest.raises(IntegrityError):
        await stage(request(server_path="images/a", **mode), store=store)
    assert not [key for key in store.keys(BUCKET, "") if key.startswith(("prod/", "bintarball/"))]


@pytest.mark.parametrize("mode", [{"reference_only": True}, {"bintarball_reference": True}])
@pytest.mark.parametrize("removed", _POINTED_AT)
@pytest.mark.parametrize("newer", [False, True])
async def test_what_is_pointed_at_by_its_version_is_looked_at_once_more(
    mode: dict[str, Any], removed: str, newer: bool
) -> None:
    """Whoever comes next reads what has that name by then, and `verify` would say that it differs."""
    store = await store_with_sources(versioned=True)
    await put(store, "images/a", b"an image")
    done: list[str] = []

    def after(operation: str, key: str) -> None:
        if operation == "ListObjectsV2" and not done:
            done.append(key)
            changes.append(asyncio.ensure_future(change()))

    async def change() -> None:
        if newer:
            await put(store, removed, b"a newer one")
        else:
            await MemoryStore.delete(store, BUCKET, removed)

    changes: list[asyncio.Future[None]] = []
    store.strike = after
    with pytest.raises(SourceChangedError):
        await stage(request(server_path="images/a", **mode), store=store)
    assert done
    await asyncio.gather(*changes)


@pytest.mark.parametrize("name", ["staging_complete.txt", "artifact.json", "upload_manifest.json"])
async def test_a_staging_whose_documents_are_archived_is_replaced_with_force(name: str) -> None:
    """By a lifecycle rule; the source's hint, to restore it, would be of no use."""
    store = await store_with_sources()
    assert (await stage(request(), store=store)).outcome == "staged"
    there = store.look(BUCKET, PREFIX + name)
    assert there is not None

    def strike(operation: str, key: str) -> None:
        now = store.look(BUCKET, key)
        if (operation, key) == ("GetObject", there.key) and now is not None and now.etag == there.etag:
            raise SourceNotFoundError("archived", where=Where(status=403, code="InvalidObjectState"))

    store.strike = strike
    with pytest.raises(DestinationConflictError):
        await stage(request(), store=store)
    report = await stage(request(force=True), store=store)
    assert report.outcome == "staged"
    assert "archived" in [warning.code for warning in report.warnings]
    assert (await stage(request(), store=store)).outcome == "already_staged"


async def interrupted_by_force(store: Struck) -> None:
    """A good staging, and what an interrupted forced run of the same has left over it."""
    assert (await stage(request(source_copy="send"), store=store)).outcome == "staged"

    async def refuse(*_: Any, **__: Any) -> Any:
        raise failed()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "upload_part", refuse)
        with pytest.raises(TransientError):
            await stage(request(force=True, retries=0, source_copy="send"), store=store)
    assert store.open_uploads(BUCKET)


async def test_what_could_not_be_aborted_is_told_by_whoever_finds_all_staged() -> None:
    store = await store_with_sources()
    await interrupted_by_force(store)

    def strike(operation: str, key: str) -> None:
        if operation == "AbortMultipartUpload" and key.startswith((PREFIX + "source/", PREFIX + "models/")):
            raise denied()

    store.strike = strike
    report = await stage(request(source_copy="send"), store=store)
    assert report.outcome == "already_staged"
    assert store.open_uploads(BUCKET)
    assert store.look(BUCKET, JOURNAL) is not None
    assert "journal" in [warning.code for warning in report.warnings]
    store.strike = lambda *_: None
    report = await stage(request(source_copy="send"), store=store)
    assert not store.open_uploads(BUCKET)
    assert store.look(BUCKET, JOURNAL) is None
    assert not {"journal", "resume"} & {warning.code for warning in report.warnings}


async def test_a_pattern_that_is_given_twice_is_the_same_one_to_whoever_resumes() -> None:
    store = await store_with_sources(smallest_part=1)
    sent, kept = 0, asyncio.Event()

    async def refuse_models(bucket: str, key: str, *args: Any, **options: Any) -> Any:
        nonlocal sent
        if key.startswith(PREFIX + "models/"):
            await kept.wait()
            raise failed()
        etag = await MemoryStore.upload_part(store, bucket, key, *args, **options)
        sent += 1
        kept.set()
        return etag

    asked: dict[str, Any] = {"source_copy": "send", "retries": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "upload_part", refuse_models)
        with pytest.raises(TransientError):
            await stage(request(include=("a.riva", "b.riva"), **asked), store=store)
    assert sent
    report = await stage(request(include=("b.riva", "a.riva", "a.riva"), **asked), store=store)
    assert "resume" in [warning.code for warning in report.warnings]


async def test_a_state_directory_that_hangs_does_not_keep_the_heartbeat(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The next run would take the prefix over, and all that was sent would be lost."""
    written: list[str] = []

    async def hang(root: Path, run_id: str, name: str, data: bytes) -> None:
        written.append(name)
        await anyio.sleep_forever()

    monkeypatch.setattr("riva_stream.run.write_state", hang)
    monkeypatch.setattr("riva_stream.run._STATE_SECONDS", 0.01)
    store = await store_with_sources()
    report = await stage(request(state_dir=tmp_path), store=store)
    assert report.outcome == "staged"
    assert len(written) == 1
    assert "state" in [warning.code for warning in report.warnings]


def test_a_process_whose_start_could_not_be_read_is_not_taken_for_dead() -> None:
    """Another one of its host would take its prefix at once."""
    here = Process.this()
    assert not here.model_copy(update={"started": ""}).is_dead(here)
    assert here.model_copy(update={"started": "1"}).is_dead(here)


@pytest.mark.parametrize("mode", [{"reference_only": True}, {"bintarball_reference": True}])
@pytest.mark.parametrize("has_twin", [False, True])
async def test_a_replica_points_at_what_was_found_where_two_buckets_have_one_name(
    mode: dict[str, Any], has_twin: bool
) -> None:
    """At two endpoints; a twin at the destination's, of the same key, is another object."""
    there, here = await store_with_sources(), Struck(BUCKET, "other")
    await put(here, "images/a", b"an image")
    if has_twin:
        await put(here, "archives/one.tar.gz", archive("two"))
    folder = "bintarball/deployment-metadata/" if "bintarball_reference" in mode else ""
    place = f"s3://other/{folder}prod/m/v1/"
    asked = request(server_path="images/a", replicate_to=(place,), **mode)
    report = await stage(asked, store=here, source_store=there)
    assert [replica.exit_code for replica in report.replicas] == [0]
    document = here.look("other", f"{folder}prod/m/v1/deployment.json")
    assert document is not None
    pinned = json.loads(document.data)["bintarball_references"]["model_archive"]
    original = there.look(BUCKET, "archives/one.tar.gz")
    assert original is not None
    assert pinned["etag"] == original.etag


class Lagging(Struck):
    """A store whose listings do not show some keys."""

    hidden: frozenset[str] = frozenset()

    async def list_objects(self, bucket: str, prefix: str, **options: Any) -> Any:
        page = await super().list_objects(bucket, prefix, **options)
        return replace(page, objects=[entry for entry in page.objects if entry.key not in self.hidden])


async def lagging_store() -> Lagging:
    store = Lagging(BUCKET)
    for name in ("one", "two"):
        await put(store, f"archives/{name}.tar.gz", archive(name))
    return store


@pytest.mark.parametrize("key", ["models/a.riva", "checksums.sha256", "artifact.json"])
async def test_what_a_manifest_names_is_replaced_even_if_a_listing_lags(key: str) -> None:
    """It was taken for absent: the old marker was deleted, and then the new object refused."""
    store = await lagging_store()
    await stage(request("one"), store=store)
    store.hidden = frozenset({PREFIX + key})
    assert (await stage(request("two", force=True), store=store)).outcome == "staged"
    checksums = await store.get(BUCKET, PREFIX + "checksums.sha256", limit=1 << 20)
    assert checksums is not None
    assert hashlib.sha256(archive("two")).hexdigest().encode() in checksums.data


@pytest.mark.parametrize(
    ("mode", "name"), [({}, "upload_manifest.json"), ({"reference_only": True}, "artifact.json")]
)
async def test_a_document_that_was_read_is_replaced_even_if_a_listing_lags(
    mode: dict[str, Any], name: str
) -> None:
    store = await lagging_store()
    await stage(request("one", **mode), store=store)
    store.hidden = frozenset({PREFIX + name})
    assert (await stage(request("two", force=True, **mode), store=store)).outcome == "staged"


async def test_what_a_dead_commit_left_is_removed_even_if_a_listing_lags() -> None:
    """Its journal alone told of the model, and was deleted with the model in place."""
    store, left = await lagging_store(), PREFIX + "models/b.riva"

    def fail(operation: str, key: str) -> None:
        if operation == "CompleteMultipartUpload" and key == PREFIX + "checksums.sha256":
            raise failed()

    store.strike = fail
    with pytest.raises(TransientError):
        await stage(request("one", retries=0, lease=1), store=store)
    assert left in store.keys(BUCKET)
    store.strike, store.hidden = lambda *_: None, frozenset({left})
    only = request("two", include=["a.riva"], lease=1)
    assert (await stage(only, store=store)).outcome == "staged"
    assert left not in store.keys(BUCKET)


@pytest.mark.parametrize("names", [["models/sub/old.riva"], [f"models/{n}.txt" for n in range(40)]])
async def test_objects_of_others_are_one_warning(names: list[str]) -> None:
    store = await store_with_sources()
    for name in names:
        await put(store, PREFIX + name, b"of somebody else")
    report = await stage(request(), store=store)
    assert [warning.code for warning in report.warnings if warning.code == "foreign-object"] == [
        "foreign-object"
    ]
    assert {PREFIX + name for name in names} <= set(store.keys(BUCKET))


async def test_documents_that_could_not_be_read_back_are_refused_while_the_old_staging_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They were written, the marker was put over them, and every later run ended with 73."""
    store = await store_with_sources()
    await stage(request("one"), store=store)
    before = {key: store.look(BUCKET, key) for key in store.keys(BUCKET, PREFIX)}
    monkeypatch.setattr("riva_stream.pipeline.commit.DOCUMENT_LIMIT", 1000)
    with pytest.raises(ArchiveError) as caught:
        await stage(request("two", force=True), store=store)
    assert (caught.value.exit_code, caught.value.fault) == (65, ArchiveFault.LIMIT)
    assert {key: store.look(BUCKET, key) for key in store.keys(BUCKET, PREFIX)} == before
    assert store.open_uploads(BUCKET) == []


@pytest.mark.parametrize("server", [None, "images/server.tar"])
async def test_a_manifest_that_leaves_out_what_artifact_json_describes_is_damage(server: str | None) -> None:
    """It was "already staged"; with a container image, a bug of ours."""
    store = await store_with_sources()
    await put(store, "images/server.tar", b"an image")
    await stage(request("one"), store=store)
    manifest = json.loads(store.look(BUCKET, PREFIX + "upload_manifest.json").data)  # type: ignore[union-attr]
    manifest["files"] |= {"models": [], "source_archive": None}
    data = json.dumps(manifest).encode()
    await put(store, PREFIX + "upload_manifest.json", data)
    marker = store.look(BUCKET, MARKER).data.decode()  # type: ignore[union-attr]
    lines = [
        f"SHA-256 of upload_manifest.json: {hashlib.sha256(data).hexdigest()}" if "manifest" in line else line
        for line in marker.splitlines()
    ]
    await put(store, MARKER, "\n".join([*lines, ""]).encode())
    with pytest.raises(IntegrityError) as caught:
        await stage(request("one", server_path=server), store=store)
    assert caught.value.exit_code == 65
    assert caught.value.where.key == PREFIX + "upload_manifest.json"


async def test_a_forced_staging_reads_the_old_manifest_a_fixed_number_of_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each attempt of each change built the set of all its keys anew."""
    counts = []
    for models in (2, 40):
        store = Struck(BUCKET)
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w") as tar:
            for number in range(models):
                info = tarfile.TarInfo(f"{number}.riva")
                info.size = 3
                tar.addfile(info, io.BytesIO(b"abc"))
        await put(store, "archives/one.tar.gz", raw.getvalue())
        await put(store, "archives/two.tar.gz", raw.getvalue())
        await stage(request("one"), store=store)
        read: list[None] = []
        plain = StagedFiles.all

        def counted(files: StagedFiles, plain: Any = plain, read: list[None] = read) -> Any:
            read.append(None)
            return plain(files)

        with monkeypatch.context() as patch:
            patch.setattr(StagedFiles, "all", counted)
            await stage(request("two", force=True), store=store)
        counts.append(len(read))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("which", [1, 2])
async def test_one_wrong_404_does_not_turn_windows_off(which: int) -> None:
    """In the answer to a request whose window is over: it was taken for one of a store that does not enforce windows."""

    class Wrong(Struck):
        over = 0

        async def head(self, bucket: str, key: str, **options: Any) -> Any:
            window = options.get("window")
            if key == JOURNAL and window is not None and window.seconds == 1:
                self.over += 1
                if self.over == which:
                    return None
            return await super().head(bucket, key, **options)

    store = Wrong(BUCKET, is_aws=False)
    await put(store, "archives/one.tar.gz", archive("one"))
    await stage(request(lease=9), store=store)
    assert store.over > which
    changes = [windowed for _, key, windowed in store.windows if not key.endswith("/probe")]
    assert changes
    assert all(changes)


async def test_a_slow_probe_of_windows_does_not_turn_them_off_on_aws() -> None:
    class Slow(Struck):
        probed = False

        async def head(self, bucket: str, key: str, **options: Any) -> Any:
            if key == JOURNAL and options.get("window") is not None and not self.probed:
                self.probed = True
                raise refusal("HeadObject", bucket, key, REQUEST_EXPIRED, 403)
            return await super().head(bucket, key, **options)

    store = Slow(BUCKET)
    await put(store, "archives/one.tar.gz", archive("one"))
    await stage(request(lease=9), store=store)
    assert store.probed
    assert store.windows
    assert all(windowed for _, _, windowed in store.windows)


async def test_what_artifact_json_names_is_removed_though_the_manifest_is_refused_and_nothing_is_listed() -> (
    None
):
    store = await store_with_sources()
    await stage(request("two"), store=store)

    def strike(operation: str, key: str) -> None:
        if operation == "ListObjectsV2":
            raise denied("s3:ListBucket")
        if (operation, key) == ("GetObject", PREFIX + "upload_manifest.json"):
            raise denied()

    store.strike = strike
    assert (await stage(request("one", force=True), store=store)).outcome == "staged"
    assert store.look(BUCKET, PREFIX + "source/one.tar.gz") is not None
    assert store.look(BUCKET, PREFIX + "source/two.tar.gz") is None


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("lasting", [False, True])
async def test_a_probe_that_could_not_be_aborted_is_named_by_the_journal_until_it_is_gone(
    late: bool, lasting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without conditions, a run whose first journal took long has nothing to look for, unless it has begun something.
    store = await store_with_sources(is_aws=False, conditions="ignored" if late else "honoured")
    if late:
        monkeypatch.setattr("riva_stream.lease.lease._SETTLING", 0.0)
    asked = list[str]()

    def strike(operation: str, key: str) -> None:
        if operation == "AbortMultipartUpload":
            asked.append(key)
            # The first asks whether anything may be aborted at all, the second is about the probe's upload.
            if lasting or len(asked) == 2:
                raise failed()
        if operation == "ListObjectsV2" and len(asked) > 1:
            raise ConfigurationError("refused for good")

    store.strike = strike
    with pytest.raises(ConfigurationError):
        await stage(request(retries=0, lease=1, source_copy="send"), store=store)
    assert set(asked) == {PREFIX + ".riva-stream/probe"}
    assert bool(store.open_uploads(BUCKET)) == lasting
    there = store.look(BUCKET, JOURNAL)
    assert (there is not None) == lasting
    if there is not None:
        named = [upload["upload_id"] for upload in json.loads(there.data)["uploads"]]
        assert named == [upload.upload_id for upload in store.open_uploads(BUCKET)]
        # The next run needs no listing to find it.
        store.strike = lambda *_: None
        monkeypatch.undo()
        monkeypatch.setattr(store, "list_uploads", refuse_to_list)
        report = await stage(request(lease=1, source_copy="send"), store=store)
        assert report.outcome == "staged"
        assert store.open_uploads(BUCKET) == []
        assert store.look(BUCKET, JOURNAL) is None


async def refuse_to_list(*_: Any) -> list[OpenUpload]:
    raise denied("s3:ListBucketMultipartUploads")


async def test_a_staging_whose_probe_stays_open_keeps_its_journal() -> None:
    store = await store_with_sources(is_aws=False)

    def strike(operation: str, key: str) -> None:
        if operation == "AbortMultipartUpload" and key.endswith("/probe"):
            raise failed()

    store.strike = strike
    report = await stage(request(retries=0, source_copy="send"), store=store)
    assert report.outcome == "staged"
    assert {"scratch-upload", "journal"} <= {warning.code for warning in report.warnings}
    there = store.look(BUCKET, JOURNAL)
    assert there is not None
    assert json.loads(there.data)["committing"] is False  # nobody has to wait for what was begun
    store.strike = lambda *_: None
    assert (await stage(request(source_copy="send"), store=store)).outcome == "already_staged"
    assert store.open_uploads(BUCKET) == []
    assert store.look(BUCKET, JOURNAL) is None


OWN = ("source/one.tar.gz", "models/a.riva", "artifact.json", "upload_manifest.json", "staging_complete.txt")


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("action", ["", "s3:GetObject"])
async def test_one_refusal_of_what_was_just_written_does_not_end_the_commit(name: str, action: str) -> None:
    store = await store_with_sources()
    await stage(request(), store=store)
    left = [True]
    written = list[str]()
    complete = store.complete_upload

    async def completed(bucket: str, key: str, *args: Any, **options: Any) -> Any:
        done = await complete(bucket, key, *args, **options)
        written.append(key)
        return done

    def strike(operation: str, key: str) -> None:
        if operation in {"HeadObject", "GetObject"} and key == PREFIX + name and key in written and left:
            left.clear()
            raise denied(action)

    store.complete_upload, store.strike = completed, strike  # type: ignore[method-assign]
    assert (await stage(request(force=True, source_copy="send"), store=store)).outcome == "staged"
    assert not left


@pytest.mark.parametrize("mode", [{}, {"reference_only": True}])
@pytest.mark.parametrize("refused", [True, False])
@pytest.mark.parametrize("nth", [1, 2])
async def test_one_wrong_answer_about_a_document_to_be_replaced_does_not_end_the_commit(
    mode: dict[str, Any], refused: bool, nth: int
) -> None:
    name = PREFIX + ("artifact.json" if mode else "upload_manifest.json")

    class Wrong(Struck):
        heads = 0

        async def head(self, bucket: str, key: str, **options: Any) -> Any:
            if key == name and self.armed:
                self.heads += 1
                if self.heads == nth:
                    if refused:
                        raise denied()
                    return None
            return await super().head(bucket, key, **options)

        armed = False

    store = Wrong(BUCKET)
    await put(store, "archives/one.tar.gz", archive("one"))
    await stage(request(**mode), store=store)
    store.armed = True
    assert (await stage(request(force=True, **mode), store=store)).outcome == "staged"
    assert store.heads >= nth


class StuckProbe(Struck):
    """Aborts no upload of a probe, and may lose the answers to the Creates of those."""

    loses = False

    async def create_upload(self, bucket: str, key: str, **options: Any) -> str:
        upload_id = await super().create_upload(bucket, key, **options)
        if self.loses and key.endswith("/probe"):
            raise failed()
        return upload_id

    async def abort_upload(self, bucket: str, key: str, upload_id: str) -> None:
        if key.endswith("/probe") and upload_id in self.stuck():
            raise failed()
        await super().abort_upload(bucket, key, upload_id)

    def stuck(self) -> set[str]:
        return {upload.upload_id for upload in self.open_uploads(BUCKET) if self.is_stuck}

    is_stuck = True


@pytest.mark.parametrize("listing", ["prefix", "exact"])
@pytest.mark.parametrize("loses", [False, True])
async def test_no_run_drops_the_record_of_a_probe_that_nobody_could_abort(listing: Any, loses: bool) -> None:
    store = StuckProbe(BUCKET, is_aws=False, list_uploads_by=listing)
    await put(store, "archives/one.tar.gz", archive("one"))
    job = request(retries=1, lease=1, source_copy="send")
    store.loses = loses
    for _ in range(2):
        if loses:
            with pytest.raises(TransientError):
                await stage(job, store=store)
        else:
            await stage(job, store=store)
        assert store.open_uploads(BUCKET)
        assert store.look(BUCKET, JOURNAL) is not None
    store.is_stuck = store.loses = False
    await stage(job, store=store)
    assert store.open_uploads(BUCKET) == []
    assert store.look(BUCKET, JOURNAL) is None
