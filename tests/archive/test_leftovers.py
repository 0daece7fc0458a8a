"""What an operating system left beside the models: left out by place and bytes together, and told."""

from __future__ import annotations

import gzip
import random
import struct
from typing import Any

import pytest

from riva_stream.archive import Limits
from riva_stream.errors import ArchiveFault
from tests.archive.kit import END, OLD_GNU, extract, header, long_name, member, pad, pax, record, refused

pytestmark = pytest.mark.usefixtures("flags_in_hints")

MODEL = b"PK\3\4" + random.Random(3).randbytes(6_000)
TWIN = (
    bytes.fromhex("0005160700020000") + b"Mac OS X        " + struct.pack(">HIII", 1, 9, 50, 200) + bytes(200)
)
SHORT_TWIN = bytes.fromhex("00051607")
OLE = bytes.fromhex("d0cf11e0a1b11ae1") + bytes(3000)
PAX = record(b"mtime", b"1700000000.25") + record(b"SCHILY.xattr.user.x", b"y" * 700)

LEFT: dict[str, bytes] = {
    "._model.riva": TWIN,
    "d/._model.riva": TWIN,
    "./d/._model.riva": SHORT_TWIN,
    "__MACOSX/._model.riva": TWIN,
    "__MACOSX/d/._model.riva": TWIN,
    "__MACOSX/d/model.riva": TWIN,
    ".AppleDouble/model.riva": TWIN,
    "d/.AppleDouble/model.riva": TWIN,
    "@eaDir/model.riva": TWIN,
    "PaxHeader/model.riva": PAX,
    "d/PaxHeaders/model.riva": PAX,
    "d/PaxHeaders.4711/model.riva": PAX,
    "d/PaxHeaders.4711/._model.riva": PAX,
    "PaxHeader/._other.riva": TWIN,
    "$RECYCLE.BIN/S-1-5-21/$IABC123.riva": b"\2" + bytes(7) + bytes(600),
}
EVERYTHING: dict[str, bytes] = {
    ".DS_Store": b"\0\0\0\1Bud1" + bytes(6000),
    "d/.DS_Store": b"\0\0\0\1Bud1" + bytes(6000),
    "._.DS_Store": TWIN,
    "__MACOSX/._.DS_Store": TWIN,
    "Thumbs.db": OLE,
    "d/thumbs.db": OLE,
    "ehthumbs.db": OLE,
    "desktop.ini": b"[.ShellClassInfo]\r\nIconResource=x.dll,0\r\n",
    "d/Desktop.ini": "[.ShellClassInfo]\r\n".encode("utf-16"),
    "Icon\r": b"",
    "._Icon\r": TWIN,
    ".localized": b"",
    "model.riva:Zone.Identifier": b"[ZoneTransfer]\r\nZoneId=3\r\n",
    "@eaDir/model.riva@SynoResource": TWIN,
    "././@PaxHeader": PAX,
}


def tar_of(files: dict[str, bytes]) -> bytes:
    return b"".join(member(name.encode(), data) for name, data in files.items()) + END


@pytest.mark.parametrize("cuts", [1, 513, None])
@pytest.mark.parametrize("name", LEFT)
def test_what_was_left_beside_a_model_is_left_out_and_told(name: str, cuts: int | None) -> None:
    for files in ({name: LEFT[name], "d/model.riva": MODEL}, {"d/model.riva": MODEL, name: LEFT[name]}):
        result = extract(tar_of(files), cuts=cuts, max_output=700)
        assert result.files == {"d/model.riva": MODEL}
        assert result.summary.left_out == (name,)
        assert len(result.summary.warnings) == 1
        assert repr(name) in result.summary.warnings[0]


@pytest.mark.parametrize("name", EVERYTHING)
def test_what_a_system_leaves_is_left_out_when_everything_is_asked_for(name: str) -> None:
    files = {"a.txt": b"text", name: EVERYTHING[name], "model.riva": MODEL}
    result = extract(tar_of(files), include=["*"])
    assert result.files == {"a.txt": b"text", "model.riva": MODEL}
    assert result.summary.left_out == (name.encode("utf-8", "backslashreplace").decode(),)


def test_one_warning_lists_them_all() -> None:
    files = {**LEFT, "model.riva": MODEL, **{f"m/._{index}.riva": TWIN for index in range(300)}}
    summary = extract(tar_of(files)).summary
    assert len(summary.left_out) == 100
    assert len(summary.warnings) == 1
    assert f"{len(LEFT) + 300} files" in summary.warnings[0]
    assert len(summary.warnings[0]) < 2000


NOT_LEFT: dict[str, bytes] = {
    "._model.riva": MODEL,
    "__MACOSX/model.riva": MODEL,
    ".AppleDouble/model.riva": MODEL,
    "PaxHeader/model.riva": MODEL,
    "PaxHeaders.1/model.riva": b"12 no record at all",
    "d/._short.riva": b"\0\5\x16",
    "._other.riva": b"\0\5\x16\0" + MODEL,
    "__MACOSX/._x.riva": b"m",
}


@pytest.mark.parametrize("cuts", [1, 513, None])
@pytest.mark.parametrize("name", NOT_LEFT)
def test_a_file_in_such_a_place_with_other_bytes_is_a_model_and_is_staged(
    name: str, cuts: int | None
) -> None:
    result = extract(tar_of({name: NOT_LEFT[name], "z.riva": MODEL}), cuts=cuts)
    assert result.files == {name: NOT_LEFT[name], "z.riva": MODEL}
    assert [m.key_name for m in result.members] == [name.rpartition("/")[2], "z.riva"]
    assert result.summary.left_out == ()
    assert any(repr(name) in warning for warning in result.summary.warnings)


@pytest.mark.parametrize("name", ["model.riva", "macosx/model.riva", "x._model.riva", "PaxHeaderless/m.riva"])
def test_the_bytes_alone_leave_nothing_out(name: str) -> None:
    result = extract(tar_of({name: TWIN}))
    assert result.files == {name: TWIN}
    assert result.summary.warnings, "that its container is not known is told as ever"


@pytest.mark.parametrize(
    ("include", "taken"),
    [
        (["._model.riva"], {"._model.riva", "d/._model.riva"}),
        (["d/._model.riva"], {"d/._model.riva"}),
        (["./d/._model.riva", "model.*"], {"d/._model.riva", "model.riva"}),
        (["._*"], set()),
        (["._model.riv?", "*.riva"], {"model.riva"}),
    ],
)
def test_a_name_that_is_asked_for_without_a_wildcard_is_taken(include: list[str], taken: set[str]) -> None:
    data = tar_of({"._model.riva": TWIN, "model.riva": MODEL})
    if "d/._model.riva" in taken:
        data = tar_of({"d/._model.riva": TWIN, "model.riva": MODEL})
        taken = taken - {"._model.riva"}
    if taken:
        assert set(extract(data, include=include).files) == taken
    else:
        assert refused(data, include=include).fault is ArchiveFault.NO_MATCH


def test_nothing_but_leftovers_is_no_staging() -> None:
    error = refused(tar_of({"._model.riva": TWIN, "__MACOSX/._b.riva": TWIN}))
    assert error.fault is ArchiveFault.NO_MATCH
    assert "'._model.riva'" in error.what
    assert "--include" in error.hint


def test_what_is_left_out_takes_no_key_and_no_place() -> None:
    files = {"__MACOSX/m.riva": TWIN, "m.riva": MODEL, "PaxHeader/m.riva": PAX, ".AppleDouble/m.riva": TWIN}
    assert extract(tar_of(files), limits=Limits(matching_members=1)).files == {"m.riva": MODEL}


def test_a_model_in_such_a_place_may_not_hide_another_one() -> None:
    error = refused(tar_of({"__MACOSX/m.riva": MODEL, "m.riva": MODEL}))
    assert error.fault is ArchiveFault.MEMBER
    assert "'__MACOSX/m.riva'" in error.what


def base_256(size: int) -> bytes:
    return b"\x80" + size.to_bytes(11, "big")


@pytest.mark.parametrize("how", ["long name", "pax path", "gzip", "sparse"])
def test_however_the_member_is_described(how: str) -> None:
    name = b"d/._model.riva"
    real = member(b"d/model.riva", MODEL) + END
    if how == "long name":
        data = long_name(name + b"\0") + member(b"short", TWIN) + real
    elif how == "pax path":
        data = pax((b"path", name)) + member(b"short", TWIN) + real
    elif how == "gzip":
        data = gzip.compress(member(name, TWIN) + real)
    else:
        entries = base_256(0) + base_256(512) + base_256(4096) + base_256(0)
        head = header(name, 512, b"S", magic=OLD_GNU, gnu=entries.ljust(97, b"\0") + base_256(4096))
        data = head + pad(TWIN) + real
    result = extract(data)
    assert set(result.files) == {"d/model.riva"}
    assert result.summary.left_out == ("d/._model.riva",)


def test_a_link_in_such_a_place_is_refused_as_any_other() -> None:
    assert refused(header(b"._x.riva", 0, b"2", link=b"x.riva") + END).fault is ArchiveFault.MEMBER


def test_an_empty_model_in_such_a_place_is_refused_as_any_other() -> None:
    assert refused(member(b"._x.riva", b"") + END).fault is ArchiveFault.MEMBER
    assert refused(member(b"._x.riva", bytes(5000)) + END).fault is ArchiveFault.MEMBER


def test_a_leftover_that_is_cut_is_a_cut_archive() -> None:
    data: Any = member(b"x.riva") + header(b"._x.riva", 5000) + TWIN
    assert refused(data).fault is ArchiveFault.CUT
