"""What the pipeline's next step reads: ``deployment.json``, and after it ``deployment_ready.txt``."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from riva_stream import clock
from riva_stream.deployment import (
    BintarballReferences,
    DeploymentDocument,
    DeploymentReady,
    DeploymentState,
    ObjectReference,
)
from riva_stream.documents.references import reference_to
from riva_stream.manifest import Artifact, StagedFile, artifact_id
from riva_stream.pipeline.documents import NEXT_STEP, build_info, model_of
from riva_stream.run import Run
from riva_stream.s3 import Reader
from riva_stream.sizes import human_size
from riva_stream.source import PinnedSource, find_source

__all__ = [
    "WrittenDeployment",
    "deployment_of",
    "find_container",
    "ready_of",
    "staged_reference",
    "store_of_container",
]


@dataclass(frozen=True, slots=True)
class WrittenDeployment:
    """The deployment documents as they were written."""

    document: DeploymentDocument
    file: StagedFile
    ready: StagedFile


def store_of_container(run: Run) -> Reader:
    """One in the destination's bucket is looked for with the destination's credentials, any other where the source is."""
    request = run.request
    return run.destination.store if request.server_bucket == request.bucket else run.source_store


async def find_container(run: Run) -> PinnedSource | None:
    """Pin the container image by one HEAD; None where none was named.

    Raises:
        SourceNotFoundError: there is none; the message names the nearest keys.
    """
    request = run.request
    if request.server_path is None:
        return None
    return await find_source(
        store_of_container(run),
        request.server_bucket,
        request.server_key,
        run.retrier,
        flag="--server-path",
        variable="RIVA_SERVER_PATH",
    )


def staged_reference(run: Run, file: StagedFile) -> ObjectReference:
    """An object of this very staging."""
    return ObjectReference(
        s3_uri=f"s3://{run.request.bucket}/{file.s3_key}",
        path=file.s3_key,
        size_bytes=file.size_bytes,
        size_human=human_size(file.size_bytes),
        etag=file.etag,
        version_id=file.version_id,
        sha256=file.checksum.removeprefix("sha256:"),
    )


def deployment_of(
    run: Run,
    source: PinnedSource,
    archive: ObjectReference,
    container: PinnedSource,
    staged: Artifact | None = None,
    artifact: bytes = b"",
) -> DeploymentDocument:
    """``deployment.json``.

    Args:
        run: the run.
        source: what it stages.
        archive: where the next step gets the archive.
        container: the image that shall serve it.
        staged: the staging that it belongs to; None for a bintarball reference.
        artifact: ``artifact.json`` of that staging as it is written.
    """
    request = run.request
    mode = staged.deployment.staging_mode if staged else request.mode
    retention_days = staged.deployment.retention_days if staged else request.retention_days
    return DeploymentDocument(
        deployment_type=mode,
        artifact_id=artifact_id(request.model_name, request.model_version),
        created_at=clock.now(),
        model=staged.model if staged else model_of(run),
        bintarball_references=BintarballReferences(
            model_archive=archive, container_image=reference_to(container)
        ),
        deployment=DeploymentState(
            environment=request.env,
            s3_bucket=request.bucket,
            s3_prefix=request.destination,
            retention_days=retention_days,
            no_duplication=archive.s3_uri == source.uri,
            ready_for_deployment=True,
            artifact_sha256=hashlib.sha256(artifact).hexdigest() if staged else None,
        ),
        build_info=build_info(run, source, None),
    )


def ready_of(run: Run, document: DeploymentDocument, data: bytes, token: str) -> bytes:
    """``deployment_ready.txt`` for ``deployment.json`` as it is written, under the hold of ``token``."""
    references = document.bintarball_references
    ready = DeploymentReady(
        ready_at=clock.now(),
        deployment_type=document.deployment_type,
        run_id=run.run_id,
        model_archive=references.model_archive.s3_uri,
        container_image=references.container_image.s3_uri,
        next_step=NEXT_STEP,
        deployment_sha256=hashlib.sha256(data).hexdigest(),
        token=token,
    )
    return ready.text().encode()
