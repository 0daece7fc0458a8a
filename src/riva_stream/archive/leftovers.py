"""Files that an operating system or a program left beside the real ones, recognised by place *and* first bytes.

``._model.riva`` and ``__MACOSX/._model.riva`` match ``*.riva`` but are not models: macOS keeps file attributes there.
Neither the place nor the bytes alone decide, since a model might be named like that; together they leave no doubt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

__all__ = ["HEAD", "Suspicion", "confirmed", "suspicions"]

HEAD = 512
"""First bytes of a file that are enough to decide."""

_APPLE_DOUBLE = b"\0\5\x16\7"
_BESIDE = frozenset(("__MACOSX", ".AppleDouble", "@eaDir"))
"""Folders of macOS's zip, of netatalk, and of Synology, which repeat the names of the real files."""
_PAX_FOLDER = re.compile(r"(?:@?PaxHeaders?|GlobalHead)(?:\.\d+)*")
_PAX_RECORD = re.compile(rb"([1-9]\d{0,6}) [^=\n\0]{1,200}=")
_THUMBS = frozenset(("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db"))
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_BINS = frozenset(("$recycle.bin", "recycler"))
_SMALL = 1 << 20


class Suspicion(NamedTuple):
    """What a file may be by its place, and the test of its bytes."""

    what: str
    confirms: Callable[[bytes, int], bool]
    """Given its first bytes (``HEAD`` of them, or all) and its size: whether it is that, and not a model."""


def suspicions(name: str) -> tuple[Suspicion, ...]:
    """The kinds of leftover that a file of this name may be; empty for an ordinary name."""
    *folders, base = name.split("/")
    lower = base.lower()
    candidates: tuple[tuple[bool, str, Callable[[bytes, int], bool]], ...] = (
        (
            any(_PAX_FOLDER.fullmatch(part) for part in (*folders, base)),
            "a pax header that was unpacked as a file",
            _is_pax,
        ),
        (lower == ".ds_store", ".DS_Store of macOS", lambda head, _: head.startswith(b"\0\0\0\1Bud1")),
        (lower in _THUMBS, "thumbnails of Windows", lambda head, _: head.startswith(_OLE)),
        (lower == "desktop.ini", "desktop.ini of Windows", _is_ini),
        (
            lower.endswith(":zone.identifier"),
            "Zone.Identifier of Windows",
            lambda head, _: b"[ZoneTransfer]" in head[:64],
        ),
        (base in {"Icon\r", ".localized"}, "an empty marker of macOS", lambda _, size: not size),
        (
            base.startswith("$I") and bool(_BINS & {part.lower() for part in folders}),
            "an index of Windows's recycle bin",
            lambda head, _: head[:8] in {b"\1" + bytes(7), b"\2" + bytes(7)},
        ),
        (
            base.startswith("._") or bool(_BESIDE & set(folders)),
            "AppleDouble of macOS",
            lambda head, _: head.startswith(_APPLE_DOUBLE),
        ),
    )
    return tuple(Suspicion(what, confirms) for fits, what, confirms in candidates if fits)


def confirmed(suspected: Sequence[Suspicion], head: bytes, size: int) -> str | None:
    """The kind of leftover that the first bytes and the size confirm; None for a real file."""
    return next((suspicion.what for suspicion in suspected if suspicion.confirms(head, size)), None)


def _is_pax(head: bytes, size: int) -> bool:
    record = _PAX_RECORD.match(head)
    if record is None or size > _SMALL:
        return False
    end = int(record[1])
    return record.end() < end <= size and (end > len(head) or head[end - 1 : end] == b"\n")


def _is_ini(head: bytes, size: int) -> bool:
    encoding = "utf-16" if head[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8-sig"
    text = head[: len(head) // 2 * 2].decode(encoding, "replace").lstrip()
    return size <= _SMALL and text.startswith(("[", ";"))
