"""The runner of every single check of ``check``: its own time limit, and a record whatever the result.

Also what the checks find out together: the kind of the destination's store, what it enforces and what it ignores.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio

from riva_stream.config import StageRequest
from riva_stream.errors import RivaStreamError, StalledError
from riva_stream.preflight.report import CheckRecord, failed, failed_with, not_tried, passed, warned
from riva_stream.retry import Retrier
from riva_stream.sizes import MOST_PARTS

__all__ = ["CheckRunner", "Condition", "StoreFacts", "store_record"]

Condition = Literal["honoured", "ignored", "refused", "wrong"]
"""Of If-Match and If-None-Match: a wrong value is accepted (ignored), the right one is refused (wrong), or the store
does not support the header (refused)."""

_WITHOUT_CONDITIONS = "no-conditions"
_WITHOUT_EXPIRY = "no-request-expiry"
_UNVERIFIED = "parts-unverified"
_RANGES = "no-ranges"
_WEAKER = {
    _WITHOUT_CONDITIONS: "a run waits for 1.5 s before it is sure that the prefix is its own",
    _WITHOUT_EXPIRY: "a request that is late by more than a lease may still take effect",
    _UNVERIFIED: "a part that breaks on its way is not refused by the store",
    _RANGES: "staged objects cannot be read in ranges: no verify --deep",
}


@dataclass(eq=False)
class StoreFacts:
    """What was found out about a store. None: not tried."""

    is_aws: bool = False
    server: str = ""
    """The name in its responses, if any."""
    check: str | None = None
    """The checksum that is sent with parts; as in ``--upload-check``, or ``etag``."""
    most_parts: int = MOST_PARTS
    conditions: dict[str, Condition] = field(default_factory=dict)
    """By header; empty where nothing was written."""
    expires: bool | None = None
    """Whether it refuses a request that arrives after its signature has expired."""
    ranges: bool | None = None


def store_record(facts: StoreFacts) -> CheckRecord:
    """The record: one line for people, and lists of codes for programs."""
    if not facts.conditions:
        return not_tried("store", "conditional-writes", "the scratch object could not be put")
    answers: dict[str, Condition | None] = {
        **{name.lower(): value for name, value in facts.conditions.items()},
        "request-expiry": _honoured(facts.expires),
        "ranges": _honoured(facts.ranges),
    }
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
    said = [
        f"enforces {', '.join(enforces)}" if enforces else "enforces nothing that was asked",
        *(
            f"{word} {', '.join(by_answer[answer])}"
            for answer, word in (
                ("ignored", "ignores"),
                ("refused", "does not have"),
                ("wrong", "gets wrong"),
            )
            if by_answer[answer]
        ),
        *([f"takes {facts.most_parts:,} parts of an upload"] if facts.most_parts != MOST_PARTS else []),
    ]
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
        return warned(
            "store", message, code="weak", fix='see docs/semantics.md, "Where this is weaker"', **details
        )
    return passed("store", message, code="weaker" if weaker else "full", **details)


def _honoured(answer: bool | None) -> Condition | None:
    return None if answer is None else "honoured" if answer else "ignored"


@dataclass(eq=False)
class CheckRunner:
    """Collects the records of one ``check``."""

    request: StageRequest
    limit: float
    """Time limit of each check in seconds."""
    retrier: Retrier
    records: dict[str, CheckRecord] = field(default_factory=dict)
    store: StoreFacts = field(default_factory=StoreFacts)
    """What was found out about the destination's store."""
    source_size: int = 0
    """Bytes; 0 where no source was found."""

    @property
    def failed(self) -> set[str]:
        """The components known to have failed."""
        return {name for name, record in self.records.items() if record.status == "fail"}

    async def run(
        self, component: str, act: Callable[[], Awaitable[CheckRecord]], *, degraded: str = ""
    ) -> CheckRecord:
        """Run one check and keep its record.

        Args:
            component: of the record.
            act: returns the record, or raises.
            degraded: what a run lacks without this permission; if given, a missing permission is only a warning.
        """
        try:
            with anyio.fail_after(self.limit):
                record = await act()
        except TimeoutError:
            record = failed(
                component,
                f"no answer within {self.limit:g} s",
                code="timeout",
                exit_code=StalledError.exit_code,
                fix="check the network, a proxy or a firewall on the way, and --endpoint-url; or give it longer "
                "with --limit",
            )
        except RivaStreamError as error:
            record = failed_with(component, error, self.request, degraded=degraded)
        return self.add(record)

    def add(self, record: CheckRecord) -> CheckRecord:
        """Keep a record, unless its component already has one."""
        return self.records.setdefault(record.component, record)

    def skip(self, cause: str, *components: str, reason: str = "") -> None:
        """Record that components were not tried, since ``cause`` failed."""
        for component in components:
            self.add(not_tried(component, cause, reason))
