"""One staging from any kind of work: inspect, decide, hold the prefix, move the bytes, commit."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial

from riva_stream.deployment import DOCUMENT_LIMIT
from riva_stream.destination import hold, resume, warn_resumed
from riva_stream.documents.existing import Existing, confirm, fetch_document, inspect, save_document_copies
from riva_stream.errors import (
    AccessDeniedError,
    ConfigurationError,
    DestinationConflictError,
    HeldError,
    IntegrityError,
    RivaStreamError,
    TransientError,
    Where,
)
from riva_stream.events import PhaseChanged, StageFinished, StageStarted
from riva_stream.layout import SCRATCH, Layout, layout_of
from riva_stream.lease import SENT_INSTEAD, Process, read_journal, watch
from riva_stream.manifest import to_json
from riva_stream.naming import option
from riva_stream.pipeline.commit import Commit, Committed
from riva_stream.pipeline.decide import Decision, decide
from riva_stream.pipeline.documents import NEXT_STEP
from riva_stream.pipeline.planning import plan_of, try_rights
from riva_stream.pipeline.work import Work
from riva_stream.report import Plan, StageReport
from riva_stream.run import Run
from riva_stream.s3 import UNSEEN, Bucket, WritableBucket
from riva_stream.s3.probe import probe_uploads

__all__ = ["carry_out"]

_OUTCOMES = {Decision.UPGRADE: "upgraded", Decision.ADD_DEPLOYMENT: "deployment_added"}


async def carry_out(run: Run, bucket: WritableBucket, work: Work) -> StageReport:
    """Stage the work.

    Raises:
        RivaStreamError: see :mod:`riva_stream.errors`.
    """
    request = run.request
    _require_outside(run, work)
    existing, decision = await _inspect_and_decide(run, work)
    if request.dry_run and decision is not Decision.ALREADY_STAGED:
        return await _dry_run(run, bucket, work, decision)
    is_staged = decision is Decision.ALREADY_STAGED
    if is_staged and (request.dry_run or not await _is_journaled(run, existing)):
        return await _already_staged(run, existing)
    try:
        return await _run_under_lease(
            run,
            bucket,
            work,
            listed=is_staged or run.layout.journal in existing.etags,
            lists=existing.listed,
        )
    except (HeldError, AccessDeniedError) as error:
        if decision is not Decision.ALREADY_STAGED:
            raise
        with suppress(DestinationConflictError):
            existing, decision = await _inspect_and_decide(run, work)
            if decision is Decision.ALREADY_STAGED:
                run.warn("journal", f"the journal s3://{request.bucket}/{run.layout.journal} stays: {error}")
                return await _already_staged(run, existing)
        raise  # the staging is gone: the run that holds the prefix is about to replace it


def _require_outside(run: Run, work: Work) -> None:
    """Refuse to read from the very prefix that is going to be replaced, as far as names show it.

    Raises:
        ConfigurationError: an object that is read or referred to is inside the prefix.
    """
    for bucket, key in work.reads():
        is_here = bucket.store is run.destination.store and bucket.name == run.layout.bucket
        if is_here and key.startswith(run.layout.prefix):
            raise _inside(run, bucket, key)


async def _require_elsewhere(run: Run, work: Work, existing: Existing, token: str) -> None:
    """Refuse the same if the bucket has another name, such as an access point alias: our own journal is found there.

    Raises:
        ConfigurationError: an object that is read or referred to is inside the prefix.
    """
    layout = run.layout
    for bucket, key in work.reads():
        may_be_here = key in existing.etags or not existing.listed
        if not (key.startswith(layout.prefix) and may_be_here):
            continue
        try:
            journal = await bucket.get_confirming_absence(layout.journal, limit=DOCUMENT_LIMIT)
            is_here = journal is not None and token.encode() in journal.data
        except TransientError:
            raise
        except RivaStreamError:
            # It may be there. If so, the marker is there as well, which no other staging has, except for a replica's.
            marker = await bucket.get_confirming_absence(layout.marker, limit=DOCUMENT_LIMIT, listed=False)
            is_here = marker is not None and marker.info.etag == existing.marker_etag
        if is_here:
            raise _inside(run, bucket, key)


async def _require_kept(run: Run, work: Work, here: Process) -> None:
    """Before the payload here is deleted: no run may be about to replace a staging that this one is made from.

    Two stagings made from each other would leave neither. Each puts its journal before it looks for the other's, so at
    least one of them sees it.

    Raises:
        TransientError: a live run holds that prefix.
    """
    for bucket, layout in _bases(run, work):
        try:
            found = await read_journal(bucket, layout.journal, listed=True)
            while found is not None:
                life = await watch(bucket, layout.journal, found, here, observer=run.observer)
                if life is not None:
                    break
                found = await read_journal(bucket, layout.journal, listed=True)  # reported gone, once
        except TransientError:
            raise
        except RivaStreamError as error:
            run.warn(
                "base", f"whether another run works on {layout.uri}, which is read, is not known: {error}"
            )
            continue
        if found is not None and life is not None and life.alive:
            raise TransientError(
                f"{layout.uri}, which this staging is made from, is held by a live run",
                where=Where("GetObject", layout.bucket, layout.journal),
                hint="run again when that one has ended",
            )


def _bases(run: Run, work: Work) -> list[tuple[Bucket, Layout]]:
    """The stagings, other than the one being made, that contain what is read or referred to."""
    found: dict[tuple[int, Layout], Bucket] = {}
    for bucket, key in work.reads():
        layout = layout_of(bucket.name, key)
        is_here = bucket.store is run.destination.store and layout == run.layout
        if layout is not None and not is_here:
            found[id(bucket.store), layout] = replace(bucket, retrier=run.retrier)
    return [(bucket, layout) for (_, layout), bucket in found.items()]


def _inside(run: Run, bucket: Bucket, key: str) -> ConfigurationError:
    return ConfigurationError(
        f"s3://{bucket.name}/{key} is inside {run.layout.uri}, which is going to be replaced",
        where=Where(bucket=bucket.name, key=key),
        hint=f"name another place with --to, or with {option('env')}, {option('bucket')}, {option('model_name')} or {option('model_version')}",
    )


async def _is_journaled(run: Run, existing: Existing) -> bool:
    """Whether there is a journal, even without permission to list."""
    if existing.listed:
        return run.layout.journal in existing.etags
    info = await run.destination.head_confirming_absence(run.layout.journal)
    return info is not None and info is not UNSEEN


async def _inspect_and_decide(run: Run, work: Work) -> tuple[Existing, Decision]:
    """The existing objects and the decision that follows, without holding the prefix.

    Raises:
        HeldError: the staging was replaced while it was inspected.
    """
    existing = await inspect(run)
    try:
        return existing, decide(run.request, work.source, existing, work.container)
    except (DestinationConflictError, IntegrityError) as error:
        await _require_marker(run, existing, error)
        raise


async def _require_marker(run: Run, existing: Existing, found: RivaStreamError | None = None) -> None:
    """Check that the marker is still the one that was read: otherwise the findings may mix two stagings.

    Raises:
        HeldError: it is not.
        AccessDeniedError: it may not be read any more.
    """
    # By GET, as before: some stores' HEAD returns other ETags.
    get = partial(run.destination.get_confirming_refusal, listed=existing.listed)
    marker = await fetch_document(run, get, run.layout.marker)
    if (marker.info.etag if marker else None) != existing.marker_etag:
        raise HeldError(
            f"another run replaced the staging at {run.layout.uri} while it was being inspected",
            where=Where("GetObject", run.layout.bucket, run.layout.marker),
            hint="run the same command again when it is done: it then says whether the staging is there",
        ) from found


async def _dry_run(run: Run, bucket: WritableBucket, work: Work, decision: Decision) -> StageReport:
    bucket = replace(bucket, left=run.warn_scratch)
    await try_rights(run, bucket, work)
    check = await _upload_check(run, bucket)
    await work.plan(bucket, check)
    plan = plan_of(run, work, decision, check)
    await run.save_copy("plan.json", to_json(plan))
    return await _report(run, "planned", Committed(None, []), plan)


async def _run_under_lease(
    run: Run, bucket: WritableBucket, work: Work, *, listed: bool, lists: bool
) -> StageReport:
    """The part that only one run at a time does on a prefix."""
    run.meter.own_keys = work.own_keys
    async with hold(run, bucket, listed=listed, lists=lists) as destination:
        check = destination.uploads.check = await _upload_check(run, destination.guarded)
        await work.plan(destination.guarded, check)
        identity = work.identity(check)
        instead = identity.model_copy(update={"source_copy": SENT_INSTEAD})
        before = destination.lease.predecessor
        if identity.is_copied and run.request.source_copy == "auto" and before and before.identity == instead:
            # Otherwise each run would begin with copies and then send the source instead.
            identity = instead
            work.send_instead("the store did not copy for the run before")
        await resume(destination, identity)
        # The content may have changed until the prefix was ours.
        existing = await destination.inspect()
        await _require_elsewhere(run, work, existing, destination.lease.token)
        decision = decide(run.request, work.source, existing, work.container)
        if decision is Decision.ALREADY_STAGED:
            await destination.ensure()
            await destination.abort_foreign_uploads()
        else:
            goes = decision is Decision.REPLACE or existing.may_hold_payload(run.layout)
            if goes and decision is not Decision.ADD_DEPLOYMENT:
                await _require_kept(run, work, destination.lease.process)
            if decision is not Decision.ADD_DEPLOYMENT:
                warn_resumed(destination)
            await _begin(run, work, check, decision)
            committed = await _commit(Commit(run, work, destination), decision)
    if decision is Decision.ALREADY_STAGED:
        return await _already_staged(run, existing)
    return await _report(run, _OUTCOMES.get(decision, "staged"), committed)


async def _commit(commit: Commit, decision: Decision) -> Committed:
    """Move the payload if there is one, and commit."""
    request = commit.run.request
    if request.mode == "bintarball_reference":
        return await commit.bintarball()
    if decision is Decision.ADD_DEPLOYMENT:
        return await commit.deployment_alone()
    if request.reference_only:
        return await commit.by_reference()
    return await commit.full(await commit.work.move(commit.destination))


async def _already_staged(run: Run, existing: Existing) -> StageReport:
    """Verify the existing staging."""
    try:
        checks = await confirm(run, existing)
    except IntegrityError as error:
        await _require_marker(run, existing, error)
        raise
    await _require_marker(run, existing)
    await save_document_copies(run, existing)
    staged = existing.artifact
    if staged is not None:
        compared = {
            "language": (staged.model.language_code, run.request.language),
            "retention_days": (staged.deployment.retention_days, run.request.retention_days),
        }
        for name, (there, asked) in compared.items():
            if there != asked:
                run.warn(
                    "differs",
                    f"it was staged with {option(name)} {there}, which is kept; {asked} was requested",
                )
        if run.request.tags and staged.deployment.tags != run.request.tags:
            run.warn(
                "differs", f"it was staged without these tags; to restage: {option('tag')} {option('force')}"
            )
    return await _report(run, "already_staged", Committed(staged, checks, existing.deployment))


async def _upload_check(run: Run, bucket: WritableBucket) -> str:
    """The checksum by which the store verifies uploads; by reference there is too little data to justify a probe."""
    request = run.request
    if request.mode != "full" and request.upload_check == "auto":
        return "crc64nvme" if bucket.is_aws else "md5"
    probed = await probe_uploads(bucket, request.prefix + SCRATCH[0], request.upload_check)
    run.most_parts = probed.most_parts
    return probed.check


async def _begin(run: Run, work: Work, check: str, decision: Decision) -> None:
    plan = plan_of(run, work, decision, check)
    await run.save_copy("plan.json", to_json(plan.model_copy(update={"rights": []})))  # no rights were tried
    run.observer(
        StageStarted(
            run_id=run.run_id,
            mode=run.request.mode,
            source_uri=work.uri,
            source_size=work.size,
            destination=run.request.destination,
            upload_check=check,
            source_copy=plan.source_copy,
            source_copy_reason=plan.source_copy_reason,
        )
    )


async def _report(run: Run, outcome: str, done: Committed, plan: Plan | None = None) -> StageReport:
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
            "plan": plan,
            "warnings": list(run.warnings),
            "seconds": round(run.wall_seconds, 3),
            "next_step": "the same without --dry-run" if outcome == "planned" else NEXT_STEP,
        }
    )
    if outcome != "planned":
        await run.save_copy("report.json", to_json(report))
    run.observer(PhaseChanged(phase="done"))
    run.observer(StageFinished(run_id=run.run_id, outcome=outcome, seconds=report.seconds))
    return report
