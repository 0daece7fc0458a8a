"""The lines of a log file: every one with the time, the level and the run's id."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from riva_stream.cli.counters import Counters
from riva_stream.cli.jsonlog import kind_of
from riva_stream.cli.lines import progress_text
from riva_stream.cli.log_settings import LEVELS
from riva_stream.cli.redact import Redactor
from riva_stream.cli.screen import Renderer
from riva_stream.cli.words import sentence
from riva_stream.events import Event, PhaseChanged, Progress, RetryScheduled, Warned
from riva_stream.handover import SCRIPT_ID, SCRIPT_NAME

__all__ = ["STARTED", "LogRenderer"]

STARTED = "started"
"""Code of the one warning that is none: the first line of a log."""

_INTERVALS = {"debug": 5.0}
_INTERVAL = 30.0
_ERROR = "\n  exit code "  # the last line of every failure's text


class LogRenderer(Renderer):
    """A renderer for a :class:`~riva_stream.cli.screen.Screen` that writes to a file.

    Args:
        run_id: stands in every line.
        level: the least that is written.
        form: ``pretty`` or ``json``, with the fields that the scripts of the pipeline have.
        redactor: takes out what the log must not have.
        clock: monotonic seconds.
        now: the time, with its zone.
    """

    def __init__(
        self,
        run_id: str,
        *,
        level: str = "info",
        form: str = "pretty",
        redactor: Redactor | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.interval = _INTERVALS.get(level, _INTERVAL)
        self._least = LEVELS.index(level)
        self._run_id = run_id
        self._json = form == "json"
        self._redactor = redactor or Redactor()
        self._clock = clock
        self._now = now
        self._host = socket.gethostname()
        self._step = ""
        self._failed = False
        self._counters = Counters()

    def event(self, event: Event, /) -> str:
        """A line, or several for a message with line breaks."""
        if isinstance(event, PhaseChanged):
            self._step = event.phase
        text, level = sentence(event), "info"
        if isinstance(event, Warned):
            text, level = event.message, "info" if event.code == STARTED else "warning"
        elif isinstance(event, RetryScheduled):
            level = "warning"
        return self._lines(level, text, {"event": kind_of(event), **asdict(event)})

    def progress(self, latest: Progress, /) -> str:
        """The counters."""
        now = self._clock()
        self._counters.update(latest, now)
        return self._lines(
            "info", progress_text(self._counters, now), {"event": "progress", **asdict(latest)}
        )

    def message(self, text: str, /) -> str:
        """What the command line, or a library, has to say."""
        level = "error" if _ERROR in text else "warning"
        self._failed = self._failed or level == "error"
        return self._lines(level, text, {"event": "message"})

    def close(self, latest: Progress | None, /) -> str:
        """The last counters, unless there is an error, which is the last word then."""
        return "" if latest is None or self._failed else self.progress(latest)

    def _lines(self, level: str, text: str, fields: dict[str, Any]) -> str:
        if LEVELS.index(level) < self._least or not text.strip():
            return ""
        when = self._now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if self._json:
            head = {
                "timestamp": when,
                "level": level.upper(),
                "script_id": SCRIPT_ID,
                "script_name": SCRIPT_NAME,
                "run_id": self._run_id,
                "host": self._host,
                "step": self._step,
                "message": text.strip("\n"),
            }
            more = {name: value for name, value in fields.items() if name not in head}
            return json.dumps(self._redactor.value(head | more), ensure_ascii=False) + "\n"
        head_text = f"{when} [{level.upper()}] [{self._run_id}] "
        # One by one, so that none goes without its run's id; whole before that, since a secret may have two lines.
        return "".join(
            f"{head_text}{line}\n" for line in self._redactor.text(text).splitlines() if line.strip()
        )
