"""zstd, frame by frame (RFC 8878), with bounded output.

The library's streaming call inflates all that it is given, however large the output. So the frame and block headers
are parsed here, and the library is given one whole block at a time, which produces at most 128 KiB, whatever it claims.
Thus all output before damage is handed over, however the input was split.
A frame may end in a checksum (XXH64), which the library verifies; nothing vouches for a frame without one.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal

import zstandard

from riva_stream.archive.decoder import Block, Decoder, Place
from riva_stream.archive.snapshot import Count, require
from riva_stream.errors import ArchiveError, ArchiveFault
from riva_stream.naming import option, raise_option
from riva_stream.sizes import MIB, human_size

__all__ = ["ZstdPlace", "ZstdStream", "is_zstd"]

_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"
"""Bytes 1 to 3 of a skippable frame's magic; byte 0 is 0x50 to 0x5f."""
_BLOCK = 128 << 10
"""Block_Maximum_Size of RFC 8878, section 3.1.1.2.4."""
_MAX_WINDOW = 1 << 31
"""The library's limit, and the maximum of ``--max-zstd-window``."""
_RAW, _RLE, _COMPRESSED = 0, 1, 2


def is_zstd(head: bytes | bytearray) -> bool:
    """Whether these bytes, at least four, begin a zstd frame or a skippable one."""
    return head[:4] == _MAGIC or (head[:1] != b"" and head[0] & 0xF0 == 0x50 and head[1:4] == _SKIPPABLE)  # noqa: PLR2004


@dataclass(frozen=True, slots=True)
class ZstdPlace(Place):
    """Where reading of zstd data can resume: the beginning of a frame."""

    frames: Count = 0
    """Number of frames before it."""
    empty: Count = 0
    """Number of blocks before it without output."""
    all_checked: bool = True
    """Whether every frame before it has a checksum."""
    window: Count = 0
    """Bytes of the largest window before it."""
    format: Literal["zstd"] = "zstd"


class ZstdStream(Decoder):
    """The zstd layer of an archive: pieces in, inflated blocks out.

    Args:
        streams: maximum number of frames, and of blocks without output.
        window: maximum bytes of window that a frame may need.
        place: where to resume.

    Raises:
        InvalidSnapshotError: there is no such place.
    """

    container = "zstd"

    def __init__(self, *, streams: int, window: int, place: ZstdPlace | None = None) -> None:
        self._streams = streams
        self._limit = window
        self.place = place = place or ZstdPlace()
        require(place.frames <= streams and place.empty <= streams, "the number of zstd frames")
        require(place.window <= window, "the window of a zstd frame")
        super().__init__(place.offset)
        self._produced = place.produced
        self._frames = place.frames
        self._empty = (
            place.empty
        )  # blocks without output, in all frames: an endless frame could consist of them
        self._all_checked = place.all_checked
        self._frame_at = 0
        self._size = 0  # of the frame's output
        self._whole_at = self._at  # all frames before this offset are complete

    @property
    def checksum(self) -> str | None:
        """What vouches for the bytes: the frames' own checksums, if every frame has one."""
        return "zstd-checksum" if self._frames and self._all_checked else None

    def blocks(self) -> Generator[Block, None, None]:
        """Generate the blocks of all frames, each as small as possible, at most 128 KiB.

        Raises:
            ArchiveError: damage, garbage after the end, or a frame that needs too large a window.
        """
        while True:
            magic = yield from self.exactly(4)
            self._begin_frame(magic)
            if magic == _MAGIC:
                yield from self._frame()
                continue
            size = yield from self.exactly(4)
            left = int.from_bytes(size, "little")
            self._whole_at = self._at + left
            while left:
                left -= len(self.consume(left))
                yield b""

    def finish(self) -> None:
        """Note that the archive has no more bytes.

        Raises:
            ArchiveError: it is truncated inside a frame.
        """
        if self._at != self._whole_at:
            raise ArchiveError(
                f"{self._name()} is cut at byte {self._at} of the archive", fault=ArchiveFault.CUT
            )

    def _name(self) -> str:
        return f"zstd frame {self._frames} (at byte {self._frame_at} of the archive)"

    def _begin_frame(self, magic: bytearray) -> None:
        self._frame_at = self._at - 4
        if not is_zstd(magic):
            raise ArchiveError(
                f"garbage after the end of the zstd data, at byte {self._frame_at} of the archive: it begins with {bytes(magic)!r}"
            )
        self.place = ZstdPlace(
            self._frame_at, self._produced, self._frames, self._empty, self._all_checked, self.window
        )
        self._frames += 1
        if self._frames > self._streams:
            raise ArchiveError(
                f"the archive has more than {self._streams} zstd frames (at byte {self._frame_at})",
                hint=f"{raise_option('max_streams')}; or compress it again in one piece",
                fault=ArchiveFault.LIMIT,
            )

    def _frame(self) -> Generator[Block, None, None]:
        header, is_checked = yield from self._header()
        inflater = zstandard.ZstdDecompressor(max_window_size=min(self._limit, _MAX_WINDOW)).decompressobj(
            write_size=_BLOCK
        )
        self._size = 0
        ready = _MAGIC + header
        is_last = False
        while not is_last:
            header = yield from self.exactly(3)
            is_last, left = self._on_block_header(int.from_bytes(header, "little"))
            # The block gets no name: that would keep it alive as long as its output.
            yield self._inflate(
                inflater, ready + header + (yield from self.exactly(left)), ends=is_last and not is_checked
            )
            ready = b""
        if is_checked:
            checksum = yield from self.exactly(4)
            yield self._inflate(inflater, checksum, ends=True)

    def _header(self) -> Generator[Block, None, tuple[bytearray, bool]]:
        """The rest of the frame's header, and whether the frame ends in a checksum."""
        first = yield from self.exactly(1)
        descriptor = first[0]
        single = descriptor >> 5 & 1
        size_bytes = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
        of_dictionary = (0, 1, 2, 4)[descriptor & 3]
        rest = yield from self.exactly((not single) + of_dictionary + size_bytes)
        size = int.from_bytes(rest[len(rest) - size_bytes :], "little") + (256 if size_bytes == 2 else 0)  # noqa: PLR2004
        window = size if single else (1 << 10 + (rest[0] >> 3)) // 8 * (8 + (rest[0] & 7))
        if any(rest[not single : len(rest) - size_bytes]):
            raise ArchiveError(
                f"{self._name()} needs a dictionary, which an archive cannot include",
                hint="compress the archive again without a dictionary",
                fault=ArchiveFault.UNSUPPORTED,
            )
        if window > self._limit:
            possible = window <= _MAX_WINDOW
            raise_it = (
                f"pass {option('max_zstd_window')} {-(-window // MIB)}MiB or more, or " if possible else ""
            )
            raise ArchiveError(
                f"{self._name()} needs a window of {human_size(window)} in memory; at most {human_size(self._limit)} "
                "are allowed",
                hint=raise_it + "compress the archive again without --long and --ultra",
                fault=ArchiveFault.LIMIT,
            )
        self.window = max(self.window, window)
        is_checked = bool(descriptor & 4)
        self._all_checked = self._all_checked and is_checked
        return first + rest, is_checked

    def _on_block_header(self, bits: int) -> tuple[bool, int]:
        """Whether it is the last block, and how many bytes of the archive it takes."""
        kind, size = bits >> 1 & 3, bits >> 3
        if kind > _COMPRESSED or size > _BLOCK:
            raise ArchiveError(
                f"{self._name()}: the block header at byte {self._at - 3} of the archive is damaged"
            )
        self._empty += not size
        if self._empty > self._streams:
            raise ArchiveError(
                f"{self._name()}: more than {self._streams} empty blocks (at byte {self._at})",
                hint=f"{raise_option('max_streams')}; or compress it again",
                fault=ArchiveFault.LIMIT,
            )
        return bool(bits & 1), 1 if kind == _RLE else size

    def _inflate(
        self, inflater: zstandard.ZstdDecompressionObj, data: bytes | bytearray, *, ends: bool
    ) -> bytes:
        """Inflate the next bytes of the frame; ``ends`` says whether the frame ends with them."""
        try:
            block = inflater.decompress(data)
        except zstandard.ZstdError as error:
            raise ArchiveError(
                f"{self._name()} is damaged near byte {self._at} of the archive ({error}), {self._size} bytes into "
                "its inflated data"
            ) from None
        self._size += len(block)
        self._produced += len(block)
        if ends != inflater.eof:
            raise ArchiveError(
                f"{self._name()} ends at byte {self._at} of the archive, but its data does not"
            )
        if ends:
            self._whole_at = self._at
        return block
