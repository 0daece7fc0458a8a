"""The member policy: which members are staged, under which names, and how much an archive may demand.

Every rule here ends in an :class:`~riva_stream.errors.ArchiveError` that names the member. ``docs/archives.md`` lists
the rules, with what GNU tar does in each case.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import translate

from riva_stream.archive.snapshot import Count, Strict
from riva_stream.archive.tar import Entry
from riva_stream.archive.text import show
from riva_stream.errors import ArchiveError, ArchiveFault
from riva_stream.naming import option, raise_option

__all__ = ["Limits", "Member", "Policy", "fault_of"]

_MIB = 1 << 20
_NAME_BYTES = 255
"""NAME_MAX of every common file system: a longer base name could not be written back to a disk."""
_PATH_BYTES = 4096
"""PATH_MAX of Linux."""
_WILDCARD = re.compile(r"[*?\[]")
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Direction overrides: a name that holds one is displayed as something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(Strict):
    """What one archive may demand. Each limit is enforced while streaming, as soon as it is passed."""

    members: int = 100_000
    """Entries of any kind in the tar stream."""
    matching_members: int = 1_000
    """Members that match ``include``; each costs an upload."""
    header_bytes: int = _MIB
    """Bytes that are kept of the extended headers (pax, GNU long names), or of a sparse map, of one member. Values of pax
    records that are not needed are skipped and do not count."""
    expanded_bytes: int = 5 << 40
    """Bytes of tar stream, holes of sparse members included: 5 TiB."""
    ratio: float = 100.0
    """Expanded bytes per archive byte. Model weights reach 1.1 to 4; deflate itself cannot pass 1032."""
    ratio_floor: int = 64 * _MIB
    """Expanded bytes below which the ratio is not judged."""
    streams: int = 4_000_000
    """gzip members or zstd frames in one archive. bgzip writes one per 64 KiB."""
    zstd_window: int = 32 * _MIB
    """Window that a zstd frame may need: it is held in memory. ``zstd -19`` needs 8 MiB, ``--ultra -22`` 128 MiB."""
    listing: int = 1_000
    """Entries whose names are kept for the report; the rest are counted."""
    inside: int = 2_000
    """Names kept of files inside members: of all members together, and at most 200 of each; the rest are counted."""


@dataclass(frozen=True, slots=True)
class Member(Strict):
    """One member that is staged."""

    name: str
    """As in the archive."""
    key_name: str
    """Its base name: the object's name under ``models/``."""
    size: Count
    """Bytes, holes of a sparse member included."""
    index: Count
    """Its position among all entries of the archive, from 0."""
    offset: Count
    """Offset of its header block in the tar stream."""
    data_offset: Count | None = None
    """Offset of its bytes in the tar stream; None where they are not stored there as they are staged (sparse)."""


class Policy:
    """Decides for each entry whether it is staged.

    Args:
        include: shell patterns. One without a slash is matched against the base name, one with a slash against the
            whole name (without a leading ``./``); ``*`` crosses slashes, case matters.
        limits: see :class:`Limits`.
        taken: the members selected so far: name by base name.
    """

    def __init__(self, include: Sequence[str], limits: Limits, taken: dict[str, str]) -> None:
        self.include = tuple(include)
        self._limits = limits
        self._base = [re.compile(translate(p)).match for p in include if "/" not in p]
        self._whole = [re.compile(translate(p.removeprefix("./"))).match for p in include if "/" in p]
        self._taken = taken

    def matches(self, name: str) -> bool:
        """Whether a member of this name is wanted."""
        base, whole = name.rpartition("/")[2], name.removeprefix("./")
        return any(match(base) for match in self._base) or any(match(whole) for match in self._whole)

    def matches_but_for_case(self, name: str) -> bool:
        """Whether a member of this name would be wanted if case did not matter."""
        return Policy([p.lower() for p in self.include], self._limits, {}).matches(name.lower())

    def names(self, name: str) -> bool:
        """Whether it is wanted by its own name, by a pattern without a wildcard."""
        base, whole = name.rpartition("/")[2], name.removeprefix("./")
        plain = (p.removeprefix("./") for p in self.include if not _WILDCARD.search(p))
        return any(p == (whole if "/" in p else base) for p in plain)

    def select(self, entry: Entry) -> Member | None:
        """The member to stage, or None for an entry that is not wanted.

        Raises:
            ArchiveError: the entry matches, but it is not one that can be staged as it is; or it does not, and has the
                path of a member that was selected.
        """
        if entry.kind == "directory" or not self.matches(entry.name):
            self._check_replaces_none(entry)
            return None
        place = _place_of(entry)
        if entry.kind != "file":
            target = f" to {show(entry.link)}" if entry.link else ""
            raise ArchiveError(
                f"{place} is a {entry.kind}{target}, not a file, and it matches {option('include')}",
                hint=f"pack the file itself (tar --dereference --hard-dereference), or narrow {option('include')}",
                fault=ArchiveFault.MEMBER,
            )
        key_name = entry.name.rpartition("/")[2]
        fault = fault_of(entry.name, key_name)
        if fault:
            raise ArchiveError(
                f"{place} is refused for its name: {fault}",
                hint=f"rename the file and pack it again, or narrow {option('include')}",
                fault=ArchiveFault.MEMBER,
            )
        if key_name in self._taken:
            other = self._taken[key_name]
            both = f"and {show(other)} would both become models/{key_name}"
            raise ArchiveError(
                f"{place} {'appears twice' if other == entry.name else both}",
                hint=f"give every matching member a base name of its own, or narrow {option('include')}",
                fault=ArchiveFault.MEMBER,
            )
        if len(self._taken) >= self._limits.matching_members:
            raise ArchiveError(
                f"{place} is one more than the {self._limits.matching_members} matching members allowed",
                hint=f"{raise_option('max_models')}; or narrow {option('include')}",
                fault=ArchiveFault.LIMIT,
            )
        self._taken[key_name] = entry.name
        return Member(entry.name, key_name, entry.size, entry.index, entry.offset, entry.data_offset)

    def _check_replaces_none(self, entry: Entry) -> None:
        path = _path_of(entry.name)
        model = self._taken.get(path[-1]) if path else None
        if model is not None and path == _path_of(model):
            raise ArchiveError(
                f"{_place_of(entry)} is a {entry.kind} with the path of the model {show(model)}, which GNU tar would replace with it",
                hint="give it or the model another name, and pack the archive again",
                fault=ArchiveFault.MEMBER,
            )


def _place_of(entry: Entry) -> str:
    return f"member {show(entry.name)} (header at byte {entry.offset} of the tar stream)"


def _path_of(name: str) -> list[str]:
    """The parts of the path at which GNU tar extracts the entry."""
    return [part for part in name.split("/") if part not in {"", "."}]


def fault_of(name: str, key_name: str) -> str:
    """What is wrong with the name of a matching member; empty when nothing is."""
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        return "it is not UTF-8, and the key of an S3 object has to be"
    checks = (
        (name.startswith("/"), "it is absolute"),
        (".." in name.split("/"), "it has a '..' component"),
        ("\0" in name, "it holds a NUL"),
        ("\\" in name, "it holds a backslash"),
        (any(_unprintable(c) for c in name), "it holds a control character"),
        (key_name in {"", "."}, "it has no base name"),
        (len(key_name.encode()) > _NAME_BYTES, f"its base name is longer than {_NAME_BYTES} bytes"),
        (len(encoded) > _PATH_BYTES, f"it is longer than {_PATH_BYTES} bytes"),
    )
    return next((fault for wrong, fault in checks if wrong), "")


def _unprintable(c: str) -> bool:
    return c in _BIDI or unicodedata.category(c) in {"Cc", "Zl", "Zp"}
