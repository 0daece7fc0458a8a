"""Make foreign text fit to be shown: each character that is not printable is escaped.

Foreign keys, names and documents may hold anything. A terminal obeys control characters, and a line end in a key starts
a line that looks like one of ours. So foreign text is put into a line by :func:`in_one_line`, and all terminal output
passes through :func:`visible`, which keeps the line ends of our own text. Only the standard library is used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

__all__ = ["escaped", "in_one_line", "some_of", "visible"]

_UNUSUAL = re.compile(r"[^\n\t -~]+")
"""Runs that may hold characters that are not printable; each character is then checked."""
_ENDS = {ord("\r"): r"\r", ord("\n"): r"\n", ord("\t"): r"\t"}
"""All other characters that end a line somewhere (U+0085, U+2028, form feeds …) are not printable anyway."""


def visible(text: str) -> str:
    """``text`` with escapes for what is not printable, except line ends and tabs; idempotent."""
    return escaped(text.replace("\r\n", "\n"), _of_python)


def in_one_line(text: str) -> str:
    """The same, with line ends and tabs escaped too: foreign text cannot start a line, or a column, of its own."""
    return escaped(text.translate(_ENDS), _of_python)


def some_of(names: Sequence[str], most: int = 5) -> str:
    """The first of many names, which may be foreign, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(in_one_line, names[:most])) + more


def escaped(text: str, escape: Callable[[str], str]) -> str:
    """``text`` with ``escape`` applied to each character that is not printable, except line feeds and tabs."""

    def of(match: re.Match[str]) -> str:
        if match[0].isprintable():
            return match[0]
        return "".join(char if char.isprintable() else escape(char) for char in match[0])

    return _UNUSUAL.sub(of, text)


def _of_python(char: str) -> str:
    return char.encode("unicode_escape").decode()
