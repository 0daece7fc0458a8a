"""Cells that do not hold yet, and why. An entry goes when what it names is mended.

By server, kind of request and fault; ``*`` stands for any.
"""

from __future__ import annotations

from typing import Final

from tests.faults.matrix import Cell

__all__ = ["known"]

KNOWN: Final[dict[tuple[str, str, str], str]] = {}


def known(server: str, cell: Cell) -> str:
    """Why the cell does not hold there, or ""."""
    for name in (server, "*"):
        for fault in (cell.fault.name, "*"):
            if reason := KNOWN.get((name, cell.target.name, fault)):
                return reason
    return ""
