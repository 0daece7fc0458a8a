"""What the source is, by its first bytes and never by its name."""

from __future__ import annotations

from typing import Literal

from riva_stream.archive.tar import BLOCK, looks_like_tar
from riva_stream.archive.zstd import is_zstd
from riva_stream.errors import ArchiveError

__all__ = ["HEAD", "ContainerName", "detect"]

HEAD = BLOCK
"""Bytes that are always enough to tell."""

ContainerName = Literal["gzip", "zstd", "tar"]

_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\xfd7zXZ\0", "an xz file"),
    (b"BZh", "a bzip2 file"),
    (b"\x04\x22\x4d\x18", "an lz4 file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"LZIP", "an lzip file"),
    (b"\x1f\x9d", "a file of compress (.Z)"),
    (b"\x78\x9c", "a zlib stream without a gzip header"),
    (b"!<arch>", "a Debian package or an ar archive"),
    (b"070701", "a cpio archive"),
    (b"%PDF", "a PDF document"),
    (b"\x7fELF", "an ELF program"),
    (b"version https://git-lfs", "a Git LFS pointer: the model itself was not checked out"),
    (b"\x89HDF", "an HDF5 file"),
)

_TEXTS: tuple[tuple[tuple[bytes, ...], str], ...] = (
    ((b"<!doctype html", b"<html", b"<head", b"<body"), "an HTML page, such as an error page"),
    ((b"<?xml", b"<error"), "an XML document, such as an error answer of a store"),
    ((b"{", b"["), "JSON"),
)


def detect(head: bytes, *, final: bool = False) -> ContainerName | None:
    """Tell the container by the first bytes of the source; None while there are too few.

    Args:
        head: what is known of it, from its first byte; 512 bytes are always enough.
        final: there are no more.

    Raises:
        ArchiveError: it is none that is read; the text says what it looks like.
    """
    if head[:2] == b"\x1f\x8b":
        return "gzip"
    if len(head) >= 4 and is_zstd(head):  # noqa: PLR2004 - the length of its magic
        return "zstd"
    if len(head) < HEAD and not final:
        return None
    block = head[:BLOCK]
    if looks_like_tar(block) or block[257:262] == b"ustar" or (len(block) == BLOCK and not any(block)):
        return "tar"
    raise ArchiveError(
        f"the source is no tar, .tar.gz or .tar.zst: {_describe(head)}",
        hint="Check the URI; the archive has to be a tar, plain or compressed with gzip or zstd.",
    )


def _describe(head: bytes) -> str:
    if not head:
        return "it is empty (0 bytes)"
    for magic, what in _OTHERS:
        if head.startswith(magic):
            return f"it looks like {what}"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for beginnings, what in _TEXTS:
        if text.startswith(beginnings):
            return f"it looks like {what}"
    return f"it begins with {head[:16]!r}" if any(head) else f"its {len(head)} bytes are all zero"
