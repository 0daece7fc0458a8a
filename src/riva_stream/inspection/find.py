"""Where a command looks: a bucket with its store open, and the stagings in it.

Stagings are found by their place, ENV/MODEL/VERSION in the bucket or below ``DEPLOYMENTS``, without listing what is in
them. Those below ``DEPLOYMENTS`` are bintarball references.
"""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from riva_stream import clock
from riva_stream.errors import AccessDeniedError, SourceNotFoundError, Where, first_of
from riva_stream.events import Observer, warning
from riva_stream.layout import DEPLOYMENTS, JOURNAL, LEVELS, is_segment, marker_at
from riva_stream.lease import Process, ended_reason, read_journal
from riva_stream.retry import Retrier, RetryPolicy
from riva_stream.run import gather_bounded
from riva_stream.s3 import Bucket, Reader, StoreSettings, open_store

__all__ = ["is_above", "levels_of", "misplaced_error", "no_staging_error", "open_bucket", "visit_folders"]


@asynccontextmanager
async def open_bucket(
    settings: StoreSettings | Reader,
    name: str,
    observer: Observer,
    session: Any = None,
    *,
    slots: int = 16,
    policy: RetryPolicy | None = None,
) -> AsyncIterator[Bucket]:
    """Open a bucket that gets at most ``slots`` requests at once; a store that is open already stays open.

    Of several errors at one moment, the one that matters most is raised.
    """
    try:
        async with (
            open_store(settings, session=session, warn=warning(observer, "profile"))
            if isinstance(settings, StoreSettings)
            else nullcontext(settings)
        ) as store:
            retrier = Retrier(policy or RetryPolicy(), observer, renew=store.renew, slots=slots)
            yield Bucket(store, name, retrier)
    except BaseExceptionGroup as group:
        raise first_of(group) from None


async def visit_folders(bucket: Bucket, prefix: str, visit: Callable[[str], Awaitable[None]]) -> int:
    """Visit every folder at the level of a staging, a few at a time; return how many were listed on the way.

    A page of a thousand names is finished before the next one is requested, so memory does not grow with the bucket.

    Args:
        bucket: where to look; its retrier bounds how many requests run at once.
        prefix: "" or a prefix of up to three folders, with its closing slash; or one of these below ``DEPLOYMENTS``.
        visit: is called with the prefix of each.
    """
    if len(levels_of(prefix)) == LEVELS:
        await visit(prefix)
        return 0
    listed = 0
    async for page in bucket.folders(prefix):
        inside = [name for name in page.names if is_segment(name.removeprefix(prefix).rstrip("/"))]
        listed += 1 + sum(await gather_bounded(inside, lambda folder: visit_folders(bucket, folder, visit)))
    return listed


def levels_of(prefix: str) -> list[str]:
    """Environment, model and version, as far as a prefix names them; ``DEPLOYMENTS`` itself names none."""
    return prefix.removeprefix(DEPLOYMENTS).split("/")[:-1]


def is_above(prefix: str) -> bool:
    """Whether stagings can be below a prefix, but not at it."""
    return len(levels_of(prefix)) < LEVELS


def misplaced_error(bucket: str, prefix: str) -> SourceNotFoundError | None:
    """The error for a prefix at which no staging can be: it is above stagings, or inside one; None for any other."""
    levels = levels_of(prefix)
    if len(levels) == LEVELS:
        return None
    root = f"s3://{bucket}/{DEPLOYMENTS if prefix.startswith(DEPLOYMENTS) else ''}"
    place = root + "".join(f"{level}/" for level in levels[:LEVELS])
    return SourceNotFoundError(
        f"s3://{bucket}/{prefix} does not name a staging: a staging is at ENV/NAME/VERSION/",
        where=Where(bucket=bucket, key=prefix),
        hint=f"see what there is: riva-stream ls {shlex.quote(place)}",
    )


async def no_staging_error(bucket: Bucket, prefix: str) -> SourceNotFoundError:
    """The error for a prefix without a marker."""
    place = f"s3://{bucket.name}/{prefix}"
    marker = marker_at(prefix)
    where = Where(bucket=bucket.name, key=prefix + marker)
    journal = await read_journal(bucket, prefix + JOURNAL)
    if journal is not None:
        who = journal.journal.holder() if journal.journal else "an unknown run"
        ended = ended_reason(journal, await clock.in_thread(Process.this))
        return SourceNotFoundError(
            f"nothing is staged at {place} yet: {who} "
            + (f"has stopped ({ended})" if ended else "is staging it, or was")
            + f", and there is no {marker}",
            where=where,
            hint=("how far it came: " if ended else "how far it is, and whether it is alive: ")
            + f"riva-stream status {shlex.quote(place)}",
        )
    try:
        found = await bucket.list_objects(prefix, limit=5)
    except AccessDeniedError:
        return SourceNotFoundError(
            f"nothing is staged at {place}: there is no {marker} (and what there is may not be listed)",
            where=where,
            hint=f"check the prefix; grant s3:ListBucket on {bucket.name} to see what is there",
        )
    if found.objects and (misplaced := misplaced_error(bucket.name, prefix)) is not None:
        return misplaced
    if found.objects:
        return SourceNotFoundError(
            f"nothing is staged at {place}: there is no {marker}, only objects without a marker:",
            where=where,
            hint="stage it again; a run takes over or replaces what it finds there",
        ).listing([*(entry.key for entry in found.objects), *("…",) * found.truncated])
    return SourceNotFoundError(
        f"nothing is staged at {place}",
        where=where,
        hint=f"see what there is: riva-stream ls s3://{bucket.name}",
    )
