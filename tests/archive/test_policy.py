"""Which members are staged, under which name, and what an archive may cost: the member policy and the limits."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import pytest
from isal import isal_zlib

from riva_stream.archive import Extractor, Limits
from riva_stream.errors import ArchiveError
from tests.archive.kit import (
    END,
    MIB,
    OLD_GNU,
    extract,
    gnu_tar,
    header,
    long_name,
    member,
    pax,
    refusal,
    tar_of,
)


@pytest.mark.parametrize(
    ("include", "taken"),
    [
        (["*.riva"], {"a/x.riva", "y.riva", "b/.riva"}),
        (["x.*"], {"a/x.riva", "c/x.json"}),
        (["a/*"], {"a/x.riva"}),
        (["./a/*"], {"a/x.riva"}),
        (["c/x.json", "y.riva"], {"c/x.json", "y.riva"}),
        (["*.RIVA"], {"Y.RIVA"}),
        (["[xy].riva"], {"a/x.riva", "y.riva"}),
    ],
)
def test_what_include_takes(include: list[str], taken: set[str]) -> None:
    names = ["a/x.riva", "y.riva", "b/.riva", "c/x.json", "Y.RIVA", "x/riva", "z.rivax"]
    data = tar_of({name: name.encode() for name in names})
    assert extract(data, include=include).files == {name: name.encode() for name in taken}


def test_a_leading_dot_slash_is_no_part_of_the_name() -> None:
    result = extract(member(b"./models/x.riva") + END, include=["models/*"])
    assert [(m.name, m.key_name) for m in result.members] == [("./models/x.riva", "x.riva")]


def test_where_a_member_stands() -> None:
    result = extract(member(b"a") + pax((b"mtime", b"1")) + member(b"m/x.riva") + END)
    (taken,) = result.members
    assert (taken.index, taken.offset, taken.size) == (1, 2048, 5)
    assert result.summary.selected[0].member == taken


NAMES = {
    "absolute": b"/etc/x.riva",
    "a '..' component": b"../x.riva",
    "a '..' component ": b"a/../x.riva",
    "backslash": b"a\\x.riva",
    "control character": b"a\nx.riva",
    "control character ": b"x\x7f.riva",
    "control character  ": "x\u0085.riva".encode(),
    "control character   ": "x\u202e.riva".encode(),
    "not UTF-8": b"caf\xe9.riva",
    "longer than 255 bytes": b"n" * 251 + b".riva",
    "longer than 255 bytes ": "é".encode() * 126 + b".riva",
    "longer than 4096 bytes": b"d/" * 2048 + b"x.riva",
}


@pytest.mark.parametrize("reason", NAMES)
def test_a_name_that_could_not_be_staged_as_it_is_is_refused(reason: str) -> None:
    text = refusal(long_name(NAMES[reason] + b"\0") + member(b"short") + END)
    assert reason.strip() in text
    assert "header at byte" in text
    assert "member '" in text


@pytest.mark.parametrize("name", [b".", b"..", b"a/..", b"a/."])
def test_names_without_a_base_name_are_refused(name: bytes) -> None:
    assert "refused for its name" in refusal(member(name) + END, include=["*"])


@pytest.mark.parametrize("reason", NAMES)
def test_what_is_not_asked_for_may_have_any_name(reason: str) -> None:
    data = long_name(NAMES[reason].replace(b".riva", b".text") + b"\0") + member(b"short") + member(b"x.riva")
    assert extract(data + END).files == {"x.riva": b"model"}


KINDS = {
    b"1": "hard link",
    b"2": "symbolic link",
    b"3": "character device",
    b"4": "block device",
    b"6": "FIFO",
    b"V": "volume label",
}


@pytest.mark.parametrize("kind", KINDS)
def test_links_and_devices_that_match_are_refused_by_name(kind: bytes) -> None:
    text = refusal(member(b"a.txt") + header(b"x.riva", 0, kind, link=b"a.txt") + END)
    assert f"'x.riva' (header at byte 1024 of the tar stream) is a {KINDS[kind]}" in text


def test_a_hard_link_to_a_member_is_refused_and_names_its_target() -> None:
    assert "hard link to 'x.riva'" in refusal(
        member(b"x.riva") + header(b"y.riva", 0, b"1", link=b"x.riva") + END
    )


def test_a_repeated_name_is_refused() -> None:
    assert "'x.riva' (header at byte 1024 of the tar stream) appears twice" in refusal(
        member(b"x.riva") * 2 + END
    )
    assert extract(member(b"x.txt") * 2 + member(b"x.riva") + END).files == {"x.riva": b"model"}


REPLACING = {
    "a directory": header(b"m/x.riva/", kind=b"5"),
    "a GNU dump directory": header(b"m/x.riva", kind=b"D", magic=OLD_GNU),
    "a v7 directory": header(b"m/x.riva/", magic=b""),
    "a directory in another spelling": header(b"/.//m/./x.riva/", kind=b"5"),
    "a file in another spelling": member(b".//m/x.riva", b"other"),
    "a symbolic link in another spelling": header(b".//m/x.riva", kind=b"2", link=b"elsewhere"),
}


@pytest.mark.parametrize("what", REPLACING)
def test_what_does_not_match_but_would_replace_a_model_is_refused(what: str, tmp_path: Path) -> None:
    data = member(b"m/x.riva") + REPLACING[what] + END
    assert gnu_tar(data, tmp_path / "t").files != {"m/x.riva": b"model"}
    text = refusal(data, include=["m/*.riva"])
    assert "with the path of the model 'm/x.riva'" in text


@pytest.mark.parametrize(
    "other", [header(b"x.riva/", kind=b"5"), header(b"m/", kind=b"5"), header(b"m/m/x.riva", kind=b"5")]
)
def test_directories_beside_a_model_of_their_name_or_around_it_are_skipped(
    other: bytes, tmp_path: Path
) -> None:
    data = member(b"m/x.riva") + other + END
    assert extract(data).files == {"m/x.riva": b"model"} == gnu_tar(data, tmp_path / "t").files
    replaced = header(b"m/x.riva", kind=b"5") + member(b"m/x.riva") + END
    assert extract(replaced).files == {"m/x.riva": b"model"} == gnu_tar(replaced, tmp_path / "t").files


def test_a_restored_extractor_refuses_what_would_replace_a_model() -> None:
    data = member(b"x.riva") + header(b"x.riva", kind=b"5") + END
    extractor = Extractor()
    extractor.push(data[:1024])
    while not extractor.needs_input:
        extractor.pull(MIB)
    snapshot = extractor.snapshot()
    assert snapshot is not None
    restored, _ = Extractor.restore(snapshot.data)
    restored.push(data[1024:])
    with pytest.raises(ArchiveError, match="with the path of the model"):
        restored.pull(MIB)


@pytest.mark.parametrize("other", [b"./x.riva", b"a/x.riva", b"b//x.riva"])
def test_two_members_for_one_key_are_refused(other: bytes) -> None:
    text = refusal(member(b"x.riva") + member(other) + END)
    assert "would both become models/x.riva" in text
    assert "'x.riva'" in text


# -- limits --------------------------------------------------------------------------------------------------------


def test_the_number_of_members() -> None:
    data = b"".join(member(b"%d" % i) for i in range(10)) + member(b"x.riva") + END
    assert extract(data, limits=Limits(members=11)).files
    text = refusal(data, limits=Limits(members=10))
    assert "more than 10 entries" in text
    assert "'x.riva'" in text


def test_the_number_of_matching_members() -> None:
    data = b"".join(member(b"%d.riva" % i) for i in range(10)) + END
    assert len(extract(data, limits=Limits(matching_members=10)).files) == 10
    assert "9.riva" in refusal(data, limits=Limits(matching_members=9))


def test_the_expanded_size() -> None:
    data = tar_of({"x.riva": b"w" * 50_000})
    assert extract(gzip.compress(data), limits=Limits(expanded_bytes=len(data))).files
    assert "over 40000 bytes" in refusal(gzip.compress(data), limits=Limits(expanded_bytes=40_000))
    assert "more than 60000 bytes" in refusal(
        gzip.compress(data + bytes(MIB)), limits=Limits(expanded_bytes=60_000)
    )


def test_the_number_of_gzip_members_and_zstd_frames() -> None:
    data = gzip.compress(tar_of({"x.riva": b"w"}))
    assert "more than 5 gzip members" in refusal(data + gzip.compress(b"") * 5, limits=Limits(streams=5))


def test_the_listing_is_bounded() -> None:
    data = b"".join(member(b"%d" % i) for i in range(50)) + member(b"x.riva") + END
    summary = extract(data, limits=Limits(listing=20)).summary
    assert len(summary.listing) == 20
    assert summary.members == 51


def test_warnings_are_bounded() -> None:
    data = b"".join(member(b"%d" % i, kind=b"Z") for i in range(500)) + member(b"x.riva") + END
    warnings = extract(data).summary.warnings
    assert len(warnings) <= 101
    assert "more warnings" in warnings[-1]


def drain(extractor: Extractor) -> None:
    while not extractor.needs_input:
        extractor.pull(MIB)


def bomb(expanded: int) -> bytes:
    """A whole and sound gzip whose one member is that many zeros, a multiple of 16 MiB; about 1/1029 of it."""
    head = header(b"x.riva", size_field=b"\x80" + expanded.to_bytes(11, "big"))
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    lead = deflate.compress(head) + deflate.flush(zlib.Z_FULL_FLUSH)
    zeros = bytes(16 * MIB)
    again = deflate.compress(zeros) + deflate.flush(zlib.Z_FULL_FLUSH)  # refers to nothing before it
    tail = deflate.compress(END) + deflate.flush()
    crc, part = zlib.crc32(head), zlib.crc32(zeros)
    for _ in range(expanded // len(zeros)):
        crc = isal_zlib.crc32_combine(crc, part, len(zeros))
    crc = isal_zlib.crc32_combine(crc, zlib.crc32(END), len(END))
    trailer = struct.pack("<II", crc, (expanded + 512 + len(END)) & 0xFFFFFFFF)
    body = lead + again * (expanded // len(zeros)) + tail
    return b"\x1f\x8b\x08" + bytes(7) + body + trailer


def test_the_bomb_is_a_sound_archive() -> None:
    data = bomb(16 * MIB)
    assert "all zero" in refusal(data)
    assert len(gzip.decompress(data)) == 16 * MIB + 1536


def test_a_bomb_is_named_even_when_the_listing_is_full() -> None:
    text = refusal(bomb(128 * MIB), limits=Limits(listing=0))
    assert "at member 'x.riva'" in text


def test_the_expansion_ratio_is_judged_while_streaming() -> None:
    data = bomb(128 * MIB)
    extractor = Extractor(limits=Limits(ratio=100, ratio_floor=64 * MIB))
    extractor.push(data)
    with pytest.raises(ArchiveError, match=r"over 100 times") as caught:
        drain(extractor)
    assert "'x.riva'" in str(caught.value)
    assert 64 * MIB <= extractor.expanded <= 66 * MIB, "no more was inflated than it takes to judge"
    assert extractor.consumed < len(data)


@pytest.mark.parametrize("include", ["*.riva", "nothing"])
def test_a_bomb_of_10_gib_of_zeros_ends_having_cost_little(include: str) -> None:
    data = bomb(10 << 30)
    assert len(data) < 12 * MIB
    extractor = Extractor(include=[include])
    extractor.push(data)
    with pytest.raises(ArchiveError, match=r"decompression bomb"):
        drain(extractor)
    assert extractor.expanded <= 66 * MIB


def test_a_ratio_below_the_limit_or_the_floor_passes() -> None:
    data = tar_of({"x.riva": b"\1" + bytes(3 * MIB)})
    assert extract(gzip.compress(data, 9)).files
    assert "over 100 times" in refusal(gzip.compress(data, 9), limits=Limits(ratio_floor=MIB))
    assert extract(gzip.compress(data, 9), limits=Limits(ratio_floor=MIB, ratio=1100)).files


# -- the protocol --------------------------------------------------------------------------------------------------


def test_a_refusal_is_final() -> None:
    extractor = Extractor()
    with pytest.raises(ArchiveError) as first:
        extractor.push(b"<html>" + bytes(600))
    for call in (lambda: extractor.push(b"x"), lambda: extractor.pull(1), extractor.finish):
        with pytest.raises(ArchiveError) as again:
            call()
        assert again.value is first.value


def test_misuse_is_no_archive_error() -> None:
    extractor = Extractor()
    extractor.push(tar_of({"x.riva": b"w"}))
    assert not extractor.needs_input
    with pytest.raises(RuntimeError, match="push"):
        extractor.push(b"more")
    with pytest.raises(RuntimeError, match="finish"):
        extractor.finish()
    with pytest.raises(ValueError, match="max_output"):
        extractor.pull(0)
