"""Promotions on real servers: what each makes of them, counted on the wire, and held against ``sha256sum``."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from riva_stream import PromoteRequest, promote, stage
from riva_stream.sizes import MIB
from tests.staging import PREFIX, Place, put_credentials
from tests.support.faultproxy import FaultProxy, Rule
from tests.support.faults import Refuse
from tests.support.servers import S3Server
from tests.test_copies_on_servers import PART, sent

HOW = {"gateway": "multipart-etag", "seaweedfs": "crc64nvme"}
"""By what copies are proven; those of the others cannot be."""


@pytest.fixture
def place(copying_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Place:
    put_credentials(copying_server, monkeypatch)
    return Place(copying_server, copying_server.new_bucket())


def places_of(place: Place) -> tuple[str, str]:
    other = place.server.new_bucket("other")
    return f"s3://{place.bucket}/live/parakeet/v1/", f"s3://{other}/live/parakeet/v2/"


def asked(place: Place, to: tuple[str, ...], endpoint: str, **fields: Any) -> PromoteRequest:
    source = f"s3://{place.bucket}/{PREFIX}"
    return PromoteRequest(
        source=source, to=to, endpoint_url=endpoint, region="us-east-1", part_size=PART, **fields
    )


def downloaded(place: Place, uri: str, folder: Path) -> str:
    """What ``sha256sum -c`` says of a download of what lies at ``uri``."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    for name in place.names(prefix) if bucket == place.bucket else Place(place.server, bucket).names(prefix):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(place.client.get_object(Bucket=bucket, Key=prefix + name)["Body"].read())
    done = subprocess.run(
        ["sha256sum", "-c", "checksums.sha256"], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


async def test_promoted_to_two_places_each_as_its_checksums_say(place: Place, tmp_path: Path) -> None:
    place.source(12 * MIB, members=2)
    await stage(place.request(part_size=PART))
    to = places_of(place)
    with FaultProxy(place.server).in_thread() as proxy:
        report = await promote(asked(place, to, proxy.endpoint_url))
        gone_out = sent(proxy)
    assert [found.exit_code for found in report.places] == [0, 0]
    how = HOW.get(place.server.name, "sent")
    for uri, found in zip(to, report.places, strict=True):
        assert found.report is not None
        assert found.report.artifact is not None
        assert found.report.artifact.validation.source_copy == how
        folder = tmp_path / uri.rpartition("/v")[2]
        folder.mkdir()
        assert downloaded(place, uri, folder).count(": OK") == 3
    assert bool(gone_out.copies) == (gone_out.bytes == 0) == (how != "sent")


async def test_a_copy_that_is_refused_on_the_way_is_sent(place: Place) -> None:
    place.source(12 * MIB, members=1)
    await stage(place.request(part_size=PART))
    to = places_of(place)[:1]
    refuse = Rule("UploadPartCopy", key="*/models/*", occurrence="every", fault=Refuse("NotImplemented"))
    with FaultProxy(place.server, [refuse]).in_thread() as proxy:
        report = await promote(asked(place, to, proxy.endpoint_url))
    found = report.places[0].report
    assert found is not None, report.places[0].error
    assert found.artifact is not None
    assert found.artifact.validation.source_copy == "sent"
    if place.server.name in HOW:  # it was to be copied
        assert [warning for warning in found.warnings if "sent" in warning.message]
