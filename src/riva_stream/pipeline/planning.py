"""What a run would do, and whether it is permitted to, for ``--dry-run``."""

from __future__ import annotations

from functools import partial

from riva_stream.documents.references import reference_to
from riva_stream.layout import (
    ARTIFACT_JSON,
    CHECKSUMS,
    DEPLOYMENT_JSON,
    DEPLOYMENT_READY,
    MANIFEST_JSON,
    MARKER,
    SCRATCH,
)
from riva_stream.pipeline.decide import Decision
from riva_stream.pipeline.work import Work
from riva_stream.report import Plan, PlannedObject, TriedRights
from riva_stream.run import Run
from riva_stream.s3 import WritableBucket
from riva_stream.s3.probe import try_aborting
from riva_stream.s3.scratch import scratch_upload
from riva_stream.source import FEW, PinnedRanges

__all__ = ["plan_of", "try_rights"]


def plan_of(run: Run, work: Work, decision: Decision, check: str) -> Plan:
    """The plan for a source that was found and a destination that was inspected."""
    request, container = run.request, work.container
    shares = request.plan_for(work.largest, run.most_parts)
    etag, version_id = work.pin
    source, destination = ["HeadObject"], ["ListObjectsV2"]
    if request.mode == "full":
        source.append("GetObject")
        destination += ["CreateMultipartUpload", "AbortMultipartUpload"]
    elif request.mode == "bintarball_reference":
        destination = ["GetObject"]
    return Plan(
        mode=request.mode,
        source=work.uri,
        source_size=work.size,
        source_etag=etag,
        source_version_id=version_id,
        destination=request.destination,
        container_image=reference_to(container) if container else None,
        objects=_objects(run, work, decision),
        include=list(request.include),
        part_size=run.part_size_for(work.largest),
        connections=request.connections,
        memory_ceiling=request.memory,
        read_share=shares.read_share,
        write_share=shares.write_share,
        upload_check=check,
        source_copy=work.method.how,
        source_copy_reason=work.method.reason,
        rights=[
            TriedRights(of="source", operations=source),
            *(
                [TriedRights(of="container_image", operations=["HeadObject"])]
                if container is not None
                else []
            ),
            TriedRights(of="destination", operations=destination),
        ],
        would=decision.value,
    )


def _objects(run: Run, work: Work, decision: Decision) -> list[PlannedObject]:
    """The keys that a run would write, in its order."""
    request = run.request
    deployment = [
        PlannedObject(key=request.prefix + DEPLOYMENT_JSON, kind="deployment"),
        PlannedObject(key=request.prefix + DEPLOYMENT_READY, kind="deployment-ready"),
    ]
    if decision is Decision.ADD_DEPLOYMENT or request.mode == "bintarball_reference":
        return deployment
    full = [*work.planned(), PlannedObject(key=request.prefix + CHECKSUMS, kind="checksums")]
    return [
        *(full if request.mode == "full" else ()),
        PlannedObject(key=request.prefix + ARTIFACT_JSON, kind="metadata"),
        *(deployment if request.server_path else ()),
        *(
            [PlannedObject(key=request.prefix + MANIFEST_JSON, kind="manifest")]
            if request.mode == "full"
            else ()
        ),
        PlannedObject(key=request.prefix + MARKER, kind="marker"),
    ]


async def try_rights(run: Run, bucket: WritableBucket, work: Work) -> None:
    """Test the permissions of a full staging: read two bytes of the source, and abort an upload at once.

    A staging by reference may need neither.

    Raises:
        AccessDeniedError: a permission is missing; the message names it.
    """
    if work.first is None:
        return
    if work.first.size:
        ranges = PinnedRanges(run.source_store, work.first, run.observer)
        await run.retrier("GetObject", partial(ranges.first, FEW))
    key = run.request.prefix + SCRATCH[1]
    await try_aborting(bucket, key)
    async with scratch_upload(bucket, key, tagged=run.tagging.along) as upload:
        await upload.abort()
