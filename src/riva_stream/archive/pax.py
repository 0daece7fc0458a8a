r"""Bodies of pax extended headers: ``"%d %s=%s\n"`` records (POSIX.1-2017, pax, "pax Extended Header").

GNU tar reads the same records in ``xheader.c``. Where it warns and goes on, or where readers are known to disagree
(an empty path, a NUL in a name), the archive is refused: the member could be another one for the next reader.
"""

from __future__ import annotations

from typing import NamedTuple

from riva_stream.errors import ArchiveError, ArchiveFault

__all__ = ["Pax", "parse_global", "parse_pax"]

_MAX_SIZE = (1 << 63) - 1
_GLOBAL_REFUSED = (b"path", b"size", b"GNU.sparse.", b"GNU.volume.", b"SCHILY.realsize")


class Pax(NamedTuple):
    """What an extended header says of the member that follows; fields it does not give are None."""

    path: bytes | None = None
    size: int | None = None
    sparse: tuple[tuple[bytes, bytes], ...] = ()
    """The ``GNU.sparse.*`` records without their prefix, in order: version 0.0 repeats its keywords."""


def _records(body: bytes, place: str) -> list[tuple[bytes, bytes]]:
    records = []
    at = 0
    while at < len(body):
        space = body.find(b" ", at, at + 20)
        digits = body[at:space]
        if space < 0 or not digits.isdigit():
            if not body[at:].strip(b"\0"):
                break  # NULs behind the last record: GNU tar stops there as well.
            raise ArchiveError(
                f"{place}: no record length at byte {at} of its {len(body)} bytes",
                fault=ArchiveFault.MALFORMED,
            )
        end = at + int(digits)
        if end > len(body) or end <= space + 1:
            raise ArchiveError(
                f"{place}: the record at byte {at} says it has {int(digits)} bytes, which cannot be",
                fault=ArchiveFault.MALFORMED,
            )
        if body[end - 1 : end] != b"\n":
            raise ArchiveError(
                f"{place}: the record at byte {at} does not end in a newline", fault=ArchiveFault.MALFORMED
            )
        keyword, equals, value = body[space + 1 : end - 1].partition(b"=")
        if not equals or not keyword:
            raise ArchiveError(
                f"{place}: the record at byte {at} is not keyword=value", fault=ArchiveFault.MALFORMED
            )
        records.append((keyword, value))
        at = end
    return records


def decimal(value: bytes, what: str, place: str) -> int:
    """A count as pax writes it.

    Raises:
        ArchiveError: it is not plain decimal digits, or is over 2**63 - 1.
    """
    if not value.isdigit() or len(value) > 19 or int(value) > _MAX_SIZE:  # noqa: PLR2004
        raise ArchiveError(f"{place}: {what}={value[:40]!r} is not a size", fault=ArchiveFault.MALFORMED)
    return int(value)


def parse_pax(body: bytes, place: str) -> Pax:
    """Read the extended header of one member.

    Raises:
        ArchiveError: a record is malformed, or says what could be read in two ways.
    """
    path: bytes | None = None
    size: int | None = None
    sparse = []
    for keyword, value in _records(body, place):
        if keyword in {b"path", b"GNU.sparse.name"} and (not value or b"\0" in value):
            raise ArchiveError(
                f"{place}: its {keyword.decode()} {'holds a NUL' if value else 'is empty'}",
                fault=ArchiveFault.AMBIGUOUS,
            )
        if keyword == b"path":
            path = value
        elif keyword == b"size":
            size = decimal(value, "size", place)
        elif keyword.startswith(b"GNU.sparse."):
            sparse.append((keyword[len(b"GNU.sparse.") :], value))
        elif keyword.startswith((b"GNU.volume.", b"SCHILY.realsize")):
            raise ArchiveError(
                f"{place}: {keyword[:40].decode(errors='replace')} (several volumes, or star) is not read",
                fault=ArchiveFault.UNSUPPORTED,
            )
    return Pax(path, size, tuple(sparse))


def parse_global(body: bytes, place: str) -> None:
    """Check a global extended header.

    Comments, times, owners and the like do not change what is staged. A path or a size for *every* member that
    follows has no honest use, and readers disagree about it, so it is refused.

    Raises:
        ArchiveError: a record is malformed, or one of those.
    """
    for keyword, _ in _records(body, place):
        if keyword.startswith(_GLOBAL_REFUSED):
            raise ArchiveError(
                f"{place}: a global {keyword[:40].decode(errors='replace')} would apply to every member",
                fault=ArchiveFault.AMBIGUOUS,
            )
