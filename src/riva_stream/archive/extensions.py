"""Extended headers: what stands in front of a member and changes its name, its size or its shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from riva_stream.archive.pax import Pax, PaxReader, parse_global, parse_pax
from riva_stream.archive.policy import show
from riva_stream.archive.sparse import old_gnu_head, pax_sparse
from riva_stream.archive.tar import BLOCK, Header, decode
from riva_stream.errors import ArchiveError, ArchiveFault

if TYPE_CHECKING:
    from riva_stream.archive.sparse import Segment

__all__ = ["Described", "Extensions", "place_of"]

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
    """The sparse map, as far as it is known: None when it stands in front of the data."""
    more: bool = False
    """Whether blocks with more of an old GNU map follow the header."""


def place_of(name: str, at: int, what: str = "member") -> str:
    """How every message names an entry."""
    return f"{what} {show(name)} (header at byte {at} of the tar stream)"


class Extensions:
    """Gathers the extended headers of one member, and applies them.

    Args:
        limit: most bytes that are kept of the extended headers in front of one member.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._header: Header | None = None
        self._place = ""
        self._body: bytearray | PaxReader = bytearray()
        self.left = 0
        """Bytes that are to come of the header that was announced."""
        self._forget()

    def _forget(self) -> None:
        self._bytes = 0
        self._long_name: bytes | None = None
        self._long_link: bytes | None = None
        self._pax: Pax | None = None

    @property
    def pending(self) -> bool:
        """Whether a member has to follow."""
        return self._pax is not None or self._long_name is not None or self._long_link is not None

    def announce(self, header: Header, at: int) -> None:
        """An extended header begins at byte ``at``; its body is fed next.

        Raises:
            ArchiveError: with those before it, more would be kept than may be.
        """
        self._header, self.left = header, header.size
        self._place = place_of(decode(header.name), at, "extended header")
        whole = header.typeflag in b"LK"
        self._hold(BLOCK + (header.size if whole else 0))
        self._body = bytearray() if whole else PaxReader(header.size, self._place, self._hold)

    def feed(self, view: memoryview) -> bool:
        """Take the next bytes of its body, ``left`` at most; whether it is complete.

        Raises:
            ArchiveError: it is malformed, or the second of its kind for one member: readers differ in which one counts.
        """
        self.left -= len(view)
        if isinstance(self._body, PaxReader):
            self._body.feed(view)
        else:
            self._body += view
        if not self.left:
            self._complete()
        return not self.left

    def _hold(self, count: int) -> None:
        """Count bytes that are kept, and blocks."""
        self._bytes += count
        if self._bytes > self._limit:
            raise ArchiveError(
                f"{self._place}: {self._bytes} bytes of extended headers in a row; at most {self._limit} are read",
                hint="if that is how the archive should be, raise --max-header-bytes",
                fault=ArchiveFault.LIMIT,
            )

    def _complete(self) -> None:
        kind, body = self._header.typeflag if self._header else b"", self._body
        if isinstance(body, PaxReader):
            body.finish()
            if kind == b"g":
                parse_global(body.records, self._place)
                return
            second, self._pax = self._pax is not None, parse_pax(body.records, self._place)
        elif kind == b"L":
            second, self._long_name = self._long_name is not None, bytes(body).partition(b"\0")[0]
        else:
            second, self._long_link = self._long_link is not None, bytes(body).partition(b"\0")[0]
        if second:
            raise ArchiveError(
                f"{self._place} is the second of its kind for one member", fault=ArchiveFault.AMBIGUOUS
            )

    def apply(self, block: bytes, header: Header, at: int) -> Described:
        """Describe the member whose header block this is, and forget the extended headers.

        Raises:
            ArchiveError: they contradict each other or the header, or make a member that is not read.
        """
        pax = self._pax or Pax()
        name = header.name if self._long_name is None else self._long_name
        if pax.path is not None:
            if self._long_name not in {None, pax.path}:
                place = place_of(decode(pax.path), at)
                raise ArchiveError(
                    f"{place} has another name, {show(decode(name))}, in a GNU header",
                    fault=ArchiveFault.AMBIGUOUS,
                )
            name = pax.path
        place = place_of(decode(name), at)
        link = header.link if self._long_link is None else self._long_link
        size = header.size if pax.size is None else pax.size
        if size > _MAX_OFFSET - at - 2 * BLOCK:
            raise ArchiveError(f"{place}: a size of {size} bytes cannot be", fault=ArchiveFault.MALFORMED)
        self._forget()
        if pax.sparse:
            if not header.ustar or header.typeflag not in {b"0", b"\0"}:
                raise ArchiveError(
                    f"{place} is sparse, but no regular pax member", fault=ArchiveFault.MALFORMED
                )
            info = pax_sparse(pax, self._limit, place)
            return Described(info.name or name, link, size, info.size, sparse=True, segments=info.segments)
        if header.typeflag == b"S":
            if not header.gnu:
                raise ArchiveError(
                    f"{place} is sparse in a format (star) that is not read", fault=ArchiveFault.UNSUPPORTED
                )
            real, segments, more = old_gnu_head(block, place)
            return Described(name, link, size, real, sparse=True, segments=segments, more=more)
        if header.typeflag == b"M":
            raise ArchiveError(f"{place} continues from another volume", fault=ArchiveFault.UNSUPPORTED)
        return Described(name, link, size, size)
