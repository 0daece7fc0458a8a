"""Multipart uploads through the port: parts, pages of them, Complete, abort, listings, on every store."""

from __future__ import annotations

import hashlib
import os

import anyio
import pytest

from riva_stream.errors import HeldError, RivaStreamError
from riva_stream.flow.digest import combined_crc64nvme, crc64nvme_of
from riva_stream.s3 import CompletedPart, CopySource, PartBody
from tests.contract.copies import copy_of_parts
from tests.contract.enforcement import ANSWERS
from tests.contract.ground import SMALL, TAKEN, Ground, body, crc64nvme, md5

pytestmark = pytest.mark.asyncio(loop_scope="session")

MIB = 1 << 20
METADATA = {"run-id": "130-20260101-000000-deadbeef", "artifact-type": "riva-model"}


def etag_of(*parts: bytes) -> str:
    """MD5 of the parts' MD5s."""
    joined = b"".join(hashlib.md5(part).digest() for part in parts)
    return f"{hashlib.md5(joined).hexdigest()}-{len(parts)}"


@pytest.mark.parametrize("check", ["none", "crc64nvme", "md5", "sha256"])
async def test_parts_become_one_object(ground: Ground, check: str) -> None:
    first, last = os.urandom(5 * MIB), os.urandom(1000)
    key, declared = ground.key(), check == "crc64nvme"
    upload_id = await ground.store.create_upload(
        ground.bucket, key, content_type="application/gzip", metadata=METADATA, crc64nvme=declared
    )
    done = []
    for number, data in ((2, last), (1, first)):  # in any order
        etag = await ground.part(key, upload_id, number, body(data, check))
        assert etag == md5(data)
        done.append(CompletedPart(number, etag, len(data), crc64nvme(data) if declared else None))
    assert await ground.store.head(ground.bucket, key) is None  # nothing is visible
    whole = combined_crc64nvme([(crc64nvme_of([data]), len(data)) for data in (first, last)])
    stored = await ground.store.complete_upload(
        ground.bucket, key, upload_id, done[::-1], crc64nvme=whole if declared else None
    )
    assert stored.etag == etag_of(first, last)
    info = await ground.store.head(ground.bucket, key)
    assert info is not None
    assert (info.size, info.etag, info.content_type) == (len(first) + 1000, stored.etag, "application/gzip")
    assert dict(info.metadata) == METADATA
    if declared:
        # whether the store keeps it or not: it never tells a wrong one
        assert info.checksums.get("crc64nvme") in {None, crc64nvme(first + last)}
    assert await ground.data(key) == first + last
    assert await ground.store.list_uploads(ground.bucket, "") == []


async def test_a_part_that_is_sent_again_replaces_the_first(ground: Ground) -> None:
    key, upload_id, _ = await ground.upload(b"first try")
    etag = await ground.part(key, upload_id, 1, body(b"second"))
    parts = await ground.store.list_parts(ground.bucket, key, upload_id)
    assert parts is not None
    assert [part.number for part in parts] == [1]
    if ground.server.name != "seaweedfs":  # it keeps both, and tells no order within a second
        assert parts == [CompletedPart(1, md5(b"second"), 6)]
    await ground.complete(key, upload_id, [CompletedPart(1, etag, 6)])
    assert await ground.data(key) == b"second"


async def test_a_body_is_sent_whole_each_time(ground: Ground) -> None:
    """A file that was read once would send no bytes the second time, with a 200."""
    key, upload_id, _ = await ground.upload()
    sent = PartBody((SMALL,), len(SMALL))
    for number in (1, 1, 2):
        assert await ground.part(key, upload_id, number, sent) == md5(SMALL)
    parts = await ground.store.list_parts(ground.bucket, key, upload_id)
    assert [part.size for part in parts or ()] == [len(SMALL)] * 2


async def test_an_empty_object_is_one_empty_part(ground: Ground) -> None:
    key, upload_id, parts = await ground.upload(b"")
    await ground.complete(key, upload_id, parts)
    info = await ground.store.head(ground.bucket, key)
    assert info is not None
    assert (info.size, info.etag) == (0, etag_of(b""))


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "not declared"])
async def test_listed_parts_carry_the_checksum_only_if_create_declared_it(
    ground: Ground, *, declared: bool
) -> None:
    key = ground.key()
    upload_id = await ground.create(key, declared=declared)
    await ground.part(key, upload_id, 1, body(SMALL, "crc64nvme"))
    listed = await ground.store.list_parts(ground.bucket, key, upload_id)
    keeps = declared and ground.server.name in {"localstack", "memory"}
    # SeaweedFS keeps it too, and does not list it
    assert listed == [CompletedPart(1, md5(SMALL), len(SMALL), crc64nvme(SMALL) if keeps else None)]


@pytest.mark.long_but_on("memory", "localstack")
async def test_all_pages_of_parts_are_listed(ground: Ground) -> None:
    """ListParts gives 1,000 a page."""
    count = 1_005
    key = ground.key()
    upload_id = await ground.create(key)
    parts: dict[int, CompletedPart] = {}
    todo = list(range(1, count + 1))

    async def send() -> None:
        while todo:
            number = todo.pop()
            data = f"part {number}".encode()
            etag = await ground.part(key, upload_id, number, body(data))
            parts[number] = CompletedPart(number, etag, len(data))

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(send)
    expected = [parts[number] for number in range(1, count + 1)]
    assert await ground.store.list_parts(ground.bucket, key, upload_id) == expected
    if ANSWERS[ground.server.name]["Complete, parts under 5 MiB that are not the last"] == TAKEN:
        etag = await ground.complete(key, upload_id, expected)
        assert etag.endswith(f"-{count}")
        whole = b"".join(f"part {number}".encode() for number in range(1, count + 1))
        assert await ground.data(key) == whole


@pytest.mark.long_but_on("memory", "localstack")
async def test_all_pages_of_uploads_are_listed(ground: Ground) -> None:
    """ListMultipartUploads gives 1,000 a page."""
    if ground.server.name == "moto":
        pytest.skip("moto ignores MaxUploads and gives one page, however long")
    count = 1_005
    made: set[tuple[str, str]] = set()
    todo = [f"many/{number // 2:04d}" for number in range(count)]  # most keys have two of them

    async def create() -> None:
        while todo:
            key = todo.pop()
            made.add((key, await ground.create(key)))

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(create)
    assert len(made) == count
    listed = await ground.store.list_uploads(ground.bucket, "many/")
    assert {(upload.key, upload.upload_id) for upload in listed} == made
    assert len(listed) == count


async def test_uploads_are_listed_below_a_prefix(ground: Ground) -> None:
    """Some stores list the uploads of one exact key only; none of these does, unless told to (test_memory)."""
    inside = {key: await ground.create(key) for key in ("p/v1/models/a.riva", "p/v1/source/b.tar.gz")}
    await ground.create("p/v10/models/a.riva")
    for prefix in ("p/v1/", "p/v1/m", "p/v1/models/a.riva"):
        listed = await ground.store.list_uploads(ground.bucket, prefix)
        expected = {key: upload_id for key, upload_id in inside.items() if key.startswith(prefix)}
        assert {upload.key: upload.upload_id for upload in listed} == expected
        assert all(upload.initiated is not None for upload in listed)
    assert len(await ground.store.list_uploads(ground.bucket, "")) == 3
    assert await ground.store.list_uploads(ground.bucket, "q/") == []


async def test_two_uploads_of_one_key_are_told_apart(ground: Ground) -> None:
    key = ground.key()
    _, one, parts = await ground.upload(b"one", key=key)
    _, two, _ = await ground.upload(b"two!", key=key)
    assert one != two
    await ground.store.abort_upload(ground.bucket, key, two)
    assert await ground.store.list_parts(ground.bucket, key, two) is None
    assert await ground.store.list_parts(ground.bucket, key, one) == parts
    await ground.complete(key, one, parts)
    assert await ground.data(key) == b"one"


async def test_an_abort_can_be_said_twice_and_of_nothing(ground: Ground) -> None:
    key, upload_id, _ = await ground.upload(SMALL)
    for _ in range(2):
        await ground.store.abort_upload(ground.bucket, key, upload_id)
        assert await ground.store.list_parts(ground.bucket, key, upload_id) is None
    await ground.store.abort_upload(ground.bucket, key, "no-such-upload")
    assert await ground.store.list_parts(ground.bucket, key, "no-such-upload") is None
    assert await ground.store.list_uploads(ground.bucket, "") == []


async def test_an_abort_after_complete_takes_nothing_away(ground: Ground) -> None:
    key, upload_id, parts = await ground.upload(SMALL)
    await ground.complete(key, upload_id, parts)
    await ground.store.abort_upload(ground.bucket, key, upload_id)
    assert await ground.data(key) == SMALL


async def test_a_refused_complete_leaves_the_upload_open(ground: Ground) -> None:
    """So that it can be completed with the right parts after all."""
    key, upload_id, parts = await ground.upload(SMALL)
    with pytest.raises(RivaStreamError):
        await ground.complete(key, upload_id, [CompletedPart(1, "0" * 32, len(SMALL))])
    assert await ground.store.head(ground.bucket, key) is None
    await ground.complete(key, upload_id, parts)
    assert await ground.data(key) == SMALL


async def test_an_upload_that_is_gone_fences(ground: Ground) -> None:
    """The UploadId is the token: once it is aborted no part and no Complete does anything."""
    key, upload_id, parts = await ground.upload(SMALL)
    await ground.store.abort_upload(ground.bucket, key, upload_id)
    for request in (ground.part(key, upload_id), ground.complete(key, upload_id, parts)):
        with pytest.raises(RivaStreamError) as caught:
            await request
        # moto fails with a 500 of its own, which is tried again in vain; either way it is exit 75
        assert caught.value.exit_code == 75
        assert isinstance(caught.value, HeldError) or ground.server.name == "moto"
    assert await ground.store.head(ground.bucket, key) is None
    assert await ground.store.list_uploads(ground.bucket, "") == []


async def test_a_second_upload_to_the_same_key_wins_by_completing_last(ground: Ground) -> None:
    key = ground.key()
    await ground.put(key, body(b"was there"))
    _, upload_id, parts = await ground.upload(SMALL, key=key)
    assert await ground.data(key) == b"was there"
    await ground.complete(key, upload_id, parts)
    assert await ground.data(key) == SMALL


async def test_a_version_is_told_only_where_there_are_versions(ground: Ground) -> None:
    # moto answers Complete with x-amz-version-id: null, which is S3's word for none
    key, upload_id, parts = await ground.upload(SMALL)
    stored = await ground.store.complete_upload(ground.bucket, key, upload_id, parts, crc64nvme=None)
    put = await ground.store.put(ground.bucket, ground.key(), body(), content_type="a/b", metadata={})
    assert (stored.version_id, put.version_id) == (None, None)


@pytest.mark.parametrize("declared", [False, True])
async def test_copied_parts_become_the_bytes_of_their_source(ground: Ground, declared: bool) -> None:
    copied = await copy_of_parts(ground, declared=declared)
    assert await ground.store.head(ground.bucket, copied.key) is None  # nothing is visible
    listed = await ground.store.list_parts(ground.bucket, copied.key, copied.upload_id)
    assert [(part.number, part.size) for part in listed or ()] == [
        (number, len(part)) for number, part in enumerate(copied.parts, 1)
    ]
    await ground.complete(copied.key, copied.upload_id, copied.completed)
    assert await ground.data(copied.key) == copied.data


async def test_copied_and_sent_parts_go_into_one_object(ground: Ground) -> None:
    sent, source = os.urandom(5 * MIB), os.urandom(6 * MIB)
    source_key, key = ground.key(), ground.key()
    etag = await ground.put(source_key, body(source))
    upload_id = await ground.create(key)
    first = await ground.part(key, upload_id, 1, body(sent))
    asked = CopySource(ground.bucket, source_key, etag, None, 1000, 6 * MIB - 1)
    second = await ground.store.copy_part(ground.bucket, key, upload_id, 2, asked)
    rest = source[1000:]
    parts = [CompletedPart(1, first, len(sent)), CompletedPart(2, second.etag, len(rest))]
    await ground.complete(key, upload_id, parts)
    assert await ground.data(key) == sent + rest
