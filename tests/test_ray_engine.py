"""What the engine of a Ray cluster says and refuses by itself; what it has in common with the other is in test_engines."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

from riva_stream import StageRequest, stage_all
from riva_stream.catalogue import EntryEvent, RayEngine, ray_engine
from riva_stream.catalogue.engine import StagingFailed, error_of
from riva_stream.errors import (
    ArchiveError,
    ArchiveFault,
    DestinationConflictError,
    RivaStreamError,
    TransientError,
)
from riva_stream.events import Event, Observer, Warned
from riva_stream.naming import option
from riva_stream.report import StageReport
from tests import catalogue_double, ray_double
from tests.catalogue_double import attempts
from tests.cli_double import report as made_up
from tests.test_stage_all import catalogue, entry

pytestmark = pytest.mark.filterwarnings("default:::ray", "default::ResourceWarning", "default::FutureWarning")


@pytest.fixture
def engine(cluster: Any) -> RayEngine:
    return RayEngine(cores=0.5, run=catalogue_double.run)


def request(folder: Path, name: str, **fields: Any) -> StageRequest:
    return StageRequest(**entry(name, description=str(folder), **fields))


async def test_a_staging_that_no_node_has_room_for_says_so(engine: RayEngine, tmp_path: Path) -> None:
    told = anyio.Event()

    def observe(event: Event, /) -> None:
        if isinstance(event, Warned) and event.code == "no-node":
            told.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(engine.stage, request(tmp_path, "a", memory=1 << 50), observe)
        await told.wait()
        tasks.cancel_scope.cancel()
    events: list[Event] = []
    await engine.stage(request(tmp_path, "b"), events.append)
    assert not [event for event in events if isinstance(event, Warned)]


async def test_a_run_that_never_ends_its_clean_up_is_not_waited_for(
    engine: RayEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "_GRACE", 1.0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(engine.stage, request(tmp_path, "stays"), lambda _: None)
        while not attempts(tmp_path, "stays"):  # noqa: ASYNC110 - another process writes it
            await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()


async def test_one_bucket_name_in_two_partitions_is_two_stagings(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the same time; the second to end was reported as a bug."""
    ray_double.install(monkeypatch)
    both_run = threading.Barrier(2, timeout=60)

    async def run(request: StageRequest, observer: Observer) -> StageReport:
        observer(Warned(code="region", message=request.region or ""))
        both_run.wait()
        return made_up(destination=request.destination)

    events: list[Any] = []
    whole = catalogue(entry("a", region="us-east-1"), entry("a", region="cn-north-1"))
    report = await stage_all(whole, engine=RayEngine(run=run), observer=events.append)
    assert [(e.outcome, e.exit_code) for e in report.entries] == [("staged", 0)] * 2
    told = [event.event for event in events if isinstance(event, EntryEvent)]
    assert sorted(event.message for event in told if isinstance(event, Warned)) == ["cn-north-1", "us-east-1"]


@pytest.mark.parametrize("kind", [DestinationConflictError, TransientError])
async def test_a_node_names_fields_of_the_catalogue(
    kind: type[RivaStreamError], monkeypatch: pytest.MonkeyPatch
) -> None:
    ray_double.install(monkeypatch)

    async def run(request: StageRequest, observer: Observer) -> StageReport:
        raise kind("no", hint=f"use {option('model_version')}")

    with pytest.raises((StagingFailed, kind)) as caught:
        await RayEngine(run=run).stage(StageRequest(**entry("a")), lambda _: None)
    assert error_of(caught.value).hint == "use model_version"


async def test_a_node_names_them_where_the_kind_of_fault_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """These texts were made when the package was imported: on a node before anything can be said."""
    ray_double.install(monkeypatch)

    async def run(request: StageRequest, observer: Observer) -> StageReport:
        raise ArchiveError("no member matches", fault=ArchiveFault.NO_MATCH)

    with pytest.raises(StagingFailed) as caught:
        await RayEngine(run=run).stage(StageRequest(**entry("a")), lambda _: None)
    assert caught.value.error.hint == "check include, or whether this is the right archive"
