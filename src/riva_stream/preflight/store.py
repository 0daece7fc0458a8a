"""``check``: which kind of store the destination is: what it enforces, what it ignores, and what that weakens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from riva_stream.preflight.report import CheckRecord, not_tried, passed, warned
from riva_stream.sizes import MOST_PARTS

__all__ = ["Condition", "StoreFacts", "store_record"]

Condition = Literal["honoured", "ignored", "refused", "wrong"]
"""Of If-Match and If-None-Match: what is wrong is taken (ignored), what is right is refused (wrong), or the store does
not have it (refused)."""

_WITHOUT_CONDITIONS = "no-conditions"
_WITHOUT_EXPIRY = "no-request-expiry"
_UNVERIFIED = "parts-unverified"
_RANGES = "no-ranges"
_WEAKER = {
    _WITHOUT_CONDITIONS: "a run settles for 1.5 s before it is sure that the prefix is its own",
    _WITHOUT_EXPIRY: "a request that is late by more than a lease may still take effect",
    _UNVERIFIED: "a part that breaks on its way is not refused by the store",
    _RANGES: "what is staged cannot be read in ranges: no verify --deep",
}


@dataclass(eq=False)
class StoreFacts:
    """What was found out. None: it was not tried."""

    is_aws: bool = False
    server: str = ""
    """What its answers call it, if anything."""
    check: str | None = None
    """The checksum that parts go with; as in ``--upload-check``, or ``etag``."""
    most_parts: int = MOST_PARTS
    conditions: dict[str, Condition] = field(default_factory=dict)
    """By header; empty where nothing was written."""
    expires: bool | None = None
    """Whether it refuses a request that arrives after the time it was signed for."""
    ranges: bool | None = None


def store_record(facts: StoreFacts) -> CheckRecord:
    """The record: one line for a person; for programs lists of codes."""
    if not facts.conditions:
        return not_tried("store", "conditional-writes", "nothing could be written")
    answers: dict[str, Condition | None] = {name.lower(): value for name, value in facts.conditions.items()}
    answers["request-expiry"] = _honoured(facts.expires)
    answers["ranges"] = _honoured(facts.ranges)
    by_answer = {
        answer: [name for name, found in answers.items() if found == answer]
        for answer in ("honoured", "ignored", "refused", "wrong")
    }
    verified = [facts.check] if facts.check not in {None, "none", "etag"} else []
    enforces = [*verified, *by_answer["honoured"]]
    weaker = [
        code
        for code, holds in (
            (_WITHOUT_CONDITIONS, any(value != "honoured" for value in facts.conditions.values())),
            (_WITHOUT_EXPIRY, facts.expires is False),
            (_UNVERIFIED, facts.check in {"none", "etag"}),
            (_RANGES, facts.ranges is False),
        )
        if holds
    ]
    said = [f"enforces {', '.join(enforces)}" if enforces else "enforces nothing that was asked"]
    said += [
        f"{word} {', '.join(by_answer[answer])}"
        for answer, word in (
            ("ignored", "ignores"),
            ("refused", "does not have"),
            ("wrong", "gets wrong"),
        )
        if by_answer[answer]
    ]
    if facts.most_parts != MOST_PARTS:
        said.append(f"takes {facts.most_parts:,} parts of an upload")
    kind = "AWS S3" if facts.is_aws else facts.server or "a store that does not name itself"
    message = f"{kind}: {'; '.join(said)}"
    if weaker:
        message += f"; so {', and '.join(_WEAKER[code] for code in weaker)}"
    details: dict[str, Any] = {
        "aws": facts.is_aws,
        "server": facts.server,
        "enforces": enforces,
        "ignores": by_answer["ignored"],
        "lacks": by_answer["refused"],
        "wrong": by_answer["wrong"],
        "most_parts": facts.most_parts,
        "weaker": weaker,
    }
    if {_WITHOUT_CONDITIONS, _WITHOUT_EXPIRY} <= set(weaker):
        fix = 'see docs/semantics.md, "Where this is weaker"'
        return warned("store", message, code="weak", fix=fix, **details)
    return passed("store", message, code="weaker" if weaker else "full", **details)


def _honoured(answer: bool | None) -> Condition | None:
    return None if answer is None else "honoured" if answer else "ignored"
