"""``ls``: what is staged in a bucket, told by its place and its documents."""

from __future__ import annotations

import re
import time
from datetime import datetime
from functools import partial
from typing import Any

import anyio.to_thread

from riva_stream.deployment import DOCUMENTS
from riva_stream.events import Observer, ignore
from riva_stream.manifest import ARTIFACT_JSON, MARKER
from riva_stream.operations.documents import Documents, read_documents
from riva_stream.operations.find import each_folder
from riva_stream.operations.opened import head, opened
from riva_stream.operations.reports import ListedStaging, ListReport
from riva_stream.retry import Retrier
from riva_stream.s3 import Store, StoreSettings
from riva_stream.state import (
    JOURNAL,
    LEASE,
    Found,
    Journal,
    Process,
    beats_by_the_stores_clock,
    known_to_have_ended,
    read_journal,
)

__all__ = ["list_stagings"]

_OURS = {*DOCUMENTS} - {MARKER}
"""Without a marker, and without a journal, these are left of a staging whose marker somebody removed."""
_SLOTS = 16


async def list_stagings(
    settings: StoreSettings,
    bucket: str,
    prefix: str,
    *,
    observer: Observer = ignore,
    session: Any = None,
) -> ListReport:
    """What is staged below ``prefix``, and what runs have begun to stage there.

    Args:
        settings: the store.
        bucket: its bucket.
        prefix: "" or up to three folders, with a closing slash.
        observer: is told of retries.
        session: the caller's own ``aioboto3.Session``.

    Raises:
        RivaStreamError: something may not be listed or read.
    """
    began = time.perf_counter()
    async with opened(settings, observer, session, slots=_SLOTS) as (store, retrier):
        here = await anyio.to_thread.run_sync(Process.this)
        found: list[ListedStaging] = []

        async def visit(place: str) -> None:
            staging = await _look(store, retrier, bucket, place, here)
            if staging is not None:
                found.append(staging)

        folders = await each_folder(store, retrier, bucket, prefix, visit)
    found.sort(
        key=lambda staging: [_natural(level) for level in (staging.env, staging.model, staging.version)]
    )
    return ListReport(
        place=f"s3://{bucket}/{prefix}",
        stagings=found,
        folders=folders,
        seconds=round(time.perf_counter() - began, 3),
    )


async def _look(
    store: Store, retrier: Retrier, bucket: str, place: str, here: Process
) -> ListedStaging | None:
    """One folder; None when it has nothing to do with a staging."""
    names: set[str] = set()
    token = ""
    now: datetime | None = None
    while True:
        page = await retrier("ListObjectsV2", partial(store.list_folder, bucket, place, token=token))
        now = page.now
        names |= _names([entry.key for entry in page.objects] + list(page.names), place)
        token = page.token
        if not token:
            break
    found = ended = None
    if _FOLDER in names and (found := await read_journal(store, retrier, bucket, place + JOURNAL)):
        written = await head(store, retrier, bucket, place + JOURNAL)
        ended = _ended(found, now, written.last_modified if written else None, here)
    # A journal that has gone since the listing has perhaps given way to a marker.
    if MARKER in names or (_FOLDER in names and found is None):
        documents = await read_documents(store, retrier, bucket, place, (MARKER, ARTIFACT_JSON))
        if documents.is_marked:
            return _staged(bucket, place, documents, None if ended else found)
    if found is not None:
        return _begun(bucket, place, found.journal, ended or "")
    if names & _OURS:
        return _listed(
            bucket, place, state="incomplete", note="there are documents, but no marker and no run"
        )
    return None


def _ended(found: Found, now: datetime | None, written: datetime | None, here: Process) -> str:
    """Why the run of a journal is taken for dead, or ""."""
    lease = found.journal.lease if found.journal else LEASE
    ended = known_to_have_ended(found, here)
    if not ended and beats_by_the_stores_clock(now, written, lease) is False:
        ended = f"no sign of life since {written:%Y-%m-%d %H:%M:%S}Z"
    return ended


_FOLDER = JOURNAL.partition("/")[0] + "/"


def _names(keys: list[str], place: str) -> set[str]:
    """Those that matter: a folder may hold any number of others."""
    wanted = {MARKER, _FOLDER, *_OURS}
    return {key.removeprefix(place) for key in keys} & wanted


def _staged(bucket: str, place: str, documents: Documents, found: Found | None) -> ListedStaging:
    marker, artifact = documents.marker, documents.artifact
    run_id = marker.run_id if marker else None
    journal = found.journal if found else None
    problem = documents.problem
    stored = None
    if artifact is not None:
        stored = sum(model.size_bytes for model in artifact.models)
        # A bare model is its own source, and lies once: among the models.
        if artifact.source.status == "staged" and not artifact.source.filename.endswith(".riva"):
            stored += artifact.source.size_bytes
    return _listed(
        bucket,
        place,
        state="damaged" if problem else "staged",
        mode=documents.mode,
        source=artifact.source.uri if artifact else None,
        size_bytes=artifact.source.size_bytes if artifact else None,
        stored_bytes=stored,
        models=len(artifact.models) if artifact else None,
        staged_at=marker.completed_at if marker else None,
        run_id=run_id,
        restaged_by=journal.run_id if journal and journal.run_id != run_id else None,
        note=problem,
    )


def _begun(bucket: str, place: str, journal: Journal | None, ended: str) -> ListedStaging:
    identity = journal.identity if journal else None
    return _listed(
        bucket,
        place,
        state="incomplete" if ended else "in_flight",
        source=identity.source if identity else None,
        size_bytes=identity.size if identity else None,
        run_id=journal.run_id if journal else None,
        note=f"{journal.holder() if journal else 'an unknown run'}: {ended}" if ended else "",
    )


def _listed(bucket: str, place: str, **fields: Any) -> ListedStaging:
    env, model, version = place.rstrip("/").split("/")
    given: dict[str, Any] = dict.fromkeys(ListedStaging.model_fields) | {"note": ""}
    given |= {"env": env, "model": model, "version": version, "destination": f"s3://{bucket}/{place}"}
    return ListedStaging.model_validate(given | fields)


def _natural(text: str) -> list[tuple[bool, int, str]]:
    """So that v10 comes after v9."""
    parts = re.split(r"(\d+)", text)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]
