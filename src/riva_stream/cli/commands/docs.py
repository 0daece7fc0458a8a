"""``docs``: the manual."""

from __future__ import annotations

import json
import shutil
from argparse import ArgumentParser, Namespace

from riva_stream.cli.command import Invocation
from riva_stream.cli.output import complain, print_result

NAME = "docs"
SUMMARY = "read the manual"
USAGE = "[TOPIC] [--raw]"
DESCRIPTION = """\
Show a page of the manual, or one section of it by its heading. Without a topic: what there is. On a terminal it is
shown through $PAGER, where that is set.
"""
EXAMPLES = """\
  PROG docs
      the topics
  PROG docs readme
      what it is, and a tour of five minutes
  PROG docs troubleshooting
      one section: what you see, what it is, what to do
  PROG docs semantics --raw > semantics.md
      the page as it is written
"""
_USAGE_ERROR = 2
_WIDTH = 100


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("topic", nargs="?", metavar="TOPIC", help="a page, or the heading of a section")
    parser.add_argument("--raw", action="store_true", help="as it is written, in Markdown")
    parser.add_argument(
        "--json", action="store_true", help="topics, or the page's text, as one JSON document"
    )


def run(args: Namespace, invocation: Invocation) -> int:
    """Show it."""
    from riva_stream.cli import manual  # noqa: PLC0415 - only this command needs it

    pages = manual.topics()
    if args.topic is None and pages:
        if args.json:
            return _print_json(
                {
                    "topics": [
                        {"topic": page.topic, "title": page.title, "summary": page.summary} for page in pages
                    ]
                }
            )
        width = max(len(page.topic) for page in pages)
        columns = shutil.get_terminal_size((_WIDTH, 24)).columns
        lines = [_row(page.topic, width, page.title, page.summary, columns) for page in pages]
        lines += ["", f"{invocation.prog} docs TOPIC shows one; a heading of any page is a topic too"]
        return print_result("\n".join(lines) + "\n", closed_is_fine=True)
    text = manual.find(args.topic or "")
    if text is None:
        return _unknown(args, invocation, manual.nearest(args.topic or ""), empty=not pages)
    if args.json:
        return _print_json({"topic": args.topic, "text": text})
    if args.raw:
        return print_result(text, closed_is_fine=True)

    from riva_stream.cli.page import show  # noqa: PLC0415 - rich comes with it

    return show(text, invocation.prog)


def _row(topic: str, width: int, title: str, summary: str, columns: int) -> str:
    told = f"{topic:<{width}}  {title}" + (f": {summary}" if summary else "")
    return told if len(told) <= columns else told[: columns - 3].rstrip() + "..."


def _unknown(args: Namespace, invocation: Invocation, nearest: list[str], *, empty: bool) -> int:
    message = "the manual is not installed" if empty else f"there is no page or section {args.topic!r}"
    guess = f"did you mean {' or '.join(nearest)}? " if nearest else ""
    hint = f"{guess}{invocation.prog} docs lists the topics"
    if empty:
        hint = "install the package from its wheel, or run it from its checkout"
    if args.json:
        error = {"type": "UsageError", "message": message, "where": {}, "hint": hint}
        _print_json({"error": error | {"exit_code": _USAGE_ERROR}, "run_id": None})
    complain(f"riva_stream: {message}\n  next:  {hint}\n")
    return _USAGE_ERROR


def _print_json(document: object) -> int:
    return print_result(json.dumps(document, indent=2, ensure_ascii=False) + "\n", closed_is_fine=True)
