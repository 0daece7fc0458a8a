"""One tar stream, header by header: the format of its blocks.

This follows GNU tar's extraction (``list.c``, ``extract.c``), including what counts as data: a directory, a link
or a device has none, whatever its size field says; an unknown typeflag is a file. Wherever GNU tar would warn,
skip or guess, the archive is refused with an :class:`~riva_stream.errors.ArchiveError`. Formats: v7, ustar, pax,
old GNU. Nothing is ever taken from a header block whose checksum is wrong.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple

from riva_stream.archive.numbers import checksum, number
from riva_stream.archive.snapshot import Bytes, Count, Name, Strict
from riva_stream.archive.text import decode, show
from riva_stream.errors import ArchiveError, ArchiveFault

__all__ = [
    "BLOCK",
    "Entry",
    "Header",
    "Kind",
    "Sink",
    "begins_tar",
    "is_star",
    "looks_like_tar",
    "parse_header",
]

BLOCK = 512
"""Bytes of a tar block: a header is one block, and data is padded to whole blocks."""

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
_REGULAR = frozenset((b"0", b"\0", b"7"))
_FILES = _REGULAR | {b"S"}
_OCTAL_DIGITS = frozenset(b"%d" % digit for digit in range(8))
_WITHOUT_DATA = frozenset((b"1", b"2", b"3", b"4", b"5", b"6"))
"""GNU tar -x and Python look for the next header right after these, whatever their size field says."""


class Header(NamedTuple):
    """One header block with a valid checksum."""

    name: Bytes
    link: Bytes
    size: Count
    """The size field: bytes stored, before a pax header overrides it."""
    typeflag: Bytes
    gnu: bool
    """Old GNU magic: the prefix field holds other things, including a sparse map."""
    ustar: bool


@dataclass(frozen=True, slots=True)
class Entry(Strict):
    """One entry of the archive, with its extended headers applied."""

    name: Name
    """UTF-8; invalid bytes are kept as lone surrogates (PEP 383). Only a directory's may end in a slash."""
    kind: Kind
    size: Count
    """Bytes of the file as extracted; 0 for entries without data."""
    index: Count
    """Its position among all entries, from 0."""
    offset: Count
    """Offset of its header block in the tar stream."""
    link: Name = ""
    """The target of a link."""
    data_offset: int | None = None
    """Offset of its bytes in the tar stream; None where they are not stored there as they are extracted (sparse)."""


class Sink(ABC):
    """Receives what the walk finds. Each method may raise ArchiveError, which ends the walk."""

    @abstractmethod
    def entry(self, entry: Entry) -> bool:
        """Take a new entry; return whether its data is wanted, which it may be only for a file."""

    def data(self, view: memoryview) -> None:  # noqa: B027 - of no use to whoever wants none, as the next two
        """Take the next bytes of the wanted file, holes filled."""

    def hole(self, count: int) -> None:  # noqa: B027
        """Note that ``count`` zero bytes, which are not in the stream, come next."""

    def end(self) -> None:  # noqa: B027
        """Note that the wanted file is complete."""

    @abstractmethod
    def warn(self, text: str) -> None:
        """Note something that does not change what is extracted, but that the user should know."""


def parse_header(block: bytes, at: int, after: str = "") -> Header | None:
    """Parse one header block; None for a block of zeros.

    Args:
        block: 512 bytes.
        at: its offset in the tar stream, for errors.
        after: the name of the previous entry, for errors.

    Raises:
        ArchiveError: its checksum or its size is wrong.
    """
    if not any(block):
        return None
    place = f"the tar header at byte {at}" + (f", after member {show(after)}," if after else "")
    name = _text(block[0:100])
    has = "is damaged: its checksum field has"
    if block[148] >= 0x80:  # noqa: PLR2004 - octal only (from_header)
        raise ArchiveError(f"{place} {has} an invalid octal number ({block[148:156]!r})")
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
    """Whether this is a header block with a valid checksum."""
    if len(block) < BLOCK:
        return False
    try:
        return parse_header(bytes(block[:BLOCK]), 0) is not None
    except ArchiveError:
        return False


def is_star(block: bytes) -> bool:
    """Whether GNU tar takes a ustar header for one of star, in which it reads no pax sparse map (``decode_header``)."""
    times = block[476:488], block[488:500]
    return block[475] == 0 and all(time[:1] in _OCTAL_DIGITS and time[11:] == b" " for time in times)


def begins_tar(head: bytes) -> bool:
    """Whether a tar begins here, even a damaged one if its header has the magic."""
    return looks_like_tar(head) or head[257:262] == b"ustar"


def kind_of(header: Header, name: bytes, *, sparse: bool) -> Kind:
    """How GNU tar treats the entry: a regular file whose name ends in a slash is a directory (v7, BSD)."""
    if header.typeflag in _KINDS:
        return _KINDS[header.typeflag]
    regular = header.typeflag in _REGULAR and not sparse
    return "directory" if regular and name.endswith(b"/") else "file"


def stored_size(header: Header, size: int) -> int:
    """Bytes of data after this header, before padding."""
    return 0 if header.typeflag in _WITHOUT_DATA else size


def is_unknown(header: Header) -> bool:
    """Whether GNU tar has to guess the type (it takes it for a file and says so)."""
    return header.typeflag not in _KINDS and header.typeflag not in _FILES


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]
