"""What lies below the prefix of a rule now, so that nobody sets one without seeing what it applies to."""

from __future__ import annotations

import re
from contextlib import aclosing
from datetime import datetime, timedelta

from pydantic import Field

from riva_stream.deployment import DOCUMENTS
from riva_stream.layout import DEPLOYMENT_DOCUMENTS, DEPLOYMENTS, marker_at
from riva_stream.manifest import Document
from riva_stream.operations.find import DEPTH, levels_of
from riva_stream.s3 import Bucket

__all__ = ["DOCUMENTS_BELOW", "Extent", "extent_of"]

DOCUMENTS_BELOW = 128 << 10
"""Bytes. A marker and the documents around it are smaller; archives and models are larger."""
_MOST = 20_000
"""Keys that are looked at; what is beyond is said to be there, not counted."""
_NAMED = 5
_STAGED = re.compile(
    rf"(?:[^/]+/){{3}}(?:source/.+|models/.+|\.riva-stream/.+|{'|'.join(map(re.escape, DOCUMENTS))})"
)
_REFERENCE = re.compile(rf"{DEPLOYMENTS}(?:[^/]+/){{3}}(?:{'|'.join(map(re.escape, DEPLOYMENT_DOCUMENTS))})")


class Extent(Document):
    """One environment's stagings, or its bintarball references."""

    environment: str
    prefix: str
    """Of the rules."""
    objects: int = 0
    size_bytes: int = 0
    stagings: int = 0
    """Markers."""
    due: int = 0
    """Objects that are old enough already: the store removes them at its next round."""
    foreign: int = 0
    """Objects that no staging has put there; a rule for the environment applies to them all the same."""
    foreign_keys: list[str] = Field(default_factory=list)
    """The first of them."""
    complete: bool = True
    """False: there are more objects than were looked at."""


async def extent_of(bucket: Bucket, prefix: str, days: int, days_of_bytes: int, now: datetime) -> Extent:
    """List what is below ``prefix``, ``ENV/`` or that of its bintarball references, and say what rules come to.

    Args:
        bucket: where to look.
        prefix: of one environment, with its closing slash.
        days: after which what is small expires.
        days_of_bytes: after which everything else does.
        now: the time of day.

    Raises:
        RivaStreamError: it cannot be listed.
    """
    known = _REFERENCE if prefix.startswith(DEPLOYMENTS) else _STAGED
    seen = objects = size = stagings = due = foreign = 0
    named: list[str] = []
    async with aclosing(bucket.objects(prefix)) as entries:
        async for entry in entries:
            seen += 1
            if seen > _MOST:
                break
            if entry.key.endswith("/") and not entry.size:
                continue  # a folder, as consoles and some stores make them
            objects += 1
            size += entry.size
            ours = known.fullmatch(entry.key) is not None
            folder, name = entry.key[: entry.key.rfind("/") + 1], entry.key.rpartition("/")[2]
            stagings += ours and len(levels_of(folder)) == DEPTH and name == marker_at(folder)
            limit = days if entry.size < DOCUMENTS_BELOW else days_of_bytes
            due += entry.last_modified is not None and entry.last_modified <= now - timedelta(days=limit)
            if not ours:
                foreign += 1
                named += [entry.key] if len(named) < _NAMED else []
    return Extent(
        environment=levels_of(prefix)[0],
        prefix=prefix,
        objects=objects,
        size_bytes=size,
        stagings=stagings,
        due=due,
        foreign=foreign,
        foreign_keys=named,
        complete=seen <= _MOST,
    )
