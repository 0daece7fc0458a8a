"""What every decoder is: the layer around the tar, which takes pieces of the archive and gives blocks of the tar.

A decoder is written as a generator of its blocks, as if the archive were never cut. Where what was pushed is used up, the
generator yields an empty block, and goes on behind it once there is more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Literal

from riva_stream.archive.snapshot import Count, Strict

__all__ = ["Block", "ContainerName", "Decoder", "Place"]

Block = bytes | memoryview
ContainerName = Literal["gzip", "zstd", "tar"]


@dataclass(frozen=True, slots=True)
class Place(Strict):
    """Where a decoder can be begun anew."""

    offset: Count = 0
    """Byte of the archive that is the first to be read."""
    produced: Count = 0
    """Bytes that everything before it came to."""


class Decoder(ABC):
    """One layer.

    Args:
        at: byte of the archive that is pushed first.
    """

    container: ContainerName
    """What it takes off the tar."""
    place: Place
    """The latest place from which the rest could be read."""
    window = 0
    """Bytes that decoding holds, of which nothing else tells."""

    def __init__(self, at: int) -> None:
        self._piece = memoryview(b"")
        self._pos = 0  # in the piece
        self._at = at  # in the archive
        self._most = 0
        self._blocks = self.blocks()

    @property
    @abstractmethod
    def checksum(self) -> str | None:
        """What vouches for the bytes: ``gzip-crc32``, ``zstd-checksum``, or None."""

    @property
    def consumed(self) -> int:
        """Archive bytes that have been worked on."""
        return self._at

    @property
    def needs_input(self) -> bool:
        """Whether there is nothing more to get from what was pushed."""
        return self._pos == len(self._piece)

    def mark(self) -> None:  # noqa: B027 - most have nothing to do
        """Let :attr:`place` be the next such place; here it always is the latest that there is."""

    def push(self, piece: Block) -> None:
        """Hand over the next piece of the archive; only when it is needed."""
        self._piece, self._pos = memoryview(piece), 0

    def pull(self, max_output: int) -> Block:
        """The next block, of at most ``max_output`` bytes or 128 KiB; empty when the pushed piece gives no more.

        Raises:
            ArchiveError: the data is damaged; all output before that was given.
        """
        self._most = max_output
        while not self.needs_input:
            block = next(self._blocks)
            if block:
                return block
        return b""

    @abstractmethod
    def finish(self) -> None:
        """The archive has no more bytes.

        Raises:
            ArchiveError: it is cut.
        """

    @abstractmethod
    def blocks(self) -> Generator[Block, None, None]:
        """The blocks, each of at most ``_most`` bytes or 128 KiB. What has to be known behind one is known when it comes."""

    def take(self, most: int) -> memoryview:
        """The next bytes that are there, ``most`` at most."""
        taken = self.ahead(most)
        self._pos += len(taken)
        self._at += len(taken)
        return taken

    def ahead(self, most: int) -> memoryview:
        """The same, without taking them."""
        return self._piece[self._pos : self._pos + most]

    def exactly(
        self, count: int, look: Callable[[bytearray], None] = lambda _: None
    ) -> Generator[Block, None, bytearray]:
        """The next ``count`` bytes; ``look`` is shown what there is of them as it comes, and may raise."""
        kept = bytearray()
        while True:
            kept += self.take(count - len(kept))
            look(kept)
            if len(kept) == count:
                return kept
            yield b""
