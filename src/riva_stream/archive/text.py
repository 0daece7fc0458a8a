"""Names of members as text: read, shown and bounded."""

from __future__ import annotations

__all__ = ["decode", "shorten", "show"]

_LONGEST = 200
"""Characters."""


def decode(name: bytes) -> str:
    """A name as text; what is not UTF-8 survives as lone surrogates."""
    return name.decode("utf-8", "surrogateescape")


def show(name: str) -> str:
    """A name fit for a message: quoted, nothing unprintable, and shortened in its middle."""
    return repr(name if len(name) <= _LONGEST else f"{name[: _LONGEST - 20]}…{name[-19:]}")


def shorten(name: str) -> str:
    """A name for a report: plain UTF-8 (other bytes escaped), and bounded however long the archive made it."""
    cut = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
    return cut.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
