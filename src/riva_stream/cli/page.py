"""A page of the manual on a terminal, or as plain text where there is none."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Markdown, TableElement
from rich.table import Table

from riva_stream.cli.output import print_result

__all__ = ["rendered", "show"]

_WIDEST = 100
_NARROWEST = 40
_LINK = re.compile(r"\[([^\]]+)\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]*))?\)")


def show(text: str, prog: str) -> int:
    """Print a page of Markdown: through $PAGER on a terminal, without colours to anything else."""
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    page = rendered(text, prog, colour=on_terminal and not os.environ.get("NO_COLOR"))
    pager = os.environ.get("PAGER", "").strip()
    if on_terminal and pager and _through(pager, page):
        return 0
    return print_result(page, closed_is_fine=True)


def rendered(text: str, prog: str, *, colour: bool, width: int | None = None) -> str:
    """The page as text of at most ``width`` columns (None: the terminal's, at most 100)."""
    columns = width or shutil.get_terminal_size((_WIDEST, 24)).columns
    out = _Plain() if _ascii_only() else io.StringIO()
    console = Console(
        file=out,
        width=max(_NARROWEST, min(columns, _WIDEST)),
        force_terminal=colour,
        color_system="standard" if colour else None,
        legacy_windows=False,
        highlight=False,
    )
    console.print(_Markdown(_links_as_commands(text, prog), hyperlinks=False))
    lines = (line.rstrip() for line in out.getvalue().splitlines())
    return "\n".join(lines).strip("\n") + "\n"


class _Folding(TableElement):
    """A table whose cells break a word that is too long, where rich would cut it off."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for table in super().__rich_console__(console, options):
            if isinstance(table, Table):
                for column in table.columns:
                    column.overflow = "fold"
            yield table


class _Markdown(Markdown):
    elements = Markdown.elements | {"table_open": _Folding}


class _Plain(io.StringIO):
    """For a terminal that knows ASCII alone, rich draws its boxes with that."""

    encoding = "ascii"


def _ascii_only() -> bool:
    return "utf" not in (getattr(sys.stdout, "encoding", None) or "utf-8").lower()


def _links_as_commands(text: str, prog: str) -> str:
    """Links between pages as the command that shows the page: there is nothing to click on."""

    def command(match: re.Match[str]) -> str:
        label, path, anchor = match[1], match[2], match[3]
        if not path:
            return label  # to a heading of this very page
        if not path.endswith(".md"):
            return f"{label} (`{path}`)"
        topic = path.rpartition("/")[2].removesuffix(".md").lower()
        return f"{label} (`{prog} docs {topic}{'#' + anchor if anchor else ''}`)"

    parts = re.split(r"(^```.*?^```)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else _LINK.sub(command, part) for part in parts)


def _through(pager: str, page: str) -> bool:
    """Show ``page`` in the pager; whether that could be started. Leaving it early is no error."""
    environment = {"LESS": "FRX", **os.environ}
    try:
        # The user's own choice of a program, as for any tool that shows pages.
        process = subprocess.Popen(shlex.split(pager), stdin=subprocess.PIPE, env=environment)  # noqa: S603
    except (OSError, ValueError):
        return False
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the pager's
    try:
        process.communicate(page.encode(errors="backslashreplace"))
    finally:
        signal.signal(signal.SIGINT, before)
    return True
