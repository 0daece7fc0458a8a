"""Sizes in bytes and times in seconds, as people write them. Only the standard library is used."""

from __future__ import annotations

import re
from decimal import Decimal

__all__ = [
    "GIB",
    "MIB",
    "MOST_PARTS",
    "human_rate",
    "human_size",
    "in_seconds",
    "parse_duration",
    "parse_interval",
    "parse_size",
    "plain",
]

MIB = 1 << 20
GIB = 1 << 30

MOST_PARTS = 10_000
"""Parts that an upload may have on AWS."""

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b?)", re.IGNORECASE)
_DURATION = re.compile(
    r"(?:(\d+(?:\.\d+)?)\s*d)?\s*(?:(\d+(?:\.\d+)?)\s*h)?\s*(?:(\d+(?:\.\d+)?)\s*m)?\s*(?:(\d+(?:\.\d+)?)\s*s?)?",
    re.IGNORECASE,
)
_LARGEST = (1 << 63) - 1
_LONGEST = 36_525 * 86_400
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def human_size(size: float) -> str:
    """``3980563622`` → ``3.71 GiB``."""
    unit = 0
    # 1048575 would be "1024.00 KiB".
    while round(size, 2) >= 1024 and unit < len(_UNITS) - 1:  # noqa: PLR2004 - binary units
        size /= 1024
        unit += 1
    return f"{size:.0f} {_UNITS[unit]}" if unit == 0 else f"{size:.2f} {_UNITS[unit]}"


def human_rate(mib_per_second: float) -> str:
    """``123.4`` → ``123 MiB/s``; a rate below 1 MiB/s has a smaller unit."""
    return f"{mib_per_second:.0f} MiB/s" if mib_per_second >= 1 else f"{human_size(mib_per_second * MIB)}/s"


def plain(number: float) -> str:
    """A number without an exponent, which sizes and durations do not allow: ``1e-05`` → ``0.00001``."""
    return f"{Decimal(repr(number)):f}"


def in_seconds(seconds: float) -> str:
    """``0.5`` → ``0.5 s``, ``7200.0`` → ``7200 s``."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".") + " s"


def parse_size(text: str) -> int:
    """Bytes of ``64MiB``, ``64M``, ``1.5GiB``, ``67108864`` (bytes); ``64MB`` is decimal, as in dd.

    Raises:
        ValueError: the text is not a size; the message is the end of a sentence.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or (not match[2] and match[3].lower() not in {"", "b"}):
        raise ValueError("is not a size; write it like 64MiB, 1GiB or 67108864 (bytes)")
    step = 1000 if match[3].lower() == "b" else 1024
    factor: int = step ** _POWERS[match[2].lower()]
    # Whole numbers stay exact: a float would lose the last bytes of a large one.
    try:
        size = int(match[1]) * factor if match[1].isdigit() else round(float(match[1]) * factor)
    except (OverflowError, ValueError) as error:  # too many digits to convert
        raise ValueError("is not a size; it has too many digits") from error
    if size > _LARGEST:
        raise ValueError("is not a size; no store has as much")
    return size


def parse_interval(text: str) -> int | None:
    """Bytes between two checkpoints, as for :func:`parse_size`; 0 for ``off``, None (the default) for ``auto``.

    Raises:
        ValueError: it is neither, or less than 1 MiB.
    """
    words = {"auto": None, "off": 0}
    if text in words:
        return words[text]
    size = parse_size(text)
    if 0 < size < MIB:
        raise ValueError("is too little; at least 1MiB, or auto, or off")
    return size


def parse_duration(text: str) -> float:
    """Seconds of ``90``, ``90s``, ``5m``, ``1h``, ``1h30m``, ``2d``.

    Raises:
        ValueError: the text is not a duration.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        raise ValueError("is not a duration; write it like 90 (seconds), 90s, 5m, 1h or 1h30m")
    days, hours, minutes, seconds = (float(group or 0) for group in match.groups())
    seconds += days * 86400 + hours * 3600 + minutes * 60
    if seconds > _LONGEST:  # neither the calendar nor the system's timers go much further
        raise ValueError("is not a duration; 36525d (a century) is the longest")
    return seconds
