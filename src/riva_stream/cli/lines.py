"""Plain lines, for a log or a terminal that cannot move its cursor."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from riva_stream.cli.counters import Counters, duration_text
from riva_stream.cli.screen import Renderer
from riva_stream.cli.words import sentence
from riva_stream.events import Event, Progress
from riva_stream.sizes import MIB, human_size

__all__ = ["INTERVAL", "LineRenderer"]

INTERVAL = 5.0
_QUIET_FOR = 10.0  # seconds without movement that are worth a word
_BURST = 20  # lines of one kind that may come in one interval


class LineRenderer(Renderer):
    """One line of progress every few seconds, and one for whatever else happens.

    Args:
        run_id: stands in every line of progress.
        interval: seconds between two of them.
        clock: monotonic seconds.
        now: the time of day.
    """

    def __init__(
        self,
        run_id: str,
        *,
        interval: float = INTERVAL,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self.interval = interval
        self._run_id = run_id
        self._clock = clock
        self._now = now
        self._counters = Counters()
        self._burst = Burst(interval, clock)

    def event(self, event: Event, /) -> str:
        """A line, unless too many of its kind have just gone by."""
        text = sentence(event)
        if not text:
            return ""
        skipped = self._burst.take(type(event).__name__)
        if skipped is None:
            return ""
        more = f" (and {skipped} more like it before)" if skipped else ""
        return self._line(text + more)

    def progress(self, latest: Progress, /) -> str:
        """The counters in one line."""
        now = self._clock()
        self._counters.update(latest, now)
        return self._line(progress_text(self._counters, now))

    def _line(self, text: str) -> str:
        return f"{self._now():%H:%M:%S} {self._run_id}  {text}\n"


class Burst:
    """Keeps one kind of line from flooding a log: at most a few per interval."""

    def __init__(self, interval: float, clock: Callable[[], float]) -> None:
        self._interval = interval
        self._clock = clock
        self._since: dict[str, float] = {}
        self._count: dict[str, int] = {}

    def take(self, kind: str) -> int | None:
        """None: skip it; else how many were skipped before it."""
        now = self._clock()
        if kind not in self._since or now - self._since[kind] >= self._interval:
            skipped = max(0, self._count.get(kind, 0) - _BURST)
            self._since[kind], self._count[kind] = now, 1
            return skipped
        self._count[kind] += 1
        return 0 if self._count[kind] <= _BURST else None


def progress_text(counters: Counters, now: float) -> str:
    """``41 %  1.52 GiB/3.71 GiB  fetched 1.60 GiB 118 MiB/s  …  left 0:18  waiting for: extract``."""
    words = [f"{counters.percent:.0f} %", f"{human_size(counters.done)}/{human_size(counters.size)}"]
    words += [
        f"{lane} {human_size(counters.lanes[lane])} {counters.rate(lane) / MIB:.0f} MiB/s"
        for lane in counters.shown
    ]
    left = counters.left()
    if left is not None:
        words.append(f"left {duration_text(left)}")
    if counters.bottleneck and counters.done < counters.size:
        words.append(f"waiting for: {counters.bottleneck}")
    if counters.idle(now) >= _QUIET_FOR:
        words.append(f"nothing moved for {counters.idle(now):.0f} s")
    return "  ".join(words)
