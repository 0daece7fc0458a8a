"""Live bars on a terminal, by rich."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Iterator

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from riva_stream.cli.counters import Counters
from riva_stream.cli.lines import Burst
from riva_stream.cli.screen import Renderer
from riva_stream.cli.words import PHASES, sentence
from riva_stream.events import Event, PhaseChanged, RetryScheduled, Warned
from riva_stream.events import Progress as Seen
from riva_stream.sizes import MIB, human_size

__all__ = ["LiveRenderer"]

_QUIET_FOR = 3.0  # seconds without movement that are worth a word


class _Bars(Progress):
    """rich's bar for the run, and what stands below it."""

    below: Callable[[], Iterable[RenderableType]] = tuple

    def get_renderables(self) -> Iterator[RenderableType]:
        yield from super().get_renderables()
        yield from self.below()


class LiveRenderer(Renderer):
    """One block that is drawn over and over; whatever else happens is printed above it.

    rich draws into a buffer, never to the terminal: writing is the screen's matter. Colours and width are those of
    the terminal, NO_COLOR included.

    Args:
        run_id: stands before the bar.
        clock: monotonic seconds.
        width: columns; None: those of the terminal, asked again for each drawing.
    """

    interval = 0.2

    def __init__(
        self, run_id: str, *, clock: Callable[[], float] = time.monotonic, width: int | None = None
    ) -> None:
        self._run_id = run_id
        self._clock = clock
        self._buffer = io.StringIO()
        self._console = Console(file=self._buffer, force_terminal=True, width=width, highlight=False)
        self._counters = Counters()
        self._phase = ""
        self._burst = Burst(5.0, clock)
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

    def event(self, event: Event, /) -> str:
        """A line above the bars."""
        if isinstance(event, PhaseChanged):
            self._phase = PHASES[event.phase]
        elif text := sentence(event):
            skipped = self._burst.take(type(event).__name__)
            if skipped is not None:
                style = "yellow" if isinstance(event, Warned | RetryScheduled) else "dim"
                more = f" (and {skipped} more like it before)" if skipped else ""
                # The terminal breaks long lines, not rich: a URI that is copied from there stays whole.
                self._console.print(f"[{style}]{escape(text + more)}[/]", soft_wrap=True)
        return self._drawn()

    def progress(self, latest: Seen, /) -> str:
        """The bars anew."""
        self._count(latest)
        self._bars.start()
        self._bars.refresh()
        return self._drawn()

    def message(self, text: str, /) -> str:
        """The text above the bars, as it is."""
        self._console.out(text.rstrip("\n"), highlight=False)
        return self._drawn()

    def close(self, latest: Seen | None, /) -> str:
        """The last drawing stays, with the last counters."""
        if latest is not None and self._bars.live.is_started:
            self._count(latest)
        self._bars.stop()
        return self._drawn()

    def _count(self, latest: Seen) -> None:
        self._counters.update(latest, self._clock())
        self._bars.update(self._task, total=self._counters.size, completed=self._counters.done)

    def _drawn(self) -> str:
        text = self._buffer.getvalue()
        self._buffer.seek(0)
        self._buffer.truncate()
        return text

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
        yield Text(self._foot(), style="dim", no_wrap=True, overflow="ellipsis")

    def _foot(self) -> str:
        words = [self._phase] if self._phase else []
        if self._counters.bottleneck and self._counters.done < self._counters.size:
            words.append(f"waiting for: {self._counters.bottleneck}")
        idle = self._counters.idle(self._clock())
        if idle >= _QUIET_FOR:
            words.append(f"nothing moved for {idle:.0f} s")
        return "  " + "; ".join([*words, self._run_id])
