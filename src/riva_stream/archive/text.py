"""Names of members as text: decoded, shown and bounded."""

from __future__ import annotations

__all__ = ["decode", "shorten", "show"]

_LONGEST = 200
"""Maximum characters of a name that is shown."""


def decode(name: bytes) -> str:
    """Decode a name; invalid UTF-8 survives as lone surrogates."""
    return name.decode("utf-8", "surrogateescape")


def show(name: str) -> str:
    """A name for a message: quoted, without unprintable characters, and shortened in the middle."""
    return repr(name if len(name) <= _LONGEST else f"{name[: _LONGEST - 20]}…{name[-19:]}")


def shorten(name: str) -> str:
    """A name for a report: plain UTF-8 (other bytes escaped), and bounded, however long it is in the archive."""
    cut = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
    return cut.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
