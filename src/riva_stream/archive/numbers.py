"""Numeric fields of a tar header, read as GNU tar reads them (``list.c``, ``from_header``)."""

from __future__ import annotations

import re
from collections.abc import Callable

from riva_stream.errors import ArchiveError, ArchiveFault

__all__ = ["checksum", "number"]

_OCTAL = re.compile(rb"\0?[ \t\n\v\f\r]*([0-7]+)(?:[\0 \t\n\v\f\r]|\Z)")
_MAX = (1 << 63) - 1


def number(field: bytes, what: Callable[[], str], *, fault: ArchiveFault = ArchiveFault.MALFORMED) -> int:
    """A size or an offset: octal (POSIX), or base-256 with the high bit set (GNU, star). A field of NULs is 0.

    Args:
        field: its bytes.
        what: returns the beginning of the error's sentence, "... has"; valid fields, nearly all of them, need none.
        fault: the fault of the error.

    Raises:
        ArchiveError: blanks, garbage after the digits, a negative number, one over 2**63 - 1, or the base-64 of a GNU
            tar from before 1999.
    """
    match = _OCTAL.match(field)
    if match:
        return int(match[1], 8)
    if not field.strip(b"\0"):
        return 0
    wrong = f"an invalid octal number ({field!r})"
    if field[0] == 0x80:  # noqa: PLR2004 - the marker of a positive base-256 number
        value = int.from_bytes(field[1:], "big")
        if value <= _MAX:
            return value
        wrong = f"a number over 2**63 - 1 ({field.hex()})"
    elif field[0] == 0xFF:  # noqa: PLR2004 - and of a negative one
        wrong = f"a negative number ({field.hex()})"
    raise ArchiveError(f"{what()} {wrong}", fault=fault)


def checksum(block: bytes) -> tuple[int, int]:
    """The sums that a header may record, its own field as blanks: of unsigned bytes (POSIX), or signed (old Suns)."""
    unsigned = sum(block) - sum(block[148:156]) + 8 * 0x20
    high = sum(1 for byte in block[:148] + block[156:] if byte > 0x7F)  # noqa: PLR2004
    return unsigned, unsigned - 256 * high
