"""gzip, member by member (RFC 1952): our own headers and trailers around ISA-L's raw inflate.

ISA-L's own gzip mode refuses valid headers that are cut by a call, and says nothing about a cut trailer; raw inflate
has neither fault at the same speed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Annotated, ClassVar, Literal, NamedTuple

from isal import isal_zlib
from pydantic import Field

from riva_stream.archive.gzip_header import GzipHeader
from riva_stream.archive.inflate import (
    WINDOW,
    InflateError,
    Inflater,
    NativeInflater,
    WheelInflater,
    why_not_native,
)
from riva_stream.archive.snapshot import STRICT, Bytes, Count, InvalidSnapshotError, require
from riva_stream.errors import ArchiveError, ArchiveFault

__all__ = ["GzipPlace", "GzipStream"]

_REACH = 1 << 20
"""Bytes of input in which a block is looked for: they are a tenth of that long where anybody writes several, and looking
costs a third of inflating, which a gzip of one endless block would cost for ever."""
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
    PADDING = auto()


class _Slices(NamedTuple):
    """How the next slice of input is sized, so that what it inflates to just fits one output block."""

    ratio: float = 1.5
    """Output per input byte, as last seen."""
    cap: int = _FIRST_SLICE
    """Most input bytes: small while nothing is known, and for archives of many small members (bgzip), because
    what is left behind the end of a member is copied by the inflater."""
    room: int = 0
    """Bytes of the block for the next member: what the last one came to; 0 is as many as may be. A block that is mostly
    empty is copied by whoever keeps what is in it."""


@dataclass(frozen=True, slots=True)
class GzipPlace:
    """Where a gzip can be read on from: the beginning of a member, or of a deflate block in one."""

    __pydantic_config__: ClassVar = STRICT

    offset: Count = 0
    """Byte of the archive that is the first to be read."""
    produced: Count = 0
    """Bytes that everything before it inflates to."""
    members: Annotated[int, Field(ge=1, le=(1 << 63) - 1)] = 1
    """The number of the member, from 1."""
    member_at: Count = 0
    """Byte of the archive at which the member begins."""
    body: bool = False
    """Whether it is a block inside; what follows says more of that."""
    bit: Annotated[int, Field(ge=0, le=7)] = 0
    """Bits of the first byte that are before the block."""
    window: Bytes = b""
    """The last 32 KiB that the member inflated to, or all there is."""
    crc: Annotated[int, Field(ge=0, le=0xFFFFFFFF)] = 0
    """CRC32 of all the member inflated to so far."""
    size: Count = 0
    """And its length."""
    format: Literal["gzip"] = "gzip"

    def check(self) -> None:
        """Hold it against what can be.

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


class GzipStream:
    """The gzip layer of an archive: pieces in, inflated blocks out.

    Args:
        streams: most members that are read.
        place: where to read on.

    Raises:
        InvalidSnapshotError: there is no such place, or nothing here could read on from it.
    """

    def __init__(self, *, streams: int, place: GzipPlace | None = None) -> None:
        self._streams = streams
        self._piece = memoryview(b"")
        self._tail = b""  # the last bytes of the pieces before
        self._pos = 0  # in the piece
        self._slices = _Slices()
        self._trailer = bytearray()
        self._inflater: Inflater | None = None
        self._wanted_until = 0  # byte of the archive
        self.place = place or GzipPlace()
        self._produced = self.place.produced
        self._at = self._body_at = self.place.offset  # in the archive
        self._members = self.place.members
        self._crc, self._size = self.place.crc, self.place.size
        self._state = _State.BODY if self.place.body else _State.HEADER
        self._header = GzipHeader(self._members, self.place.member_at)
        if place is None:
            return
        place.check()
        require(self._members <= streams, "the number of gzip members")
        if place.body:
            if why_not_native():
                raise InvalidSnapshotError(why_not_native())
            self._inflater = NativeInflater(place.window, place.bit)

    @property
    def checksum(self) -> str | None:
        """What vouches for the bytes: every member ends in its CRC32 and length."""
        return "gzip-crc32"

    @property
    def consumed(self) -> int:
        """Archive bytes handed to the inflater so far."""
        return self._at

    @property
    def needs_input(self) -> bool:
        """Whether there is nothing more to get from what was pushed."""
        pending = self._state is _State.BODY and self._inflater is not None and not self._inflater.needs_input
        return self._pos == len(self._piece) and not pending

    @property
    def window(self) -> int:
        """Bytes that inflating holds besides: they are few."""
        return 0

    def mark(self) -> None:
        """Let :attr:`place` be the next place from which the rest could be read, if there is one in the next MiB."""
        self._wanted_until = self._at + _REACH

    def push(self, piece: bytes | memoryview) -> None:
        """Hand over the next piece of the archive; only when it is needed."""
        self._tail = (self._tail + bytes(self._piece[-_GIVEN_BACK:]))[-_GIVEN_BACK:]
        self._piece = memoryview(piece)
        self._pos = 0

    def pull(self, max_output: int) -> bytes | memoryview:
        """The next inflated block, of at most ``max_output`` bytes; empty when the pushed piece gives no more.

        Raises:
            ArchiveError: damage, or garbage after the end.
        """
        while not self.needs_input:
            if self._state is _State.BODY:
                block = self._inflate(max_output)
                if block:
                    return block
            elif self._state is _State.HEADER:
                self._advance(self._header.feed(self._piece[self._pos :]))
                if self._header.done:
                    self._begin_body()
            elif self._state is _State.TRAILER:
                taken = self._piece[self._pos : self._pos + 8 - len(self._trailer)]
                self._trailer += taken
                self._advance(len(taken))
                if len(self._trailer) == 8:  # noqa: PLR2004 - CRC32 and ISIZE
                    self._check_trailer()
            elif self._state is _State.BETWEEN:
                self._begin_member()
            else:
                self._check_padding()
        return b""

    def finish(self) -> None:
        """The archive has no more bytes.

        Raises:
            ArchiveError: it is cut inside a member.
        """
        where = {
            _State.HEADER: "inside its header",
            _State.BODY: "inside its deflate data",
            _State.TRAILER: f"inside its trailer, {8 - len(self._trailer)} bytes missing",
        }.get(self._state)
        if where:
            raise ArchiveError(
                f"{self._header.place} is cut at byte {self._at} of the archive, {where}",
                fault=ArchiveFault.CUT,
            )

    def _advance(self, count: int) -> None:
        self._pos += count
        self._at += count

    def _begin_body(self) -> None:
        if self._inflater is not None:
            self._inflater.begin()
        else:
            self._inflater = WheelInflater() if why_not_native() else NativeInflater()
        self._crc = self._size = 0
        self._body_at = self._at
        self._state = _State.BODY

    def _inflate(self, max_output: int) -> bytes | memoryview:
        inflater = self._inflater
        if inflater is None:  # pragma: no cover - the state is only entered with one
            return b""
        piece = self._piece[:0]
        if inflater.needs_input:
            wanted = int(max_output / self._slices.ratio)
            piece = self._piece[self._pos : self._pos + max(_MIN_SLICE, min(wanted, self._slices.cap))]
            self._advance(len(piece))
            inflater.feed(piece)
        inflater.seeking = self._at < self._wanted_until
        room = self._slices.room
        try:
            block = inflater.inflate(min(max_output, room) if room else max_output)
        except InflateError as error:
            raise ArchiveError(
                f"{self._header.place}: its deflate data is damaged near byte {self._body_at + error.position} of the "
                f"archive ({error}), {self._size} bytes into what it inflates to"
            ) from None
        self._crc = isal_zlib.crc32(block, self._crc)
        self._size += len(block)
        self._produced += len(block)
        if room and not inflater.eof:
            self._slices = self._slices._replace(room=0)
        if inflater.boundary is not None:
            self._found(inflater)
        elif inflater.eof:
            self._end_body(inflater.unused)
        elif len(piece) >= _MIN_SLICE:
            # A little more than was seen, so that the output stays below the block: what does not fit costs a second,
            # short block. A full block says no more than that the ratio is at least this.
            ratio = 1.03 * len(block) / len(piece) if inflater.needs_input else 2 * self._slices.ratio
            self._slices = _Slices(min(max(ratio, 0.5), 1040.0), min(2 * self._slices.cap, _MAX_SLICE))
        return block

    def _found(self, inflater: Inflater) -> None:
        """A block begins behind all that was inflated so far."""
        boundary, inflater.boundary = inflater.boundary, None
        if boundary is None:  # pragma: no cover - it is only called with one
            return
        byte, bit = divmod(boundary.bit, 8)
        self.place = GzipPlace(
            self._body_at + byte,
            self._produced,
            self._members,
            self._header.at,
            body=True,
            bit=bit,
            window=boundary.window,
            crc=self._crc,
            size=self._size,
        )
        self._wanted_until = 0

    def _end_body(self, unused: int) -> None:
        """Give back what the inflater read beyond the deflate data: up to eight bytes may be from earlier pieces."""
        self._at -= unused
        self._pos -= unused
        if self._pos < 0:
            self._piece = memoryview(self._tail[self._pos :] + bytes(self._piece))
            self._pos = 0
        self._slices = _Slices(
            self._slices.ratio,
            min(max(_MIN_SLICE, 2 * (self._at - self._body_at)), _MAX_SLICE),
            self._size + _MIN_SLICE if self._size < _MAX_SLICE else 0,
        )
        self._trailer.clear()
        self._state = _State.TRAILER

    def _check_trailer(self) -> None:
        crc, size = int.from_bytes(self._trailer[:4], "little"), int.from_bytes(self._trailer[4:], "little")
        if crc != self._crc:
            raise ArchiveError(
                f"{self._header.place}: its CRC32 is {crc:08x}, its {self._size} bytes have {self._crc:08x}"
            )
        if size != self._size & 0xFFFFFFFF:
            raise ArchiveError(
                f"{self._header.place}: its length (ISIZE) is {size}, it has {self._size} bytes"
            )
        self._state = _State.BETWEEN

    def _begin_member(self) -> None:
        if not self._piece[self._pos]:
            self._state = _State.PADDING
            return
        self._members += 1
        if self._members > self._streams:
            raise ArchiveError(
                f"the archive has more than {self._streams} gzip members (at byte {self._at})",
                hint="if that is how the archive should be, raise --max-streams; or compress it again in one piece",
                fault=ArchiveFault.LIMIT,
            )
        self._header = GzipHeader(self._members, self._at)
        self._state = _State.HEADER
        self.place = GzipPlace(self._at, self._produced, self._members, self._at)
        self._wanted_until = 0

    def _check_padding(self) -> None:
        rest = bytes(self._piece[self._pos : self._pos + 65536])
        zeros = len(rest) - len(rest.lstrip(b"\0"))
        self._advance(zeros)
        if zeros < len(rest):
            raise ArchiveError(
                f"garbage at byte {self._at} of the archive, after gzip data that was padded with zeros"
            )
