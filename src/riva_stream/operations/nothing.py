"""What to say of a prefix where nothing is staged: who is at it, what is there."""

from __future__ import annotations

from riva_stream import clock
from riva_stream.errors import AccessDeniedError, SourceNotFoundError, Where
from riva_stream.layout import JOURNAL, marker_at
from riva_stream.lease import Process, known_to_have_ended, read_journal
from riva_stream.operations.find import is_above
from riva_stream.s3 import Bucket

__all__ = ["nothing_staged"]

_SHOWN = 5


async def nothing_staged(bucket: Bucket, prefix: str) -> SourceNotFoundError:
    """The error for a prefix without a marker."""
    place = f"s3://{bucket.name}/{prefix}"
    marker = marker_at(prefix)
    where = Where(bucket=bucket.name, key=prefix + marker)
    journal = await read_journal(bucket, prefix + JOURNAL)
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
        found = await bucket.list_objects(prefix, limit=_SHOWN)
    except AccessDeniedError:
        return SourceNotFoundError(
            f"nothing is staged at {place}: there is no {marker} (and what there is may not be listed)",
            where=where,
            hint=f"check the prefix; grant s3:ListBucket on {bucket.name} to be told what is there",
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
    return SourceNotFoundError(
        f"nothing is staged at {place}",
        where=where,
        hint=f"see what there is: riva-stream ls s3://{bucket.name}",
    )
