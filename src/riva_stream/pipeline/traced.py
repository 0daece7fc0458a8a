"""Digests whose states a checkpoint may ask for, of the end of any chunk."""

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
        """Take the next pieces."""

    def snapshot(self) -> Any:
        """What all bytes so far come to; None where that cannot be told."""


D = TypeVar("D", bound=_Snapshotted)
S = TypeVar("S")


class _Traced(Generic[D, S]):
    """A digest, and its states behind each chunk, as far as a checkpoint may ask for them.

    Args:
        digest: what is traced.
        kept: whether states are kept at all.
    """

    def __init__(self, digest: D, *, kept: bool = True) -> None:
        self.digest = digest
        self.states: dict[int, S] = {}
        """By bytes so far. Changed by the lane's thread alone; others only ask for one."""
        self.hashed = digest.size
        """Bytes of all chunks that were hashed whole: behind no others there is a state. Changed by the lane's thread alone."""
        self._kept = kept
        self._floor = 0
        self._remember()

    def update(self, pieces: Sequence[Piece]) -> None:
        """Take the next pieces; runs in a worker thread."""
        self.digest.update(pieces)
        self._remember()

    def forget_before(self, size: int) -> None:
        """No checkpoint will ask for the states behind fewer bytes; they go with the next chunk."""
        self._floor = size

    def reset(self) -> None:
        """The digest was set to another place, before any chunk came."""
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
        """What all bytes so far come to."""
        return self.digest.record()


class TracedRanges(_Traced[RangeDigests, RangesState]):
    """The same for what is compared with the parts that the store copies."""
