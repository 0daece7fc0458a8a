"""``docs``: the manual, that is the README and the pages of ``docs/``, which the package includes."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
from argparse import ArgumentParser, Namespace
from pathlib import Path

import riva_stream
from riva_stream.cli import options
from riva_stream.cli.command import Help, Invocation
from riva_stream.cli.output import json_text, print_result, refuse, table_text, text_of

_KILLED = 128
"""Exit codes of a shell from here on are those of a pager that was ended by a signal."""

HELP = Help(
    summary="read the manual",
    usage="[TOPIC] [--raw]",
    description="""\
Show a page of the manual. Without a topic: what there is. On a terminal it is shown through $PAGER, or less where that
is not set.
""",
    examples="""\
  PROG docs
      the topics
  PROG docs readme
      what it is, and a tour of five minutes
  PROG docs semantics --raw > semantics.md
      the page as it is written
""",
)


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    options.add(
        parser,
        {
            "topic": options.value("TOPIC", "a page, by its topic or its file's name", nargs="?"),
            "--raw": options.flag("as it is written, in Markdown"),
            "--json": options.flag("topics, or the page's text, as one JSON document"),
        },
    )


def pages() -> dict[str, Path]:
    """Every page by its topic, the README first; empty where they were not installed."""
    package = Path(riva_stream.__file__).parent
    shipped, checkout = package / "manual", package.parent.parent
    # Otherwise it is a checkout, or an editable install, which is one.
    root, pages_of = (shipped, "*.md") if shipped.is_dir() else (checkout, "docs/*.md")
    places = [root / "README.md", *sorted(root.glob(pages_of))]
    return {_topic(path): path for path in places if path.is_file()}


def run(args: Namespace, invocation: Invocation) -> int:
    """Show a page, or the list of topics."""
    texts = {topic: path.read_text(encoding="utf-8") for topic, path in pages().items()}
    if args.topic is None and texts:
        titles = {topic: text.partition("\n")[0].lstrip("# ") for topic, text in texts.items()}
        if args.json:
            document = {"topics": [{"topic": topic, "title": title} for topic, title in titles.items()]}
            return print_result(json_text(document), closed_is_fine=True)
        lines = [*table_text(list(titles.items())), "", f"{invocation.prog} docs TOPIC shows one"]
        return print_result(text_of(lines), closed_is_fine=True)
    text = texts.get(_topic(Path((args.topic or "").partition("#")[0])))
    if text is None:
        return _unknown(args, invocation, known=list(texts))
    if args.json or args.raw:
        shown = json_text({"topic": args.topic, "text": text}) if args.json else text
        return print_result(shown, closed_is_fine=True)
    return _show(text)


def _show(text: str) -> int:
    """Print a page: through a pager on a terminal, otherwise without colours."""
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.markdown import Markdown, TableElement
    from rich.table import Table

    class Folding(TableElement):
        """A table whose cells wrap a word that is too long, where rich would truncate it."""

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            for table in super().__rich_console__(console, options):
                for column in table.columns if isinstance(table, Table) else ():
                    column.overflow = "fold"
                yield table

    class Page(Markdown):
        elements = Markdown.elements | {"table_open": Folding}

    # Into memory: only print_result says what is wrong with standard output.
    console = Console(file=io.StringIO(), force_terminal=Console().is_terminal, highlight=False)
    with console.capture() as page:
        console.print(Page(text, hyperlinks=False), width=min(console.width, 100))
    if console.is_terminal and _paged(page.get()):
        return 0
    # Its colours are ours: with escaped control characters a terminal would show none.
    return print_result(page.get(), closed_is_fine=True, for_a_shell=True)


def _paged(text: str) -> bool:
    """Show a page through the pager; return whether there is one, and it worked."""
    if not (os.isatty(0) and os.isatty(1)):
        return False
    pager = os.environ.get("MANPAGER") or os.environ.get("PAGER")
    if not pager and os.environ.get("TERM") not in {"dumb", "emacs"}:
        pager = shutil.which("less")
    if not pager:
        return False
    environment = {"LESS": "FRX"} | os.environ  # raw colours, and no prompt at the end of a short page
    process = subprocess.Popen(pager, shell=True, stdin=subprocess.PIPE, env=environment)  # noqa: S602 - as man does
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is the pager's
    try:
        process.communicate(text.encode(errors="backslashreplace"))
    finally:
        signal.signal(signal.SIGINT, before)
    return not 0 < process.returncode < _KILLED


def _topic(path: Path) -> str:
    return path.name.lower().removesuffix(".md").removeprefix("from-").replace("_", "-")


def _unknown(args: Namespace, invocation: Invocation, *, known: list[str]) -> int:
    if known:
        message = f"there is no page {args.topic!r}"
        hint = f"{invocation.prog} docs lists the topics: {', '.join(known)}"
    else:
        message = "the manual is not installed"
        hint = "install the package from its wheel, or run it from its checkout"
    return refuse("UsageError", "usage", message, hint, 2, as_json=args.json)
