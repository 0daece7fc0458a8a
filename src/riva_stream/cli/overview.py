"""How ``stage-all`` shows many stagings at once: a table on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from riva_stream.catalogue import EntryEnded, EntryEvent, EntryReport, EntryStarted, Planned
from riva_stream.cli.progress import Counters, Window, duration_text
from riva_stream.events import Progress, StageStarted, Warned
from riva_stream.printable import in_one_line
from riva_stream.redact import redact
from riva_stream.sizes import MIB, human_size

__all__ = ["LiveOverview", "Overview", "PlainOverview", "can_draw"]

Seen = Planned | EntryStarted | EntryEvent | EntryEnded

_LINE_EVERY = 10.0  # seconds between two lines of the total


@dataclass(eq=False)
class Overview:
    """What is known about all stagings; this class shows nothing.

    Another thread may read it at any time, so collections that may change are copied before iteration.
    """

    clock: Callable[[], float] = time.monotonic
    entries: int = 0
    ended: int = 0
    failed: int = 0
    running: dict[str, Counters] = field(default_factory=dict)
    """Counters by destination."""
    moved: list[int] = field(default_factory=list)
    """Source bytes of each staging that has ended and did not exist before."""
    _window: Window = field(default_factory=lambda: Window(seconds=30.0))

    def observe(self, event: Seen, /) -> None:
        """Take one event. Never waits."""
        match event:
            case Planned():
                self.entries = event.entries
            case EntryStarted():
                self.running[event.destination] = Counters()
            case EntryEnded():
                self._end(event.report)
            case EntryEvent(event=Warned() as warning):
                self.note(f"{event.destination}: {warning.message}")
            case EntryEvent(event=Progress() as progress) if event.destination in self.running:
                self.running[event.destination].update(progress, self.clock())
            case EntryEvent(event=StageStarted() as started) if event.destination in self.running:
                self.running[event.destination].size = started.source_size
        self._window.add(self.clock(), {"done": self.done})

    def note(self, text: str) -> None:
        """Show something that the user should know."""

    def _end(self, report: EntryReport) -> None:
        self.running.pop(report.destination, None)
        self.ended += 1
        self.failed += report.outcome == "failed"
        if report.outcome == "staged":
            self.moved.append(report.size_bytes)
        outcome = report.outcome.replace("_", " ")
        if report.error is not None:
            first = report.error.message.partition("\n")[0]
            outcome += f" (exit {report.exit_code}): {first}"
        self.note(f"[{self.ended}/{self.entries}] {report.destination}: {outcome}")

    @property
    def done(self) -> int:
        """Source bytes that have passed all lanes, of all stagings."""
        return sum(self.moved) + sum(counters.done for counters in list(self.running.values()))

    @property
    def rate(self) -> float:
        """Bytes per second, recently."""
        return self._window.rate("done")

    @property
    def left(self) -> float | None:
        """Seconds to the end, if those not yet begun are as large as the others; None while unknown."""
        sizes = [*self.moved, *(c.size for c in list(self.running.values()) if c.size)]
        if not sizes or not self.rate:
            return None
        spared = self.ended - len(self.moved)  # these have ended, and had nothing to transfer
        total = sum(sizes) / len(sizes) * (self.entries - spared)
        return max(0.0, total - self.done) / self.rate

    @property
    def begun(self) -> dict[str, Counters]:
        """The stagings that were passed to the engine and have actually started."""
        return {
            destination: counters for destination, counters in list(self.running.items()) if counters.size
        }

    def total(self) -> str:
        """All stagings in one line."""
        words = [f"{self.ended} of {self.entries} done", f"{len(self.begun)} running"]
        if self.failed:
            words.append(f"{self.failed} failed")
        words += [human_size(self.done), f"{self.rate / MIB:.1f} MiB/s"]
        left = self.left
        return ", ".join(words) + (f", {duration_text(left)} left" if left is not None else "")


class PlainOverview(Overview):
    """Lines: one for each staging that ends, and the total at intervals."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._say = say
        self._due = clock() + _LINE_EVERY

    def note(self, text: str) -> None:
        """Show a line."""
        self._say(in_one_line(text) + "\n")

    def observe(self, event: Seen, /) -> None:
        """Take one event, and show the total at intervals."""
        super().observe(event)
        if self.clock() >= self._due and self.running:
            self._due = self.clock() + _LINE_EVERY
            self._say(self.total() + "\n")


class LiveOverview(Overview):
    """A row for each running staging, drawn by a thread of rich's, so that a stopped terminal blocks nothing else."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, console: Console | None = None) -> None:
        super().__init__(clock)
        # Not sys.stderr, which belongs to the screen while a command runs.
        self._console = console or Console(file=sys.__stderr__, highlight=False)
        self._notes: deque[str] = deque(maxlen=5)

    def note(self, text: str) -> None:
        """Show text below the table, until newer notes replace it."""
        self._notes.append(in_one_line(redact(text)))

    def shown(self) -> Live:
        """While entered, the table is on the terminal."""
        return Live(
            get_renderable=self.drawn,
            console=self._console,
            refresh_per_second=4,
            redirect_stdout=False,
            redirect_stderr=False,
            transient=True,
        )

    def drawn(self) -> RenderableType:
        """The current table."""
        sides = ("left", "left", "right", "right", "right")
        table = Table.grid(
            *(Column(justify=side, no_wrap=True, overflow="ellipsis") for side in sides),  # type: ignore[arg-type]
            padding=(0, 2),
        )
        for destination, counters in self.begun.items():
            left = counters.left()
            table.add_row(
                destination.removeprefix("s3://"),
                ProgressBar(total=counters.size, completed=counters.done, width=20),
                f"{human_size(counters.done)} of {human_size(counters.size)}",
                f"{counters.rate('fetched') / MIB:.1f} MiB/s",
                duration_text(left) if left is not None else "",
            )
        notes = [Text(note, style="dim", no_wrap=True, overflow="ellipsis") for note in list(self._notes)]
        return Group(table, Text(self.total(), style="bold", no_wrap=True, overflow="ellipsis"), *notes)


def can_draw() -> bool:
    """Whether standard error is a terminal that can move its cursor."""
    console = Console(file=sys.__stderr__)
    return console.is_terminal and not console.is_dumb_terminal
