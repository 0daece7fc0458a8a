r"""Bodies of pax extended headers: ``"%d %s=%s\n"`` records (POSIX.1-2017, pax, "pax Extended Header").

GNU tar reads the same records in ``xheader.c``. Where it warns and continues, or where readers are known to disagree
(an empty path, a NUL in a name), the archive is refused: the next reader might take the member for another one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, NamedTuple

from riva_stream.archive.snapshot import BOUNDED, Buffer, Bytes, Count, Name, Strict, require
from riva_stream.archive.zeros import is_zero
from riva_stream.errors import ArchiveError, ArchiveFault

__all__ = ["Pax", "PaxReader", "parse_global", "parse_pax"]

_MAX_SIZE = (1 << 63) - 1
_LENGTH_DIGITS = 19
_NEEDED = (b"path", b"size", b"GNU.sparse.", b"GNU.volume.", b"SCHILY.realsize")


class Pax(NamedTuple):
    """What an extended header says about the following member; absent fields are None."""

    path: Bytes | None = None
    size: Count | None = None
    sparse: Annotated[tuple[tuple[Bytes, Bytes], ...], BOUNDED] = ()
    """The ``GNU.sparse.*`` records without their prefix, in order: version 0.0 repeats its keywords."""


class Step(Enum):
    """What the next byte of the body belongs to."""

    LENGTH = "length"
    KEYWORD = "keyword"
    VALUE = "value"
    NULS = "nuls"


@dataclass(eq=False, slots=True)
class PaxReader(Strict):
    """Reads the body of one extended header as it streams by, and keeps the records that change what is extracted.

    The values of all others (times, owners, extended attributes of any size) are skipped: they are neither held nor
    counted.
    """

    size: Count
    """Bytes of the body."""
    place: Name
    """The name of the header in errors."""
    records: Annotated[list[tuple[Bytes, Bytes]], BOUNDED] = field(default_factory=list)
    """Keywords and values of the needed records, in order."""
    step: Step = Step.LENGTH
    at: Count = 0
    """Bytes of the body read so far."""
    begin: Count = 0
    """Offset at which the record begins."""
    left: Count = 0
    """Bytes of the record still to come."""
    text: Buffer = field(default_factory=bytearray)
    """The record's length, or its keyword."""
    value: Buffer | None = None

    def check(self) -> None:
        """Check that the state is possible.

        Raises:
            InvalidSnapshotError: no body leads to it.
        """
        require(
            self.begin <= self.at <= self.size and self.at + self.left <= self.size, "a pax header's place"
        )
        require((self.left > 0) == (self.step in {Step.KEYWORD, Step.VALUE}), "a pax record's rest")
        require(self.step is not Step.LENGTH or len(self.text) <= _LENGTH_DIGITS, "a pax record's length")
        require(self.step is not Step.VALUE or self.text.endswith(b"="), "a pax record's keyword")

    def feed(self, view: memoryview, hold: Callable[[int], None]) -> None:
        """Take the next bytes of the body.

        Args:
            view: the bytes.
            hold: is told how many more bytes are kept, and may raise.

        Raises:
            ArchiveError: a record is malformed, or the limit of kept bytes would be exceeded.
        """
        while view:
            if self.step is Step.LENGTH:
                count = self._on_length(bytes(view[:1]), hold)
            elif self.step is Step.KEYWORD:
                count = self._on_keyword(bytes(view[: min(self.left, 4096)]), hold)
            elif self.step is Step.VALUE:
                count = self._on_value(view[: self.left], hold)
            else:
                if not is_zero(view):
                    raise self._no_length()
                count = len(view)
            self.at += count
            view = view[count:]

    def finish(self) -> None:
        """Note that the body is complete.

        Raises:
            ArchiveError: its last record is not.
        """
        if self.step is Step.LENGTH and self.text:
            raise self._no_length()

    def _on_length(self, byte: bytes, hold: Callable[[int], None]) -> int:
        if byte == b" " and self.text.isdigit():
            whole = int(self.text)
            self.left = whole - len(self.text) - 1
            if self.left < 1 or self.begin + whole > self.size:
                raise self._malformed(f"says it has {whole} bytes, which is impossible")
            hold(len(self.text) + 1)
            self.text.clear()
            self.step = Step.KEYWORD
        elif not self.text and byte == b"\0":
            self.step = Step.NULS  # after the last record: GNU tar stops there as well
        else:
            self.text += byte
            if len(self.text) > _LENGTH_DIGITS or not self.text.isdigit():
                raise self._no_length()
        return 1

    def _on_keyword(self, text: bytes, hold: Callable[[int], None]) -> int:
        end = text.find(b"=")
        count = len(text) if end < 0 else end + 1
        self.left -= count
        hold(count)
        self.text += text[:count]
        if end >= 0:
            if self.text.startswith((b" ", b"\t", b"=")) or b"\0" in self.text:
                # GNU tar skips the blanks and reads the keyword after them; at a NUL it drops the rest of the header.
                raise self._malformed("has a keyword that is empty, begins with a blank or contains a NUL")
            self.value = bytearray() if self.text.startswith(_NEEDED) else None
            self.step = Step.VALUE
        if not self.left:
            raise self._malformed("is not keyword=value")
        return count

    def _on_value(self, view: memoryview, hold: Callable[[int], None]) -> int:
        self.left -= len(view)
        if self.value is not None:
            hold(len(view))
            self.value += view
        if not self.left:
            if bytes(view[-1:]) != b"\n":
                raise self._malformed("does not end in a newline")
            if self.value is not None:
                self.records.append((bytes(self.text[:-1]), bytes(self.value[:-1])))
            self.text.clear()
            self.begin = self.at + len(view)
            self.step = Step.LENGTH
        return len(view)

    def _no_length(self) -> ArchiveError:
        return ArchiveError(
            f"{self.place}: no record length at byte {self.begin} of its {self.size} bytes",
            fault=ArchiveFault.MALFORMED,
        )

    def _malformed(self, how: str) -> ArchiveError:
        return ArchiveError(
            f"{self.place}: the record at byte {self.begin} {how}", fault=ArchiveFault.MALFORMED
        )


def decimal(value: bytes, what: str, place: str) -> int:
    """Parse a number as pax writes it.

    Raises:
        ArchiveError: it is not plain decimal digits, or is over 2**63 - 1.
    """
    if not value.isdigit() or len(value) > 19 or int(value) > _MAX_SIZE:  # noqa: PLR2004
        raise ArchiveError(f"{place}: {what}={value[:40]!r} is not a size", fault=ArchiveFault.MALFORMED)
    return int(value)


def parse_pax(records: Sequence[tuple[bytes, bytes]], place: str) -> Pax:
    """Parse the records of one member's extended header.

    Raises:
        ArchiveError: a record is ambiguous or unsupported.
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
                f"{place}: {keyword[:40].decode(errors='replace')} (several volumes, or star) is not supported",
                fault=ArchiveFault.UNSUPPORTED,
            )
    return Pax(path, size, tuple(sparse))


def parse_global(records: Sequence[tuple[bytes, bytes]], place: str) -> None:
    """Check a global extended header.

    Comments, times, owners and the like do not change what is staged. A path or a size for *every* member that
    follows has no legitimate use, and readers disagree about it, so it is refused.

    Raises:
        ArchiveError: it has a path or a size.
    """
    if records:
        keyword = records[0][0][:40].decode(errors="replace")
        raise ArchiveError(
            f"{place}: a global {keyword} would apply to every member", fault=ArchiveFault.AMBIGUOUS
        )
