"""Refusals and absences that pass, and what else a run must not believe at the first look, told request by request."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from riva_stream.config import StageRequest
from riva_stream.inspection import gc
from riva_stream.s3.errors import refusal
from riva_stream.s3.memory import MemoryStore
from riva_stream.s3.port import PartBody
from tests.sim.breaks import Break
from tests.sim.exhaustive import Cell, cells, prepared
from tests.sim.network import Request, immediately
from tests.sim.scenarios import BUCKET, LEASE, asked, collection, prefix_of, promoted
from tests.sim.sources import IMAGE, SOURCE_BUCKET, source
from tests.sim.test_moments import JOURNAL, MARKER, PREFIX, LateDelete, Overtaken, Told, a_world, is_one
from tests.sim.test_moments_since import leased
from tests.sim.world import World, simulated

READY = PREFIX + "deployment_ready.txt"
UNLISTED = frozenset({"ListObjectsV2"})


@pytest.mark.parametrize("kind", ["aws", "ignores"])
def test_a_marker_that_may_not_be_looked_at_is_not_taken_for_gone(kind: str) -> None:
    """403 to each HEAD of the marker, which was listed and read: "gone", and all that it promises is replaced under it."""

    def how(request: Request) -> Break | None:
        return Break.DENIED if is_one(request, 1, "HeadObject", MARKER) else None

    world = a_world(kind, "forced other", Told(how=how))
    with simulated(world, 0):
        world.run(asked(force=True))
        assert not list(map(str, world.violations))


def test_a_bintarball_marker_that_may_not_be_read_is_not_taken_for_missing() -> None:
    """Without --force. It is listed; 403 to GET and HEAD of it: deployment.json of another reference is replaced under it."""
    prefix = prefix_of(bintarball=True)

    def how(request: Request) -> Break | None:
        reads = request.operation in {"GetObject", "HeadObject"}
        return Break.DENIED if reads and request.key == prefix + "deployment_ready.txt" else None

    world = World(prepared("aws", "bintarball other", -1).copy(), Told(how=how), bintarball=True)
    with simulated(world, 0):
        run = world.run(asked(bintarball=True))
        assert not list(map(str, world.violations))
        assert run.outcome in {"73", "75", "77"}


def passing(key: str, status: int) -> tuple[Told, list[Request]]:
    """A HEAD by the first run is 404 once, or 403 three times from the second on; and those that were sent until then."""
    heads = list[Request]()

    def how(request: Request) -> Break | None:
        if status == 403 and is_one(request, 1, "HeadObject", key):
            heads.append(request)
            return Break.DENIED if 2 <= len(heads) <= 4 else None
        return None

    def otherwise(request: Request) -> None:
        if status == 404 and not heads and is_one(request, 1, "HeadObject", key):
            heads.append(request)
            request.carry_out = lambda _: None

    return Told(how=how, otherwise=otherwise), heads


@pytest.mark.parametrize("status", [403, 404])
def test_one_refusal_does_not_leave_a_stale_model_beside_the_new_marker(status: int) -> None:
    """A HEAD of what was listed, just before its deletion: it stays, exit 0."""
    told, heads = passing(PREFIX + "models/a.riva", status)
    world = a_world("aws", "fewer includes", told)
    with simulated(world, 0):
        world.run(asked(include=("b.riva",), force=True))
        assert heads
        assert not list(map(str, world.violations))


@pytest.mark.parametrize("status", [403, 404])
def test_one_refusal_does_not_leave_what_says_that_it_may_be_deployed(status: int) -> None:
    """The same for deployment_ready.txt: deployment.json is then deleted under it."""
    told, _ = passing(READY, status)
    world = a_world("aws", "forced image", told)
    with simulated(world, 0):
        world.run(asked("two", force=True))
        assert not list(map(str, world.violations))


@pytest.mark.parametrize("status", [403, 404])
def test_one_refusal_of_the_pair_that_a_manifest_names_is_no_bug(status: int) -> None:
    """The run before died between marker and the deletion of its journal: "a change under a marker", exit 1."""
    struck: list[Request] = []

    def is_it(request: Request) -> bool:
        return not struck and is_one(request, 2, "GetObject", READY) and world.judge._holder == 2

    def how(request: Request) -> Break | None:
        if is_one(request, 1, "DeleteObject", JOURNAL):
            return Break.KILL_BEFORE
        if status == 403 and is_it(request):
            struck.append(request)
            return Break.DENIED
        return None

    def otherwise(request: Request) -> None:
        if status == 404 and is_it(request):
            struck.append(request)
            request.carry_out = lambda _: None

    world = a_world("aws", "image", Told(how=how, otherwise=otherwise))
    with simulated(world, 0):
        world.run(asked(image=True))
        world.pass_time(100)
        again = world.run(asked(image=True))
        assert struck
        assert (again.outcome, again.problem) == ("already_staged", "")


@pytest.mark.parametrize("what", ["reference", "image"])
def test_a_promotion_does_not_point_at_what_was_replaced_while_it_waited(what: str) -> None:
    """``FromStaging.confirm`` looks at the original's marker alone; ``FromArchive.confirm`` at what is pointed at, too."""
    by_reference = what == "reference"
    scenario = "promoted by reference" if by_reference else "promoted with an image"
    fields: dict[str, Any] = {"reference": True} if by_reference else {"image": True, "copy": "auto"}
    wanted = promoted(**fields).model_copy(update={"wait": True, "force": True})
    world = a_world("aws", scenario, Told((0.1, 0.01)))
    key = source("one").key if by_reference else IMAGE

    def replace_it() -> None:
        new = PartBody((b"new",), 3)
        immediately(world.store.put(SOURCE_BUCKET, key, new, content_type="a/b", metadata={}))

    with simulated(world, 0):
        world.start(asked("two", force=True))
        world.start_in(2.0, wanted, machine="b")
        world.loop.call_at(4.0, replace_it, context=world.network.context)
        world.wait()
        assert not list(map(str, world.violations))
        document = world.store.look(BUCKET, PREFIX + "deployment.json")
        if document is not None:
            image = world.store.look(SOURCE_BUCKET, IMAGE)
            told = json.loads(document.data)["bintarball_references"]["container_image"]["etag"]
            assert image is not None
            assert told == image.etag


def died_in_its_commit(request: Request) -> Break | None:
    return (
        Break.KILL_BEFORE
        if is_one(request, 1, "CompleteMultipartUpload", PREFIX + "checksums.sha256")
        else None
    )


def test_gc_leaves_the_word_of_what_a_dead_commit_has_left() -> None:
    """Without s3:ListBucket the journal alone tells of it. gc (which may list) deletes it: nothing is left open."""
    world = a_world("aws", "fresh", Told(how=died_in_its_commit))
    with simulated(world, 0):
        world.run(asked(), denied=UNLISTED)
        world.pass_time(100)
        world.run(collection(asked()))
        world.run(asked("two"), denied=UNLISTED)
        assert not list(map(str, world.violations))


@pytest.mark.parametrize(("status", "times"), [(403, 3), (404, 1)])
@pytest.mark.parametrize("kind", ["ignores", "refuses"])
def test_a_spell_of_refusals_does_not_hide_a_live_holder_that_was_listed(
    kind: str, status: int, times: int
) -> None:
    """Three 403s in 0.6 s, or one 404, for the GET of a journal that the listing just before has shown."""
    deletion, struck = LateDelete(1, 2.5), list[Request]()

    def is_it(request: Request) -> bool:
        return len(struck) < times and is_one(request, 2, "GetObject", JOURNAL)

    def how(request: Request) -> Break | None:
        if status == 403 and is_it(request):
            struck.append(request)
            return Break.DENIED
        return None

    def otherwise(request: Request) -> tuple[float, float] | None:
        if status == 404 and is_it(request):
            struck.append(request)
            request.carry_out = lambda _: None
        return deletion.otherwise(request)

    world = a_world(kind, "already staged", Told((0.1, 0.005), otherwise, how, deletion.late))
    deletion.world = world
    with simulated(world, 0):
        world.start(asked(force=True))
        world.start_in(7.12 - (0.65 if times == 3 else 0.0), asked(force=True), machine="b")
        world.wait()
        world.pass_time(10)
        assert not list(map(str, world.violations))


@pytest.mark.parametrize("kind", ["aws", "ignores"])
def test_a_journal_that_was_read_wrongly_is_watched_for_a_lease_of_its_own(kind: str) -> None:
    """A bit flips in the GET of a journal with a lease of 30 s. A run with a lease of 4 s takes its live holder for dead."""
    deletion, struck = LateDelete(1, 16.0), list[Request]()

    def otherwise(request: Request) -> tuple[float, float] | None:
        if not struck and is_one(request, 2, "GetObject", JOURNAL):
            struck.append(request)
            right = request.carry_out

            def wrong(store: MemoryStore) -> Any:
                found = right(store)
                return replace(found, data=b"x" + found.data[1:])

            request.carry_out = wrong
        return deletion.otherwise(request)

    world = a_world(kind, "already staged", Told((0.1, 0.005), otherwise, late=deletion.late))
    deletion.world = world
    with simulated(world, 0):
        world.start(leased(30.0, force=True))
        world.start_in(11.0, leased(4.0, force=True), machine="b")
        world.wait()
        world.pass_time(30)
        assert not list(map(str, world.violations))
        assert [run.outcome for run in world.processes] == ["staged", "75"]


def test_a_run_that_was_taken_over_aborts_nothing_of_the_other_ones_for_one_refusal() -> None:
    """Frozen, and taken over from; its look at the journal is refused once, and it aborts what the other has adopted."""

    def named(request: Request) -> bool:
        journal = world.store.look(BUCKET, JOURNAL)
        keys = {upload["key"] for upload in json.loads(journal.data)["uploads"]} if journal else set()
        return sends(request) and request.key in keys

    def sends(request: Request) -> bool:
        return request.operation == "UploadPart" and "/source/" in request.key

    def looks(request: Request) -> bool:  # the first is the refused heartbeat's
        return is_one(request, 1, "GetObject", JOURNAL)

    schedule = Overtaken((0.1, 0.3), freezes=named, thaws=sends, looks=looks)
    world = schedule.world = World(prepared("aws", "long", -1).copy(), schedule)
    with simulated(world, 0):
        world.start(asked("long"))
        world.start_in(2.0, asked("long"), machine="b")
        world.wait()
        assert len(schedule.looked) >= 2
        assert [run.outcome for run in world.processes] == ["75", "staged"]


def test_one_refusal_does_not_leave_the_journal_of_a_run_that_has_ended_well() -> None:
    """A single 403 (or 404) to the HEAD before its deletion: "it is gone". Not even "stopped" is written, and no warning."""
    struck: list[Request] = []

    def how(request: Request) -> Break | None:
        committed = world.store.look(BUCKET, MARKER) is not None
        if committed and not struck and is_one(request, 1, "HeadObject", JOURNAL):
            struck.append(request)
            return Break.DENIED
        return None

    world = a_world("aws", "fresh", Told(how=how))
    with simulated(world, 0):
        assert world.run(asked()).outcome == "staged"
        assert struck
        there = world.store.look(BUCKET, JOURNAL)
        assert there is None or json.loads(there.data)["stopped"]


def test_gc_does_not_say_that_a_journal_is_removed_that_is_there() -> None:
    """The same of gc."""
    struck, told = list[Request](), list[bool]()

    def how(request: Request) -> Break | None:
        if request.process.pid == 1:
            return (
                Break.KILL_AFTER if request.operation == "UploadPart" and "/source/" in request.key else None
            )
        if not struck and is_one(request, 2, "HeadObject", JOURNAL) and not world.store.open_uploads(BUCKET):
            struck.append(request)
            return Break.DENIED
        return None

    async def collect(_: Any, store: Any) -> Any:
        report = await gc.collect(store, BUCKET, PREFIX, older_than=0.0, lease=LEASE, apply=True)
        told.extend(left.removed for left in report.found if left.kind == "journal")
        return report

    world = a_world("aws", "fresh", Told(how=how))
    with simulated(world, 0):
        world.run(asked())
        world.pass_time(100)
        world.run(asked(), factory=collect)
        assert struck
        assert told == [world.store.look(BUCKET, JOURNAL) is None]


@pytest.mark.parametrize("name", ["artifact.json", "upload_manifest.json"])
def test_one_404_for_a_document_that_was_listed_is_no_conflict(name: str) -> None:
    """ "it has the marker but no artifact.json": 73, which is final."""
    struck: list[Request] = []

    def otherwise(request: Request) -> None:
        if not struck and is_one(request, 1, "GetObject", PREFIX + name):
            struck.append(request)
            request.carry_out = lambda _: None

    world = a_world("aws", "already staged", Told(otherwise=otherwise))
    with simulated(world, 0):
        run = world.run(asked())
        assert (run.outcome, run.problem) == ("already_staged", "")


def test_one_404_for_the_marker_of_the_original_does_not_cost_what_was_staged() -> None:
    """``FromStaging.confirm`` in ``seal``: the old marker is gone, no new one comes, and documents are left. Exit 75."""
    struck: list[Request] = []
    wanted = promoted(force=True, copy="auto")

    def otherwise(request: Request) -> None:
        is_it = is_one(request, 1, "HeadObject", wanted.original.prefix + "staging_complete.txt")
        if is_it and not struck and world.store.look(BUCKET, MARKER) is None:
            struck.append(request)
            request.carry_out = lambda _: None

    world = a_world("aws", "promoted over another", Told(otherwise=otherwise))
    with simulated(world, 0):
        run = world.run(wanted)
        assert struck
        assert (run.outcome, run.problem) == ("staged", "")


@pytest.mark.parametrize("kind", ["aws", "ignores"])
@pytest.mark.parametrize(
    ("scenario", "wanted"),
    [
        ("fresh", asked()),
        ("fresh", asked(reference=True)),
        ("forced other", asked(force=True)),
        ("forced image", asked("two", force=True)),
        ("upgrade", asked()),
    ],
)
def test_where_a_listing_is_allowed_and_what_is_missing_is_refused_a_run_stages(
    kind: str, scenario: str, wanted: StageRequest
) -> None:
    """s3:ListBucket with a StringLike on the prefix alone: HEAD and GET of what is not there are 403, as of what is hidden."""

    def otherwise(request: Request) -> None:
        if request.operation in {"HeadObject", "GetObject"} and request.bucket == BUCKET:
            right = request.carry_out

            def told(store: MemoryStore) -> Any:
                if (found := right(store)) is None:
                    code = "403" if request.operation == "HeadObject" else "AccessDenied"
                    raise refusal(request.operation, request.bucket, request.key, code, 403)
                return found

            request.carry_out = told

    world = a_world(kind, scenario, Told(otherwise=otherwise))
    with simulated(world, 0):
        run = world.run(wanted)
        assert run.outcome in {"staged", "upgraded"}, run.problem
        assert not list(map(str, world.violations))


def test_gc_does_not_take_a_refused_marker_for_one_that_stands() -> None:
    struck: list[Request] = []

    def how(request: Request) -> Break | None:
        if not struck and is_one(request, 2, "HeadObject", MARKER):
            struck.append(request)
            return Break.DENIED
        return died_in_its_commit(request)

    world = a_world("aws", "fresh", Told(how=how))
    with simulated(world, 0):
        world.run(asked(), denied=UNLISTED)
        world.pass_time(100)
        world.run(collection(asked()))
        assert struck
        assert world.store.look(BUCKET, JOURNAL) is not None
        world.run(asked("two"), denied=UNLISTED)
        assert not list(map(str, world.violations))


@pytest.mark.parametrize("kind", ["aws", "ignores", "refuses"])
def test_gc_does_not_lose_a_journal_for_one_404_at_its_takeover(kind: str) -> None:
    gets: list[Request] = []

    def otherwise(request: Request) -> None:
        if is_one(request, 2, "GetObject", JOURNAL):
            gets.append(request)
            if len(gets) == 2:
                request.carry_out = lambda _: None

    world = a_world(kind, "fresh", Told(how=died_in_its_commit, otherwise=otherwise))
    with simulated(world, 0):
        world.run(asked(), denied=UNLISTED)
        world.pass_time(100)
        world.run(collection(asked()))
        assert world.store.look(BUCKET, JOURNAL) is not None
        world.run(asked("two"), denied=UNLISTED)
        assert not list(map(str, world.violations))


@pytest.mark.parametrize("scenario", ["already staged", "image added", "promoted", "promoted by reference"])
def test_nothing_is_wrong_because_it_was_told_to_be_missing_once(scenario: str) -> None:
    """Any one 404 for what is there: "what is staged is no longer what was staged", exit 65."""
    results = [cell.simulate() for cell in cells("aws", scenario, leftovers=False) if _is_missed(cell)]
    found = [result for result in results if result is not None]
    assert len(found) > 8
    assert not [str(violation) for result in found for violation in result.violations]


def _is_missed(cell: Cell) -> bool:
    return cell.how is Break.MISSING and cell.follow_up == "same"
