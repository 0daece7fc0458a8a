"""Maps of sparse members: which segments of the file are in the archive; the rest are holes.

There are four formats (GNU tar manual, "Sparse Formats"): old GNU (typeflag ``S``, the map in the header and in
the blocks after it) and pax 0.0, 0.1 (the map in the extended header) and 1.0 (the map before the data).
GNU tar starts each segment at a block of its own, Python and libarchive read them end to end; both give the same
result only if every segment but the last is a multiple of 512 bytes, and maps for which they would differ are refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from riva_stream.archive.numbers import number
from riva_stream.archive.pax import Pax, decimal
from riva_stream.archive.snapshot import Buffer, Count, Name, Strict, require
from riva_stream.errors import ArchiveError, ArchiveFault
from riva_stream.naming import raise_option

__all__ = [
    "MapReader",
    "Segment",
    "SparseInfo",
    "check_count",
    "check_map",
    "check_stored",
    "in_blocks",
    "old_gnu_entries",
    "old_gnu_head",
    "pax_sparse",
]

_ENTRY = 24
"""Bytes of one old GNU map entry, and what each map entry counts against ``Limits.header_bytes``."""
_MAP_RECORDS = frozenset((b"numblocks", b"map", b"offset", b"numbytes"))
"""Records of the maps of versions 0.0 and 0.1."""


class Segment(NamedTuple):
    """A segment of data: where in the file it goes, and how long it is. Bytes."""

    offset: Count
    length: Count


class SparseInfo(NamedTuple):
    """What a pax header says about a sparse member."""

    name: bytes | None
    size: int
    """The real size of the file, holes included."""
    segments: list[Segment] | None
    """None: version 1.0, whose map precedes the data."""


def old_gnu_entries(block: bytes, start: int, count: int, place: str) -> tuple[list[Segment], bool]:
    """Up to ``count`` entries of an old GNU map, and whether its end was seen."""
    segments: list[Segment] = []
    for at in range(start, start + count * _ENTRY, _ENTRY):
        if not block[at + 12]:  # GNU tar's own test for the end of the map (sparse.c, oldgnu_add_sparse)
            return segments, True
        fields = block[at : at + 12], block[at + 12 : at + _ENTRY]
        segments.append(Segment(*(number(one, lambda: f"{place}: its sparse map has") for one in fields)))
    return segments, False


def old_gnu_head(block: bytes, place: str) -> tuple[int, list[Segment], bool]:
    """Real size, first map entries, and whether a block with more of them follows."""
    size = number(block[483:495], lambda: f"{place}: its real size is")
    segments, ended = old_gnu_entries(block, 386, 4, place)
    more = bool(block[482])
    if ended and more:
        raise ArchiveError(
            f"{place}: its sparse map is marked as continued after its end", fault=ArchiveFault.MALFORMED
        )
    return size, segments, more


def pax_sparse(pax: Pax, limit: int, place: str) -> SparseInfo:
    """Read the ``GNU.sparse.*`` records of one member.

    Raises:
        ArchiveError: they match none of the three versions, or the map has more entries than ``limit`` bytes allow.
    """
    single = dict(pax.sparse)
    sizes = {value for key, value in pax.sparse if key in {b"realsize", b"size"}}
    if len(sizes) != 1:
        raise ArchiveError(
            f"{place}: sparse, but {'with two real sizes' if sizes else 'without its real size'}",
            fault=ArchiveFault.MALFORMED,
        )
    size = decimal(sizes.pop(), "GNU.sparse.realsize", place)
    name = single.get(b"name")
    records = [key for key, _ in pax.sparse if key in _MAP_RECORDS]
    if b"major" in single:
        if (single[b"major"], single.get(b"minor")) != (b"1", b"0"):
            raise ArchiveError(
                f"{place}: an unknown sparse format ({single[b'major'][:20]!r})",
                fault=ArchiveFault.UNSUPPORTED,
            )
        if records:
            raise ArchiveError(
                f"{place}: it has a sparse map in its header and one in front of its data",
                fault=ArchiveFault.AMBIGUOUS,
            )
        return SparseInfo(name, size, None)
    if records == [b"numblocks", b"map"]:
        found = single[b"map"].count(b",") + 1
    elif records == [b"numblocks", *[b"offset", b"numbytes"] * (len(records) // 2)]:
        found = len(records) - 1
    else:
        raise ArchiveError(
            f"{place}: the records of its sparse map are incomplete, mixed or out of order",
            fault=ArchiveFault.MALFORMED,
        )
    count = decimal(single[b"numblocks"], "GNU.sparse.numblocks", place)
    if not count:
        raise ArchiveError(
            f"{place}: its sparse map is empty, so GNU tar takes it for a file of {size} bytes without holes",
            fault=ArchiveFault.AMBIGUOUS,
        )
    if found != 2 * count:
        raise ArchiveError(
            f"{place}: its sparse map has {found} numbers, not 2 x {count}",
            fault=ArchiveFault.MALFORMED,
        )
    check_count(count, limit, place)  # before there is an object for each number
    if b"map" in single:
        numbers = single[b"map"].split(b",")
    else:
        numbers = [value for key, value in pax.sparse if key in {b"offset", b"numbytes"}]
    return SparseInfo(name, size, _segments(numbers, place))


@dataclass(eq=False, slots=True)
class MapReader(Strict):
    """The map of version 1.0, before the data: one decimal number per line, the first is the number of entries."""

    limit: Count
    """Maximum bytes of the map; each entry counts for at least 24."""
    place: Name
    """The name of the member in errors."""
    text: Buffer = field(default_factory=bytearray)
    lines: Count = 0
    count: Count | None = None
    """Number of entries, once known."""

    def check(self, limit: int) -> None:
        """Check that the state is possible.

        Raises:
            InvalidSnapshotError: no map leads to it.
        """
        self.limit = limit
        require(len(self.text) <= limit and not len(self.text) % 512, "the length of a sparse map")
        require((self.count is None) == (not self.text), "the count of a sparse map")
        require((self.count or 0) * _ENTRY <= limit, "the count of a sparse map")
        require(self.lines == self.text.count(b"\n") <= 2 * (self.count or 0), "the lines of a sparse map")

    @property
    def size(self) -> int:
        """Bytes read so far."""
        return len(self.text)

    def feed(self, block: bytes) -> bool:
        """Take the next block; return whether the map is complete.

        Raises:
            ArchiveError: it is malformed or too long.
        """
        self.text += block
        self.lines += block.count(b"\n")
        if self.count is None:
            head, newline, _ = block.partition(b"\n")
            if not newline:
                raise ArchiveError(
                    f"{self.place}: its sparse map does not begin with a number",
                    fault=ArchiveFault.MALFORMED,
                )
            self.count = decimal(head, "the length of its sparse map", self.place)
            check_count(self.count, self.limit, self.place)
        if len(self.text) > self.limit:
            raise ArchiveError(
                f"{self.place}: its sparse map is longer than {self.limit} bytes",
                hint=raise_option("max_header_bytes"),
                fault=ArchiveFault.LIMIT,
            )
        return self.lines > 2 * self.count

    def segments(self) -> list[Segment]:
        """The entries, once ``feed`` has returned that they are complete."""
        return _segments(bytes(self.text).split(b"\n")[1 : 2 * (self.count or 0) + 1], self.place)


def _segments(numbers: list[bytes], place: str) -> list[Segment]:
    values = [decimal(text, "a number of its sparse map", place) for text in numbers]
    return [Segment(*pair) for pair in zip(values[::2], values[1::2], strict=True)]


def check_stored(segments: list[Segment], size: int, stored: int, place: str) -> None:
    """Check the map of any member, wanted or not, against the real size and the bytes stored for it.

    GNU tar extracts every member, and looks for the next header after the blocks that the map needs.

    Raises:
        ArchiveError: they are not the ``stored`` bytes, or GNU tar might stop within the map.
    """
    if stored < 0:
        raise ArchiveError(
            f"{place}: its sparse map is {-stored} bytes longer than the member", fault=ArchiveFault.MALFORMED
        )
    if any(segment.offset + segment.length > size for segment in segments):
        raise ArchiveError(
            f"{place}: its sparse map leaves the {size} bytes of the file", fault=ArchiveFault.AMBIGUOUS
        )
    if sum(in_blocks(segment.length) for segment in segments) != in_blocks(stored):
        raise ArchiveError(
            f"{place}: its sparse map has {sum(segment.length for segment in segments)} bytes of data, its header {stored}",
            fault=ArchiveFault.MALFORMED,
        )


def check_map(segments: list[Segment], size: int, place: str) -> list[Segment]:
    """Check the map of a wanted member, after :func:`check_stored`, and return the segments that hold data.

    Raises:
        ArchiveError: segments that overlap, run backwards, end early, or that readers would look for at different places.
    """
    at = packed = 0
    data = []
    for segment in segments:
        if packed % 512 and segment.length:
            raise ArchiveError(
                f"{place}: a stretch of its sparse map inside the file is not a multiple of 512 bytes",
                fault=ArchiveFault.AMBIGUOUS,
            )
        if segment.offset < at:
            raise ArchiveError(
                f"{place}: its sparse map is out of order or overlaps", fault=ArchiveFault.AMBIGUOUS
            )
        at = segment.offset + segment.length
        packed += segment.length
        if segment.length:
            data.append(segment)
    if at != size:
        raise ArchiveError(
            f"{place}: its sparse map ends at byte {at} of {size}; GNU tar would cut the file there",
            fault=ArchiveFault.AMBIGUOUS,
        )
    return data


def in_blocks(count: int) -> int:
    """``count`` bytes, padded to whole blocks."""
    return count + -count % 512


def check_count(count: int, limit: int, place: str) -> None:
    """Refuse a map with more entries than ``limit`` bytes would hold."""
    if count * _ENTRY > limit:
        raise ArchiveError(
            f"{place}: its sparse map has {count} entries; at most {limit // _ENTRY} are read",
            hint=raise_option("max_header_bytes"),
            fault=ArchiveFault.LIMIT,
        )
