"""The branch that opens the archive, apart from any store: what it asks of the memory it was given."""

from __future__ import annotations

import gzip
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import anyio
import pytest
import zstandard

from riva_stream import ArchiveError, ConfigurationError, StageRequest
from riva_stream.archive import Extractor, Limits, Member, Snapshot
from riva_stream.flow.buffers import Chunk, Credits, Piece
from riva_stream.flow.digest import Digest, HashLane
from riva_stream.flow.lanes import Lane
from riva_stream.flow.memory import SMALLEST_PART, least_memory, plan_memory
from riva_stream.flow.tee import Branch
from riva_stream.pipeline.checkpoint import Checkpointer, ResumePoint
from riva_stream.pipeline.traced import TracedDigest
from riva_stream.pipeline.unpack import Unpacker
from riva_stream.sink import Upload
from riva_stream.sizes import GIB, MIB
from tests.archive.kit import END, OLD_GNU, header, member, pax

TIB = 1 << 40


def request_of(part_size: int) -> StageRequest:
    """A request with parts of this size."""
    return StageRequest(
        source="s3://m/a.tar",
        bucket="bucket",
        env="e",
        model_name="m",
        model_version="1",
        part_size=part_size,
    )


@dataclass(eq=False)
class Sent:
    """An upload that drops what it is sent."""

    size: int = 0
    kept: list[Piece] | None = None
    """Where the pieces of each part are kept; None: nowhere."""

    def send(self, chunk: Chunk) -> None:
        self.size += chunk.size
        if self.kept is not None:
            self.kept += chunk.pieces
        chunk.release()


@dataclass(eq=False)
class Unpacking:
    """One run of the branch: its uploads by the member's name."""

    memory: int
    part_size: int = 8 * MIB
    limits: Limits = field(default_factory=Limits)
    opened: dict[str, Sent] = field(default_factory=dict)
    peak: int = 0
    """Bytes of the write share that were in use at most."""
    kept: list[Piece] | None = None

    def unpacker(self) -> Unpacker:
        return Unpacker(
            Extractor(limits=self.limits),
            plan_memory(self.memory, self.part_size),
            request_of(self.part_size).part_size_for,
            self._open,
            HashLane(Lane("member-hash")),
            Lane("extract"),
            lambda _: None,
            Checkpointer(
                cast("Any", None), 0, self.part_size, cast("Upload", Sent()), TracedDigest(Digest())
            ),
        )

    async def run(self, archive: bytes) -> None:
        """Push ``archive`` through it as one chunk."""
        unpacker = self.unpacker()
        hashes = unpacker.hashes
        budget = Credits(len(archive))
        await budget.acquire(len(archive))
        unpacker.send(Chunk(0, len(archive), [archive], budget, len(archive)))
        unpacker.close()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hashes.run)
            try:
                await unpacker.run()
            finally:
                hashes.close()
        assert unpacker.credits.in_use == 0
        self.peak = unpacker.credits.peak

    async def _open(self, member: Member) -> tuple[Upload, Branch, None]:
        sent = self.opened[member.name] = Sent(kept=self.kept)
        return cast("Upload", sent), sent.send, None


async def test_what_small_members_keep_alive_is_what_they_have_paid_for() -> None:
    """Each is a part of a block, whose rest belongs to a text: up to nearly twice as much was kept."""
    draw = random.Random(1)
    pieces = [
        member(b"m%d.riva" % n, draw.randbytes(540_000)) + member(b"n%d.txt" % n, bytes(MIB - 541_184))
        for n in range(40)
    ]
    assert {len(piece) for piece in pieces} == {MIB}
    kept: list[Piece] = []
    await Unpacking(256 * MIB, kept=kept).run(b"".join(gzip.compress(piece, 1) for piece in [*pieces, END]))
    paid = sum(map(len, kept))
    blocks = {id(base): len(base) for base in map(base_of, kept)}
    assert paid == 40 * 540_000
    assert sum(blocks.values()) == paid


def base_of(piece: Piece) -> bytes:
    """What a piece keeps alive."""
    return cast("bytes", piece.obj) if isinstance(piece, memoryview) else bytes(piece)


def base_256(size: int) -> bytes:
    return b"\x80" + size.to_bytes(11, "big")


def huge(how: str, size: int) -> bytes:
    """The header of a member of ``size`` bytes, and a block of its data."""
    name = b"m/huge.riva"
    if how == "base-256":
        return header(name, size_field=base_256(size)) + b"w" * 512
    if how == "pax size":
        return pax((b"size", b"%d" % size)) + header(name) + b"w" * 512
    if how == "sparse, old GNU":
        entries = base_256(0) + base_256(512) + base_256(size) + base_256(0)
        head = header(name, 512, b"S", magic=OLD_GNU, gnu=entries.ljust(97, b"\0") + base_256(size))
        return head + b"w" * 512 + END
    records = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", name)]
    body = (b"2\n0\n512\n%d\n0\n" % size).ljust(512, b"\0") + b"w" * 512
    return pax(*records, (b"GNU.sparse.realsize", b"%d" % size)) + member(b"x", body) + END


HUGE = {
    "the least memory": (least_memory(8 * MIB), 8 * MIB, 200 * GIB),
    "the least memory, small parts": (least_memory(SMALLEST_PART), SMALLEST_PART, 120 * GIB),
    "the default": (256 * MIB, 8 * MIB, TIB),
    "1 GiB": (1024 * MIB, 8 * MIB, 5 * TIB - GIB),
}


@pytest.mark.parametrize("how", ["base-256", "pax size", "sparse, old GNU", "sparse, pax"])
@pytest.mark.parametrize("case", HUGE)
async def test_a_member_whose_parts_do_not_fit_is_refused_at_its_header(how: str, case: str) -> None:
    memory, part_size, size = HUGE[case]
    unpacking = Unpacking(memory, part_size)
    with pytest.raises(ExceptionGroup) as caught:
        await unpacking.run(member(b"small.riva") + huge(how, size))
    (error,) = caught.value.exceptions
    assert isinstance(error, ConfigurationError)
    assert error.exit_code == 78
    assert error.resumable, "what was uploaded serves the next run"
    assert "'m/huge.riva'" in error.what
    part = request_of(part_size).part_size_for(size)
    least = least_memory(part_size, part)
    assert f"{least // MIB}MiB" in error.hint
    assert list(unpacking.opened) == ["small.riva"], "no upload was opened for it"
    assert plan_memory(least, part_size).write_share >= part, "the advice works"
    assert plan_memory(least - MIB, part_size).write_share < part, "and is the least that does"


@pytest.mark.parametrize("how", ["base-256", "pax size"])
async def test_a_member_whose_parts_just_fit_is_begun(how: str) -> None:
    size = 10_000 * 16 * MIB  # two parts of 8 MiB are the write share at the least memory
    unpacking = Unpacking(least_memory(8 * MIB))
    with pytest.raises(ExceptionGroup) as caught:
        await unpacking.run(huge(how, size))
    assert caught.group_contains(ArchiveError), "it is cut, of course"
    assert list(unpacking.opened) == ["m/huge.riva"]


@pytest.mark.parametrize("part_size", [5 * MIB, 8 * MIB, 13 * MIB, 64 * MIB, GIB])
@pytest.mark.parametrize("write", [0, 1, 8 * MIB, 8 * MIB + 1, 24 * MIB, 99 * MIB, 525 * MIB, 5 * GIB])
def test_the_least_memory_works_and_less_does_not(part_size: int, write: int) -> None:
    least = least_memory(part_size, write)
    assert plan_memory(least, part_size).write_share >= write
    with pytest.raises((ConfigurationError, AssertionError)):
        assert plan_memory(least - MIB, part_size).write_share >= write


def zst(data: bytes, window: int) -> bytes:
    """``data`` in one zstd frame that asks for a window of ``window`` bytes."""
    params = zstandard.ZstdCompressionParameters.from_level(
        3, window_log=window.bit_length() - 1, write_content_size=0, write_checksum=1
    )
    out = zstandard.ZstdCompressor(compression_params=params).compressobj()
    return bytes(out.compress(data) + out.flush())


SIZES = {f"{index}.riva": 3 * MIB for index in range(5)}


@cache
def tar_of_models() -> bytes:
    """Made when a test asks for it: every worker reads this file, and one of them runs it."""
    draw = random.Random(1)
    return b"".join(member(name.encode(), draw.randbytes(size)) for name, size in SIZES.items()) + END


WINDOWS: dict[str, tuple[int, int, int, Callable[[bytes], bytes]]] = {
    "the first frame": (least_memory(SMALLEST_PART), SMALLEST_PART, 16 * MIB, lambda tar: zst(tar, 16 * MIB)),
    "a later frame": (
        least_memory(8 * MIB),
        8 * MIB,
        16 * MIB,
        lambda tar: zst(tar[: 4 * MIB], MIB) + zst(tar[4 * MIB :], 16 * MIB),
    ),
    "a long one": (256 * MIB, 8 * MIB, 128 * MIB, lambda tar: zst(tar, 128 * MIB)),
}


@pytest.mark.parametrize("case", WINDOWS)
async def test_a_zstd_window_that_the_memory_has_no_room_for_names_the_least_that_works(case: str) -> None:
    memory, part_size, window, pack = WINDOWS[case]
    archive = pack(tar_of_models())
    limits = Limits(zstd_window=window)
    with pytest.raises(ExceptionGroup) as caught:
        await Unpacking(memory, part_size, limits).run(archive)
    (error,) = caught.value.exceptions
    assert isinstance(error, ConfigurationError)
    (least,) = (int(text) for text in re.findall(r"memory (\d+)MiB", error.hint))
    assert least * MIB > memory
    unpacking = Unpacking(least * MIB, part_size, limits)
    await unpacking.run(archive)
    assert {name: sent.size for name, sent in unpacking.opened.items()} == SIZES
    assert unpacking.peak >= window, "the window is paid for"


@pytest.mark.parametrize("window", [MIB, 2 * MIB, 8 * MIB])
async def test_usual_zstd_windows_fit_the_least_memory(window: int) -> None:
    unpacking = Unpacking(least_memory(8 * MIB))
    await unpacking.run(zst(tar_of_models(), window))
    assert len(unpacking.opened) == len(SIZES)


async def test_members_go_on_as_they_are() -> None:
    unpacking = Unpacking(least_memory(8 * MIB))
    data: dict[str, Any] = {"a.riva": b"w" * 100_000, "b.riva": b"x" * (9 * MIB)}
    await unpacking.run(b"".join(member(name.encode(), body) for name, body in data.items()) + END)
    assert {name: sent.size for name, sent in unpacking.opened.items()} == {
        n: len(b) for n, b in data.items()
    }


async def test_a_member_that_an_earlier_run_has_begun_with_more_memory_is_refused_as_at_its_header() -> None:
    begun = Member("m/huge.riva", "huge.riva", 200 * GIB, 0, 512)
    earlier = ResumePoint(0, Digest(), None, Snapshot(b"", 0, 0, begun, 0, 0, ()), [], None, "")
    unpacking = Unpacking(least_memory(8 * MIB))
    with pytest.raises(ConfigurationError) as caught:
        await unpacking.unpacker().resume(earlier)
    assert caught.value.resumable, "with enough memory it goes on"
    assert "'m/huge.riva'" in caught.value.what
    part = request_of(8 * MIB).part_size_for(begun.size)
    assert f"{least_memory(8 * MIB, part) // MIB}MiB" in caught.value.hint
