"""One archive in one go, and the same one in several sittings."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import TypeAdapter

from riva_stream.archive import (
    ArchiveSummary,
    Event,
    Extractor,
    InsideReport,
    Member,
    MemberData,
    MemberEnd,
    MemberStart,
    Snapshot,
)
from riva_stream.errors import ArchiveError
from riva_stream.flow.digest import Digest, DigestState

_STATE = TypeAdapter(DigestState)

__all__ = ["Outcome", "in_one_go", "in_sittings", "in_two"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an archive came to."""

    files: tuple[tuple[Member, bytes, str, InsideReport], ...] = ()
    """Each member with its bytes, its SHA-256 and what was found inside."""
    summary: ArchiveSummary | None = None
    refusal: tuple[Any, ...] = ()
    """Text, fault, hint and layers of the error."""


@dataclass(slots=True)
class _Reader:
    """Collects what an extractor hands over, as the pipeline does."""

    files: list[tuple[Member, bytes, str, InsideReport]] = field(default_factory=list)
    member: Member | None = None
    data: bytearray = field(default_factory=bytearray)
    digest: Digest = field(default_factory=Digest)

    def take(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case MemberStart(member):
                    assert self.member is None
                    self.member, self.data, self.digest = member, bytearray(), Digest()
                case MemberData(data):
                    assert self.member is not None
                    assert len(data)
                    self.data += data
                    self.digest.update([data])
                case MemberEnd(member, inside):
                    assert self.member == member
                    assert len(self.data) == member.size
                    self.files.append((member, bytes(self.data), self.digest.record().sha256, inside))
                    self.member = None


@dataclass(frozen=True, slots=True)
class _Saved:
    """A snapshot, and what the pipeline would keep beside it."""

    snapshot: Snapshot
    files: tuple[tuple[Member, bytes, str, InsideReport], ...]
    data: bytes
    digest: DigestState | None


def _refusal(error: ArchiveError) -> Outcome:
    return Outcome(refusal=(str(error), error.fault, error.hint, error.layers))


def in_one_go(archive: bytes, **options: Any) -> Outcome:
    """The whole archive at once."""
    extractor, reader = Extractor(**options), _Reader()
    try:
        extractor.push(archive)
        while not extractor.needs_input:
            reader.take(extractor.pull(1 << 20))
        return Outcome(tuple(reader.files), extractor.finish())
    except ArchiveError as error:
        return _refusal(error)


def in_sittings(
    archive: bytes, rng: random.Random, counts: Counter[str], most: int = 10, **options: Any
) -> Outcome:
    """The archive in up to ``most`` sittings and a last one; each but the first from the latest snapshot of the one before."""
    saved: _Saved | None = None
    for sitting in range(most + 1):
        last = sitting == most or rng.random() < 0.05
        outcome, saved = _sitting(archive, saved, rng, counts, last=last, **options)
        if outcome is not None:
            return outcome
    raise AssertionError("the last sitting did not end")


def in_two(archive: bytes, cut: int, **options: Any) -> Outcome | None:
    """The archive in two sittings, the first of ``cut`` bytes; None where no snapshot is to be had there."""
    extractor, reader = Extractor(**options), _Reader()
    extractor.push(archive[:cut])
    try:
        while not extractor.needs_input:
            reader.take(extractor.pull(1 << 20))
    except ArchiveError:
        return None
    saved = _save(extractor, reader, Counter())
    if saved is None:
        return None
    reader = _Reader()
    extractor, at = _restored(saved, reader, Counter(), **options)
    while not extractor.needs_input:
        reader.take(extractor.pull(1 << 20))
    extractor.push(archive[at:])
    try:
        while not extractor.needs_input:
            reader.take(extractor.pull(1 << 20))
        return Outcome(tuple(reader.files), extractor.finish())
    except ArchiveError as error:
        return _refusal(error)


def _sitting(
    archive: bytes,
    saved: _Saved | None,
    rng: random.Random,
    counts: Counter[str],
    *,
    last: bool,
    **options: Any,
) -> tuple[Outcome | None, _Saved | None]:
    reader = _Reader()
    if saved is None:
        extractor, at = Extractor(**options), 0
    else:
        extractor, at = _restored(saved, reader, counts, **options)
    begun = at
    stop = len(archive) + 1 if last else rng.randrange(at, len(archive) + 2)
    cut = (
        rng.choice((1 << 20, 1 << 20, 5000, 5000, 512, 37))
        if len(archive) - at < 100_000
        else 1 << rng.randrange(14, 21)
    )
    room = (
        rng.choice((1 << 20, 1 << 16, 5000, 700))
        if len(archive) - at < 100_000
        else 1 << rng.randrange(14, 21)
    )
    often = rng.choice((0.0, 0.02, 0.3))
    try:
        while at < len(archive) or not extractor.needs_input:
            if extractor.needs_input:
                size = rng.randint(1, cut)
                extractor.push(memoryview(archive)[at : at + size])
                at = min(at + size, len(archive))
            while not extractor.needs_input:
                if rng.random() < often:
                    extractor.mark()
                until = rng.randrange(1, 100_000) if rng.random() < often else 0
                events = extractor.pull(room, until=until)
                reader.take(events)
                if rng.random() < often or (at >= stop and rng.random() < 0.5):
                    saved = _save(extractor, reader, counts) or saved
            if at >= stop:
                counts["sittings that were interrupted"] += 1
                return None, saved
        if at == len(archive) < stop <= len(archive) + 1 and not last and rng.random() < 0.5:
            saved = _save(extractor, reader, counts) or saved
            return None, saved
        return Outcome(tuple(reader.files), extractor.finish()), saved
    except ArchiveError as error:
        assert at >= begun
        return _refusal(error), saved


def _save(extractor: Extractor, reader: _Reader, counts: Counter[str]) -> _Saved | None:
    snapshot = extractor.snapshot()
    counts["snapshots taken" if snapshot else "snapshots not here"] += 1
    if snapshot is None:
        return None
    assert snapshot.member == reader.member
    assert snapshot.handed_over == (len(reader.data) if reader.member else 0)
    assert len(snapshot.staged) == len(reader.files)
    digest = reader.digest.snapshot() if reader.member else None
    return _Saved(snapshot, tuple(reader.files), bytes(reader.data), digest)


def _restored(saved: _Saved, reader: _Reader, counts: Counter[str], **options: Any) -> tuple[Extractor, int]:
    extractor, snapshot = Extractor.restore(saved.snapshot.data, **options)
    assert snapshot == replace(saved.snapshot)
    counts["sittings from a snapshot"] += 1
    counts["of them inside a member"] += snapshot.member is not None
    counts["of them at byte 0"] += not snapshot.offset
    reader.files = list(saved.files)
    reader.member = snapshot.member
    if snapshot.member is not None:
        reader.data = bytearray(saved.data)
        assert saved.digest is not None
        reader.digest = Digest.restore(_STATE.validate_json(_STATE.dump_json(saved.digest)))
    return extractor, snapshot.offset
