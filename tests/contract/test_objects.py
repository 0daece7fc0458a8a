"""Objects through the port: put, get, ranges, head, listings, delete, on every store."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

import aioboto3
import pytest

from riva_stream.errors import (
    ConfigurationError,
    HeldError,
    SourceChangedError,
    TransientError,
)
from riva_stream.s3 import StoreSettings, open_store
from tests.contract.enforcement import ANSWERS
from tests.contract.ground import SMALL, TAKEN, Ground, body, crc64nvme, md5
from tests.support.faultproxy import FaultProxy
from tests.support.faults import Reset, Rule
from tests.support.servers import S3Server

pytestmark = pytest.mark.asyncio(loop_scope="session")

METADATA = {"run-id": "130-20260101-000000-deadbeef", "model-name": "parakeet rnnt, en-US"}


@pytest.mark.parametrize("check", ["none", "crc64nvme", "md5", "sha256"])
@pytest.mark.parametrize("data", [b"", SMALL, os.urandom(700_000)], ids=["empty", "small", "of many steps"])
async def test_an_object_comes_back_as_it_was_put(ground: Ground, check: str, data: bytes) -> None:
    key = ground.key("a folder/ä+b")
    etag = await ground.put(
        key, body(data, check), content_type="text/plain; charset=utf-8", metadata=METADATA
    )
    assert etag == md5(data)
    assert await ground.data(key) == data
    info = await ground.store.head(ground.bucket, key)
    assert info is not None
    assert (info.key, info.size, info.etag, info.version_id) == (key, len(data), etag, None)
    assert info.content_type == "text/plain; charset=utf-8"
    assert dict(info.metadata) == METADATA
    assert info.last_modified is not None
    # a checksum that is told is that of the whole object
    assert info.checksums.get("crc64nvme") in {None, crc64nvme(data)}


async def test_a_body_of_many_pieces_is_sent_in_order(ground: Ground) -> None:
    pieces = (b"a" * 10, memoryview(b"b" * 600_000), b"", b"c")
    key, whole = ground.key(), b"".join(pieces)
    await ground.put(key, body(whole).__class__(pieces, len(whole)))
    assert await ground.data(key) == whole


async def test_what_is_missing_is_an_answer_and_no_error(ground: Ground) -> None:
    assert await ground.store.head(ground.bucket, "no/such/key") is None
    assert await ground.store.get(ground.bucket, "no/such/key", limit=1) is None
    await ground.store.delete(ground.bucket, "no/such/key")
    listing = await ground.store.list_objects(ground.bucket, "no/such/")
    assert (list(listing.objects), listing.truncated) == ([], False)


async def test_an_object_that_is_longer_than_expected_is_not_read(ground: Ground) -> None:
    key = ground.key()
    await ground.put(key, body(b"12345"))
    assert await ground.data(key) == b"12345"
    found = await ground.store.get(ground.bucket, key, limit=4)
    assert found is not None
    assert (found.data, found.info.size) == (b"", 5)


@pytest.mark.parametrize("operation", ["PutObject", "DeleteObject", "HeadObject"])
async def test_a_request_is_sent_once_even_when_a_kept_connection_breaks(
    ground: Ground, operation: str
) -> None:
    """HTTP libraries send what is idempotent again by themselves; then nobody looks whether it is still right."""
    server, key = ground.server, ground.key()
    if not isinstance(server, S3Server):
        pytest.skip("there is no connection that could break")
    keys = {"aws_access_key_id": server.access_key, "aws_secret_access_key": server.secret_key}
    rule = Rule(operation, occurrence=2, fault=Reset("request"))
    async with FaultProxy(server, [rule]) as proxy:
        settings = StoreSettings(region=server.region, endpoint_url=proxy.endpoint_url)
        async with open_store(settings, session=aioboto3.Session(**keys), warn=pytest.fail) as store:
            acts: dict[str, Callable[[], Awaitable[object]]] = {
                "PutObject": lambda: Ground(server, store, ground.bucket).put(key),
                "DeleteObject": lambda: store.delete(ground.bucket, key),
                "HeadObject": lambda: store.head(ground.bucket, key),
            }
            await acts[operation]()
            with pytest.raises(TransientError):
                await acts[operation]()
    assert len(proxy.select(operation)) == 2


async def test_a_put_replaces_and_a_delete_removes(ground: Ground) -> None:
    key = ground.key()
    await ground.put(key, body(b"old"))
    etag = await ground.put(key, body(b"new"))
    assert await ground.data(key) == b"new"
    assert etag == md5(b"new")
    for _ in range(2):
        await ground.store.delete(ground.bucket, key)
        assert await ground.store.head(ground.bucket, key) is None


@pytest.mark.parametrize(
    ("first", "last", "told"), [(0, 0, (0, 0)), (3, 7, (3, 7)), (19, 20, (19, 20)), (15, 99, (15, 20))]
)
async def test_a_range_says_which_one_it_is(
    ground: Ground, first: int, last: int, told: tuple[int, int]
) -> None:
    key = ground.key()
    etag = await ground.put(key)
    async with ground.store.get_range(
        ground.bucket, key, first=first, last=last, etag=etag, version_id=None
    ) as reply:
        got = b"".join([piece async for piece in reply.pieces])
    assert got == SMALL[first : last + 1]
    assert (reply.status, reply.etag) == (206, etag)
    assert reply.content_range == f"bytes {told[0]}-{told[1]}/{len(SMALL)}"
    assert reply.content_length == told[1] - told[0] + 1


async def test_a_range_of_another_object_is_a_changed_source(ground: Ground) -> None:
    key = ground.key()
    etag = await ground.put(key, body(b"old bytes"))
    await ground.put(key, body(b"new bytes"))
    with pytest.raises(SourceChangedError) as caught:
        await ground.range(key, 0, 3, etag)
    assert (caught.value.where.status, caught.value.where.byte_range) == (412, (0, 3))
    with pytest.raises(SourceChangedError):  # shorter now: the range begins after its end
        await ground.range(key, 100, 103, md5(b"new bytes"))


async def test_a_range_that_is_left_early_leaves_the_client_of_use(ground: Ground) -> None:
    key, data = ground.key(), os.urandom(3 << 20)
    etag = await ground.put(key, body(data))
    for _ in range(20):  # more often than there are connections
        async with ground.store.get_range(
            ground.bucket, key, first=0, last=len(data) - 1, etag=etag, version_id=None
        ) as reply:
            async for piece in reply.pieces:
                assert data.startswith(piece)
                break
    assert await ground.range(key, 0, 9, etag) == data[:10]


async def test_a_listing_comes_in_pages_by_key(ground: Ground) -> None:
    names = [f"p/{n:02d}" for n in range(7)]
    for name in [*names, "pp/00", "o/00"]:
        await ground.put(name, body(name.encode()))
    first = await ground.store.list_objects(ground.bucket, "p/", limit=3)
    assert ([entry.key for entry in first.objects], first.truncated) == (names[:3], True)
    assert [(entry.size, entry.etag) for entry in first.objects] == [(4, md5(n.encode())) for n in names[:3]]
    second = await ground.store.list_objects(ground.bucket, "p/", limit=4, after=names[2])
    assert ([entry.key for entry in second.objects], second.truncated) == (names[3:], False)
    # "after" need not be a key that is there
    third = await ground.store.list_objects(ground.bucket, "p/", after="p/045")
    assert [entry.key for entry in third.objects] == names[5:]
    everything = await ground.store.list_objects(ground.bucket, "")
    assert [entry.key for entry in everything.objects] == sorted([*names, "pp/00", "o/00"])


async def test_a_folder_is_listed_without_a_look_into_its_folders(ground: Ground) -> None:
    files = [f"p/f{n}" for n in range(3)]
    for name in [*files, *(f"p/d{n}/{m}/x" for n in range(5) for m in range(3)), "pp/x", "o/x"]:
        await ground.put(name, body(name.encode()))
    whole = await ground.store.list_folder(ground.bucket, "p/")
    assert list(whole.names) == [f"p/d{n}/" for n in range(5)]
    assert [(entry.key, entry.size) for entry in whole.objects] == [(name, 4) for name in files]
    assert whole.token == ""
    assert whole.now is not None
    assert whole.now.tzinfo is not None
    names: list[str] = []
    keys: list[str] = []
    token, pages = "", 0
    while True:
        page = await ground.store.list_folder(ground.bucket, "p/", limit=2, token=token)
        names += page.names
        keys += [entry.key for entry in page.objects]
        token, pages = page.token, pages + 1
        if not token:
            break
    assert (names, keys) == ([f"p/d{n}/" for n in range(5)], files)
    assert pages >= 4
    top = await ground.store.list_folder(ground.bucket, "")
    assert list(top.names) == ["o/", "p/", "pp/"]


async def test_a_listing_tells_odd_keys_as_they_are(ground: Ground) -> None:
    odd = ["x/ä ö", "x/a+b%20c", "x/a&b<c>", "x/~.-_'()"]
    for name in odd:
        await ground.put(name)
    listing = await ground.store.list_objects(ground.bucket, "x/")
    assert sorted(entry.key for entry in listing.objects) == sorted(odd)


async def test_a_put_if_absent_replaces_nothing_where_the_store_can_tell(ground: Ground) -> None:
    key = ground.key()
    await ground.put(key, body(b"first"), if_absent=True)
    if ANSWERS[ground.server.name]["PUT, If-None-Match: *, the key is there"] == TAKEN:
        await ground.put(key, body(b"second"), if_absent=True)
        assert await ground.data(key) == b"second"
        return
    with pytest.raises(HeldError) as caught:
        await ground.put(key, body(b"second"), if_absent=True)
    assert (caught.value.where.status, caught.value.exit_code) == (412, 75)
    assert await ground.data(key) == b"first"


async def test_a_put_if_match_replaces_only_what_it_names_where_the_store_can_tell(ground: Ground) -> None:
    key = ground.key()
    etag = await ground.put(key, body(b"first"))
    named: dict[str, Any] = {"if_match": etag}
    await ground.put(key, body(b"second"), **named)
    if ANSWERS[ground.server.name]["PUT, If-Match, another ETag"] == TAKEN:
        await ground.put(key, body(b"third"), **named)
        assert await ground.data(key) == b"third"
        return
    with pytest.raises(HeldError):
        await ground.put(key, body(b"third"), **named)
    assert await ground.data(key) == b"second"
    await ground.store.delete(ground.bucket, key)
    with pytest.raises(HeldError):  # gone: another run has removed it
        await ground.put(key, body(b"third"), **named)
    assert await ground.store.head(ground.bucket, key) is None


async def test_every_operation_names_a_bucket_that_is_missing(opened: Ground) -> None:
    store, bucket = opened.store, opened.bucket
    options: dict[str, Any] = {"content_type": "a/b", "metadata": {}}
    requests = {
        "GetObject": lambda: store.get(bucket, "k", limit=1),
        "PutObject": lambda: store.put(bucket, "k", body(), **options),
        "ListObjectsV2": lambda: store.list_objects(bucket, ""),
        "ListObjectsV2 ": lambda: store.list_folder(bucket, ""),
        "DeleteObject": lambda: store.delete(bucket, "k"),
        "CreateMultipartUpload": lambda: store.create_upload(bucket, "k", crc64nvme=False, **options),
        "ListMultipartUploads": lambda: store.list_uploads(bucket, ""),
    }
    for operation, request in requests.items():
        with pytest.raises(ConfigurationError, match=f"no bucket {bucket}") as caught:
            await request()  # type: ignore[no-untyped-call]
        assert caught.value.where.operation == operation.strip()
        assert caught.value.exit_code == 78
    # HEAD has no body to say it in
    assert await store.head(bucket, "k") is None
