"""What to say of a prefix where nothing is staged: who is at it, what lies there, what is staged near it."""

from __future__ import annotations

import difflib
from functools import partial

from riva_stream import clock
from riva_stream.errors import AccessDeniedError, SourceNotFoundError, Where
from riva_stream.layout import DEPLOYMENTS, JOURNAL, is_bintarball, marker_at
from riva_stream.lease import Process, known_to_have_ended, read_journal
from riva_stream.operations.find import DEPTH, folders_in, is_above
from riva_stream.retry import Retrier
from riva_stream.run import each
from riva_stream.s3 import Store

__all__ = ["nothing_staged"]

_SHOWN = 5
_LOOKED_AT = 24
"""Folders of a level that are looked into for near ones: those most like what was asked for."""


async def nothing_staged(store: Store, retrier: Retrier, bucket: str, prefix: str) -> SourceNotFoundError:
    """The error for a prefix without a marker."""
    place = f"s3://{bucket}/{prefix}"
    marker = marker_at(prefix)
    where = Where(bucket=bucket, key=prefix + marker)
    journal = await read_journal(store, retrier, bucket, prefix + JOURNAL)
    if journal is not None:
        who = journal.journal.holder() if journal.journal else "an unknown run"
        ended = known_to_have_ended(journal, await clock.in_thread(Process.this))
        return SourceNotFoundError(
            f"nothing is staged at {place} yet: {who} "
            + (f"has stopped at it ({ended})" if ended else "is at it, or was")
            + f", and there is no {marker}",
            where=where,
            hint=("how far it came: " if ended else "how far it is, and whether it is alive: ")
            + f"riva-stream status {place}",
        )
    try:
        found = await retrier("ListObjectsV2", partial(store.list_objects, bucket, prefix, limit=_SHOWN))
        near = [] if found.objects else await _near(store, retrier, bucket, prefix)
    except AccessDeniedError:
        return SourceNotFoundError(
            f"nothing is staged at {place}: there is no {marker} (and what there is may not be listed)",
            where=where,
            hint=f"check the prefix; grant s3:ListBucket on {bucket} to be told what is near",
        )
    if found.objects and is_above(prefix):
        return SourceNotFoundError(
            f"{place} names no staging, but a place above some: a staging is at ENV/NAME/VERSION/",
            where=where,
            hint=f"see what there is: riva-stream ls {place}",
        )
    if found.objects:
        names = "".join(f"\n  {entry.key}" for entry in found.objects) + ("\n  …" if found.truncated else "")
        return SourceNotFoundError(
            f"nothing is staged at {place}: there is no {marker}, only what nobody vouches for:{names}",
            where=where,
            hint="stage it again; a run takes over or replaces what it finds there",
        )
    if near:
        return SourceNotFoundError(
            f"nothing is staged at {place}; staged near it:"
            + "".join(f"\n  s3://{bucket}/{n}" for n in near),
            where=where,
            hint=f"did you mean s3://{bucket}/{near[0]} ?",
        )
    return SourceNotFoundError(
        f"nothing is staged at {place}, nor near it",
        where=where,
        hint=f"see what there is: riva-stream ls s3://{bucket}",
    )


async def _near(store: Store, retrier: Retrier, bucket: str, prefix: str) -> list[str]:
    """The prefixes that are staged and most like this one, from its own model outwards."""
    root = DEPLOYMENTS if is_bintarball(prefix) else ""
    levels = prefix.removeprefix(root).rstrip("/").split("/")[: DEPTH - 1]
    marker = marker_at(prefix)

    async def is_staged(place: str) -> bool:
        return await retrier("HeadObject", partial(store.head, bucket, place + marker)) is not None

    for depth in range(len(levels), -1, -1):
        places = [root + "".join(f"{level}/" for level in levels[:depth])]
        for _ in range(DEPTH - depth):
            below = await each(places, partial(folders_in, store, retrier, bucket))
            names = [name for folder in below for name in folder]
            places = difflib.get_close_matches(prefix, names, n=_LOOKED_AT, cutoff=0.0)
        marks = await each(places, is_staged)
        if near := [place for place, marked in zip(places, marks, strict=True) if marked]:
            return near[:_SHOWN]
    return []
