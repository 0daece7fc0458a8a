"""Snapshots of the extractor: where they begin, what they may cost, and what is refused as one."""

from __future__ import annotations

import base64
import gzip
import io
import json
import random
import tarfile
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import zstandard
from isal import isal_zlib

from riva_stream.archive import Extractor, InvalidSnapshotError, Limits, MemberData, Snapshot, inflate
from riva_stream.errors import ArchiveError
from tests.archive.kit import END, MIB, extract, header, member, pad, pax, tar_of
from tests.archive.test_sparse import FORMS, sparse

RNG = random.Random(13)
TEXT = b" ".join(b"%d" % number for number in RNG.choices(range(4000), k=400_000))
TAR = tar_of({"small.riva": b"model" * 999, "large.riva": TEXT, "late.riva": b"m" * 3000})
BODY = member(b"x" * 40 + b".riva", TEXT)


def of_level(level: int) -> bytes:
    return gzip.compress(TAR, level, mtime=0)


def in_pieces(pack: Callable[[bytes], bytes]) -> bytes:
    return b"".join(pack(TAR[at : at + 65280]) for at in range(0, len(TAR), 65280))


ARCHIVES: dict[str, Callable[[], bytes]] = {
    "gzip -1": lambda: of_level(1),
    "gzip -6": lambda: of_level(6),
    "gzip -9": lambda: of_level(9),
    "gzip, stored": lambda: of_level(0),
    "bgzip": lambda: in_pieces(lambda part: gzip.compress(part, 6, mtime=0)),
    "zstd, several frames": lambda: in_pieces(zstandard.ZstdCompressor(3, write_checksum=True).compress),
    "zstd, one frame": lambda: zstandard.ZstdCompressor(3, write_checksum=True).compress(TAR),
    "plain": lambda: TAR,
}


@cache
def archive_of(name: str) -> bytes:
    """Made when a test asks for it: every worker reads this file, and one of them runs it."""
    return ARCHIVES[name]()


def advanced(archive: bytes, share: float, *, mark: bool = True, **options: Any) -> tuple[Snapshot, int]:
    """The first snapshot behind that share of the archive, and how much of it was pushed."""
    extractor = Extractor(**options)
    for at in range(0, len(archive), 50_000):
        extractor.push(archive[at : at + 50_000])
        if mark:
            extractor.mark()
        while not extractor.needs_input:
            extractor.pull(MIB)
        snapshot = extractor.snapshot()
        if at >= share * len(archive) and snapshot is not None:
            return snapshot, min(at + 50_000, len(archive))
    raise AssertionError("no snapshot")


def rest(data: bytes, archive: bytes, **options: Any) -> tuple[bytes, Any]:
    """What comes behind a snapshot, and the summary."""
    extractor, snapshot = Extractor.restore(data, **options)
    out = bytearray()
    extractor.push(archive[snapshot.offset :])
    while not extractor.needs_input:
        out += b"".join(event.data for event in extractor.pull(MIB) if isinstance(event, MemberData))
    return bytes(out), extractor.finish()


def changed(data: bytes, **values: Any) -> bytes:
    """The snapshot with other values: ``place__bit=3``."""
    document = json.loads(data)
    for path, value in values.items():
        *way, last = path.split("__")
        holder = document if way[:1] == ["top"] else document["state"]
        for key in way[1:] if way[:1] == ["top"] else way:
            holder = holder[key]
        holder[last] = value(holder[last]) if callable(value) else value
    return json.dumps(document).encode()


@pytest.mark.parametrize("name", ARCHIVES)
def test_it_begins_close_to_where_it_was_taken(name: str) -> None:
    archive = archive_of(name)
    snapshot, pushed = advanced(archive, 0.6)
    one_frame = name == "zstd, one frame"
    assert snapshot.offset == 0 if one_frame else pushed - 200_000 < snapshot.offset <= pushed
    assert one_frame or snapshot.repeated < 300_000
    assert snapshot.member is not None
    assert snapshot.member.name == "large.riva"
    assert [staged.member.name for staged in snapshot.staged] == ["small.riva"]
    assert len(snapshot.data) < 64_000
    out, summary = rest(snapshot.data, archive)
    assert out == (TEXT + b"m" * 3000)[snapshot.handed_over :]
    assert [staged.member.name for staged in summary.selected] == ["small.riva", "large.riva", "late.riva"]
    assert summary == rest(advanced(archive, 0.0, mark=False)[0].data, archive)[1]


@pytest.mark.parametrize("late", [False, True])
def test_a_block_is_looked_for_in_the_next_mib_and_no_further(late: bool) -> None:
    packer = isal_zlib.compressobj(0, 8, 31)
    noise = random.Random(2).randbytes(3 * MIB)
    tar = tar_of({"noise.riva": bytes(byte & 0x7F for byte in noise), "text.riva": TEXT})
    first = packer.compress(tar[: 3 * MIB]) + packer.flush(isal_zlib.Z_SYNC_FLUSH)
    archive = first + packer.compress(tar[3 * MIB :]) + packer.flush()
    assert len(first) > 2 * MIB
    extractor, offset = Extractor(), 0
    for at in range(0, len(archive), 100_000):
        if at in {0, 100_000} or (late and at == 2_600_000):
            extractor.mark()
        extractor.push(archive[at : at + 100_000])
        while not extractor.needs_input:
            extractor.pull(MIB)
        snapshot = extractor.snapshot()
        assert snapshot is not None
        offset = snapshot.offset
    # The flush is an empty stored block of five bytes, the last ones of what is in front.
    assert offset == (len(first) - 5 if late else 10)


@pytest.mark.parametrize("name", ["bgzip", "zstd, several frames", "plain"])
def test_members_frames_and_plain_bytes_need_no_mark(name: str) -> None:
    archive = archive_of(name)
    snapshot, pushed = advanced(archive, 0.6, mark=False)
    assert pushed - 200_000 < snapshot.offset <= pushed


def test_without_a_mark_a_gzip_of_one_member_begins_at_its_start() -> None:
    snapshot, _ = advanced(archive_of("gzip -6"), 0.6, mark=False)
    assert snapshot.offset == 0
    assert rest(snapshot.data, archive_of("gzip -6"))[0] == (TEXT + b"m" * 3000)[snapshot.handed_over :]


@pytest.mark.parametrize("at", [1, 511, 4096, 100_000, 1_000_000, len(TEXT)])
@pytest.mark.parametrize("name", ["gzip -6", "plain"])
def test_a_pull_stops_at_a_byte_of_the_member(name: str, at: int) -> None:
    archive = archive_of(name)
    extractor = Extractor(include=["large.riva"])
    extractor.mark()
    seen = bytearray()
    extractor.push(archive)
    while len(seen) < at:
        events = extractor.pull(MIB, until=at)
        seen += b"".join(event.data for event in events if isinstance(event, MemberData))
    assert seen == TEXT[:at]
    snapshot = extractor.snapshot()
    assert snapshot is not None
    assert snapshot.handed_over == (at if at < len(TEXT) else 0)
    assert rest(snapshot.data, archive, include=["large.riva"])[0] == TEXT[at:]
    while not extractor.needs_input:
        seen += b"".join(e.data for e in extractor.pull(MIB, until=at) if isinstance(e, MemberData))
    assert seen == TEXT


def test_a_window_of_zstd_is_paid_for_after_a_restore_once_a_frame_asks_for_it() -> None:
    archive = archive_of("zstd, several frames")
    extractor = Extractor()
    extractor.push(archive[: len(archive) // 2])
    while not extractor.needs_input:
        extractor.pull(MIB)
    snapshot = extractor.snapshot()
    assert snapshot is not None
    restored, place = Extractor.restore(snapshot.data)
    assert restored.window == 0  # nobody holds one yet, whatever the snapshot says
    restored.push(archive[place.offset :])
    while not restored.needs_input:
        restored.pull(MIB)
    assert restored.window == extractor.window > 0


def test_a_snapshot_can_be_taken_again_right_after_a_restore() -> None:
    archive = archive_of("gzip -6")
    first, _ = advanced(archive, 0.3)
    extractor, _ = Extractor.restore(first.data)
    extractor.push(archive[first.offset :])
    assert extractor.snapshot() is None  # not before it is where the first one was
    extractor.mark()
    extractor.pull(MIB, until=first.handed_over + 1)
    second = extractor.snapshot()
    assert second is not None
    assert second.handed_over == first.handed_over + 1
    assert rest(second.data, archive)[0] == rest(first.data, archive)[0][1:]


def test_headers_that_are_too_large_to_keep_are_no_place() -> None:
    named = pax((b"path", b"a/" * 180_000 + b"x.riva"), (b"comment", b"c" * 5000))
    archive = named + member(b"short") + member(b"y.riva") + END
    extractor, sizes = Extractor(include=["y.riva"]), []
    for at in range(0, len(archive), 9000):
        extractor.push(archive[at : at + 9000])
        while not extractor.needs_input:
            extractor.pull(MIB)
        snapshot = extractor.snapshot()
        sizes.append(len(snapshot.data) if snapshot else 0)
        if snapshot:
            assert rest(snapshot.data, archive, include=["y.riva"])[1].members == 2
    assert 0 in sizes
    assert 200_000 < max(sizes) < 300_000


def test_the_size_of_a_snapshot_is_bounded_however_much_there_is() -> None:
    names = [b"d%d/" % n + b"n" * 80 + b".txt" for n in range(3000)]
    archive = b"".join(member(name, b"") for name in names) + BODY + END
    snapshot, _ = advanced(gzip.compress(archive, 6, mtime=0), 0.5)
    document = json.loads(snapshot.data)
    assert len(document["found"]["listing"]) == Limits().listing
    assert len(snapshot.data) - len(json.dumps(document["found"])) < 256 << 10
    assert len(snapshot.data) < 400 << 10


def test_there_is_none_before_the_tar_has_begun() -> None:
    extractor = Extractor()
    assert extractor.snapshot() is None
    extractor.push(TAR[:100])
    assert extractor.snapshot() is None
    other = Extractor()
    other.push(archive_of("gzip -6")[:30])
    other.pull(10)
    assert other.snapshot() is None


def test_there_is_none_after_a_refusal() -> None:
    extractor = Extractor()
    extractor.push(header(b"x.riva", 9) + pad(b"") + b"\1" * 1024)
    with pytest.raises(ArchiveError):
        extractor.pull(MIB)
    assert extractor.snapshot() is None


@pytest.mark.parametrize(
    "options",
    [{"include": ["*"]}, {"limits": Limits(members=7)}, {"allow_missing_end": True}],
)
def test_other_options_are_refused(options: dict[str, Any]) -> None:
    snapshot, _ = advanced(archive_of("gzip -6"), 0.5)
    with pytest.raises(InvalidSnapshotError):
        Extractor.restore(snapshot.data, **options)
    with pytest.raises(InvalidSnapshotError):
        Extractor.restore(advanced(archive_of("gzip -6"), 0.5, **options)[0].data)


def without_a_byte(text: str) -> str:
    return base64.b64encode(base64.b64decode(text)[1:]).decode()


@pytest.mark.parametrize(
    "change",
    [
        {"top__version": 1},
        {"top__version": 3},
        {"top__more": 1},
        {"place__window": without_a_byte},
        {"place__window": ""},
        {"place__bit": 8},
        {"place__size": lambda size: size + 1_000_000},
        {"place__offset": 0},
        {"place__produced": lambda produced: produced + 1_000_000},
        {"place__format": "tar"},
        {"walk__written": lambda written: written - 1},
        {"walk__at": lambda at: at + 1},
        {"walk__data": lambda data: data + 1_000_000},
        {"walk__step": "skip"},
        {"walk__entry": None},
        {"selection__member": None},
        {"selection__entries": True},
        {"selection__inside__seen": lambda seen: seen + 1},
        {"selection__inside__head": ""},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_cannot_be_is_refused(change: dict[str, Any]) -> None:
    snapshot, _ = advanced(archive_of("gzip -6"), 0.5)
    Extractor.restore(changed(snapshot.data))
    with pytest.raises(InvalidSnapshotError):
        Extractor.restore(changed(snapshot.data, **change))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("include", [["s.bin"], ["x.riva"]])
def test_a_snapshot_within_a_sparse_map_keeps_what_the_map_is_checked_against(
    form: str, include: list[str]
) -> None:
    stretches = [(1024 * index, 512) for index in range(60)] + [(61_440, 0)]
    body = member(b"x.riva") + END
    sound = sparse(form, b"s.bin", stretches, 61_440, 60 * 512) + body
    wrong = sparse(form, b"s.bin", stretches, 61_440, 59 * 512) + body
    outside = sparse(form, b"s.bin", stretches, 61_439, 60 * 512) + body
    expected = extract(sound, include=include).summary
    for at in range(100, 5000, 100):
        assert rest(at_byte(sound, at, include), sound, include=include)[1] == expected
        for archive, reason in (
            (wrong, "30720 bytes of data, its header 30208"),
            (outside, "leaves the 61439"),
        ):
            with pytest.raises(ArchiveError, match=reason):
                rest(at_byte(archive, at, include), archive, include=include)


def at_byte(archive: bytes, at: int, include: list[str]) -> bytes:
    """A snapshot at this byte of a plain tar."""
    extractor = Extractor(include=include)
    extractor.push(archive[:at])
    while not extractor.needs_input:
        extractor.pull(MIB)
    snapshot = extractor.snapshot()
    return snapshot.data if snapshot else at_byte(archive, at + 100, include)


@pytest.mark.parametrize("real", [None, 61_439])
def test_a_sparse_map_without_its_size_or_with_another_is_no_snapshot(real: int | None) -> None:
    stretches = [(1024 * index, 512) for index in range(60)] + [(61_440, 0)]
    archive = sparse("pax 1.0", b"s.riva", stretches, 61_440, 60 * 512) + END
    data = at_byte(archive, 1800, ["*.riva"])
    assert json.loads(data)["state"]["walk"]["step"] == "new-map"
    Extractor.restore(data)
    with pytest.raises(InvalidSnapshotError):
        Extractor.restore(changed(data, walk__real=real))


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{}", b"\xff", b"[" * 100_000])
def test_what_is_no_snapshot_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidSnapshotError):
        Extractor.restore(data)


@pytest.mark.parametrize(
    "change",
    [
        {"place__bit": lambda bit: bit ^ 1},
        {"place__bit": lambda bit: bit ^ 4},
        {"place__offset": lambda offset: offset + 1},
        {"place__offset": lambda offset: offset - 1},
        {"place__crc": lambda crc: crc ^ 1},
        {"place__size": lambda size: size - 1},
        {"place__window": lambda text: base64.b64encode(base64.b64decode(text)[::-1]).decode()},
    ],
    ids=["a bit", "four bits", "a byte later", "a byte earlier", "the CRC", "the length", "the window"],
)
def test_a_wrong_place_in_a_gzip_is_found_before_the_archive_ends(change: dict[str, Any]) -> None:
    snapshot, _ = advanced(archive_of("gzip -6"), 0.5)
    with pytest.raises(ArchiveError):
        rest(changed(snapshot.data, **change), archive_of("gzip -6"))


def test_without_the_symbols_it_begins_at_members_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, _ = advanced(archive_of("gzip -6"), 0.5)
    monkeypatch.setattr(inflate, "_library", lambda: "there are none")
    one, _ = advanced(archive_of("gzip -6"), 0.5)
    assert one.offset == 0
    assert rest(one.data, archive_of("gzip -6"))[0] == (TEXT + b"m" * 3000)[one.handed_over :]
    many, pushed = advanced(archive_of("bgzip"), 0.5)
    assert pushed - 200_000 < many.offset <= pushed
    assert rest(many.data, archive_of("bgzip"))[0] == (TEXT + b"m" * 3000)[many.handed_over :]
    with pytest.raises(InvalidSnapshotError, match="there are none"):
        Extractor.restore(inside.data)


def test_an_archive_that_ends_before_the_snapshot_is_cut() -> None:
    snapshot, _ = advanced(archive_of("plain"), 0.5)
    with pytest.raises(ArchiveError, match="cut"):
        rest(snapshot.data, TAR[: snapshot.offset + 100])
    packed = zlib.compressobj(6, zlib.DEFLATED, 31)
    short = packed.compress(TAR[: len(TAR) // 4]) + packed.flush()
    one, _ = advanced(archive_of("gzip -6"), 0.5, mark=False)
    with pytest.raises(ArchiveError):
        rest(one.data, short)


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


def until_inside(archive: bytes, handed_over: int, **options: Any) -> Snapshot:
    """A snapshot in a member, of which so much was handed over."""
    extractor = Extractor(**options)
    for at in range(0, len(archive), 1 << 16):
        extractor.push(archive[at : at + (1 << 16)])
        while not extractor.needs_input:
            extractor.pull(1 << 17)
            found = extractor.snapshot()
            if found is not None and found.handed_over >= handed_over:
                return found
    raise AssertionError("no snapshot")


@pytest.mark.parametrize("name", ["gzip", "zstd", "plain"])
def test_a_resumed_archive_is_no_bomb_where_the_whole_one_is_none(name: str) -> None:
    """Holes behind the decoder's place were counted from the beginning, the bytes of the archive that they go with were not."""
    tar = sparse_of(noise=102_400, hole=9 * MIB, more=2 * MIB)
    packed = {"gzip": gzip.compress(tar, 1, mtime=0), "zstd": zstandard.compress(tar), "plain": tar}
    limits = Limits(ratio=100.0, ratio_floor=8 * MIB)
    snapshot = until_inside(packed[name], 9 * MIB, limits=limits)
    extractor, _ = Extractor.restore(snapshot.data, limits=limits)
    again = extractor.snapshot()
    assert again is None or again.consumed == snapshot.consumed
    out, summary = rest(snapshot.data, packed[name], limits=limits)
    assert len(out) == 11 * MIB - snapshot.handed_over
    assert summary.expanded_bytes == len(tar) + 9 * MIB


def test_a_resumed_bomb_is_one() -> None:
    tar = tar_of({"large.riva": TEXT, "zeros.riva": b"0" * (40 * MIB)})
    archive, limits = gzip.compress(tar, 6, mtime=0), Limits(ratio=20.0, ratio_floor=MIB)
    snapshot = until_inside(archive, 30_000, limits=limits)
    with pytest.raises(ArchiveError, match="bomb"):
        rest(snapshot.data, archive, limits=limits)


def most_of_a_snapshot(archive: bytes) -> tuple[int, Any]:
    """Bytes of the largest one on the way, and what the archive was found to be."""
    extractor, most = Extractor(), 0
    for at in range(0, len(archive), 1 << 20):
        extractor.push(archive[at : at + (1 << 20)])
        while not extractor.needs_input:
            extractor.pull(1 << 20)
        found = extractor.snapshot()
        if found is not None:
            Extractor.restore(found.data)
            most = max(most, len(found.data))
    return most, extractor.finish()


def test_names_inside_the_models_are_bounded_together() -> None:
    inner = tar_of({f"{n:03d}-{'x' * 190}": b"" for n in range(190)})
    most, summary = most_of_a_snapshot(b"".join(member(b"m%d.riva" % n, inner) for n in range(60)) + END)
    assert 2000 * 190 < most < (256 << 10) + 1000 * 300
    inside = [staged.inside for staged in summary.selected]
    assert [len(found.files) for found in inside] == [190] * 10 + [100] + [0] * 49
    assert {len(found.files) + found.more_files for found in inside} == {190}


def test_an_archive_of_very_many_models_has_no_snapshots_in_the_end() -> None:
    names = [b"d/" * 400 + b"%d.riva" % n for n in range(900)]
    packed = b"".join(pax((b"path", name)) + member(b"short", b"m") for name in names) + END
    most, summary = most_of_a_snapshot(packed)
    assert 500 << 10 < most <= 1 << 20
    assert len(summary.selected) == 900


@pytest.mark.parametrize("value", [{}, "a", "\\", '"', "[", "\x01", "\U0001f600"], ids=repr)
def test_a_document_that_is_too_large_is_refused_whatever_is_in_it(value: Any) -> None:
    snapshot, _ = advanced(archive_of("gzip -6"), 0.5)
    document = json.loads(snapshot.data)
    document["found"]["listing"] = [value] * 140_000
    with pytest.raises(InvalidSnapshotError):
        Extractor.restore(json.dumps(document).encode())
    with pytest.raises(InvalidSnapshotError):
        Extractor.restore(json.dumps(document).encode()[:-3])  # in the middle of a string


def test_names_of_brackets_are_no_values() -> None:
    archive = b"".join(member(b"[{," * 40 + b'"\\%d.txt' % n) for n in range(990)) + BODY + END
    snapshot, _ = advanced(archive, 0.5)
    assert len(Extractor.restore(snapshot.data)[0].snapshot().data) > 100_000  # type: ignore[union-attr]


@pytest.mark.parametrize("include", [["*.bin", "large.riva"], ["large.riva", "*.bin", "*.bin"]])
def test_the_order_of_patterns_means_nothing(include: list[str]) -> None:
    snapshot, _ = advanced(archive_of("gzip -6"), 0.5, include=["large.riva", "*.bin"])
    assert rest(snapshot.data, archive_of("gzip -6"), include=include)[1].members == 3


def test_a_limit_may_be_without_end() -> None:
    limits = Limits(ratio=float("inf"))
    snapshot, _ = advanced(archive_of("gzip -6"), 0.5, limits=limits)
    assert rest(snapshot.data, archive_of("gzip -6"), limits=limits)[1].members == 3
    with pytest.raises(InvalidSnapshotError):
        Extractor.restore(snapshot.data)
