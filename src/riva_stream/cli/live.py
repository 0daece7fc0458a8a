"""Live bars on a terminal, by rich."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from riva_stream.cli.counters import Counters, duration_text
from riva_stream.cli.lines import Burst
from riva_stream.cli.words import PHASES, sentence
from riva_stream.events import Event, PhaseChanged, Progress, RetryScheduled, Warned
from riva_stream.sizes import MIB, human_size

__all__ = ["LiveRenderer"]

_QUIET_FOR = 3.0  # seconds without movement that are worth a word
_BAR_FROM = 60  # columns: a narrower terminal has no room for the bar itself


class LiveRenderer:
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
        self._live: Live | None = None

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

    def progress(self, latest: Progress, /) -> str:
        """The bars anew."""
        self._counters.update(latest, self._clock())
        if self._live is None:
            self._live = Live(
                console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
            )
            self._live.start()
        self._live.update(self._block(), refresh=True)
        return self._drawn()

    def message(self, text: str, /) -> str:
        """The text above the bars, as it is."""
        self._console.out(text.rstrip("\n"), highlight=False)
        return self._drawn()

    def close(self, latest: Progress | None, /) -> str:
        """The last drawing stays, with the last counters."""
        if self._live is not None:
            if latest is not None:
                self._counters.update(latest, self._clock())
            self._live.update(self._block(), refresh=True)
            self._live.stop()
            self._live = None
        return self._drawn()

    def _drawn(self) -> str:
        text = self._buffer.getvalue()
        self._buffer.seek(0)
        self._buffer.truncate()
        return text

    def _block(self) -> RenderableType:
        seen = self._counters
        head = Table.grid(padding=(0, 1), expand=False)
        cells: list[RenderableType] = [Text(f"{seen.percent:3.0f} %", style="bold")]
        if self._console.width >= _BAR_FROM:
            cells.append(
                ProgressBar(
                    total=max(seen.size, 1), completed=seen.done, width=min(40, self._console.width - 40)
                )
            )
        cells.append(
            Text(f"{human_size(seen.done)} of {human_size(seen.size)}", no_wrap=True, overflow="crop")
        )
        left = seen.left()
        if left is not None and seen.done < seen.size:
            cells.append(Text(f"left {duration_text(left)}", style="cyan", no_wrap=True, overflow="crop"))
        head.add_row(*cells)
        lanes = Table.grid(padding=(0, 2))
        for column in ("left", "right", "right"):
            lanes.add_column(justify=column, no_wrap=True)
        for lane in seen.shown:
            lanes.add_row(f"  {lane}", human_size(seen.lanes[lane]), f"{seen.rate(lane) / MIB:.0f} MiB/s")
        return Group(head, lanes, Text(self._foot(), style="dim", no_wrap=True, overflow="ellipsis"))

    def _foot(self) -> str:
        words = [self._phase] if self._phase else []
        if self._counters.bottleneck and self._counters.done < self._counters.size:
            words.append(f"waiting for: {self._counters.bottleneck}")
        idle = self._counters.idle(self._clock())
        if idle >= _QUIET_FOR:
            words.append(f"nothing moved for {idle:.0f} s")
        return "  " + "; ".join([*words, self._run_id])
