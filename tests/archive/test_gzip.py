"""gzip: several members, every header field, padding; and every kind of damage."""

from __future__ import annotations

import gzip
import random
import struct
import zlib
from itertools import pairwise

import pytest

from tests.archive.kit import END, MIB, cut_at, extract, member, pad, refusal, tar_of

TAR = tar_of({"a.riva": random.Random(1).randbytes(3000), "b.riva": b"weights" * 100})
FILES = extract(TAR).files


def gz(data: bytes, *, flags: int = 0, fields: bytes = b"", level: int = 6) -> bytes:
    """One gzip member; ``fields`` are its optional header fields, FHCRC excepted, which is computed."""
    head = b"\x1f\x8b\x08" + bytes([flags]) + b"\1\2\3\4\0\3" + fields
    if flags & 2:
        head += struct.pack("<H", zlib.crc32(head) & 0xFFFF)
    deflate = zlib.compressobj(level, zlib.DEFLATED, -15)
    body = deflate.compress(data) + deflate.flush()
    return head + body + struct.pack("<II", zlib.crc32(data), len(data))


EXTRA = struct.pack("<H", 300) + b"e" * 300
HEADERS = {
    "plain": (0, b""),
    "name": (8, b"model.tar\0"),
    "empty name": (8, b"\0"),
    "extra": (4, EXTRA),
    "empty extra": (4, b"\0\0"),
    "comment": (16, b"made by hand\0"),
    "header crc": (2, b""),
    "text flag": (1, b""),
    "all of them": (31, EXTRA + b"model.tar\0" + b"made by hand\0"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_each_header_field_cut_at_every_byte(case: str) -> None:
    flags, fields = HEADERS[case]
    data = gz(TAR, flags=flags, fields=fields)
    for cut in range(1, len(data) - len(gz(TAR)) + 12):
        assert extract(data, cuts=cut_at(cut)).files == FILES
    result = extract(data, cuts=1)
    assert result.files == FILES
    assert result.summary.container == "gzip"
    assert result.summary.checksum == "gzip-crc32"


@pytest.mark.parametrize("case", HEADERS)
def test_a_second_member_with_each_header_field(case: str) -> None:
    flags, fields = HEADERS[case]
    second = gz(TAR[700:], flags=flags, fields=fields)
    data = gz(TAR[:700]) + second
    edge = len(data) - len(second)
    for cut in range(edge - 12, edge + len(fields) + 14):
        assert extract(data, cuts=cut_at(cut)).files == FILES


@pytest.mark.parametrize("cuts", [1, 7, 512, None])
def test_many_members_empty_ones_among_them(cuts: int | None) -> None:
    rng = random.Random(2)
    edges = sorted({0, len(TAR), *(rng.randrange(len(TAR)) for _ in range(60))})
    data = b"".join(gz(TAR[a:b]) + gz(b"") for a, b in pairwise(edges))
    assert extract(data, cuts=cuts).files == FILES


def test_as_pigz_and_bgzip_and_cat_write_it() -> None:
    blocks = [gz(TAR[i : i + 600], flags=4, fields=b"\6\0BC\2\0\0\0") for i in range(0, len(TAR), 600)]
    bgzip_end = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
    assert extract(b"".join(blocks) + bgzip_end).files == FILES
    assert extract(gzip.compress(TAR[:5000]) + gzip.compress(TAR[5000:])).files == FILES


@pytest.mark.parametrize("level", [0, 1, 6, 9])
@pytest.mark.parametrize("max_output", [1, 100, 4096, MIB])
def test_any_level_and_any_output_size(level: int, max_output: int) -> None:
    result = extract(gz(TAR, level=level), max_output=max_output, cuts=1000)
    assert result.files == FILES
    assert result.largest <= max_output


@pytest.mark.parametrize("zeros", [1, 8, 511, 100_000])
@pytest.mark.parametrize("cuts", [37, None])
def test_zero_padding_after_the_end(zeros: int, cuts: int | None) -> None:
    assert extract(gz(TAR) + bytes(zeros), cuts=cuts).files == FILES


def test_a_wrong_crc_is_refused() -> None:
    data = gz(TAR)
    text = refusal(data[:-8] + bytes([data[-8] ^ 1]) + data[-7:])
    assert "gzip member 1" in text
    assert "CRC32" in text


def test_a_wrong_length_is_refused() -> None:
    data = gz(TAR)
    assert "ISIZE" in refusal(data[:-4] + struct.pack("<I", len(TAR) + 1))


def test_a_wrong_crc_of_the_second_member_names_it() -> None:
    second = gz(TAR[700:])
    text = refusal(gz(TAR[:700]) + second[:-8] + bytes(4) + second[-4:])
    assert "gzip member 2" in text


def test_a_wrong_header_crc_is_refused() -> None:
    data = bytearray(gz(TAR, flags=2))
    data[10] ^= 0xFF
    assert "FHCRC" in refusal(bytes(data))


@pytest.mark.parametrize("flag", [0x20, 0x40, 0x80])
def test_reserved_flags_are_refused(flag: int) -> None:
    assert "reserved flags" in refusal(gz(TAR, flags=flag))


def test_another_method_than_deflate_is_refused() -> None:
    data = gz(TAR)
    assert "method 7" in refusal(data[:2] + b"\7" + data[3:])


@pytest.mark.parametrize("flags", [0, 31])
def test_a_cut_at_any_byte_is_refused(flags: int) -> None:
    small = pad(member(b"a.riva", b"model")) + END
    fields = b"\3\0abc" + b"name\0" + b"comment\0" if flags else b""
    data = gz(small, flags=flags, fields=fields) + gz(b"", flags=flags, fields=fields)
    whole_first = len(gz(small, flags=flags, fields=fields))
    for cut in range(len(data)):
        if cut == whole_first:
            continue  # the first member alone is a whole archive
        for cuts in (None, 1):
            text = refusal(data[:cut], cuts=cuts)
            assert "cut" in text or cut < 2, (cut, text)


def test_a_cut_names_the_part_that_is_cut() -> None:
    data = gz(TAR)
    assert "inside its trailer, 3 bytes missing" in refusal(data[:-3])
    assert "inside its deflate data" in refusal(data[:-30])
    assert "inside its header" in refusal(data + data[:5])
    assert f"byte {len(data) - 3} " in refusal(data[:-3])


@pytest.mark.parametrize("garbage", [b"x", b"\x1f", b"\x1fx", b"garbage", b"PK\3\4" + bytes(100)])
@pytest.mark.parametrize("cuts", [1, 2, 3, None])
def test_garbage_after_the_end_is_refused(garbage: bytes, cuts: int | None) -> None:
    data = gz(TAR)
    text = refusal(data + garbage, cuts=cuts)
    assert "garbage" in text or "cut" in text
    assert str(len(data)) in text
    assert text == refusal(data + garbage)


def test_garbage_after_padding_is_refused() -> None:
    assert "garbage" in refusal(gz(TAR) + bytes(20) + b"x")
    assert "garbage" in refusal(gz(TAR) + bytes(20) + gz(b"more"))


def test_damaged_deflate_data_says_where() -> None:
    data = bytearray(gz(random.Random(3).randbytes(100_000), level=0))
    data[10] = 0x07  # a block of type 3
    text = refusal(bytes(data))
    assert "deflate data is damaged" in text
    assert "near byte" in text


def test_a_header_field_without_an_end_is_refused() -> None:
    assert "header" in refusal(gz(TAR, flags=8, fields=b"n" * (2 * MIB)), cuts=50_000)
