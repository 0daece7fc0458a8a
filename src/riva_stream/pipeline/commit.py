"""From "all bytes are durable" to the marker: complete, describe, verify, commit.

The order is the promise. The old marker goes just before the first Complete; the new one comes after every object
was HEADed and compared, and after every key of an older staging that this one does not write was deleted.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from pydantic import ValidationError

from riva_stream.errors import (
    DigestMismatchError,
    HeldError,
    IntegrityError,
    TransientError,
    Where,
)
from riva_stream.events import ObjectCompleted, PhaseChanged
from riva_stream.manifest import (
    ARTIFACT_JSON,
    CHECKSUMS,
    MANIFEST_JSON,
    MARKER,
    Artifact,
    Marker,
    StagedFile,
    StagedFiles,
    UploadManifest,
    checksums_text,
    to_json,
)
from riva_stream.pipeline.documents import NEXT_STEP, artifact_of
from riva_stream.pipeline.flow import Streamed, is_bare_model
from riva_stream.pipeline.run import Run, each
from riva_stream.pipeline.stale import delete, remove_stale, take_back
from riva_stream.pipeline.standing import Standing
from riva_stream.pipeline.verify import verify_document, verify_upload
from riva_stream.report import ObjectCheck
from riva_stream.sink import Check, Upload, UploadRecord, Uploads, body_of
from riva_stream.source import PinnedSource
from riva_stream.state import Lease

__all__ = ["Commit", "Committed"]

_CONFLICTS = 3
"""Attempts to put a document on condition that there is none."""
_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"
_DOCUMENTS = {
    CHECKSUMS: (_TEXT, "checksums"),
    ARTIFACT_JSON: (_JSON, "artifact-metadata"),
    MANIFEST_JSON: (_JSON, "upload-manifest"),
    MARKER: (_TEXT, "staging-marker"),
}
"""Content type and artifact type of each."""


@dataclass(frozen=True, slots=True)
class Committed:
    """The staging as it stands."""

    artifact: Artifact
    checks: list[ObjectCheck]


@dataclass(eq=False)
class Commit:
    """Writes one staging; each step is one method, and :meth:`full` and :meth:`by_reference` read in order."""

    run: Run
    source: PinnedSource
    standing: Standing
    check: Check
    lease: Lease | None = None
    """None by reference, where nothing was there to contend for."""
    _documents: dict[str, Upload] = field(default_factory=dict, init=False)
    _uploads: Uploads | None = field(default=None, init=False)
    _written: list[str] = field(default_factory=list, init=False)
    _checks: list[ObjectCheck] = field(default_factory=list, init=False)

    async def open_documents(self, uploads: Uploads) -> None:
        """Create the uploads of the documents before any byte moves.

        They are written through multipart uploads like all else: whoever takes the prefix over aborts these as
        well, so a run that was taken for dead can no longer put a document of its own beside another run's.
        """
        self._uploads = uploads
        await each(list(_DOCUMENTS), partial(self._open_document, uploads))

    async def _open_document(self, uploads: Uploads, name: str) -> None:
        content_type, artifact_type = _DOCUMENTS[name]
        self._documents[name] = await uploads.open(
            self.run.request.prefix + name,
            content_type=content_type,
            metadata=self.run.metadata(artifact_type),
        )

    async def full(self, streamed: Streamed, uploads: Uploads) -> Committed:
        """Commit a full staging; when the store turns out to hold other bytes, take back what was completed."""
        try:
            return await self._full(streamed, uploads)
        except* IntegrityError:
            await take_back(run=self.run, lease=self.lease, keys=self._written)
            raise

    async def _full(self, streamed: Streamed, uploads: Uploads) -> Committed:
        """The steps, in order.

        Raises:
            DigestMismatchError: an object is not what was sent; there is no marker then.
            HeldError: another run has put its marker, or has taken over an upload.
        """
        run, prefix = self.run, self.run.request.prefix
        run.observer(PhaseChanged(phase="commit"))
        await uploads.abort_unused()
        if self.lease is not None:
            # Every part by name, so that whoever has to go on from here sends none again.
            await self.lease.write()
        await self._remove_old_marker()
        opened = [streamed.archive, *(staged.upload for staged in streamed.members)]
        records = await each(opened, uploads.complete)
        for record in records:
            run.observer(ObjectCompleted(key=record.key, size=record.size))
            self._written.append(record.key)
        digests = [streamed.digest, *(staged.digest.record() for staged in streamed.members)]
        pairs = [
            (digest.sha256, record.key.removeprefix(prefix))
            for digest, record in zip(digests, records, strict=True)
        ]
        text = checksums_text(pairs).encode()
        checksums = await self._put(CHECKSUMS, text)
        self._checks += await each(records, partial(verify_upload, run))
        self._checks.append(await verify_document(run, checksums))
        artifact = artifact_of(run, self.source, streamed, upload_check=self.check, objects_verified=True)
        data = to_json(artifact)
        metadata = await self._put(ARTIFACT_JSON, data)
        staged_files = [
            _staged_file(record, digest.sha256) for record, digest in zip(records, digests, strict=True)
        ]
        bare = is_bare_model(self.source)
        manifest = UploadManifest(
            upload_id=run.run_id,
            started_at=run.started_at,
            s3_base=run.request.destination,
            include=list(run.request.include),
            files=StagedFiles(
                source_archive=None if bare else staged_files[0],
                models=staged_files if bare else staged_files[1:],
                checksums=checksums,
                metadata=metadata,
            ),
        )
        listed = await self._put(MANIFEST_JSON, to_json(manifest))
        for document in (metadata, listed):
            self._checks.append(await verify_document(run, document))
        await remove_stale(self.run, self.standing, self._written)
        await self._mark(artifact, data)
        return Committed(artifact, self._checks)

    async def by_reference(self) -> Committed:
        """Commit a staging that only points at the source."""
        run = self.run
        run.observer(PhaseChanged(phase="commit"))
        await self._remove_old_marker()
        # Nobody has probed what a store other than AWS does with it.
        verified = self.check if run.destination.is_aws or run.request.upload_check != "auto" else "none"
        artifact = artifact_of(run, self.source, None, upload_check=verified, objects_verified=True)
        data = to_json(artifact)
        self._checks.append(await verify_document(run, await self._put(ARTIFACT_JSON, data)))
        await remove_stale(self.run, self.standing, self._written)
        await self._mark(artifact, data)
        return Committed(artifact, self._checks)

    async def _remove_old_marker(self) -> None:
        if self.standing.is_complete:
            await delete(self.run, self.run.request.prefix + MARKER)

    async def _put(self, name: str, data: bytes, *, if_absent: bool = False) -> StagedFile:
        run, key = self.run, self.run.request.prefix + name
        content_type, artifact_type = _DOCUMENTS[name]
        checksum: str | None
        if self._uploads is not None:
            record = await self._put_fenced(self._uploads, name, data, if_absent=if_absent)
            stored, checksum = record.stored, record.crc64nvme
        else:
            body = body_of(data, self.check)
            stored = await run.retrier(
                "PutObject",
                partial(
                    run.destination.put,
                    run.request.bucket,
                    key,
                    body,
                    content_type=content_type,
                    metadata=run.metadata(artifact_type),
                    if_absent=if_absent,
                ),
            )
            checksum = body.crc64nvme
        run.meter.touch()
        self._written.append(key)
        await run.keep(name, data)
        return StagedFile(
            s3_key=key,
            size_bytes=len(data),
            content_type=content_type,
            etag=stored.etag,
            checksum=f"sha256:{hashlib.sha256(data).hexdigest()}",
            version_id=stored.version_id,
            store_checksum=f"crc64nvme:{checksum}" if checksum else None,
        )

    async def _put_fenced(self, uploads: Uploads, name: str, data: bytes, *, if_absent: bool) -> UploadRecord:
        attempt = 1
        while True:
            try:
                return await uploads.put(self._documents[name], data, if_absent=if_absent)
            except HeldError as error:
                # The key has changed since the upload was created, be it only that the old marker was deleted. S3
                # then wants a new upload (API reference, CompleteMultipartUpload: ConditionalRequestConflict).
                if error.where.code != "ConditionalRequestConflict" or attempt == _CONFLICTS:
                    raise
            attempt += 1
            if self.lease is not None:
                await self.lease.check()
            await self._open_document(uploads, name)

    async def _mark(self, artifact: Artifact, data: bytes) -> None:
        """Put the marker and read it back."""
        if self.lease is not None:
            await self.lease.check()
        run, key = self.run, self.run.request.prefix + MARKER
        text = (
            Marker(
                completed_at=datetime.now(UTC),
                mode=artifact.deployment.staging_mode,
                run_id=run.run_id,
                source=self.source.uri,
                next_step=NEXT_STEP,
                artifact_sha256=hashlib.sha256(data).hexdigest(),
            )
            .text()
            .encode()
        )
        held: HeldError | None = None
        try:
            await self._put(MARKER, text, if_absent=True)
        except HeldError as error:
            held = error  # a marker is there: another run's, or ours, whose answer was lost

        async def read_back() -> None:
            found = await run.destination.get(run.request.bucket, key, limit=1 << 16)
            if found == text:
                return
            if held is not None or (found is not None and not _is_of(found, run.run_id)):
                raise held or HeldError(
                    "another run has put its own marker", hint="run the same command again"
                )
            raise TransientError("the marker reads otherwise than it was written")

        try:
            await run.retrier("GetObject", read_back)
        except HeldError:
            raise
        except TransientError as error:
            if error.where.status is not None or error.__cause__ is not None:
                raise
            await delete(self.run, key)
            raise DigestMismatchError(
                "the marker reads otherwise than it was written; it was removed again",
                where=Where("GetObject", run.request.bucket, key),
                hint="run the same command again",
            ) from error
        self._checks.append(ObjectCheck(key=key, size_bytes=len(text), by=["content"]))


def _is_of(text: bytes, run_id: str) -> bool:
    """Whether a marker is this run's, however garbled it may have come."""
    try:
        return Marker.parse(text.decode()).run_id == run_id
    except (ValidationError, UnicodeDecodeError):
        return True


def _staged_file(record: UploadRecord, sha256: str) -> StagedFile:
    return StagedFile(
        s3_key=record.key,
        size_bytes=record.size,
        content_type=record.content_type,
        etag=record.stored.etag,
        checksum=f"sha256:{sha256}",
        version_id=record.stored.version_id,
        store_checksum=f"crc64nvme:{record.crc64nvme}" if record.crc64nvme else None,
    )
