"""What data that is not a tar looks like, layer by layer, and what its owner can do about it."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import zstandard

from riva_stream.archive.tar import begins_tar
from riva_stream.archive.zstd import is_zstd
from riva_stream.errors import ArchiveError, ArchiveFault

__all__ = [
    "DEEP",
    "chunked",
    "describe_content",
    "not_a_model",
    "not_a_tar",
    "odd_for_a_model",
    "sniff_layers",
]

DEEP = 8192
"""Bytes with which a look under one more layer usually succeeds (not under zstd, whose blocks have up to 128 KiB)."""
_DEPTH = 5
"""Maximum number of layers that are identified."""
_WINDOW = 8 << 20


class _Kind(NamedTuple):
    article: str
    """The name in a sentence, with its article."""
    unwrap: str = ""
    """The filter that removes this layer."""
    advice: str = ""
    """What to do where there is no filter."""


_REPACK = "and pack the files as a tar: tar --zstd -cf model.tar.zst -C FOLDER ."
_ERROR_PAGE = (
    "the program that wrote the object saved a server's answer in place of the archive: fetch the archive again, "
    "check it, and upload that"
)
_NO_ARCHIVE = "check the URI; the archive has to be a tar, plain or compressed with gzip or zstd"

_KINDS: dict[str, _Kind] = {
    "gzip": _Kind("a gzip", "gzip -dc"),
    "zstd": _Kind("a zstd file", "zstd -dc"),
    "xz": _Kind("an xz file", "xz -dc"),
    "lzma": _Kind("an lzma file", "xz -dc --format=lzma"),
    "bzip2": _Kind("a bzip2 file", "bzip2 -dc"),
    "lz4": _Kind("an lz4 file", "lz4 -dc"),
    "lzip": _Kind("an lzip file", "lzip -dc"),
    "compress": _Kind("a file of compress (.Z)", "gzip -dc"),
    "zlib": _Kind("a zlib stream without a gzip header", "pigz -dc"),
    "snappy": _Kind("a snappy file", "snzip -dc"),
    "tar": _Kind("a tar"),
    "zip": _Kind("a zip archive", advice=f"unpack it (unzip -d FOLDER) {_REPACK}"),
    "7z": _Kind("a 7-Zip archive", advice=f"unpack it (7z x -oFOLDER) {_REPACK}"),
    "rar": _Kind("a RAR archive", advice=f"unpack it (unrar x) {_REPACK}"),
    "ar": _Kind("a Debian package or an ar archive", advice=f"unpack it (ar x) {_REPACK}"),
    "cpio": _Kind("a cpio archive", advice=f"unpack it (cpio -idm) {_REPACK}"),
    "squashfs": _Kind("a squashfs image", advice=f"unpack it (unsquashfs -d FOLDER) {_REPACK}"),
    "html": _Kind("an HTML page, such as an error page", advice=_ERROR_PAGE),
    "xml": _Kind("an XML document, such as an error answer of a store", advice=_ERROR_PAGE),
    "json": _Kind("JSON", advice=_ERROR_PAGE),
    "text": _Kind("plain text", advice="check the object, and upload the archive itself"),
    "git-lfs": _Kind(
        "a Git LFS pointer: the model itself was not checked out",
        advice="run git lfs pull, and upload the file then",
    ),
    "aws-chunked": _Kind(
        "the framing of an upload (aws-chunked) that was left in the object",
        advice="a client uploaded it in chunks that the store or a proxy did not unpack: upload it again with "
        "AWS_REQUEST_CHECKSUM_CALCULATION=when_required, or past the proxy",
    ),
    "appledouble": _Kind(
        "an AppleDouble file, which macOS leaves beside the real one",
        advice="stage the file of that name without ._ in front",
    ),
    "form-data": _Kind(
        "the framing of a form (multipart/form-data) that was left in the object",
        advice="upload it again as the body itself: aws s3 cp, or curl -T in place of curl -F",
    ),
    "http": _Kind(
        "an HTTP answer with its headers",
        advice="upload it again without them: curl without -i, or aws s3 cp",
    ),
    "encrypted": _Kind("an encrypted file", advice="decrypt it and upload the result"),
    "pdf": _Kind("a PDF document"),
    "elf": _Kind("an ELF program"),
    "hdf5": _Kind("an HDF5 file"),
    "gguf": _Kind("a GGUF model"),
    "safetensors": _Kind("a safetensors model"),
    "zeros": _Kind("nothing but zeros", advice="upload an intact copy"),
    "empty": _Kind("nothing at all: 0 bytes", advice="upload an intact copy"),
    "unknown": _Kind("an unknown format"),
}

_NO_MODELS = frozenset(("html", "xml", "git-lfs", "aws-chunked", "form-data", "http", "pdf", "empty"))
"""What a model never is: pages, responses, pointers, framing, nothing."""
_ODD_MODELS = frozenset(
    ("zip", "7z", "rar", "xz", "bzip2", "cpio", "squashfs", "ar", "text", "appledouble", "elf")
)
"""Formats in which models are not packed."""

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"PK\x07\x08", "zip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!\x1a\x07", "rar"),
    (b"LZIP", "lzip"),
    (b"\x5d\0\0", "lzma"),
    (b"\x1f\x9d", "compress"),
    (b"\xff\x06\0\0sNaPpY", "snappy"),
    (b"!<arch>", "ar"),
    (b"070701", "cpio"),
    (b"070702", "cpio"),
    (b"070707", "cpio"),
    (b"\xc7\x71", "cpio"),
    (b"hsqs", "squashfs"),
    (b"%PDF", "pdf"),
    (b"\x7fELF", "elf"),
    (b"version https://git-lfs", "git-lfs"),
    (b"\x89HDF", "hdf5"),
    (b"GGUF", "gguf"),
    (b"\0\5\x16\7", "appledouble"),
    (b"HTTP/1.", "http"),
    (b"HTTP/2", "http"),
    (b"Salted__", "encrypted"),
    (b"age-encryption.org/", "encrypted"),
    (b"-----BEGIN PGP", "encrypted"),
)
_ZLIB = frozenset((b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"))

_TEXTS: tuple[tuple[tuple[bytes, ...], str], ...] = (
    ((b"<!doctype html", b"<html", b"<head", b"<body"), "html"),
    ((b"<?xml", b"<error"), "xml"),
    ((b"{", b"["), "json"),
)
_CODE = re.compile(rb"<code>([A-Za-z0-9._-]{1,64})</code>", re.IGNORECASE)
_SIGNED = re.compile(rb"[0-9A-Fa-f]{1,16};chunk-signature=[0-9A-Fa-f*]{16,200}\r\n")
_UNSIGNED = re.compile(rb"[0-9A-Fa-f]{1,16}\r\n")
_FORM = re.compile(rb"--[^\r\n]{1,100}\r\ncontent-disposition:", re.IGNORECASE)
_SAFETENSORS = re.compile(rb'[\s\S]{5}\0\0\0\{"')


def chunked(head: bytes) -> int:
    """Length of the line that begins a chunk of aws-chunked framing; 0 where there is none.

    Signed chunks identify themselves. Unsigned ones (with a trailing checksum) have only a length, so such a line
    counts only if known content follows.
    """
    if signed := _SIGNED.match(head):
        return signed.end()
    unsigned = _UNSIGNED.match(head)
    if unsigned and _kind_of(head[unsigned.end() :]) not in {"unknown", "text", "zeros", "empty"}:
        return unsigned.end()
    return 0


def sniff_layers(head: bytes) -> tuple[str, ...]:
    """The formats of these first bytes, outermost first, as far as they show; never empty."""
    layers: list[str] = []
    while len(layers) < _DEPTH:
        framing = chunked(head)
        kind = "aws-chunked" if framing else _kind_of(head)
        if layers and kind in {"unknown", "empty", "zeros"}:
            break  # too little of it was inflated to decide
        layers.append(kind)
        head = head[framing:] if framing else _inflated(kind, head)
        if not head:
            break
    return tuple(layers)


def describe_content(head: bytes) -> str:
    """What a file with these first bytes looks like; empty where that is unknown."""
    layers = sniff_layers(head)
    return "" if layers[0] in {"unknown", "empty", "zeros"} else f"it looks like {_sentence(layers, head)}"


def not_a_tar(head: bytes, outer: Sequence[str] = ()) -> ArchiveError:
    """The error for ``head``, the first bytes of the source, or of the content of its layers ``outer``."""
    found = sniff_layers(head)
    if outer:
        text = f"inside the {outer[-1]} is {_sentence(found, head, outer)}"
    else:
        seen = {
            "empty": "it is empty (0 bytes)",
            "zeros": f"its {len(head)} bytes are all zero",
            "unknown": f"it begins with {head[:16]!r}",
        }.get(found[0], f"it looks like {_sentence(found, head)}")
        text = f"the source is not a tar, .tar.gz or .tar.zst: {seen}"
    return ArchiveError(
        text,
        hint=_hint((*outer, *found)),
        fault=ArchiveFault.LAYER,
        layers=(*outer, *found),
    )


def not_a_model(name: str, head: bytes) -> ArchiveError | None:
    """The error for a bare model whose first bytes show that it cannot be a model; None where they do not.

    Args:
        name: of the file, for formats that take both name and bytes to recognise.
        head: its first bytes; ``DEEP`` of them, or all.
    """
    found = sniff_layers(head)
    # JSON is recognised by one byte, and a model may begin with it.
    sure = found[0] in _NO_MODELS or (found[0] == "json" and _is_text(head))
    if not sure and not (found[0] == "appledouble" and name.startswith("._")):
        return None
    return ArchiveError(
        f"the source is not a model: it looks like {_sentence(found, head)}",
        hint=_hint(found),
        fault=ArchiveFault.LAYER,
        layers=found,
    )


def odd_for_a_model(head: bytes) -> str:
    """What a bare model looks like if it seems to be something else; empty where it does not."""
    found = sniff_layers(head)
    is_odd = found[0] in _ODD_MODELS or (found[0] in {"gzip", "zstd"} and "tar" in found)
    return _sentence(found, head) if is_odd else ""


def _sentence(found: tuple[str, ...], head: bytes, outer: Sequence[str] = ()) -> str:
    if found == ("unknown",):
        return f"not a tar; it begins with {head[:16]!r}"
    words = []
    for kind in found:
        article = _KINDS[kind].article
        words.append(
            article.replace("a ", "another ", 1) if kind in outer and article.startswith("a ") else article
        )
        outer = (*outer, kind)
    text = ", and inside it ".join(words)
    if found == ("text",):
        return f"{text}; it begins with {head[:16]!r}"
    code = _CODE.search(head) if found == ("xml",) else None
    return f"{text} ({code[1].decode()})" if code else text


def _hint(layers: tuple[str, ...]) -> str:
    """How to turn these layers into a supported archive."""
    odd = next((i for i, kind in enumerate(layers) if not _KINDS[kind].unwrap and kind != "tar"), None)
    if odd is not None:
        advice = _KINDS[layers[odd]].advice or _NO_ARCHIVE
        if odd and _REPACK in advice:
            return f"take off the layers around it ({_pipe(layers[:odd])}), then {advice}"
        return advice
    wraps = [kind for kind in layers if kind != "tar"]
    ready = wraps[-1] in {"gzip", "zstd"} and len(wraps) > 1  # the innermost layer can stay
    pipe = _pipe(wraps[:-1] if ready else wraps)
    end = (
        f" > model.tar.{'gz' if wraps[-1] == 'gzip' else 'zst'}"
        if ready
        else " | zstd --check -o model.tar.zst"
    )
    return (
        f"one layer of gzip or zstd around the tar is enough; make such a file and upload that: {pipe}{end}"
    )


def _pipe(layers: Sequence[str]) -> str:
    """The filters that remove these layers from a file."""
    first, *rest = (_KINDS[kind].unwrap for kind in layers)
    return " | ".join([f"{first} FILE", *rest])


def _kind_of(head: bytes) -> str:
    tests = (
        ("empty", not head),
        ("gzip", head[:2] == b"\x1f\x8b"),
        ("zstd", len(head) >= 4 and is_zstd(head)),  # noqa: PLR2004 - the length of its magic
        ("tar", begins_tar(head)),
        (_by_magic(head), True),
        ("zlib", head[:2] in _ZLIB and _inflated("zlib", head)),
        ("form-data", _FORM.match(head)),
        ("safetensors", _SAFETENSORS.match(head)),
        ("zeros", not any(head)),
        (_by_text(head), True),
        ("text", _is_text(head)),
    )
    return next((kind for kind, fits in tests if kind and fits), "unknown")


def _by_magic(head: bytes) -> str:
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), "")


def _by_text(head: bytes) -> str:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((kind for beginnings, kind in _TEXTS if text.startswith(beginnings)), "")


def _is_text(head: bytes) -> bool:
    if head[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        return b"\0" in head[2:6]
    if any(byte < 0x20 and byte not in b"\t\n\r\f\x1b" for byte in head):  # noqa: PLR2004 - control characters
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3  # cut inside a character
    return True


def _inflated(kind: str, head: bytes) -> bytes:
    """The first bytes inside a gzip, zlib or zstd layer; empty where they cannot be decoded."""
    try:
        if kind in {"gzip", "zlib"}:
            return zlib.decompressobj(wbits=31 if kind == "gzip" else 15).decompress(head, DEEP)
        if kind == "zstd":
            return zstandard.ZstdDecompressor(max_window_size=_WINDOW).stream_reader(head).read(DEEP)
    except (zlib.error, zstandard.ZstdError):
        pass
    return b""
