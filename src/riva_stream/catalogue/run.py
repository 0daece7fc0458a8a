"""``stage_all()``: stage a whole catalogue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from riva_stream import clock
from riva_stream.arguments import require
from riva_stream.catalogue.engine import (
    CatalogueObserver,
    CatalogueReport,
    Engine,
    EntryEnded,
    EntryEvent,
    EntryReport,
    EntryStarted,
    Planned,
    error_of,
    identity_of,
)
from riva_stream.catalogue.load import LoadedCatalogue
from riva_stream.catalogue.local import LocalEngine
from riva_stream.catalogue.model import LEVELS, PLACE, Catalogue
from riva_stream.catalogue.plan import Job, ListArchives, expand, jobs_of, load_catalogue, matches, prepare
from riva_stream.config import StageRequest
from riva_stream.errors import ArchiveError, ConfigurationError, SourceNotFoundError, TransientError
from riva_stream.events import Event, StageStarted, ignore
from riva_stream.preflight.source import list_archives as list_in_s3
from riva_stream.report import ErrorReport, StageReport, worst
from riva_stream.tasks import in_child_task

__all__ = ["stage_all"]

_OF_THE_SOURCE = frozenset({ArchiveError.__name__, SourceNotFoundError.__name__})
"""Types of failures that a job, with its one source and image, has at every place. Exit codes say less: a damaged
staging also has 65."""


@in_child_task
async def stage_all(
    catalogue: Catalogue | LoadedCatalogue | Path | str,
    *,
    engine: Engine | None = None,
    observer: CatalogueObserver = ignore,
    only: str | None = None,
    dry_run: bool = False,
    fail_fast: bool = False,
    fallback: Mapping[str, Any] | None = None,
    list_archives: ListArchives | None = None,
) -> CatalogueReport:
    """Stage all entries of a catalogue. One that fails does not hold up the others.

    Calling it again is always safe, from any host: what is already staged is only checked, what was interrupted is
    resumed, and a run that is alive elsewhere is waited for.

    Args:
        catalogue: built in code, loaded, or the path of a file.
        engine: where stagings run; None: child processes of this one.
        observer: is told what happens; called on the event loop.
        only: a shell pattern for ``ENV/MODEL_NAME/MODEL_VERSION`` or the whole URI; other entries are left out.
        dry_run: look at source, destination and rights of each, and write nothing.
        fail_fast: stop the others as soon as one has failed.
        fallback: fields of requests that the catalogue does not set.
        list_archives: lists what matches a prefix or a glob; None: from the store.

    Returns:
        The result of each entry. Failures of single entries are in it, and not raised.

    Raises:
        CatalogueError: the catalogue is wrong; nothing was started.
        ConfigurationError: ``only`` matches nothing, or the engine is not available.
        TypeError: an argument is of the wrong kind.
    """
    kinds = Catalogue | LoadedCatalogue | Path | str
    require(isinstance(catalogue, kinds), "catalogue", "a Catalogue or the path of one", catalogue)
    require(engine is None or hasattr(engine, "stage"), "engine", "an engine such as LocalEngine()", engine)
    require(callable(observer), "observer", "callable with one event", observer)
    began = clock.monotonic()
    if isinstance(catalogue, Path | str):
        catalogue = load_catalogue(catalogue, fallback)
    elif isinstance(catalogue, Catalogue):
        catalogue = LoadedCatalogue(catalogue)
    engine = engine or LocalEngine()
    plan = await expand(
        catalogue, prepare(catalogue, fallback), list_archives or partial(_list_in_s3, observer)
    )
    requests = [request for request, _ in plan.requests if matches(request, only)]
    # What ``only`` matches may be among the archives that could not be listed. Entries known to have no archives
    # count only if ``only`` matches nothing else.
    unlisted = [found for found in plan.failed if found.may_match(only)]
    if only is not None and requests:
        unlisted = [found for found in unlisted if not found.was_listed]
    if not requests and not unlisted:
        raise ConfigurationError(
            f"no entry matches {only!r}", hint="name ENV/MODEL_NAME/MODEL_VERSION; * and ? are wildcards"
        )
    if dry_run:
        requests = [request.model_copy(update={"dry_run": True}) for request in requests]
    run = _Run(engine, observer, fail_fast)
    failed = [
        _failed(found.request, error_of(found.error), destination=_unnamed(found.request))
        for found in unlisted
    ]
    jobs = jobs_of(requests)
    slots = max(1, engine.at_once(requests)) if requests else 1
    observer(Planned(entries=len(requests) + len(failed), jobs=len(jobs), at_once=min(slots, len(jobs) or 1)))
    for report in failed:
        observer(EntryEnded(report=report))
    if not (failed and fail_fast):
        await run.all(jobs, slots)
    entries = [*map(run.settled, requests), *failed]
    return CatalogueReport(
        catalogue=catalogue.name,
        engine=engine.name,
        exit_code=worst([entry.exit_code for entry in entries]),
        entries=entries,
        passed_over=plan.passed_over,
        seconds=clock.monotonic() - began,
    )


@dataclass(eq=False)
class _Run:
    engine: Engine
    observer: CatalogueObserver
    fail_fast: bool
    reports: dict[str, EntryReport] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    async def all(self, jobs: Sequence[Job], slots: int) -> None:
        """Run all jobs, ``slots`` at once. With ``fail_fast`` the first failure stops the others."""
        limiter = anyio.CapacityLimiter(slots)
        with self.scope:
            async with anyio.create_task_group() as tasks:
                for job in jobs:
                    tasks.start_soon(self._job, job, limiter)

    def settled(self, request: StageRequest) -> EntryReport:
        """The report of a request; for one that was stopped or never started, it is made and passed on here."""
        report = self.reports.get(identity_of(request))
        if report is None:
            report = EntryReport(
                destination=request.destination,
                source=request.source,
                outcome="stopped" if identity_of(request) in self.started else "not_started",
                exit_code=75,
                next_step="run the same command again",
            )
            self.observer(EntryEnded(report=report))
        return report

    async def _job(self, job: Job, limiter: anyio.CapacityLimiter) -> None:
        """Stage the places of one source: the first that succeeds is promoted to the others in the same stores."""
        async with limiter:
            todo = list(job)
            again: set[str] = set()
            while todo:
                first, *others = todo
                beside = [] if first.dry_run else [other for other in others if _same_stores(first, other)]
                staged, replicas = await self._entry(first, beside)
                self._ended(first, staged)
                if broken := [other for other in beside if _retry_may_help(replicas.get(identity_of(other)))]:
                    if not first.force:
                        replicas |= await self._promoted(first, broken)
                    else:  # that would replace the first place as well: they are staged by themselves, once
                        anew = {identity_of(other) for other in broken} - again
                        replicas = {key: found for key, found in replicas.items() if key not in anew}
                        again |= anew
                if staged.error is not None and staged.error.type in _OF_THE_SOURCE:
                    replicas |= {identity_of(other): staged.error for other in others}
                for other in others:
                    if found := replicas.get(identity_of(other)):
                        self._ended(other, _replica(other, found))
                todo = [other for other in others if identity_of(other) not in replicas]

    def _ended(self, request: StageRequest, report: EntryReport) -> None:
        self.reports[identity_of(request)] = report
        self.observer(EntryEnded(report=report))
        if self.fail_fast and report.exit_code:
            self.scope.cancel()

    async def _entry(
        self, request: StageRequest, places: Sequence[StageRequest]
    ) -> tuple[EntryReport, dict[str, StageReport | ErrorReport]]:
        """The report of a request, and the result of each place that it was promoted to."""
        self.started.add(identity_of(request))
        self.observer(EntryStarted(destination=request.destination, source=request.source))
        began = clock.monotonic()
        sizes = [0]
        try:
            report = await self._stage(request, places, sizes.append)
        except Exception as error:  # noqa: BLE001 - of one entry among many; it is told in its report
            seconds = clock.monotonic() - began
            return _failed(request, error_of(error), seconds=seconds, size=max(sizes)), {}
        seconds = clock.monotonic() - began
        size = report.plan.source_size if report.plan else max(sizes)
        return _staged(request, report, seconds, size), _outcomes(places, report)

    async def _promoted(
        self, request: StageRequest, places: Sequence[StageRequest]
    ) -> dict[str, StageReport | ErrorReport]:
        """Promote a committed staging once more to places where that failed; return their results.

        Whatever they are, the staging itself has been reported already.
        """
        try:
            report = await self._stage(request, places, lambda _: None)
        except Exception:  # noqa: BLE001 - what is told of these places is what they came to before
            return {}
        return _outcomes(places, report)

    async def _stage(
        self, request: StageRequest, places: Sequence[StageRequest], sized: Callable[[int], None]
    ) -> StageReport:
        return await self.engine.stage(
            request.model_copy(update={"replicate_to": tuple(other.place for other in places)}),
            partial(_tell, self.observer, request.destination, sized),
        )


def _outcomes(places: Sequence[StageRequest], report: StageReport) -> dict[str, StageReport | ErrorReport]:
    """The result of each place that a staging was to be promoted to, as far as its report has it."""
    return {
        identity_of(other): found
        for other, replica in zip(places, report.replicas, strict=False)
        if (found := replica.report or replica.error)
    }


def _retry_may_help(outcome: StageReport | ErrorReport | None) -> bool:
    """Whether a place failed in a way that a retry may fix."""
    return isinstance(outcome, ErrorReport) and outcome.exit_code == TransientError.exit_code


async def _list_in_s3(observer: CatalogueObserver, request: StageRequest) -> Sequence[str]:
    return await list_in_s3(request, observer=partial(_tell, observer, _unnamed(request), lambda _: None))


def _unnamed(request: StageRequest) -> str:
    """The part of the destination that is known before the archives are listed."""
    return f"s3://{request.bucket}/{request.env}/"


def _tell(
    observer: CatalogueObserver, destination: str, sized: Callable[[int], None], event: Event, /
) -> None:
    if isinstance(event, StageStarted):
        sized(event.source_size)
    observer(EntryEvent(destination=destination, event=event))


def _staged(request: StageRequest, report: StageReport, seconds: float, size: int) -> EntryReport:
    return EntryReport(
        destination=request.destination,
        source=request.source,
        outcome=report.outcome,
        exit_code=0,
        run_id=report.run_id,
        size_bytes=report.artifact.source.size_bytes if report.artifact is not None else size,
        seconds=seconds,
        would=report.plan.would if report.plan else None,
        warnings=report.warnings,
        next_step=report.next_step,
    )


def _replica(request: StageRequest, outcome: StageReport | ErrorReport) -> EntryReport:
    if isinstance(outcome, ErrorReport):
        return _failed(request, outcome)
    return _staged(request, outcome, outcome.seconds, 0)


def _same_stores(one: StageRequest, other: StageRequest) -> bool:
    """Whether both go to the same stores and are stored in the same way, so that one can be made from the other."""
    return all(getattr(one, name) == getattr(other, name) for name in PLACE if name not in LEVELS)


def _failed(
    request: StageRequest, error: ErrorReport, *, destination: str = "", seconds: float = 0.0, size: int = 0
) -> EntryReport:
    return EntryReport(
        destination=destination or request.destination,
        source=request.source,
        outcome="failed",
        exit_code=error.exit_code,
        size_bytes=size,
        seconds=seconds,
        error=error,
        next_step=error.hint,
    )
