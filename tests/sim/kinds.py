"""The kinds of store that there are, by what they leave out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from riva_stream.s3.memory import MemoryStore

__all__ = ["DRAWN", "KINDS", "Kind"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of store."""

    name: str
    options: tuple[tuple[str, Any], ...] = ()
    weaker: frozenset[str] = frozenset()
    """The promises (see ``judge.PROPERTIES``) that docs/semantics.md does not make on it."""

    def store(self, *buckets: str) -> MemoryStore:
        """A new one."""
        return MemoryStore(*buckets, smallest_part=1, **dict(self.options))


_BASES: dict[str, dict[str, Any]] = {
    "aws": {},
    "ignores": {"is_aws": False, "conditions": "ignored"},
    "refuses": {"is_aws": False, "conditions": "refused"},
    "exact": {"is_aws": False, "list_uploads_by": "exact"},
}
_SINCE: dict[str, dict[str, Any]] = {
    "versioned": {"versioned": True},
    "puts": {"is_aws": False, "conditions": "puts"},
}

_WEAKER: dict[str, frozenset[str]] = {
    # An object is deleted by its ETag, which another run's object of the same content has too: one late deletion of
    # what was stale may hit it.
    "aws-no-expiry": frozenset({"P1", "P1r", "E1"}),
    "exact-no-expiry": frozenset({"P1", "P1r", "E1"}),
    # Neither a condition nor an expiry holds back what comes too late: sets can mix, and a reader finds out.
    "ignores-no-expiry": frozenset({"P1", "P1r", "P1m", "P3", "E1"}),
    "refuses-no-expiry": frozenset({"P1", "P1r", "P1m", "P3", "E1"}),
    "versioned-no-expiry": frozenset({"P1", "P1r", "E1"}),
    "puts-no-expiry": frozenset({"P1", "P1r", "P1m", "P3", "E1"}),
}

KINDS: dict[str, Kind] = {
    name + suffix: Kind(
        name + suffix,
        tuple({**options, "windows": windows}.items()),
        _WEAKER.get(name + suffix, frozenset()),
    )
    for name, options in {**_BASES, **_SINCE}.items()
    for suffix, windows in (("", True), ("-no-expiry", False))
}
"""AWS's semantics; write conditions ignored; refused with 501; uploads listed by exact key alone; buckets that keep
versions; conditions honoured by PUT alone, as Ceph does. Each with windows, and without."""
DRAWN = tuple(name for name in KINDS if name.removesuffix("-no-expiry") in _BASES)
"""Those that a seed draws from: with others it would draw another thing."""
