"""``stage_all()``: what it hands to an engine, and what it makes of what comes back."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio
import pytest

from riva_stream import Catalogue, LocalEngine, StageRequest, load_catalogue, stage_all
from riva_stream.catalogue import (
    CatalogueError,
    CatalogueReport,
    EntryEnded,
    EntryEvent,
    EntryStarted,
    Planned,
)
from riva_stream.catalogue.engine import StagingFailed, WorkerDiedError, error_of
from riva_stream.catalogue.local import arguments, environment_for, stage_in_child, state_of
from riva_stream.cli.app import build_parser
from riva_stream.cli.options import request_flags
from riva_stream.cli.settings.load import load
from riva_stream.cli.settings.model import Settings
from riva_stream.errors import (
    AccessDeniedError,
    ArchiveError,
    ConfigurationError,
    DestinationConflictError,
    IntegrityError,
    RivaStreamError,
    SourceNotFoundError,
    TransientError,
)
from riva_stream.events import Event, Observer, Progress, StageStarted, Warned
from riva_stream.naming import option
from riva_stream.pipeline import stage
from riva_stream.report import PlaceReport, StageReport, error_report, worst
from tests.cli_double import progress
from tests.cli_double import report as made_up
from tests.contract.ground import body
from tests.copying import Watched, made
from tests.staging import Place, put_credentials
from tests.support.archives import archive_bytes
from tests.support.servers import MotoServer
from tests.test_stage_all_command import is_running


def entry(name: str, **fields: Any) -> dict[str, Any]:
    whole = {"source": f"s3://models/{name}.tar.gz", "bucket": "deployments", "env": "dev", "region": "us-1"}
    return whole | {"model_name": name, "model_version": "v1"} | fields


def catalogue(*entries: dict[str, Any]) -> Catalogue:
    return Catalogue.model_validate({"staging": entries})


class Engine:
    """Runs nothing; each staging waits until the test lets it go."""

    name = "fake"

    def __init__(self, at_once: int = 8, errors: dict[str, RivaStreamError] | None = None) -> None:
        self.slots = at_once
        self.errors = errors or {}
        self.given: list[StageRequest] = []
        self.running = 0
        self.most = 0
        self.stopped: list[str] = []
        self.hanging: set[str] = set()
        self.replicas: dict[str, list[RivaStreamError | None]] = {}
        """What promotions to a bucket come to, one after the other; without it nothing is promoted."""

    def at_once(self, requests: Sequence[StageRequest]) -> int:
        return self.slots

    async def stage(self, request: StageRequest, observer: Observer) -> StageReport:
        self.given.append(request)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            if request.model_name in self.hanging:
                await anyio.sleep_forever()
            if (error := self.errors.get(request.model_name)) is not None:
                raise error
            replicas = [self._promoted(place) for place in request.replicate_to if self.replicas]
            return made_up(destination=request.destination, replicas=replicas)
        except anyio.get_cancelled_exc_class():
            self.stopped.append(request.model_name)
            raise
        finally:
            self.running -= 1

    def _promoted(self, place: str) -> PlaceReport:
        left = self.replicas[place.split("/")[2]]
        error = left.pop(0) if len(left) > 1 else left[0]
        if error is not None:
            return PlaceReport(destination=place, exit_code=error.exit_code, error=error_report(error))
        return PlaceReport(destination=place, exit_code=0, report=made_up(destination=place))


def outcomes(report: CatalogueReport) -> list[tuple[str, str, int]]:
    return [(e.destination.split("/")[4], e.outcome, e.exit_code) for e in report.entries]


async def test_one_bad_entry_of_ten_holds_up_no_other() -> None:
    engine = Engine(errors={"m3": ArchiveError("the gzip CRC is wrong", hint="upload it again")})
    report = await stage_all(catalogue(*(entry(f"m{n}") for n in range(10))), engine=engine)
    assert report.exit_code == 65
    assert [e for e in outcomes(report) if e[2]] == [("m3", "failed", 65)]
    assert sum(e.outcome == "staged" for e in report.entries) == 9
    bad = report.entries[3]
    assert bad.error is not None
    assert (bad.error.type, bad.next_step) == ("ArchiveError", "upload it again")


@pytest.mark.parametrize("slots", [1, 3])
async def test_so_many_run_at_once_and_no_more(slots: int) -> None:
    engine = Engine(at_once=slots)
    await stage_all(catalogue(*(entry(f"m{n}") for n in range(8))), engine=engine)
    assert engine.most == slots


async def test_places_of_one_source_come_one_after_the_other() -> None:
    engine = Engine()
    events: list[Any] = []
    whole = catalogue(entry("a", replicate_to=["s3://in-europe", "s3://in-asia"]))
    report = await stage_all(whole, engine=engine, observer=events.append)
    assert engine.most == 1
    assert [request.bucket for request in engine.given] == ["deployments", "in-europe", "in-asia"]
    assert events[0] == Planned(entries=3, jobs=1, at_once=1)
    assert [type(event) for event in events[1:3]] == [EntryStarted, EntryEnded]
    assert [entry.outcome for entry in report.entries] == ["staged"] * 3


async def test_the_first_place_makes_those_that_the_same_stores_hold() -> None:
    engine = Engine()
    engine.replicas = {"in-europe": [None], "in-asia": [DestinationConflictError("another staging")]}
    far = {"bucket": "far", "endpoint_url": "https://far.example"}
    places = ["s3://in-europe", "s3://in-asia", far]
    report = await stage_all(catalogue(entry("a", replicate_to=places)), engine=engine)
    assert [request.bucket for request in engine.given] == ["deployments", "far"]
    assert engine.given[0].replicate_to == ("s3://in-europe/dev/a/v1/", "s3://in-asia/dev/a/v1/")
    assert [(e.destination.split("/")[2], e.exit_code) for e in report.entries] == [
        ("deployments", 0),
        ("in-europe", 0),
        ("in-asia", 73),
        ("far", 0),
    ]


async def test_a_replica_that_a_rerun_may_mend_is_tried_again_once() -> None:
    engine = Engine()
    engine.replicas = {"in-europe": [TransientError("lost"), None], "in-asia": [TransientError("lost")]}
    whole = catalogue(entry("a", replicate_to=["s3://in-europe", "s3://in-asia"]))
    report = await stage_all(whole, engine=engine)
    assert [request.bucket for request in engine.given] == ["deployments"] * 2
    assert [e.exit_code for e in report.entries] == [0, 0, 75]


async def test_a_damaged_place_holds_up_no_other() -> None:
    """65 is also what is staged and damaged at *one* place; the others are told the same, and never tried."""

    class Damaged(Engine):
        async def stage(self, request: StageRequest, observer: Observer) -> StageReport:
            if request.bucket == "deployments":
                self.given.append(request)
                raise IntegrityError(
                    "models/a.riva is gone since it was staged", hint="--force stages it anew"
                )
            return await super().stage(request, observer)

    engine = Damaged()
    report = await stage_all(catalogue(entry("a", replicate_to=["s3://in-europe"])), engine=engine)
    assert [request.bucket for request in engine.given] == ["deployments", "in-europe"]
    assert [(e.outcome, e.exit_code) for e in report.entries] == [("failed", 65), ("staged", 0)]


async def test_what_was_staged_is_told_so_when_a_replica_is_tried_again() -> None:
    """The first place is handed over once more for its replica, and only the second answer is told."""

    class Remembers(Engine):
        async def stage(self, request: StageRequest, observer: Observer) -> StageReport:
            report = await super().stage(request, observer)
            again = [one.destination for one in self.given].count(request.destination) > 1
            return report.model_copy(update={"outcome": "already_staged"}) if again else report

    engine = Remembers()
    engine.replicas = {"in-europe": [TransientError("the connection broke"), None]}
    report = await stage_all(catalogue(entry("a", replicate_to=["s3://in-europe"])), engine=engine)
    assert [e.outcome for e in report.entries] == ["staged", "staged"]


async def test_what_was_staged_did_not_fail_when_its_replica_is_tried_again() -> None:
    class BreaksTheSecondTime(Engine):
        async def stage(self, request: StageRequest, observer: Observer) -> StageReport:
            report = await super().stage(request, observer)
            if len(self.given) == 2:
                raise TransientError("the connection broke")
            return report

    engine = BreaksTheSecondTime()
    engine.replicas = {"in-europe": [TransientError("the connection broke")]}
    report = await stage_all(catalogue(entry("a", replicate_to=["s3://in-europe"])), engine=engine)
    assert (report.entries[0].outcome, report.entries[0].exit_code) == ("staged", 0)


async def test_what_was_forced_is_not_forced_once_more_for_a_replica() -> None:
    """With ``force`` the committed staging is deleted and made anew, because a replica of it broke with 75."""
    engine = Engine()
    engine.replicas = {"in-europe": [TransientError("the connection broke"), None]}
    forced = catalogue(entry("a", force=True, replicate_to=["s3://in-europe"]))
    await stage_all(forced, engine=engine)
    assert [request.bucket for request in engine.given if request.force].count("deployments") == 1


async def test_a_place_that_was_forced_is_tried_again_by_itself() -> None:
    """Staged once more with ``force`` from the source: the first place, which is right, must not be replaced for it."""
    engine = Engine()
    engine.replicas = {"in-europe": [TransientError("lost")], "in-asia": [TransientError("lost")]}
    places = ["s3://in-europe", "s3://in-asia"]
    report = await stage_all(catalogue(entry("a", force=True, replicate_to=places)), engine=engine)
    assert [(request.bucket, len(request.replicate_to)) for request in engine.given] == [
        ("deployments", 2),
        ("in-europe", 1),
    ]
    assert [e.exit_code for e in report.entries] == [0, 0, 75]


async def test_a_container_image_that_is_missing_is_missing_at_one_place() -> None:
    """Its key names another object in each bucket."""
    engine = Engine(errors={"a": SourceNotFoundError("there is no images/server.tar.gz")})
    whole = catalogue(entry("a", server_path="images/server.tar.gz", replicate_to=["s3://in-europe"]))
    await stage_all(whole, engine=engine)
    assert [request.bucket for request in engine.given] == ["deployments", "in-europe"]


async def test_a_container_image_with_a_uri_is_missing_at_every_place() -> None:
    engine = Engine(errors={"a": SourceNotFoundError("there is no server.tar.gz")})
    whole = catalogue(entry("a", server_path="s3://images/server.tar.gz", replicate_to=["s3://in-europe"]))
    await stage_all(whole, engine=engine)
    assert [request.bucket for request in engine.given] == ["deployments"]


@pytest.mark.parametrize(
    ("first", "second", "jobs"),
    [
        ({}, {"bucket": "in-europe"}, 1),
        ({}, {"model_name": "b-ctc"}, 2),
        ({}, {"model_name": "b-rnnt"}, 1),
        ({}, {"model_name": "b-ctc", "architecture": "rnnt"}, 1),
        ({"architecture": "conformer"}, {"architecture": "conformer", "model_name": "b-ctc"}, 1),
        ({"server_path": "i.gz"}, {"server_path": "i.gz", "env": "prod"}, 1),
        ({"server_path": "i.gz"}, {"server_path": "i.gz", "bucket": "in-europe"}, 2),
        ({"server_path": "i.gz"}, {"server_path": "s3://deployments/i.gz", "bucket": "in-europe"}, 1),
    ],
)
async def test_one_job_has_one_content_whatever_its_places(
    first: dict[str, Any], second: dict[str, Any], jobs: int
) -> None:
    """A key of an image means another one in each bucket, and a name may contain another architecture."""
    same = entry("a-rnnt")
    events: list[Any] = []
    places = catalogue(same | first, same | {"env": "test"} | second)
    await stage_all(places, engine=Engine(), observer=events.append)
    assert events[0].jobs == jobs


async def test_an_image_in_the_destination_is_another_one_where_the_source_is() -> None:
    """``stage`` reads an image in the destination's bucket there, and any other where it reads the source."""
    ends = {"endpoint_url": "https://near.example", "source_endpoint_url": "https://far.example"}
    same = entry("a", server_path="s3://deployments/i.gz", **ends)
    events: list[Any] = []
    places = catalogue(same, same | {"bucket": "in-europe"})
    await stage_all(places, engine=Engine(), observer=events.append)
    assert events[0].jobs == 2


async def test_each_bucket_has_its_own_image_and_each_name_its_architecture() -> None:
    store = Watched()
    model = made("tar")
    await store.put_source(model.key, model.data)
    for bucket in ("aaa", "bbb"):
        store.create_bucket(bucket)
        await store.put(bucket, "i.gz", body(bucket.encode()), content_type="a/b", metadata={})
    same = {"source": f"s3://models/{model.key}", "server_path": "i.gz"}
    places = {"aaa": "x-rnnt", "bbb": "x-ctc"}
    whole = catalogue(*(entry(name, bucket=bucket, **same) for bucket, name in places.items()))

    async def run(request: StageRequest, observer: Observer) -> StageReport:
        return await stage(request, observer=observer, store=store)

    for outcome in ("staged", "already_staged"):
        report = await stage_all(whole, engine=LocalEngine(run=run))
        assert [e.outcome for e in report.entries] == [outcome] * 2
    for bucket, name in places.items():
        kept = store.look(bucket, f"dev/{name}/v1/deployment.json")
        assert kept is not None
        document = json.loads(kept.data)
        image = document["bintarball_references"]["container_image"]
        assert image["s3_uri"] == f"s3://{bucket}/i.gz"
        assert document["model"]["architecture"] == name.removeprefix("x-")
    alone = await stage_all(whole, engine=LocalEngine(run=run), only="*/x-ctc/*")
    assert alone.exit_code == 0


async def test_the_same_path_at_another_endpoint_is_another_place() -> None:
    engine = Engine()
    engine.replicas = {"in-europe": [None]}
    places = ["s3://in-europe", {"bucket": "in-europe", "endpoint_url": "https://far.example"}]
    events: list[Any] = []
    whole = catalogue(entry("a", endpoint_url="https://near.example", replicate_to=places))
    await stage_all(whole, engine=engine, observer=events.append)
    assert [(request.bucket, request.endpoint_url) for request in engine.given] == [
        ("deployments", "https://near.example"),
        ("in-europe", "https://far.example"),
    ]
    assert sum(isinstance(event, EntryEnded) for event in events) == 3


async def test_a_dry_run_looks_at_each_place_by_itself() -> None:
    engine = Engine()
    whole = catalogue(entry("a", replicate_to=["s3://in-europe"]))
    await stage_all(whole, engine=engine, dry_run=True)
    assert [(request.bucket, request.replicate_to) for request in engine.given] == [
        ("deployments", ()),
        ("in-europe", ()),
    ]


@pytest.mark.parametrize(
    ("error", "tried"),
    [(ArchiveError("broken"), 1), (SourceNotFoundError("gone"), 1), (TransientError("lost"), 3)],
)
async def test_a_source_that_is_bad_is_not_read_for_each_place(error: RivaStreamError, tried: int) -> None:
    engine = Engine(errors={"a": error})
    whole = catalogue(entry("a", replicate_to=["s3://in-europe", "s3://in-asia"]))
    report = await stage_all(whole, engine=engine)
    assert len(engine.given) == tried
    assert [e.exit_code for e in report.entries] == [error.exit_code] * 3


async def test_fail_fast_stops_what_runs_and_starts_nothing_more() -> None:
    engine = Engine(at_once=2, errors={"b": ArchiveError("broken")})
    engine.hanging = {"a"}
    report = await stage_all(catalogue(*map(entry, "abc")), engine=engine, fail_fast=True)
    assert engine.stopped == ["a"]
    assert outcomes(report) == [("a", "stopped", 75), ("b", "failed", 65), ("c", "not_started", 75)]
    assert report.exit_code == 65


async def test_only_leaves_the_others_out() -> None:
    engine = Engine()
    report = await stage_all(catalogue(entry("a"), entry("b")), engine=engine, only="*/b/*")
    assert outcomes(report) == [("b", "staged", 0)]
    with pytest.raises(ConfigurationError):
        await stage_all(catalogue(entry("a")), engine=engine, only="prod/*")


async def test_a_dry_run_is_one_of_each() -> None:
    engine = Engine()
    await stage_all(catalogue(entry("a"), entry("b")), engine=engine, dry_run=True)
    assert [request.dry_run for request in engine.given] == [True, True]


async def test_an_entry_whose_archives_cannot_be_listed_is_one_failure() -> None:
    async def listed(request: StageRequest) -> list[str]:
        return []

    engine = Engine()
    many = entry("x", source="s3://models/*", pattern="{model_name}.tar.gz")
    report = await stage_all(catalogue(many, entry("a")), engine=engine, list_archives=listed)
    assert (report.exit_code, [e.exit_code for e in report.entries]) == (66, [0, 66])
    assert len(engine.given) == 1
    # what is asked for may be among the archives that nobody knows
    options: dict[str, Any] = {"engine": engine, "list_archives": listed}
    assert (await stage_all(catalogue(many, entry("a")), only="dev/z/*", **options)).exit_code == 66
    assert (await stage_all(catalogue(many, entry("a")), only="dev/a/*", **options)).exit_code == 0


async def test_what_could_not_be_listed_is_told_with_only_too() -> None:
    """Two entries fit ``--only``; the archives of one cannot be listed: that is no success."""

    async def denied(request: StageRequest) -> list[str]:
        raise AccessDeniedError("s3:ListBucket is missing")

    both = catalogue(
        entry("a", env="prod"),
        entry("b", env="prod", source="s3://models/b/", pattern="{model_name}_{model_version}.tar.gz"),
    )
    report = await stage_all(both, engine=Engine(), only="prod/*", list_archives=denied)
    assert report.exit_code == 77


async def test_what_another_entry_stages_is_not_passed_over() -> None:
    """The summary heads that list with "Not staged"."""

    async def two(request: StageRequest) -> list[str]:
        return ["m/a-v1.tar.gz", "m/b_v1.tar.gz"]

    fields = {"source": "s3://models/m/", "env": "prod"}
    both = catalogue(
        entry("a", **fields, pattern="{model_name}-{model_version}.tar.gz"),
        entry("b", **fields, pattern="{model_name}_{model_version}.tar.gz"),
    )
    report = await stage_all(both, engine=Engine(), list_archives=two)
    assert [e.source for e in report.entries] == ["s3://models/m/a-v1.tar.gz", "s3://models/m/b_v1.tar.gz"]
    assert report.passed_over == []


async def test_archives_are_looked_through_once_each() -> None:
    """``k not in fitting`` goes through a list for each key: 9 s of the event loop for the 20,000 that a glob may have,
    and in each environment again."""
    compared = [0]

    class Key(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            compared[0] += 1
            return str.__eq__(self, other)

    async def many(request: StageRequest) -> list[str]:
        return [Key(f"c/{n:06d}-deployable_v1.tar.gz") for n in range(400)]

    one = entry("x", source="s3://models/c/", pattern="{model_name}-deployable_{model_version}.tar.gz")
    glob = catalogue({name: value for name, value in one.items() if not name.startswith("model_")})
    await stage_all(glob, engine=Engine(), only="*/000001/*", list_archives=many)
    assert compared[0] < 40 * 400


async def test_the_same_name_in_another_store_is_passed_over_all_the_same() -> None:
    async def two(request: StageRequest) -> list[str]:
        return ["m/a-v1.tar.gz", "m/b_v1.tar.gz"]

    fields = {"source": "s3://models/m/", "env": "prod"}
    far = {"pattern": "{model_name}_{model_version}.tar.gz", "endpoint_url": "https://far.example"}
    both = catalogue(
        entry("a", **fields, pattern="{model_name}-{model_version}.tar.gz"), entry("b", **fields, **far)
    )
    report = await stage_all(both, engine=Engine(), list_archives=two)
    assert report.passed_over == ["s3://models/m/b_v1.tar.gz", "s3://models/m/a-v1.tar.gz"]


async def test_a_bug_in_an_engine_is_told_and_holds_up_no_other() -> None:
    class Broken(Engine):
        async def stage(self, request: StageRequest, observer: Observer) -> StageReport:
            if request.model_name == "a":
                raise RuntimeError("kaboom")
            return await super().stage(request, observer)

    report = await stage_all(catalogue(entry("a"), entry("b")), engine=Broken())
    assert outcomes(report) == [("a", "failed", 1), ("b", "staged", 0)]


@pytest.mark.parametrize(
    ("codes", "code"),
    [
        ([], 0),
        ([0, 0], 0),
        ([75, 78, 0], 78),
        ([66, 75], 66),
        ([75, 1, 65], 1),
        ([77, 65, 73], 65),
        ([75, 143], 143),
    ],
)
def test_the_worst_code_is_the_one_that_a_rerun_mends_last(codes: list[int], code: int) -> None:
    assert worst(codes) == code


async def test_cancelled_it_stops_what_runs() -> None:
    engine = Engine()
    engine.hanging = {"a", "b"}
    async with anyio.create_task_group() as tasks:

        async def cancel() -> None:
            while engine.running < 2:
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()

        tasks.start_soon(cancel)
        await stage_all(catalogue(entry("a"), entry("b")), engine=engine)
    assert sorted(engine.stopped) == ["a", "b"]


# --- the local engine


def failing(times: int, error: Exception, seen: list[int]) -> Callable[..., Any]:
    async def run(request: StageRequest, observer: Observer) -> StageReport:
        seen.append(1)
        if len(seen) <= times:
            raise error
        return made_up()

    return run


async def test_what_ends_with_75_is_tried_again_once() -> None:
    seen: list[int] = []
    events: list[Event] = []
    engine = LocalEngine(run=failing(1, TransientError("lost"), seen))
    await engine.stage(StageRequest(**entry("a")), events.append)
    assert len(seen) == 2
    assert [event.code for event in events if isinstance(event, Warned)] == ["tried-again"]
    seen.clear()
    engine = LocalEngine(run=failing(9, TransientError("lost"), seen))
    with pytest.raises(TransientError):
        await engine.stage(StageRequest(**entry("a")), events.append)
    assert len(seen) == 2


async def test_what_is_final_is_not_tried_again() -> None:
    seen: list[int] = []
    engine = LocalEngine(run=failing(1, ArchiveError("broken"), seen))
    with pytest.raises(ArchiveError):
        await engine.stage(StageRequest(**entry("a")), list[Event]().append)
    assert len(seen) == 1


def test_as_many_run_at_once_as_cores_and_memory_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    from riva_stream.preflight.host import FreeMemory  # noqa: PLC0415

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    small, large = StageRequest(**entry("a")), StageRequest(**entry("b", memory=1 << 30))
    for free, requests, slots in [
        (64 << 30, [small, large], 16),
        (10 << 30, [small, large], 8),
        (10 << 30, [small], 16),
        (1 << 20, [small], 1),
        (None, [small], 16),
    ]:
        found = None if free is None else FreeMemory(free, None, "the host")
        monkeypatch.setattr("riva_stream.catalogue.local.free_memory", lambda found=found: found)
        assert LocalEngine().at_once(requests) == slots
    assert LocalEngine(at_once=3).at_once([large]) == 3


EVERY = {
    "language": "de-DE",
    "architecture": "ctc",
    "description": "-- a 'text'\nof two lines",
    "server_path": "s3://images/riva.tar.gz",
    "include": ("*.riva", "-x*"),
    "replicate_to": ("s3://in-europe/dev/a/v1/", "s3://in-asia/dev/a/v1/"),
    "expect_sha256": "ab" * 32,
    "no_checksum": True,
    "allow_missing_end": True,
    "max_members": 7,
    "max_models": 8,
    "max_header_bytes": 2048,
    "max_expanded": 9 << 30,
    "max_ratio": 7.5,
    "max_streams": 10,
    "max_zstd_window": 1 << 20,
    "force": True,
    "dry_run": True,
    "retention_days": 12,
    "tag": True,
    "region": "eu-1",
    "endpoint_url": "http://localhost:1",
    "profile": "own",
    "source_region": "us-1",
    "source_endpoint_url": "http://localhost:2",
    "source_profile": "theirs",
    "ca_bundle": Path(__file__),
    "addressing": "virtual",
    "request_payer": "requester",
    "no_sign_request": True,
    "acl": "private",
    "sse": "aws:kms",
    "kms_key_id": "alias/k",
    "storage_class": "INTELLIGENT_TIERING",
    "expected_bucket_owner": "111122223333",
    "part_size": (6 << 20) + 1,
    "checkpoint": (7 << 20) + 1,
    "resume": "full",
    "source_copy": "send",
    "connections": 3,
    "memory": (300 << 20) + 1,
    "timeout": 77.5,
    "deadline": 1234.0,
    "retries": 3,
    "upload_check": "md5",
    "lease": 4.0,
    "wait": True,
}


@pytest.mark.parametrize(
    "mode",
    [
        {},
        {"reference_only": True},
        {"bintarball_reference": True},
        {"checkpoint": 0},
        {
            "timeout": 0.00001,
            "deadline": 36_525 * 86_400.0,
            "max_ratio": 1e16,
        },  # Python writes them as 1e-05, 1e+16
    ],
)
def test_a_child_is_asked_for_the_very_same_request(
    mode: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever else the environment says of what to stage, and with every field there is."""
    plain = {
        "reference_only",
        "bintarball_reference",
        "source",
        "bucket",
        "env",
        "model_name",
        "model_version",
    }
    assert set(StageRequest.model_fields) == {*EVERY, *plain, "state_dir", "run_id"}
    request = StageRequest(**{**entry("a"), **EVERY, **mode})
    around = {
        name: "misleading"
        for setting in Settings.model_fields
        for name in (*Settings.variables(setting), *Settings.aliases(setting))
    }
    around = {name: value for name, value in around.items() if not name.startswith("AWS_")}
    child = environment_for(request, {**around, "AWS_ACCESS_KEY_ID": "k", "HOME": str(tmp_path)})
    words = arguments(request)
    assert "secret" not in " ".join(words)
    assert child["AWS_ACCESS_KEY_ID"] == "k"
    for name in os.environ:
        monkeypatch.delenv(name)
    for name, value in child.items():
        monkeypatch.setenv(name, value)
    args = build_parser("riva-stream").parse_args(words)
    loaded = load(request_flags(args, "run-1"), env_file=args.env_file)
    assert loaded.request.model_copy(update={"run_id": None, "state_dir": None}) == request


async def test_a_child_tells_its_progress_and_its_result(tmp_path: Path) -> None:
    line = {"time": "t", "run_id": "r", "event": "progress", **asdict(progress(10))}
    said = f"no json\n{json.dumps(line)}\n{json.dumps(line | {'event': 'unheard_of'})}\nrest"
    program = (
        sys.executable,
        "-c",
        f"import sys; sys.stderr.write({said!r}); print({made_up().model_dump_json()!r})",
    )
    events: list[Event] = []
    request = StageRequest(**entry("a"))
    report = await stage_in_child(request, events.append, state_dir=tmp_path, program=program)
    assert report == made_up()
    assert [event.fetched for event in events if isinstance(event, Progress)] == [10]
    assert len(events) == 1


async def test_a_child_names_fields_of_the_catalogue(
    moto: MotoServer, moto_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put_credentials(moto, monkeypatch)
    missing = entry("a", source=f"s3://{moto_bucket}/none.tar.gz", bucket=moto_bucket, region="us-east-1")
    request = StageRequest(**missing, endpoint_url=moto.endpoint_url)
    with pytest.raises(StagingFailed) as caught:
        await stage_in_child(request, lambda _: None, state_dir=tmp_path)
    assert caught.value.error.code == "source_not_found"
    assert caught.value.error.hint.split()[:2] == ["check", "source"]


@pytest.mark.parametrize(
    ("code", "output", "kind", "exit_code"),
    [
        ("os.kill(os.getpid(), 9)", "", "worker_died", 75),
        ("sys.exit(1)", "Traceback", "worker_died", 75),
        ("sys.exit(0)", "", "worker_died", 75),
        (
            "sys.exit(143)",
            '{"error": {"type": "Interrupted", "code": "interrupted", "message": "m", "exit_code": 143}}',
            "worker_died",
            75,
        ),
        (
            "sys.exit(77)",
            '{"error": {"type": "X", "code": "x", "message": "m", "hint": "h", "exit_code": 77}}',
            "x",
            77,
        ),
    ],
)
async def test_how_a_child_ends_is_what_its_staging_came_to(
    code: str, output: str, kind: str, exit_code: int, tmp_path: Path
) -> None:
    program = (sys.executable, "-c", f"import os, sys; print({output!r}, flush=True); {code}")
    request = StageRequest(**entry("a"))
    with pytest.raises((StagingFailed, TransientError)) as caught:
        await stage_in_child(request, list[Event]().append, state_dir=tmp_path, program=program)
    error = error_of(caught.value)
    assert (error.code, error.exit_code) == (kind, exit_code)


async def test_a_child_that_died_is_not_waited_for_because_of_what_it_has_started(tmp_path: Path) -> None:
    """A credential helper of a child that was killed holds its pipes, and may do so for ever."""
    left = tmp_path / "left"
    program = ("sh", "-c", f"sleep 600 & echo $! > {left}; kill -9 $$")
    with pytest.raises(WorkerDiedError):
        await stage_in_child(StageRequest(**entry("a")), lambda _: None, state_dir=tmp_path, program=program)
    while is_running(int(left.read_text())):  # it goes with the child
        pass


@pytest.mark.parametrize(
    ("printed", "code"),
    [
        ("null", 0),
        ("5", 0),
        ('{"error": {}}', 3),
        ('{"error": null}', 3),
        ("", -36),
        ('{"error": {"type": "X", "code": "x", "message": "m", "exit_code": 0}}', 0),
        ('{"error": {"type": "X", "code": "x", "message": "m", "exit_code": "many"}}', 3),
        ('{"error": {"type": "X", "code": "x", "message": "m", "exit_code": 66, "where": 5}}', 66),
        ("[" * 100_000, 0),
    ],
    ids=[
        *("null", "a number", "an error without anything", "no error", "a real-time signal"),
        *("a failure of 0", "no exit code", "no place", "deep"),
    ],
)
async def test_a_child_that_says_nothing_that_can_be_read_is_one_that_died(
    printed: str, code: int, tmp_path: Path
) -> None:
    """docs: exit 75, tried again once. TypeError, KeyError and ValueError are told as a bug of ours, exit 1."""
    ending = f"os.kill(os.getpid(), {-code})" if code < 0 else f"sys.exit({code})"
    program = (sys.executable, "-c", f"import os, sys; print({printed!r}); sys.stdout.flush(); {ending}")
    request = StageRequest(**entry("a"))
    with pytest.raises(WorkerDiedError):
        await stage_in_child(request, lambda event: None, state_dir=tmp_path, program=program)


async def test_a_child_that_cannot_be_started_is_no_bug(tmp_path: Path) -> None:
    """Linux takes 128 KiB of one argument."""
    request = StageRequest(**entry("a", description="x" * 200_000))
    with pytest.raises(ConfigurationError):
        await stage_in_child(request, lambda _: None, state_dir=tmp_path)


async def test_an_event_with_values_of_another_kind_is_none(tmp_path: Path) -> None:
    line = {"event": "progress", **asdict(progress(10)), "fetched": "a lot"}
    said = "\n".join([json.dumps(line), "null", "[]", '{"event": []}', "[" * 100_000, ""])
    program = (sys.executable, "-c", f"import sys; sys.stderr.write({said!r})")
    events: list[Event] = []
    with pytest.raises(WorkerDiedError):
        await stage_in_child(StageRequest(**entry("a")), events.append, state_dir=tmp_path, program=program)
    assert events == []


def test_every_child_has_a_state_directory_of_its_own(tmp_path: Path) -> None:
    """The same path at another endpoint or in another partition, and a bintarball reference, are other stagings."""
    bintarball: dict[str, Any] = {"bintarball_reference": True, "server_path": "images/server.tar.gz"}
    far = {"endpoint_url": "https://far.example"}
    port = {"endpoint_url": "https://far.example:9000"}
    places: list[dict[str, Any]] = [
        {},
        far,
        port,
        bintarball,
        bintarball | far,
        {"region": "cn-north-1"},
        {"region": "us-gov-west-1"},
        bintarball | {"region": "cn-north-1"},
        {"endpoint_url": "http://[::1]:9000"},
    ]
    folders = [state_of(StageRequest(**entry("a", **fields)), tmp_path) for fields in places]
    assert folders[0] == tmp_path / "catalogue/deployments/dev/a/v1"
    assert len(set(folders)) == len(places)
    assert not any(one in other.parents for one in folders for other in folders)


async def test_the_library_names_fields_of_the_catalogue_as_the_command_does(tmp_path: Path) -> None:
    async def listed(request: StageRequest) -> list[str]:
        raise SourceNotFoundError("gone", hint=f"check {option('source')}")

    many = entry("x", source="s3://models/*", pattern="{model_name}.tar.gz")
    del many["model_name"]
    report = await stage_all(catalogue(many), engine=Engine(), list_archives=listed)
    assert report.entries[0].next_step == "check source"
    file = tmp_path / "catalogue.json"
    file.write_text(json.dumps({"staging": [entry("a", bintarball_reference=True)]}))
    with pytest.raises(CatalogueError) as caught:
        load_catalogue(file)
    assert caught.value.problems[0].wrong.endswith("is not set (bintarball_reference needs it)")


async def test_what_differs_is_named_as_in_the_catalogue() -> None:
    store = Watched()
    store.create_bucket("deployments")
    model = made("tar")
    await store.put_source(model.key, model.data)

    async def run(request: StageRequest, observer: Observer) -> StageReport:
        return await stage(request, observer=observer, store=store)

    whole = entry("a", source=f"s3://models/{model.key}")
    await stage_all(catalogue(whole), engine=LocalEngine(run=run))
    other = {"language": "de-DE", "retention_days": 7, "tag": True}
    report = await stage_all(catalogue(whole | other), engine=LocalEngine(run=run))
    told = [warning.message for warning in report.entries[0].warnings if warning.code == "differs"]
    assert [name in text for name, text in zip(other, told, strict=True)] == [True] * 3
    assert not [text for text in told if "--" in text]


# --- the real thing


async def test_a_catalogue_is_staged_by_child_processes_and_again_takes_a_look_each(
    moto: MotoServer, moto_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put_credentials(moto, monkeypatch)
    place = Place(moto, moto_bucket)
    data = archive_bytes(1 << 20, members=1)[0]
    for name in "ab":
        place.put(f"in/{name}_v1.tar.gz", data)
    whole = Catalogue.model_validate(
        {
            "defaults": {"bucket": moto_bucket, "env": ["dev", "prod"], "region": moto.region},
            "staging": [
                {"source": f"s3://{moto_bucket}/in/", "pattern": "{model_name}_{model_version}.tar.gz"}
            ],
        }
    )
    events: list[Any] = []
    place.put("in/._a_v1.tar.gz", bytes.fromhex("00051607 00020000") + bytes(100))
    fallback = {"endpoint_url": moto.endpoint_url}
    engine = LocalEngine(state_dir=tmp_path, at_once=2)
    report = await stage_all(whole, engine=engine, observer=events.append, fallback=fallback)
    assert [e.outcome for e in report.entries] == ["staged"] * 4
    assert [e.size_bytes for e in report.entries] == [len(data)] * 4
    told = [event.event for event in events if isinstance(event, EntryEvent)]
    assert "leftovers" in {event.code for event in told if isinstance(event, Warned)}
    assert any(isinstance(event, StageStarted) for event in told)
    for prefix in ("dev/a/v1/", "prod/b/v1/"):
        assert "staging_complete.txt" in place.names(prefix)
    again = await stage_all(whole, engine=LocalEngine(run=_here), fallback=fallback)
    assert [e.outcome for e in again.entries] == ["already_staged"] * 4
    assert again.exit_code == 0


async def _here(request: StageRequest, observer: Observer) -> StageReport:
    return await stage(request, observer=observer)
