"""Decide what to do, from the request and the existing objects. Nothing is read or written."""

from __future__ import annotations

import shlex
from enum import Enum

from riva_stream.config import StageRequest
from riva_stream.documents.existing import Existing
from riva_stream.documents.references import another_container, reference_to
from riva_stream.errors import DestinationConflictError, DigestMismatchError, Where
from riva_stream.layout import DEPLOYMENT_JSON, DEPLOYMENT_READY, MARKER
from riva_stream.naming import option
from riva_stream.printable import in_one_line
from riva_stream.source import PinnedSource

__all__ = ["Decision", "decide"]


class Decision(Enum):
    """What a run does; the values are those of ``plan.would``."""

    STAGE = "stage"
    ALREADY_STAGED = "already_staged"
    ADD_DEPLOYMENT = "add_deployment"
    UPGRADE = "upgrade"
    REPLACE = "replace"


def decide(
    request: StageRequest, source: PinnedSource, existing: Existing, container: PinnedSource | None = None
) -> Decision:
    """Decide what to do, from the request and the existing objects.

    Raises:
        DestinationConflictError: there is another staging, and ``force`` was not given.
        DigestMismatchError: this same source is staged, but its SHA-256 is not the expected one.
    """
    if not existing.is_complete:
        return Decision.STAGE
    if request.mode == "bintarball_reference" and container is not None:
        return _decide_reference(request, source, existing, container)
    where = Where(bucket=request.bucket, key=request.prefix + MARKER)
    staged = existing.artifact
    difference = _difference(request, source, existing) or _deployment_difference(
        request, existing, container
    )
    if not difference and staged is not None:
        expected = request.expect_sha256
        if (
            expected
            and not request.force
            and not request.no_checksum
            and staged.source.sha256 not in {None, expected}
        ):
            raise DigestMismatchError(
                f"the staged source has the SHA-256 {staged.source.sha256}, not the expected {expected}",
                where=where,
                hint="check the expected SHA-256; the source itself has not changed since it was staged",
            )
        if existing.is_by_reference and not request.reference_only:
            return Decision.UPGRADE
        if not request.force:
            whole = container is None or existing.deployment is not None
            return Decision.ALREADY_STAGED if whole else Decision.ADD_DEPLOYMENT
    if request.force:
        return Decision.REPLACE
    raise DestinationConflictError(
        f"{request.destination} holds another staging: {difference}",
        where=where,
        hint=f"stage under another {option('model_version')}, or replace what is there with {option('force')}",
    )


def _difference(request: StageRequest, source: PinnedSource, existing: Existing) -> str:
    """How the existing staging differs from the request, or ""."""
    staged = existing.artifact
    if staged is None:
        return existing.foreign or "it cannot be understood"
    if staged.source.uri != source.uri:
        return f"it was made from {staged.source.uri}"
    if (staged.source.etag, staged.source.size_bytes) != (source.etag, source.size):
        return f"its source was ETag {staged.source.etag}, {staged.source.size_bytes} bytes; now it is {source.etag}, {source.size}"
    if staged.source.version_id != source.version_id:
        return f"its source was version {staged.source.version_id}; now it is {source.version_id}"
    if (
        existing.manifest
        and not request.reference_only
        and set(existing.manifest.include) != set(request.include)
    ):
        words = (
            f"{option('include')} {shlex.quote(in_one_line(pattern))}"
            for pattern in existing.manifest.include
        )
        return f"it was made with {' '.join(words)}"
    return ""


def _deployment_difference(request: StageRequest, existing: Existing, container: PinnedSource | None) -> str:
    """How the existing deployment documents differ from the request, or "" (also if none are requested)."""
    deployment, problem = existing.deployment, existing.deployment_problem
    if container is None:
        is_lost = existing.is_by_reference and not request.reference_only and existing.may_be_deployable
        return f"its {DEPLOYMENT_JSON} would be lost: no container image is named" if is_lost else ""
    if deployment is not None:
        return another_container(deployment, container)
    # In a full staging the marker vouches for them, and replacing them would contradict it; in any other their own
    # marker does, even one written by another version.
    named = request.prefix + DEPLOYMENT_JSON in existing.committed_keys
    return (problem or f"its {DEPLOYMENT_JSON} is missing") if named or existing.has_newer_deployment else ""


def _decide_reference(
    request: StageRequest, source: PinnedSource, existing: Existing, container: PinnedSource
) -> Decision:
    """Decide for a bintarball reference."""
    if request.force:
        return Decision.REPLACE
    difference = existing.deployment_problem
    if existing.deployment is not None:
        there, asked = existing.deployment.bintarball_references.model_archive, reference_to(source)
        if there.is_same(asked):
            difference = another_container(existing.deployment, container)
        else:
            difference = f"it is for the archive {there.text()}; the request names {asked.text()}"
        if not difference:
            return Decision.ALREADY_STAGED
    raise DestinationConflictError(
        f"{request.destination} holds another reference: {difference}",
        where=Where(bucket=request.bucket, key=request.prefix + DEPLOYMENT_READY),
        hint=f"write it under another {option('model_version')}, or replace what is there with {option('force')}",
    )
