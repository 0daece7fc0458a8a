"""A tar that is not compressed: pieces in, the same bytes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from riva_stream.archive.snapshot import STRICT, Count, require

__all__ = ["PlainPlace", "PlainStream"]


@dataclass(frozen=True, slots=True)
class PlainPlace:
    """Where it can be read on from: anywhere."""

    __pydantic_config__: ClassVar = STRICT

    offset: Count = 0
    """Byte of the archive that is the first to be read."""
    produced: Count = 0
    """The same: bytes come out as they go in."""
    format: Literal["tar"] = "tar"


class PlainStream:
    """Passes an uncompressed tar through by reference.

    Args:
        place: where to read on.

    Raises:
        InvalidSnapshotError: there is no such place.
    """

    def __init__(self, place: PlainPlace | None = None) -> None:
        place = place or PlainPlace()
        require(place.offset == place.produced, "a place in the tar")
        self._view = memoryview(b"")
        self._at = place.offset

    @property
    def checksum(self) -> str | None:
        """A tar has no checksum over its data: nothing vouches for it here."""
        return None

    @property
    def consumed(self) -> int:
        """Archive bytes passed on so far."""
        return self._at

    @property
    def window(self) -> int:
        """Bytes that are held besides: none."""
        return 0

    @property
    def place(self) -> PlainPlace:
        """Right behind what was passed on."""
        return PlainPlace(self._at, self._at)

    def mark(self) -> None:
        """Every byte is a place."""

    @property
    def needs_input(self) -> bool:
        """Whether everything that was pushed has been passed on."""
        return not self._view

    def push(self, piece: bytes | memoryview) -> None:
        """Hand over the next piece of the archive; only when it is needed."""
        self._view = memoryview(piece)

    def pull(self, max_output: int) -> memoryview:
        """The next bytes, at most ``max_output``."""
        block = self._view[:max_output]
        self._view = self._view[len(block) :]
        self._at += len(block)
        return block

    def finish(self) -> None:
        """The archive has no more bytes; whether it is whole is the tar layer's matter."""
