"""The counters of a run as a viewer needs them: never backwards, with rates and the time that is left."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from riva_stream.events import Progress

__all__ = ["LANES", "Counters", "duration_text"]

LANES = ("fetched", "hashed", "extracted", "durable", "copied")
_ALWAYS = LANES[:4]
"""Nothing is copied in most runs."""
_WINDOW = (
    20.0  # seconds that a rate is averaged over: long enough for whole parts, short enough to see a stall
)


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    done: int
    lanes: tuple[int, ...]


class Counters:
    """What was seen so far. Events that come out of order cannot turn anything back."""

    def __init__(self) -> None:
        self.size = 0
        self.done = 0
        """Source bytes that are through everything: read, hashed, unpacked and acknowledged by the store."""
        self.bottleneck = ""
        self.shown: tuple[str, ...] = _ALWAYS
        """The lanes that there are in this kind of run."""
        self.lanes: dict[str, int] = dict.fromkeys(LANES, 0)
        self._samples: deque[_Sample] = deque()
        self._moved = 0.0

    def update(self, event: Progress, now: float) -> None:
        """Take the newest counters, seen at ``now`` (monotonic seconds)."""
        before = (self.done, *self.lanes.values())
        if not self._samples:  # all of them began at nothing, so that the first look has a rate already
            self._samples.append(_Sample(now - event.elapsed, 0, (0,) * len(LANES)))
            self._moved = now
        self.size = max(self.size, event.source_size)
        self.shown = event.counts
        for lane in LANES:
            self.lanes[lane] = max(self.lanes[lane], getattr(event, lane))
        # The store's word counts, not ours: what is only fetched may have to be fetched again.
        through = [event.fetched, event.hashed]
        if "durable" in event.counts:
            through.append(event.durable_source or event.durable)
        if event.extracted:  # a model that is staged as it is has nothing to extract
            through.append(event.extracted)
        self.done = max(self.done, min(*through, self.size))
        self.bottleneck = event.bottleneck
        if before != (self.done, *self.lanes.values()):
            self._moved = now
        self._samples.append(_Sample(now, self.done, tuple(self.lanes.values())))
        while len(self._samples) > 2 and self._samples[1].at <= now - _WINDOW:  # noqa: PLR2004 - a rate needs two
            self._samples.popleft()

    @property
    def percent(self) -> float:
        """0 to 100."""
        return 100.0 * self.done / self.size if self.size else 0.0

    def rate(self, lane: str) -> float:
        """Bytes per second of late."""
        index = LANES.index(lane)
        if not self._samples:
            return 0.0
        first, last = self._samples[0], self._samples[-1]
        return _per_second(last.lanes[index] - first.lanes[index], last.at - first.at)

    def left(self) -> float | None:
        """Seconds to the end at the present rate; None while that cannot be told."""
        if not self._samples:
            return None
        first, last = self._samples[0], self._samples[-1]
        rate = _per_second(last.done - first.done, last.at - first.at)
        return (self.size - self.done) / rate if rate > 0 else None

    def idle(self, now: float) -> float:
        """Seconds since anything moved."""
        return now - self._moved if self._samples else 0.0


def _per_second(amount: int, seconds: float) -> float:
    return amount / seconds if seconds > 0 else 0.0


def duration_text(seconds: float) -> str:
    """``0:18``, ``1:02:03``."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
