"""``stage()``: the whole job, read from top to bottom."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from riva_stream.buffers import Credits
from riva_stream.config import StageRequest
from riva_stream.destination import Destination, hold, resume
from riva_stream.documents.existing import Existing, confirm, inspect, keep_documents
from riva_stream.errors import AccessDeniedError, HeldError, first_of
from riva_stream.events import Observer, PhaseChanged, StageFinished, StageStarted, ignore
from riva_stream.lanes import Lanes
from riva_stream.layout import SCRATCH
from riva_stream.lease import Identity
from riva_stream.manifest import to_json
from riva_stream.pipeline.bintarball import require_content
from riva_stream.pipeline.commit import Commit, Committed
from riva_stream.pipeline.copies import COPIES, SourceCopy, plan_copies
from riva_stream.pipeline.decide import Decision, decide
from riva_stream.pipeline.documents import NEXT_STEP
from riva_stream.pipeline.flow import Streamed, archive_key, stream
from riva_stream.pipeline.handover import find_container
from riva_stream.pipeline.limits import deadline, share_of, watched
from riva_stream.pipeline.planning import plan_of, try_rights
from riva_stream.pipeline.stores import open_stores
from riva_stream.report import StageReport
from riva_stream.retry import Retrier, RetryPolicy
from riva_stream.run import Meter, Run
from riva_stream.s3 import Store, WritableBucket
from riva_stream.s3.probe import probe_uploads
from riva_stream.sink import NotCopiedError
from riva_stream.source import PinnedSource, find_source
from riva_stream.state import StateDirectory, new_run_id
from riva_stream.tasks import in_child_task

__all__ = ["stage"]

_OUTCOMES = {Decision.UPGRADE: "upgraded", Decision.HAND_OVER: "deployment_added"}


@in_child_task
async def stage(
    request: StageRequest,
    *,
    observer: Observer = ignore,
    session: Any = None,
    source_session: Any = None,
    store: Store | None = None,
    source_store: Store | None = None,
    budget: Credits | None = None,
) -> StageReport:
    """Stage one model: find it, stream it, verify it, commit it.

    Cancel it at any time: nothing becomes visible, and running it again, on this host or another, goes on with what
    the store has already.

    Args:
        request: what to stage, from where, to where.
        observer: is told what happens; called on the event loop.
        session: an ``aioboto3.Session`` for the destination; None makes one from the request and the environment.
        source_session: the same for the source; None: the destination's, unless the request names another profile.
        store: an open store (see :func:`riva_stream.open_store`) to share one client between several calls.
        source_store: the same for the source.
        budget: byte credits that several calls in one process share; each takes ``request.memory`` of them.

    Returns:
        What was done, what was verified and how, and the artifact as it stands in the bucket.

    Raises:
        RivaStreamError: see :mod:`riva_stream.errors` for the tree, its exit codes and what may be retried.
    """
    run_id = request.run_id or new_run_id()
    try:
        async with deadline(request.deadline), share_of(budget, request.memory), AsyncExitStack() as stack:
            lanes = Lanes()
            meter = Meter(observer, lanes)
            retrier = Retrier(
                RetryPolicy(retries=request.retries),
                observer,
                meter.touch,
                slots=2 * request.connections + 8 + COPIES,
            )
            run = Run(request, run_id, observer, retrier, lanes, meter)
            # Whether there is a place for state is found out now, and not when the bytes are moved.
            await StateDirectory(request.state_dir, run_id).write(
                "request.json", to_json(request.without_secrets())
            )
            await stack.enter_async_context(watched(run))
            bucket = await open_stores(run, stack, session, source_session, store, source_store)
            retrier.renew = run.renew_sessions
            return await _stage(run, bucket)
    except BaseExceptionGroup as group:
        raise first_of(group) from None


async def _stage(run: Run, bucket: WritableBucket) -> StageReport:
    request = run.request
    run.observer(PhaseChanged(phase="prepare"))
    source = await find_source(run.origin, request.source_bucket, request.source_key, run.retrier)
    container = await find_container(run)
    if request.mode == "bintarball_reference":
        require_content(source, *([container] if container else []))
    else:
        request.plan_for(source.size)
    existing = await inspect(run)
    decision = decide(request, source, existing, container)
    if request.dry_run and decision is not Decision.ALREADY_STAGED:
        return await _planned(run, bucket, source, container, decision)
    if decision is Decision.ALREADY_STAGED and (request.dry_run or run.layout.journal not in existing.etags):
        return await _already_staged(run, existing)
    try:
        return await _stage_held(run, bucket, source, container)
    except (HeldError, AccessDeniedError) as error:
        if decision is not Decision.ALREADY_STAGED:
            raise
        run.warn("journal", f"the journal s3://{request.bucket}/{run.layout.journal} stays: {error}")
        return await _already_staged(run, await inspect(run))


async def _planned(
    run: Run,
    bucket: WritableBucket,
    source: PinnedSource,
    container: PinnedSource | None,
    decision: Decision,
) -> StageReport:
    await try_rights(run, bucket, source)
    check = await _upload_check(run, bucket)
    plan = plan_of(run, source, container, decision, check, await plan_copies(run, bucket, source, check))
    await run.keep("plan.json", to_json(plan))
    report = await _report(run, "planned", Committed(None, []))
    return report.model_copy(update={"plan": plan})


async def _stage_held(
    run: Run, bucket: WritableBucket, source: PinnedSource, container: PinnedSource | None
) -> StageReport:
    """The part that one run at a time does on a prefix."""
    request = run.request
    if request.mode == "full":
        run.meter.source_key = archive_key(run, source)
    async with hold(run, bucket) as destination:
        check = destination.uploads.check = await _upload_check(run, bucket)
        copy = await plan_copies(run, bucket, source, check)
        await resume(destination, identity_of(run, source, check, copy.how))
        # What was there before may have changed until the prefix was ours.
        existing = await destination.inspect()
        decision = decide(request, source, existing, container)
        if decision is Decision.ALREADY_STAGED:
            await destination.abort_strangers()
        else:
            await _begin(run, source, container, check, copy, decision)
            committed = await _commit(Commit(run, source, container, destination), decision, copy)
    if decision is Decision.ALREADY_STAGED:
        return await _already_staged(run, existing)
    return await _report(run, _OUTCOMES.get(decision, "staged"), committed)


async def _commit(commit: Commit, decision: Decision, copy: SourceCopy) -> Committed:
    """Stream what is to be streamed, and commit it."""
    run, destination = commit.run, commit.destination
    if run.request.mode == "bintarball_reference":
        return await commit.bintarball()
    if decision is Decision.HAND_OVER:
        return await commit.deployment_alone()
    if run.request.reference_only:
        return await commit.by_reference()
    return await commit.full(await _streamed(run, commit.source, destination, copy))


async def _streamed(run: Run, source: PinnedSource, destination: Destination, copy: SourceCopy) -> Streamed:
    """Stream the source; once more, and sent, where it turns out that the store does not copy it after all."""
    try:
        return await stream(run, source, destination, copy)
    except (BaseExceptionGroup, NotCopiedError) as error:
        first = first_of(error) if isinstance(error, BaseExceptionGroup) else error
        if not isinstance(first, NotCopiedError):
            raise
        if run.request.source_copy == "store":
            raise first from first.__cause__
        reason = first.what
    run.warn("source-copy", f"{reason}: the source is read once more, and sent")
    await destination.uploads.start_over()
    return await stream(run, source, destination, SourceCopy(None, reason))


def identity_of(run: Run, source: PinnedSource, check: str, copy: str) -> Identity:
    """What a run must agree in with another one to resume its uploads."""
    request = run.request
    return Identity(
        source=source.uri,
        etag=source.etag,
        version_id=source.version_id,
        size=source.size,
        include=sorted(request.include),
        part_size=request.part_size,
        check=check,
        options=[
            *(str(option) for option in (request.sse, request.kms_key_id, request.storage_class)),
            *([f"acl={request.acl}"] if request.acl else []),
            *(f"{name}={value}" for name, value in request.tags.items()),
            # What a dead run has still under way must not come in between parts that were made otherwise.
            *([] if copy == "sent" else [f"copy={copy}"]),
        ],
    )


async def _already_staged(run: Run, existing: Existing) -> StageReport:
    """Confirm what is staged."""
    checks = await confirm(run, existing)
    await keep_documents(run, existing)
    staged = existing.artifact
    if staged is not None:
        compared = {
            "language": (staged.model.language_code, run.request.language),
            "retention-days": (staged.deployment.retention_days, run.request.retention_days),
        }
        for name, (there, asked) in compared.items():
            if there != asked:
                run.warn(
                    "differs", f"it was staged with --{name} {there}, which stays; {asked} was asked for"
                )
        if run.request.tags and staged.deployment.tags != run.request.tags:
            run.warn(
                "differs", "it was staged without these tags, and stays so; to stage it anew: --tag --force"
            )
    return await _report(run, "already_staged", Committed(staged, checks, existing.deployment))


async def _upload_check(run: Run, bucket: WritableBucket) -> str:
    """The checksum that the store verifies what it is sent with; by reference there is too little to ask for."""
    request = run.request
    if request.mode != "full" and request.upload_check == "auto":
        return "crc64nvme" if bucket.is_aws else "md5"
    probed = await probe_uploads(
        bucket,
        request.prefix + SCRATCH[0],
        request.upload_check,
        left=partial(run.warn, "scratch-upload"),
    )
    run.most_parts = probed.most_parts
    return probed.check


async def _begin(
    run: Run,
    source: PinnedSource,
    container: PinnedSource | None,
    check: str,
    copy: SourceCopy,
    decision: Decision,
) -> None:
    request = run.request
    plan = plan_of(run, source, container, decision, check, copy)
    await run.keep("plan.json", to_json(plan.model_copy(update={"rights": []})))  # nothing was tried
    run.observer(
        StageStarted(
            run_id=run.run_id,
            mode=request.mode,
            source_uri=source.uri,
            source_size=source.size,
            destination=request.destination,
            upload_check=check,
            source_copy=copy.how,
            source_copy_reason=copy.reason,
        )
    )


async def _report(run: Run, outcome: str, done: Committed) -> StageReport:
    request, artifact = run.request, done.artifact
    report = StageReport.model_validate(
        {
            "outcome": outcome,
            "run_id": run.run_id,
            "mode": artifact.deployment.staging_mode if artifact else request.mode,
            "destination": request.destination,
            "marker": None if outcome == "planned" else request.destination + run.layout.marker_name,
            "artifact": artifact,
            "deployment": done.deployment,
            "objects": done.checks,
            "warnings": list(run.warnings),
            "seconds": round(run.wall_seconds, 3),
            "next_step": "the same without --dry-run" if outcome == "planned" else NEXT_STEP,
        }
    )
    if outcome != "planned":
        await run.keep("report.json", to_json(report))
    run.observer(PhaseChanged(phase="done"))
    run.observer(StageFinished(run_id=run.run_id, outcome=outcome, seconds=report.seconds))
    return report
