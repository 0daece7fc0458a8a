"""Events as text: a sentence for each, the counters of a run, and the lines for standard error.

A renderer is a formatter of the standard library's logging: what a run shows and what it logs are the same records.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from riva_stream.events import (
    Event,
    MemberFound,
    ObjectCompleted,
    ObjectVerified,
    PhaseChanged,
    Progress,
    Resumed,
    RetryScheduled,
    StageFinished,
    StageStarted,
    Warned,
    Watching,
)
from riva_stream.printable import in_one_line
from riva_stream.redact import redact
from riva_stream.sizes import MIB, human_size

__all__ = [
    "LANES",
    "PHASES",
    "STARTED",
    "Burst",
    "Closed",
    "Counters",
    "Item",
    "LineRenderer",
    "Renderer",
    "Window",
    "duration_text",
    "record_of",
    "sentence",
]

STARTED = "started"
"""Code of the one warning that is not a warning: the first line of a log."""
PHASES = {
    "prepare": "checking source and destination",
    "stream": "streaming",
    "verify": "everything is read; checking it",
    "commit": "committing",
    "done": "",  # StageFinished says it
}
LANES = ("fetched", "hashed", "extracted", "durable", "copied")
_INTERVAL = 5.0
_BURST = 20  # maximum lines of one kind per interval
_WINDOW = (
    20.0  # seconds that a rate is averaged over: long enough for whole parts, short enough to show a stall
)


@dataclass(frozen=True, slots=True)
class Closed:
    """The last record that a renderer gets."""

    latest: Progress | None
    """The last counters, if there were any, and if they are to come last."""


Item = Event | Closed | str


def record_of(item: Item, level: int | None = None) -> logging.LogRecord:
    """A record of an event, or of a text of the command line's own; its level depends on the event's type and code."""
    if level is None:
        warned = isinstance(item, RetryScheduled | str) or (isinstance(item, Warned) and item.code != STARTED)
        level = logging.WARNING if warned else logging.INFO
    return logging.makeLogRecord(
        {"name": "riva_stream", "levelno": level, "levelname": logging.getLevelName(level), "item": item}
    )


def sentence(event: Event) -> str:  # noqa: C901 - a case for each event
    """One line for people; empty for events that need no line."""
    text = ""
    match event:
        case StageStarted():
            text = (
                f"{event.source_uri} ({human_size(event.source_size)}) -> {event.destination} ({_how(event)})"
            )
        case Resumed():
            text = (
                f"resuming at {human_size(event.offset)} of {human_size(event.source_size)}: "
                "the store has everything before"
            )
        case PhaseChanged():
            text = PHASES[event.phase]
        case MemberFound():
            text = f"found {event.name} ({human_size(event.size)})"
        case ObjectCompleted():
            text = f"complete: {event.key} ({human_size(event.size)})"
        case ObjectVerified():
            text = f"differs: {event.key}: {event.difference}" if event.difference else f"same: {event.key}"
        case Watching():
            text = f"watching the journal of {event.who} for up to {event.seconds:.0f} s"
        case RetryScheduled():
            text = f"retry {event.attempt} of {event.operation} in {event.delay:.1f} s: {event.reason}"
        case Warned():
            text = f"warning: {event.message}"
        case StageFinished():
            text = f"{event.outcome.replace('_', ' ')} after {event.seconds:.1f} s"
    return redact(text)


def _how(event: StageStarted) -> str:
    if event.mode != "full":
        return "by reference"
    copied = f", source copied by the store ({event.source_copy})" if event.source_copy != "sent" else ""
    return f"parts checked by {event.upload_check}{copied}"


@dataclass(eq=False)
class Window:
    """Recent counters, for their rates."""

    seconds: float
    """Interval that a rate is averaged over."""
    samples: deque[tuple[float, Mapping[str, int]]] = field(default_factory=deque, init=False)

    def add(self, now: float, seen: Mapping[str, int]) -> None:
        """Add the counters at ``now`` (monotonic seconds)."""
        self.samples.append((now, seen))
        while len(self.samples) > 2 and self.samples[1][0] <= now - self.seconds:  # noqa: PLR2004 - a rate needs two
            self.samples.popleft()

    def rate(self, name: str) -> float:
        """Rate of a counter per second."""
        if not self.samples:
            return 0.0
        (since, first), (until, last) = self.samples[0], self.samples[-1]
        return max(0, last.get(name, 0) - first.get(name, 0)) / (until - since) if until > since else 0.0


@dataclass(eq=False)
class Counters:
    """The counters seen so far. Events that arrive out of order cannot decrease them."""

    size: int = 0
    done: int = 0
    """Source bytes that have passed all lanes: read, hashed, unpacked and acknowledged by the store."""
    bottleneck: str = ""
    shown: tuple[str, ...] = LANES[:4]
    """The lanes of this kind of run: most copy nothing."""
    lanes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LANES, 0))
    _window: Window = field(default_factory=lambda: Window(_WINDOW))
    """The lanes, and ``done``."""
    _moved: float = 0.0

    def update(self, event: Progress, now: float) -> None:
        """Take the newest counters, seen at ``now`` (monotonic seconds)."""
        if not self._window.samples:  # all start at zero, so the first sample has a rate already
            self._window.add(now - event.elapsed, {})
            self._moved = now
        self.size = max(self.size, event.source_size)
        self.shown, self.bottleneck = event.counts, event.bottleneck
        self.lanes = {lane: max(seen, getattr(event, lane)) for lane, seen in self.lanes.items()}
        # What the store acknowledged counts: what is only fetched may have to be fetched again.
        stored = (event.durable_source or event.durable) if "durable" in event.counts else self.size
        extracted = event.extracted or self.size  # a bare model has nothing to extract
        self.done = max(self.done, min(event.fetched, event.hashed, stored, extracted, self.size))
        seen = {**self.lanes, "done": self.done}
        if seen != self._window.samples[-1][1]:
            self._moved = now
        self._window.add(now, seen)

    def text(self, event: Progress, now: float) -> str:
        """``41 %  1.52 GiB/3.71 GiB  fetched 1.60 GiB 118 MiB/s  …  left 0:18  waiting for: extract``, updated."""
        self.update(event, now)
        words = [f"{self.percent:.0f} %", f"{human_size(self.done)}/{human_size(self.size)}"]
        words += [
            f"{lane} {human_size(self.lanes[lane])} {self.rate(lane) / MIB:.0f} MiB/s" for lane in self.shown
        ]
        left = self.left()
        words += [] if left is None else [f"left {duration_text(left)}"]
        return "  ".join([*words, *self.state(now, quiet_for=10.0)])

    @property
    def percent(self) -> float:
        """0 to 100."""
        return 100.0 * self.done / self.size if self.size else 0.0

    def rate(self, lane: str) -> float:
        """Recent bytes per second, also of ``done``. rich's own estimate keeps the last rate of a run that stalls."""
        return self._window.rate(lane)

    def left(self) -> float | None:
        """Seconds to the end at the present rate; None while unknown."""
        rate = self.rate("done")
        return (self.size - self.done) / rate if rate > 0 else None

    def state(self, now: float, quiet_for: float) -> list[str]:
        """What holds the run up, in words; ``quiet_for``: seconds without movement after which that is reported."""
        waiting = self.bottleneck and self.done < self.size
        idle = now - self._moved if self._window.samples else 0.0
        words = [f"waiting for: {self.bottleneck}"] if waiting else []
        return [*words, f"nothing moved for {idle:.0f} s"] if idle >= quiet_for else words


@dataclass(eq=False)
class Burst:
    """Keeps one kind of line from flooding a log: at most a few per interval."""

    clock: Callable[[], float]
    _seen: dict[type[Event], tuple[float, int]] = field(default_factory=dict, init=False)
    """Start of the interval, and the number of lines since."""

    def text(self, event: Event) -> str:
        """The event's sentence with how many were skipped before it; "" if this one is to be skipped."""
        text, now = sentence(event), self.clock()
        if not text:
            return ""
        since, count = self._seen.get(type(event), (now - _INTERVAL, 0))
        if now - since >= _INTERVAL:
            self._seen[type(event)] = now, 1
            skipped = max(0, count - _BURST)
            return f"{text} (and {skipped} more like it before)" if skipped else text
        self._seen[type(event)] = since, count + 1
        return text if count < _BURST else ""


def duration_text(seconds: float) -> str:
    """``0:18``, ``1:02:03``."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


class Renderer(logging.Formatter):
    """Turns records into the text to write. Called by one thread only; does no I/O.

    This class shows only the command line's own texts.
    """

    interval: float = 3600.0
    """Seconds between two polls of the counters."""
    draws = False
    """Whether its output is for a terminal only, with colours and cursor movements."""

    def format(self, record: logging.LogRecord) -> str:
        """The text to write for a record of :func:`record_of`, line ends included; "" for nothing.

        A text of the command line's own, such as an error, is written as it is.
        """
        item: Item = record.item  # type: ignore[attr-defined]
        return redact(item).removesuffix("\n") + "\n" if isinstance(item, str) else ""


class LineRenderer(Renderer):
    """One line of progress every few seconds, and one for everything else.

    Args:
        run_id: is in every line of progress.
        clock: monotonic seconds.
    """

    interval = _INTERVAL

    def __init__(self, run_id: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._run_id = run_id
        self._clock = clock
        self._counters = Counters()
        self._burst = Burst(clock)

    def format(self, record: logging.LogRecord) -> str:
        """The counters in one line; one line for an event, unless too many of its kind came just before."""
        item: Item = record.item  # type: ignore[attr-defined]
        if isinstance(item, str | Closed):
            return super().format(record)
        now = self._clock()
        text = self._counters.text(item, now) if isinstance(item, Progress) else self._burst.text(item)
        return f"{self.formatTime(record, '%H:%M:%S')} {self._run_id}  {in_one_line(text)}\n" if text else ""
