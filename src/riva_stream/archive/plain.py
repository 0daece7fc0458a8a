"""A tar that is not compressed: pieces in, the same bytes out."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal

from riva_stream.archive.decoder import Block, Decoder, Place
from riva_stream.archive.snapshot import require

__all__ = ["PlainPlace", "PlainStream"]


@dataclass(frozen=True, slots=True)
class PlainPlace(Place):
    """Where reading of a tar can resume: anywhere. Output offsets equal input offsets."""

    format: Literal["tar"] = "tar"


class PlainStream(Decoder):
    """Passes an uncompressed tar through by reference.

    Args:
        place: where to resume.

    Raises:
        InvalidSnapshotError: there is no such place.
    """

    container = "tar"
    checksum = None
    """A tar has no checksum over its data: nothing vouches for it here."""

    def __init__(self, place: PlainPlace | None = None) -> None:
        self.place = place or PlainPlace()
        require(self.place.offset == self.place.produced, "a place in the tar")
        super().__init__(self.place.offset)

    def blocks(self) -> Generator[Block, None, None]:
        """Generate the pieces, in as many blocks as needed."""
        while True:
            block = self.consume(self._most)
            self.place = PlainPlace(self._at, self._at)
            yield block

    def finish(self) -> None:
        """Do nothing: the tar layer checks whether it is complete."""
