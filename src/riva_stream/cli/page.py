"""A page of Markdown on a terminal, or as plain text where there is none."""

from __future__ import annotations

import os
import pydoc

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Markdown, TableElement
from rich.table import Table

from riva_stream.cli.output import print_result

__all__ = ["show"]

_WIDEST = 100


def show(text: str) -> int:
    """Print a page: through a pager on a terminal, without colours to anything else."""
    console = Console(highlight=False)
    with console.capture() as page:
        console.print(_Markdown(text, hyperlinks=False), width=min(console.width, _WIDEST))
    if not console.is_terminal:
        return print_result(page.get(), closed_is_fine=True)
    os.environ.setdefault("LESS", "FRX")  # colours as they are, and no waiting at the end of a short page
    pydoc.pager(page.get())
    return 0


class _Folding(TableElement):
    """A table whose cells break a word that is too long, where rich would cut it off."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for table in super().__rich_console__(console, options):
            for column in table.columns if isinstance(table, Table) else ():
                column.overflow = "fold"
            yield table


class _Markdown(Markdown):
    elements = Markdown.elements | {"table_open": _Folding}
