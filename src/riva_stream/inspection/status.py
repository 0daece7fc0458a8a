"""``status``: what is at a prefix, which run holds it, and what a rerun would do. Nothing is written."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from riva_stream import clock
from riva_stream.deployment import DOCUMENT_LIMIT
from riva_stream.documents.read import Documents, parse_documents, read_documents
from riva_stream.errors import AccessDeniedError, DestinationConflictError, HeldError
from riva_stream.events import Observer, ignore
from riva_stream.inspection.find import misplaced_error, open_bucket
from riva_stream.inspection.reports import Holder, LastRun, Rerun, StagedNow, StatusReport, UploadStatus
from riva_stream.layout import ARTIFACT_JSON, DEPLOYMENT_DOCUMENTS, FOLDERS, MANIFEST_JSON, MARKER, Layout
from riva_stream.lease import (
    Found,
    Journal,
    JournaledUpload,
    Life,
    Process,
    ended_reason,
    is_heartbeat_fresh,
    read_journal,
    watch,
)
from riva_stream.manifest import Finding
from riva_stream.run import gather_bounded
from riva_stream.s3 import Bucket, StoreSettings
from riva_stream.sizes import human_size

__all__ = ["status"]

_LOOKS = 3
"""Number of attempts, when a journal is deleted while it is watched."""


async def status(
    settings: StoreSettings,
    bucket: str,
    prefix: str,
    *,
    wait: bool = True,
    lease: float | None = None,
    last_run: LastRun | None = None,
    observer: Observer = ignore,
) -> StatusReport:
    """Report what is below ``prefix``.

    Args:
        settings: the store.
        bucket: its bucket.
        prefix: of one staging, with its closing slash.
        wait: watch a journal for a heartbeat; otherwise rely on the store's clock.
        lease: maximum seconds to watch it; None: its own lease.
        last_run: what a state directory records, for the report.
        observer: is told that a journal is watched.

    Raises:
        SourceNotFoundError: nothing is at the prefix, and no staging can be: it is above stagings, or inside one.
        RivaStreamError: the state cannot be determined.
    """
    async with open_bucket(settings, bucket, observer) as there:
        look = _StatusReader(there, Layout(bucket, prefix), await clock.in_thread(Process.this), observer)
        return await look.report(wait=wait, lease=lease, last_run=last_run)


@dataclass(eq=False)
class _StatusReader:
    bucket: Bucket
    layout: Layout
    here: Process
    observer: Observer

    async def report(self, *, wait: bool, lease: float | None, last_run: LastRun | None) -> StatusReport:
        for _ in range(_LOOKS):
            found = await read_journal(self.bucket, self.layout.journal)
            life = None if found is None else await self._life(found, wait=wait, lease=lease)
            if found is None or life is not None:
                break
            # Its run ended while it was watched: look at what it has left.
        # After the journal, which is deleted once the marker exists: a run that ends between the two is not missed.
        documents = await read_documents(
            self.bucket, self.layout.prefix, (MARKER, ARTIFACT_JSON, *DEPLOYMENT_DOCUMENTS)
        )
        staged = _staged(documents, await self._problem(documents)) if documents.is_marked else None
        notes: list[Finding] = []
        if staged is not None and not staged.problem and documents.deployment_problem:
            notes.append(_note("not-deployable", f"it must not be deployed: {documents.deployment_problem}"))
        if staged is not None and life is not None and _run_id(life.found) == staged.run_id:
            notes.append(
                _note(
                    "journal-left", "the journal of the run that staged it is still there; a rerun removes it"
                )
            )
            holder = None
        else:
            holder = None if life is None else await self._holder(life, notes)
        if staged is None and holder is None:
            if (misplaced := misplaced_error(self.bucket.name, self.layout.prefix)) is not None:
                raise misplaced
            notes += await self._leftovers()
        unstaged: Literal["in_flight", "resumable", "absent"] = holder.state if holder else "absent"
        return StatusReport(
            state="staged" if staged else unstaged,
            destination=self.layout.uri,
            staged=staged,
            run=holder,
            last_run=last_run,
            rerun=_rerun(
                staged,
                holder,
                whole=documents.ready is not None,
                in_commit=life is not None and _is_in_commit(life.found),
            ),
            notes=notes,
            watched_seconds=round(life.seconds if life else 0.0, 1),
        )

    async def _problem(self, documents: Documents) -> str:
        """Why the staging cannot be used, judged by all that the marker vouches for; "" where it can."""
        marker = documents.marker
        if documents.problem or documents.is_bintarball or marker is None or marker.mode != "full":
            return documents.problem
        # Separately: only the marker says whether there is one, and without the right to list, 403 may mean none.
        try:
            found = await self.bucket.get_confirming_absence(
                self.layout.prefix + MANIFEST_JSON, limit=DOCUMENT_LIMIT
            )
        except AccessDeniedError:
            return ""  # lacking permission to read it does not make it unusable
        manifest = parse_documents({} if found is None else {MANIFEST_JSON: found})
        return manifest.problem_of(MANIFEST_JSON, "the marker", marker.manifest_sha256)

    async def _life(self, found: Found, *, wait: bool, lease: float | None) -> Life | None:
        if wait:
            return await watch(
                self.bucket,
                self.layout.journal,
                found,
                self.here,
                seconds=lease,
                observer=self.observer,
            )
        if ended := ended_reason(found, self.here):
            return Life(found, False, ended, 0.0)
        written, now = await self._written(), await self.bucket.now(self.layout.prefix)
        alive = None if found.journal is None else is_heartbeat_fresh(now, written, found.journal.lease)
        age = f"{(now - written).total_seconds():.0f} s" if now and written else "an unknown time"
        return Life(found, alive, f"its journal was written {age} ago, by the store's clock", 0.0)

    async def _holder(self, life: Life, notes: list[Finding]) -> Holder:
        journal = life.found.journal
        if journal is None:
            notes.append(_note("journal", f"its journal cannot be understood: {life.found.problem}"))
        # A rerun aborts the uploads of documents and writes its own.
        parted = (
            [upload for upload in journal.uploads if self.layout.is_payload(upload.key)] if journal else []
        )
        uploads = await gather_bounded(parted, self._upload)
        size = journal.identity.size if journal and journal.identity else None
        done = _source_bytes(journal, uploads, self.layout.prefix)
        if life.alive is False and _is_in_commit(life.found):
            notes.append(
                _note("in-commit", "it was interrupted in its commit: the next run sends everything again")
            )
            done = 0
        return Holder(
            state="resumable" if life.alive is False else "in_flight",
            alive=life.alive,
            why=life.why,
            run_id=journal.run_id if journal else None,
            host=journal.process.host if journal else None,
            pid=journal.process.pid if journal else None,
            started_at=journal.started_at if journal else None,
            beats=journal.beat if journal else None,
            written_at=await self._written(),
            lease=journal.lease if journal else None,
            stopped=bool(journal and journal.stopped),
            source=journal.identity.source if journal and journal.identity else None,
            source_size=size,
            source_bytes=done,
            percent=round(100.0 * min(done, size) / size, 1) if size else None,
            resumes_at=await self._resumes_at(journal, uploads),
            uploads=uploads,
        )

    async def _upload(self, upload: JournaledUpload) -> UploadStatus:
        """What the journal says about one upload, and what the store says."""
        state: Literal["open", "completed", "gone", "unknown"] = "unknown"
        parts: int | None = None
        size: int | None = None
        try:
            listed = await self.bucket.list_parts(upload.key, upload.upload_id)
            if listed is not None:
                state, parts, size = "open", len(listed), sum(part.size for part in listed)
            else:
                info = await self.bucket.head(upload.key)
                ours = info is not None and info.metadata.get("run-id") == upload.created_by
                state, parts, size = (
                    ("completed", len(upload.parts), info.size) if info and ours else ("gone", 0, 0)
                )
        except AccessDeniedError:
            pass  # s3:ListMultipartUploadParts is a separate permission: rely on the journal
        return UploadStatus(
            key=upload.key,
            state=state,
            journaled_parts=len(upload.parts),
            journaled_bytes=sum(part.size for part in upload.parts),
            stored_parts=parts,
            stored_bytes=size,
        )

    async def _resumes_at(self, journal: Journal | None, uploads: list[UploadStatus]) -> int | None:
        """Source offset at which a run of the same request would start to read, by the newest existing checkpoint."""
        if journal is None or journal.identity is None or journal.has_begun:
            return None
        # What the store copied it can copy again.
        own = _own_keys(journal, self.layout.prefix) if journal.identity.is_copied else set()
        if not any(upload.state == "gone" for upload in uploads if upload.key not in own):
            for named in journal.checkpoints:
                if (
                    named.offset <= journal.identity.size
                    and await self.bucket.head_or_unseen(named.key) is not None
                ):
                    return named.offset
        return 0

    async def _leftovers(self) -> list[Finding]:
        """What is at a prefix where nothing is staged and no run is in progress."""
        notes: list[Finding] = []
        try:
            listing = await self.bucket.list_objects(self.layout.prefix, limit=1)
            if listing.objects:
                notes.append(
                    _note("no-marker", "there are objects without a marker; they are not a committed staging")
                )
            uploads = await self.bucket.list_uploads(self.layout.prefix)
            if uploads:
                notes.append(
                    _note("open-uploads", f"{len(uploads)} uploads are open that no journal names; see gc")
                )
        except AccessDeniedError as error:
            notes.append(
                _note("may-not-list", f"what else is there may not be listed ({error.where.operation})")
            )
        return notes

    async def _written(self) -> datetime | None:
        info = await self.bucket.head(self.layout.journal)
        return info.last_modified if info else None


def _note(code: str, message: str) -> Finding:
    return Finding(code=code, message=message)


def _run_id(found: Found) -> str | None:
    return found.journal.run_id if found.journal else None


def _staged(documents: Documents, problem: str) -> StagedNow:
    marker, artifact = documents.marker, documents.artifact
    archive = documents.reference or (artifact.source if artifact else None)
    return StagedNow(
        run_id=documents.run_id,
        mode=documents.mode,
        staged_at=documents.staged_at,
        source=documents.source or (marker.source if marker else None),
        source_size=archive.size_bytes if archive else None,
        models=len(artifact.models) if artifact else 0,
        sha256=artifact.source.sha256 if artifact else None,
        problem=problem,
    )


def _source_bytes(journal: Journal | None, uploads: list[UploadStatus], prefix: str) -> int:
    """How much of the source's own object the store has; by the journal where the store does not say."""
    if journal is None or journal.identity is None:
        return 0
    own = _own_keys(journal, prefix)
    return max(
        (
            upload.journaled_bytes if upload.stored_bytes is None else upload.stored_bytes
            for upload in uploads
            if upload.key in own
        ),
        default=0,
    )


def _own_keys(journal: Journal, prefix: str) -> set[str]:
    """Possible keys of the source's own bytes."""
    name = journal.identity.source.rpartition("/")[2] if journal.identity else ""
    return {f"{prefix}{folder}{name}" for folder in FOLDERS}


def _is_in_commit(found: Found) -> bool:
    """Whether the run had begun its commit: then nothing of it can be resumed."""
    journal = found.journal
    # A run that could not delete its journal says the same in one that is empty, so that nobody overtakes the deletion.
    return journal is not None and journal.has_begun and bool(journal.identity or journal.uploads)


def _rerun(staged: StagedNow | None, holder: Holder | None, *, whole: bool, in_commit: bool) -> Rerun:
    if staged is not None and staged.problem:
        told = "be refused (73); with --force replace what is there"
        return Rerun(code="refused", message=told, exit_code=DestinationConflictError.exit_code)
    if holder is not None and holder.state == "in_flight":
        told = "end with 75, as another run holds the prefix; with --wait wait for it"
        return Rerun(code="held", message=told, exit_code=HeldError.exit_code)
    if staged is not None:
        adds = "" if whole else ". With RIVA_SERVER_PATH it would only add deployment.json"
        told = f"re-check every object and move nothing{adds}"
        return Rerun(code="already_staged", message=told, adds_deployment=not whole)
    if holder is None:
        return Rerun(code="stage", message="stage it from the beginning")
    kept = [upload for upload in holder.uploads if upload.state != "gone"]
    parts = sum(u.journaled_parts if u.stored_parts is None else u.stored_parts for u in kept)
    size = sum(u.journaled_bytes if u.stored_bytes is None else u.stored_bytes for u in kept)
    if in_commit or not (parts or holder.resumes_at):
        why = (
            "the run was interrupted in its commit"
            if in_commit
            else "the store has nothing that can be resumed"
        )
        return Rerun(code="start_over", message=f"take over and stage it from the beginning: {why}")
    told = f"take over and resume: {parts} parts ({human_size(size)}) are in the store already"
    left = holder.source_size - holder.resumes_at if holder.resumes_at and holder.source_size else None
    if left is not None:
        told += f"; {human_size(left)} of the source are left to read"
    return Rerun(code="resume", message=told, parts=parts, size_bytes=size, left_bytes=left)
