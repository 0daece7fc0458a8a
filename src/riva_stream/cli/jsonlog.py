"""JSON lines, one object per event, for whatever collects logs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime

from riva_stream.cli.lines import INTERVAL
from riva_stream.cli.redact import SECRETS, Redactor
from riva_stream.cli.screen import Renderer
from riva_stream.events import Event, Progress

__all__ = ["JsonRenderer", "kind_of"]


def kind_of(event: Event) -> str:
    """``member_found`` of :class:`~riva_stream.events.MemberFound`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()


class JsonRenderer(Renderer):
    """``{"time": …, "run_id": …, "event": "member_found", …its fields}``.

    Args:
        run_id: stands in every line.
        interval: seconds between two lines of progress.
        now: the time, with its zone.
        redactor: takes out more than the secrets.
    """

    def __init__(
        self,
        run_id: str,
        *,
        interval: float = INTERVAL,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        redactor: Redactor | None = None,
    ) -> None:
        self.interval = interval
        self._run_id = run_id
        self._now = now
        self._redactor = redactor
        self._highest: dict[str, int] = {}

    def event(self, event: Event, /) -> str:
        """Its fields."""
        return self._line(kind_of(event), asdict(event))

    def progress(self, latest: Progress, /) -> str:
        """Its fields, none of them less than in a line before."""
        fields = asdict(latest)
        for name, value in fields.items():
            if isinstance(value, int):
                fields[name] = self._highest[name] = max(value, self._highest.get(name, 0))
        return self._line("progress", fields)

    def message(self, text: str, /) -> str:
        """The text as an event of its own."""
        return self._line("message", {"message": text.rstrip("\n")})

    def _line(self, kind: str, fields: dict[str, object]) -> str:
        head = {"time": self._now().isoformat(timespec="milliseconds"), "run_id": self._run_id, "event": kind}
        document = head | {k: v for k, v in fields.items() if k != "run_id"}
        return json.dumps((self._redactor or SECRETS).value(document), ensure_ascii=False) + "\n"
