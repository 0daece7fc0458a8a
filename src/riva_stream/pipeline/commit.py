"""From "all bytes are durable" to the marker: complete, describe, verify, commit.

The order is the guarantee. The old marker is deleted just before the first Complete; the new one is put after every
object was compared by HEAD, and after every key of an older staging that this one does not write was deleted.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from riva_stream import clock
from riva_stream.deployment import DOCUMENT_LIMIT, DeploymentDocument, ObjectReference
from riva_stream.destination import Destination
from riva_stream.documents.existing import confirm, save_document_copies
from riva_stream.documents.references import reference_to
from riva_stream.errors import ArchiveError, ArchiveFault
from riva_stream.events import PhaseChanged
from riva_stream.layout import (
    ARTIFACT_JSON,
    CHECKSUMS,
    DEPLOYMENT_DOCUMENTS,
    DEPLOYMENT_JSON,
    DEPLOYMENT_READY,
    MANIFEST_JSON,
    MARKER,
    OF_FULL,
)
from riva_stream.manifest import (
    Artifact,
    Marker,
    StagedFile,
    StagedFiles,
    UploadManifest,
    checksums_text,
    to_json,
)
from riva_stream.naming import option
from riva_stream.pipeline.documents import (
    NEXT_STEP,
    WrittenDeployment,
    deployment_of,
    ready_of,
    staged_reference,
)
from riva_stream.pipeline.work import Payload, Work
from riva_stream.report import ObjectCheck
from riva_stream.run import Run
from riva_stream.sink import UploadRecord

__all__ = ["Commit", "Committed"]


_ENTRY = 1 << 10
"""Bytes that an entry of the manifest has beside its key, at most: its ETag, its checksums and its VersionId."""


@dataclass(frozen=True, slots=True)
class Committed:
    """The committed staging."""

    artifact: Artifact | None
    checks: list[ObjectCheck]
    deployment: DeploymentDocument | None = None


@dataclass(eq=False)
class Commit:
    """Writes one staging; each mode is one method, in order of execution."""

    run: Run
    work: Work
    destination: Destination

    async def full(self, payload: Payload) -> Committed:
        """Commit a full staging.

        Raises:
            DigestMismatchError: an object is not what was sent; there is no marker then.
            HeldError: another run has taken over.
        """
        run, destination = self.run, self.destination
        await self._require_readable(payload)
        async with self._replacing(*OF_FULL, ARTIFACT_JSON, *self._deployment_names, MARKER):
            records = await destination.complete_all(payload.uploads)
            entries = [
                (sha256, record.key.removeprefix(run.layout.prefix))
                for sha256, record in zip(payload.sha256, records, strict=True)
            ]
            checksums = await destination.put(CHECKSUMS, checksums_text(entries).encode())
            await destination.verify(checksums)
            artifact = self.work.describe(destination.uploads.check)
            data = to_json(artifact)
            metadata = await destination.verify(await destination.put(ARTIFACT_JSON, data))
            await destination.clear(MANIFEST_JSON, *self._deployment_names)
            staged = [
                _staged_file(record, sha256) for record, sha256 in zip(records, payload.sha256, strict=True)
            ]
            deployment = await self._write_deployment(staged_reference(run, staged[0]), artifact, data)
            archive, models = (staged[:1], staged[1:]) if payload.has_archive else ([], staged)
            listed = to_json(
                UploadManifest(
                    upload_id=run.run_id,
                    started_at=run.started_at,
                    s3_base=run.request.destination,
                    include=list(run.request.include),
                    files=StagedFiles(
                        source_archive=archive[0] if archive else None,
                        models=models,
                        checksums=checksums,
                        metadata=metadata,
                        deployment=deployment.file if deployment else None,
                        deployment_ready=deployment.ready if deployment else None,
                    ),
                )
            )
            await destination.put(MANIFEST_JSON, listed)
            return await self._seal(artifact, data, listed, deployment)

    async def by_reference(self) -> Committed:
        """Commit a staging that only refers to the source."""
        run, destination = self.run, self.destination
        # By reference, an automatic upload check is not probed on stores other than AWS.
        probed = run.destination.is_aws or run.request.upload_check != "auto"
        async with self._replacing(ARTIFACT_JSON, *self._deployment_names, MARKER):
            while True:
                artifact = self.work.describe(destination.uploads.check if probed else "none")
                data = to_json(artifact)
                await destination.put(ARTIFACT_JSON, data)
                if artifact.deployment.tags == run.tagging.tags:
                    break  # otherwise tags were refused just now, and the artifact must not list them
            await destination.clear(*self._deployment_names)
            deployment = await self._write_deployment(reference_to(self.work.source), artifact, data)
            return await self._seal(artifact, data, None, deployment)

    async def bintarball(self) -> Committed:
        """Commit a bintarball reference: its marker is that of the deployment documents."""
        async with self._replacing(*DEPLOYMENT_DOCUMENTS):
            document = await self._seal_deployment(reference_to(self.work.source))
        return Committed(None, self.destination.checks, document)

    async def deployment_alone(self) -> Committed:
        """Add the deployment documents to a staging that is complete without them.

        Raises:
            IntegrityError: an object of the staging is missing, or is not what was staged.
        """
        run, destination, existing = self.run, self.destination, self.destination.existing
        run.observer(PhaseChanged(phase="commit"))
        checks = await confirm(run, existing)
        manifest = existing.manifest
        archive = (
            reference_to(self.work.source)
            if manifest is None
            else staged_reference(run, manifest.files.source_archive or manifest.files.models[0])
        )
        async with destination.commit(DEPLOYMENT_DOCUMENTS):
            await self.work.confirm()
            await destination.retract_ready()
            data = existing.documents.texts[ARTIFACT_JSON]
            document = await self._seal_deployment(archive, existing.artifact, data)
        await save_document_copies(run, existing)
        return Committed(existing.artifact, checks + destination.checks, document)

    async def _require_readable(self, payload: Payload) -> None:
        """Refuse documents that could not be read back, while nothing has been replaced yet.

        Raises:
            ArchiveError: there are so many models, or their names are so long, that their documents are too large.
        """
        artifact = await clock.in_thread(to_json, self.work.describe(self.destination.uploads.check))
        manifest = sum(len(upload.key.encode()) + _ENTRY for upload in payload.uploads)
        for name, size in ((ARTIFACT_JSON, len(artifact)), (MANIFEST_JSON, manifest)):
            if size > DOCUMENT_LIMIT:
                raise ArchiveError(
                    f"{len(payload.uploads)} models with such names make {name} larger than the {DOCUMENT_LIMIT >> 20} MiB "
                    "that are ever read",
                    hint=f"stage them as several archives, or fewer of them with {option('include')}",
                    fault=ArchiveFault.LIMIT,
                )

    @property
    def _deployment_names(self) -> tuple[str, ...]:
        return DEPLOYMENT_DOCUMENTS if self.work.container is not None else ()

    @asynccontextmanager
    async def _replacing(self, *names: str) -> AsyncIterator[None]:
        """Write these documents in place of the current staging, which is retracted first."""
        self.run.observer(PhaseChanged(phase="commit"))
        async with self.destination.commit(names):
            await self.work.confirm()  # before the current staging is deleted
            await self.destination.retract()
            yield

    def _document(
        self, archive: ObjectReference, artifact: Artifact | None, artifact_data: bytes
    ) -> tuple[DeploymentDocument, bytes]:
        """``deployment.json`` as a document and as bytes."""
        if self.work.container is None:
            raise ValueError("there is no container image to deploy")
        source, container = self.work.source, self.work.container
        document = deployment_of(self.run, source, archive, container, artifact, artifact_data)
        return document, to_json(document)

    async def _seal_deployment(
        self, archive: ObjectReference, artifact: Artifact | None = None, artifact_data: bytes = b""
    ) -> DeploymentDocument:
        """Write the deployment documents, the second of which is the marker."""
        destination = self.destination
        document, data = self._document(archive, artifact, artifact_data)
        await destination.put(DEPLOYMENT_JSON, data)
        ready = ready_of(self.run, document, data, destination.lease.token)
        await destination.seal(DEPLOYMENT_READY, ready, self.work.confirm)
        return document

    async def _write_deployment(
        self, archive: ObjectReference, artifact: Artifact, artifact_data: bytes
    ) -> WrittenDeployment | None:
        """Write the deployment documents and verify the first; everything that they name is verified by now."""
        if self.work.container is None:
            return None
        destination = self.destination
        document, data = self._document(archive, artifact, artifact_data)
        file = await destination.verify(await destination.put(DEPLOYMENT_JSON, data))
        text = ready_of(self.run, document, data, destination.lease.token)
        return WrittenDeployment(document, file, await destination.put(DEPLOYMENT_READY, text))

    async def _seal(
        self, artifact: Artifact, data: bytes, manifest: bytes | None, deployment: WrittenDeployment | None
    ) -> Committed:
        run, destination = self.run, self.destination
        marker = Marker(
            completed_at=clock.now(),
            mode=artifact.deployment.staging_mode,
            run_id=run.run_id,
            source=self.work.source.uri,
            next_step=NEXT_STEP,
            artifact_sha256=hashlib.sha256(data).hexdigest(),
            manifest_sha256=hashlib.sha256(manifest).hexdigest() if manifest is not None else None,
            token=destination.lease.token,
        )
        await destination.seal(MARKER, marker.text().encode(), self.work.confirm)
        return Committed(artifact, destination.checks, deployment.document if deployment else None)


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
