"""Wrong answers, one or two of them, and answers that cross: what a run must not make of them, request by request."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from riva_stream import promote
from riva_stream.s3.errors import refusal
from riva_stream.s3.memory import MemoryStore
from tests.sim.breaks import Break
from tests.sim.ending import converge
from tests.sim.exhaustive import Cell, prepared
from tests.sim.network import Request
from tests.sim.scenarios import BUCKET, asked, collection, promoted
from tests.sim.schedules import Plain, Strike
from tests.sim.sources import SOURCE_BUCKET
from tests.sim.test_moments import JOURNAL, MARKER, PREFIX, LateDelete, Overtaken, Told, a_world, is_one
from tests.sim.world import World, simulated

UNLISTED = frozenset({"ListObjectsV2"})


def killed_and_followed(
    world: World, deletion: LateDelete, *, kill_at: float, next_at: float, rest: float
) -> None:
    """A forced run is killed while its deletion is under way, and another one follows it."""
    deletion.world = world
    first = world.start(asked(force=True))
    world.loop.call_at(kill_at, lambda: world.network.kill(first), context=world.network.context)
    world.start_in(next_at, asked(force=True), machine="b")
    world.wait()
    world.pass_time(rest)


def refuse(request: Request, code: str, status: int) -> None:
    def told(_: object) -> Any:
        raise refusal(request.operation, request.bucket, request.key, code, status)

    request.carry_out = told


@pytest.mark.parametrize("status", [403, 404])
def test_a_promotion_onto_itself_by_another_name_of_its_bucket(status: int) -> None:
    """The one look at the place is answered wrong: the staging deletes its own marker, and ends with 75; a rerun finds nothing staged."""
    struck: list[Request] = []

    def otherwise(request: Request) -> None:
        if not struck and is_one(request, 1, "HeadObject", MARKER):
            struck.append(request)
            if status == 404:
                request.carry_out = lambda _: None
            else:
                refuse(request, "403", 403)

    world = a_world("aws", "already staged", Told(otherwise=otherwise))
    world.store._buckets["alias"] = world.store._buckets[BUCKET]  # an access point's alias
    wanted = promoted(force=True, copy="auto").promotion.model_copy(
        update={"source": f"s3://alias/{PREFIX}", "to": (f"s3://{BUCKET}/{PREFIX}",)}
    )
    with simulated(world, 0):
        world.run(promoted(force=True, copy="auto"), factory=lambda _, store: promote(wanted, store=store))
        assert world.store.look(BUCKET, MARKER) is not None
        assert not list(map(str, world.violations))


def test_one_412_for_a_condition_that_holds_does_not_cost_all_conditions() -> None:
    """aws-no-expiry: what held the late deletion back was its If-Match alone."""
    deletion, struck = LateDelete(1, 40.0), list[Request]()

    def otherwise(request: Request) -> tuple[float, float] | None:
        if is_one(request, 1, "DeleteObject", MARKER):
            if not struck:
                struck.append(request)
                refuse(request, "PreconditionFailed", 412)
                return None
            return deletion.otherwise(request)
        return None

    world = a_world("aws-no-expiry", "already staged", Told((0.01, 0.01), otherwise, late=deletion.late))
    with simulated(world, 0):
        killed_and_followed(world, deletion, kill_at=3.0, next_at=5.0, rest=60)
        assert struck
        assert not list(map(str, world.violations))


def test_a_run_that_cannot_know_whether_it_is_still_the_holder_aborts_nothing() -> None:
    """``Uploads._are_ours``: a bad digest in a run that was frozen and taken over, and its journal's PUT is refused once."""

    def sends(request: Request) -> bool:
        is_part = request.operation == "UploadPart" and "b.riva" in request.key
        return is_part and request.detail.endswith("part 1")

    def begins(request: Request) -> bool:
        return request.operation == "CreateMultipartUpload"

    def writes(request: Request) -> bool:
        return is_one(request, 1, "PutObject", JOURNAL)

    class Schedule(Overtaken):
        def delays(self, request: Request) -> tuple[float, float]:
            if self.looked == [request]:
                return 1.0, 1.0  # the heartbeat's, which is cancelled
            return super().delays(request)

    schedule = Schedule((0.3, 0.3), freezes=sends, thaws=begins, looks=writes)
    world = schedule.world = World(prepared("aws", "fresh", -1).copy(), schedule)
    with simulated(world, 0):
        world.start(asked(wrong=True))
        world.start_in(8.9, asked(), machine="b")
        world.wait()
        assert schedule.looked
        assert world.processes[1].outcome == "staged"


@pytest.mark.parametrize("lateness", [8.2, 8.7, 9.2])
def test_an_abort_of_what_could_not_be_adopted_strikes_nobody(lateness: float) -> None:
    """``_adopt`` aborts while the journal still offers the upload: it comes late, and strikes what the third run sends to."""
    aborts: list[Request] = []

    def how(request: Request) -> Break | None:
        if (
            is_one(request, 1, "UploadPart", request.key)
            and request.detail.endswith("part 4")
            and "/source/" in request.key
        ):
            return Break.CANCEL_BEFORE
        if request.process.pid == 2 and request.operation == "ListParts":
            return Break.DENIED
        if (
            request.process.pid == 2
            and request.operation == "AbortMultipartUpload"
            and "/source/" in request.key
        ):
            aborts.append(request)
            return Break.KILL_LATE
        return None

    def late(request: Request) -> float | None:
        return lateness if request.operation == "AbortMultipartUpload" else None

    world = World(prepared("aws", "long", -1).copy(), Told((0.1, 0.1, 0.1), how=how, late=late))
    with simulated(world, 0):
        world.run(asked("long"))
        world.run(asked("long"))
        third = world.run(asked("long"))
        assert aborts
        assert third.outcome == "staged"


def test_an_upload_is_not_gone_because_it_was_told_so_once() -> None:
    """All that it has would be sent again."""
    listed: list[Request] = []

    def how(request: Request) -> Break | None:
        if is_one(request, 1, "UploadPart", request.key) and request.detail.endswith("part 4"):
            return Break.CANCEL_BEFORE
        return None

    def otherwise(request: Request) -> None:
        if request.process.pid == 2 and request.operation == "ListParts" and not listed:
            listed.append(request)
            request.carry_out = lambda _: None

    world = World(prepared("aws", "long", -1).copy(), Told((0.1, 0.1), otherwise, how))
    with simulated(world, 0):
        world.run(asked("long"))
        before = {upload.upload_id for upload in world.store.open_uploads(BUCKET)}
        kept: list[set[str]] = []

        def look(request: Request) -> Break | None:
            if is_one(request, 2, "CompleteMultipartUpload", f"{PREFIX}source/long.tar.gz"):
                kept.append({upload.upload_id for upload in world.store.open_uploads(BUCKET)} & before)
            return None

        world.schedule = Told((0.1, 0.1), otherwise, look)
        second = world.run(asked("long"))
        assert listed
        assert second.outcome == "staged"
        assert kept == [before]


def test_a_replica_of_the_very_same_etags_is_not_the_staging_itself() -> None:
    """As S3 Replication makes them: promoted onto by force it is another place all the same."""
    world = World(prepared("aws", "already staged", -1).copy(), Plain())
    world.store._buckets["replica"] = copy.deepcopy(world.store._buckets[BUCKET])
    wanted = promoted(force=True, copy="auto").promotion.model_copy(
        update={"source": f"s3://replica/{PREFIX}", "to": (f"s3://{BUCKET}/{PREFIX}",)}
    )
    with simulated(world, 0):
        run = world.run(
            promoted(force=True, copy="auto"), factory=lambda _, store: promote(wanted, store=store)
        )
        assert (run.outcome, run.problem) == ("staged", "")
        assert not list(map(str, world.violations))


def test_one_refused_heartbeat_does_not_end_a_run() -> None:
    """403 to a journal that comes again soon: 77, in a commit as well, after the old marker is gone."""
    puts: list[Request] = []

    def how(request: Request) -> Break | None:
        if is_one(request, 1, "PutObject", JOURNAL):
            puts.append(request)
            return Break.DENIED if len(puts) == 2 else None
        return None

    world = World(prepared("aws", "long over other", -1).copy(), Told((0.1,), how=how))
    with simulated(world, 0):
        run = world.run(asked("long", force=True))
        assert run.outcome == "staged"


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        ("GetObject", "staging_complete.txt"),
        ("GetObject", "artifact.json"),
        ("GetObject", "upload_manifest.json"),
        ("HeadObject", "models/a.riva"),
    ],
)
def test_one_404_of_the_original_does_not_end_a_promotion(operation: str, name: str) -> None:
    struck: list[Request] = []
    wanted = promoted(copy="auto")

    def otherwise(request: Request) -> None:
        if not struck and is_one(request, 1, operation, wanted.original.prefix + name):
            struck.append(request)
            request.carry_out = lambda _: None

    world = a_world("aws", "promoted", Told(otherwise=otherwise))
    with simulated(world, 0):
        run = world.run(wanted)
        assert struck
        assert (run.outcome, run.problem) == ("staged", "")


@pytest.mark.parametrize(
    ("kind", "code", "status"), [("aws", "NoSuchKey", 404), ("ignores", "PreconditionFailed", 412)]
)
def test_one_404_does_not_leave_the_journal_of_a_run_that_has_ended_well(
    kind: str, code: str, status: int
) -> None:
    struck: list[Request] = []

    def otherwise(request: Request) -> None:
        if not struck and is_one(request, 1, "DeleteObject", JOURNAL):
            struck.append(request)
            refuse(request, code, status)

    world = a_world(kind, "fresh", Told(otherwise=otherwise))
    with simulated(world, 0):
        assert world.run(asked()).outcome == "staged"
        assert struck
        there = world.store.look(BUCKET, JOURNAL)
        assert there is None or json.loads(there.data)["stopped"]


def test_gc_does_not_lose_an_upload_for_one_404_of_its_parts() -> None:
    """Where uploads are listed by exact key only, the journal alone tells of it: it goes, and the upload stays for ever."""
    asks: list[Request] = []

    def how(request: Request) -> Break | None:
        if request.process.pid == 1 and request.operation == "UploadPart" and "b.riva" in request.key:
            return Break.CANCEL_BEFORE
        return None

    def otherwise(request: Request) -> None:
        if request.process.pid == 2 and request.operation == "ListParts" and "a.riva" in request.key:
            asks.append(request)
            if len(asks) == 2:
                request.carry_out = lambda _: None

    world = World(prepared("exact", "fresh", -1).copy(), Told(how=how, otherwise=otherwise))
    with simulated(world, 0):
        world.run(asked())
        world.pass_time(100)
        world.run(collection(asked()))
        world.schedule = Plain()
        other = asked("two", include=("b.riva",))
        converge(world, other)
        assert len(asks) >= 2
        assert not list(map(str, world.violations))


@pytest.mark.parametrize("at", [0.3 + 0.1 * n for n in range(22, 25)])
def test_a_late_first_journal_of_a_cancelled_run(at: float) -> None:
    """It comes over that of the next run, whose commit then ends with 75, and no journal names what it has left."""

    def how(request: Request) -> Break | None:
        return Break.CANCEL_LATE if is_one(request, 1, "PutObject", JOURNAL) and request.ordinal < 9 else None

    def late(request: Request) -> float | None:
        return at if is_one(request, 1, "PutObject", JOURNAL) else None

    world = a_world("ignores", "fresh", Told(how=how, late=late))
    with simulated(world, 0):
        world.run(asked(), denied=UNLISTED)
        world.run(asked(), denied=UNLISTED)
        world.pass_time(60)
        third = world.run(asked("two", include=("b.riva",)), denied=UNLISTED)
        world.schedule = Plain()
        if third.outcome != "73":
            converge(world, asked("two", include=("b.riva",)))
        assert not list(map(str, world.violations))


@pytest.mark.parametrize("kind", ["ignores", "refuses"])
def test_two_404s_while_a_live_holder_is_watched_do_not_give_its_prefix_away(kind: str) -> None:
    """One for the HEAD of the watch, one for the GET that follows: ``listed`` is forgotten, and nothing insists."""
    deletion, heads, gets = LateDelete(1, 2.5), list[Request](), list[Request]()

    def otherwise(request: Request) -> tuple[float, float] | None:
        if is_one(request, 2, "HeadObject", JOURNAL) and not heads:
            heads.append(request)
            request.carry_out = lambda _: None
        elif is_one(request, 2, "GetObject", JOURNAL) and heads and not gets:
            gets.append(request)
            request.carry_out = lambda _: None
        return deletion.otherwise(request)

    world = a_world(kind, "already staged", Told((0.1, 0.005), otherwise, late=deletion.late))
    deletion.world = world
    with simulated(world, 0):
        world.start(asked(force=True))
        world.start_in(6.4, asked(force=True), machine="b")
        world.wait()
        world.pass_time(30)
        assert heads
        assert not list(map(str, world.violations))


@pytest.mark.parametrize(("kind", "nth"), [("ignores", 1), ("refuses", 2)])
def test_one_refused_question_does_not_cost_all_windows(kind: str, nth: int) -> None:
    """``_accepts_window``: a single 403 to the HEAD that tries the window, and each change goes without one."""
    deletion, heads = LateDelete(1, 40.0), list[Request]()

    def how(request: Request) -> Break | None:
        if is_one(request, 1, "HeadObject", JOURNAL):
            heads.append(request)
            return Break.DENIED if len(heads) == nth else None
        return None

    world = a_world(kind, "already staged", Told((0.01, 0.01), deletion.otherwise, how, deletion.late))
    with simulated(world, 0):
        killed_and_followed(world, deletion, kill_at=12.0, next_at=14.0, rest=80)
        assert deletion.sent is not None
        assert not list(map(str, world.violations))


def test_a_rival_that_ends_between_the_refusal_and_the_look_does_not_cost_all_conditions() -> None:
    """No wrong answer at all: 412 for the rival's journal, which is gone when it is looked for ("the store is wrong")."""
    deletion, puts, gets = LateDelete(1, 60.0), list[Request](), list[Request]()

    def otherwise(request: Request) -> tuple[float, float] | None:
        if is_one(request, 1, "PutObject", JOURNAL) and not puts:
            puts.append(request)
            return 0.5, 0.01
        if is_one(request, 1, "GetObject", JOURNAL) and puts and not gets:
            gets.append(request)
            return 1.2, 0.01
        return deletion.otherwise(request)

    world = a_world(
        "aws-no-expiry", "already staged", Told((0.01, 0.01, 0.01), otherwise, late=deletion.late)
    )
    deletion.world = world
    with simulated(world, 0):
        first = world.start(asked(force=True))
        world.start_in(0.1, asked(force=True), machine="b")
        world.loop.call_at(60.0, lambda: world.network.kill(first), context=world.network.context)
        world.start_in(61.0, asked(force=True), machine="c")
        world.wait()
        world.pass_time(120)
        assert deletion.sent is not None
        assert not list(map(str, world.violations))


@pytest.mark.parametrize("refusals", [3, 4])
def test_refusals_at_its_journal_do_not_cost_the_word_of_what_was_there_before(refusals: int) -> None:
    """It took over, could not tell whether it still held, and deleted the journal that alone named an earlier run's uploads.

    A HEAD that crosses with its own heartbeat tells another ETag; whose journal that is cannot be read.
    """

    def another(carry_out: Callable[[MemoryStore], Any]) -> Callable[[MemoryStore], Any]:
        return lambda store: replace(carry_out(store), etag="0" * 32)

    in_doubt = 0
    for crossing in range(1, 20):
        held = looks = refused = 0

        def otherwise(request: Request) -> None:
            nonlocal held, looks, refused
            if is_one(request, 2, "PutObject", JOURNAL):
                held = 1
            elif is_one(request, 2, "HeadObject", JOURNAL):
                looks += held
                if looks == crossing:  # noqa: B023 - called in this turn
                    request.carry_out = another(request.carry_out)
            elif is_one(request, 2, "GetObject", JOURNAL) and looks >= crossing and refused < refusals:  # noqa: B023
                refused += 1
                refuse(request, "AccessDenied", 403)

        world = World(prepared("exact", "forced same", -1).copy(), Strike(52, Break.CANCEL_BEFORE))
        with simulated(world, 0):
            world.run(asked(force=True))
            assert world.store.open_uploads(BUCKET)
            world.schedule = Told(otherwise=otherwise)
            run = world.run(asked(force=True))
            in_doubt += refused > 2 and run.outcome == "77"
            world.schedule = Plain()
            converge(world, asked(), machine="b")
            assert not list(map(str, world.violations)), crossing
    assert in_doubt > 5


@pytest.mark.parametrize("kind", ["refuses", "exact"])
def test_a_store_that_is_busy_for_a_while_does_not_end_a_run_that_needs_its_copies(kind: str) -> None:
    """Its probe was tried three times, as where what is sent can take the place of the copies."""
    struck = 0
    for ordinal in range(40):
        result = Cell(kind, "copied, bad", ordinal, Break.BUSY, "same").simulate()
        struck += result is not None
        assert result is None or not list(map(str, result.violations)), ordinal
    assert struck > 30


@pytest.mark.parametrize("denied", [frozenset[str](), UNLISTED])
@pytest.mark.parametrize("answer", ["garbled", "garbled twice", "refused"])
def test_whoever_has_lost_its_prefix_leaves_what_its_successor_may_have_adopted(
    answer: str, denied: frozenset[str]
) -> None:
    """Not to know what the journal names is not to know that it names nothing: uploads were aborted, and checkpoints deleted."""
    looks: list[Request] = []

    def sends(request: Request) -> bool:
        is_part = request.operation == "UploadPart" and request.key.startswith(
            (f"{PREFIX}source/", f"{PREFIX}models/")
        )
        return is_part and world.loop.now > 3 and sum(len(it.parts) for it in uploads().values()) >= 8

    def uploads() -> dict[str, Any]:
        return world.store._buckets[BUCKET].uploads

    def goes_on(request: Request) -> bool:
        return request.operation == "UploadPart" and not request.key.startswith(f"{PREFIX}.riva")

    def otherwise(request: Request) -> None:
        if not schedule.goes_on or not is_one(request, 1, "GetObject", JOURNAL):
            return
        looks.append(request)
        if answer == "refused":
            if len(looks) > 2:
                refuse(request, "AccessDenied", 403)
        elif len(looks) in {"garbled": {3}, "garbled twice": {3, 4}}[answer]:
            real = request.carry_out
            request.carry_out = lambda store: replace(real(store), data=b"\0" + real(store).data[1:])

    schedule = Overtaken((0.2, 0.2), otherwise, freezes=sends, thaws=goes_on)
    world = schedule.world = a_world("aws", "long over other", schedule)
    with simulated(world, 0):
        world.start(asked("long", force=True), denied=denied)
        world.start_in(8.0, asked("long", force=True), machine="b", denied=denied)
        world.wait()
        assert len(looks) > 2
        assert [(run.name, run.outcome) for run in world.processes] == [("run1", "75"), ("run2", "staged")]
        assert not list(map(str, world.violations))


@pytest.mark.parametrize("denied", [frozenset[str](), UNLISTED])
@pytest.mark.parametrize("kind", ["aws", "exact", "ignores"])
def test_a_journal_that_may_not_be_read_for_a_while_is_not_gone(kind: str, denied: frozenset[str]) -> None:
    """The uploads were aborted: 'another run has taken over, and ended'."""
    since: list[float] = []

    def how(request: Request) -> Break | None:
        parts = [number for it in world.store._buckets[BUCKET].uploads.values() for number in it.parts]
        if request.key != JOURNAL or request.operation not in {"HeadObject", "GetObject"} or len(parts) < 6:
            return None
        since.append(world.loop.now)
        return Break.DENIED if since[-1] - since[0] < 4.0 else None

    world = a_world(kind, "long", Told((0.2,), how=how))
    with simulated(world, 0):
        run = world.run(asked("long"), denied=denied)
        assert since
        assert run.outcome == "77"
        assert world.store.open_uploads(BUCKET)
        assert world.store.look(BUCKET, JOURNAL) is not None
        assert not list(map(str, world.violations))
        world.pass_time(5)
        assert world.run(asked("long")).outcome == "staged"


@pytest.mark.parametrize("denied", [frozenset[str](), UNLISTED])
@pytest.mark.parametrize("kind", ["aws", "exact"])
def test_a_journal_that_may_not_be_looked_at_in_the_end_keeps_nobody_waiting(
    kind: str, denied: frozenset[str]
) -> None:
    """It was taken for deleted: it said that the run was committing, so that the next one waited for a lease."""

    def how(request: Request) -> Break | None:
        is_committed = world.store.look(BUCKET, MARKER) is not None
        is_asked = is_one(request, 1, "HeadObject", JOURNAL) or is_one(request, 1, "GetObject", JOURNAL)
        return Break.DENIED if is_asked and is_committed else None

    world = a_world(kind, "fresh", Told((0.01, 0.01), how=how))
    with simulated(world, 0):
        assert world.run(asked(), denied=denied).outcome == "staged"
        world.pass_time(5)
        there = world.store.look(BUCKET, JOURNAL)
        assert there is not None
        assert json.loads(there.data)["stopped"]
        assert not json.loads(there.data)["committing"]


@pytest.mark.parametrize("denied", [frozenset[str](), UNLISTED])
def test_one_404_of_a_journal_does_not_show_that_nobody_holds_the_prefix(denied: frozenset[str]) -> None:
    """Without s3:ListBucket it was believed: the live journal was overwritten, and a late deletion hit the new marker."""
    struck: list[Request] = []
    wanted = asked(force=True).model_copy(update={"lease": 30.0})

    def otherwise(request: Request) -> tuple[float, float] | None:
        if is_one(request, 1, "DeleteObject", MARKER) and len(world.processes) == 1:
            world.start_in(0.05, wanted, machine="b", denied=denied)
            return 30.0, 0.01
        if not struck and is_one(request, 2, "GetObject", JOURNAL):
            struck.append(request)
            request.carry_out = lambda _: None
        return None

    def late(request: Request) -> float | None:
        return 8.0 if is_one(request, 1, "DeleteObject", MARKER) else None

    world = a_world("ignores", "forced other", Told((0.01, 0.01), otherwise, late=late))
    with simulated(world, 0):
        world.start(wanted, denied=denied)
        world.wait()
        world.pass_time(10)
        assert struck
        assert world.store.look(BUCKET, MARKER) is not None
        assert not list(map(str, world.violations))


@pytest.mark.parametrize("denied", [frozenset[str](), UNLISTED])
def test_one_404_in_each_look_does_not_cost_a_pair(denied: frozenset[str]) -> None:
    """Without s3:ListBucket an upgrade deleted the documents of the deployment that it should have been refused for."""
    struck: list[Request] = []
    ready = f"{PREFIX}deployment_ready.txt"
    begins = False

    def otherwise(request: Request) -> None:
        nonlocal begins
        begins |= is_one(request, 2, "GetObject", MARKER)
        if begins and is_one(request, 2, "GetObject", ready):
            begins = False
            struck.append(request)
            request.carry_out = lambda _: None

    world = a_world("aws", "fresh", Told((0.01, 0.01), otherwise))
    with simulated(world, 0):
        assert world.run(asked(reference=True, image=True)).outcome == "staged"
        world.pass_time(10)
        assert world.run(asked(), denied=denied).outcome == "73"
        assert world.store.look(BUCKET, ready) is not None
        assert struck


@pytest.mark.parametrize("kind", ["ignores", "refuses", "aws"])
def test_three_refusals_of_a_journal_that_a_listing_shows_are_no_absence(kind: str) -> None:
    """It appeared after the run's own listing, was overwritten, and a deletion under way hit the new marker."""
    gets: list[Request] = []
    deleted: list[float] = []
    wanted = asked(force=True).model_copy(update={"lease": 30.0})

    def otherwise(request: Request) -> tuple[float, float] | None:
        if is_one(request, 1, "DeleteObject", MARKER) and not deleted:
            deleted.append(world.loop.now)
            return 8.0, 0.01
        if is_one(request, 2, "GetObject", JOURNAL) and len(gets) < 3:
            gets.append(request)
            refuse(request, "AccessDenied", 403)
        is_document = request.operation == "GetObject" and request.key.startswith(PREFIX)
        return (1.0, 0.01) if request.process.pid == 2 and is_document and not gets else None

    def late(request: Request) -> float | None:
        is_marker = is_one(request, 1, "DeleteObject", MARKER)
        return max(0.0, deleted[0] + 8.0 - world.loop.now) if is_marker and deleted else None

    world = a_world(kind, "forced other", Told((0.01, 0.01), otherwise, late=late))
    with simulated(world, 0):
        world.start(wanted)
        world.start_in(0.0, wanted, machine="b")
        world.wait()
        world.pass_time(12)
        assert len(gets) == 3
        assert [run.outcome for run in world.processes] == ["staged", "77"]
        assert world.store.look(BUCKET, MARKER) is not None
        assert not list(map(str, world.violations))


@pytest.mark.parametrize("kind", ["aws", "ignores", "refuses"])
@pytest.mark.parametrize("denied", [frozenset[str](), UNLISTED])
def test_a_first_journal_that_fails_once_where_absence_is_hidden(kind: str, denied: frozenset[str]) -> None:
    """The second attempt looks whether the first one has arrived, and is refused, as S3 hides what is missing: 77."""
    puts: list[Request] = []

    def how(request: Request) -> Break | None:
        if is_one(request, 1, "PutObject", JOURNAL):
            puts.append(request)
            return Break.ERROR_BEFORE if len(puts) == 1 else None
        return None

    def otherwise(request: Request) -> None:
        if request.operation in {"HeadObject", "GetObject"} and request.key.startswith(PREFIX):
            request.carry_out = hiding(request, request.carry_out)

    world = a_world(kind, "fresh", Told((0.01,), otherwise, how))
    with simulated(world, 0):
        assert world.run(asked(), denied=denied).outcome == "staged"
        assert len(puts) > 1
        assert not list(map(str, world.violations))


def hiding(request: Request, carry_out: Callable[[MemoryStore], Any]) -> Callable[[MemoryStore], Any]:
    """The answer, in which a missing object is refused."""

    def told(store: MemoryStore) -> Any:
        if (found := carry_out(store)) is None:
            raise refusal(request.operation, request.bucket, request.key, "AccessDenied", 403)
        return found

    return told


@pytest.mark.parametrize("how", ["promoted", "referred to"])
def test_what_a_staging_is_made_from_is_not_elsewhere_because_its_journal_may_not_be_read(how: str) -> None:
    """Through another name of the bucket: the archive that it refers to, or the staging that it copies, was deleted."""

    def otherwise(request: Request) -> None:
        if request.bucket == "alias" and request.key == JOURNAL:
            refuse(request, "AccessDenied", 403)

    world = a_world("aws", "already staged", Told(otherwise=otherwise))
    world.store._buckets["alias"] = world.store._buckets[BUCKET]  # an access point's alias
    before = {it.key for it in world.store._buckets[BUCKET].below(PREFIX)}
    wanted = promoted(force=True, copy="auto").promotion.model_copy(
        update={"source": f"s3://alias/{PREFIX}", "to": (f"s3://{BUCKET}/{PREFIX}",)}
    )
    with simulated(world, 0):
        if how == "promoted":
            run = world.run(
                promoted(force=True, copy="auto"), factory=lambda _, store: promote(wanted, store=store)
            )
        else:
            source = f"s3://alias/{PREFIX}source/one.tar.gz"
            run = world.run(asked(reference=True, force=True).model_copy(update={"source": source}))
        assert run.outcome == "78"
        assert {it.key for it in world.store._buckets[BUCKET].below(PREFIX)} == before
        assert not list(map(str, world.violations))


@pytest.mark.parametrize("answer", ["missing", "hidden"])
@pytest.mark.parametrize("scenario", ["fresh", "already staged"])
def test_a_reference_is_not_committed_to_what_may_be_gone(answer: str, scenario: str) -> None:
    """Without s3:ListBucket its removal is hidden, and a marker was put for nothing."""
    heads: list[Request] = []

    def otherwise(request: Request) -> None:
        if request.bucket == SOURCE_BUCKET and request.operation == "HeadObject":
            heads.append(request)
            if len(heads) > 1 and answer == "hidden":
                refuse(request, "403", 403)
            elif len(heads) > 1:
                request.carry_out = lambda _: None

    world = a_world("aws", scenario, Told((0.01,), otherwise))
    before = world.store.look(BUCKET, MARKER)
    with simulated(world, 0):
        run = world.run(asked(reference=True, force=scenario == "already staged"))
        assert run.outcome == {"missing": "65", "hidden": "77"}[answer]
        assert world.store.look(BUCKET, MARKER) == before
        assert not list(map(str, world.violations))


@pytest.mark.parametrize("answer", [None, 404, 403])
def test_a_source_is_not_replaced_because_it_was_told_so_once(answer: int | None) -> None:
    """A wrong 412 for a range, and one wrong answer to the HEAD that should settle it: 65, and all uploads aborted."""
    gets: list[Request] = []
    heads: list[Request] = []

    def otherwise(request: Request) -> None:
        if request.bucket != SOURCE_BUCKET:
            return
        if request.operation == "GetObject":
            gets.append(request)
            if len(gets) == 4:
                refuse(request, "PreconditionFailed", 412)
        elif request.operation == "HeadObject" and len(gets) > 3 and not heads:
            heads.append(request)
            if answer == 403:
                refuse(request, "403", 403)
            elif answer == 404:
                request.carry_out = lambda _: None

    world = a_world("aws", "long", Told((0.1,), otherwise))
    with simulated(world, 0):
        assert world.run(asked("long")).outcome == "staged"
        assert heads


@pytest.mark.parametrize(
    "name", ["models/a.riva", "artifact.json", "deployment_ready.txt", "staging_complete.txt"]
)
@pytest.mark.parametrize("denied", [frozenset[str](), UNLISTED])
@pytest.mark.parametrize("times", [1, 99])
def test_a_digest_that_is_refused_for_the_whole_is_asked_about_again(
    name: str, denied: frozenset[str], times: int
) -> None:
    """Once, it does not cost the old staging; for good, nothing that the run has completed stays without a marker."""
    struck: list[Request] = []

    def otherwise(request: Request) -> None:
        if is_one(request, 1, "CompleteMultipartUpload", PREFIX + name) and len(struck) < times:
            struck.append(request)
            refuse(request, "BadDigest", 400)

    world = a_world("aws", "already staged", Told((0.01, 0.01), otherwise))
    before = {(it.key, it.etag) for it in world.store._buckets[BUCKET].below(PREFIX)}
    with simulated(world, 0):
        run = world.run(asked(force=True, image=True), denied=denied)
        assert struck
        assert run.outcome == ("staged" if times == 1 else "65")
        if times > 1:
            assert {(it.key, it.etag) for it in world.store._buckets[BUCKET].below(PREFIX)} < before
            assert not world.store.open_uploads(BUCKET)
        assert not list(map(str, world.violations))
        assert world.run(asked(image=True), denied=denied).outcome in {"staged", "already_staged"}
