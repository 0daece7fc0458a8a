"""gzip, member by member (RFC 1952): our own headers and trailers around ISA-L's raw inflate.

ISA-L's own gzip mode refuses valid headers that are cut by a call, and says nothing about a cut trailer; raw inflate
has neither fault at the same speed. ``igzip_lib.IgzipDecompressor`` is used rather than ``isal_zlib.decompressobj``:
with a ``max_length`` it allocates its output once, at the right size, where the other starts at 16 KiB and doubles.
Figures are in ``docs/archives.md``.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple, cast

from isal import igzip_lib, isal_zlib

from riva_stream.archive.gzip_header import GzipHeader
from riva_stream.errors import ArchiveError, ArchiveFault

__all__ = ["GzipStream"]

_INFLATE_ERROR = cast("type[Exception]", igzip_lib.IsalError)  # the stubs call it an instance
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


class GzipStream:
    """The gzip layer of an archive: pieces in, inflated blocks out.

    Args:
        streams: most members that are read.
    """

    container = "gzip"

    def __init__(self, *, streams: int) -> None:
        self._streams = streams
        self._state = _State.HEADER
        self._piece = memoryview(b"")
        self._pos = 0  # in the piece
        self._at = 0  # in the archive
        self._members = 1
        self._header = GzipHeader(1, 0)
        self._trailer = bytearray()
        self._inflater: igzip_lib.IgzipDecompressor | None = None
        self._crc = self._size = self._body_at = 0
        self._slices = _Slices()

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

    def push(self, piece: bytes | memoryview) -> None:
        """Hand over the next piece of the archive; only when it is needed."""
        self._piece = memoryview(piece)
        self._pos = 0

    def pull(self, max_output: int) -> bytes:
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
            _State.BODY: f"inside its deflate data, {self._size} bytes of it inflated",
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
        self._inflater = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_DEFLATE)
        self._crc = self._size = 0
        self._body_at = self._at
        self._state = _State.BODY

    def _inflate(self, max_output: int) -> bytes:
        inflater = self._inflater
        if inflater is None:  # pragma: no cover - the state is only entered with one
            return b""
        piece = self._piece[:0]
        if inflater.needs_input:
            wanted = int(max_output / self._slices.ratio)
            piece = self._piece[self._pos : self._pos + max(_MIN_SLICE, min(wanted, self._slices.cap))]
            self._advance(len(piece))
        try:
            block: bytes = inflater.decompress(piece, max_output)
        except _INFLATE_ERROR as error:
            raise ArchiveError(
                f"{self._header.place}: its deflate data is damaged near byte {self._at} of the archive ({error}), "
                f"{self._size} bytes into what it inflates to"
            ) from None
        self._crc = isal_zlib.crc32(block, self._crc)
        self._size += len(block)
        if inflater.eof:
            self._end_body(inflater.unused_data)
        elif len(piece) >= _MIN_SLICE:
            # A little more than was seen, so that the output stays below the block: what does not fit costs a second,
            # short block. A full block says no more than that the ratio is at least this.
            ratio = 1.03 * len(block) / len(piece) if inflater.needs_input else 2 * self._slices.ratio
            self._slices = _Slices(min(max(ratio, 0.5), 1040.0), min(2 * self._slices.cap, _MAX_SLICE))
        return block

    def _end_body(self, unused: bytes) -> None:
        """Give back what the inflater read beyond the deflate data: up to eight bytes may be from earlier pieces."""
        self._inflater = None
        self._at -= len(unused)
        self._pos -= len(unused)
        if self._pos < 0:
            self._piece = memoryview(unused[: -self._pos] + bytes(self._piece))
            self._pos = 0
        self._slices = _Slices(
            self._slices.ratio, min(max(_MIN_SLICE, 2 * (self._at - self._body_at)), _MAX_SLICE)
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

    def _check_padding(self) -> None:
        rest = bytes(self._piece[self._pos : self._pos + 65536])
        zeros = len(rest) - len(rest.lstrip(b"\0"))
        self._advance(zeros)
        if zeros < len(rest):
            raise ArchiveError(
                f"garbage at byte {self._at} of the archive, after gzip data that was padded with zeros"
            )
