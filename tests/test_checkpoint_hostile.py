"""Checkpoints and journals that somebody has changed: no crash, no memory without bound, and what is staged is what is right."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from riva_stream import ArchiveError, RivaStreamError
from riva_stream.lease import Journal
from riva_stream.s3 import CompletedPart, PartBody
from tests.checkpoints.hostile import change_value
from tests.test_checkpoint import (
    ARCHIVES,
    BUCKET,
    OWN,
    Cut,
    documents,
    interrupted,
    nothing_is_left,
    staged,
    store_with,
    whole,
)

MIB = 1 << 20
JOURNAL = OWN + "journal.json"
Change = Callable[[dict[str, Any]], None]


async def put(store: Cut, key: str, document: Any) -> bytes:
    raw = json.dumps(document, separators=(",", ":")).encode()
    await store.put(BUCKET, key, PartBody((raw,), len(raw)), content_type="a/b", metadata={})
    return raw


def read(store: Cut, key: str) -> Any:
    return json.loads(store.look(BUCKET, key).data)  # type: ignore[union-attr]


async def change_checkpoints(store: Cut, change: Change) -> None:
    """Change every checkpoint, and have the journal name what they are now."""
    journal = read(store, JOURNAL)
    for named in journal["checkpoints"]:
        document = read(store, named["key"])
        change(document)
        named["sha256"] = hashlib.sha256(await put(store, named["key"], document)).hexdigest()
    await put(store, JOURNAL, journal)


async def change_parts(store: Cut, change: Change) -> None:
    """Change every part that the journal names."""
    journal = read(store, JOURNAL)
    for upload in journal["uploads"]:
        for part in upload["parts"]:
            change(part)
    await put(store, JOURNAL, journal)


def in_snapshot(change: Change) -> Change:
    """A change of the snapshot that is in a checkpoint."""

    def changed(document: dict[str, Any]) -> None:
        snapshot = json.loads(document["extractor"])
        change(snapshot)
        document["extractor"] = json.dumps(snapshot, separators=(",", ":"))

    return changed


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """No more than so many bytes are held at once."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < size, f"{peak >> 20} MiB"


@pytest.mark.parametrize("far", [1 << 40, 1 << 60, 10**4000])
async def test_a_checkpoint_beyond_the_source_costs_no_memory(far: int) -> None:
    data = ARCHIVES["gzip"]()
    store = await store_with(data)
    await interrupted(store, 2)

    def move(document: dict[str, Any]) -> None:
        document["offset"] = document["archive"]["size"] = document["archive"]["sha256"]["size"] = far
        document["archive"]["sha256"]["tail"] = ""

    await change_checkpoints(store, move)
    with at_most(64 * MIB):
        await staged(store)
    assert documents(store) == await whole(data)


def a_long_listing(snapshot: dict[str, Any]) -> None:
    snapshot["found"]["listing"] = [0] * 200_000


def a_longer_listing(snapshot: dict[str, Any]) -> None:
    snapshot["found"]["listing"] = [0] * 5_000_000


def lists_in_lists(snapshot: dict[str, Any]) -> None:
    snapshot["found"]["staged"] = [[[]] * 10] * 30_000


def unknown_fields(snapshot: dict[str, Any]) -> None:
    snapshot |= {f"{n:x}": 0 for n in range(80_000)}


def a_long_map(snapshot: dict[str, Any]) -> None:
    snapshot["state"]["walk"]["segments"] = snapshot["state"]["walk"]["map"] = [[1, -1]] * 60_000


def warnings_that_are_none(snapshot: dict[str, Any]) -> None:
    snapshot["state"]["selection"]["warnings"] = [{}] * 60_000


@pytest.mark.parametrize(
    "change",
    [
        in_snapshot(a_long_listing),
        in_snapshot(a_longer_listing),
        in_snapshot(lists_in_lists),
        in_snapshot(unknown_fields),
        in_snapshot(a_long_map),
        in_snapshot(warnings_that_are_none),
        unknown_fields,
        lambda document: document.update(members=[0] * 200_000),
        lambda document: document.update(members=[{}] * 30_000),
        lambda document: document.update(extractor='"' * 1_000_000),
    ],
    ids=[
        "a list",
        "a list of 10 MB",
        "lists in lists",
        "unknown fields",
        "a map",
        "warnings",
        "unknown fields outside",
        "members",
        "empty members",
        "quotes",
    ],
)
async def test_a_checkpoint_that_is_wrong_in_many_places_costs_no_memory(change: Change) -> None:
    """Every item of a list is an error of its own to pydantic, and a dict to whoever asks for the first of them."""
    data = ARCHIVES["gzip"]()
    store = await store_with(data)
    await interrupted(store, 2)
    await change_checkpoints(store, change)
    with at_most(64 * MIB):
        report = await staged(store)
    assert report.artifact is not None
    assert report.artifact.build_info.resumed_from is None
    assert documents(store) == await whole(data)


def the_same_member(snapshot: dict[str, Any]) -> None:
    snapshot["found"]["staged"] *= 2


def the_open_member(snapshot: dict[str, Any]) -> None:
    """The one that is complete gets the name of the one that is open."""
    name = snapshot["state"]["selection"]["member"]["name"]
    snapshot["found"]["staged"][0]["member"] |= {"name": name, "key_name": name}


def a_member_elsewhere(snapshot: dict[str, Any]) -> None:
    snapshot["found"]["staged"][0]["member"]["key_name"] = "../source/m.tar.gz"


@pytest.mark.parametrize("change", [the_same_member, the_open_member, a_member_elsewhere])
async def test_a_checkpoint_with_a_member_twice_is_no_crash(change: Change) -> None:
    """The second one opened an upload of its own, which has no parts to skip."""
    data = ARCHIVES["tar"]()
    store = await store_with(data)
    await interrupted(store, 4)

    def double(document: dict[str, Any]) -> None:
        in_snapshot(change)(document)
        if change is the_same_member:
            document["members"] *= 2

    await change_checkpoints(store, double)
    report = await staged(store)
    assert report.artifact is not None
    assert report.artifact.build_info.resumed_from is None
    assert documents(store) == await whole(data)
    nothing_is_left(store)


NONE = (
    "x",
    "é",
    "",
    5,
    ["AAAAAAAAAAA="],
    base64.b64encode(bytes(9)).decode(),
    "AAAAAAAAAAA",
    "AAAAAAAAAAA=\n",
)
UNTRUE = "AAAAAAAAAAA="


@pytest.mark.parametrize("told", [*NONE, UNTRUE], ids=repr)
async def test_a_checksum_that_the_journal_makes_up_is_not_used_where_none_is_sent(told: Any) -> None:
    data = ARCHIVES["gzip"]()
    store = await store_with(data, is_aws=False)
    await interrupted(store, 2, upload_check="md5")
    await change_parts(store, lambda part: part.update(crc64nvme=told))
    await staged(store, upload_check="md5")
    assert documents(store) == await whole(data, upload_check="md5")
    nothing_is_left(store)


@pytest.mark.parametrize("listed", [True, False], ids=["told by the store", "told by nobody else"])
@pytest.mark.parametrize("told", ["x", UNTRUE])
@pytest.mark.parametrize("kind", ["archive", "models"])
async def test_a_checksum_that_the_journal_makes_up_is_found_before_anything_is_completed(
    kind: str, told: str, listed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most stores list no CRC64NVME: Complete would be told the journal's, and refuse what another run is blamed for then."""
    data = ARCHIVES["gzip"]()
    store = await store_with(data)
    if not listed:
        list_parts = store.list_parts

        async def without(bucket: str, key: str, upload_id: str) -> Sequence[CompletedPart] | None:
            found = await list_parts(bucket, key, upload_id)
            return found and [CompletedPart(part.number, part.etag, part.size) for part in found]

        monkeypatch.setattr(store, "list_parts", without)
    await interrupted(store, 2)
    journal = read(store, JOURNAL)
    for upload in journal["uploads"]:
        if ("/models/" in upload["key"]) == (kind == "models"):
            upload["parts"][0]["crc64nvme"] = told
    await put(store, JOURNAL, journal)
    report = await staged(store)
    assert report.artifact is not None
    # What the journal lacks, the store can tell; what it makes up, nobody can.
    assert report.artifact.build_info.resumed_from is None
    assert documents(store) == await whole(data)
    nothing_is_left(store)


async def test_a_store_that_lists_no_checksums_resumes_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    data = ARCHIVES["gzip"]()
    store = await store_with(data)
    list_parts = store.list_parts

    async def without(bucket: str, key: str, upload_id: str) -> Sequence[CompletedPart] | None:
        found = await list_parts(bucket, key, upload_id)
        return found and [CompletedPart(part.number, part.etag, part.size) for part in found]

    monkeypatch.setattr(store, "list_parts", without)
    for _ in range(2):
        await interrupted(store, 1)
    report = await staged(store)
    assert report.artifact is not None
    assert report.artifact.build_info.resumed_from
    assert report.artifact.validation.resumed_by == "etag"
    assert documents(store) == await whole(data)


@pytest.mark.parametrize(
    "change",
    [
        {"uploads": [0] * 500_000},
        {"uploads": [{"key": "k", "upload_id": "u", "created_by": "r", "parts": [[]] * 500_000}]},
        {"stale": [0] * 500_000},
        {"checkpoints": [{}] * 300_000},
    ],
    ids=["uploads", "parts", "stale", "checkpoints"],
)
async def test_a_journal_that_is_wrong_in_many_places_costs_no_memory(change: dict[str, Any]) -> None:
    store = await store_with(ARCHIVES["gzip"]())
    await interrupted(store, 2)
    raw = json.dumps(read(store, JOURNAL) | change).encode()
    with at_most(48 * MIB), pytest.raises(ValueError, match=r"^[^\n]+$"):
        Journal.parse(raw)


async def test_an_upload_without_an_id_is_none() -> None:
    store = await store_with(ARCHIVES["gzip"]())
    await interrupted(store, 2)
    journal = read(store, JOURNAL)
    journal["uploads"][0]["upload_id"] = ""
    with pytest.raises(ValueError, match="upload_id"):
        Journal.parse(json.dumps(journal).encode())


async def test_a_lease_that_is_no_number_is_no_journal() -> None:
    """``min`` of it and the longest lease is it: whoever waits for its end would wait for ever."""
    store = await store_with(ARCHIVES["gzip"]())
    await interrupted(store, 2)
    with pytest.raises(ValueError, match="lease"):
        Journal.parse(json.dumps(read(store, JOURNAL) | {"lease": float("nan")}).encode())


_OF_DIGESTS = ("words", "tail", "sha256", "blake3", "crcs")
"""Nothing else vouches for the bytes before a checkpoint."""


_TIMES = [12, pytest.param(48, marks=pytest.mark.long)]


@pytest.mark.parametrize("times", _TIMES)
@pytest.mark.parametrize("kind", ["gzip", "tar"])
@pytest.mark.parametrize("inside", [False, True], ids=["checkpoint", "snapshot"])
async def test_whatever_is_changed_in_a_checkpoint_what_is_staged_is_right(
    kind: str, inside: bool, times: int
) -> None:
    data, rng = ARCHIVES[kind](), random.Random(f"{kind}/{inside}/{times}")
    right, pristine = await whole(data), await store_with(data)
    await interrupted(pristine, 3)
    resumed_from = set()

    def change(document: dict[str, Any]) -> None:
        change_value(document, rng, without=_OF_DIGESTS)

    for _ in range(times):
        store = pristine.copy()
        await change_checkpoints(store, in_snapshot(change) if inside else change)
        try:
            report = await staged(store)
        except ArchiveError:  # so it is read as what it is not; nothing is left to go on from
            report = await staged(store)
        assert report.artifact is not None
        resumed_from.add(report.artifact.build_info.resumed_from)
        found = documents(store)
        if inside:  # what was seen in the archive is told as the snapshot has it
            found["artifact.json"] = found["artifact.json"][:2] + right["artifact.json"][2:]
        assert found == right
    assert None in resumed_from


@pytest.mark.parametrize("times", _TIMES)
@pytest.mark.parametrize("kind", ["gzip", "tar"])
async def test_whatever_is_changed_in_a_journal_what_is_staged_is_right(kind: str, times: int) -> None:
    data, rng = ARCHIVES[kind](), random.Random(f"{kind}/{times}")
    right, pristine = await whole(data), await store_with(data)
    await interrupted(pristine, 3)
    read_at_once = 0
    for _ in range(times):
        store = pristine.copy()
        journal = read(store, JOURNAL)
        change_value({name: journal[name] for name in ("uploads", "checkpoints", "identity", "stale")}, rng)
        raw = await put(store, JOURNAL, journal)
        with suppress(ValueError):
            Journal.parse(raw)
            read_at_once += 1
            try:
                await staged(store)
            except RivaStreamError as error:
                assert error.exit_code == 75  # noqa: PT017 - it need not come
                await staged(store)
            assert documents(store) == right
    assert read_at_once > times / 3
