"""Sizes in bytes, for people."""

from __future__ import annotations

__all__ = ["GIB", "MIB", "MOST_PARTS", "human_size"]

MIB = 1 << 20
GIB = 1 << 30

MOST_PARTS = 10_000
"""Parts that an upload may have on AWS."""

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def human_size(size: float) -> str:
    """``3980563622`` → ``3.71 GiB``."""
    unit = 0
    while size >= 1024 and unit < len(_UNITS) - 1:  # noqa: PLR2004 - binary units
        size /= 1024
        unit += 1
    return f"{size:.0f} {_UNITS[unit]}" if unit == 0 else f"{size:.2f} {_UNITS[unit]}"
