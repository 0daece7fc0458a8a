"""Sparse members: every format GNU tar writes, expanded exactly; every map that could be read in two ways, refused."""

from __future__ import annotations

import gzip
import random
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from riva_stream.archive import Limits
from riva_stream.archive.pax import Pax
from riva_stream.archive.sparse import pax_sparse
from riva_stream.errors import ArchiveError
from tests.archive.kit import (
    END,
    MIB,
    OLD_GNU,
    extract,
    gnu_tar,
    header,
    member,
    needed,
    pad,
    pax,
    refusal,
    seal,
)

MAPS = {
    "hole in front": [(8192, 4096)],
    "hole behind": [(0, 5000)],
    "holes everywhere": [(4096, 4096), (40_960, 4096), (200_000 // 4096 * 4096, 300)],
    "many stretches": [(i * 12_288, 4096) for i in range(1, 120)],
    "data to the end": [(1 << 20, 4097)],
    "only a hole": [],
}
WRITERS = {
    "old gnu": ["--format=oldgnu"],
    "gnu": ["--format=gnu"],
    "pax 0.0": ["--format=posix", "--sparse-version=0.0"],
    "pax 0.1": ["--format=posix", "--sparse-version=0.1"],
    "pax 1.0": ["--format=posix", "--sparse-version=1.0"],
}


def make_sparse(path: Path, stretches: list[tuple[int, int]], size: int) -> bytes:
    rng = random.Random(size)
    with path.open("wb") as out:
        for offset, length in stretches:
            out.seek(offset)
            out.write(rng.randbytes(length))
        out.truncate(max(size, out.tell()))
    return path.read_bytes()


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("shape", MAPS)
def test_what_gnu_tar_writes_is_expanded_exactly(writer: str, shape: str, tmp_path: Path) -> None:
    stretches = MAPS[shape]
    expected = make_sparse(tmp_path / "s.bin", stretches, 2 * MIB if shape != "data to the end" else 0)
    (tmp_path / "after.riva").write_bytes(b"model")
    command = [needed("tar", "tar"), "-cSf", "-", *WRITERS[writer], "s.bin", "after.riva"]
    data = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True).stdout
    assert len(data) < len(expected)
    for cuts, max_output in ((1009, 5000), (None, MIB)):
        files = extract(data, include=["*.bin", "*.riva"], cuts=cuts, max_output=max_output).files
        assert files == {"s.bin": expected, "after.riva": b"model"}
    assert extract(data, cuts=700).files == {"after.riva": b"model"}, "what is not asked for is skipped whole"
    assert gnu_tar(data, tmp_path / "t").files["s.bin"] == expected


@pytest.mark.parametrize("shape", MAPS)
def test_what_bsdtar_writes_is_expanded_exactly_or_refused_by_name(shape: str, tmp_path: Path) -> None:
    expected = make_sparse(tmp_path / "s.bin", MAPS[shape], 2 * MIB if shape != "data to the end" else 0)
    command = [needed("bsdtar", "libarchive-tools"), "--format=pax", "--read-sparse", "-cf", "-", "s.bin"]
    data = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True).stdout
    theirs = gnu_tar(data, tmp_path / "t").files["s.bin"]
    assert theirs == expected
    assert extract(data, include=["*.bin"]).files == {"s.bin": expected}


def old_gnu(entries: list[tuple[int, int]], real: int, *, more: bool = False) -> bytes:
    field = b"".join(b"%011o\0%011o\0" % entry for entry in entries)
    return field.ljust(96, b"\0") + bytes([more]) + b"%011o\0" % real


def sparse_member(entries: list[tuple[int, int]], real: int, data: bytes, **fields: Any) -> bytes:
    head = header(b"s.riva", len(data), b"S", magic=OLD_GNU, gnu=old_gnu(entries, real), **fields)
    return head + pad(data)


def test_a_map_made_by_hand(tmp_path: Path) -> None:
    data = sparse_member([(512, 512), (2048, 0)], 2048, b"a" * 512) + END
    assert extract(data).files == {"s.riva": bytes(512) + b"a" * 512 + bytes(1024)}
    assert gnu_tar(data, tmp_path / "t").files == extract(data).files


REFUSED = {
    "overlap": ([(0, 1024), (512, 1024), (4096, 0)], 4096, 2048, "overlaps"),
    "backwards": ([(2048, 512), (0, 512), (4096, 0)], 4096, 1024, "out of order"),
    "beyond the file": ([(0, 512), (4096, 512)], 4096, 1024, "leaves the 4096 bytes"),
    "stretch not of whole blocks": ([(0, 100), (512, 100), (4096, 0)], 4096, 1024, "multiple of 512"),
    "ends early": ([(0, 512)], 4096, 512, "ends at byte 512 of 4096"),
    "less data than the map": ([(0, 1024), (4096, 0)], 4096, 512, "1024 bytes of data, its header 512"),
    "more data than the map": ([(0, 512), (4096, 0)], 4096, 1024, "512 bytes of data, its header 1024"),
}


MOVES_THE_WALK = {"beyond the file", "less data than the map", "more data than the map"}
"""GNU tar may look for the next header at another place, so these matter even if nobody wants the member."""


@pytest.mark.parametrize("what", REFUSED)
def test_a_map_that_readers_would_take_differently_is_refused_by_name(what: str, tmp_path: Path) -> None:
    entries, real, stored, reason = REFUSED[what]
    data = sparse_member(entries, real, b"d" * stored) + member(b"x") + END
    text = refusal(data)
    assert "'s.riva'" in text
    assert reason in text
    if what in MOVES_THE_WALK:
        assert refusal(data, include=["x"]) == text
    else:
        assert extract(data, include=["x"]).files == {"x": gnu_tar(data, tmp_path / "t").files["x"]}


FORMS = ["old gnu", "pax 0.0", "pax 0.1", "pax 1.0"]


def sparse(form: str, name: bytes, entries: list[tuple[int, int]], real: int, stored: int) -> bytes:
    """A sparse member whose header says that ``stored`` bytes of data follow its map; as many whole blocks do."""
    data = pad(b"d" * stored)
    if form == "old gnu":
        first = header(
            name, stored, b"S", magic=OLD_GNU, gnu=old_gnu(entries[:4], real, more=len(entries) > 4)
        )
        return first + more_of_old_gnu(entries[4:]) + data
    numbers = [b"%d" % number for entry in entries for number in entry]
    records = [(b"GNU.sparse.realsize", b"%d" % real), (b"GNU.sparse.name", name)]
    if form == "pax 1.0":
        text = pad(b"\n".join([b"%d" % len(entries), *numbers, b""]))
        records += [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")]
        return pax(*records) + header(b"GNUSparseFile.0/s", max(0, len(text) + stored)) + text + data
    records.append((b"GNU.sparse.numblocks", b"%d" % len(entries)))
    if form == "pax 0.1":
        records.append((b"GNU.sparse.map", b",".join(numbers)))
    else:
        keywords = [b"GNU.sparse.offset", b"GNU.sparse.numbytes"] * len(entries)
        records += zip(keywords, numbers, strict=True)
    return pax(*records) + header(b"GNUSparseFile.0/s", stored) + data


def more_of_old_gnu(entries: list[tuple[int, int]]) -> bytes:
    blocks = b""
    while entries:
        field = b"".join(b"%011o\0%011o\0" % entry for entry in entries[:21])
        entries = entries[21:]
        blocks += (field.ljust(504, b"\0") + bytes([bool(entries)])).ljust(512, b"\0")
    return blocks


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("mapped", "stored"), [(100, 200), (200, 100), (512, 1), (1, 512)])
@pytest.mark.parametrize("cuts", [1, 317, None])
def test_a_map_and_a_header_that_end_in_the_same_block_have_the_same_next_header(
    form: str, mapped: int, stored: int, cuts: int | None, tmp_path: Path
) -> None:
    data = sparse(form, b"s.riva", [(0, mapped)], mapped, stored) + member(b"after.riva") + END
    theirs = gnu_tar(data, tmp_path / "t")
    assert (theirs.code, set(theirs.files)) == (0, {"s.riva", "after.riva"})
    assert extract(data, cuts=cuts).files == theirs.files
    assert extract(data, cuts=cuts, include=["after*"]).files == {"after.riva": b"model"}


@pytest.mark.parametrize("form", FORMS)
def test_a_map_of_more_than_the_member_has_moves_gnu_tar_past_the_next_header(
    form: str, tmp_path: Path
) -> None:
    hidden = header(b"hidden.riva", 512) + header(b"junk.txt")
    data = sparse(form, b"s.bin", [(0, 1024)], 1024, 512) + hidden + END
    assert set(gnu_tar(data, tmp_path / "t").files) == {"s.bin", "junk.txt"}
    for include in (["*.riva"], ["s.bin"]):
        for cuts in (1, None):
            text = refusal(data, include=include, cuts=cuts)
            assert "'s.bin'" in text
            assert "its sparse map has 1024 bytes of data, its header 512" in text


@pytest.mark.parametrize("include", [["s.bin"], ["x.riva"]])
def test_a_member_shorter_than_the_map_in_front_of_its_data_is_refused(include: list[str]) -> None:
    data = sparse("pax 1.0", b"s.bin", [(2048, 0)], 2048, -412) + member(b"x.riva") + END
    assert "its sparse map is 412 bytes longer than the member" in refusal(data, include=include)


@pytest.mark.parametrize("text", [b"x\n", b"1\n-1\n512\n", b"1\n0\n5x\n", b"2" * 512])
def test_a_malformed_map_in_front_of_data_that_nobody_wants_is_refused(text: bytes) -> None:
    refused_map = refusal(member(b"x.riva") + version_1_0(text, b"d" * 512, 2048), include=["x.riva"])
    assert "sparse" in refused_map
    assert "'s.riva'" in refused_map


def test_pax_sparse_records_before_a_header_that_gnu_tar_takes_for_stars(tmp_path: Path) -> None:
    records = pax(
        (b"GNU.sparse.size", b"2048"), (b"GNU.sparse.numblocks", b"1"), (b"GNU.sparse.map", b"0,512")
    )
    head = bytearray(header(b"s.bin", 512))
    head[476:500] = b"00000000000 " * 2
    data = records + seal(bytes(head)) + pad(b"d" * 512) + member(b"x.riva") + END
    assert "x.riva" not in gnu_tar(data, tmp_path / "t").files  # it reads 2048 bytes
    assert "not a regular pax member" in refusal(data)


def test_a_damaged_old_map_is_refused() -> None:
    head = header(b"s.riva", 512, b"S", magic=OLD_GNU, gnu=b"x" * 24)
    assert "sparse map has" in refusal(head + pad(b"d" * 512) + END)
    head = header(b"s.riva", 512, b"S", magic=OLD_GNU, gnu=old_gnu([(0, 512)], 512, more=True))
    assert "marked as continued" in refusal(head + bytes(1024) + END)
    head = header(
        b"s.riva", 512, b"S", magic=OLD_GNU, gnu=old_gnu([(i * 512, 128) for i in range(4)], 512, more=True)
    )
    assert "continued" in refusal(head + (bytes(504) + b"\1").ljust(512, b"\0") * 3 + END)


def test_stars_own_sparse_format_is_refused_by_name() -> None:
    assert "star" in refusal(header(b"s.riva", 0, b"S") + END)


PAX_MAPS = {
    "no real size": [(b"GNU.sparse.map", b"0,512"), (b"GNU.sparse.numblocks", b"1")],
    "unknown version": [
        (b"GNU.sparse.major", b"2"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.realsize", b"5"),
    ],
    "odd number of numbers": [
        (b"GNU.sparse.size", b"512"),
        (b"GNU.sparse.numblocks", b"1"),
        (b"GNU.sparse.map", b"0,512,3"),
    ],
    "count differs": [
        (b"GNU.sparse.size", b"512"),
        (b"GNU.sparse.numblocks", b"2"),
        (b"GNU.sparse.map", b"0,512"),
    ],
    "no count": [(b"GNU.sparse.size", b"512"), (b"GNU.sparse.map", b"0,512")],
    "two offsets in a row": [
        (b"GNU.sparse.size", b"512"),
        (b"GNU.sparse.numblocks", b"1"),
        (b"GNU.sparse.offset", b"0"),
        (b"GNU.sparse.offset", b"512"),
    ],
    "not a number": [
        (b"GNU.sparse.size", b"512"),
        (b"GNU.sparse.numblocks", b"1"),
        (b"GNU.sparse.map", b"0,x"),
    ],
}


SIZE, TWO = (b"GNU.sparse.size", b"1024"), (b"GNU.sparse.numblocks", b"2")
MAP = (b"GNU.sparse.map", b"0,512,1024,0")
PAIRS = [
    (b"GNU.sparse.offset", b"0"),
    (b"GNU.sparse.numbytes", b"512"),
    (b"GNU.sparse.offset", b"1024"),
    (b"GNU.sparse.numbytes", b"0"),
]
ONE_ZERO = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")]
OUT_OF_ORDER = {
    "map before its length": [SIZE, MAP, TWO],
    "map before its second length": [SIZE, TWO, MAP, TWO],
    "pairs before their length": [SIZE, *PAIRS, TWO],
    "map, then pairs": [SIZE, TWO, MAP, *PAIRS],
    "pairs, then map": [SIZE, TWO, *PAIRS, MAP],
    "pairs around the length": [SIZE, *PAIRS[:2], TWO, *PAIRS[2:]],
    "lengths before offsets": [SIZE, TWO, PAIRS[1], PAIRS[0], PAIRS[3], PAIRS[2]],
    "an offset without a length": [SIZE, TWO, *PAIRS[:3]],
    "a map of 0.1 and one of 1.0": [SIZE, TWO, MAP, *ONE_ZERO],
    "pairs and a map of 1.0": [SIZE, *ONE_ZERO, TWO, *PAIRS],
    "two real sizes": [SIZE, (b"GNU.sparse.realsize", b"512"), TWO, MAP],
}


@pytest.mark.parametrize("what", OUT_OF_ORDER)
@pytest.mark.parametrize("include", ["s.riva", "x.riva"])
def test_pax_sparse_records_out_of_order_or_mixed_are_refused(what: str, include: str) -> None:
    text = pad(b"2\n0\n512\n1024\n0\n") if "1.0" in what else b""
    data = pax(*OUT_OF_ORDER[what]) + member(b"s.riva", text + b"d" * 512) + member(b"x.riva") + END
    assert "'s.riva'" in refusal(data, include=[include])


@pytest.mark.parametrize("records", [[], [(b"GNU.sparse.map", b"")]])
@pytest.mark.parametrize("include", ["s.riva", "x.riva"])
def test_an_empty_map_is_refused_since_gnu_tar_reads_the_real_size_instead(
    records: list[tuple[bytes, bytes]], include: str, tmp_path: Path
) -> None:
    records = [(b"GNU.sparse.size", b"512"), (b"GNU.sparse.numblocks", b"0"), *records]
    data = pax(*records) + header(b"s.riva", 0) + member(b"x.riva", b"m" * 512) + END
    assert gnu_tar(data, tmp_path / "t").files["s.riva"] == header(b"x.riva", 512)
    assert "its sparse map is empty" in refusal(data, include=[include])


@pytest.mark.parametrize("numbers", [349_000, 87_380])
def test_numbers_of_a_map_are_counted_before_they_are_held(numbers: int) -> None:
    value = b",".join([b"12"] * numbers)
    records = ((b"realsize", b"512"), (b"numblocks", b"%d" % (numbers // 2)), (b"map", value))
    limit = len(value) if numbers > 100_000 else len(value) * 2
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveError, match="entries; at most"):
            pax_sparse(Pax(sparse=records), limit, "the member")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize("what", PAX_MAPS)
def test_pax_maps_that_do_not_add_up_are_refused(what: str) -> None:
    text = refusal(pax(*PAX_MAPS[what]) + header(b"s.riva", 512) + bytes(512) + END)
    assert "'s.riva'" in text


def version_1_0(text: bytes, data: bytes, real: int) -> bytes:
    records = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")]
    records += [(b"GNU.sparse.name", b"s.riva"), (b"GNU.sparse.realsize", b"%d" % real)]
    return pax(*records) + member(b"GNUSparseFile.0/s.riva", pad(text) + data) + END


def test_the_map_in_front_of_the_data() -> None:
    assert extract(version_1_0(b"2\n512\n512\n2048\n0\n", b"d" * 512, 2048)).files == {
        "s.riva": bytes(512) + b"d" * 512 + bytes(1024)
    }
    assert "does not begin with a number" in refusal(version_1_0(b"2" * 512, b"d" * 512, 2048))
    assert "is not a size" in refusal(version_1_0(b"x\n", b"d" * 512, 2048))
    assert "is not a size" in refusal(version_1_0(b"1\n-1\n512\n", b"d" * 512, 2048))
    assert "entries; at most" in refusal(version_1_0(b"999999999\n", b"d" * 512, 2048))
    limits = Limits(header_bytes=2048)
    assert "longer than 2048" in refusal(version_1_0(b"2\n" + b"0" * 5000, b"d" * 512, 2048), limits=limits)
    assert "s.riva" in refusal(version_1_0(b"9\n0\n", b"d" * 512, 2048)), "a map that runs into what follows"


def test_pax_sparse_records_in_a_header_that_cannot_have_them_are_refused() -> None:
    records = pax((b"GNU.sparse.size", b"512"), (b"GNU.sparse.numblocks", b"0"), (b"GNU.sparse.map", b""))
    assert "not a regular pax member" in refusal(records + header(b"s.riva", 0, magic=OLD_GNU) + END)
    assert "not a regular pax member" in refusal(records + header(b"s.riva", 0, b"2") + END)


def test_holes_are_output_and_counted_as_such() -> None:
    limits = Limits(ratio_floor=10 * MIB)
    bomb = sparse_member([(1 << 40, 0)], 1 << 40, b"") + END
    text = refusal(gzip.compress(bomb), limits=limits)
    assert "over 100 times" in text
    assert "'s.riva'" in text
    assert "over 1048576 bytes" in refusal(bomb, limits=Limits(expanded_bytes=MIB))


def test_output_in_holes_is_bounded() -> None:
    data = sparse_member([(30 * MIB, 512)], 30 * MIB + 512, b"d" * 512) + END
    result = extract(data, max_output=300_000)
    assert result.largest <= 300_000
    assert result.files["s.riva"] == bytes(30 * MIB) + b"d" * 512
    assert result.summary.expanded_bytes == len(data) + 30 * MIB
