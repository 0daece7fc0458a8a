r"""Bodies of pax extended headers: ``"%d %s=%s\n"`` records (POSIX.1-2017, pax, "pax Extended Header").

GNU tar reads the same records in ``xheader.c``. Where it warns and goes on, or where readers are known to disagree
(an empty path, a NUL in a name), the archive is refused: the member could be another one for the next reader.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple

from riva_stream.archive.zeros import is_zero
from riva_stream.errors import ArchiveError, ArchiveFault

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Pax", "PaxReader", "parse_global", "parse_pax"]

_MAX_SIZE = (1 << 63) - 1
_LENGTH_DIGITS = 19
_NEEDED = (b"path", b"size", b"GNU.sparse.", b"GNU.volume.", b"SCHILY.realsize")


class Pax(NamedTuple):
    """What an extended header says of the member that follows; fields it does not give are None."""

    path: bytes | None = None
    size: int | None = None
    sparse: tuple[tuple[bytes, bytes], ...] = ()
    """The ``GNU.sparse.*`` records without their prefix, in order: version 0.0 repeats its keywords."""


class _State(Enum):
    LENGTH = auto()
    KEYWORD = auto()
    VALUE = auto()
    NULS = auto()


class PaxReader:
    """Reads the body of one extended header as it streams by, and keeps the records that change what is extracted.

    The values of all others (times, owners, extended attributes of any size) are skipped where they are: they are neither
    held nor counted.

    Args:
        size: bytes of the body.
        place: names the header in errors.
        hold: is told how many bytes more are kept, and may raise.
    """

    def __init__(self, size: int, place: str, hold: Callable[[int], None]) -> None:
        self.records: list[tuple[bytes, bytes]] = []
        """Keywords and values of the records that are needed, in order."""
        self._size = size
        self._place = place
        self._hold = hold
        self._state = _State.LENGTH
        self._at = 0  # bytes of the body read
        self._begin = 0  # where the record begins
        self._left = 0  # bytes of it that are to come
        self._text = bytearray()  # its length, or its keyword
        self._value: bytearray | None = None
        self._last = b""

    def feed(self, view: memoryview) -> None:
        """Take the next bytes of the body.

        Raises:
            ArchiveError: a record is malformed, or more would be kept than may be.
        """
        while view:
            if self._state is _State.LENGTH:
                count = self._on_length(bytes(view[:1]))
            elif self._state is _State.KEYWORD:
                count = self._on_keyword(bytes(view[: min(self._left, 4096)]))
            elif self._state is _State.VALUE:
                count = self._on_value(view[: self._left])
            else:
                count = self._on_nuls(view)
            self._at += count
            view = view[count:]

    def finish(self) -> None:
        """The body is complete.

        Raises:
            ArchiveError: its last record is not.
        """
        if self._state is _State.LENGTH and self._text:
            raise self._no_length()

    def _on_length(self, byte: bytes) -> int:
        if byte == b" " and self._text.isdigit():
            whole = int(self._text)
            self._left = whole - len(self._text) - 1
            if self._left < 1 or self._begin + whole > self._size:
                raise self._malformed(f"says it has {whole} bytes, which cannot be")
            self._hold(len(self._text) + 1)
            self._text.clear()
            self._state = _State.KEYWORD
        elif not self._text and byte == b"\0":
            self._state = _State.NULS  # behind the last record: GNU tar stops there as well
        else:
            self._text += byte
            if len(self._text) > _LENGTH_DIGITS or not self._text.isdigit():
                raise self._no_length()
        return 1

    def _on_keyword(self, text: bytes) -> int:
        end = text.find(b"=")
        count = len(text) if end < 0 else end + 1
        self._left -= count
        self._hold(count)
        self._text += text[:count]
        if end >= 0:
            needed = self._text.startswith(_NEEDED)
            self._value = bytearray() if needed else None
            self._state = _State.VALUE
        if not self._left or self._text == b"=":
            raise self._malformed("is not keyword=value")
        return count

    def _on_value(self, view: memoryview) -> int:
        self._left -= len(view)
        self._last = bytes(view[-1:])
        if self._value is not None:
            self._hold(len(view))
            self._value += view
        if not self._left:
            if self._last != b"\n":
                raise self._malformed("does not end in a newline")
            if self._value is not None:
                self.records.append((bytes(self._text[:-1]), bytes(self._value[:-1])))
            self._text.clear()
            self._begin = self._at + len(view)
            self._state = _State.LENGTH
        return len(view)

    def _on_nuls(self, view: memoryview) -> int:
        if not is_zero(view):
            raise self._no_length()
        return len(view)

    def _no_length(self) -> ArchiveError:
        return ArchiveError(
            f"{self._place}: no record length at byte {self._begin} of its {self._size} bytes",
            fault=ArchiveFault.MALFORMED,
        )

    def _malformed(self, how: str) -> ArchiveError:
        return ArchiveError(
            f"{self._place}: the record at byte {self._begin} {how}", fault=ArchiveFault.MALFORMED
        )


def decimal(value: bytes, what: str, place: str) -> int:
    """A count as pax writes it.

    Raises:
        ArchiveError: it is not plain decimal digits, or is over 2**63 - 1.
    """
    if not value.isdigit() or len(value) > 19 or int(value) > _MAX_SIZE:  # noqa: PLR2004
        raise ArchiveError(f"{place}: {what}={value[:40]!r} is not a size", fault=ArchiveFault.MALFORMED)
    return int(value)


def parse_pax(records: Sequence[tuple[bytes, bytes]], place: str) -> Pax:
    """Read the records of one member's extended header.

    Raises:
        ArchiveError: one says what could be read in two ways.
    """
    path: bytes | None = None
    size: int | None = None
    sparse = []
    for keyword, value in records:
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


def parse_global(records: Sequence[tuple[bytes, bytes]], place: str) -> None:
    """Check a global extended header.

    Comments, times, owners and the like do not change what is staged. A path or a size for *every* member that
    follows has no honest use, and readers disagree about it, so it is refused.

    Raises:
        ArchiveError: it has one of those.
    """
    if records:
        keyword = records[0][0][:40].decode(errors="replace")
        raise ArchiveError(
            f"{place}: a global {keyword} would apply to every member", fault=ArchiveFault.AMBIGUOUS
        )
