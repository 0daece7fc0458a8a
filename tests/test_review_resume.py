"""What a strict reader found in resuming at any byte: each of these fails."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from riva_stream.archive import Extractor, Limits
from riva_stream.s3 import PartBody
from tests.archive.kit import END, member, tar_of
from tests.test_checkpoint import (
    ARCHIVES,
    BUCKET,
    OWN,
    Cut,
    documents,
    interrupted,
    staged,
    store_with,
    whole,
)

MIB = 1 << 20


async def put(store: Cut, key: str, document: Any) -> bytes:
    raw = json.dumps(document, separators=(",", ":")).encode()
    await store.put(BUCKET, key, PartBody((raw,), len(raw)), content_type="a/b", metadata={})
    return raw


async def change_checkpoints(store: Cut, change: Callable[[dict[str, Any]], None]) -> None:
    """Change every checkpoint, and have the journal name what they are now."""
    journal = json.loads(store.look(BUCKET, OWN + "journal.json").data)  # type: ignore[union-attr]
    for named in journal["checkpoints"]:
        document = json.loads(store.look(BUCKET, named["key"]).data)  # type: ignore[union-attr]
        change(document)
        named["sha256"] = hashlib.sha256(await put(store, named["key"], document)).hexdigest()
    await put(store, OWN + "journal.json", journal)


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


# ── checkpoints ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_checkpoint_beyond_the_source_costs_no_memory() -> None:
    """``_proof`` counts all parts before ``offset`` in a list before it asks whether there are so many."""
    data = ARCHIVES["gzip"]()
    store = await store_with(data)
    await interrupted(store, 2)
    far = 1 << 40  # 16 million parts; 1 << 60 is as good, and no memory holds that

    def move(document: dict[str, Any]) -> None:
        document["offset"] = document["archive"]["size"] = document["archive"]["sha256"]["size"] = far
        document["archive"]["sha256"]["tail"] = ""

    await change_checkpoints(store, move)
    with at_most(64 * MIB):
        await staged(store)
    assert documents(store) == await whole(data)


async def test_a_checkpoint_that_is_wrong_in_many_places_costs_no_memory() -> None:
    """Every item of a list is an error of its own to pydantic, and a dict to whoever asks for the first of them.

    What is here has 400 KB. 64 MiB are read: 160 times as many.
    """
    store = await store_with(ARCHIVES["gzip"]())
    await interrupted(store, 2)

    def fill(document: dict[str, Any]) -> None:
        snapshot = json.loads(document["extractor"])
        snapshot["found"]["listing"] = [0] * 200_000
        document["extractor"] = json.dumps(snapshot, separators=(",", ":"))

    await change_checkpoints(store, fill)
    with at_most(64 * MIB):
        await staged(store)


async def test_a_checkpoint_with_a_member_twice_is_no_crash() -> None:
    """The second one opens an upload of its own, which has no parts to skip: KeyError, exit 1."""
    data = ARCHIVES["tar"]()
    store = await store_with(data)
    await interrupted(store, 4)

    def double(document: dict[str, Any]) -> None:
        snapshot = json.loads(document["extractor"])
        snapshot["found"]["staged"] *= 2
        snapshot["found"]["taken"] |= {"x.riva": "x.riva"}
        document["extractor"] = json.dumps(snapshot)
        document["members"] *= 2

    await change_checkpoints(store, double)
    await staged(store)
    assert documents(store) == await whole(data)


async def test_a_journal_with_a_checksum_that_is_none_is_no_crash() -> None:
    """``Upload.skip`` decodes what the journal says, unlooked at, where the store tells no checksum."""
    data = ARCHIVES["gzip"]()
    store = await store_with(data, is_aws=False)
    await interrupted(store, 2, upload_check="md5")
    journal = json.loads(store.look(BUCKET, OWN + "journal.json").data)  # type: ignore[union-attr]
    for upload in journal["uploads"]:
        for part in upload["parts"]:
            part["crc64nvme"] = "x"
    await put(store, OWN + "journal.json", journal)
    await staged(store, upload_check="md5")
    assert documents(store) == await whole(data, upload_check="md5")


def sparse_of(*, noise: int, hole: int, more: int) -> bytes:
    """Noise, and a model of a long hole and some noise, in the format of old GNU."""
    draw = random.Random(5)
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        info = tarfile.TarInfo("a.txt")
        info.size = noise
        tar.addfile(info, io.BytesIO(draw.randbytes(noise)))
    plain = raw.getvalue()[: 512 + noise]
    info = tarfile.TarInfo("m.riva")
    info.size = more
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"
    header[386:410] = b"%011o\0%011o\0" % (hole, more)
    header[483:495] = b"%011o\0" % (hole + more)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return plain + bytes(header) + draw.randbytes(more) + bytes(1024)


def read(extractor: Extractor, data: bytes, at: int, *, snapshot_in: str = "") -> Any:
    """Read it to its end; or up to a snapshot in a member, which is given."""
    while at < len(data):
        extractor.push(data[at : at + 65_536])
        at += 65_536
        while not extractor.needs_input:
            extractor.pull(1 << 17)
            if (
                snapshot_in
                and (found := extractor.snapshot())
                and found.member
                and found.handed_over >= 9 << 20
            ):
                return found
    return extractor.finish()


def test_a_resumed_archive_is_no_bomb_where_the_whole_one_is_none() -> None:
    """Holes of after the decoder's place count from the beginning, the bytes of the archive that they go with do not."""
    import gzip  # noqa: PLC0415

    data = gzip.compress(sparse_of(noise=102_400, hole=9 * MIB, more=2 * MIB), 1)
    limits = Limits(ratio=100.0, ratio_floor=8 * MIB)
    summary = read(Extractor(limits=limits), data, 0)
    snapshot = read(Extractor(limits=limits), data, 0, snapshot_in="m.riva")
    extractor, _ = Extractor.restore(snapshot.data, limits=limits)
    assert read(extractor, data, snapshot.offset) == summary


async def test_a_limit_without_end_keeps_no_run_from_going_on() -> None:
    """JSON has no infinity: pydantic writes null for it, and reads no number from that."""
    data = ARCHIVES["gzip"]()
    store = await store_with(data)
    await interrupted(store, 2, max_ratio=float("inf"))
    report = await staged(store, max_ratio=float("inf"))
    assert report.artifact is not None
    assert report.artifact.build_info.resumed_from is not None


def test_a_snapshot_is_bounded_as_the_documents_say() -> None:
    """docs/memory.md: 256 KiB and a listing of 1,000 names. The names inside every model, 200 each, are in it as well.

    Sixty models are 3 MiB; a thousand, the default limit, are 43 MiB with each checkpoint.
    """
    inner = tar_of({f"{n:03d}-{'x' * 190}": b"" for n in range(200)})
    data = b"".join(member(b"m%d.riva" % n, inner) for n in range(60)) + END
    extractor, most = Extractor(), 0
    for at in range(0, len(data), 1 << 20):
        extractor.push(data[at : at + (1 << 20)])
        while not extractor.needs_input:
            extractor.pull(1 << 20)
        found = extractor.snapshot()
        most = max(most, len(found.data) if found else 0)
    assert most < (256 << 10) + 1000 * 300


async def test_the_same_patterns_in_another_order_are_the_same_job() -> None:
    """docs/semantics.md: what must agree is the *set* of patterns. The uploads are resumed, the checkpoint is not."""
    data = ARCHIVES["gzip"]()
    store = await store_with(data)
    await interrupted(store, 2, include=("*.riva", "*.txt"))
    report = await staged(store, include=("*.txt", "*.riva"))
    assert report.artifact is not None
    assert report.artifact.build_info.resumed_from is not None
