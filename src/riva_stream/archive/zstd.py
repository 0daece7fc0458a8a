"""zstd, frame by frame (RFC 8878), with bounded output.

The library's streaming call inflates all it is given, however much that makes. So the frame and block headers are
read here, and it is given one whole block at a time: it makes at most 128 KiB, whatever it claims. So all output before
damage is handed over, however the input was cut.
A frame may end in a checksum (XXH64), which the library verifies; a frame without one is not vouched for.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import ClassVar, Literal

import zstandard

from riva_stream.archive.snapshot import STRICT, Count, require
from riva_stream.errors import ArchiveError, ArchiveFault
from riva_stream.sizes import MIB, human_size

__all__ = ["ZstdPlace", "ZstdStream", "is_zstd"]

_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"
"""Bytes 1 to 3 of a skippable frame's magic; byte 0 is 0x50 to 0x5f."""
_BLOCK = 128 << 10
"""Block_Maximum_Size of RFC 8878, section 3.1.1.2.4."""
_MAX_WINDOW = 1 << 31
"""What the library can do, and the most that ``--max-zstd-window`` takes."""
_RAW, _RLE, _COMPRESSED = 0, 1, 2


def is_zstd(head: bytes) -> bool:
    """Whether these bytes, at least four, begin a zstd or a skippable frame."""
    return head[:4] == _MAGIC or (head[:1] != b"" and head[0] & 0xF0 == 0x50 and head[1:4] == _SKIPPABLE)  # noqa: PLR2004


class _State(Enum):
    MAGIC = auto()
    HEADER = auto()
    SKIP_SIZE = auto()
    SKIP = auto()
    BLOCK_HEADER = auto()
    BLOCK = auto()
    CHECKSUM = auto()


@dataclass(frozen=True, slots=True)
class ZstdPlace:
    """Where zstd data can be read on from: the beginning of a frame."""

    __pydantic_config__: ClassVar = STRICT

    offset: Count = 0
    """Byte of the archive that is the first to be read."""
    produced: Count = 0
    """Bytes that everything before it inflates to."""
    frames: Count = 0
    """Frames before it."""
    empty: Count = 0
    """Blocks before it that make nothing."""
    all_checked: bool = True
    """Whether every frame before it has a checksum."""
    window: Count = 0
    """Bytes of the largest window before it."""
    format: Literal["zstd"] = "zstd"


class ZstdStream:
    """The zstd layer of an archive: pieces in, inflated blocks out.

    Args:
        streams: most frames that are read, and most blocks that make nothing.
        window: most bytes of window a frame may ask for.
        place: where to read on.

    Raises:
        InvalidSnapshotError: there is no such place.
    """

    def __init__(self, *, streams: int, window: int, place: ZstdPlace | None = None) -> None:
        self._streams = streams
        self._limit = window
        self.place = place = place or ZstdPlace()
        require(place.frames <= streams and place.empty <= streams, "the number of zstd frames")
        require(place.window <= window, "the window of a zstd frame")
        self.window = 0
        """Bytes of the largest window that a frame has asked for here: the inflater holds them."""
        self._state = _State.MAGIC
        self._piece = memoryview(b"")
        self._pos = 0
        self._at = place.offset
        self._produced = place.produced
        self._frames = place.frames
        self._empty = (
            place.empty
        )  # blocks that make nothing, in all frames: one that never ends is made of them
        self._all_checked = place.all_checked
        self._frame_at = 0
        self._kept = bytearray()
        self._want = 4
        self._left = 0
        self._last = self._has_checksum = False
        self._ready = bytearray()  # a whole block, and what is in front of it, not inflated yet
        self._whole = False
        self._inflater: zstandard.ZstdDecompressionObj | None = None
        self._size = 0

    @property
    def checksum(self) -> str | None:
        """What vouches for the bytes: the frames' own checksums, if every one has it."""
        return "zstd-checksum" if self._frames and self._all_checked else None

    @property
    def consumed(self) -> int:
        """Archive bytes read so far."""
        return self._at

    @property
    def needs_input(self) -> bool:
        """Whether there is nothing more to get from what was pushed."""
        return self._pos == len(self._piece)

    def push(self, piece: bytes | memoryview) -> None:
        """Hand over the next piece of the archive; only when it is needed."""
        self._piece = memoryview(piece)
        self._pos = 0

    def mark(self) -> None:
        """Frames are all there is to begin at, and :attr:`place` is always the latest."""

    def pull(self, max_output: int) -> bytes:  # noqa: ARG002 - a block is as small as it gets
        """The next inflated block; at most 128 KiB.

        Raises:
            ArchiveError: damage, garbage after the end, or a frame that asks for too large a window.
        """
        while not self.needs_input:
            if self._state is _State.SKIP:
                count = min(self._left, len(self._piece) - self._pos)
                self._advance(count)
                self._left -= count
                if not self._left:
                    self._expect(_State.MAGIC, 4)
            elif self._state is _State.BLOCK:
                count = min(self._left, len(self._piece) - self._pos)
                self._ready += self._piece[self._pos : self._pos + count]
                self._advance(count)
                self._left -= count
                if not self._left:
                    self._end_block()
            else:
                taken = self._piece[self._pos : self._pos + self._want - len(self._kept)]
                self._kept += taken
                self._advance(len(taken))
                if len(self._kept) == self._want:
                    self._on_kept(bytes(self._kept))
            if self._whole:
                block = self._inflate()
                if block:
                    return block
        return b""

    def finish(self) -> None:
        """The archive has no more bytes.

        Raises:
            ArchiveError: it is cut inside a frame.
        """
        if self._state is not _State.MAGIC or self._kept:
            raise ArchiveError(
                f"{self._name()} is cut at byte {self._at} of the archive", fault=ArchiveFault.CUT
            )

    def _name(self) -> str:
        return f"zstd frame {self._frames} (at byte {self._frame_at} of the archive)"

    def _advance(self, count: int) -> None:
        self._pos += count
        self._at += count

    def _expect(self, state: _State, want: int) -> None:
        self._state = state
        self._want = want
        self._kept.clear()

    def _on_kept(self, kept: bytes) -> None:
        if self._state is _State.MAGIC:
            self._begin_frame(kept)
        elif self._state is _State.HEADER:
            self._on_header(kept)
        elif self._state is _State.SKIP_SIZE:
            self._left = int.from_bytes(kept, "little")
            self._expect(_State.SKIP if self._left else _State.MAGIC, 4)
        elif self._state is _State.BLOCK_HEADER:
            self._on_block_header(kept)
        else:
            self._ready += kept
            self._whole = True
            self._expect(_State.MAGIC, 4)

    def _begin_frame(self, kept: bytes) -> None:
        self._frame_at = self._at - 4
        if not is_zstd(kept):
            raise ArchiveError(
                f"garbage after the end of the zstd data, at byte {self._frame_at} of the archive: it begins with {kept!r}"
            )
        self.place = ZstdPlace(
            self._frame_at, self._produced, self._frames, self._empty, self._all_checked, self.window
        )
        self._frames += 1
        if self._frames > self._streams:
            raise ArchiveError(
                f"the archive has more than {self._streams} zstd frames (at byte {self._frame_at})",
                hint="if that is how the archive should be, raise --max-streams; or compress it again in one piece",
                fault=ArchiveFault.LIMIT,
            )
        if kept != _MAGIC:
            self._expect(_State.SKIP_SIZE, 4)
            return
        self._ready += kept
        self._inflater = zstandard.ZstdDecompressor(
            max_window_size=min(self._limit, _MAX_WINDOW)
        ).decompressobj(write_size=_BLOCK)
        self._size = 0
        self._expect(_State.HEADER, 1)

    def _on_header(self, kept: bytes) -> None:
        descriptor = kept[0]
        single = descriptor >> 5 & 1
        size_bytes = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
        want = 1 + (not single) + (0, 1, 2, 4)[descriptor & 3] + size_bytes
        if len(kept) < want:
            self._want = want
            return
        size = int.from_bytes(kept[want - size_bytes : want], "little") + (256 if size_bytes == 2 else 0)  # noqa: PLR2004
        window = size if single else (1 << 10 + (kept[1] >> 3)) // 8 * (8 + (kept[1] & 7))
        if descriptor & 3 and any(kept[1 + (not single) : want - size_bytes]):
            raise ArchiveError(
                f"{self._name()} needs a dictionary, which an archive cannot",
                hint="compress the archive again without a dictionary",
                fault=ArchiveFault.UNSUPPORTED,
            )
        if window > self._limit:
            possible = window <= _MAX_WINDOW
            raise_it = f"pass --max-zstd-window {-(-window // MIB)}MiB or more, or " if possible else ""
            raise ArchiveError(
                f"{self._name()} needs a window of {human_size(window)} in memory; at most {human_size(self._limit)} "
                "are allowed",
                hint=raise_it + "compress the archive again without --long and --ultra",
                fault=ArchiveFault.LIMIT,
            )
        self.window = max(self.window, window)
        self._has_checksum = bool(descriptor & 4)
        self._all_checked = self._all_checked and self._has_checksum
        self._ready += kept
        self._expect(_State.BLOCK_HEADER, 3)

    def _on_block_header(self, kept: bytes) -> None:
        bits = int.from_bytes(kept, "little")
        kind, size = bits >> 1 & 3, bits >> 3
        self._last = bool(bits & 1)
        if kind > _COMPRESSED or size > _BLOCK:
            raise ArchiveError(
                f"{self._name()}: the block header at byte {self._at - 3} of the archive is damaged"
            )
        self._empty += not size
        if self._empty > self._streams:
            raise ArchiveError(
                f"{self._name()}: more than {self._streams} empty blocks (at byte {self._at})",
                hint="if that is how the archive should be, raise --max-streams; or compress it again",
                fault=ArchiveFault.LIMIT,
            )
        self._ready += kept
        self._left = 1 if kind == _RLE else size
        self._state = _State.BLOCK
        if not self._left:
            self._end_block()

    def _end_block(self) -> None:
        self._whole = True
        if not self._last:
            self._expect(_State.BLOCK_HEADER, 3)
        else:
            self._expect(*((_State.CHECKSUM, 4) if self._has_checksum else (_State.MAGIC, 4)))

    def _inflate(self) -> bytes:
        if self._inflater is None or self._inflater.eof:
            return b""
        ready, self._ready = bytes(self._ready), bytearray()
        self._whole = False
        try:
            block = self._inflater.decompress(ready)
        except zstandard.ZstdError as error:
            raise ArchiveError(
                f"{self._name()} is damaged near byte {self._at} of the archive ({error}), {self._size} bytes into what it "
                "inflates to"
            ) from None
        self._size += len(block)
        self._produced += len(block)
        ended = self._state is _State.MAGIC
        if ended != self._inflater.eof:
            raise ArchiveError(
                f"{self._name()} ends at byte {self._at} of the archive, but its data does not"
            )
        return block
