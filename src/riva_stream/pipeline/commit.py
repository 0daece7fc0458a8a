"""From "all bytes are durable" to the marker: complete, describe, verify, commit.

The order is the promise. The old marker goes just before the first Complete; the new one comes after every object
was HEADed and compared, and after every key of an older staging that this one does not write was deleted.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import anyio
from pydantic import ValidationError

from riva_stream import clock
from riva_stream.deployment import OF_FULL, PAIR, DeploymentDocument, ObjectReference
from riva_stream.errors import HeldError, IntegrityError, leaves_of
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
from riva_stream.pipeline.handover import HandedOver, deployment_of, hand_over, staged_reference
from riva_stream.pipeline.pair import reference_to
from riva_stream.pipeline.run import Run, each
from riva_stream.pipeline.stale import delete, remove_ready, remove_stale, take_back
from riva_stream.pipeline.standing import Standing, confirm, keep_documents
from riva_stream.pipeline.verify import verify_upload
from riva_stream.pipeline.writer import Writer
from riva_stream.report import ObjectCheck
from riva_stream.sink import Check, UploadRecord, Uploads
from riva_stream.source import PinnedSource
from riva_stream.state import Lease

__all__ = ["Commit", "Committed"]

_UNDO_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Committed:
    """The staging as it stands."""

    artifact: Artifact | None
    checks: list[ObjectCheck]
    deployment: DeploymentDocument | None = None


@dataclass(eq=False)
class Commit:
    """Writes one staging; each step is one method, and :meth:`full` and :meth:`by_reference` read in order."""

    run: Run
    source: PinnedSource
    container: PinnedSource | None
    """The image that the pair names; None: there is no pair."""
    standing: Standing
    check: Check
    lease: Lease | None = None
    """None by reference where nothing was there: the documents are put on condition that there are none."""
    _writer: Writer = field(init=False)

    def __post_init__(self) -> None:
        self._writer = Writer(self.run, self.check, self.lease)

    async def open_documents(self, uploads: Uploads) -> None:
        """Create the uploads of the documents before any byte moves."""
        pair = PAIR if self.container is not None else ()
        of_full = () if self.run.request.reference_only else OF_FULL
        await self._writer.open(uploads, [*of_full, ARTIFACT_JSON, *pair, MARKER])

    async def full(self, streamed: Streamed, uploads: Uploads) -> Committed:
        """Commit a full staging."""
        async with self._undone_on_failure():
            return await self._full(streamed, uploads)

    async def by_reference(self) -> Committed:
        """Commit a staging that only points at the source."""
        async with self._undone_on_failure():
            return await self._by_reference()

    async def pair_alone(self, uploads: Uploads) -> Committed:
        """Add ``deployment.json`` and its marker to a staging that is complete without them.

        Raises:
            IntegrityError: an object of the staging is missing, or is not what was staged.
        """
        async with self._undone_on_failure():
            return await self._pair_alone(uploads)

    @asynccontextmanager
    async def _undone_on_failure(self) -> AsyncIterator[None]:
        """Take back what must not stand after a failure.

        That is all of it when it is not what it should be, and else what says that it may be deployed. What another
        run has taken over is its own.
        """
        try:
            yield
        except BaseException as error:
            causes = leaves_of(error)
            if any(isinstance(cause, HeldError) for cause in causes):
                raise
            # The last first: what says that the others may be used.
            keys = self._writer.written[::-1]
            if not any(isinstance(cause, IntegrityError) for cause in causes):
                pair = {self.run.request.prefix + name for name in PAIR}
                keys = [key for key in keys if key in pair]
            with anyio.move_on_after(_UNDO_SECONDS, shield=True):
                await take_back(run=self.run, lease=self.lease, keys=keys)
            raise

    async def _full(self, streamed: Streamed, uploads: Uploads) -> Committed:
        """The steps, in order.

        Raises:
            DigestMismatchError: an object is not what was sent; there is no marker then.
            HeldError: another run has put its marker, or has taken over an upload.
        """
        run, prefix, writer = self.run, self.run.request.prefix, self._writer
        run.observer(PhaseChanged(phase="commit"))
        await uploads.abort_unused()
        if self.lease is not None:
            # Every part by name, so that whoever has to go on from here sends none again.
            await self.lease.write()
        await self._take_down()
        opened = [streamed.archive, *(staged.upload for staged in streamed.members)]
        records = await each(opened, uploads.complete)
        for record in records:
            run.observer(ObjectCompleted(key=record.key, size=record.size))
            writer.written.append(record.key)
        digests = [streamed.digest, *(staged.digest.record() for staged in streamed.members)]
        pairs = [
            (digest.sha256, record.key.removeprefix(prefix))
            for digest, record in zip(digests, records, strict=True)
        ]
        text = checksums_text(pairs).encode()
        checksums = await writer.put(CHECKSUMS, text)
        writer.checks += await each(records, partial(verify_upload, run))
        await writer.verify(checksums)
        await writer.tag(
            *(record.key for record in records),
            older=[record.key for record in records if record.created_by != run.run_id],
        )
        artifact = artifact_of(run, self.source, streamed, upload_check=self.check, objects_verified=True)
        data = to_json(artifact)
        metadata = await writer.put(ARTIFACT_JSON, data)
        staged_files = [
            _staged_file(record, digest.sha256) for record, digest in zip(records, digests, strict=True)
        ]
        await self._clear(MANIFEST_JSON)
        pair = await self._hand_over(staged_reference(run, staged_files[0]), artifact, data)
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
                deployment=pair.file if pair else None,
                deployment_ready=pair.ready if pair else None,
            ),
        )
        listed = await writer.put(MANIFEST_JSON, to_json(manifest))
        for document in (metadata, listed):
            await writer.verify(document)
        return await self._mark(artifact, data, pair)

    async def _by_reference(self) -> Committed:
        run = self.run
        run.observer(PhaseChanged(phase="commit"))
        await self._take_down()
        # Nobody has probed what a store other than AWS does with it.
        verified = self.check if run.destination.is_aws or run.request.upload_check != "auto" else "none"
        while True:
            artifact = artifact_of(run, self.source, None, upload_check=verified, objects_verified=True)
            data = to_json(artifact)
            first = not self._writer.written
            file = await self._writer.put(ARTIFACT_JSON, data, if_absent=self.lease is None and first)
            if artifact.deployment.tags == run.tagging.tags:
                break  # else tags were refused just now, and it must not say that it has them
        await self._writer.verify(file)
        await self._clear()
        pair = await self._hand_over(reference_to(self.source), artifact, data)
        return await self._mark(artifact, data, pair)

    async def _pair_alone(self, uploads: Uploads) -> Committed:
        run, staged = self.run, self.standing.artifact
        run.observer(PhaseChanged(phase="commit"))
        checks = await confirm(run, self.standing)
        await self._writer.open(uploads, PAIR)
        await remove_ready(run, self.standing)
        manifest = self.standing.manifest
        archive = (
            reference_to(self.source)
            if manifest is None
            else staged_reference(run, manifest.files.source_archive or manifest.files.models[0])
        )
        pair = await self._hand_over(archive, staged, self.standing.documents[ARTIFACT_JSON])
        await keep_documents(run, self.standing)
        return Committed(staged, checks + self._writer.checks, pair.document if pair else None)

    async def _take_down(self) -> None:
        """Nothing is staged from here on, and nothing may be deployed."""
        if self.standing.is_complete:
            await delete(self.run, self.run.request.prefix + MARKER)
        await remove_ready(self.run, self.standing)

    async def _clear(self, *upcoming: str) -> None:
        """Remove what must not lie beside the new staging, before anything says that it may be deployed.

        Args:
            upcoming: names of documents that are written later.
        """
        later = (*upcoming, *(PAIR if self.container is not None else ()))
        kept = [*self._writer.written, *(self.run.request.prefix + name for name in later)]
        await remove_stale(self.run, self.standing, kept)

    async def _hand_over(
        self, archive: ObjectReference, artifact: Artifact | None, data: bytes
    ) -> HandedOver | None:
        if self.container is None:
            return None
        document = deployment_of(self.run, self.source, archive, self.container, artifact, data)
        return await hand_over(self._writer, document)

    async def _mark(self, artifact: Artifact, data: bytes, pair: HandedOver | None) -> Committed:
        run = self.run
        marker = Marker(
            completed_at=clock.now(),
            mode=artifact.deployment.staging_mode,
            run_id=run.run_id,
            source=self.source.uri,
            next_step=NEXT_STEP,
            artifact_sha256=hashlib.sha256(data).hexdigest(),
        )
        await self._writer.mark(MARKER, marker.text().encode(), partial(_is_of, run.run_id))
        return Committed(artifact, self._writer.checks, pair.document if pair else None)


def _is_of(run_id: str, text: bytes) -> bool:
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
