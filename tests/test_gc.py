"""`gc`: what dead runs left goes, what live runs hold stays."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from riva_stream import ConfigurationError, StoreSettings, stage
from riva_stream.cli import main
from riva_stream.inspection.gc import collect
from riva_stream.layout import JOURNAL
from riva_stream.report import CollectReport
from riva_stream.s3 import OpenUpload, PartBody
from riva_stream.s3.memory import MemoryStore
from riva_stream.sizes import MIB
from tests.cli_processes import run
from tests.copying import Watched, asked, made
from tests.staging import PREFIX, Place, put_credentials
from tests.support.faultproxy import FaultProxy, Rule
from tests.support.faults import Gate, Refuse, Stall
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
    argv = ("riva_stream", "gc", f"s3://{place.bucket}/prod/", "--older-than", "0s")

    def call(*flags: str) -> subprocess.CompletedProcess[str]:
        return run(*argv, *flags, timeout=60)

    listed = await asyncio.to_thread(call)
    assert listed.returncode == 0, listed.stderr
    assert "--yes removes them" in listed.stdout
    done = await asyncio.to_thread(call, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert all(entry["removed"] for entry in json.loads(done.stdout)["found"])
    place.assert_nothing_left()


@pytest.fixture
def on_moto(moto: S3Server, moto_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    put_credentials(moto, monkeypatch)
    return Place(moto, moto_bucket)


def begin_uploads(place: Place, *prefixes: str) -> None:
    for prefix in prefixes:
        place.client.create_multipart_upload(Bucket=place.bucket, Key=f"{prefix}/models/x.riva")


@pytest.mark.parametrize("prefix", ["prod/n/v1", "prod/n/v1/", "prod//n/v1"])
def test_one_version_does_not_stand_for_those_whose_names_begin_alike(prefix: str, on_moto: Place) -> None:
    begin_uploads(on_moto, "prod/n/v1", "prod/n/v10")
    assert main(["gc", f"s3://{on_moto.bucket}/{prefix}", "--older-than", "0", "--yes", "--quiet"]) == 0
    assert on_moto.open_uploads() == ["prod/n/v10/models/x.riva"]


async def test_the_library_does_not_take_names_that_begin_alike_either(on_moto: Place) -> None:
    begin_uploads(on_moto, "prod/n/v1", "prod/n/v10")
    settings = StoreSettings(region=on_moto.server.region, endpoint_url=on_moto.server.endpoint_url)
    await collect(settings, on_moto.bucket, "prod/n/v1", older_than=0.0, lease=0.3, apply=True)
    assert on_moto.open_uploads() == ["prod/n/v10/models/x.riva"]


@pytest.mark.parametrize("prefix", ["prod/n/v1/models", "prod/n/v1/models/", "prod/n/v1/.riva-stream"])
async def test_a_part_of_a_staging_is_refused(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its journal and its uploads elsewhere went, too."""
    store = MemoryStore("staging")
    for folder in ("models", "source"):
        await store.create_upload(
            "staging", f"prod/n/v1/{folder}/x.riva", content_type="a/b", metadata={}, crc64nvme=False
        )

    @asynccontextmanager
    async def opened(*_: object, **__: object) -> AsyncIterator[MemoryStore]:
        yield store

    monkeypatch.setattr("riva_stream.inspection.gc.open_store", opened)
    with pytest.raises(ConfigurationError):
        await collect(StoreSettings(), "staging", prefix, older_than=0.0, lease=0.3, apply=True)
    assert len(store.open_uploads("staging")) == 2
    await collect(StoreSettings(), "staging", "prod/n/v1", older_than=0.0, lease=0.3, apply=True)
    assert store.open_uploads("staging") == []


@pytest.mark.parametrize("dated", [True, False])
async def test_what_a_young_journal_names_is_young(dated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of more than a day was interrupted a moment ago: its uploads are as old as it is, and of use.

    Some stores do not tell when an upload was begun.
    """

    class Undated(Watched):
        async def list_uploads(self, bucket: str, prefix: str) -> Sequence[OpenUpload]:
            found = await super().list_uploads(bucket, prefix)
            return found if dated else [replace(upload, initiated=None) for upload in found]

    store, model = Undated(), made("tar.gz")
    await store.put_source(model.key, model.data)
    store.set_clock(lambda: datetime.now(UTC) - timedelta(days=1, hours=1))
    begun = asyncio.Event()

    async def hang(*_: Any) -> Any:
        begun.set()
        await asyncio.sleep(60)

    monkeypatch.setattr(store, "upload_part", hang)
    task = asyncio.ensure_future(stage(asked(model, source_copy="send", lease=1.0), store=store))
    await begun.wait()
    store.set_clock(lambda: datetime.now(UTC))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    @asynccontextmanager
    async def opened(*_: object, **__: object) -> AsyncIterator[MemoryStore]:
        yield store

    monkeypatch.setattr("riva_stream.inspection.gc.open_store", opened)
    place, uploads = asked(model), store.open_uploads(asked(model).bucket)
    assert uploads
    for age, left in ((86400.0, len(uploads)), (0.0, 0)):
        report = await collect(
            StoreSettings(), place.bucket, place.prefix, older_than=age, lease=1.0, apply=True
        )
        assert {found.old for found in report.found} == {not left}
        assert len(store.open_uploads(place.bucket)) == left


@pytest.mark.parametrize("ahead", [timedelta(days=-2), timedelta(days=2)])
async def test_an_age_is_told_by_the_stores_clock(ahead: timedelta, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose clock is two days fast took uploads of this minute for old; one whose clock is slow, old ones for young."""
    store = MemoryStore("deploy")

    @asynccontextmanager
    async def opened(*_: object, **__: object) -> AsyncIterator[MemoryStore]:
        yield store

    monkeypatch.setattr("riva_stream.inspection.gc.open_store", opened)
    behind = [ahead + timedelta(hours=25)]
    store.set_clock(lambda: datetime.now(UTC) - behind[0])
    for name in ("old", "young"):
        key = f"prod/n/v1/models/{name}.riva"
        await store.create_upload("deploy", key, content_type="a/b", metadata={}, crc64nvme=False)
        behind[0] = ahead
    report = await collect(StoreSettings(), "deploy", "prod/n/v1/", older_than=86400.0, lease=0.3, apply=True)
    assert {found.key.rpartition("/")[2]: found.removed for found in report.found} == {
        "old.riva": True,
        "young.riva": False,
    }
    assert [upload.key for upload in store.open_uploads("deploy")] == ["prod/n/v1/models/young.riva"]


async def test_a_journal_that_another_run_has_replaced_is_not_reported_as_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other one's journal stood, and the report said that it was gone."""
    store, model = Watched(), made("tar.gz")
    await store.put_source(model.key, model.data)
    theirs = b""

    async def hang(*_: Any) -> Any:
        begun.set()
        await asyncio.sleep(60)

    begun = asyncio.Event()
    with monkeypatch.context() as patch:
        patch.setattr(store, "upload_part", hang)
        task = asyncio.ensure_future(stage(asked(model, source_copy="send", lease=1.0), store=store))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    place = asked(model)
    key = place.prefix + JOURNAL
    delete = store.delete

    async def overtaken(bucket: str, at: str, **options: Any) -> Any:
        nonlocal theirs
        if at == key and not theirs:
            found = await store.get(bucket, key, limit=1 << 20)
            assert found is not None
            told = json.loads(found.data) | {"token": "b" * 32, "stopped": False}
            theirs = json.dumps(told).encode()
            await store.put(bucket, key, PartBody((theirs,), len(theirs)), content_type="a/b", metadata={})
        return await delete(bucket, at, **options)

    monkeypatch.setattr(store, "delete", overtaken)

    @asynccontextmanager
    async def opened(*_: object, **__: object) -> AsyncIterator[MemoryStore]:
        yield store

    monkeypatch.setattr("riva_stream.inspection.gc.open_store", opened)
    report = await collect(StoreSettings(), place.bucket, place.prefix, older_than=0.0, lease=1.0, apply=True)
    assert theirs
    assert [found.removed for found in report.found if found.kind == "journal"] == [False]
    assert store.look(place.bucket, key).data == theirs  # type: ignore[union-attr]


async def test_a_store_that_lists_too_much_costs_nobody_an_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lax(MemoryStore):
        async def list_uploads(self, bucket: str, prefix: str) -> Sequence[OpenUpload]:
            return await super().list_uploads(bucket, "")

    store = Lax("deploy")
    for version in ("v1", "v2"):
        key = f"prod/n/{version}/models/x.riva"
        await store.create_upload("deploy", key, content_type="a/b", metadata={}, crc64nvme=False)

    @asynccontextmanager
    async def opened(*_: Any, **__: Any) -> AsyncIterator[MemoryStore]:
        yield store

    monkeypatch.setattr("riva_stream.inspection.gc.open_store", opened)
    report = await collect(StoreSettings(), "deploy", "prod/n/v1/", older_than=0.0, lease=0.3, apply=True)
    assert [left.key for left in report.found] == ["prod/n/v1/models/x.riva"]
    assert [upload.key for upload in store.open_uploads("deploy")] == ["prod/n/v2/models/x.riva"]


@pytest.mark.parametrize("name", [".riva-stream/probe", "staging_complete.txt"])
async def test_what_no_journal_names_is_found_where_uploads_are_listed_by_exact_key(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Watched(is_aws=False, list_uploads_by="exact")
    model = made("tar.gz")
    await store.put_source(model.key, model.data)
    report = await stage(asked(model), store=store)
    prefix = report.destination.removeprefix("s3://staging/")
    await store.create_upload("staging", prefix + name, content_type="a/b", metadata={}, crc64nvme=False)

    @asynccontextmanager
    async def opened(*_: Any, **__: Any) -> AsyncIterator[MemoryStore]:
        yield store

    monkeypatch.setattr("riva_stream.inspection.gc.open_store", opened)
    found = await collect(StoreSettings(), "staging", "", older_than=0.0, lease=0.3, apply=True)
    assert [(left.key, left.removed) for left in found.found] == [(prefix + name, True)]
    assert store.open_uploads("staging") == []


def test_an_age_beyond_the_calendar_is_refused(on_moto: Place, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["gc", f"s3://{on_moto.bucket}/", "--older-than", "1000000d", "--quiet"]) == 2
    assert "--older-than: '1000000d' is not a duration" in capfd.readouterr().err


@pytest.mark.parametrize("operation", ["AbortMultipartUpload", "PutObject"])
async def test_what_may_not_be_removed_is_no_success(
    operation: str, on_moto: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    begin_uploads(on_moto, "prod/n/v1")
    rule = Rule(operation, occurrence="every", fault=Refuse("AccessDenied"))
    async with FaultProxy(on_moto.server, [rule]) as proxy:
        words = ["gc", f"s3://{on_moto.bucket}/", "--older-than", "0", "--yes", "--json", "--quiet"]
        code = await asyncio.to_thread(main, [*words, "--endpoint-url", proxy.endpoint_url])
    told = json.loads(capfd.readouterr().out)
    assert [entry["removed"] for entry in told["found"]] == [False]
    assert (code, told["exit_code"], told["error"]["type"]) == (77, 77, "AccessDeniedError")


@pytest.mark.parametrize("also", [False, True])
async def test_where_it_may_not_look_it_does_not_say_that_nothing_is_left(
    also: bool, on_moto: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    on_moto.put(f"prod/n/v1/{JOURNAL}", b"{}")
    if also:
        begin_uploads(on_moto, "prod/n/v2")
    rule = Rule("GetObject", key="prod/n/v1/*", occurrence="every", fault=Refuse("AccessDenied"))
    async with FaultProxy(on_moto.server, [rule]) as proxy:
        words = ["gc", f"s3://{on_moto.bucket}/", "--older-than", "0", "--yes", "--quiet"]
        code = await asyncio.to_thread(main, [*words, "--endpoint-url", proxy.endpoint_url])
    told = capfd.readouterr().out
    assert "nothing is left" not in told
    assert f"could not be inspected: s3://{on_moto.bucket}/prod/n/v1/" in told
    assert code == 77
    assert on_moto.open_uploads() == []  # what it may do, it has done
