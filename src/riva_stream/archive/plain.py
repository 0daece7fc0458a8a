"""A tar that is not compressed: pieces in, the same bytes out."""

from __future__ import annotations

__all__ = ["PlainStream"]


class PlainStream:
    """Passes an uncompressed tar through by reference."""

    container = "tar"

    def __init__(self) -> None:
        self._view = memoryview(b"")
        self._at = 0

    @property
    def checksum(self) -> str | None:
        """A tar has no checksum over its data: nothing vouches for it here."""
        return None

    @property
    def consumed(self) -> int:
        """Archive bytes passed on so far."""
        return self._at

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
