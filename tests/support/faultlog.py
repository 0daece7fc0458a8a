"""What went through the proxy: one frozen record per request, and sums over them."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.support.s3ops import S3Request

__all__ = ["Outcome", "Record", "Traffic", "select", "traffic"]

Outcome = Literal["open", "answered", "refused", "dropped", "cut", "client-gone", "upstream-gone"]


@dataclass(frozen=True, slots=True)
class Record:
    """One request, as far as it has come. Sizes count payload bytes, without heads and chunk framing."""

    number: int
    """Its place in the order of arrival at the proxy, from 1."""
    connection: int
    """Which client connection it came on, from 1."""
    mutation: int | None
    """Its place among the requests that change the store, from 1."""
    request: S3Request
    status: int | None
    """The status the client was sent."""
    upstream_status: int | None
    """The status the store gave; None when it was not asked, or has not answered."""
    received: int
    """Bytes of the request's body that came from the client."""
    forwarded: int
    """Bytes of the request's body that were passed on to the store."""
    sent: int
    """Bytes of the response's body that were handed to the client's connection."""
    faults: tuple[str, ...]
    """The faults that really happened, by kind, in order."""
    outcome: Outcome
    """``open`` while under way; ``dropped`` reset or closed by a fault or a hook before the answer's head, ``cut``
    after it; ``client-gone`` and ``upstream-gone``: that side closed early."""

    @property
    def operation(self) -> str:
        return self.request.operation

    @property
    def bucket(self) -> str:
        return self.request.bucket

    @property
    def key(self) -> str:
        return self.request.key

    @property
    def part(self) -> int | None:
        return self.request.part

    @property
    def range(self) -> tuple[int | None, int | None] | None:
        return self.request.range


@dataclass(frozen=True, slots=True)
class Traffic:
    """Sums over records."""

    requests: int = 0
    received: int = 0
    forwarded: int = 0
    sent: int = 0


def select(records: Iterable[Record], operation: str = "*", key: str = "*") -> tuple[Record, ...]:
    """The records of an operation (``mutating`` for all that change the store) on keys that fit a glob."""

    def fits(record: Record) -> bool:
        named = operation in {"*", record.operation} or (operation == "mutating" and record.request.mutating)
        return named and fnmatchcase(record.key, key)

    return tuple(record for record in records if fits(record))


def traffic(records: Iterable[Record]) -> dict[str, Traffic]:
    """Requests and bytes of each operation."""
    sums: dict[str, Traffic] = {}
    for record in records:
        was = sums.get(record.operation, Traffic())
        sums[record.operation] = Traffic(
            was.requests + 1,
            was.received + record.received,
            was.forwarded + record.forwarded,
            was.sent + record.sent,
        )
    return sums
