"""One gzip member header (RFC 1952, section 2.3), read from pieces that may be cut at any byte."""

from __future__ import annotations

from enum import Enum, auto

from isal import isal_zlib

from riva_stream.errors import ArchiveError, ArchiveFault

__all__ = ["GzipHeader"]

_MAGIC = b"\x1f\x8b"
_FHCRC, _FEXTRA, _FNAME, _FCOMMENT, _RESERVED = 2, 4, 8, 16, 0xE0
_TEXT_LIMIT = 1 << 20
"""Bytes of FNAME or FCOMMENT; they are not kept, but they are not worth reading for ever either."""


class _Stage(Enum):
    FIXED = auto()
    EXTRA_LENGTH = auto()
    EXTRA = auto()
    NAME = auto()
    COMMENT = auto()
    CRC = auto()
    DONE = auto()


class GzipHeader:
    """One header, cut anywhere. Keeps no field longer than ten bytes."""

    def __init__(self, member: int, at: int) -> None:
        self.at = at
        self.place = f"gzip member {member} (at byte {at} of the archive)"
        self._first = member == 1
        self._stage = _Stage.FIXED
        self._kept = bytearray()
        self._left = 10
        self._flags = 0
        self._crc = 0

    @property
    def done(self) -> bool:
        """Whether the last field of the header was read."""
        return self._stage is _Stage.DONE

    def feed(self, view: memoryview) -> int:
        """Take what belongs to the header from the front of ``view``; returns how many bytes that was."""
        at = 0
        while at < len(view) and not self.done:
            if self._stage in (_Stage.NAME, _Stage.COMMENT):
                at += self._text(view[at : at + 4096])
                continue
            taken = view[at : at + self._left]
            at += len(taken)
            self._left -= len(taken)
            if self._stage is not _Stage.CRC:
                self._crc = isal_zlib.crc32(taken, self._crc)
            if self._stage is not _Stage.EXTRA:
                self._kept += taken
            if self._stage is _Stage.FIXED:
                self._check_magic()
            if not self._left:
                self._complete()
        return at

    def _check_magic(self) -> None:
        if not _MAGIC.startswith(self._kept[:2]):
            what = "no gzip member" if self._first else "garbage after the end of the gzip data"
            raise ArchiveError(f"{self.place}: {what}: it begins with {bytes(self._kept[:4])!r}")

    def _text(self, view: memoryview) -> int:
        text = bytes(view)
        end = text.find(0) + 1
        count = end or len(text)
        self._left += count
        self._crc = isal_zlib.crc32(text[:count], self._crc)
        if self._left > _TEXT_LIMIT:
            raise ArchiveError(
                f"{self.place}: a name or comment in its header is over {_TEXT_LIMIT} bytes",
                hint="compress the archive again without them: gzip -n",
                fault=ArchiveFault.LIMIT,
            )
        if end:
            self._next(self._stage)
        return count

    def _complete(self) -> None:
        kept, stage = bytes(self._kept), self._stage
        self._kept.clear()
        if stage is _Stage.FIXED:
            if kept[2] != 8:  # noqa: PLR2004 - RFC 1952: 8 is deflate, the only method there is
                raise ArchiveError(f"{self.place}: compression method {kept[2]} is not deflate")
            self._flags = kept[3]
            if self._flags & _RESERVED:
                raise ArchiveError(
                    f"{self.place}: reserved flags are set ({self._flags:#04x}); RFC 1952 forbids them"
                )
        elif stage is _Stage.EXTRA_LENGTH:
            self._left = int.from_bytes(kept, "little")
            self._stage = _Stage.EXTRA
            if self._left:
                return
            stage = _Stage.EXTRA
        elif stage is _Stage.CRC and int.from_bytes(kept, "little") != self._crc & 0xFFFF:
            raise ArchiveError(f"{self.place}: its header is damaged (FHCRC)")
        self._next(stage)

    def _next(self, stage: _Stage) -> None:
        order = (
            (_Stage.EXTRA_LENGTH, _FEXTRA, 2),
            (_Stage.NAME, _FNAME, 0),
            (_Stage.COMMENT, _FCOMMENT, 0),
            (_Stage.CRC, _FHCRC, 2),
        )
        for candidate, flag, left in order:
            if candidate.value > stage.value and self._flags & flag:
                self._stage, self._left = candidate, left
                return
        self._stage = _Stage.DONE
