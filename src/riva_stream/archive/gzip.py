"""gzip, member by member (RFC 1952): our own headers and trailers around ISA-L's raw inflate.

ISA-L's own gzip mode refuses valid headers that are split between calls, and does not report a truncated trailer; raw
inflate has neither fault at the same speed.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Annotated, Literal, NamedTuple

from isal import isal_zlib
from pydantic import Field

from riva_stream.archive.decoder import Block, Decoder, Place
from riva_stream.archive.gzip_header import read_header
from riva_stream.archive.inflate import (
    WINDOW,
    Boundary,
    InflateError,
    Inflater,
    NativeInflater,
    WheelInflater,
    why_not_native,
)
from riva_stream.archive.snapshot import Bytes, Count, InvalidSnapshotError, require
from riva_stream.errors import ArchiveError, ArchiveFault
from riva_stream.naming import raise_option

__all__ = ["GzipPlace", "GzipStream"]

_SEARCH_BYTES = 1 << 20
"""Bytes of input searched for the start of a block: where a gzip has several, they are a tenth as long. Searching
costs a third of inflating, which a gzip of one endless block would otherwise pay for ever."""
_LEAST_HEADER = 10
_GIVEN_BACK = 8
"""Bytes that the inflater may have read beyond the deflate data."""
_FIRST_SLICE = 1 << 16
_MIN_SLICE = 1 << 12
_MAX_SLICE = 1 << 22


class _State(Enum):
    HEADER = auto()
    BODY = auto()
    TRAILER = auto()
    BETWEEN = auto()


class _Slices(NamedTuple):
    """Sizes of the next slices of input, chosen so that the output just fits one block."""

    ratio: float = 1.5
    """Output per input byte, as last seen."""
    cap: int = _FIRST_SLICE
    """Maximum input bytes: small at first, and for archives of many small members (bgzip), because the
    inflater copies what remains after the end of a member."""
    room: int = 0
    """Bytes of the block for the next member: the output of the last one; 0: the maximum. A block that is mostly
    empty is copied by whoever keeps its content."""


@dataclass(frozen=True, slots=True)
class GzipPlace(Place):
    """Where reading of a gzip can resume: the beginning of a member, or of a deflate block in one."""

    members: Annotated[int, Field(ge=1, le=(1 << 63) - 1)] = 1
    """The number of the member, from 1."""
    member_at: Count = 0
    """Offset in the archive at which the member begins."""
    body: bool = False
    """Whether it is a block inside a member, which the following fields describe."""
    bit: Annotated[int, Field(ge=0, le=7)] = 0
    """Bits of the first byte that precede the block."""
    window: Bytes = b""
    """The last 32 KiB of the member's output, or all there is."""
    crc: Annotated[int, Field(ge=0, le=0xFFFFFFFF)] = 0
    """CRC32 of the member's output so far."""
    size: Count = 0
    """Length of the member's output so far."""
    format: Literal["gzip"] = "gzip"

    def check(self) -> None:
        """Check that the place is possible.

        Raises:
            InvalidSnapshotError: no gzip has such a place.
        """
        require(self.member_at <= self.offset and self.size <= self.produced, "a place in the gzip")
        require(len(self.window) == min(self.size, WINDOW), "the length of a window")
        if self.body:
            require(self.offset >= self.member_at + _LEAST_HEADER, "a block in a gzip header")
            require(isal_zlib.crc32(self.window) == self.crc or self.size > WINDOW, "the CRC of a window")
        else:
            require(self.offset == self.member_at, "the beginning of a gzip member")
            require(not (self.bit or self.size or self.crc), "a block outside a gzip member")


class GzipStream(Decoder):
    """The gzip layer of an archive: pieces in, inflated blocks out.

    Args:
        streams: maximum number of members.
        place: where to resume.

    Raises:
        InvalidSnapshotError: there is no such place, or this host cannot resume there.
    """

    container = "gzip"
    checksum = "gzip-crc32"
    """What vouches for the bytes: every member ends in its CRC32 and length."""

    def __init__(self, *, streams: int, place: GzipPlace | None = None) -> None:
        self.place = begin = place or GzipPlace()
        if place is not None:
            place.check()
            require(place.members <= streams, "the number of gzip members")
        super().__init__(begin.offset)
        self._streams = streams
        self._tail = b""  # the last bytes of earlier pieces
        self._slices = _Slices()
        self._wanted_until = 0  # offset in the archive
        self._produced = begin.produced
        self._part_at = begin.offset  # offset in the archive of the body, or of the trailer
        self._members, self._member_at = begin.members, begin.member_at
        self._crc, self._size = begin.crc, begin.size
        self._state = _State.BODY if begin.body else _State.HEADER
        if begin.body and why_not_native():
            raise InvalidSnapshotError(why_not_native())
        self._inflater: Inflater = (
            WheelInflater() if why_not_native() else NativeInflater(begin.window, begin.bit)
        )

    @property
    def needs_input(self) -> bool:
        """Whether the pushed data yields nothing more."""
        pending = self._state is _State.BODY and not self._inflater.needs_input
        return super().needs_input and not pending

    def mark(self) -> None:
        """Request that :attr:`place` be the next place to resume at, if there is one in the next MiB."""
        self._wanted_until = self._at + _SEARCH_BYTES

    def push(self, piece: Block) -> None:
        """Pass in the next piece of the archive; only when input is needed."""
        self._tail = (self._tail + bytes(self._piece[-_GIVEN_BACK:]))[-_GIVEN_BACK:]
        super().push(piece)

    def blocks(self) -> Generator[Block, None, None]:
        """Generate the inflated blocks of all members.

        Raises:
            ArchiveError: damage, or garbage after the end.
        """
        while True:
            if self._state is _State.HEADER:
                yield from read_header(self, self._name, first=self._members == 1)
                self._inflater.begin()
                self._crc = self._size = 0
                self._part_at = self._at
                self._state = _State.BODY
            while self._state is _State.BODY:
                yield b"" if self.needs_input else self._inflate(self._most)
            trailer = yield from self.exactly(8)
            self._check_trailer(trailer)
            while self.needs_input:
                yield b""
            if self._piece[self._pos]:
                self._begin_member()
            else:
                yield from self._padding()

    def finish(self) -> None:
        """Note that the archive has no more bytes.

        Raises:
            ArchiveError: it is truncated inside a member.
        """
        where = {
            _State.HEADER: "inside its header",
            _State.BODY: "inside its deflate data",
            _State.TRAILER: f"inside its trailer, {8 - (self._at - self._part_at)} bytes missing",
        }.get(self._state)
        if where:
            raise ArchiveError(
                f"{self._name} is cut at byte {self._at} of the archive, {where}",
                fault=ArchiveFault.CUT,
            )

    @property
    def _name(self) -> str:
        return f"gzip member {self._members} (at byte {self._member_at} of the archive)"

    def _inflate(self, max_output: int) -> bytes | memoryview:
        inflater = self._inflater
        piece = self._piece[:0]
        if inflater.needs_input:
            wanted = int(max_output / self._slices.ratio)
            piece = self.consume(max(_MIN_SLICE, min(wanted, self._slices.cap)))
            inflater.feed(piece)
        inflater.seeking = self._at < self._wanted_until
        room = self._slices.room
        try:
            block = inflater.inflate(min(max_output, room) if room else max_output)
        except InflateError as error:
            raise ArchiveError(
                f"{self._name}: its deflate data is damaged near byte {self._part_at + error.position} of the "
                f"archive ({error}), {self._size} bytes into its inflated data"
            ) from None
        self._crc = isal_zlib.crc32(block, self._crc)
        self._size += len(block)
        self._produced += len(block)
        if room and not inflater.eof:
            self._slices = self._slices._replace(room=0)
        if inflater.boundary is not None:
            self._found(inflater.boundary)
            inflater.boundary = None
        elif inflater.eof:
            self._end_body(inflater.unused)
        elif len(piece) >= _MIN_SLICE:
            # A little more than was seen, so that the output stays below the block: what does not fit costs a second,
            # short block. A full block only shows that the ratio is at least this.
            ratio = 1.03 * len(block) / len(piece) if inflater.needs_input else 2 * self._slices.ratio
            self._slices = _Slices(min(max(ratio, 0.5), 1040.0), min(2 * self._slices.cap, _MAX_SLICE))
        return block

    def _found(self, boundary: Boundary) -> None:
        """Note that a block begins after all output so far."""
        byte, bit = divmod(boundary.bit, 8)
        self.place = GzipPlace(
            self._part_at + byte,
            self._produced,
            self._members,
            self._member_at,
            body=True,
            bit=bit,
            window=boundary.window,
            crc=self._crc,
            size=self._size,
        )
        self._wanted_until = 0

    def _end_body(self, unused: int) -> None:
        """Push back what the inflater read beyond the deflate data: up to eight bytes may be from earlier pieces."""
        self._at -= unused
        self._pos -= unused
        if self._pos < 0:
            self._piece = memoryview(self._tail[self._pos :] + bytes(self._piece))
            self._pos = 0
        self._slices = _Slices(
            self._slices.ratio,
            min(max(_MIN_SLICE, 2 * (self._at - self._part_at)), _MAX_SLICE),
            self._size + _MIN_SLICE if self._size < _MAX_SLICE else 0,
        )
        self._part_at = self._at
        self._state = _State.TRAILER

    def _check_trailer(self, trailer: bytearray) -> None:
        crc, size = int.from_bytes(trailer[:4], "little"), int.from_bytes(trailer[4:], "little")
        if crc != self._crc:
            raise ArchiveError(
                f"{self._name}: its CRC32 is {crc:08x}, its {self._size} bytes have {self._crc:08x}"
            )
        if size != self._size & 0xFFFFFFFF:
            raise ArchiveError(f"{self._name}: its length (ISIZE) is {size}, it has {self._size} bytes")
        self._state = _State.BETWEEN

    def _begin_member(self) -> None:
        self._members += 1
        if self._members > self._streams:
            raise ArchiveError(
                f"the archive has more than {self._streams} gzip members (at byte {self._at})",
                hint=f"{raise_option('max_streams')}; or compress it again in one piece",
                fault=ArchiveFault.LIMIT,
            )
        self._member_at = self._at
        self._state = _State.HEADER
        self.place = GzipPlace(self._at, self._produced, self._members, self._at)
        self._wanted_until = 0

    def _padding(self) -> Generator[Block, None, None]:
        while True:
            rest = bytes(self.peek(65536))
            zeros = len(rest) - len(rest.lstrip(b"\0"))
            self.consume(zeros)
            if zeros < len(rest):
                raise ArchiveError(
                    f"garbage at byte {self._at} of the archive, after gzip data that was padded with zeros"
                )
            yield b""
