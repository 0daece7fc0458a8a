"""The documents of a staging, built from what the run has found out. No I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

from riva_stream import clock
from riva_stream.deployment import (
    BintarballReferences,
    DeploymentDocument,
    DeploymentReady,
    DeploymentState,
    ObjectReference,
)
from riva_stream.documents.references import reference_to
from riva_stream.flow.digest import DigestRecord
from riva_stream.layout import is_model
from riva_stream.manifest import (
    Artifact,
    BuildInfo,
    Deployment,
    InnerFile,
    LaneSeconds,
    Model,
    ModelFile,
    Source,
    StagedFile,
    Validation,
    artifact_id,
)
from riva_stream.pipeline.stream import Streamed
from riva_stream.run import Run
from riva_stream.sizes import GIB, MIB, human_size
from riva_stream.source import PinnedSource

__all__ = [
    "NEXT_STEP",
    "WrittenDeployment",
    "artifact_of",
    "build_info",
    "deployment_of",
    "ready_of",
    "staged_reference",
]

_VERSION = version("riva-stream")  # reads files, so once, and not while a loop runs
NEXT_STEP = "riva-131: convert the models of this staging"


def artifact_of(run: Run, source: PinnedSource, streamed: Streamed | None, upload_check: str) -> Artifact:
    """``artifact.json``, once all objects are verified; ``streamed`` is None by reference."""
    request = run.request
    files = _model_files(source, streamed)
    return Artifact(
        artifact_id=artifact_id(request.model_name, request.model_version),
        created_at=clock.now(),
        model=_model_of(run),
        source=Source(
            uri=source.uri,
            filename=source.filename,
            size_bytes=source.size,
            size_human=human_size(source.size),
            sha256=streamed.digest.sha256 if streamed else None,
            blake3=streamed.digest.blake3 if streamed else None,
            etag=source.etag,
            version_id=source.version_id,
            status="staged" if streamed else "referenced",
            last_modified=source.last_modified,
        ),
        models=files,
        primary_model=max(files, key=lambda file: file.size_bytes, default=None),
        deployment=Deployment(
            environment=request.env,
            s3_bucket=request.bucket,
            s3_prefix=request.destination,
            retention_days=request.retention_days,
            staging_complete=True,
            staging_mode="full" if streamed else "reference_only",
            reference_mode=streamed is None,
            tags=dict(run.tagging.tags),
        ),
        build_info=build_info(run, source, streamed),
        validation=_validation(run, streamed, upload_check),
    )


def _model_files(source: PinnedSource, streamed: Streamed | None) -> list[ModelFile]:
    """Every staged model, in the archive's order."""
    if streamed is None:
        return []
    if is_model(source.key):
        return [_model_file(source.filename, None, streamed.digest)]
    return [
        _model_file(staged.member.key_name, staged.member.name, staged.digest.record())
        for staged in streamed.members
    ]


def _model_file(filename: str, archive_path: str | None, digest: DigestRecord) -> ModelFile:
    return ModelFile(
        filename=filename,
        relative_path=f"models/{filename}",
        archive_path=archive_path,
        size_bytes=digest.size,
        size_human=human_size(digest.size),
        sha256=digest.sha256,
        blake3=digest.blake3,
        format=filename.rpartition(".")[2] or "unknown",
    )


def _model_of(run: Run) -> Model:
    """The model's description."""
    request = run.request
    return Model(
        name=request.model_name,
        version=request.model_version,
        language_code=request.language,
        architecture=request.model_architecture,
        description=request.description,
    )


def build_info(run: Run, source: PinnedSource, streamed: Streamed | None) -> BuildInfo:
    """The tool, host and run behind a document, and its timings so far; ``streamed`` is None if nothing was read."""
    wall, cpu = run.wall_seconds, run.cpu_seconds
    return BuildInfo(
        version=_VERSION,
        run_id=run.run_id,
        build_host=run.host(),
        aws_region=run.request.region,
        preparation_timestamp=run.started_at,
        wall_seconds=round(wall, 3),
        mib_per_second=round(source.size / MIB / wall, 2) if streamed and wall else 0.0,
        cpu_seconds=round(cpu, 3),
        cpu_seconds_per_gib=round(cpu * GIB / source.size, 3) if streamed and source.size else None,
        resumed_from=streamed.resumed_from if streamed else None,
        lanes={
            lane.name: LaneSeconds(
                bytes=lane.bytes,
                wall_seconds=round(lane.wall_seconds, 3),
                busy_seconds=round(lane.busy_seconds, 3),
                waiting_seconds=round(lane.waiting_seconds, 3),
            )
            for lane in (run.lanes.all() if streamed else ())
        },
    )


def _validation(run: Run, streamed: Streamed | None, upload_check: str) -> Validation:
    summary = streamed.summary if streamed else None
    vouched: Sequence[str] = streamed.vouched_by if streamed else ()
    members = streamed.members if streamed else []
    inside = {staged.member.key_name: staged.inside for staged in members if staged.inside is not None}
    return Validation(
        source_exists=True,
        source_pinned=True,
        source_integrity="+".join(vouched) or "none",
        archive_complete=summary is not None,
        resumed_by=streamed.resumed_by if streamed else None,
        checksums_computed=streamed is not None,
        checksums_verified="sha256-expected" in vouched,
        expected_sha256=run.request.expect_sha256,
        upload_check=upload_check,
        source_copy=streamed.copy.how if streamed else "sent",
        source_copy_reason=streamed.copy.reason if streamed else "",
        objects_verified=True,
        archive_container=summary.container if summary else None,
        archive_members=summary.members if summary else None,
        containers={name: report.container for name, report in inside.items()},
        contents={
            name: [InnerFile(name=inner.name, size_bytes=inner.size) for inner in report.files]
            for name, report in inside.items()
            if report.files
        },
        warnings=list(run.warnings),
    )


# ── what the pipeline's next step reads ──────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class WrittenDeployment:
    """The deployment documents as written."""

    document: DeploymentDocument
    file: StagedFile
    ready: StagedFile


def staged_reference(run: Run, file: StagedFile) -> ObjectReference:
    """A reference to an object of this staging."""
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
        container: the image that is to serve it.
        staged: the staging that it belongs to; None for a bintarball reference.
        artifact: ``artifact.json`` of that staging as written.
    """
    request = run.request
    return DeploymentDocument(
        deployment_type=staged.deployment.staging_mode if staged else request.mode,
        artifact_id=artifact_id(request.model_name, request.model_version),
        created_at=clock.now(),
        model=staged.model if staged else _model_of(run),
        bintarball_references=BintarballReferences(
            model_archive=archive, container_image=reference_to(container)
        ),
        deployment=DeploymentState(
            environment=request.env,
            s3_bucket=request.bucket,
            s3_prefix=request.destination,
            retention_days=staged.deployment.retention_days if staged else request.retention_days,
            no_duplication=archive.s3_uri == source.uri,
            ready_for_deployment=True,
            artifact_sha256=hashlib.sha256(artifact).hexdigest() if staged else None,
        ),
        build_info=build_info(run, source, None),
    )


def ready_of(run: Run, document: DeploymentDocument, data: bytes, token: str) -> bytes:
    """``deployment_ready.txt`` for ``deployment.json`` as written, under the hold of ``token``."""
    references = document.bintarball_references
    return (
        DeploymentReady(
            ready_at=clock.now(),
            deployment_type=document.deployment_type,
            run_id=run.run_id,
            model_archive=references.model_archive.s3_uri,
            container_image=references.container_image.s3_uri,
            next_step=NEXT_STEP,
            deployment_sha256=hashlib.sha256(data).hexdigest(),
            token=token,
        )
        .text()
        .encode()
    )
