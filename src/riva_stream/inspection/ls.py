"""``ls``: what is staged in a bucket, according to places and documents."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import Any

from riva_stream import clock
from riva_stream.documents.read import Documents, read_documents
from riva_stream.errors import AccessDeniedError
from riva_stream.events import Observer, ignore
from riva_stream.inspection.find import levels_of, open_bucket, visit_folders
from riva_stream.inspection.reports import ListedStaging, ListReport
from riva_stream.layout import (
    ARTIFACT_JSON,
    DEPLOYMENTS,
    JOURNAL,
    MARKER,
    OWN_FOLDER,
    Layout,
    is_bintarball,
    is_model,
)
from riva_stream.lease import (
    LEASE,
    Found,
    Journal,
    Process,
    ended_reason,
    is_heartbeat_fresh,
    read_journal,
)
from riva_stream.manifest import Finding
from riva_stream.s3 import Bucket, StoreSettings

__all__ = ["list_stagings"]


async def list_stagings(
    settings: StoreSettings,
    bucket: str,
    prefix: str,
    *,
    observer: Observer = ignore,
) -> ListReport:
    """List what is staged below ``prefix``, and what runs have begun to stage there.

    An environment's bintarball references are elsewhere in the bucket, but belong to it: they are listed with it.

    Args:
        settings: the store.
        bucket: its bucket.
        prefix: "" or up to three folders, with a closing slash; or these below ``DEPLOYMENTS``, for bintarball
            references alone.
        observer: is told of retries.

    Raises:
        RivaStreamError: something may not be listed or read.
    """
    began = time.perf_counter()
    async with open_bucket(settings, bucket, observer) as there:
        here = await clock.in_thread(Process.this)
        found: list[ListedStaging] = []
        notes: list[Finding] = []

        async def visit(place: str) -> None:
            staging = await _look(there, place, here)
            if staging is not None:
                found.append(staging)

        folders = await visit_folders(there, prefix, visit)
        if prefix and not DEPLOYMENTS.startswith(prefix) and not prefix.startswith(DEPLOYMENTS):
            try:
                folders += await visit_folders(there, DEPLOYMENTS + prefix, visit)
            except AccessDeniedError as error:  # the environment's own prefix is shown all the same
                notes.append(
                    Finding(
                        code="may-not-list",
                        message=f"bintarball references may be missing here: {error.what}; {error.hint}",
                    )
                )
    found.sort(
        key=lambda staging: (
            [_natural(level) for level in (staging.env, staging.model, staging.version)],
            staging.destination,
        )
    )
    return ListReport(
        place=f"s3://{bucket}/{prefix}",
        stagings=found,
        folders=folders,
        notes=notes,
        seconds=round(time.perf_counter() - began, 3),
    )


async def _look(there: Bucket, place: str, here: Process) -> ListedStaging | None:
    """Look at one folder; None when it has nothing to do with a staging."""
    layout, names = Layout(there.name, place), set[str]()
    bucket, marker = there.name, layout.marker_name
    # A folder may hold any number of other keys. No run holds a bintarball reference.
    wanted = layout.documents | (frozenset() if is_bintarball(place) else {OWN_FOLDER})
    now: datetime | None = None
    async for page in there.folders(place):
        now = page.now
        keys = [*(entry.key for entry in page.objects), *page.names]
        names |= {key.removeprefix(place) for key in keys} & wanted
    found = ended = None
    if OWN_FOLDER in names and (found := await read_journal(there, place + JOURNAL)):
        written = await there.head(place + JOURNAL)
        ended = _ended(found, now, written.last_modified if written else None, here)
    # If the journal was deleted since the listing, a marker may have replaced it.
    if marker in names or (OWN_FOLDER in names and found is None):
        documents = await read_documents(there, place, (MARKER, ARTIFACT_JSON), listed=marker in names)
        if documents.is_marked:
            return _staged(bucket, place, documents, None if ended else found)
    if found is not None:
        return _begun(bucket, place, found.journal, ended or "")
    if names & layout.documents:  # what is left of a staging whose marker was removed
        mode, run = ("bintarball_reference", "") if is_bintarball(place) else (None, " and no run")
        return _listed(
            bucket, place, state="incomplete", mode=mode, note=f"there are documents, but no {marker}{run}"
        )
    return None


def _ended(found: Found, now: datetime | None, written: datetime | None, here: Process) -> str:
    """Why the run of a journal is considered dead, or ""."""
    lease = found.journal.lease if found.journal else LEASE
    ended = ended_reason(found, here)
    if not ended and is_heartbeat_fresh(now, written, lease) is False:
        ended = f"no heartbeat since {written:%Y-%m-%d %H:%M:%S}Z"
    return ended


def _staged(bucket: str, place: str, documents: Documents, found: Found | None) -> ListedStaging:
    artifact, reference, run_id = documents.artifact, documents.reference, documents.run_id
    journal = found.journal if found else None
    problem = documents.problem
    stored = models = size = None
    if reference is not None:
        size, stored, models = reference.size_bytes, 0, 0
    if artifact is not None:
        size, models = artifact.source.size_bytes, len(artifact.models)
        # A bare model is its own source, and is stored once: among the models.
        has_archive = artifact.source.status == "staged" and not is_model(artifact.source.filename)
        stored = sum(model.size_bytes for model in artifact.models) + (size if has_archive else 0)
    return _listed(
        bucket,
        place,
        state="damaged" if problem else "staged",
        mode=documents.mode,
        source=documents.source,
        size_bytes=size,
        stored_bytes=stored,
        models=models,
        staged_at=documents.staged_at,
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
    env, model, version = levels_of(place)
    told = {"env": env, "model": model, "version": version, "destination": f"s3://{bucket}/{place}"}
    unknown = dict.fromkeys(ListedStaging.model_fields)
    return ListedStaging.model_validate({**unknown, "note": "", **told, **fields})


def _natural(text: str) -> list[tuple[bool, int, str]]:
    """Sort key that puts v10 after v9."""
    parts = re.split(r"(\d+)", text)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]
