"""Standard output: the result alone, even where nobody reads it; and the one way out for all terminal output.

Foreign keys may hold anything, and a terminal obeys control characters: these leave escaped
(:func:`~riva_stream.printable.visible`), and none can end a line of a result (:func:`text_of`). In JSON they are
escaped in JSON's way before that (:func:`json_line`); what rich draws leaves through :func:`draw`, its texts escaped.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import queue
import select
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from riva_stream.printable import escaped, in_one_line, visible
from riva_stream.redact import SECRETS, redact

__all__ = [
    "draw",
    "error_document",
    "event_line",
    "failed_line",
    "hanging",
    "json_line",
    "json_text",
    "labelled",
    "print_line",
    "print_result",
    "refuse",
    "section",
    "show_cursor",
    "table_text",
    "text_of",
    "visible_json",
    "write_stderr",
]

_STDERR = 2


def visible_json(text: str) -> str:
    """JSON with non-printable characters escaped; it stays the same document."""
    return escaped(text, lambda char: json.dumps(char)[1:-1])


def _complain(message: str) -> None:
    write_stderr(f"riva_stream: {message}\n")


def print_result(
    text: str,
    *,
    exit_code: int = 0,
    closed_is_fine: bool = False,
    for_a_shell: bool = False,
    complain: Callable[[str], None] = _complain,
) -> int:
    """Write all of ``text`` to standard output, and return the exit code to end with.

    If the reader has closed the pipe (``| head``), the exit code stays that of the work. A result that could not be
    written for another reason (a full disk, ``>&-``) would be missed: that is a failure, whatever the result of the
    work.
    With ``closed_is_fine`` a closed pipe is not reported: a page of the manual is not a result. Text
    ``for_a_shell`` is written as it is. ``complain`` is told what went wrong.
    """
    error = _lines.end() or _write(text if for_a_shell else visible(text))
    if error is None:
        return exit_code
    if error.errno == errno.EPIPE:
        if not closed_is_fine:
            complain("standard output was closed, so the result was not shown")
        return exit_code
    reason = "it is closed" if error.errno == errno.EBADF else error.strerror
    complain(f"the result could not be written to standard output: {reason}")
    return exit_code or 1


def print_line(text: str) -> None:
    """Queue a line for standard output. Never waits: an event loop that did would not notice signals.

    :func:`print_result` first writes the lines still queued, for as long as the reader takes.
    """
    _lines.put(text)


class _Lines:
    """Lines that a thread writes, one after the other, until one of them fails."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def put(self, text: str) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="riva-stream-output", daemon=True)
            self._thread.start()
        self._waiting.put(text)

    def end(self) -> OSError | None:
        """Wait until all are written; return the error that prevented it."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        return error

    def _work(self) -> None:
        while (text := self._waiting.get()) is not None:
            self._error = self._error or _write(visible(text))


_lines = _Lines()


def _write(text: str) -> OSError | None:
    """Write all of ``text`` to standard output; return the error that prevented it."""
    if sys.stdout is not None:
        sys.stdout.flush()
    try:
        _write_all(1, text.encode(errors="backslashreplace"))
    except OSError as error:
        return error
    return None


def json_text(document: object, *, as_line: bool = False) -> str:
    """A document as it is printed."""
    if as_line:
        return json_line(document)
    return visible_json(json.dumps(document, indent=2, ensure_ascii=False)) + "\n"


def json_line(document: object) -> str:
    """A document as one line."""
    return visible_json(json.dumps(document, ensure_ascii=False)) + "\n"


def failed_line(document: Mapping[str, Any]) -> str:
    """An error's document as the last line of ``--log-format json``."""
    return event_line(document["run_id"], "failed", document)


def event_line(run_id: object, event: str, document: Mapping[str, Any]) -> str:
    """A line of ``--log-format json``."""
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json_line({"time": time, "run_id": run_id, "event": event, **document})


def error_document(
    kind: str, code: str, message: str, hint: str, exit_code: int, *, run_id: object = None
) -> dict[str, Any]:
    """An error for programs, without heavy imports; others are a :class:`~riva_stream.cli.failure.Failure`."""
    error = {"type": kind, "code": code, "message": message, "where": {}, "hint": hint}
    document: dict[str, Any] = SECRETS.value({"error": error | {"exit_code": exit_code}, "run_id": run_id})
    return document


def refuse(
    kind: str, code: str, message: str, hint: str, exit_code: int, *, as_json: bool, run_id: object = None
) -> int:
    """Report such an error, and return its exit code."""
    if as_json:
        print_result(json_text(error_document(kind, code, message, hint, exit_code, run_id=run_id)))
    steps = labelled("  next:  ", hint.split("\n"))
    write_stderr(redact(text_of([f"riva_stream: {message}", *steps, f"  exit code {exit_code}"])))
    return exit_code


def text_of(lines: Iterable[str]) -> str:
    """A text of exactly these lines, whatever the keys and names in them hold."""
    return "".join(f"{in_one_line(line)}\n" for line in lines)


def hanging(start: str, message: str) -> list[str]:
    """A message after ``start``; its further lines are indented deeper than any line of ours."""
    first, *more = message.split("\n")
    deeper = len(start) - len(start.lstrip()) + 6
    return [f"{start}{first}", *(f"{'':{deeper}}{line.strip()}" for line in more)]


def labelled(label: str, lines: Iterable[str]) -> list[str]:
    """Lines below each other, the first of them after a label."""
    return [f"{'' if number else label:{len(label)}}{line}" for number, line in enumerate(lines)]


def section(title: str, lines: Iterable[str]) -> list[str]:
    """A title after a blank line, and the lines below it; nothing if there are none."""
    below = [f"  {line}" for line in lines]
    return ["", title, *below] if below else []


def table_text(rows: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> list[str]:
    """Lines with the columns of ``rows`` aligned, those in ``right`` at their right edge."""
    rows = [[in_one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def write_stderr(text: str) -> None:
    """Write ``text`` to standard error, if it is open."""
    draw(visible(text))


def draw(text: str) -> None:
    """Write text that may move a terminal's cursor, and colour its output."""
    with contextlib.suppress(OSError):
        _write_all(_STDERR, text.encode(errors="backslashreplace"))


def show_cursor() -> None:
    """Show a terminal's cursor again, which live bars hide; unless that would block."""
    if os.isatty(_STDERR) and select.select([], [_STDERR], [], 0)[1]:
        draw("\x1b[?25h\n")


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:  # another process made the terminal non-blocking
            select.select([], [descriptor], [])
