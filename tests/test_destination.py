"""What the destination does in corners that are about one answer of the store: on the store in memory, no network."""

from __future__ import annotations

import asyncio
import hashlib
import io
import tarfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from isal import isal_zlib

from riva_stream import (
    AccessDeniedError,
    DestinationConflictError,
    HeldError,
    IntegrityError,
    RivaStreamError,
    StageRequest,
    TransientError,
    stage,
)
from riva_stream.errors import Where
from riva_stream.lease import Process
from riva_stream.s3 import PartBody
from riva_stream.s3.memory import MemoryStore

BUCKET = "staging"
PREFIX = "prod/m/v1/"
MARKER = PREFIX + "staging_complete.txt"
JOURNAL = PREFIX + ".riva-stream/journal.json"

Answer = Callable[[], Any]


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


async def store_with_sources(**options: Any) -> Struck:
    store = Struck(BUCKET, **options)
    for name in ("one", "two"):
        data = archive(name)
        await store.put(
            BUCKET, f"archives/{name}.tar.gz", PartBody((data,), len(data)), content_type="a/b", metadata={}
        )
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
    await store.put(BUCKET, JOURNAL, PartBody((alive,), len(alive)), content_type="a/b", metadata={})
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
        await store.put(BUCKET, found.key, PartBody((data,), len(data)), content_type="a/b", metadata={})
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
    data = archive("one")
    await store.put(
        BUCKET, "archives/one.tar.gz", PartBody((data,), len(data)), content_type="a/b", metadata={}
    )
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
    data = archive("one")
    await store.put(
        BUCKET, "archives/one.tar.gz", PartBody((data,), len(data)), content_type="a/b", metadata={}
    )
    with pytest.raises(IntegrityError):
        await stage(request(reference_only=True, upload_check="md5"), store=store, source_store=store)
    assert store.look(BUCKET, MARKER) is None
