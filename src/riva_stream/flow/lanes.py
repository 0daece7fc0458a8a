"""Clocks of the run's lanes: how many bytes each moved, how long it worked and how long it waited.

A lane is one stage of the stream: ``source``, ``hash``, ``extract``, ``member-hash``, ``upload``, ``copy``. The figures
go into ``artifact.json`` and show which lane the others wait for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from riva_stream import clock

__all__ = ["Lane", "Lanes"]


@dataclass(eq=False, slots=True)
class Lane:
    """One stage's clock. Seconds of several workers add up, so they may exceed wall time."""

    name: str
    bytes: int = 0
    busy_seconds: float = 0.0
    waiting_seconds: float = 0.0
    _began: float | None = field(default=None, init=False)
    _ended: float = field(default=0.0, init=False)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Count the time in the body as work."""
        began = self._start()
        try:
            yield
        finally:
            self._ended = clock.monotonic()
            self.busy_seconds += self._ended - began

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time in the body as waiting, for input or for room."""
        began = self._start()
        try:
            yield
        finally:
            self._ended = clock.monotonic()
            self.waiting_seconds += self._ended - began

    @property
    def wall_seconds(self) -> float:
        """Seconds from its first to its last activity."""
        return 0.0 if self._began is None else self._ended - self._began

    def _start(self) -> float:
        now = clock.monotonic()
        if self._began is None:
            self._began = now
        return now


@dataclass(eq=False, slots=True)
class Lanes:
    """All lanes of a run."""

    source: Lane = field(default_factory=lambda: Lane("source"))
    hash: Lane = field(default_factory=lambda: Lane("hash"))
    extract: Lane = field(default_factory=lambda: Lane("extract"))
    member_hash: Lane = field(default_factory=lambda: Lane("member-hash"))
    upload: Lane = field(default_factory=lambda: Lane("upload"))
    copy: Lane = field(default_factory=lambda: Lane("copy"))

    def all(self) -> tuple[Lane, ...]:
        """All lanes, in the order of the stream."""
        return (self.source, self.hash, self.extract, self.member_hash, self.upload, self.copy)

    def bottleneck(self) -> str:
        """The lane that the others wait for, or "" before anything moved.

        Time spent waiting for a chunk counts against the source, the extraction's waiting for room against the uploads;
        inflate and the digests are as slow as they are busy.
        """
        weights = {
            "source": self.source.waiting_seconds,
            "hash": max(self.hash.busy_seconds, self.member_hash.busy_seconds),
            "extract": self.extract.busy_seconds,
            "upload": self.extract.waiting_seconds,
        }
        slowest = max(weights, key=lambda name: weights[name])
        return slowest if weights[slowest] > 0 else ""
