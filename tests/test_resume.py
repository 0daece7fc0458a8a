"""Resuming a run that stopped, and never two runs on one prefix."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from riva_stream import HeldError, IntegrityError, StageReport, StoreSettings, TransientError, stage
from riva_stream.events import Event, Watching
from riva_stream.inspection.status import status
from riva_stream.layout import JOURNAL
from riva_stream.sizes import MIB
from tests.staging import PREFIX, SOURCE_KEY, Place, put_credentials
from tests.support.faultlog import Record
from tests.support.faultproxy import FaultProxy, Hook, Rule
from tests.support.faults import Gate, Refuse, Reset, Stall
from tests.support.servers import S3Server

PART = 5 * MIB


@pytest.fixture
def place(s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    put_credentials(s3_server, monkeypatch)
    return Place(s3_server, bucket)


def request(place: Place, **fields: Any) -> Any:
    return place.request(**{"part_size": PART, "lease": 0.6, "connections": 2} | fields)


async def stopped_at(place: Place, rule: Callable[[Gate], Rule], **fields: Any) -> FaultProxy:
    """Start a run, cancel it when a request stands at the gate, and give the proxy with its log."""
    gate = Gate()
    async with FaultProxy(place.server, [rule(gate)]) as proxy:
        run = asyncio.create_task(stage(request(place, endpoint_url=proxy.endpoint_url, **fields)))
        await gate.reached()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        gate.release()
    return proxy


async def finished(place: Place, **fields: Any) -> tuple[StageReport, FaultProxy]:
    async with FaultProxy(place.server) as proxy:
        report = await stage(request(place, endpoint_url=proxy.endpoint_url, **fields))
    return report, proxy


def at(operation: str, occurrence: int, key: str = "*") -> Callable[[Gate], Rule]:
    return lambda gate: Rule(operation, key=key, occurrence=occurrence, fault=Stall("request", gate=gate))


def parts(proxy: FaultProxy) -> list[Any]:
    return [*proxy.select("UploadPart", "*/source/*"), *proxy.select("UploadPart", "*/models/*")]


def sent(proxy: FaultProxy) -> int:
    """Bytes of the archive and its models that reached the store."""
    return sum(record.forwarded for record in parts(proxy))


def resumed(report: StageReport) -> bool:
    return any(warning.code == "resume" for warning in report.warnings)


async def test_what_the_store_has_is_not_sent_again(place: Place) -> None:
    archive, data = place.source(38 * MIB, members=2)
    total = len(data) + sum(member.size for member in archive.rivas)
    first = await stopped_at(place, at("UploadPart", 7, "*/source/*"))
    acknowledged = sum(record.forwarded for record in parts(first) if record.status == 200)
    # six went before the seventh, and with two connections one of them at most is under way still
    assert acknowledged >= 5 * PART
    report, second = await finished(place)
    assert report.outcome == "staged"
    assert resumed(report)
    # an answer that was under way when the run was cancelled is not known to it: its part goes again
    assert total - acknowledged <= sent(second) <= total - acknowledged + 2 * PART
    place.assert_staged(archive, data)


async def test_the_journal_names_who_and_what(place: Place) -> None:
    place.source(20 * MIB)
    await stopped_at(place, at("UploadPart", 2, "*/source/*"), run_id="130-20260101-000000-00000001")
    journal = json.loads(place.read(PREFIX + JOURNAL))
    assert journal["run_id"] == "130-20260101-000000-00000001"
    assert journal["stopped"] is True
    assert journal["identity"]["source"] == f"s3://{place.bucket}/{SOURCE_KEY}"
    keys = {upload["key"] for upload in journal["uploads"]}
    assert f"{PREFIX}source/{SOURCE_KEY.rpartition('/')[2]}" in keys
    assert all(part["fingerprint"] for upload in journal["uploads"] for part in upload["parts"])


async def test_a_journal_names_parts_long_before_a_lease_has_passed(place: Place) -> None:
    """A run that is killed in its first seconds leaves something to go on with as well."""
    place.source(20 * MIB)
    gate, beaten = Gate(), asyncio.Event()

    async def beat(record: Record) -> None:
        if gate.is_reached and record.key == PREFIX + JOURNAL:
            beaten.set()

    rule, hook = at("UploadPart", 4, "*/source/*")(gate), Hook(beat, when="response", operation="PutObject")
    async with FaultProxy(place.server, [rule], [hook]) as proxy:
        run = asyncio.create_task(stage(request(place, lease=120, endpoint_url=proxy.endpoint_url)))
        await gate.reached()
        await asyncio.wait_for(beaten.wait(), 30)  # a third of the lease is 40 s
        journal = json.loads(await asyncio.to_thread(place.read, PREFIX + JOURNAL))
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        gate.release()
    assert journal["stopped"] is False
    assert any(upload["parts"] for upload in journal["uploads"])


@pytest.mark.parametrize(
    "which", [2, 5, *(pytest.param(nth, marks=pytest.mark.long) for nth in (1, 3, 4, 6, 7))]
)
async def test_what_stopped_in_its_commit_is_sent_again(place: Place, which: int) -> None:
    """Stopped before the n-th Complete: two models, the archive, and each of the documents.

    Whoever held the prefix before could still complete an upload that it had begun to complete: none is adopted.
    """
    archive, data = place.source(12 * MIB, members=2)
    await stopped_at(place, at("CompleteMultipartUpload", which))
    journal = json.loads(place.read(PREFIX + JOURNAL))
    assert (journal["stopped"], journal["committing"]) == (True, True)
    settings = StoreSettings(region=place.server.region, endpoint_url=place.server.endpoint_url)
    told = await status(settings, place.bucket, PREFIX)
    assert (told.state, told.run and told.run.source_bytes) == ("resumable", 0)
    assert told.rerun.code == "start_over"
    report, second = await finished(place)
    assert report.outcome == "staged"
    assert not resumed(report)
    assert sent(second) == len(data) + sum(member.size for member in archive.rivas)
    place.assert_staged(archive, data)


async def test_before_the_first_complete_the_journal_names_every_upload_of_the_commit(place: Place) -> None:
    place.source(12 * MIB, members=2)
    gate = Gate()
    rule = Rule("CompleteMultipartUpload", occurrence="every", fault=Stall("request", gate=gate))
    async with FaultProxy(place.server, [rule]) as proxy:
        run = asyncio.create_task(stage(request(place, endpoint_url=proxy.endpoint_url)))
        await gate.reached()
        journal = json.loads(await asyncio.to_thread(place.read, PREFIX + JOURNAL))
        opened = await asyncio.to_thread(place.open_uploads)
        gate.release()
        await run
    assert journal["committing"] is True
    assert {upload["key"] for upload in journal["uploads"]} == set(opened)
    assert {PREFIX + name for name in ("artifact.json", "staging_complete.txt")} < set(opened)


@pytest.mark.long  # it is watched for 30 seconds; tests/sim/test_journals.py does so in no time
async def test_a_journal_that_cannot_be_read_is_set_aside(place: Place) -> None:
    archive, data = place.source(6 * MIB)
    place.put(PREFIX + JOURNAL, b"\xff\xfe\x00")
    report = await stage(request(place))
    assert any("set aside" in warning.message for warning in report.warnings)
    place.assert_staged(archive, data)


async def test_another_source_starts_afresh_and_leaves_no_upload(place: Place) -> None:
    place.source(20 * MIB, seed="one")
    await stopped_at(place, at("UploadPart", 3, "*/source/*"))
    archive, data = place.source(11 * MIB, seed="two")
    report, second = await finished(place)
    assert not resumed(report)
    assert sent(second) == len(data) + sum(member.size for member in archive.rivas)
    place.assert_staged(archive, data)


async def test_a_journal_that_lies_about_its_parts_is_not_believed(place: Place) -> None:
    archive, data = place.source(20 * MIB)
    await stopped_at(place, at("UploadPart", 4, "*/source/*"))
    journal = json.loads(place.read(PREFIX + JOURNAL))
    lies = 0
    for upload in journal["uploads"]:
        for part in upload["parts"]:
            part["fingerprint"] = "0" * 32
            lies += 1
    assert lies >= 2
    place.put(PREFIX + JOURNAL, json.dumps(journal).encode())
    _, second = await finished(place)
    assert sent(second) == len(data) + sum(member.size for member in archive.rivas)
    place.assert_staged(archive, data)


@pytest.mark.parametrize("committing", [False, True], ids=["while it streams", "in its commit"])
async def test_without_the_right_to_list_uploads_those_that_the_journal_names_are_aborted(
    place: Place, committing: bool
) -> None:
    """The documents' too: with the marker's left open, the run before could still put it."""
    archive, data = place.source(20 * MIB, members=1)
    # when the only model's third part comes, none of the uploads is just being created
    await stopped_at(
        place, at("CompleteMultipartUpload", 1) if committing else at("UploadPart", 3, "*/models/*")
    )
    assert (PREFIX + "staging_complete.txt" in place.open_uploads()) is committing
    async with FaultProxy(
        place.server, [Rule("ListMultipartUploads", occurrence="every", fault=Refuse("AccessDenied"))]
    ) as proxy:
        report = await stage(request(place, endpoint_url=proxy.endpoint_url))
    assert [warning.code for warning in report.warnings].count("list-uploads") == 1
    assert resumed(report) is not committing
    place.assert_staged(archive, data)
    assert place.open_uploads() == []


async def test_a_live_run_is_not_disturbed(place: Place) -> None:
    archive, data = place.source(12 * MIB)
    gate = Gate()
    async with FaultProxy(place.server, [at("UploadPart", 2, "*/source/*")(gate)]) as proxy:
        holder = asyncio.create_task(
            stage(request(place, endpoint_url=proxy.endpoint_url, run_id="130-20260101-000000-0000000a"))
        )
        await gate.reached()
        with pytest.raises(HeldError, match="130-20260101-000000-0000000a") as caught:
            await stage(request(place))
        assert caught.value.exit_code == 75
        watched: asyncio.Future[Watching] = asyncio.get_running_loop().create_future()

        def observe(event: Event) -> None:
            if isinstance(event, Watching) and not watched.done():
                watched.set_result(event)

        waiter = asyncio.create_task(stage(request(place, wait=True), observer=observe))
        assert "130-20260101-000000-0000000a" in (await watched).who
        gate.release()
        assert (await holder).outcome == "staged"
        assert (await waiter).outcome == "already_staged"
    place.assert_staged(archive, data)


async def test_the_same_run_id_takes_over_nothing(place: Place) -> None:
    """A live run of the same id is another run: ownership is the token's."""
    archive, data = place.source(12 * MIB)
    gate = Gate()
    async with FaultProxy(place.server, [at("UploadPart", 2, "*/source/*")(gate)]) as proxy:
        first = asyncio.create_task(stage(request(place, endpoint_url=proxy.endpoint_url, run_id="same")))
        await gate.reached()
        with pytest.raises(HeldError):
            await stage(request(place, run_id="same"))
        gate.release()
        assert (await first).outcome == "staged"
    place.assert_staged(archive, data)


@pytest.mark.parametrize("how", ["gone", "another's"])
async def test_a_holder_whose_journal_is_no_longer_its_own_has_lost(place: Place, how: str) -> None:
    """It never writes a new one, and completes nothing."""
    place.source(12 * MIB)
    gate = Gate()
    async with FaultProxy(place.server, [at("UploadPart", 2, "*/source/*")(gate)]) as proxy:
        holder = asyncio.create_task(stage(request(place, endpoint_url=proxy.endpoint_url, lease=60)))
        await gate.reached()
        journal = json.loads(await asyncio.to_thread(place.read, PREFIX + JOURNAL))
        if how == "gone":
            await asyncio.to_thread(place.client.delete_object, Bucket=place.bucket, Key=PREFIX + JOURNAL)
        else:
            theirs = json.dumps(journal | {"token": "another", "uploads": []}).encode()
            await asyncio.to_thread(place.put, PREFIX + JOURNAL, theirs)
        gate.release()
        with pytest.raises(HeldError) as caught:
            await holder
        assert caught.value.exit_code == 75
        assert proxy.select("CompleteMultipartUpload") == ()
    assert place.names() == ([] if how == "gone" else [JOURNAL])
    assert place.open_uploads() == []


async def test_a_holder_that_was_replaced_writes_nothing_more(place: Place) -> None:
    """The zombie: held up between its last check and its Completes, while another source is staged."""
    place.source(12 * MIB, seed="zombie")
    gate, silence = Gate(), Gate()
    async with FaultProxy(place.server, [at("CompleteMultipartUpload", 1)(gate)]) as proxy:
        # long enough for requests that expire with the lease, which the gateway needs: it ignores conditions
        zombie = asyncio.create_task(
            stage(request(place, endpoint_url=proxy.endpoint_url, lease=4.0, connections=1))
        )
        await gate.reached()
        proxy.rules.append(
            Rule("PutObject", key=f"*{JOURNAL}", occurrence="every", fault=Stall("request", gate=silence))
        )
        archive, data = await asyncio.to_thread(place.source, 11 * MIB, seed="winner")
        await stage(request(place, lease=4.0))
        gate.release()
        silence.release()
        with pytest.raises(
            TransientError
        ) as caught:  # moto has no "no such upload" here: it breaks with a 500
            await zombie
        assert caught.value.exit_code == 75
    place.assert_staged(archive, data)


async def test_a_final_refusal_leaves_no_journal(place: Place) -> None:
    place.source(12 * MIB)
    with pytest.raises(IntegrityError):
        await stage(request(place, expect_sha256="0" * 64))
    place.assert_nothing_left()


async def test_an_outage_keeps_what_was_sent(place: Place) -> None:
    archive, data = place.source(20 * MIB)
    rule = Rule("UploadPart", key="*/source/*", occurrence=range(3, 100), fault=Refuse("InternalError"))
    async with FaultProxy(place.server, [rule]) as proxy:
        with pytest.raises(TransientError):
            await stage(request(place, endpoint_url=proxy.endpoint_url, retries=1))
    assert place.names() == [JOURNAL]
    _, second = await finished(place)
    assert sent(second) < len(data) + sum(member.size for member in archive.rivas)
    place.assert_staged(archive, data)


async def test_a_lost_answer_to_complete_is_found_out(place: Place) -> None:
    archive, data = place.source(12 * MIB)
    rule = Rule("CompleteMultipartUpload", occurrence={1, 3, 5}, fault=Reset("response"))
    async with FaultProxy(place.server, [rule]) as proxy:
        report = await stage(request(place, endpoint_url=proxy.endpoint_url))
        assert any(record.faults for record in proxy.log)
    assert report.outcome == "staged"
    place.assert_staged(archive, data)
