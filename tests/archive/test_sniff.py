"""One layer more than a tar and its compression, or another thing altogether: told as what it is."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import struct
import zipfile
import zlib
from collections.abc import Callable

import pytest
import zstandard

from riva_stream.archive import Limits
from riva_stream.errors import ArchiveFault
from tests.archive.kit import END, extract, header, member, refused, tar_of

MODELS = {"a.riva": random.Random(1).randbytes(60_000), "m/b.riva": b"weights" * 4000}
TAR = tar_of(MODELS)


def zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def gz(data: bytes) -> bytes:
    return gzip.compress(data, 6, mtime=0)


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.riva", "model" * 500)
    return out.getvalue()


def framed(data: bytes, *, signed: bool, chunk: int = 8192) -> bytes:
    """``data`` as an SDK sends it in chunks, where nobody took them apart."""
    out = []
    for at in [*range(0, len(data), chunk), len(data)]:
        body = data[at : at + chunk]
        signature = b";chunk-signature=" + b"%064x" % at if signed else b""
        out.append(b"%x" % len(body) + signature + b"\r\n" + (body + b"\r\n" if body else b""))
    return b"".join(out) + b"x-amz-checksum-crc32:AAAAAA==\r\n\r\n"


RAR = b"Rar!\x1a\x07\x01\x00" + bytes(range(200)) * 5
SEVEN = b"7z\xbc\xaf\x27\x1c" + bytes(range(200)) * 5
HTML = b"\n<!DOCTYPE html><html><body>403 Forbidden</body></html>"
XML = b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code><Message>no</Message></Error>'
TEXT = b"this is what the model is about, and nothing else\n"
UTF16 = "a note".encode("utf-16")
JSON = json.dumps({"message": "Forbidden"}).encode()
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
TWIN = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(100)
TENSORS = struct.pack("<Q", 60) + b'{"w":{"dtype":"F32"}}' + bytes(600)
FORM = b'------x\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
DEEP = 5000  # more than the look under a layer needs

INSIDE: dict[str, tuple[tuple[str, ...], bytes]] = {
    "gzip in gzip": (("gzip", "gzip", "tar"), gz(gz(TAR))),
    "gzip in gzip in gzip": (("gzip", "gzip", "gzip", "tar"), gz(gz(gz(TAR)))),
    "zstd in gzip": (("gzip", "zstd"), gz(zst(TAR))),
    "gzip in zstd": (("zstd", "gzip", "tar"), zst(gz(TAR))),
    "zstd in zstd": (("zstd", "zstd"), zst(zst(TAR))),
    "a small zstd in gzip": (("gzip", "zstd", "tar"), gz(zst(tar_of({"a.riva": b"m"})))),
    "xz in gzip": (("gzip", "xz"), gz(lzma.compress(TAR))),
    "bzip2 in zstd": (("zstd", "bzip2"), zst(bz2.compress(TAR))),
    "zip in gzip": (("gzip", "zip"), gz(zipped())),
    "zip in zstd": (("zstd", "zip"), zst(zipped())),
    "7z in gzip": (("gzip", "7z"), gz(SEVEN)),
    "rar in zstd": (("zstd", "rar"), zst(RAR)),
    "zip in gzip in gzip": (("gzip", "gzip", "zip"), gz(gz(zipped()))),
    "text in gzip": (("gzip", "text"), gz(TEXT * 100)),
    "a short text in gzip": (("gzip", "text"), gz(TEXT)),
    "a short text in zstd": (("zstd", "text"), zst(TEXT)),
    "UTF-16 in gzip": (("gzip", "text"), gz(UTF16)),
    "HTML in gzip": (("gzip", "html"), gz(HTML)),
    "XML in gzip": (("gzip", "xml"), gz(XML)),
    "JSON in zstd": (("zstd", "json"), zst(JSON)),
    "LFS in gzip": (("gzip", "git-lfs"), gz(LFS)),
    "AppleDouble in gzip": (("gzip", "appledouble"), gz(TWIN)),
    "safetensors in gzip": (("gzip", "safetensors"), gz(TENSORS)),
    "framing in gzip": (("gzip", "aws-chunked", "tar"), gz(framed(TAR, signed=True))),
    "HTTP in gzip": (("gzip", "http"), gz(b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n" + TAR)),
    "encrypted in gzip": (("gzip", "encrypted"), gz(b"Salted__" + random.Random(6).randbytes(DEEP))),
    "anything in gzip": (("gzip", "unknown"), gz(random.Random(3).randbytes(DEEP))),
}
OUTSIDE: dict[str, tuple[tuple[str, ...], bytes]] = {
    "signed framing around gzip": (("aws-chunked", "gzip", "tar"), framed(gz(TAR), signed=True)),
    "signed framing around zstd": (("aws-chunked", "zstd"), framed(zst(TAR), signed=True)),
    "signed framing around a tar": (("aws-chunked", "tar"), framed(TAR, signed=True)),
    "signed framing around anything": (
        ("aws-chunked",),
        framed(random.Random(5).randbytes(DEEP), signed=True),
    ),
    "unsigned framing around gzip": (("aws-chunked", "gzip", "tar"), framed(gz(TAR), signed=False)),
    "unsigned framing around a tar": (("aws-chunked", "tar"), framed(TAR, signed=False)),
    "framing of one short chunk": (
        ("aws-chunked", "gzip", "tar"),
        framed(gz(tar_of({"a.riva": b"m"})), signed=True),
    ),
    "xz": (("xz",), lzma.compress(TAR)),
    "lzma": (("lzma",), lzma.compress(TAR, format=lzma.FORMAT_ALONE)),
    "bzip2": (("bzip2",), bz2.compress(TAR)),
    "zip": (("zip",), zipped()),
    "7z": (("7z",), SEVEN),
    "rar": (("rar",), RAR),
    "zlib": (("zlib", "tar"), zlib.compress(TAR)),
    "cpio": (("cpio",), b"070701" + b"0" * 600),
    "text": (("text",), TEXT),
    "HTML": (("html",), HTML),
    "XML": (("xml",), XML),
    "JSON": (("json",), JSON),
    "AppleDouble": (("appledouble",), TWIN),
    "safetensors": (("safetensors",), TENSORS),
    "nothing": (("empty",), b""),
    "a form": (("form-data",), FORM + gz(TAR) + b"\r\n------x--\r\n"),
    "HTTP": (("http",), b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n" + gz(TAR)),
    "encrypted": (("encrypted",), b"age-encryption.org/v1\n" + bytes(range(256)) * 4),
    "anything": (("unknown",), random.Random(3).randbytes(DEEP)),
}
BOTH = INSIDE | OUTSIDE


@pytest.mark.parametrize("cuts", [1, 700, None])
@pytest.mark.parametrize("what", BOTH)
def test_what_is_found_in_place_of_a_tar_is_told(what: str, cuts: int | None) -> None:
    layers, data = BOTH[what]
    error = refused(data, cuts=cuts)
    assert error.fault is ArchiveFault.LAYER
    assert error.layers == layers
    assert "checksum" not in error.what
    assert "bug" not in error.hint


@pytest.mark.parametrize("what", [name for name, (layers, _) in BOTH.items() if len(layers) > 1])
def test_the_text_names_each_layer(what: str) -> None:
    layers, data = BOTH[what]
    named = {
        "aws-chunked": "framing",
        "7z": "7-Zip",
        "rar": "RAR",
        "html": "HTML",
        "xml": "XML",
        "json": "JSON",
    }
    named |= {"form-data": "form", "http": "HTTP"}
    named |= {"git-lfs": "LFS", "appledouble": "AppleDouble", "unknown": "begins with"}
    text = refused(data).what
    assert all(named.get(layer, layer) in text for layer in layers)


FILTERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip -dc": gzip.decompress,
    "zstd -dc": lambda data: zstandard.ZstdDecompressor().stream_reader(data).read(),
    "xz -dc": lzma.decompress,
    "bzip2 -dc": bz2.decompress,
    "xz -dc --format=lzma": lzma.decompress,
    "pigz -dc": zlib.decompress,
    "zstd --check -o model.tar.zst": zst,
}


@pytest.mark.parametrize("what", [name for name, (_, data) in BOTH.items() if ": " in refused(data).hint])
def test_the_command_of_the_hint_makes_an_archive_that_is_read(what: str) -> None:
    data = BOTH[what][1]
    hint = refused(data).hint
    command = hint.partition(": ")[2] if "FILE" in hint else ""
    if not command or "FOLDER" in command:
        return
    for step in command.partition(" >")[0].replace(" FILE", "").split(" | "):
        data = FILTERS[step](data)
    assert "a.riva" in extract(data).files


def test_the_code_of_an_error_answer_is_told() -> None:
    assert "AccessDenied" in refused(XML).what
    assert "AccessDenied" in refused(gz(XML)).what


@pytest.mark.parametrize("cuts", [1, 13, 511, 512, 513, None])
@pytest.mark.parametrize("wrap", [gz, zst])
def test_the_look_inside_takes_nothing_from_what_is_read(
    cuts: int | None, wrap: Callable[[bytes], bytes]
) -> None:
    assert extract(wrap(TAR), cuts=cuts).files == MODELS
    assert extract(wrap(TAR), cuts=cuts, max_output=97 if cuts else 1).files == MODELS


@pytest.mark.parametrize("wrap", [gz, zst])
def test_a_damaged_or_cut_tar_inside_is_told_as_that(wrap: Callable[[bytes], bytes]) -> None:
    assert refused(wrap(b"")).fault is ArchiveFault.CUT
    assert refused(wrap(TAR[:300])).fault is ArchiveFault.CUT
    assert refused(wrap(b"b" + TAR[1:])).fault is ArchiveFault.DAMAGED
    assert refused(wrap(END)).fault is ArchiveFault.NO_MATCH
    assert refused(wrap(member(b"a.riva")[:900])).fault is ArchiveFault.CUT
    assert refused(wrap(header(b"v7.riva", magic=b"")[:100])).fault is ArchiveFault.CUT


@pytest.mark.parametrize("name", ["models.tar.gz", "d/Models.ZIP", "m.tar.zst"])
def test_an_archive_of_archives_says_so(name: str) -> None:
    error = refused(tar_of({"readme": b"x", name: b"x" * 600}))
    assert error.fault is ArchiveFault.NO_MATCH
    assert name in error.hint


def test_a_bomb_inside_a_layer_is_not_inflated() -> None:
    bomb = gz(gz(bytes(64 << 20)))
    assert refused(bomb, limits=Limits(expanded_bytes=1 << 22)).layers == ("gzip", "gzip")
