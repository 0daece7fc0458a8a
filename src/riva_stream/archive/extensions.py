"""Extended headers: they precede a member and change its name, size or shape."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from riva_stream.archive.pax import Pax, PaxReader, parse_global, parse_pax
from riva_stream.archive.snapshot import Buffer, Bytes, Count, Name, Strict, require
from riva_stream.archive.sparse import Segment, old_gnu_head, pax_sparse
from riva_stream.archive.tar import BLOCK, Header, is_star
from riva_stream.archive.text import decode, show
from riva_stream.errors import ArchiveError, ArchiveFault
from riva_stream.naming import raise_option

__all__ = ["Described", "Extensions", "entry_label"]

_MAX_OFFSET = (1 << 63) - 1


class Described(NamedTuple):
    """A member as its header and its extended headers together describe it."""

    name: bytes
    link: bytes
    stored: int
    """Bytes in the archive, a sparse map of version 1.0 included."""
    real: int
    """Bytes of the file."""
    sparse: bool = False
    segments: list[Segment] | None = None
    """Where the data goes, as far as known: None when a sparse map precedes the data."""
    more: bool = False
    """Whether blocks that continue an old GNU map follow the header."""


def entry_label(name: str, at: int, what: str = "member") -> str:
    """Name an entry, as every message does."""
    return f"{what} {show(name)} (header at byte {at} of the tar stream)"


@dataclass(eq=False, slots=True)
class Extensions(Strict):
    """Collects the extended headers of one member, and applies them."""

    limit: Count
    """Maximum bytes kept of the extended headers of one member."""
    header: Header | None = None
    place: Name = ""
    text: Buffer = field(default_factory=bytearray)
    """The part read so far of a GNU long name or link."""
    records: PaxReader | None = None
    """Reads a pax header."""
    left: Count = 0
    """Bytes still to come of the announced header."""
    kept: Count = 0
    long_name: Bytes | None = None
    long_link: Bytes | None = None
    pax: Pax | None = None

    def check(self, *, reading: bool) -> None:
        """Check that the state is possible, ``reading`` the body of a header or not.

        Raises:
            InvalidSnapshotError: no stream leads to it.
        """
        require((self.header is not None and self.left > 0) if reading else not self.left, "a header's rest")
        names = len(self.text) + len(self.long_name or b"") + len(self.long_link or b"")
        require(names <= self.kept <= self.limit, "what is kept of extended headers")
        if self.header is not None and reading:
            whole = self.header.typeflag in b"LK"
            require(len(self.header.typeflag) == 1 and self.header.typeflag in b"LKxXg", "an extended header")
            require((self.records is None) == whole, "the body of an extended header")
            require(not whole or len(self.text) + self.left <= self.limit, "the length of a name")
        if self.records is not None:
            self.records.check()

    @property
    def pending(self) -> bool:
        """Whether a member must follow."""
        return (self.pax, self.long_name, self.long_link) != (None, None, None)

    def announce(self, header: Header, at: int) -> None:
        """Note that an extended header begins at byte ``at``; its body is fed next.

        Raises:
            ArchiveError: together with those before it, it would exceed the limit of kept bytes.
        """
        self.header, self.left = header, header.size
        self.place = entry_label(decode(header.name), at, "extended header")
        whole = header.typeflag in b"LK"
        self._hold(BLOCK + (header.size if whole else 0))
        self.text.clear()
        self.records = None if whole else PaxReader(header.size, self.place)

    def feed(self, view: memoryview) -> bool:
        """Take the next bytes of the body, ``left`` at most; return whether it is complete.

        Raises:
            ArchiveError: it is malformed, or the second of its kind for one member: readers differ in which one counts.
        """
        self.left -= len(view)
        if self.records is not None:
            self.records.feed(view, self._hold)
        else:
            self.text += view
        if not self.left:
            self._complete()
        return not self.left

    def _hold(self, count: int) -> None:
        """Count the bytes that are kept, and header blocks."""
        self.kept += count
        if self.kept > self.limit:
            raise ArchiveError(
                f"{self.place}: too many bytes of extended headers in a row; at most {self.limit} are read",
                hint=raise_option("max_header_bytes"),
                fault=ArchiveFault.LIMIT,
            )

    def _complete(self) -> None:
        kind, reader, text = self.header.typeflag if self.header else b"", self.records, bytes(self.text)
        self.records = None
        self.text.clear()
        if reader is not None:
            reader.finish()
            if kind == b"g":
                parse_global(reader.records, self.place)
                return
            second, self.pax = self.pax is not None, parse_pax(reader.records, self.place)
        elif kind == b"L":
            second, self.long_name = self.long_name is not None, text.partition(b"\0")[0]
        else:
            second, self.long_link = self.long_link is not None, text.partition(b"\0")[0]
        if second:
            raise ArchiveError(
                f"{self.place} is the second of its kind for one member", fault=ArchiveFault.AMBIGUOUS
            )

    def apply(self, block: bytes, header: Header, at: int) -> Described:
        """Describe the member that this header block belongs to, and forget the extended headers.

        Raises:
            ArchiveError: they contradict each other or the header, or describe an unsupported member.
        """
        pax = self.pax or Pax()
        name = header.name if self.long_name is None else self.long_name
        if pax.path is not None:
            if self.long_name not in {None, pax.path}:
                place = entry_label(decode(pax.path), at)
                raise ArchiveError(
                    f"{place} has another name, {show(decode(name))}, in a GNU header",
                    fault=ArchiveFault.AMBIGUOUS,
                )
            name = pax.path
        place = entry_label(decode(name), at)
        link = header.link if self.long_link is None else self.long_link
        size = header.size if pax.size is None else pax.size
        if size > _MAX_OFFSET - at - 2 * BLOCK:
            raise ArchiveError(f"{place}: a size of {size} bytes is impossible", fault=ArchiveFault.MALFORMED)
        self.kept = 0
        self.long_name = self.long_link = self.pax = None
        if pax.sparse:
            if not header.ustar or is_star(block) or header.typeflag not in {b"0", b"\0"}:
                raise ArchiveError(
                    f"{place} is sparse, but not a regular pax member", fault=ArchiveFault.MALFORMED
                )
            info = pax_sparse(pax, self.limit, place)
            return Described(info.name or name, link, size, info.size, sparse=True, segments=info.segments)
        if header.typeflag == b"S":
            if not header.gnu:
                raise ArchiveError(
                    f"{place} is sparse in an unsupported format (star)", fault=ArchiveFault.UNSUPPORTED
                )
            real, segments, more = old_gnu_head(block, place)
            return Described(name, link, size, real, sparse=True, segments=segments, more=more)
        if header.typeflag == b"M":
            raise ArchiveError(f"{place} continues from another volume", fault=ArchiveFault.UNSUPPORTED)
        return Described(name, link, size, size, segments=[Segment(0, size)])
