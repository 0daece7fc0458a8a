"""Texts of others, made fit to be shown: an escape in place of each character that is not printable.

Keys, names and documents of others may hold anything. A terminal does what it is told, and a line end in a key begins a line
that looks like one of ours. So what others wrote is put into a line by :func:`in_one_line`, and whatever goes to a terminal
goes by :func:`visible`, which leaves the line ends of our own texts. Only the standard library is used.
"""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["escaped", "in_one_line", "visible"]

_UNUSUAL = re.compile(r"[^\n\t -~]+")
"""What may be not printable; asked again by character."""
_ENDS = {ord("\r"): r"\r", ord("\n"): r"\n"}
"""All other characters that end a line somewhere (U+0085, U+2028, form feeds …) are not printable anyway."""


def visible(text: str) -> str:
    """``text`` with escapes in place of what is not printable, line ends and tabs aside; the same if it is done again."""
    return escaped(text.replace("\r\n", "\n"), _of_python)


def in_one_line(text: str) -> str:
    """The same, and of line ends too: what comes from others begins no line of its own."""
    return escaped(text.translate(_ENDS), _of_python)


def escaped(text: str, escape: Callable[[str], str]) -> str:
    """``text`` with what ``escape`` makes of each character that is not printable, line feeds and tabs aside."""

    def of(match: re.Match[str]) -> str:
        if match[0].isprintable():
            return match[0]
        return "".join(char if char.isprintable() else escape(char) for char in match[0])

    return _UNUSUAL.sub(of, text)


def _of_python(char: str) -> str:
    return char.encode("unicode_escape").decode()
