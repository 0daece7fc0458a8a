"""Digests that keep their states at the ends of chunks for checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

from riva_stream.flow.buffers import Piece
from riva_stream.flow.digest import Digest, DigestRecord, DigestState
from riva_stream.sink import RangeDigests, RangesState

__all__ = ["TracedDigest", "TracedRanges"]


class _Snapshotted(Protocol):
    @property
    def size(self) -> int:
        """Bytes so far."""

    def update(self, pieces: Sequence[Piece], /) -> None:
        """Process the next pieces."""

    def snapshot(self) -> Any:
        """The state after all bytes so far; None if it cannot be had."""


D = TypeVar("D", bound=_Snapshotted)
S = TypeVar("S")


class _Traced(Generic[D, S]):
    """A digest, and its states after each chunk, as far as a checkpoint may need them.

    Args:
        digest: the digest to trace.
        kept: whether states are kept at all.
    """

    def __init__(self, digest: D, *, kept: bool = True) -> None:
        self.digest = digest
        self.states: dict[int, S] = {}
        """Keyed by the bytes so far. Changed only by the lane's thread; others only read single entries."""
        self.hashed = digest.size
        """Bytes of all chunks hashed whole: only up to here there can be states. Changed only by the lane's thread."""
        self._kept = kept
        self._floor = 0
        self._remember()

    def update(self, pieces: Sequence[Piece]) -> None:
        """Process the next pieces; runs in a worker thread."""
        self.digest.update(pieces)
        self._remember()

    def forget_before(self, size: int) -> None:
        """Drop the states after fewer than ``size`` bytes with the next chunk: no checkpoint will need them."""
        self._floor = size

    def reset(self) -> None:
        """Start anew after the digest was restored to another position, before any chunk came."""
        self.states.clear()
        self._remember()

    def _remember(self) -> None:
        state = self.digest.snapshot() if self._kept else None
        if state is not None:
            for size in [size for size in self.states if size < self._floor]:
                del self.states[size]
            self.states[self.digest.size] = state
        self.hashed = self.digest.size


class TracedDigest(_Traced[Digest, DigestState]):
    """See :class:`_Traced`."""

    def record(self) -> DigestRecord:
        """The digests of all bytes so far."""
        return self.digest.record()


class TracedRanges(_Traced[RangeDigests, RangesState]):
    """Traced digests of the ranges that are compared with the parts that the store copies."""
