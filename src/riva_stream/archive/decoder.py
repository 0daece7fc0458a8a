"""The base of every decoder: the layer around the tar, which takes pieces of the archive and gives blocks of the tar.

A decoder is written as a generator of blocks, as if the archive came in one piece. When the pushed data is used up, the
generator yields an empty block, and continues there once there is more.
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
    """Where a decoder can resume."""

    offset: Count = 0
    """Offset in the archive of the first byte to read."""
    produced: Count = 0
    """Decoded bytes before it."""


class Decoder(ABC):
    """One layer.

    Args:
        at: offset in the archive of the first byte that will be pushed.
    """

    container: ContainerName
    """The container that it decodes."""
    place: Place
    """The latest place from which the rest can be decoded."""
    window = 0
    """Bytes of memory held for decoding that are not accounted for elsewhere."""

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
        """Archive bytes that have been processed."""
        return self._at

    @property
    def needs_input(self) -> bool:
        """Whether the pushed data yields nothing more."""
        return self._pos == len(self._piece)

    def mark(self) -> None:  # noqa: B027 - most have nothing to do
        """Request that :attr:`place` be the next such place; here it is always the latest."""

    def push(self, piece: Block) -> None:
        """Pass in the next piece of the archive; only when input is needed."""
        self._piece, self._pos = memoryview(piece), 0

    def pull(self, max_output: int) -> Block:
        """The next block, of at most ``max_output`` bytes or 128 KiB; empty when the pushed piece yields no more.

        Raises:
            ArchiveError: the data is damaged; all output before the damage has been returned.
        """
        self._most = max_output
        while not self.needs_input:
            block = next(self._blocks)
            if block:
                return block
        return b""

    @abstractmethod
    def finish(self) -> None:
        """Note that the archive has no more bytes.

        Raises:
            ArchiveError: it is truncated.
        """

    @abstractmethod
    def blocks(self) -> Generator[Block, None, None]:
        """Generate the blocks, each of at most ``_most`` bytes or 128 KiB, with the state up to date at each."""

    def consume(self, most: int) -> memoryview:
        """Consume and return the next available bytes, ``most`` at most."""
        taken = self.peek(most)
        self._pos += len(taken)
        self._at += len(taken)
        return taken

    def peek(self, most: int) -> memoryview:
        """The same, without consuming them."""
        return self._piece[self._pos : self._pos + most]

    def exactly(
        self, count: int, look: Callable[[bytearray], None] = lambda _: None
    ) -> Generator[Block, None, bytearray]:
        """Consume the next ``count`` bytes; ``look`` is given what has arrived each time, and may raise."""
        kept = bytearray()
        while True:
            kept += self.consume(count - len(kept))
            look(kept)
            if len(kept) == count:
                return kept
            yield b""
