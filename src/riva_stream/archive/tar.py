"""One tar stream, header by header: a synchronous walk over blocks of it, cut anywhere.

The walk follows GNU tar's extraction (``list.c``, ``extract.c``), including what it takes for data and what not: a
directory, a link or a device has none, whatever its size field says; an unknown typeflag is a file. It stops with
an :class:`~riva_stream.errors.ArchiveError` wherever GNU tar would warn, skip or guess. Formats: v7, ustar, pax,
old GNU. Nothing is ever taken from a block without its checksum.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple

from riva_stream.archive.numbers import checksum, number
from riva_stream.archive.snapshot import Bytes, Count, Name, Strict
from riva_stream.archive.text import decode, show
from riva_stream.errors import ArchiveError, ArchiveFault

__all__ = ["BLOCK", "Entry", "Header", "Kind", "Sink", "looks_like_tar", "parse_header", "says_tar"]

BLOCK = 512
"""Bytes of a tar block: headers are one, data is padded to it."""

Kind = Literal[
    "file",
    "directory",
    "hard link",
    "symbolic link",
    "character device",
    "block device",
    "FIFO",
    "volume label",
]

_KINDS: dict[bytes, Kind] = {
    b"1": "hard link",
    b"2": "symbolic link",
    b"3": "character device",
    b"4": "block device",
    b"5": "directory",
    b"6": "FIFO",
    b"D": "directory",
    b"V": "volume label",
}
_FILES = frozenset((b"0", b"\0", b"7", b"S"))
_WITHOUT_DATA = frozenset((b"1", b"2", b"3", b"4", b"5", b"6"))
"""GNU tar -x, and Python, look for the next header right behind these, whatever their size field says."""


class Header(NamedTuple):
    """One header block whose checksum is right."""

    name: Bytes
    link: Bytes
    size: Count
    """The size field: bytes stored, before a pax header overrides it."""
    typeflag: Bytes
    gnu: bool
    """Old GNU magic: the prefix field holds other things, a sparse map among them."""
    ustar: bool


@dataclass(frozen=True, slots=True)
class Entry(Strict):
    """One entry of the archive, its extended headers applied."""

    name: Name
    """UTF-8; bytes that are not stand as lone surrogates (PEP 383)."""
    kind: Kind
    size: Count
    """Bytes of the file as extracted; 0 for what has no data."""
    index: Count
    """Its place among all entries, from 0."""
    offset: Count
    """Where its header block begins in the tar stream."""
    link: Name = ""
    """What a link points to."""
    data_offset: int | None = None
    """Where its bytes begin in the tar stream; None where they are not there as they are extracted (sparse)."""


class Sink(ABC):
    """Who is told what the walk finds. Each method may raise ArchiveError, which ends the walk."""

    @abstractmethod
    def entry(self, entry: Entry) -> bool:
        """A new entry; whether its data is wanted. Only ever true for a file."""

    def data(self, view: memoryview) -> None:  # noqa: B027 - of no use to whoever wants none, as the next two
        """The next bytes of the file that is wanted, holes filled."""

    def hole(self, count: int) -> None:  # noqa: B027
        """As many zero bytes, which the stream does not hold, are made up next."""

    def end(self) -> None:  # noqa: B027
        """The file that is wanted is complete."""

    @abstractmethod
    def warn(self, text: str) -> None:
        """Something that does not change what is extracted, but that somebody should know."""


def parse_header(block: bytes, at: int, after: str = "") -> Header | None:
    """Read one header block; None for a block of zeros.

    Args:
        block: 512 bytes.
        at: where it begins in the tar stream, for errors.
        after: the name of the entry before it, for errors.

    Raises:
        ArchiveError: its checksum or its size is wrong.
    """
    if not any(block):
        return None
    place = f"the tar header at byte {at}" + (f", after member {show(after)}," if after else "")
    name = _text(block[0:100])
    has = "is damaged: its checksum field has"
    if block[148] >= 0x80:  # noqa: PLR2004 - octal only (from_header)
        raise ArchiveError(f"{place} {has} something that is no octal number ({block[148:156]!r})")
    recorded = number(block[148:156], lambda: f"{place} {has}", fault=ArchiveFault.DAMAGED)
    sums = checksum(block)
    if recorded not in sums:
        raise ArchiveError(
            f"{place} is damaged: it records the checksum {recorded}, its bytes add up to {sums[0]}"
        )
    size = number(
        block[124:136], lambda: f"{place} (member {show(decode(name))}) is malformed: its size field has"
    )
    ustar = block[257:263] == b"ustar\0"
    prefix = _text(block[345:500]) if ustar else b""
    whole = prefix + b"/" + name if prefix else name
    return Header(whole, _text(block[157:257]), size, block[156:157], block[257:265] == b"ustar  \0", ustar)


def looks_like_tar(block: bytes) -> bool:
    """Whether this is a header block whose checksum is right."""
    if len(block) < BLOCK:
        return False
    try:
        return parse_header(bytes(block[:BLOCK]), 0) is not None
    except ArchiveError:
        return False


def says_tar(head: bytes) -> bool:
    """Whether a tar begins with this, a damaged one as well where its header names itself."""
    return looks_like_tar(head) or head[257:262] == b"ustar"


def kind_of(header: Header, name: bytes) -> Kind:
    """What the entry is to GNU tar: a file name that ends in a slash makes a directory of it (v7, BSD)."""
    if header.typeflag in _KINDS:
        return _KINDS[header.typeflag]
    return "directory" if name.endswith(b"/") else "file"


def stored_size(header: Header, size: int) -> int:
    """Bytes of data behind this header, before padding."""
    return 0 if header.typeflag in _WITHOUT_DATA else size


def is_unknown(header: Header) -> bool:
    """Whether GNU tar has to guess what this is (it takes it for a file and says so)."""
    return header.typeflag not in _KINDS and header.typeflag not in _FILES


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]
