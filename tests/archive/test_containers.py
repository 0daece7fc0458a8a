"""What the source is: told by its bytes. zstd and plain tar; what anything else looks like."""

from __future__ import annotations

import bz2
import io
import lzma
import random
import struct
import zipfile

import pytest
import zstandard

from riva_stream.archive import Limits
from tests.archive.kit import MIB, extract, refusal, tar_of

TAR = tar_of({"a.riva": random.Random(1).randbytes(60_000), "b.riva": b"weights" * 4000})
FILES = extract(TAR).files


def zst(data: bytes, *, checksum: bool = True, level: int = 3) -> bytes:
    return zstandard.ZstdCompressor(level=level, write_checksum=checksum).compress(data)


SKIPPABLE = b"\x5a\x2a\x4d\x18" + struct.pack("<I", 5) + b"aside"


@pytest.mark.parametrize("cuts", [1, 999, None])
def test_a_plain_tar_is_staged_and_nothing_vouches_for_it(cuts: int | None) -> None:
    result = extract(TAR, cuts=cuts, max_output=100_000)
    assert result.files == FILES
    assert (result.summary.container, result.summary.checksum) == ("tar", None)


@pytest.mark.parametrize("cuts", [1, 999, None])
@pytest.mark.parametrize("checksum", [True, False])
def test_zstd_is_vouched_for_by_its_checksum(cuts: int | None, checksum: bool) -> None:
    result = extract(zst(TAR, checksum=checksum), cuts=cuts)
    assert result.files == FILES
    assert result.summary.container == "zstd"
    assert result.summary.checksum == ("zstd-checksum" if checksum else None)


def test_zstd_frames_in_a_row_skippable_ones_among_them() -> None:
    frames = [zst(TAR[i : i + 9_000]) for i in range(0, len(TAR), 9_000)]
    result = extract(SKIPPABLE + SKIPPABLE.join(frames) + zst(b"") + SKIPPABLE, cuts=100)
    assert result.files == FILES
    assert result.summary.checksum == "zstd-checksum"


def test_one_zstd_frame_without_a_checksum_is_enough_to_vouch_for_nothing() -> None:
    assert extract(zst(TAR[:1000]) + zst(TAR[1000:], checksum=False)).summary.checksum is None


def test_a_zstd_frame_without_its_content_size() -> None:
    out = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    data = b"".join([out.compress(TAR[:20_000]), out.flush(1), out.compress(TAR[20_000:]), out.flush()])
    assert extract(data, cuts=1000).files == FILES


def test_output_of_zstd_is_bounded() -> None:
    zeros = tar_of({"z.riva": b"\1" + bytes(40 * MIB)})
    result = extract(zst(zeros), max_output=MIB)
    assert result.largest <= MIB


def test_a_cut_zstd_archive_is_refused_wherever_it_is_cut() -> None:
    data = zst(tar_of({"a.riva": b"model"}))
    for cut in range(1, len(data)):
        assert "cut" in refusal(data[:cut]) or cut < 4


def test_a_damaged_zstd_archive_is_refused() -> None:
    data = zst(TAR)
    for at in range(5, len(data), 997):
        refusal(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
    assert "damaged" in refusal(data[:-1] + bytes([data[-1] ^ 1]))
    assert "garbage" in refusal(data + b"garbage")


def test_a_zstd_window_that_would_not_fit_the_memory_is_refused() -> None:
    params = zstandard.ZstdCompressionParameters.from_level(3, window_log=26, write_content_size=0)
    out = zstandard.ZstdCompressor(compression_params=params).compressobj()
    data = out.compress(TAR) + out.flush()
    assert "window" in refusal(data)
    assert extract(data, limits=Limits(zstd_window=64 * MIB)).files == FILES


def test_endless_empty_zstd_blocks_are_refused() -> None:
    head = b"\x28\xb5\x2f\xfd\x00\x58"
    limits = Limits(streams=100)
    assert "more than 100 empty blocks" in refusal(head + bytes(3 * 200) + TAR, limits=limits)


def test_a_zstd_dictionary_is_refused() -> None:
    dictionary = zstandard.train_dictionary(2000, [random.Random(i).randbytes(200) for i in range(200)])
    data = zstandard.ZstdCompressor(dict_data=dictionary).compress(TAR)
    assert "dictionary" in refusal(data)


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.riva", "model")
    return out.getvalue()


LOOKS = {
    "zip archive": zipped(),
    "xz file": lzma.compress(TAR),
    "bzip2 file": bz2.compress(TAR),
    "HTML page": b"\n<!DOCTYPE html><html><body>403 Forbidden</body></html>",
    "XML document": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "JSON": b'{"message": "not found"}',
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "it begins with b'random": b"random text that is nothing at all",
    "7-Zip": b"7z\xbc\xaf\x27\x1c" + bytes(600),
    "all zero": bytes(100),
    "0 bytes": b"",
}


@pytest.mark.parametrize("what", LOOKS)
@pytest.mark.parametrize("cuts", [1, None])
def test_what_is_no_archive_is_refused_by_what_it_looks_like(what: str, cuts: int | None) -> None:
    text = refusal(LOOKS[what], cuts=cuts)
    assert what in text
    assert "not a tar, .tar.gz or .tar.zst" in text


def test_a_damaged_first_header_is_told_as_that() -> None:
    assert "tar header at byte 0 is damaged" in refusal(b"\1" + TAR[1:])
