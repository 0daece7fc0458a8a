"""Standard error, or a file, written by a thread of its own.

A terminal that was stopped with Ctrl-S, a pipe that nobody reads, or a disk that hangs, blocks whoever writes to it. The run must not
be the one: its event loop hands events over and goes on. Progress is not queued at all: only the newest counters
are kept, and the thread draws them when it is time to. What must be read (warnings, errors) is queued, and waited for
at the end, though not for ever.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from riva_stream.cli.output import complain
from riva_stream.cli.redact import redact
from riva_stream.events import Event, Progress

__all__ = ["Renderer", "Screen"]

T = TypeVar("T")

_MOST_WAITING = 2000


class Renderer:
    """Turns events into the text to write. Called by one thread only; knows no streams.

    This one says nothing but what the command line itself has to say.
    """

    interval: float = 3600.0
    """Seconds between two looks at the counters."""

    def event(self, event: Event, /) -> str:  # noqa: ARG002
        """What to write for an event that is not progress."""
        return ""

    def progress(self, latest: Progress, /) -> str:  # noqa: ARG002
        """What to write for the newest counters."""
        return ""

    def message(self, text: str, /) -> str:
        """What to write for a text of the command line's own, such as an error: the text as it is."""
        return text if text.endswith("\n") else text + "\n"

    def close(self, latest: Progress | None, /) -> str:  # noqa: ARG002
        """What to write at the end, when the counters stood at ``latest``."""
        return ""


class Screen:
    """A renderer with its thread.

    Args:
        renderer: makes the text.
        write: takes it; may block, and may lose it, but must not raise.
        clock: monotonic seconds.
        slow: what was so slow that messages had to be dropped.
    """

    def __init__(
        self,
        renderer: Renderer,
        *,
        write: Callable[[str], None] = complain,
        clock: Callable[[], float] = time.monotonic,
        slow: str = "nobody read standard error",
    ) -> None:
        self._renderer = renderer
        self._write = write
        self._clock = clock
        self._slow = slow
        self._changed = threading.Condition()
        self._waiting: deque[Event | str] = deque()
        self._latest: Progress | None = None
        self._lost = 0
        self._closing = False
        self._last = ""
        self._thread = threading.Thread(target=self._work, name="riva-stream-screen", daemon=True)
        self._thread.start()

    def use(self, renderer: Renderer) -> None:
        """Show what comes from now on in another way."""
        self._renderer = renderer

    def observe(self, event: Event, /) -> None:
        """Take an event of the run. Never waits."""
        if isinstance(event, Progress):
            self._latest = event  # one assignment: no lock, thousands of times
            return
        with self._changed:
            if len(self._waiting) >= _MOST_WAITING:
                self._lost += 1
                return
            self._waiting.append(event)
            self._changed.notify()

    def say(self, text: str) -> None:
        """Write ``text``, which is never dropped."""
        with self._changed:
            self._waiting.append(text)
            self._changed.notify()

    def close(self, last: str = "", *, timeout: float = 5.0) -> bool:
        """Write what is left and then ``last`` as it is, such as the error that the run ended with.

        Waits at most ``timeout`` seconds; tells whether all of it was written.
        """
        with self._changed:
            self._last = last
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        due = self._clock() + self._renderer.interval
        while True:
            with self._changed:
                if not self._waiting and not self._closing:
                    self._changed.wait(max(0.0, due - self._clock()))
                items = list(self._waiting)
                self._waiting.clear()
                lost, self._lost = self._lost, 0
                closing = self._closing
            parts = [self._safely(self._text, item) for item in items]
            if lost:
                parts.append(self._text(f"({lost} messages were dropped: {self._slow})"))
            if closing:
                self._put(*parts, self._safely(self._renderer.close, self._latest), self._last)
                return
            if self._clock() >= due:
                due = self._clock() + self._renderer.interval
                if self._latest is not None:
                    parts.append(self._safely(self._renderer.progress, self._latest))
            self._put(*parts)

    def _text(self, item: Event | str) -> str:
        return self._renderer.message(redact(item)) if isinstance(item, str) else self._renderer.event(item)

    def _safely(self, render: Callable[[T], str], item: T) -> str:
        try:
            return render(item)
        except Exception as error:  # noqa: BLE001 - a bar that cannot be drawn must not take the errors with it
            return f"(this could not be shown: {error!r})\n"

    def _put(self, *parts: str) -> None:
        text = "".join(parts)
        if text:
            self._write(text)
