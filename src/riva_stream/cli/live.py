"""Live bars on a terminal, drawn by rich."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Iterable, Iterator

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from riva_stream.cli.progress import PHASES, Closed, Item, LineRenderer
from riva_stream.events import PhaseChanged, RetryScheduled, Warned
from riva_stream.events import Progress as Seen
from riva_stream.printable import in_one_line, visible
from riva_stream.redact import redact
from riva_stream.sizes import MIB, human_size

__all__ = ["LiveRenderer"]


class _Bars(Progress):
    """rich's bar for the run, and the lines below it."""

    below: Callable[[], Iterable[RenderableType]] = tuple

    def get_renderables(self) -> Iterator[RenderableType]:
        yield from super().get_renderables()
        yield from self.below()


class LiveRenderer(LineRenderer):
    """One block that is redrawn repeatedly; everything else is printed above it.

    rich draws into a buffer, never to the terminal: writing is up to the outlet. Colours and width are those of
    the terminal, NO_COLOR included.

    Args:
        run_id: is shown below the bars.
        clock: monotonic seconds.
        width: columns; None: those of the terminal, looked up again for each drawing.
    """

    interval = 0.2
    draws = True

    def __init__(
        self, run_id: str, *, clock: Callable[[], float] = time.monotonic, width: int | None = None
    ) -> None:
        super().__init__(run_id, clock=clock)
        self._buffer = io.StringIO()
        self._console = Console(file=self._buffer, force_terminal=True, width=width, highlight=False)
        self._phase = ""
        self._bars = _Bars(
            TextColumn("{task.percentage:3.0f} %", style="bold"),
            BarColumn(),
            DownloadColumn(binary_units=True, table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            console=self._console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            get_time=clock,
        )
        self._bars.below = self._below
        self._task = self._bars.add_task("")

    def format(self, record: logging.LogRecord) -> str:
        """What rich has drawn for the record."""
        self._draw(record.item)  # type: ignore[attr-defined]
        text = self._buffer.getvalue()
        self._buffer.seek(0)
        self._buffer.truncate()
        return text

    def _draw(self, item: Item) -> None:
        match item:
            case str():
                self._console.out(visible(redact(item).rstrip("\n")), highlight=False)
            case Seen():
                self._count(item)
                self._bars.start()
                self._bars.refresh()
            case Closed():  # the last drawing stays, with the last counters
                if item.latest is not None and self._bars.live.is_started:
                    self._count(item.latest)
                self._bars.stop()
            case PhaseChanged():
                self._phase = PHASES[item.phase]
            case _ if text := self._burst.text(item):
                style = "yellow" if isinstance(item, Warned | RetryScheduled) else "dim"
                # The terminal wraps long lines, not rich: a URI that is copied from there stays whole.
                self._console.print(f"[{style}]{escape(in_one_line(text))}[/]", soft_wrap=True)

    def _count(self, latest: Seen) -> None:
        self._counters.update(latest, self._clock())
        self._bars.update(self._task, total=self._counters.size, completed=self._counters.done)

    def _below(self) -> Iterator[RenderableType]:
        lanes = Table.grid(
            *(Column(justify=side, no_wrap=True) for side in ("left", "right", "right")), padding=(0, 2)
        )
        for lane in self._counters.shown:
            lanes.add_row(
                f"  {lane}",
                human_size(self._counters.lanes[lane]),
                f"{self._counters.rate(lane) / MIB:.0f} MiB/s",
            )
        yield lanes
        words = [self._phase, *self._counters.state(self._clock(), quiet_for=3.0), self._run_id]
        yield Text("  " + "; ".join(filter(None, words)), style="dim", no_wrap=True, overflow="ellipsis")
