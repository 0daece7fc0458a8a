"""tar: each dialect, each end, each kind of damage; next to what GNU tar does with the same bytes."""

from __future__ import annotations

import gzip
import importlib.util
import random
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from riva_stream.archive import Limits
from riva_stream.archive.pax import PaxReader
from riva_stream.errors import ArchiveFault
from tests.archive.kit import (
    END,
    MIB,
    OLD_GNU,
    extract,
    gnu_tar,
    header,
    long_name,
    member,
    pad,
    pax,
    record,
    refusal,
    refused,
    tar_of,
)
from tests.archive.test_sparse import old_gnu

LONG = "d" * 90 + "/" + "e" * 90 + "/" + "f" * 200 + ".riva"
ALL = ("*",)
ONE = {"x.riva": b"model"}
SIZES = (1, 511, 512, 513, 10_000)


def same_as_gnu(data: bytes, where: Path, **options: Any) -> dict[str, bytes]:
    """Extract with both; they must agree on every file that matches."""
    ours = extract(data, cuts=317, **options).files
    theirs = gnu_tar(data, where)
    names = {name.removeprefix("./"): content for name, content in ours.items()}
    assert names == {name: content for name, content in theirs.files.items() if name in names}
    assert theirs.code == 0, theirs.stderr
    return ours


FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("cuts", [1, 511, 512, 513, None])
def test_each_format_cut_anywhere(fmt: str, cuts: int | None, tmp_path: Path) -> None:
    files = {f"model/{size}.riva": random.Random(size).randbytes(size) for size in SIZES}
    data = tar_of(files, FORMATS[fmt])
    assert extract(data, cuts=cuts).files == files
    assert same_as_gnu(data, tmp_path / "t") == files


@pytest.mark.parametrize("fmt", ["gnu", "pax"])
def test_long_names(fmt: str, tmp_path: Path) -> None:
    data = tar_of({LONG: b"model", "x.riva": b"other"}, FORMATS[fmt])
    assert same_as_gnu(data, tmp_path / "t") == {LONG: b"model", "x.riva": b"other"}


def test_the_ustar_prefix(tmp_path: Path) -> None:
    data = member(b"x.riva", prefix=b"some/folder") + END
    assert same_as_gnu(data, tmp_path / "t") == {"some/folder/x.riva": b"model"}


@pytest.mark.parametrize("magic", [b"", OLD_GNU])
def test_v7_and_old_gnu_have_no_prefix(magic: bytes, tmp_path: Path) -> None:
    data = member(b"x.riva", magic=magic, prefix=b"not/a/prefix") + END
    assert same_as_gnu(data, tmp_path / "t") == ONE


@pytest.mark.parametrize(
    "field",
    [b"00000000005\0", b"          5 ", b"5\0", b"\0" + b"00000000005", b"\x80" + bytes(10) + b"\5", b"5 x"],
)
def test_the_ways_to_write_a_size(field: bytes, tmp_path: Path) -> None:
    data = header(b"x.riva", size_field=field.ljust(12, b"\0")) + pad(b"model") + END
    assert same_as_gnu(data, tmp_path / "t") == ONE


@pytest.mark.parametrize(
    "field", [b" " * 12, b"\xff" * 12, b"00000000x05\0", b"\x80" + b"\xff" * 11, b"\xc0" + bytes(11), b"+L\0"]
)
def test_a_size_that_is_none_is_refused(field: bytes, tmp_path: Path) -> None:
    data = header(b"x.riva", size_field=field.ljust(12, b"\0")) + pad(b"model") + END
    assert "'x.riva'" in refusal(data)
    assert "its size field has" in refusal(data)
    if field[:1] != b"+":  # the base-64 of before 1999, which GNU tar still reads
        assert gnu_tar(data, tmp_path / "t").code != 0


def test_a_signed_checksum_as_old_suns_wrote_it(tmp_path: Path) -> None:
    block = header("ü.riva".encode(), 5)
    signed = sum(b - 256 if b > 127 else b for b in block[:148] + b" " * 8 + block[156:])
    data = block[:148] + b"%06o\0 " % signed + block[156:] + pad(b"model") + END
    assert same_as_gnu(data, tmp_path / "t") == {"ü.riva": b"model"}


def test_sizes_over_8_gib_are_believed() -> None:
    for head in (
        header(b"x.riva", size_field=b"\x80" + (9 << 30).to_bytes(11, "big")),
        pax((b"size", b"%d" % (9 << 30))) + header(b"x.riva"),
    ):
        text = refusal(head + b"model")
        assert f"lacks {(9 << 30) - 5} bytes" in text


def test_a_pax_size_overrides_the_header(tmp_path: Path) -> None:
    data = pax((b"size", b"5")) + header(b"x.riva", 0) + pad(b"model") + END
    assert same_as_gnu(data, tmp_path / "t") == ONE


def test_pax_records_of_any_kind_are_read_past(tmp_path: Path) -> None:
    extra = pax(
        (b"comment", b"a\nb=c"),
        (b"SCHILY.xattr.user.x", bytes(range(256))),
        (b"mtime", b"1.5"),
        (b"path", b"x.riva"),
        (b"VENDOR.key", b""),
    )
    data = pax((b"comment", b"0123"), kind=b"g") + extra + member(b"short") + END
    assert extract(data).files == ONE
    assert gnu_tar(data, tmp_path / "t").files == ONE


def test_a_solaris_extended_header(tmp_path: Path) -> None:
    data = pax((b"path", b"x.riva"), kind=b"X") + member(b"short") + END
    assert same_as_gnu(data, tmp_path / "t") == ONE


def test_the_last_of_repeated_pax_records_counts(tmp_path: Path) -> None:
    data = pax((b"path", b"y.riva"), (b"path", b"x.riva")) + member(b"short") + END
    assert same_as_gnu(data, tmp_path / "t") == ONE


PAX_DAMAGE = {
    "length over the body": b"99 path=x.riva\n",
    "length under the record": b"4 path=x.riva\n",
    "no length": b"path=x.riva\n",
    "no keyword": record(b"", b"x"),
    "blank before the keyword": record(b" comment", b"x"),
    "tab before the keyword": record(b"\tcomment", b"x"),
    "NUL in the keyword": record(b"com\0ment", b"x"),
    "no equals sign": b"9 nothing\n"[:9] + b"\n",
    "no newline": b"15 path=x.riva ",
    "empty path": record(b"path", b""),
    "NUL in the path": record(b"path", b"x.riva\0.txt"),
    "size not a number": record(b"size", b"5x"),
    "negative size": record(b"size", b"-5"),
    "size over 64 bits": record(b"size", b"9" * 19),
    "enormous length": b"9" * 30 + b" path=x\n",
    "volumes": record(b"GNU.volume.filename", b"x.riva"),
}


@pytest.mark.parametrize("what", PAX_DAMAGE)
def test_a_malformed_pax_header_is_refused(what: str) -> None:
    text = refusal(pax(body=PAX_DAMAGE[what]) + member(b"x.riva") + END)
    assert "extended header 'PaxHeaders/pax' (header at byte 0 of the tar stream)" in text


@pytest.mark.parametrize("blanks", [b" ", b"\t", b" \t "])
@pytest.mark.parametrize("cuts", [1, None])
def test_blanks_before_a_pax_keyword_are_refused_since_gnu_tar_skips_them(
    blanks: bytes, cuts: int | None, tmp_path: Path
) -> None:
    renamed = pax((blanks + b"path", b"notes.txt")) + member(b"a.riva") + END
    assert gnu_tar(renamed, tmp_path / "t").files == {"notes.txt": b"model"}
    assert "has a keyword that" in refusal(renamed, cuts=cuts)
    hidden = member(b"x.riva")
    longer = pax((blanks + b"size", b"%d" % (512 + len(hidden)))) + member(b"notes.txt") + hidden + END
    assert list(gnu_tar(longer, tmp_path / "t").files) == ["notes.txt"]
    assert "has a keyword that" in refusal(longer, cuts=cuts)
    everywhere = pax((blanks + b"path", b"notes.txt"), kind=b"g") + member(b"a.riva") + END
    assert gnu_tar(everywhere, tmp_path / "t").files == {"notes.txt": b"model"}
    assert "has a keyword that" in refusal(everywhere, cuts=cuts)


@pytest.mark.parametrize("keyword", [b"\npath", b"\rpath", b"path ", b"PATH"])
def test_other_spellings_of_a_keyword_are_other_keywords(keyword: bytes, tmp_path: Path) -> None:
    data = pax((keyword, b"notes.txt")) + member(b"x.riva") + END
    assert same_as_gnu(data, tmp_path / "t") == ONE


def test_what_follows_a_nul_in_a_pax_keyword_is_not_read(tmp_path: Path) -> None:
    data = pax((b"com\0ment", b"c"), (b"path", b"y.riva")) + member(b"x.riva") + END
    theirs = gnu_tar(data, tmp_path / "t")
    assert (theirs.code, theirs.files) == (2, ONE)
    assert "contains a NUL" in refusal(data)


@pytest.mark.parametrize("keyword", [b"path", b"size", b"GNU.sparse.map"])
def test_a_global_header_that_would_change_every_member_is_refused(keyword: bytes) -> None:
    assert "every member" in refusal(pax((keyword, b"5"), kind=b"g") + member(b"x.riva") + END)


def test_two_headers_of_a_kind_for_one_member_are_refused() -> None:
    path = pax((b"path", b"y.riva"))
    assert "second of its kind" in refusal(path + pax((b"mtime", b"1")) + member(b"x.riva") + END)
    assert "second of its kind" in refusal(long_name(b"a\0") + long_name(b"b\0") + member(b"x.riva") + END)
    assert "another name" in refusal(long_name(b"z.riva\0") + path + member(b"x.riva") + END)


def test_an_extended_header_without_a_member_is_refused() -> None:
    assert "without a member" in refusal(member(b"x.riva") + pax((b"path", b"y")) + END)
    assert "cut" in refusal(member(b"x.riva") + pax((b"path", b"y")), allow_missing_end=True)


def test_a_gnu_long_name_ends_at_its_nul(tmp_path: Path) -> None:
    data = long_name(b"x.riva\0.txt\0") + member(b"short") + END
    assert same_as_gnu(data, tmp_path / "t") == ONE


def test_extended_headers_are_bounded() -> None:
    limits = Limits(header_bytes=10_000)
    assert "at most 10000" in refusal(long_name(b"n" * 20_000) + member(b"x") + END, limits=limits)
    assert "at most 10000" in refusal(pax((b"path", b"c" * 20_000)) + member(b"x") + END, limits=limits)
    names = pax(*((b"k%d" % index + b"n" * 90, b"") for index in range(200)))
    texts = {refusal(names + member(b"x") + END, limits=limits, cuts=cuts) for cuts in (1, 700, None)}
    assert "at most 10000" in texts.pop(), "keywords are kept"
    assert not texts, "the same refusal in any pieces"
    many = b"".join(pax((b"comment", b"c"), kind=b"g") for _ in range(30))
    assert "in a row" in refusal(many + member(b"x.riva") + END, limits=limits)
    claimed = header(b"long", kind=b"L", magic=OLD_GNU, size_field=b"\x80" + (1 << 60).to_bytes(11, "big"))
    assert "at most 10000" in refusal(claimed, limits=limits)


UNNEEDED = {
    "extended attributes": pax((b"SCHILY.xattr.user.notes", b"n" * 3_000_000), (b"path", b"x.riva")),
    "macOS's": pax((b"path", b"x.riva"), (b"LIBARCHIVE.xattr.com.apple.ResourceFork", b"r" * 3_000_000)),
    "a comment": pax((b"comment", b"c\n=\0" * 700_000), (b"path", b"x.riva")),
    "a global comment": pax((b"comment", b"c" * 3_000_000), kind=b"g") + pax((b"path", b"x.riva")),
    "Solaris's": pax((b"uname", b"u" * 3_000_000), (b"path", b"x.riva"), kind=b"X"),
    "many of them": pax((b"path", b"x.riva"), *((b"a%d" % index, b"v" * 9000) for index in range(200))),
    "records that look like others": pax(
        (b"comment", b"\n" + record(b"path", b"y.riva") * 9000), (b"path", b"x.riva")
    ),
}


@pytest.mark.parametrize("what", UNNEEDED)
@pytest.mark.parametrize("cuts", [701, None])
def test_pax_records_that_nobody_needs_do_not_count(what: str, cuts: int | None) -> None:
    data = UNNEEDED[what] + member(b"short") + END
    assert extract(data, cuts=cuts, limits=Limits(header_bytes=8000)).files == ONE


def test_pax_records_that_nobody_needs_are_not_held() -> None:
    value = 200 * MIB
    size = len(b"209715219 comment=") + value + 1
    reader = PaxReader(size, "the header")
    piece = memoryview(bytes(MIB))
    tracemalloc.start()
    try:
        reader.feed(memoryview(b"%d comment=" % size), lambda _: None)
        for _ in range(200):
            reader.feed(piece, lambda _: None)
        reader.feed(memoryview(b"\n"), lambda _: None)
        reader.finish()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert reader.records == []
    assert peak < 100_000


@pytest.mark.parametrize(
    "what", ["cut in its length", "cut in its keyword", "cut in its value", "NULs, then more"]
)
@pytest.mark.parametrize("cuts", [1, None])
def test_a_pax_header_whose_last_record_is_not_whole_is_refused(what: str, cuts: int | None) -> None:
    good = record(b"path", b"x.riva")
    body = {
        "cut in its length": good + b"15",
        "cut in its keyword": good + b"15 path",
        "cut in its value": good + b"15 path=x",
        "NULs, then more": good + b"\0\0" + good,
    }[what]
    error = refused(pax(body=body) + member(b"short") + END, cuts=cuts)
    assert error.fault is ArchiveFault.MALFORMED


def test_members_without_data_and_what_is_not_asked_for(tmp_path: Path) -> None:
    data = (
        header(b"folder/", kind=b"5")
        + header(b"folder.riva/", kind=b"5")
        + header(b"v7folder/", kind=b"\0", magic=b"")
        + member(b"README", b"text " * 1000)
        + header(b"link", kind=b"2", link=b"README")
        + header(b"hard", kind=b"1", link=b"README")
        + header(b"fifo", kind=b"6")
        + header(b"empty", 0)
        + member(b"x.riva")
        + END
    )
    assert same_as_gnu(data, tmp_path / "t") == ONE
    summary = extract(data).summary
    assert summary.members == 9
    assert [(e.name, e.kind) for e in summary.listing][:3] == [
        ("folder/", "directory"),
        ("folder.riva/", "directory"),
        ("v7folder/", "directory"),
    ]


@pytest.mark.parametrize("kind", [b"1", b"2", b"5", b"6"])
def test_links_directories_and_fifos_have_no_data_whatever_their_size_says(
    kind: bytes, tmp_path: Path
) -> None:
    data = member(b"a") + header(b"b", 1000, kind, link=b"a") + member(b"x.riva") + END
    assert same_as_gnu(data, tmp_path / "t") == ONE


def test_a_file_named_like_a_directory_is_refused_when_it_has_data(tmp_path: Path) -> None:
    data = member(b"folder/") + member(b"x.riva") + END
    assert "directory's name" in refusal(data)
    assert gnu_tar(data, tmp_path / "t").code == 2


@pytest.mark.parametrize("kind", [b"Z", b"A", b"S", b"pax"])
@pytest.mark.parametrize("name", [b"x.riva/", b"x.riva//"])
@pytest.mark.parametrize("data", [b"", b"model"])
def test_a_slash_after_the_name_makes_a_directory_of_regular_files_only(
    kind: bytes, name: bytes, data: bytes, tmp_path: Path
) -> None:
    size = len(data)
    tar = {
        b"S": header(name, size, b"S", magic=OLD_GNU, gnu=old_gnu([(0, size), (1024, 0)], 1024)),
        b"pax": pax(
            (b"path", name),
            (b"GNU.sparse.size", b"1024"),
            (b"GNU.sparse.numblocks", b"2"),
            (b"GNU.sparse.map", b"0,%d,1024,0" % size),
        )
        + header(b"s", size),
    }.get(kind, header(name, size, kind))
    whole = member(b"last.riva") + tar + pad(data) + END
    files = gnu_tar(whole, tmp_path / "t").files
    assert set(files) == {"last.riva", "x.riva"}
    if not files["x.riva"].strip(b"\0"):
        assert "member 'x.riva' is empty" in refusal(whole)
    else:
        assert extract(whole).files == files
    assert extract(whole, include=["last*"]).files == {"last.riva": b"model"}


def test_a_slash_after_the_name_of_a_link_is_no_part_of_it(tmp_path: Path) -> None:
    data = member(b"m/x.riva") + header(b"m/x.riva/", kind=b"2", link=b"elsewhere") + END
    assert gnu_tar(data, tmp_path / "t").files == {}
    assert "'m/x.riva' (header at byte 1024 of the tar stream) is a symbolic link" in refusal(data)


@pytest.mark.parametrize("kind", [b"D", b"V"])
def test_gnu_dumps_and_labels_are_skipped_with_their_data(kind: bytes, tmp_path: Path) -> None:
    data = header(b"aside", 5, kind, magic=OLD_GNU) + pad(b"model") + member(b"x.riva") + END
    assert same_as_gnu(data, tmp_path / "t") == ONE


@pytest.mark.parametrize("kind", [b"7", b"Z", b"A"])
def test_other_types_are_files_as_for_gnu_tar(kind: bytes, tmp_path: Path) -> None:
    data = member(b"x.riva", kind=kind) + END
    assert same_as_gnu(data, tmp_path / "t") == ONE
    warned = any("unknown type" in w for w in extract(data).summary.warnings)
    assert warned == (kind != b"7")


def test_a_member_of_several_volumes_is_refused() -> None:
    assert "another volume" in refusal(member(b"x.riva", kind=b"M", magic=OLD_GNU) + END)


def test_names_that_are_not_utf8_are_read_past(tmp_path: Path) -> None:
    data = member(b"caf\xe9.txt") + member(b"x.riva") + END
    assert same_as_gnu(data, tmp_path / "t") == ONE
    assert extract(data).summary.listing[0].name == "caf\\xe9.txt"


# -- the end -------------------------------------------------------------------------------------------------------


def test_no_end_block_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    data = member(b"x.riva")
    text = refusal(data)
    assert "without an end-of-archive block" in text
    assert "'x.riva'" in text
    assert gnu_tar(data, tmp_path / "t").code == 0  # silently: that is how a cut tar looks
    result = extract(data, allow_missing_end=True)
    assert result.files == ONE
    assert "no end-of-archive block" in " ".join(result.summary.warnings)


def test_one_end_block_is_a_warning(tmp_path: Path) -> None:
    data = member(b"x.riva") + bytes(512)
    assert same_as_gnu(data, tmp_path / "t") == ONE
    assert "only one block of zeros" in " ".join(extract(data).summary.warnings)


def test_one_end_block_and_then_something_is_a_warning(tmp_path: Path) -> None:
    data = member(b"x.riva") + bytes(512) + b"junk" * 128
    assert same_as_gnu(data, tmp_path / "t") == ONE
    assert "a lone block of zeros" in " ".join(extract(data).summary.warnings)


def test_one_end_block_and_then_a_header_is_refused(tmp_path: Path) -> None:
    data = member(b"x.riva") + bytes(512) + member(b"y.riva") + END
    assert "lone block of zeros at byte 1024" in refusal(data)
    assert gnu_tar(data, tmp_path / "t").files == ONE  # y.riva is lost with exit 0


@pytest.mark.parametrize("rest", [b"junk" * 1000, member(b"y.riva") + END, b"x"])
def test_data_after_the_end_is_ignored_with_a_warning(rest: bytes, tmp_path: Path) -> None:
    data = member(b"x.riva") + END + rest
    assert same_as_gnu(data, tmp_path / "t") == ONE
    assert "after the end" in " ".join(extract(data).summary.warnings) or "follow the end" in " ".join(
        extract(data).summary.warnings
    )


def test_zeros_after_the_end_are_nothing_to_warn_of() -> None:
    inner = tar_of({"weights": b"w"})
    data = member(b"x.riva", inner) + END + bytes(100_001)
    assert extract(data).summary.warnings == ()


def test_every_cut_of_a_tar_is_refused() -> None:
    data = pax((b"path", b"x.riva")) + member(b"short", b"m" * 700) + long_name(b"y.riva\0") + member(b"y")
    for cut in range(len(data)):
        text = refusal(data[:cut])
        assert "cut" in text or "stops" in text or "not a tar" in text or "0 bytes" in text
        whole = len(pax((b"path", b"x.riva")) + member(b"short", b"m" * 700))
        if cut and cut != whole:
            refusal(data[:cut], allow_missing_end=True)


def test_a_cut_says_what_is_missing() -> None:
    data = gzip.compress((member(b"a.riva") + member(b"x.riva", bytes(range(256)) * 10))[:3000])
    text = refusal(data)
    assert "cut at byte 3000" in text
    assert "inside member 'x.riva', which lacks 1096 bytes" in text


# -- damage --------------------------------------------------------------------------------------------------------


def test_every_flipped_byte_of_a_header_is_refused_or_changes_nothing() -> None:
    data = member(b"a.riva") + member(b"x.riva") + END
    for at in range(1024, 1536):
        for mask in (0x01, 0x80, 0xFF):
            flipped = data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]
            text = refusal(flipped) if not 154 <= at - 1024 <= 155 else ""
            if text:
                assert "tar header at byte 1024, after member 'a.riva'" in text
                assert "damaged" in text


def test_a_corrupt_second_header_is_no_silent_end() -> None:
    data = member(b"a.riva") + b"\xff" * 512 + END
    assert "tar header at byte 1024" in refusal(data)


def test_an_archive_with_nothing_that_matches_lists_what_it_has() -> None:
    text = refusal(member(b"README", b"text") + header(b"folder/", kind=b"5") + END)
    assert "no member matches *.riva" in text
    assert "'README' (file, 4 bytes)" in text
    assert "'folder/' (directory, 0 bytes)" in text
    assert "no members at all" in refusal(END)
    many = b"".join(member(b"%d.txt" % i) for i in range(50)) + END
    assert "and 30 more" in refusal(many)


def test_events_are_slices_of_large_blocks() -> None:
    data = tar_of({"x.riva": b"\1" * 8_000_000})
    result = extract(gzip.compress(data, 1), max_output=1 << 20)
    assert result.largest > 500_000


# -- CPython's own odd tar -----------------------------------------------------------------------------------------


def cpythons_testtar() -> Path | None:
    spec = importlib.util.find_spec("test")
    for folder in spec.submodule_search_locations or [] if spec else []:
        for name in ("archivetestdata/testtar.tar", "testtar.tar"):
            if (Path(folder) / name).is_file():
                return Path(folder) / name
    return None


TESTTAR = cpythons_testtar()


@pytest.mark.skipif(TESTTAR is None, reason="this Python came without its test package")
@pytest.mark.parametrize("cuts", [1000, None])
def test_cpythons_testtar_member_for_member(cuts: int | None) -> None:
    assert TESTTAR is not None
    data = TESTTAR.read_bytes()
    expected: dict[str, bytes] = {}
    with tarfile.open(TESTTAR, encoding="utf-8") as tar:
        reference = tar.getmembers()
        for info in reference:
            if info.isreg():
                body = tar.extractfile(info)
                assert body is not None
                expected[info.name] = body.read()
    found: dict[str, bytes] = {}
    listing = None
    # One at a time: some of them share a base name, some are links, which a run for all would refuse.
    for name in sorted(expected):
        if not name.isprintable() or any(0xDC80 <= ord(c) <= 0xDCFF for c in name):
            continue
        escaped = "".join(f"[{c}]" if c in "*?[" else c for c in name)
        result = extract(data, include=[escaped], cuts=cuts, max_output=20_000)
        found.update(result.files)
        listing = result.summary.listing
    assert listing is not None
    assert len(listing) == len(reference)
    for entry, info in zip(listing, reference, strict=True):
        name = info.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        assert name.startswith(entry.name.rstrip("/").removesuffix("…"))
        assert entry.size == (info.size if info.isreg() else 0)
    assert {n: len(d) for n, d in found.items()} == {n: len(expected[n]) for n in found}
    assert found == {n: expected[n] for n in found}
    assert len(found) >= 20
