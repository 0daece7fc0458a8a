"""What can go wrong, as data: faults, the rules that say when, and scripts of rules as JSON.

::

    Rule("GetObject", occurrence=2, fault=Reset("response-body", after=70_000))
    Rule("UploadPart", key="*/models/*", occurrence=range(1, 6), fault=Refuse("SlowDown"))
    Rule("CompleteMultipartUpload", occurrence="first", fault=Reset("response"))       # the lost answer
    Rule("*", occurrence=0.05, fault=Refuse("InternalError"))                          # 5 % of all requests

The same as a script, for `load_script`::

    [{"operation": "GetObject", "occurrence": 2, "fault": {"kind": "Reset", "stage": "response-body", "after": 70000}}]

Stages of an exchange, in order:

* ``connect``: the connection was accepted. Only `Reset`, and only in a rule whose operation is ``Connect``.
* ``request``: the head of the request was read, nothing was forwarded.
* ``request-body``: *after* bytes of the body were forwarded. The store never gets the whole request.
* ``response``: the store has executed the request; nothing of its answer was passed on ("lost answer").
* ``response-body``: the head and *after* bytes of the answer's body were passed on.

A fault at byte *after* needs a body of more than *after* bytes, else it does not happen. What did happen stands
in the proxy's log (``Record.faults``), so that a test can assert that its fault was not a dud.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from tests.support.s3ops import S3Request

__all__ = [
    "Drip",
    "Fault",
    "FlipBit",
    "Gate",
    "IgnoreRange",
    "Latency",
    "Occurrence",
    "Refuse",
    "Reset",
    "Rewrite",
    "Rule",
    "ShortBody",
    "Stall",
    "cut",
    "load_script",
]

Stage = Literal["connect", "request", "request-body", "response", "response-body"]
Where = Literal["request", "response"]
Occurrence = int | float | Literal["first", "last", "every"] | Collection[int]

STATUS: Final = {
    "AccessDenied": 403,
    "AuthorizationHeaderMalformed": 400,
    "BadDigest": 400,
    "ConditionalRequestConflict": 409,
    "ExpiredToken": 400,
    "InternalError": 500,
    "InvalidAccessKeyId": 403,
    "InvalidObjectState": 403,
    "InvalidPart": 400,
    "InvalidRange": 416,
    "InvalidRequest": 400,
    "NoSuchBucket": 404,
    "NoSuchKey": 404,
    "NoSuchUpload": 404,
    "NotImplemented": 501,
    "OperationAborted": 409,
    "PermanentRedirect": 301,
    "PreconditionFailed": 412,
    "RequestTimeTooSkewed": 403,
    "RequestTimeout": 400,
    "ServiceUnavailable": 503,
    "SignatureDoesNotMatch": 403,
    "SlowDown": 503,
    "XAmzContentSHA256Mismatch": 400,
}
"""The status that S3 gives with each error code."""


class Gate:
    """Holds a request until the test lets it go. Usable from any thread and any event loop."""

    def __init__(self) -> None:
        self._reached: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._released: concurrent.futures.Future[None] = concurrent.futures.Future()

    def wait_reached(self, timeout: float = 60) -> None:
        """Block until a request stands at the gate."""
        self._reached.result(timeout)

    async def reached(self, timeout: float = 60) -> None:  # noqa: ASYNC109 - a hung test must say where
        """Wait until a request stands at the gate."""
        await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self._reached)), timeout)

    @property
    def is_reached(self) -> bool:
        return self._reached.done()

    def release(self) -> None:
        """Let every request pass, now and later."""
        if not self._released.done():
            self._released.set_result(None)

    async def hold(self) -> None:
        """Stand at the gate. For the proxy."""
        if not self._reached.done():
            self._reached.set_result(None)
        await asyncio.shield(asyncio.wrap_future(self._released))


@dataclass(frozen=True)
class Refuse:
    """Answer with an S3 error: instead of forwarding, or (*executed*) although the store did as it was told.

    With ``status=200`` it is the error inside a success with which CompleteMultipartUpload can answer. The wrong
    region is ``Refuse("PermanentRedirect", headers={"x-amz-bucket-region": "eu-west-1"})``.
    """

    code: str
    status: int = 0
    """0: what S3 gives with this code."""
    message: str = "injected"
    headers: Mapping[str, str] = field(default_factory=dict)
    executed: bool = False

    def __post_init__(self) -> None:
        if not self.status and self.code not in STATUS:
            raise ValueError(f"{self.code} is no error code we know the status of: give it")

    @property
    def http_status(self) -> int:
        return self.status or STATUS[self.code]


@dataclass(frozen=True)
class Reset:
    """End the connection at *stage*: by RST, or (*rst* false) by an orderly close.

    After RST the peer may not get to see all *after* bytes, since the kernel drops what it has not sent yet; after
    an orderly close it sees exactly these.
    """

    stage: Stage = "request"
    after: int = 0
    rst: bool = True


def cut(after: int) -> Reset:
    """Close the connection after *after* bytes of the response's body."""
    return Reset("response-body", after, rst=False)


@dataclass(frozen=True)
class Stall:
    """Stop at *stage* until *gate* is released, or the proxy closes. Every rule has a gate of its own by default."""

    stage: Stage = "request"
    after: int = 0
    gate: Gate = field(default_factory=Gate, compare=False)


@dataclass(frozen=True)
class Latency:
    """Wait *seconds* before forwarding, or before answering."""

    seconds: float
    stage: Where = "request"


@dataclass(frozen=True)
class Drip:
    """Pass the response's body on in pieces of *piece* bytes with *pause* seconds after each."""

    piece: int = 1
    pause: float = 0.01


@dataclass(frozen=True)
class Rewrite:
    """Another head than the store's: the status, headers set or removed, Content-Range moved by *shift_range*."""

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    remove: Collection[str] = ()
    shift_range: int = 0


@dataclass(frozen=True)
class ShortBody:
    """*missing* bytes fewer: promised by Content-Length and then not sent, or (*honest*) not promised either."""

    missing: int = 1
    honest: bool = False


@dataclass(frozen=True)
class FlipBit:
    """XOR the byte at *offset* of the payload with *mask*, on the way to the store or from it."""

    where: Where
    offset: int
    mask: int = 1


@dataclass(frozen=True)
class IgnoreRange:
    """The store answers 200 with the whole object, as if it did not know Range. The proxy signs the request anew."""


Fault = Refuse | Reset | Stall | Latency | Drip | Rewrite | ShortBody | FlipBit | IgnoreRange
_KINDS: Final[dict[str, Any]] = {
    kind.__name__: kind
    for kind in (Refuse, Reset, Stall, Latency, Drip, Rewrite, ShortBody, FlipBit, IgnoreRange)
}


@dataclass(frozen=True, kw_only=True)
class _RuleOptions:
    fault: Fault | tuple[Fault, ...]
    key: str = "*"
    """A glob over the key."""
    part: int | None = None
    occurrence: Occurrence = "every"
    """Among the requests that fit operation, key and part, retries included, counted from 1: one, several, all, or
    (a float) each with this probability."""
    total: int = 0
    """For ``"last"``, which cannot be known beforehand: how many such requests a whole run makes. Do the run once
    through a proxy without this rule and ask its log: ``proxy.count("UploadPart", key="*/models/*")``."""


@dataclass(frozen=True)
class Rule(_RuleOptions):
    """When a fault happens. Immutable; the proxy keeps the count."""

    operation: str | Collection[str] = "*"
    """A name or several; ``*`` is any, ``mutating`` any that changes the store, ``Connect`` a new connection."""

    def __post_init__(self) -> None:
        if self.occurrence == "last" and not self.total:
            raise ValueError("occurrence 'last' needs the total of a dry run")

    @property
    def faults(self) -> tuple[Fault, ...]:
        return self.fault if isinstance(self.fault, tuple) else (self.fault,)

    def fits(self, request: S3Request) -> bool:
        names = (self.operation,) if isinstance(self.operation, str) else self.operation
        named = request.operation in names or ("mutating" in names and request.mutating)
        # A new connection is no request: only a rule that names it means it.
        named = named or ("*" in names and request.operation != "Connect")
        return named and fnmatchcase(request.key, self.key) and self.part in {None, request.part}

    def strikes(self, count: int, chance: random.Random) -> bool:
        """Whether the *count*-th request that fits is one of those to be hit."""
        match self.occurrence:
            case "every":
                return True
            case "first":
                return count == 1
            case "last":
                return count == self.total
            case float() as probability:
                return chance.random() < probability
            case int() as k:
                return count == k
            case several:
                return count in several


def load_script(script: Path | list[dict[str, Any]]) -> list[Rule]:
    """Rules from a JSON file, or from what such a file holds: a list of objects, as at the top of this module."""
    entries = script if isinstance(script, list) else json.loads(script.read_text())
    rules = []
    for entry in entries:
        faults = entry["fault"] if isinstance(entry["fault"], list) else [entry["fault"]]
        made = tuple(
            _KINDS[fault["kind"]](**{k: v for k, v in fault.items() if k != "kind"}) for fault in faults
        )
        rules.append(Rule(**{**entry, "fault": made}))
    return rules
