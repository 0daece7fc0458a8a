"""Standard output: the result alone, and what to do when nobody takes it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import select
import sys

__all__ = ["complain", "error_document", "print_result", "show_cursor", "snake_case"]

_STDOUT = 1
_STDERR = 2
_UNDELIVERED = 1


def print_result(text: str, *, exit_code: int = 0, closed_is_fine: bool = False) -> int:
    """Write ``text`` to standard output, all of it, and give the exit code to end with.

    A reader that has gone (``| head``) has chosen so: the exit code stays that of the work. A result that could
    not be written for another reason (a full disk) would be missed: that is a failure, whatever the work came to.
    With ``closed_is_fine`` a reader that has gone is not worth a word: a page of the manual is no result.
    """
    if sys.stdout is not None:
        sys.stdout.flush()
    data = text.encode(errors="backslashreplace")
    try:
        _write_all(_STDOUT, data)
    except OSError as error:
        if error.errno == errno.EPIPE:
            if not closed_is_fine:
                complain("riva_stream: nobody reads standard output any more, so the result was not shown\n")
            return exit_code
        complain(f"riva_stream: the result could not be written to standard output: {error.strerror}\n")
        return exit_code or _UNDELIVERED
    return exit_code


def error_document(
    kind: str, code: str, message: str, hint: str, exit_code: int, *, run_id: object = None
) -> str:
    """An error as ``--json`` prints it, for what needs nothing heavy; others are a :class:`~riva_stream.cli.failure.Failure`."""
    error = {"type": kind, "code": code, "message": message, "where": {}, "hint": hint}
    document = {"error": error | {"exit_code": exit_code}, "run_id": run_id}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def snake_case(name: str) -> str:
    """``member_found`` of ``MemberFound``, as types are told to programs."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def complain(text: str) -> None:
    """Write ``text`` to standard error, if anyone is there."""
    with contextlib.suppress(OSError):
        _write_all(_STDERR, text.encode(errors="backslashreplace"))


def show_cursor() -> None:
    """Give a terminal its cursor back, which live bars hide; unless that would mean to wait."""
    if os.isatty(_STDERR) and select.select([], [_STDERR], [], 0)[1]:
        complain("\x1b[?25h\n")


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:  # somebody made the terminal non-blocking
            select.select([], [descriptor], [])
