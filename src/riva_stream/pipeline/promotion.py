"""``promote()``: copy a committed staging to another place, or to several at once, each on its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
from pydantic import ValidationError

from riva_stream import clock
from riva_stream.config import PromoteRequest, StageRequest, contradictions_in
from riva_stream.errors import (
    AccessDeniedError,
    ConfigurationError,
    HeldError,
    IntegrityError,
    Where,
    first_of,
)
from riva_stream.events import Event, Observer, PhaseChanged, Progress, Warned, ignore, warning
from riva_stream.flow.buffers import Credits
from riva_stream.flow.lanes import Lanes
from riva_stream.inspection.staging import Staging, find_staging
from riva_stream.layout import DEPLOYMENT_JSON
from riva_stream.pipeline.begin import deadline, open_run, stall_timeout
from riva_stream.pipeline.from_staging import FromStaging, StoreOf, incomplete, originals_of
from riva_stream.pipeline.protocol import carry_out
from riva_stream.pipeline.stores import Stores, open_stores, require_arguments
from riva_stream.report import PlaceReport, PromoteReport, StageReport, error_report, worst
from riva_stream.retry import Retrier, RetryPolicy
from riva_stream.run import Meter
from riva_stream.s3 import Bucket, Reader, Store
from riva_stream.state import new_run_id
from riva_stream.tasks import in_child_task
from riva_stream.uris import split_uri

__all__ = ["promote", "replicated"]

_DEPLOYMENT = "deployment"
"""Code of the warning that deployment documents may have been left out."""


@in_child_task
async def promote(
    request: PromoteRequest,
    *,
    observer: Observer = ignore,
    session: Any = None,
    source_session: Any = None,
    store: Store | None = None,
    source_store: Store | None = None,
    budget: Credits | None = None,
) -> PromoteReport:
    """Copy a committed staging to one place or several: verified object by object, committed by a marker.

    Where the store can copy, no byte of archive or models passes through here; else they are read, hashed and sent.
    Cancel it at any time: nothing becomes visible, and running it again resumes from what the stores have already.

    Args:
        request: what to promote, and where to.
        observer: receives events; called on the event loop. Counters are those of all places together.
        session: an ``aioboto3.Session`` for the destinations; None creates one from the request and the environment.
        source_session: the same for the source staging; None: the destinations', unless the request names another profile.
        store: an open store (see :func:`riva_stream.open_store`) to share one client between several calls.
        source_store: the same for the source staging.
        budget: byte credits that several calls in one process share. Each place whose bytes pass through here takes
            ``request.memory`` of them; None: the places of this call take turns.

    Returns:
        The result of each place. A failed place does not hold up the others; it is in the report, not raised.

    Raises:
        SourceNotFoundError: there is no such staging, or it is not complete.
        IntegrityError: it differs from what was staged.
        RivaStreamError: it cannot be read; see :mod:`riva_stream.errors`.
        TypeError: an argument is of the wrong kind.
    """
    require_arguments(
        PromoteRequest,
        request,
        observer,
        budget,
        {"session": session, "source_session": source_session},
        {"store": store, "source_store": source_store},
    )
    run_id = request.run_id or new_run_id()
    ids = _numbered(run_id, request.to) if request.to[1:] else [run_id]
    began = clock.monotonic()
    try:
        async with open_stores(
            request,
            warning(observer, "profile"),
            session=session,
            source_session=source_session,
            store=store,
            source_store=source_store,
        ) as stores:
            return await _promote(
                request, ids, observer, stores, lambda _: stores.source, since=began, budget=budget
            )
    except BaseExceptionGroup as group:
        raise first_of(group) from None


async def replicated(
    report: StageReport, request: StageRequest, observer: Observer, stores: Stores, *, since: float
) -> StageReport:
    """Promote a committed staging to ``replicate_to``; return its report with the results.

    Args:
        report: of the staging.
        request: of the staging.
        observer: receives events.
        stores: of the staging's run.
        since: when the staging began, for its deadline.
    """
    asked = PromoteRequest(source=request.destination, to=request.replicate_to)
    asked = asked.with_valid(request.shared())
    ids = _numbered(report.run_id, asked.to)
    here = Stores(stores.destination, stores.destination, one_principal=True)
    told = report.artifact or report.deployment
    run_id = told.build_info.run_id if told is not None else None
    source = report.artifact.source.uri if report.artifact else ""
    if report.artifact is None and report.deployment is not None:
        source = report.deployment.bintarball_references.model_archive.s3_uri

    def store_of(uri: str) -> Reader:  # as when found: buckets of the same name may be at two endpoints
        is_here = uri != source and split_uri(uri)[0] == request.bucket
        return stores.destination if is_here else stores.source

    warnings = list(report.warnings)

    def observe(event: Event, /) -> None:
        if isinstance(event, Warned) and event.code == _DEPLOYMENT:
            warnings.append(event)
        observer(event)

    try:
        found = await _promote(
            asked,
            ids,
            observe,
            here,
            store_of,
            since=since,
            run_id=run_id,
            deployment=report.deployment is not None,
        )
        done = found.places
    except Exception as error:  # noqa: BLE001 - of whatever kind: the staging is already committed, and stays so
        done = [_failed(place, first_of(error)) for place in asked.to]
    return report.model_copy(update={"replicas": done, "warnings": warnings})


async def _promote(
    request: PromoteRequest,
    ids: Sequence[str],
    observer: Observer,
    stores: Stores,
    store_of: StoreOf,
    *,
    since: float,
    run_id: str | None = None,
    deployment: bool | None = None,
    budget: Credits | None = None,
) -> PromoteReport:
    """Promote what is staged.

    Args:
        request: what, and to where.
        ids: a run id for each place.
        observer: receives events.
        stores: where the staging is, and where the places are.
        store_of: the store of an object that the staging refers to.
        since: when this began, for the deadline.
        run_id: of the run that made the staging; None: of any.
        deployment: whether the staging has deployment documents that must not be missed; None: that is not known.
        budget: of memory, shared by all places, and with other calls perhaps.
    """
    began = clock.monotonic()
    observer(PhaseChanged(phase="prepare"))
    bucket, prefix = split_uri(request.source)
    meter = Meter(observer, Lanes())
    retrier = Retrier(RetryPolicy(retries=request.retries), observer, meter.touch, renew=stores.source.renew)
    try:
        async with deadline(_left(request, since)), stall_timeout(meter, request.timeout):
            staging = await find_staging(Bucket(stores.source, bucket, retrier), prefix, observer)
            if run_id is not None and staging.run_id != run_id:
                raise HeldError(
                    f"{staging.destination} has since been replaced by run {staging.run_id}: its replicas take "
                    "precedence",
                    where=Where("GetObject", bucket, staging.layout.marker),
                    hint="run the same command again: it then says what is staged there",
                )
            originals = await originals_of(staging)
            await _require_deployment(staging, observer, deployment)
    except ExceptionGroup as group:
        raise first_of(group) from None
    # Shared by all places: by default those whose bytes pass through here take turns.
    budget = budget or Credits(request.memory)
    observe = _summing(observer)
    places: dict[str, PlaceReport] = {}

    async def promoted(place: str, run_id: str) -> StageReport:
        asked = _stage_request(request, staging, place, run_id)
        async with (
            deadline(_left(request, since)),
            open_run(asked, run_id, partial(observe, place)) as run,
        ):
            bucket = stores.attach(run)
            work = await FromStaging.find(run, staging, originals, store_of, deep=request.deep, budget=budget)
            return await carry_out(run, bucket, work)

    async def to(place: str, run_id: str) -> None:
        try:
            report = await promoted(place, run_id)
        except Exception as error:  # noqa: BLE001 - of one place among several; it is told in its report
            places[place] = _failed(place, first_of(error))
        else:
            places[place] = PlaceReport(destination=report.destination, exit_code=0, report=report)

    async with anyio.create_task_group() as tasks:
        for place, own_id in zip(request.to, ids, strict=True):
            tasks.start_soon(to, place, own_id)
    return PromoteReport(
        source=staging.destination,
        source_run_id=staging.run_id,
        exit_code=worst([report.exit_code for report in places.values()]),
        places=[places[place] for place in request.to],
        seconds=round(clock.monotonic() - began, 3),
    )


async def _require_deployment(staging: Staging, observer: Observer, expected: bool | None) -> None:
    """Check that the deployment documents, if there are any, can be read: without them a place would lose its own.

    Raises:
        AccessDeniedError: it is unknown whether there are any.
        SourceNotFoundError: those that are expected are missing.
    """
    hidden, manifest = staging.documents.hidden, staging.manifest
    is_named = manifest is not None and manifest.files.deployment is not None
    if expected is False and hidden and not is_named and not await _may_list(staging):
        observer(
            Warned(
                code=_DEPLOYMENT,
                message=f"whether {staging.destination} has deployment documents is not known: they may not be read",
            )
        )
        staging.documents = replace(staging.documents, hidden=())
    if staging.deployment is None and expected:
        raise incomplete(staging, [DEPLOYMENT_JSON])


async def _may_list(staging: Staging) -> bool:
    """Whether the prefix may be listed: what is refused then is there."""
    try:
        await staging.bucket.list_objects(staging.layout.prefix, limit=1)
    except AccessDeniedError:
        return False
    return True


def _stage_request(request: PromoteRequest, staging: Staging, place: str, run_id: str) -> StageRequest:
    """The staging's own parameters as a request for another place.

    Raises:
        ConfigurationError: the source of the staging is at that place.
        IntegrityError: its documents say what no staging can have.
    """
    artifact, deployment = staging.artifact, staging.deployment
    told: dict[str, object]
    if artifact is not None:
        model, days = artifact.model, artifact.deployment.retention_days
        told = {
            "source": artifact.source.uri,
            "expect_sha256": artifact.source.sha256,
            "reference_only": artifact.deployment.reference_mode,
        }
    elif deployment is not None:
        model, days = deployment.model, deployment.deployment.retention_days
        archive = deployment.bintarball_references.model_archive
        told = {"source": archive.s3_uri, "bintarball_reference": True}
    else:
        raise IntegrityError(
            f"{staging.destination} has no readable documents",
            hint=f"look at it: riva-stream verify {staging.destination}",
        )
    if deployment is not None:
        told["server_path"] = deployment.bintarball_references.container_image.s3_uri
    if staging.manifest is not None:
        told["include"] = tuple(staging.manifest.include)
    told |= {
        "language": model.language_code,
        "architecture": model.architecture,
        "description": model.description,
        "retention_days": request.retention_days or days,
    }
    try:
        return request.stage_request(place, run_id, **told)
    except ValidationError as error:
        for problem in contradictions_in(error.errors()):
            if problem.presumed:  # due to the place, not to the staging's documents
                raise ConfigurationError(
                    f"{staging.destination} cannot be promoted to {place}: its {problem.field} {problem.text}",
                    hint="name another place",
                ) from error
        wrong = ", ".join(str(problem["loc"][-1]) for problem in error.errors() if problem["loc"])
        raise IntegrityError(
            f"the documents of {staging.destination} are invalid: {wrong or 'a contradiction'}",
            hint=f"look at it: riva-stream verify {staging.destination}",
        ) from error


def _numbered(run_id: str, places: Sequence[str]) -> list[str]:
    """A run id for each place."""
    return [f"{run_id}-{number}" for number in range(1, len(places) + 1)]


def _left(request: PromoteRequest, since: float) -> float | None:
    """Seconds left until the deadline."""
    return None if request.deadline is None else max(0.0, request.deadline - (clock.monotonic() - since))


def _failed(place: str, error: BaseException) -> PlaceReport:
    report = error_report(error)
    return PlaceReport(destination=place, exit_code=report.exit_code, error=report)


def _summing(observer: Observer) -> Callable[[str, Any], None]:
    """Return an observer for the events of several places that adds up their counters."""
    summed = ("source_size", "fetched", "hashed", "durable", "durable_source", "copied")
    latest: dict[str, Progress] = {}

    def observe(place: str, event: Any, /) -> None:
        if isinstance(event, Progress):
            latest[place] = event
            places = latest.values()
            event = replace(
                event,
                elapsed=max(one.elapsed for one in places),
                counts=tuple(dict.fromkeys(count for one in places for count in one.counts)),
                **{name: sum(getattr(one, name) for one in places) for name in summed},
            )
        observer(event)

    return observe
