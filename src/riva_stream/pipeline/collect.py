"""``gc``: find, and abort, what dead runs left open below a prefix."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from riva_stream import clock
from riva_stream.errors import RivaStreamError
from riva_stream.events import Observer, Warned, ignore
from riva_stream.layout import JOURNAL
from riva_stream.lease import Process, read_journal, watch
from riva_stream.report import CollectReport, Leftover
from riva_stream.retry import Retrier
from riva_stream.run import each
from riva_stream.s3 import Store, StoreSettings, open_store

__all__ = ["collect"]


async def collect(
    settings: StoreSettings,
    bucket: str,
    prefix: str,
    *,
    older_than: float,
    lease: float,
    apply: bool,
    observer: Observer = ignore,
    session: Any = None,
    clock: Callable[[], datetime] = clock.now,
) -> CollectReport:
    """List the uploads and journals below ``prefix`` that no live run holds, and with ``apply`` remove them.

    Args:
        settings: the store.
        bucket: its bucket.
        prefix: of one staging, of a model, of an environment, or "" for the whole bucket.
        older_than: seconds; what is younger stays.
        lease: seconds a journal is watched for a sign of life. That of a journal itself counts when it is longer.
        apply: abort and delete; otherwise only say what would be.
        observer: is told what could not be removed.
        session: the caller's own ``aioboto3.Session``.
        clock: the time of day, which is compared with the store's own time stamps.

    Raises:
        RivaStreamError: the uploads or keys cannot be listed.
    """
    retrier = Retrier(observer=observer)

    def warn(message: str) -> None:
        observer(Warned(code="gc", message=message))

    async with AsyncExitStack() as stack:
        store: Store = await stack.enter_async_context(open_store(settings, session=session, warn=warn))
        limit = clock() - timedelta(seconds=older_than)
        journals = await _journals(store, retrier, bucket, prefix)
        live = set(await _live(store, retrier, bucket, journals, lease))
        uploads = await retrier("ListMultipartUploads", partial(store.list_uploads, bucket, prefix))
        found = [
            Leftover(
                kind="upload",
                key=upload.key,
                upload_id=upload.upload_id,
                since=upload.initiated,
                held=any(upload.key.startswith(held) for held in live),
                old=upload.initiated is None or upload.initiated <= limit,
            )
            for upload in uploads
        ]
        found += [
            Leftover(
                kind="journal",
                key=place + JOURNAL,
                since=written,
                held=place in live,
                old=written is None or written <= limit,
            )
            for place, written in journals.items()
        ]

        async def remove(leftover: Leftover) -> Leftover:
            if leftover.held or not leftover.old or not apply:
                return leftover
            try:
                if leftover.upload_id is not None:
                    await retrier(
                        "AbortMultipartUpload",
                        partial(store.abort_upload, bucket, leftover.key, leftover.upload_id),
                    )
                else:
                    await retrier("DeleteObject", partial(store.delete, bucket, leftover.key))
            except RivaStreamError as error:
                warn(f"{leftover.key} could not be removed: {error}")
                return leftover
            return leftover.model_copy(update={"removed": True})

        return CollectReport(prefix=f"s3://{bucket}/{prefix}", applied=apply, found=await each(found, remove))


async def _journals(store: Store, retrier: Retrier, bucket: str, prefix: str) -> dict[str, datetime | None]:
    """Prefixes of stagings that have a journal, and when it was written."""
    found: dict[str, datetime | None] = {}
    after = ""
    while True:
        page = await retrier("ListObjectsV2", partial(store.list_objects, bucket, prefix, after=after))
        for entry in page.objects:
            if entry.key.endswith(JOURNAL):
                found[entry.key.removesuffix(JOURNAL)] = entry.last_modified
        if not page.truncated or not page.objects:
            return found
        after = page.objects[-1].key


async def _live(
    store: Store, retrier: Retrier, bucket: str, journals: dict[str, datetime | None], lease: float
) -> list[str]:
    """Those of the journals whose holders show a sign of life within their lease."""
    here = await clock.in_thread(Process.this)

    async def lives(place: str) -> str | None:
        found = await read_journal(store, retrier, bucket, place + JOURNAL)
        if found is None:
            return None
        seconds = max(lease, found.journal.lease if found.journal else 0.0)
        life = await watch(store, retrier, bucket, place + JOURNAL, found, here, seconds=seconds)
        return place if life is not None and life.alive else None

    return [place for place in await each(list(journals), lives) if place is not None]
