"""What lies below an environment's prefix now, so that nobody sets a rule without seeing what it applies to."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from functools import partial

from pydantic import Field

from riva_stream.deployment import DOCUMENTS
from riva_stream.manifest import MARKER, Document
from riva_stream.operations.lifecycle import DOCUMENTS_BELOW
from riva_stream.retry import Retrier
from riva_stream.s3 import Store

__all__ = ["Extent", "extent_of"]

_PAGES = 20
"""Pages of 1,000 keys that are looked at; what is beyond is said to be there, not counted."""
_NAMED = 5
_DOCUMENTS = "|".join(map(re.escape, DOCUMENTS))
_STAGED = re.compile(rf"[^/]+/[^/]+/[^/]+/(?:source/.+|models/.+|\.riva-stream/.+|{_DOCUMENTS})")

_MARKED = re.compile(rf"[^/]+/[^/]+/[^/]+/{re.escape(MARKER)}")


class Extent(Document):
    """One environment of a bucket."""

    environment: str
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


async def extent_of(
    store: Store, retrier: Retrier, bucket: str, env: str, days: int, days_of_bytes: int, now: datetime
) -> Extent:
    """List what is below ``env/`` and say what rules of ``days`` and ``days_of_bytes`` come to.

    Raises:
        RivaStreamError: it cannot be listed.
    """
    objects = size = stagings = due = foreign = 0
    named: list[str] = []
    after = ""
    for _ in range(_PAGES):
        page = await retrier("ListObjectsV2", partial(store.list_objects, bucket, f"{env}/", after=after))
        for entry in page.objects:
            if entry.key.endswith("/") and not entry.size:
                continue  # a folder, as consoles and some stores make them
            objects += 1
            size += entry.size
            stagings += _MARKED.fullmatch(entry.key) is not None
            limit = days if entry.size < DOCUMENTS_BELOW else days_of_bytes
            due += entry.last_modified is not None and entry.last_modified <= now - timedelta(days=limit)
            if not _STAGED.fullmatch(entry.key):
                foreign += 1
                named += [entry.key] if len(named) < _NAMED else []
        if not page.truncated or not page.objects:
            break
        after = page.objects[-1].key
    return Extent(
        environment=env,
        objects=objects,
        size_bytes=size,
        stagings=stagings,
        due=due,
        foreign=foreign,
        foreign_keys=named,
        complete=not page.truncated,
    )
