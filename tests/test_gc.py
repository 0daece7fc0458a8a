"""`gc`: what dead runs left goes, what live runs hold stays."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import pytest

from riva_stream import StoreSettings, stage
from riva_stream.layout import JOURNAL
from riva_stream.pipeline.collect import collect
from riva_stream.report import CollectReport
from riva_stream.sizes import MIB
from tests.staging import PREFIX, Place, put_credentials
from tests.support.faultproxy import FaultProxy, Rule
from tests.support.faults import Gate, Stall
from tests.support.servers import S3Server


@pytest.fixture
def place(s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    put_credentials(s3_server, monkeypatch)
    return Place(s3_server, bucket)


async def run_gc(place: Place, **options: Any) -> CollectReport:
    settings = StoreSettings(region=place.server.region, endpoint_url=place.server.endpoint_url)
    given = {"older_than": 0.0, "lease": 0.3, "apply": True} | options
    return await collect(settings, place.bucket, options.pop("prefix", "prod/"), **given)


async def stopped_run(place: Place) -> None:
    """Leave the uploads and the journal of a run that was cancelled."""
    gate = Gate()
    rule = Rule("UploadPart", key="*/source/*", occurrence=2, fault=Stall("request", gate=gate))
    async with FaultProxy(place.server, [rule]) as proxy:
        run = asyncio.create_task(stage(place.request(part_size=5 * MIB, endpoint_url=proxy.endpoint_url)))
        await gate.reached()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        gate.release()


async def test_it_lists_first_and_removes_on_request(place: Place) -> None:
    place.source(12 * MIB)
    await stopped_run(place)
    left = len(place.open_uploads())
    assert left >= 1  # of the archive, and of a model where one was come to
    listed = await run_gc(place, apply=False)
    assert len([entry for entry in listed.found if entry.kind == "upload"]) == left
    assert not any(entry.removed or entry.held for entry in listed.found)
    assert len(place.open_uploads()) == left
    removed = await run_gc(place)
    assert all(entry.removed for entry in removed.found)
    place.assert_nothing_left()
    assert (await run_gc(place)).found == []


async def test_the_lease_is_renewed_between_removals(place: Place) -> None:
    place.source(12 * MIB)
    await stopped_run(place)
    # so short that each removal comes when it is nearly over
    report = await run_gc(place, lease=0.001)
    assert report.found
    assert all(entry.removed for entry in report.found)
    place.assert_nothing_left()


async def test_what_is_younger_stays(place: Place) -> None:
    place.source(12 * MIB)
    await stopped_run(place)
    report = await run_gc(place, older_than=3600.0)
    # moto says of every upload that it was begun in 2010; its journals have their real time
    kinds = {"journal"} if place.server.name == "moto" else {"journal", "upload"}
    found = [entry for entry in report.found if entry.kind in kinds]
    assert not any(entry.old for entry in found)
    # and a journal goes, whatever its age, once nothing is left that it names
    assert not any(entry.removed for entry in report.found) or place.server.name == "moto"
    assert PREFIX + JOURNAL in {entry.key for entry in found}


async def test_uploads_of_other_programs_stay(place: Place) -> None:
    """Only keys of the layout can be ours, also below a staging's prefix."""
    place.source(12 * MIB)
    await stopped_run(place)
    others = sorted([PREFIX + "notes/a.bin", PREFIX + "models/old/a.riva", "prod/a.bin"])
    for key in others:
        place.client.create_multipart_upload(Bucket=place.bucket, Key=key)
    report = await run_gc(place)
    assert report.found
    assert not {entry.key for entry in report.found} & set(others)
    assert place.names() == []
    assert sorted(place.open_uploads()) == others


async def test_what_a_live_run_holds_stays(place: Place) -> None:
    archive, data = place.source(12 * MIB)
    gate = Gate()
    rule = Rule("UploadPart", key="*/source/*", occurrence=2, fault=Stall("request", gate=gate))
    async with FaultProxy(place.server, [rule]) as proxy:
        run = asyncio.create_task(
            stage(place.request(part_size=5 * MIB, lease=0.6, endpoint_url=proxy.endpoint_url))
        )
        await gate.reached()
        report = await run_gc(place)
        assert report.found
        assert all(entry.held and not entry.removed for entry in report.found)
        gate.release()
        await run
    place.assert_staged(archive, data)


async def test_the_command_line_shows_and_removes(place: Place) -> None:
    place.source(12 * MIB)
    await stopped_run(place)
    command = [sys.executable, "-m", "riva_stream", "gc", f"s3://{place.bucket}/prod/", "--older-than", "0s"]

    def call(*flags: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *flags], capture_output=True, text=True, check=False, timeout=60)

    listed = await asyncio.to_thread(call)
    assert listed.returncode == 0, listed.stderr
    assert "--yes removes them" in listed.stdout
    done = await asyncio.to_thread(call, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert all(entry["removed"] for entry in json.loads(done.stdout)["found"])
    place.assert_nothing_left()
