"""One gzip member header (RFC 1952, section 2.3), read from pieces that may be split at any byte."""

from __future__ import annotations

from collections.abc import Generator

from isal import isal_zlib

from riva_stream.archive.decoder import Block, Decoder
from riva_stream.errors import ArchiveError, ArchiveFault

__all__ = ["read_header"]

_MAGIC = b"\x1f\x8b"
_FHCRC, _FEXTRA, _FNAME, _FCOMMENT, _RESERVED = 2, 4, 8, 16, 0xE0
_TEXT_LIMIT = 1 << 20
"""Maximum bytes of FNAME or FCOMMENT; they are not kept, but must not be read for ever either."""


def read_header(source: Decoder, place: str, *, first: bool) -> Generator[Block, None, None]:
    """Read a whole header; ``place`` names the member in errors, ``first`` says whether it is the archive's first.

    Raises:
        ArchiveError: there is none, it is damaged, or it announces data that cannot be read.
    """

    def look(kept: bytearray) -> None:
        wrong = next((pair for pair in zip(kept, _MAGIC, strict=False) if pair[0] != pair[1]), None)
        if wrong is not None:  # however much has arrived after it
            what = "not a gzip member" if first else "garbage after the end of the gzip data"
            raise ArchiveError(f"{place}: {what}: it has a byte {wrong[0]:#04x} instead of {wrong[1]:#04x}")

    fixed = yield from source.exactly(10, look)
    method, flags = fixed[2:4]
    if method != 8:  # noqa: PLR2004 - RFC 1952: 8 is deflate, the only method there is
        raise ArchiveError(f"{place}: compression method {method} is not deflate")
    if flags & _RESERVED:
        raise ArchiveError(f"{place}: reserved flags are set ({flags:#04x}); RFC 1952 forbids them")
    crc = isal_zlib.crc32(fixed)
    if flags & _FEXTRA:
        length = yield from source.exactly(2)
        extra = yield from source.exactly(int.from_bytes(length, "little"))
        crc = isal_zlib.crc32(length + extra, crc)
    for flag in (_FNAME, _FCOMMENT):
        if flags & flag:
            crc = yield from _skip_text(source, place, crc)
    if flags & _FHCRC:
        told = yield from source.exactly(2)
        if int.from_bytes(told, "little") != crc & 0xFFFF:
            raise ArchiveError(f"{place}: its header is damaged (FHCRC)")


def _skip_text(source: Decoder, place: str, crc: int) -> Generator[Block, None, int]:
    """Skip a name or a comment, up to its NUL; return ``crc`` updated with it."""
    end = size = 0
    while not end:
        text = bytes(source.peek(4096))
        end = text.find(0) + 1
        taken = source.consume(end or len(text))
        size += len(taken)
        crc = isal_zlib.crc32(taken, crc)
        if size > _TEXT_LIMIT:
            raise ArchiveError(
                f"{place}: a name or comment in its header is over {_TEXT_LIMIT} bytes",
                hint="compress the archive again without them: gzip -n",
                fault=ArchiveFault.LIMIT,
            )
        if not end:
            yield b""
    return crc
