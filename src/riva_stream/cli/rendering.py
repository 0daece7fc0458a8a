"""Which renderer fits the terminal and the flags."""

from __future__ import annotations

import io
import os
from argparse import Namespace
from typing import Protocol

from riva_stream.cli.jsonlog import JsonRenderer
from riva_stream.cli.lines import LineRenderer
from riva_stream.cli.screen import Renderer

__all__ = ["ScreenStream", "choose_renderer"]

_STDERR = 2


def choose_renderer(args: Namespace, run_id: str) -> Renderer:
    """Bars where they can be drawn, else lines; what a flag asks for first."""
    if args.quiet:
        return Renderer()
    if args.log_format == "json":
        return JsonRenderer(run_id)
    if args.log_format != "plain" and _can_draw():
        from riva_stream.cli.live import LiveRenderer  # noqa: PLC0415 - rich takes a while to import

        return LiveRenderer(run_id)
    return LineRenderer(run_id)


def _can_draw() -> bool:
    return os.isatty(_STDERR) and os.environ.get("TERM", "").lower() not in {"", "dumb", "unknown"}


class _Hearer(Protocol):
    def say(self, text: str) -> None:
        """Take a text."""


class ScreenStream(io.TextIOBase):
    """``sys.stderr`` during a run: what a library prints must neither block the run nor break the bars."""

    def __init__(self, hearer: _Hearer) -> None:
        super().__init__()
        self._hearer = hearer

    def writable(self) -> bool:
        """Yes."""
        return True

    def write(self, text: str, /) -> int:
        """Hand it on."""
        if text.strip():
            self._hearer.say(text)
        return len(text)
