"""What the store in memory has beyond the contract: versions, the weaker kinds of store, windows, smaller pages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from riva_stream.errors import (
    ConfigurationError,
    DigestMismatchError,
    HeldError,
    SourceChangedError,
    TransientError,
)
from riva_stream.s3 import CompletedPart, CopySource, ObjectPart, Store, Window
from riva_stream.s3.memory import Copies, MemoryStore
from tests.contract.ground import SMALL, body, crc64nvme, md5

BUCKET = "bucket"
PLAIN: dict[str, Any] = {"content_type": "a/b", "metadata": {}}


async def put(store: Store, key: str = "k", data: bytes = SMALL, **options: Any) -> str:
    return (await store.put(BUCKET, key, body(data), **PLAIN | options)).etag


async def upload(store: Store, key: str, *parts: bytes) -> tuple[str, list[CompletedPart]]:
    upload_id = await store.create_upload(BUCKET, key, crc64nvme=False, **PLAIN)
    return upload_id, [
        CompletedPart(n, await store.upload_part(BUCKET, key, upload_id, n, body(data)), len(data))
        for n, data in enumerate(parts, 1)
    ]


async def test_versions_are_kept_read_and_removed() -> None:
    store = MemoryStore(BUCKET, versioned=True)
    old = await store.put(BUCKET, "k", body(b"old"), **PLAIN)
    new = await store.put(BUCKET, "k", body(b"newer"), **PLAIN)
    assert None not in {old.version_id, new.version_id}
    assert old.version_id != new.version_id
    async with store.get_range(
        BUCKET, "k", first=0, last=9, etag=old.etag, version_id=old.version_id
    ) as reply:
        assert b"".join([piece async for piece in reply.pieces]) == b"old"
    marker = await store.delete(BUCKET, "k")
    assert marker is not None
    assert await store.head(BUCKET, "k") is None
    assert not (await store.list_objects(BUCKET, "")).objects
    await store.delete(BUCKET, "k", version_id=marker)  # the delete marker itself: the object is back
    assert (await store.head(BUCKET, "k") or old) != old
    await store.delete(BUCKET, "k", version_id=new.version_id)
    head = await store.head(BUCKET, "k")
    assert head is not None
    assert (head.etag, head.version_id) == (old.etag, old.version_id)
    with pytest.raises(SourceChangedError, match="removed"):
        async with store.get_range(BUCKET, "k", first=0, last=9, etag=new.etag, version_id=new.version_id):
            pass


async def test_a_delete_with_a_condition_removes_only_what_it_names() -> None:
    store = MemoryStore(BUCKET)
    etag = await put(store)
    with pytest.raises(HeldError) as caught:
        await store.delete(BUCKET, "k", if_match="0" * 32)
    assert caught.value.where.code == "PreconditionFailed"
    await store.delete(BUCKET, "k", if_match=etag)
    with pytest.raises(HeldError) as caught:
        await store.delete(BUCKET, "k", if_match=etag)
    assert caught.value.where.code == "NoSuchKey"
    await store.delete(BUCKET, "k")  # without one, that of a missing object succeeds


async def test_a_complete_with_a_condition_leaves_its_upload_open_when_refused() -> None:
    store = MemoryStore(BUCKET)
    etag = await put(store)
    upload_id, parts = await upload(store, "k", b"new")
    for condition in ({"if_absent": True}, {"if_match": "0" * 32}):
        with pytest.raises(HeldError):
            await store.complete_upload(BUCKET, "k", upload_id, parts, crc64nvme=None, **condition)
    assert store.open_uploads(BUCKET)
    await store.complete_upload(BUCKET, "k", upload_id, parts, crc64nvme=None, if_match=etag)
    upload_id, parts = await upload(store, "gone", b"new")
    with pytest.raises(HeldError):
        await store.complete_upload(BUCKET, "gone", upload_id, parts, crc64nvme=None, if_match=etag)


async def test_conditions_may_be_ignored_or_refused() -> None:
    careless = MemoryStore(BUCKET, conditions="ignored")
    await put(careless)
    await put(careless, if_absent=True)
    await careless.delete(BUCKET, "k", if_match="0" * 32)
    assert await careless.head(BUCKET, "k") is None
    refusing = MemoryStore(BUCKET, conditions="refused")
    with pytest.raises(ConfigurationError) as caught:
        await put(refusing, if_absent=True)
    assert (caught.value.where.code, caught.value.where.status) == ("NotImplemented", 501)
    await put(refusing)


async def test_open_uploads_may_be_listed_for_one_key_alone() -> None:
    store = MemoryStore(BUCKET, list_uploads_by="exact")
    upload_id, _ = await upload(store, "p/k")
    assert await store.list_uploads(BUCKET, "p/") == []
    assert [found.upload_id for found in await store.list_uploads(BUCKET, "p/k")] == [upload_id]
    assert await store.list_parts(BUCKET, "p/k", upload_id) == []


async def test_a_request_that_comes_after_its_window_is_refused() -> None:
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    store = MemoryStore(BUCKET, now=lambda: now)
    window = Window(now, 10)
    etag = await put(store, window=window)
    upload_id, parts = await upload(store, "u", b"data")
    now += timedelta(seconds=10)
    assert await store.head(BUCKET, "k", window=window) is not None
    now += timedelta(seconds=1)
    for late in (
        store.head(BUCKET, "k", window=window),
        store.delete(BUCKET, "k", if_match=etag, window=window),
        store.put(BUCKET, "k", body(), window=window, **PLAIN),
        store.create_upload(BUCKET, "v", crc64nvme=False, window=window, **PLAIN),
        store.complete_upload(BUCKET, "u", upload_id, parts, crc64nvme=None, window=window),
    ):
        with pytest.raises(TransientError) as caught:
            await late
        assert caught.value.where.code == "RequestExpired"
    assert store.keys(BUCKET) == ["k"]
    assert [each.upload_id for each in await store.list_uploads(BUCKET, "")] == [upload_id]
    lenient = MemoryStore(BUCKET, now=lambda: now, windows=False)
    await put(lenient, window=Window(now - timedelta(days=1), 1))


async def test_times_are_the_stores_own_in_whole_seconds() -> None:
    now = datetime(2026, 1, 1, 12, 0, 0, 900_000, tzinfo=UTC)
    store = MemoryStore(BUCKET, now=lambda: now)
    whole = now.replace(microsecond=0)
    assert (await store.put(BUCKET, "k", body(), **PLAIN)).now == whole
    now += timedelta(seconds=3)
    info = await store.head(BUCKET, "k")
    assert info is not None
    assert (info.last_modified, info.now) == (whole, whole + timedelta(seconds=3))
    assert (await store.list_folder(BUCKET, "")).now == info.now


async def test_pages_and_parts_may_be_small() -> None:
    store = MemoryStore(BUCKET, page=2, smallest_part=4)
    for key in "abc":
        await put(store, key)
    page = await store.list_objects(BUCKET, "")
    assert ([found.key for found in page.objects], page.truncated) == (["a", "b"], True)
    upload_id, parts = await upload(store, "u", b"1234", b"5")
    await store.complete_upload(BUCKET, "u", upload_id, parts, crc64nvme=None)
    upload_id, parts = await upload(store, "u", b"123", b"5")
    with pytest.raises(ConfigurationError) as caught:
        await store.complete_upload(BUCKET, "u", upload_id, parts, crc64nvme=None)
    assert caught.value.where.code == "EntityTooSmall"


async def test_tags_come_back_and_there_are_no_rules() -> None:
    store = MemoryStore(BUCKET)
    await put(store, tags={"a": "1"})
    assert await store.get_tags(BUCKET, "k") == {"a": "1"}
    await store.put_tags(BUCKET, "k", {"b": "2"})
    assert await store.get_tags(BUCKET, "k") == {"b": "2"}
    assert await store.get_lifecycle(BUCKET) is None


async def copied(
    store: MemoryStore, source: CopySource, *, declared: bool = True
) -> tuple[str, CompletedPart]:
    """An upload with one copied part of what is at a key."""
    upload_id = await store.create_upload(BUCKET, "copy", crc64nvme=declared, **PLAIN)
    told = await store.copy_part(BUCKET, "copy", upload_id, 1, source)
    size = 0 if source.first is None or source.last is None else source.last - source.first + 1
    return upload_id, CompletedPart(1, told.etag, size or len(SMALL), told.crc64nvme)


async def test_a_range_is_copied_of_what_is_large_enough() -> None:
    store = MemoryStore(BUCKET, smallest_part=8)
    etag = await put(store)
    upload_id, part = await copied(store, CopySource(BUCKET, "k", etag, None, 3, 7))
    assert (part.etag, part.crc64nvme) == (md5(SMALL[3:8]), crc64nvme(SMALL[3:8]))
    await store.complete_upload(BUCKET, "copy", upload_id, [part], crc64nvme=crc64nvme(SMALL[3:8]))
    found = store.look(BUCKET, "copy")
    assert found is not None
    assert found.data == SMALL[3:8]
    small = await put(store, "small", b"12345678")
    for first, last, code in ((0, 3, "InvalidRequest"), (0, 8, "InvalidRequest")):
        with pytest.raises(ConfigurationError) as caught:
            await copied(store, CopySource(BUCKET, "small", small, None, first, last))
        assert caught.value.where.code == code
    with pytest.raises(ConfigurationError) as caught:
        await copied(store, CopySource(BUCKET, "k", etag, None, 0, len(SMALL)))
    assert caught.value.where.code == "InvalidArgument"


async def test_a_version_is_copied_while_it_is_there() -> None:
    store = MemoryStore(BUCKET, versioned=True)
    old = await store.put(BUCKET, "k", body(b"old"), **PLAIN)
    await put(store)
    _, part = await copied(store, CopySource(BUCKET, "k", old.etag, old.version_id))
    assert part.etag == md5(b"old")
    with pytest.raises(SourceChangedError) as caught:  # it is not the newest
        await copied(store, CopySource(BUCKET, "k", old.etag))
    assert caught.value.where.status == 412


async def test_an_object_tells_the_parts_that_it_was_completed_from() -> None:
    store = MemoryStore(BUCKET, smallest_part=1)
    await put(store)
    assert await store.head_part(BUCKET, "k", 1) is None
    upload_id, parts = await upload(store, "u", b"12345", b"678")
    await store.complete_upload(BUCKET, "u", upload_id, parts, crc64nvme=None)
    assert [await store.head_part(BUCKET, "u", n) for n in (1, 2)] == [ObjectPart(5, 2), ObjectPart(3, 2)]


@pytest.mark.parametrize(("copies", "told"), [("flipped", "of the copy"), ("lying", "of the source")])
async def test_a_store_may_copy_other_bytes(copies: Copies, told: str) -> None:
    store = MemoryStore(BUCKET, copies=copies)
    upload_id, part = await copied(store, CopySource(BUCKET, "k", await put(store)))
    assert (part.etag == md5(SMALL)) == (part.crc64nvme == crc64nvme(SMALL)) == (told == "of the source")
    with pytest.raises(DigestMismatchError) as caught:  # the checksum of the whole is of what there is
        await store.complete_upload(BUCKET, "copy", upload_id, [part], crc64nvme=crc64nvme(SMALL))
    assert caught.value.where.code == "BadDigest"
    await store.complete_upload(BUCKET, "copy", upload_id, [part], crc64nvme=None)
    found = store.look(BUCKET, "copy")
    assert found is not None
    assert sum((a ^ b).bit_count() for a, b in zip(found.data, SMALL, strict=True)) == 1


async def test_copies_may_be_weaker() -> None:
    refusing = MemoryStore(BUCKET, copies="refused")
    with pytest.raises(ConfigurationError) as caught:
        await copied(refusing, CopySource(BUCKET, "k", await put(refusing)))
    assert caught.value.where.code == "NotImplemented"
    careless = MemoryStore(BUCKET, copies="unconditional")
    await put(careless)
    assert (await copied(careless, CopySource(BUCKET, "k", "0" * 32)))[1].etag == md5(SMALL)
    silent = MemoryStore(BUCKET, copies="unproven")
    _, part = await copied(silent, CopySource(BUCKET, "k", await put(silent)))
    assert part.crc64nvme is None
    assert part.etag != md5(SMALL)
