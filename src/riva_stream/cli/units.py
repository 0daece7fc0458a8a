"""Sizes and durations as people write them."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError

__all__ = ["ALL", "parse_count", "parse_duration", "parse_interval", "parse_size", "size_text"]

ALL = -1
"""What :func:`parse_count` makes of the word."""

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b?)", re.IGNORECASE)
_DURATION = re.compile(
    r"(?:(\d+(?:\.\d+)?)\s*d)?\s*(?:(\d+(?:\.\d+)?)\s*h)?\s*(?:(\d+(?:\.\d+)?)\s*m)?\s*(?:(\d+(?:\.\d+)?)\s*s?)?",
    re.IGNORECASE,
)
_COUNT = re.compile(r"[1-9][0-9]{0,8}")
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(text: str) -> int:
    """Bytes of ``64MiB``, ``64M``, ``1.5GiB``, ``67108864`` (bytes); ``64MB`` is decimal, as in dd.

    Raises:
        ArgumentTypeError: this is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or (not match[2] and match[3].lower() not in {"", "b"}):
        raise ArgumentTypeError(f"{text!r} is not a size; write it like 64MiB, 1GiB or 67108864 (bytes)")
    step = 1000 if match[3].lower() == "b" else 1024
    factor: int = step ** _POWERS[match[2].lower()]
    # Whole numbers stay exact: a float would lose the last bytes of a large one.
    return int(match[1]) * factor if match[1].isdigit() else round(float(match[1]) * factor)


def parse_interval(text: str) -> int | None:
    """Bytes between two checkpoints, as :func:`parse_size` has them; 0 of ``off``, None (the default) of ``auto``.

    Raises:
        ArgumentTypeError: it is none of these, or less than 1 MiB.
    """
    words = {"auto": None, "off": 0}
    if text in words:
        return words[text]
    size = parse_size(text)
    if size < 1 << 20:
        raise ArgumentTypeError(f"{text!r} is too little; at least 1MiB, or auto, or off")
    return size


def parse_duration(text: str) -> float:
    """Seconds of ``90``, ``90s``, ``5m``, ``1h``, ``1h30m``, ``2d``.

    Raises:
        ArgumentTypeError: this is no duration.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        raise ArgumentTypeError(
            f"{text!r} is not a duration; write it like 90 (seconds), 90s, 5m, 1h or 1h30m"
        )
    days, hours, minutes, seconds = (float(group or 0) for group in match.groups())
    return days * 86400 + hours * 3600 + minutes * 60 + seconds


def parse_count(text: str) -> int:
    """``20``, or :data:`ALL` for ``all``.

    Raises:
        ArgumentTypeError: this is neither.
    """
    word = text.strip().lower()
    if word == "all":
        return ALL
    if not _COUNT.fullmatch(word):
        raise ArgumentTypeError(f"{text!r} is neither a number from 1 on nor 'all'")
    return int(word)


def size_text(size: int) -> str:
    """A size that :func:`parse_size` reads back to the very same number."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size and size % 1024**power == 0:
            return f"{size // 1024**power}{unit}"
    return str(size)
