"""The invariants of the design, each by its number. The first two, disk and memory, stand in test_real_run.py."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from blockbuster import BlockBuster

from riva_stream import (
    AccessDeniedError,
    ArchiveError,
    DigestMismatchError,
    IntegrityError,
    RivaStreamError,
    SourceChangedError,
    TransientError,
    stage,
)
from riva_stream.events import Event, RetryScheduled
from riva_stream.layout import JOURNAL
from riva_stream.sizes import MIB
from tests.staging import PREFIX, SOURCE_KEY, Place, put_credentials, tar_gz
from tests.support.archives import riva_bytes
from tests.support.faultproxy import FaultProxy, Rule
from tests.support.faults import Fault, FlipBit, Gate, Refuse, Reset, Rewrite, Stall
from tests.support.servers import GatewayServer, MotoServer, S3Server

MARKER = "staging_complete.txt"


@pytest.fixture
def place(s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    put_credentials(s3_server, monkeypatch)
    return Place(s3_server, bucket)


@pytest.fixture
def gateway_place(gateway: GatewayServer, gateway_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    put_credentials(gateway, monkeypatch)
    return Place(gateway, gateway_bucket)


@pytest.mark.parametrize(
    "held",
    [
        {"operation": "UploadPart", "key": "*/models/*", "occurrence": "first"},
        {"operation": "UploadPart", "key": "*/source/*", "occurrence": 2},
        {"operation": "CompleteMultipartUpload", "occurrence": "every"},
    ],
    ids=["at the first part of a member", "at a later part of the archive", "before the first Complete"],
)
async def test_invariant_3_nothing_is_visible_until_everything_is_verified(
    place: Place, held: dict[str, Any]
) -> None:
    archive, data = place.source(16 * MIB, members=2)
    gate = Gate()
    rule = Rule(**held, fault=Stall("request", gate=gate))
    async with FaultProxy(place.server, [rule]) as proxy:
        run = asyncio.create_task(stage(place.request(part_size=5 * MIB, endpoint_url=proxy.endpoint_url)))
        await gate.reached()
        assert await asyncio.to_thread(place.names) == [JOURNAL]
        gate.release()
        await run
        await asyncio.to_thread(place.assert_staged, archive, data)
        # and no Complete was even sent before the last range of the source had been asked for and the last part sent
        order = [record.operation for record in proxy.log]
        first_complete = order.index("CompleteMultipartUpload")
        after = [
            record.key
            for record in proxy.log[first_complete:]
            if record.operation in {"GetObject", "UploadPart"}
        ]
        assert not [key for key in after if key == SOURCE_KEY or "/source/" in key or "/models/" in key]


def mutations(proxy: FaultProxy) -> list[tuple[str, str]]:
    """Every request that changes the store, but those that keep the run's own journal."""
    return [
        (record.operation, record.key)
        for record in proxy.log
        if record.mutation and not record.key.endswith(JOURNAL)
    ]


async def test_invariant_4_the_marker_is_the_commit(place: Place) -> None:
    place.source(members=2)
    async with FaultProxy(place.server) as proxy:
        await stage(place.request(endpoint_url=proxy.endpoint_url))
        first = mutations(proxy)
        assert first[-1] == ("CompleteMultipartUpload", PREFIX + MARKER)
        archive, data = place.source(members=1, seed="newer")
        before = len(first)
        await stage(place.request(force=True, endpoint_url=proxy.endpoint_url))
        forced = mutations(proxy)[before:]
        gone = forced.index(("DeleteObject", PREFIX + MARKER))
        operations = [operation for operation, _ in forced]
        # the old marker goes just before the first Complete, and stale models before the new marker
        assert operations.index("CompleteMultipartUpload") == gone + 1
        assert {"CreateMultipartUpload", "UploadPart"} >= set(operations[:gone]) - {"AbortMultipartUpload"}
        assert forced[-1] == ("CompleteMultipartUpload", PREFIX + MARKER)
        stale = [key for operation, key in forced if operation == "DeleteObject"]
        assert len(stale) == 1 + 1
    place.assert_staged(archive, data)


async def test_invariant_5_every_range_is_pinned(place: Place) -> None:
    _, data = place.source(16 * MIB)
    async with FaultProxy(place.server) as proxy:
        await stage(place.request(part_size=5 * MIB, endpoint_url=proxy.endpoint_url))
        ranges = [record for record in proxy.select("GetObject", SOURCE_KEY)]  # noqa: C416 - a list to compare
        assert [record.range for record in ranges] == [
            (start, min(start + 5 * MIB, len(data)) - 1) for start in range(0, len(data), 5 * MIB)
        ]


async def test_invariant_5_a_source_replaced_while_it_is_read_ends_the_run(place: Place) -> None:
    place.source(16 * MIB, seed="old")
    gate = Gate()
    rule = Rule("GetObject", key=SOURCE_KEY, occurrence=2, fault=Stall("request", gate=gate))
    async with FaultProxy(place.server, [rule]) as proxy:
        run = asyncio.create_task(
            stage(place.request(part_size=5 * MIB, connections=1, endpoint_url=proxy.endpoint_url))
        )
        await gate.reached()
        await asyncio.to_thread(place.source, 16 * MIB, seed="new")
        gate.release()
        with pytest.raises(SourceChangedError):
            await run
    place.assert_nothing_left()


@pytest.mark.parametrize(
    "lie",
    [
        Rewrite(status=200, remove=["Content-Range"]),
        Rewrite(remove=["Content-Range"]),
        Rewrite(shift_range=3),
    ],
    ids=["200 in place of 206", "no Content-Range", "another Content-Range"],
)
async def test_invariant_5_a_reply_that_is_not_the_one_asked_for_is_not_believed(
    place: Place, lie: Rewrite
) -> None:
    archive, data = place.source(12 * MIB)
    rule = Rule("GetObject", key=SOURCE_KEY, occurrence=2, fault=lie)
    events: list[Event] = []
    async with FaultProxy(place.server, [rule]) as proxy:
        request = place.request(part_size=5 * MIB, endpoint_url=proxy.endpoint_url)
        await stage(request, observer=events.append)
        assert any(record.faults for record in proxy.log)
    retried = [event for event in events if isinstance(event, RetryScheduled)]
    assert [event.operation for event in retried] == ["GetObject"]
    place.assert_staged(archive, data)


async def test_invariant_5_another_etag_is_another_object(place: Place) -> None:
    place.source(12 * MIB)
    rule = Rule("GetObject", key=SOURCE_KEY, occurrence=2, fault=Rewrite(headers={"ETag": '"x"'}))
    async with FaultProxy(place.server, [rule]) as proxy:
        with pytest.raises(SourceChangedError):
            await stage(place.request(part_size=5 * MIB, endpoint_url=proxy.endpoint_url))
    place.assert_nothing_left()


async def test_invariant_6_what_a_store_verifies_is_probed(place: Place) -> None:
    place.source()
    report = await stage(place.request())
    assert report.artifact is not None
    # moto checks nothing, but answers with the MD5 of what it got; the gateway refuses a wrong signed payload hash
    expected = {"moto": "etag", "gateway": "sha256"}
    assert report.artifact.validation.upload_check == expected.get(place.server.name, "sha256")


@pytest.mark.parametrize("check", ["auto", "sha256", "md5"])
async def test_invariant_6_the_store_catches_a_bit_that_flips_on_its_way(
    gateway_place: Place, check: str
) -> None:
    archive, data = gateway_place.source(12 * MIB)
    rule = Rule("UploadPart", key="*/source/*", occurrence=2, fault=FlipBit("request", 100_000))
    events: list[Event] = []
    async with FaultProxy(gateway_place.server, [rule]) as proxy:
        request = gateway_place.request(
            part_size=5 * MIB, endpoint_url=proxy.endpoint_url, upload_check=check
        )
        await stage(request, observer=events.append)
        assert any("FlipBit" in fault or "flip" in fault for record in proxy.log for fault in record.faults)
    assert [event.operation for event in events if isinstance(event, RetryScheduled)] == ["UploadPart"]
    gateway_place.assert_staged(archive, data)


async def test_invariant_7_integrity_failures_are_never_retried(place: Place) -> None:
    _, data = place.source(12 * MIB)
    events: list[Event] = []
    async with FaultProxy(place.server) as proxy:
        request = place.request(part_size=5 * MIB, endpoint_url=proxy.endpoint_url, expect_sha256="f" * 64)
        with pytest.raises(DigestMismatchError):
            await stage(request, observer=events.append)
        assert len(proxy.select("GetObject", SOURCE_KEY)) == -(-len(data) // (5 * MIB))
    assert not [event for event in events if isinstance(event, RetryScheduled)]
    place.assert_nothing_left()


async def test_invariant_7_a_bit_flip_in_the_source_is_final(place: Place) -> None:
    place.source(12 * MIB)
    rule = Rule("GetObject", key=SOURCE_KEY, occurrence=2, fault=FlipBit("response", 1_000_000))
    async with FaultProxy(place.server, [rule]) as proxy:
        with pytest.raises(IntegrityError):
            await stage(place.request(part_size=5 * MIB, endpoint_url=proxy.endpoint_url))
    place.assert_nothing_left()


@pytest.mark.parametrize("operation", ["GetObject", "UploadPart", "CreateMultipartUpload"])
async def test_invariant_8_cancellation_is_clean(place: Place, operation: str) -> None:
    archive, data = place.source(16 * MIB)
    gate = Gate()
    rule = Rule(operation, key="*parakeet-rnnt-riva*", occurrence="first", fault=Stall("request", gate=gate))
    before = threading.active_count()
    async with FaultProxy(place.server, [rule]) as proxy:
        run = asyncio.create_task(stage(place.request(part_size=5 * MIB, endpoint_url=proxy.endpoint_url)))
        await gate.reached()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        gate.release()
    # nothing is visible but the journal, and that has let go: a rerun need not wait for the lease
    if operation == "CreateMultipartUpload":
        assert place.names() == []  # of the very first upload: there is nothing to resume, and so no journal
    else:
        assert place.names() == [JOURNAL]
        assert json.loads(place.read(PREFIX + JOURNAL))["stopped"] is True
    assert len(asyncio.all_tasks()) == 1
    assert threading.active_count() <= before + 40  # idle workers, kept by the loop for the next call
    await stage(place.request(part_size=5 * MIB))
    place.assert_staged(archive, data)


async def test_invariant_8_the_cleanup_never_hides_the_first_error(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sink.uploads._CLEANUP", "destination.hold._CLEANUP", "s3.scratch.CLEANUP"):
        module, _, limit = name.rpartition(".")
        # That is how long it tries, and what this test would last.
        monkeypatch.setattr(import_module(f"riva_stream.{module}"), f"{limit}_SECONDS", 1.0)
    place.put(SOURCE_KEY, tar_gz([("m.riva", riva_bytes(2 * MIB))])[:-20])
    rule = Rule("AbortMultipartUpload", key="*parakeet*", occurrence="every", fault=Rewrite(status=500))
    async with FaultProxy(place.server, [rule]) as proxy:
        with pytest.raises(ArchiveError):
            await stage(place.request(endpoint_url=proxy.endpoint_url, retries=1))


@pytest.fixture
def blocking_calls() -> Iterator[None]:
    """Fails the test when something blocks the event loop."""
    guard = BlockBuster(excluded_modules=["tests"])
    for function in guard.functions.values():
        function.can_block_in("moto_front.py", "_response")  # the server's own loop
    guard.activate()
    yield
    guard.deactivate()


@pytest.mark.usefixtures("blocking_calls")
async def test_invariant_10_the_event_loop_never_blocks(
    moto: MotoServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    put_credentials(moto, monkeypatch)
    place = Place(moto, await asyncio.to_thread(moto.new_bucket))
    archive, data = await asyncio.to_thread(place.source, 12 * MIB)
    await stage(place.request(part_size=5 * MIB, state_dir=tmp_path / "state"))
    await stage(place.request(part_size=5 * MIB, state_dir=tmp_path / "state"))
    await asyncio.to_thread(place.assert_staged, archive, data)


async def test_invariant_11_an_expected_sha256_and_the_stores_own_checksum_vouch(place: Place) -> None:
    _, data = place.source()
    report = await stage(place.request(expect_sha256=hashlib.sha256(data).hexdigest()))
    assert report.artifact is not None
    assert report.artifact.validation.source_integrity == "sha256-expected+md5-etag+gzip-crc32"


@pytest.mark.parametrize(
    ("fault", "code", "error"),
    [
        (FlipBit("response", 10), 65, IntegrityError),
        (Reset("response-body", after=10), 75, TransientError),
        (Refuse("AccessDenied"), 77, AccessDeniedError),
    ],
    ids=["reads otherwise", "cannot be read", "may not be read"],
)
async def test_invariant_12_once_the_marker_was_sent_nothing_is_deleted(
    place: Place, fault: Fault, code: int, error: type[RivaStreamError]
) -> None:
    """Whatever the read-back of the marker comes to: the marker is there, and so is all that it promises."""
    place.source()
    place.put("images/riva-speech.tar.gz", b"a container image")
    fields = {"server_path": f"s3://{place.bucket}/images/riva-speech.tar.gz", "lease": 0.6}
    rule = Rule("GetObject", key=PREFIX + MARKER, occurrence="every", fault=fault)
    async with FaultProxy(place.server, [rule]) as proxy:
        with pytest.raises(error) as caught:
            await stage(place.request(endpoint_url=proxy.endpoint_url, retries=1, **fields))
        assert proxy.select("DeleteObject", PREFIX + "[!.]*") == ()
    assert caught.value.exit_code == code
    left = {"artifact.json", "upload_manifest.json", "deployment.json", "deployment_ready.txt", MARKER}
    assert left < set(place.names())
    report = await stage(place.request(**fields))
    assert report.outcome == "already_staged"
    assert JOURNAL not in place.names()
    assert place.open_uploads() == []
