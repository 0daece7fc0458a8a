"""Comparison of a completed object in the store with what was sent, and of the documents with each other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from riva_stream import clock
from riva_stream.deployment import DeploymentState
from riva_stream.documents.read import Documents
from riva_stream.errors import AccessDeniedError, DigestMismatchError, HeldError, TransientError, Where
from riva_stream.layout import is_bintarball, prefix_of
from riva_stream.manifest import (
    Artifact,
    Deployment,
    Finding,
    Model,
    ModelFile,
    StagedFile,
    UploadManifest,
    payload_of,
)
from riva_stream.report import ObjectCheck
from riva_stream.run import Run
from riva_stream.s3 import Bucket, ObjectInfo, Stored
from riva_stream.sink import UploadRecord

__all__ = [
    "ContradictionError",
    "artifact_differences",
    "deployment_differences",
    "differences",
    "disagreements",
    "retry_contradictions",
    "verify_document",
    "verify_upload",
]

T = TypeVar("T")


async def verify_upload(run: Run, record: UploadRecord) -> ObjectCheck:
    """HEAD an object of the archive and compare it with what was computed while it was sent.

    Raises:
        DigestMismatchError: it is missing, or not what was sent.
        HeldError: another run has written it.
    """
    by = await _confirmed(run, record.key, record.size, record.stored, record.crc64nvme, record.created_by)
    if record.expected_etag == record.stored.etag:
        by.append("md5-of-parts")
    return ObjectCheck(key=record.key, size_bytes=record.size, by=by)


async def verify_document(run: Run, file: StagedFile) -> ObjectCheck:
    """HEAD a document that this run has written, and compare it likewise."""
    checksum = file.store_checksum.partition(":")[2] if file.store_checksum else None
    by = await _confirmed(run, file.s3_key, file.size_bytes, Stored(file.etag), checksum, run.run_id)
    return ObjectCheck(key=file.s3_key, size_bytes=file.size_bytes, by=by)


def differences(file: StagedFile, info: ObjectInfo) -> tuple[list[str], list[Finding]]:
    """Compare an object with its manifest entry; return the properties that match, and the differences."""
    kept = info.checksums.get("crc64nvme")
    told = [
        ("size", info.size == file.size_bytes, f"it has {info.size} bytes, {file.size_bytes} were staged"),
        ("etag", info.etag == file.etag, f"its ETag is {info.etag}, but {file.etag} was staged"),
    ]
    if kept is not None and file.store_checksum is not None:
        told.append(
            (
                "crc64nvme",
                f"crc64nvme:{kept}" == file.store_checksum,
                f"its CRC64NVME is {kept}, but {file.store_checksum} was staged",
            )
        )
    same = [name for name, is_same, _ in told if is_same]
    return same, [Finding(code=name, message=text) for name, is_same, text in told if not is_same]


def disagreements(artifact: Artifact, manifest: UploadManifest, prefix: str) -> list[str]:
    """Keys of the archive and the models that the manifest describes otherwise than ``artifact.json``."""
    files = manifest.files
    payload = [*([files.source_archive] if files.source_archive else []), *files.models]
    entries = {file.s3_key: (file.size_bytes, file.checksum) for file in payload}
    known = {prefix + path: (size, f"sha256:{sha256}") for path, size, sha256, _ in payload_of(artifact)}
    return sorted({key for key, _ in entries.items() ^ known.items()})


def artifact_differences(artifact: Artifact, prefix: str) -> list[Finding]:
    """What ``artifact.json`` says otherwise than its prefix and than itself."""
    found = _misplaced(artifact.model, artifact.deployment, prefix)
    models: Sequence[ModelFile | None] = artifact.models or [None]
    if artifact.primary_model not in models:
        found.append(Finding(code="primary-model", message="its primary model is not one of its models"))
    return found


def deployment_differences(documents: Documents, prefix: str) -> list[Finding]:
    """What ``deployment.json`` says otherwise than its prefix and the staging that it is part of."""
    document, artifact, manifest = documents.deployment, documents.artifact, documents.manifest
    if document is None:
        return []
    state, archive = document.deployment, document.bintarball_references.model_archive
    found = _misplaced(document.model, state, prefix)
    told, mode = document.deployment_type, documents.mode
    if mode is not None and told != mode:
        found.append(Finding(code="mode", message=f"its type is {told}, but {mode} was staged"))
    if documents.is_bintarball or artifact is None:
        return found
    source = artifact.source
    wanted: dict[str, object] = {}
    if not documents.is_full:
        wanted = {"s3_uri": source.uri, **source.model_dump(include={"size_bytes", "etag", "version_id"})}
    for path, size, sha256, _ in payload_of(artifact)[:1] if documents.is_full else ():
        wanted = {"s3_uri": state.s3_prefix + path, "size_bytes": size, "sha256": sha256}
        for file in manifest.files.all() if manifest is not None else ():
            if file.s3_key == prefix + path:
                wanted |= {"etag": file.etag, "version_id": file.version_id}
    if archive.model_copy(update=wanted) != archive:
        text = f"it hands over {archive.text()}, which is not that of the staging"
        found.append(Finding(code="model-archive", message=text))
    return found


def _misplaced(model: Model, place: Deployment | DeploymentState, prefix: str) -> list[Finding]:
    """Compare what a document says of its place with the prefix, and with itself.

    Its bucket is not compared with the one that it is read from, which may be an access point, or a copy.
    """
    mode = "bintarball_reference" if is_bintarball(prefix) else None
    levels = prefix_of(mode, place.environment, model.name, model.version)
    if levels == prefix and place.s3_prefix == f"s3://{place.s3_bucket}/{prefix}":
        return []
    text = f"it was written for {place.s3_prefix}, as {levels} in the bucket {place.s3_bucket}"
    return [Finding(code="place", message=text)]


_LOOKS = 5
_PAUSE = 0.2
"""Seconds before the second attempt; doubled before each further one."""


class ContradictionError(TransientError):
    """The store contradicts what was sent. It is asked again before it is believed: an answer may be corrupted."""

    retryable = False  # only by :func:`retry_contradictions`, however many retries there are


async def retry_contradictions(bucket: Bucket, operation: str, ask: Callable[[], Awaitable[T]]) -> T:
    """Return the result of ``ask``, repeated while it raises :class:`ContradictionError`, or is refused.

    Raises:
        DigestMismatchError: the contradiction persisted. If the store could not be asked, that error is raised.
        AccessDeniedError: the refusal persisted.
    """
    for look in range(_LOOKS - 1):
        try:
            return await bucket.retrier(operation, ask)
        except (ContradictionError, AccessDeniedError):
            await clock.sleep(_PAUSE * 2**look)
    try:
        return await bucket.retrier(operation, ask)
    except ContradictionError as error:
        raise DigestMismatchError(error.what, where=error.where, hint=error.hint) from error


async def _confirmed(
    run: Run, key: str, size: int, stored: Stored, crc64nvme: str | None, created_by: str
) -> list[str]:
    """Compare an object; return what was compared."""
    return await retry_contradictions(
        run.destination, "HeadObject", partial(_compare, run, key, size, stored, crc64nvme, created_by)
    )


async def _compare(
    run: Run, key: str, size: int, stored: Stored, crc64nvme: str | None, created_by: str
) -> list[str]:
    info = await run.destination.once.head(key)
    if info is None:
        raise ContradictionError("the object was written, but it is not there")
    where = Where("HeadObject", run.request.bucket, key)
    writer = info.metadata.get("run-id")
    if writer is None:
        raise ContradictionError("the object was written with a run id, and has none", where=where)
    if writer != created_by:
        raise HeldError(
            f"another run has written this object: its run id is {writer}",
            where=where,
            hint="run the same command again",
        )
    told = [("size", size, info.size), ("etag", stored.etag, info.etag)]
    kept = info.checksums.get("crc64nvme")
    if crc64nvme is not None and kept is not None:
        told.append(("crc64nvme", crc64nvme, kept))
    for name, sent, found in told:
        if sent != found:
            raise ContradictionError(
                f"the object in the store is not the one that was sent: its {name} is {found}, not {sent}",
                where=where,
                hint="run the same command again",
            )
    return [*(name for name, _, _ in told), "run-id"]
