"""``stage()``: the whole job, read from top to bottom."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from riva_stream.buffers import Credits
from riva_stream.config import StageRequest
from riva_stream.deployment import DEPLOYMENT_READY
from riva_stream.errors import first_of
from riva_stream.events import Observer, PhaseChanged, StageFinished, StageStarted, ignore
from riva_stream.lanes import Lanes
from riva_stream.manifest import MARKER, to_json
from riva_stream.memory import plan_memory
from riva_stream.pipeline.bintarball import (
    commit_reference,
    confirmed,
    decide_reference,
    inspect_reference,
)
from riva_stream.pipeline.commit import Commit, Committed
from riva_stream.pipeline.documents import NEXT_STEP
from riva_stream.pipeline.flow import archive_key, stream
from riva_stream.pipeline.handover import find_container
from riva_stream.pipeline.limits import deadline, share_of, watched
from riva_stream.pipeline.planning import plan_of, try_rights
from riva_stream.pipeline.recovery import hold, identity_of
from riva_stream.pipeline.run import Meter, Run
from riva_stream.pipeline.standing import (
    Decision,
    Standing,
    confirm,
    decide,
    inspect,
    keep_documents,
    remove_leftover,
)
from riva_stream.pipeline.stores import open_stores
from riva_stream.report import StageReport
from riva_stream.retry import Retrier, RetryPolicy
from riva_stream.s3 import Store
from riva_stream.s3.probe import enforced_check
from riva_stream.sink import Uploads
from riva_stream.source import PinnedSource, find_source
from riva_stream.state import OWN_FOLDER, StateDirectory, new_run_id

__all__ = ["stage"]

_SCRATCH = OWN_FOLDER + "probe"
_OUTCOMES = {Decision.UPGRADE: "upgraded", Decision.HAND_OVER: "deployment_added"}


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
                RetryPolicy(retries=request.retries), observer, meter.touch, slots=2 * request.connections + 8
            )
            run = Run(request, run_id, observer, retrier, lanes, meter)
            # Whether there is a place for state is found out now, and not when the bytes are moved.
            await StateDirectory(request.state_dir, run_id).write(
                "request.json", to_json(request.without_secrets())
            )
            await open_stores(run, stack, session, source_session, store, source_store)
            retrier.renew = run.renew_sessions
            await stack.enter_async_context(watched(run))
            return await _stage(run)
    except BaseExceptionGroup as group:
        raise first_of(group) from None


async def _stage(run: Run) -> StageReport:
    request = run.request
    run.observer(PhaseChanged(phase="prepare"))
    source = await find_source(run.origin, request.source_bucket, request.source_key, run.retrier)
    container = await find_container(run)
    if request.mode == "bintarball_reference" and container is not None:
        return await _refer(run, source, container)
    plan_memory(request.memory, request.part_size_for(source.size))
    standing = await inspect(run)
    decision = decide(request, source, standing, container)
    if decision is Decision.ALREADY_STAGED:
        return await _already_staged(run, standing)
    if request.dry_run:
        return await _planned(run, source, container, decision)
    if request.reference_only and container is None and standing.is_empty:
        # Two documents where nothing is: their own condition suffices, that there is none.
        check = await _upload_check(run)
        await _begin(run, source, container, check, decision)
        commit = Commit(run, source, container, standing, check)
        return await _report(run, "staged", await commit.by_reference())
    return await _stage_held(run, source, container)


async def _planned(
    run: Run, source: PinnedSource, container: PinnedSource | None, decision: Decision
) -> StageReport:
    await try_rights(run, source)
    plan = plan_of(run, source, container, decision, await _upload_check(run))
    await run.keep("plan.json", to_json(plan))
    report = await _report(run, "planned", Committed(None, []))
    return report.model_copy(update={"plan": plan})


async def _refer(run: Run, source: PinnedSource, container: PinnedSource) -> StageReport:
    """Write the two files that refer to archive and image where they lie."""
    pair = await inspect_reference(run, source, container)
    decision = decide_reference(run, source, container, pair)
    if decision is Decision.ALREADY_STAGED:
        return await _report(run, "already_staged", confirmed(run, pair))
    if run.request.dry_run:
        return await _planned(run, source, container, decision)
    check = await _upload_check(run)
    await _begin(run, source, container, check, decision)
    return await _report(run, "staged", await commit_reference(run, source, container, pair, check))


async def _stage_held(run: Run, source: PinnedSource, container: PinnedSource | None) -> StageReport:
    """The part that one run at a time does on a prefix."""
    request = run.request
    uploads = Uploads(
        run.destination,
        request.bucket,
        "none",
        run.retrier,
        run.lanes.upload,
        lambda upload, size: run.meter.add(
            durable=size, durable_source=size if upload.key == archive_key(run, source) else 0
        ),
        run.run_id,
        keep=True,
        tagging=run.tagging,
    )
    async with hold(run, uploads) as held:
        # What was there before may have changed until the prefix was ours.
        check = uploads.check = await _upload_check(run)
        held.identity = identity_of(run, source, check)
        uploads.guard = held.lease.check
        async with uploads:
            await held.adopt()
            standing = await inspect(run)
            decision = decide(request, source, standing, container)
            if decision is Decision.ALREADY_STAGED:
                return await _already_staged(run, standing)
            await _begin(run, source, container, check, decision)
            commit = Commit(run, source, container, standing, check, held.lease)
            if decision is Decision.HAND_OVER:
                committed = await commit.pair_alone(uploads)
            elif request.reference_only:
                await commit.open_documents(uploads)
                committed = await commit.by_reference()
            else:
                await commit.open_documents(uploads)
                streamed = await stream(run, source, uploads)
                committed = await commit.full(streamed, uploads)
    return await _report(run, _OUTCOMES.get(decision, "staged"), committed)


async def _already_staged(run: Run, standing: Standing) -> StageReport:
    """Confirm what is staged, and remove what its run could not: its journal, when it died just after the marker."""
    checks = await confirm(run, standing)
    if not run.request.dry_run:
        await remove_leftover(run, standing)
    await keep_documents(run, standing)
    staged = standing.artifact
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
    return await _report(run, "already_staged", Committed(staged, checks, standing.pair.document))


async def _upload_check(run: Run) -> str:
    """The checksum that the store verifies what it is sent with; by reference there is too little to ask for."""
    request = run.request
    if request.mode != "full" and request.upload_check == "auto":
        return "crc64nvme" if run.destination.is_aws else "md5"
    return await enforced_check(
        run.destination, request.bucket, request.prefix + _SCRATCH, request.upload_check, run.retrier
    )


async def _begin(
    run: Run, source: PinnedSource, container: PinnedSource | None, check: str, decision: Decision
) -> None:
    request = run.request
    plan = plan_of(run, source, container, decision, check)
    await run.keep("plan.json", to_json(plan.model_copy(update={"rights": []})))  # nothing was tried
    run.observer(
        StageStarted(
            run_id=run.run_id,
            mode=request.mode,
            source_uri=source.uri,
            source_size=source.size,
            destination=request.destination,
            upload_check=check,
        )
    )


async def _report(run: Run, outcome: str, done: Committed) -> StageReport:
    request, artifact = run.request, done.artifact
    marker = DEPLOYMENT_READY if request.mode == "bintarball_reference" else MARKER
    report = StageReport.model_validate(
        {
            "outcome": outcome,
            "run_id": run.run_id,
            "mode": artifact.deployment.staging_mode if artifact else request.mode,
            "destination": request.destination,
            "marker": None if outcome == "planned" else request.destination + marker,
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
