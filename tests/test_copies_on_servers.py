"""Copies in the store on real servers: what each makes of them, counted on the wire."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass
from typing import Any

import pytest
from isal import isal_zlib

from riva_stream import ConfigurationError, SourceChangedError, stage
from riva_stream.pipeline import copies
from riva_stream.sizes import MIB
from tests.staging import PREFIX, SOURCE_KEY, Place, put_credentials
from tests.support.archives import archive_bytes, riva_bytes
from tests.support.faultlog import Record
from tests.support.faultproxy import FaultProxy, Hook, Rule
from tests.support.faults import Refuse
from tests.support.iam import Enforce
from tests.support.servers import S3Server
from tests.test_policy import flags_of, printed

PART = 5 * MIB


@dataclass(frozen=True, slots=True)
class Sent:
    """Bytes of the archive and its models that went out, and how many parts were copied."""

    bytes: int
    copies: int


def sent(proxy: FaultProxy) -> Sent:
    payload = [r for folder in ("source", "models") for r in proxy.select("UploadPart", f"*/{folder}/*")]
    copied = [r for folder in ("source", "models") for r in proxy.select("UploadPartCopy", f"*/{folder}/*")]
    return Sent(sum(record.forwarded for record in payload), len(copied))


@pytest.fixture
def place(copying_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Place:
    put_credentials(copying_server, monkeypatch)
    # As many parts as a small archive can have.
    monkeypatch.setattr(copies, "LEAST_COPY", PART)
    return Place(copying_server, copying_server.new_bucket())


def put_in_parts(place: Place, data: bytes, size: int = PART) -> None:
    target = {"Bucket": place.bucket, "Key": SOURCE_KEY}
    upload = target | {"UploadId": place.client.create_multipart_upload(**target)["UploadId"]}
    parts = []
    for number, at in enumerate(range(0, len(data), size), 1):
        etag = place.client.upload_part(**upload, PartNumber=number, Body=data[at : at + size])["ETag"]
        parts.append({"PartNumber": number, "ETag": etag})
    place.client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})


def validation(place: Place) -> dict[str, Any]:
    return dict(json.loads(place.read(PREFIX + "artifact.json"))["validation"])


HOW = {
    "moto": ("sent", "sent"),
    "gateway": ("plain-etag", "multipart-etag"),
    "localstack": ("sent", "sent"),
    "seaweedfs": ("crc64nvme", "crc64nvme"),
}
"""Of a source that was put whole, and of one that was uploaded in parts."""


@pytest.mark.parametrize("in_parts", [False, True])
async def test_an_archive_is_copied_where_that_is_proven(place: Place, in_parts: bool) -> None:
    data, archive = archive_bytes(13 * MIB, members=2)
    if in_parts:
        put_in_parts(place, data)
    else:
        place.put(SOURCE_KEY, data)
    async with FaultProxy(place.server) as proxy:
        request = place.request(source_copy="auto", part_size=PART, endpoint_url=proxy.endpoint_url)
        await stage(request)
        went = sent(proxy)
    place.assert_staged(archive, data)
    how = HOW[place.server.name][in_parts]
    told = validation(place)
    assert told["source_copy"] == how
    assert bool(told["source_copy_reason"]) == (how == "sent")
    models = sum(member.size for member in archive.rivas)
    assert went.bytes == models + (len(data) if how == "sent" else 0)
    assert went.copies == {"sent": 0, "plain-etag": 1}.get(how, -(-len(data) // PART))


async def test_of_a_plain_tar_nothing_goes_out_where_ranges_are_proven(place: Place) -> None:
    packed, archive = archive_bytes(13 * MIB, members=2)
    data = isal_zlib.decompress(packed, wbits=31)
    key = SOURCE_KEY.removesuffix(".gz")
    place.put(key, data)
    models = sum(member.size for member in archive.rivas)
    async with FaultProxy(place.server) as proxy:
        source = f"s3://{place.bucket}/{key}"
        request = place.request(
            source=source, source_copy="auto", part_size=PART, endpoint_url=proxy.endpoint_url
        )
        await stage(request)
        went = sent(proxy).bytes
    expected = {"gateway": models, "seaweedfs": 0}
    assert went == expected.get(place.server.name, models + len(data))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in archive.rivas:
            (name,) = [name for name in tar.getnames() if name.endswith(member.basename)]
            extracted = tar.extractfile(name)
            assert extracted is not None
            assert place.read(f"{PREFIX}models/{member.basename}") == extracted.read()


async def test_a_bare_model_is_copied(place: Place) -> None:
    data = riva_bytes(11 * MIB)
    place.put("in/model.riva", data)
    async with FaultProxy(place.server) as proxy:
        source = f"s3://{place.bucket}/in/model.riva"
        await stage(
            place.request(source=source, source_copy="auto", part_size=PART, endpoint_url=proxy.endpoint_url)
        )
        went = sent(proxy).bytes
    assert place.read(PREFIX + "models/model.riva") == data
    assert went == (len(data) if HOW[place.server.name][0] == "sent" else 0)


async def test_the_store_shall_copy_or_the_run_ends(place: Place) -> None:
    data, archive = archive_bytes(6 * MIB)
    place.put(SOURCE_KEY, data)
    request = place.request(source_copy="store", part_size=PART)
    if HOW[place.server.name][0] == "sent":
        with pytest.raises(ConfigurationError):
            await stage(request)
        place.assert_nothing_left()
    else:
        await stage(request)
        place.assert_staged(archive, data)
        assert validation(place)["source_copy"] == HOW[place.server.name][0]


@pytest.mark.gateway
@pytest.mark.parametrize("copying_server", ["gateway"], indirect=True)
async def test_ranges_are_hashed_where_only_the_store_may_copy(place: Place) -> None:
    packed, archive = archive_bytes(13 * MIB, members=2)
    data = isal_zlib.decompress(packed, wbits=31)
    key = SOURCE_KEY.removesuffix(".gz")
    place.put(key, data)
    async with FaultProxy(place.server) as proxy:
        source = f"s3://{place.bucket}/{key}"
        await stage(
            place.request(source=source, source_copy="store", part_size=PART, endpoint_url=proxy.endpoint_url)
        )
        assert sent(proxy).bytes == 0
    for member in archive.rivas:
        assert place.head(f"{PREFIX}models/{member.basename}")["ContentLength"] == member.size


@pytest.mark.gateway
@pytest.mark.parametrize("copying_server", ["gateway"], indirect=True)
async def test_copying_takes_no_right_that_is_not_printed(place: Place) -> None:
    data, archive = archive_bytes(13 * MIB)
    put_in_parts(place, data)
    policy = printed(*flags_of(place.request()))
    async with FaultProxy(place.server, [Enforce(policy=policy)]) as proxy:
        await stage(place.request(source_copy="store", part_size=PART, endpoint_url=proxy.endpoint_url))
        assert not [record for record in proxy.log if record.faults]
        assert sent(proxy).copies == 3
    place.assert_staged(archive, data)


@pytest.mark.gateway
@pytest.mark.parametrize("copying_server", ["gateway"], indirect=True)
async def test_a_source_that_is_replaced_between_two_copies_ends_the_run(place: Place) -> None:
    data, _ = archive_bytes(13 * MIB)
    put_in_parts(place, data)
    replaced: list[str] = []

    def replace(record: Record) -> None:
        if not replaced and "/source/" in record.key:
            replaced.append(place.put(SOURCE_KEY, data[:-1] + b"x"))

    hook = Hook(replace, operation="UploadPartCopy")
    async with FaultProxy(place.server, hooks=[hook]) as proxy:
        with pytest.raises(SourceChangedError):
            await stage(place.request(source_copy="auto", part_size=PART, endpoint_url=proxy.endpoint_url))
    assert replaced
    place.assert_nothing_left()


@pytest.mark.gateway
@pytest.mark.parametrize("copying_server", ["gateway"], indirect=True)
@pytest.mark.parametrize("executed", [False, True])
async def test_an_error_inside_of_a_200_is_an_error(place: Place, executed: bool) -> None:
    data, archive = archive_bytes(13 * MIB)
    put_in_parts(place, data)
    fault = Refuse("InternalError", status=200, executed=executed)
    rule = Rule("UploadPartCopy", key="*/source/*", occurrence=2, fault=fault)
    async with FaultProxy(place.server, [rule]) as proxy:
        await stage(place.request(source_copy="auto", part_size=PART, endpoint_url=proxy.endpoint_url))
        assert sent(proxy).copies == 4
    place.assert_staged(archive, data)
    assert validation(place)["source_copy"] == "multipart-etag"
