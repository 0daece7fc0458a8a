"""Bytes that were sent twice, and how many might be: counted from what the proxies saw, not by the program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.crash.kit import JOURNAL, Actor
from tests.support.faultlog import Record

__all__ = ["left_out", "part_bytes", "sent_again"]

LAG = 1.0
"""Seconds. From a part's answer at the proxy to the run's books, and from these to the journal at the proxy: what was
answered longer than this before a journal came must stand in it."""


def _parts(actor: Actor) -> Sequence[Record]:
    """Those of the archive and its models; the documents are written when all of these are there."""
    return [r for name in ("source", "models") for r in actor.proxy.select("UploadPart", f"*/{name}/*")]


def part_bytes(actor: Actor) -> int:
    """Bytes of parts that a run has sent, whether they arrived or not."""
    return sum(record.received for record in _parts(actor))


def _is_resumed(journal: dict[str, Any] | None) -> bool:
    """Whether anything of it is: of a run that had begun to commit, all is sent again."""
    return journal is not None and journal.get("committing") is False


def _named(journal: dict[str, Any] | None) -> set[tuple[str, int]]:
    uploads = journal["uploads"] if journal is not None and _is_resumed(journal) else []
    return {(upload["upload_id"], part["number"]) for upload in uploads for part in upload["parts"]}


def not_journaled(actor: Actor, journal: dict[str, Any] | None) -> list[Record]:
    """The parts of a killed run that were in flight, or acknowledged since the journal that it left was drawn."""
    named = _named(journal)
    return [r for r in _parts(actor) if (r.request.upload_id, r.part) not in named]


def sent_again(actors: Sequence[Actor], journal: dict[str, Any] | None) -> list[Record]:
    """The parts that may go once more after the last of these runs was killed: its own, and where it had begun to commit
    also those that it had adopted, which stood in the journals before."""
    has_begun = journal is not None and not _is_resumed(journal)
    whose = actors if has_begun else actors[-1:]
    return [record for actor in whose for record in not_journaled(actor, journal)]


def left_out(actor: Actor, journal: dict[str, Any] | None) -> list[str]:
    """Parts that should stand in the journal, since they were acknowledged well before it was written."""
    tape = actor.tape
    written = [
        tape.came[record.number]
        for record in actor.proxy.select("PutObject", JOURNAL)
        if record.number in tape.answered
    ]
    if not _is_resumed(journal) or not written:
        return []
    return [
        f"part {record.part} of {record.key} is not in the journal, though it was acknowledged {age:.1f} s before"
        for record in not_journaled(actor, journal)
        if (age := written[-1] - tape.answered.get(record.number, float("inf"))) > LAG
    ]
