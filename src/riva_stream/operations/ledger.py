"""All that was compared, by object: nothing is raised, so that every difference is told and not only the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from riva_stream.operations.reports import VerifiedObject

__all__ = ["Ledger"]


@dataclass(eq=False, slots=True)
class _Entry:
    size: int | None = None
    by: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)


@dataclass(eq=False)
class Ledger:
    """Entries in the order in which they were first spoken of."""

    _entries: dict[str, _Entry] = field(default_factory=dict, init=False)

    def size(self, key: str, size: int) -> None:
        """The object has so many bytes."""
        self._entry(key).size = size

    def same(self, key: str, *names: str) -> None:
        """Each of these was compared and agrees."""
        by = self._entry(key).by
        by += [name for name in names if name not in by]

    def differs(self, key: str, *texts: str) -> None:
        """The object differs in each of these."""
        differences = self._entry(key).differences
        differences += [text for text in texts if text not in differences]

    def compare(self, key: str, name: str, found: object, wanted: object, text: str = "") -> None:
        """Note whether ``found`` is ``wanted``; ``text`` says it when it is not."""
        if found == wanted:
            self.same(key, name)
        else:
            self.differs(key, text or f"its {name} is {found}, that of what was staged is {wanted}")

    def difference(self, key: str) -> str:
        """All in which the object differs."""
        return "; ".join(self._entry(key).differences)

    def objects(self, first: Sequence[str] = ()) -> list[VerifiedObject]:
        """Every entry; those in ``first`` before the others, in that order."""
        order = {key: index for index, key in enumerate(first)}
        return [
            VerifiedObject(
                key=key,
                size_bytes=entry.size,
                by=entry.by,
                ok=not entry.differences,
                difference="; ".join(entry.differences),
            )
            for key, entry in sorted(self._entries.items(), key=lambda pair: order.get(pair[0], len(order)))
        ]

    def _entry(self, key: str) -> _Entry:
        return self._entries.setdefault(key, _Entry())
