"""What a run creates: each attempt looks first whether the prefix is its own, and what nobody knows by its id is remembered."""

from __future__ import annotations

from typing import Any

import pytest

from riva_stream.s3.bucket import LOOKS
from riva_stream.s3.port import PartBody
from tests.sim.breaks import Break
from tests.sim.ending import converge
from tests.sim.kinds import KINDS
from tests.sim.network import Network, Request, immediately
from tests.sim.scenarios import BUCKET, asked, collection
from tests.sim.test_moments import JOURNAL, MARKER, PREFIX, Overtaken, Told, a_world, is_one
from tests.sim.world import World, simulated

CREATE = "CreateMultipartUpload"
ARCHIVE = PREFIX + "source/one.tar.gz"
PROBE = PREFIX + ".riva-stream/probe"


class Frozen(Told):
    """As it is told; who is frozen goes on when the test lets it."""

    def frozen(self, request: Request, on: Network) -> None:
        pass


def goes_on_in_a_minute(world: World) -> None:
    """Let the first run go on then, when the second one has staged."""

    def thaw() -> None:
        assert world.processes[1].outcome == "staged"
        world.network.thaw(world.processes[0], clock_stood_still=False)

    world.loop.call_at(world.loop.now + 60, thaw, context=world.network.context)


def creates_after_the_commit_of_another(kind: str, key: str, *, what: Break) -> list[Request]:
    """Creates of the first run that come once the second one, which has taken over, has ended well.

    The first run's Create of ``key`` has its answer after 40 s, as ``what`` makes it, and its heartbeats are as slow.
    """
    creates: list[Request] = []
    late: list[Request] = []

    def how(request: Request) -> Break | None:
        committed = len(world.processes) > 1 and world.processes[1].outcome == "staged"
        if committed and request.process.pid == 1 and request.operation == CREATE:
            late.append(request)
        if not is_one(request, 1, CREATE, key):
            return None
        creates.append(request)
        return what if len(creates) == 1 else None

    def otherwise(request: Request) -> tuple[float, float] | None:
        if is_one(request, 1, CREATE, key) and len(creates) == 1:
            return 0.01, 40.0
        return (60.0, 0.01) if creates and is_one(request, 1, "PutObject", JOURNAL) else None

    world = a_world(kind, "fresh", Told(otherwise=otherwise, how=how))
    with simulated(world, 0):
        world.start(asked())
        world.start_in(3.0, asked(), machine="b")
        world.wait()
        assert [run.outcome for run in world.processes] == ["75", "staged"]
        assert not list(map(str, world.violations))
    return late


@pytest.mark.parametrize("what", [Break.ERROR_AFTER, Break.ERROR_BEFORE])
@pytest.mark.parametrize("key", [ARCHIVE, MARKER])
@pytest.mark.parametrize("kind", ["aws", "ignores"])
def test_a_create_is_not_tried_again_once_another_run_has_taken_over(
    kind: str, key: str, what: Break
) -> None:
    """Killed just then it would leave an upload, and no journal that tells of it."""
    assert not creates_after_the_commit_of_another(kind, key, what=what)


@pytest.mark.parametrize("kind", ["refuses", "ignores"])
def test_nothing_is_probed_once_another_run_has_taken_over(kind: str) -> None:
    assert not creates_after_the_commit_of_another(kind, PROBE, what=Break.ERROR_BEFORE)


@pytest.mark.parametrize("key", [ARCHIVE, MARKER])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_create_that_was_frozen_on_its_way_expires_with_the_lease(kind: str, key: str) -> None:
    """Another run has staged meanwhile; once it has arrived its own run is killed, and cannot abort anything."""
    frozen: list[Request] = []

    def how(request: Request) -> Break | None:
        if request.process.pid != 1:
            return None
        if not frozen and request.operation == CREATE and request.key == key:
            frozen.append(request)
            goes_on_in_a_minute(world)
            return Break.FREEZE_BEFORE
        return Break.KILL_BEFORE if frozen and frozen[0].arrived and request.operation != CREATE else None

    world = a_world(kind, "fresh", Frozen(how=how))
    with simulated(world, 0):
        world.start(asked())
        world.start_in(3.0, asked(), machine="b")
        world.wait()
        assert [run.outcome for run in world.processes] == ["killed", "staged"]
        left = [upload.key for upload in world.store.open_uploads(BUCKET)]
        assert left == ([] if world.store.checks_windows else [key])


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        (kind, key)
        for kind in sorted(KINDS)
        for key in (ARCHIVE, PROBE)
        if not KINDS[kind].store().is_aws or key != PROBE
    ],
)
def test_what_a_run_creates_once_another_has_come_and_gone_is_aborted_by_it(kind: str, key: str) -> None:
    """Suspended with its Create, whose answer it never has: nobody else will look for what that leaves."""
    frozen: list[Request] = []

    def how(request: Request) -> Break | None:
        if not frozen and is_one(request, 1, CREATE, key):
            frozen.append(request)
            goes_on_in_a_minute(world)
            return Break.FREEZE_BEFORE
        return None

    def late(request: Request) -> float | None:
        return 0.01 if request in frozen else None  # it has given up by then

    world = a_world(kind, "fresh", Frozen(how=how, late=late))
    with simulated(world, 0):
        world.start(asked())
        world.start_in(3.0, asked(), machine="b")
        world.wait()
        assert [run.outcome for run in world.processes] == ["75", "staged"]
        assert not world.store.open_uploads(BUCKET)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_a_create_that_failed_late_has_left_is_aborted_by_its_run(kind: str) -> None:
    """An archive's: it took effect, and was answered with 500, when another run had come and gone."""
    creates: list[Request] = []
    beats: list[Request] = []

    def how(request: Request) -> Break | None:
        if not creates and is_one(request, 1, CREATE, ARCHIVE):
            creates.append(request)
            return Break.ERROR_AFTER
        return None

    def otherwise(request: Request) -> tuple[float, float] | None:
        if creates and not beats and is_one(request, 1, "PutObject", JOURNAL):
            beats.append(request)
        return (60.0, 0.01) if request in creates + beats else None

    world = a_world(kind, "fresh", Told(otherwise=otherwise, how=how))
    with simulated(world, 0):
        world.start(asked())
        world.start_in(3.0, asked(), machine="b")
        world.wait()
        assert beats
        assert [run.outcome for run in world.processes] == ["75", "staged"]
        assert not world.store.open_uploads(BUCKET)


@pytest.mark.parametrize("missing", [0, 1, 2])
@pytest.mark.parametrize("how", [Break.FREEZE_BEFORE, Break.LOST])
@pytest.mark.parametrize("kind", ["ignores", "refuses", "exact", "exact-no-expiry", "ignores-no-expiry"])
def test_the_probe_of_a_run_that_has_taken_over_stays(kind: str, how: Break, missing: int) -> None:
    """That of the first one was frozen, and comes too late; its clean-up finds another one open at the same key.

    A 404 or two for the journal, which is there, do not tell that the other run has ended.
    """
    frozen: list[Request] = []
    thawed: list[Request] = []
    told = 0

    def thaw() -> None:
        world.network.thaw(world.processes[0], clock_stood_still=False)

    def struck(request: Request) -> Break | None:
        if is_one(request, 1, CREATE, PROBE) and len(frozen) < (1 if how is Break.FREEZE_BEFORE else 2):
            frozen.append(request)
            return how if len(frozen) == 1 else Break.FREEZE_BEFORE
        if is_one(request, 2, "UploadPart", PROBE) and not thawed:
            thawed.append(request)
            world.loop.call_at(world.loop.now + 0.05, thaw, context=world.network.context)
        nonlocal told
        if thawed and told < missing and is_one(request, 1, "GetObject", JOURNAL):
            told += 1
            return Break.MISSING
        return None

    def otherwise(request: Request) -> tuple[float, float] | None:
        return (2.0, 0.01) if is_one(request, 2, "UploadPart", PROBE) else None  # a store that is far away

    world = a_world(kind, "fresh", Frozen(how=struck, otherwise=otherwise))
    with simulated(world, 0):
        world.start(asked())
        world.start_in(3.0, asked(), machine="b")
        world.wait()
        assert frozen
        assert thawed
        assert [run.outcome for run in world.processes] == ["75", "staged"]


@pytest.mark.parametrize("kind", ["aws", "ignores"])
def test_where_a_policy_forbids_signatures_in_the_query_uploads_are_created_without(kind: str) -> None:
    refused: list[Request] = []

    def how(request: Request) -> Break | None:
        if request.operation != CREATE or "within" not in request.detail:
            return None
        refused.append(request)
        return Break.DENIED

    world = a_world(kind, "fresh", Told(how=how))
    with simulated(world, 0):
        assert world.run(asked()).outcome == "staged"
        assert {request.key for request in refused} >= {ARCHIVE, MARKER}
        converge(world, asked())
        assert not list(map(str, world.violations))


@pytest.mark.parametrize("status", [Break.DENIED, Break.MISSING])
@pytest.mark.parametrize("lost", ["source/two.tar.gz", "checksums.sha256"])
@pytest.mark.parametrize("times", [2, LOOKS + 1])
def test_an_upload_that_nobody_knows_by_its_id_is_not_forgotten(times: int, lost: str, status: Break) -> None:
    """Created, the answer lost, created again; then the run ends before it has looked for the first one."""
    creates: list[Request] = []
    struck: list[Request] = []

    def how(request: Request) -> Break | None:
        if is_one(request, 1, CREATE, PREFIX + lost):
            creates.append(request)
            return Break.LOST if len(creates) == 1 else None
        journal = request.key == JOURNAL and request.operation in {"HeadObject", "GetObject"}
        if len(creates) > 1 and journal and request.process.pid == 1 and len(struck) < times:
            struck.append(request)
            return status
        return None

    world = a_world("aws", "already staged", Told(how=how))
    with simulated(world, 0):
        run = world.run(asked("two", force=True))
        assert len(struck) >= LOOKS - 1
        assert run.outcome in {"75", "staged"} | ({"77"} if status is Break.DENIED else set())
        converge(world, asked("two" if run.outcome == "staged" else "one"))  # of what stands
        assert not list(map(str, world.violations))


@pytest.mark.parametrize("kind", ["aws", "exact", "ignores"])
def test_two_refused_listings_do_not_leave_what_no_journal_names(kind: str) -> None:
    """A forced run is killed just after it has created an upload; the next one finds everything staged, and may not list twice."""
    struck: list[Request] = []

    def how(request: Request) -> Break | None:
        if is_one(request, 1, CREATE, ARCHIVE):
            return Break.KILL_AFTER
        if request.process.pid == 2 and request.operation == "ListMultipartUploads" and len(struck) < 2:
            struck.append(request)
            return Break.DENIED
        return None

    world = a_world(kind, "already staged", Told(how=how))
    with simulated(world, 0):
        world.run(asked(force=True))
        assert world.run(asked(), machine="b").outcome == "already_staged"
        assert struck
        assert not world.store.open_uploads(BUCKET)


@pytest.mark.parametrize("status", [Break.DENIED, Break.MISSING])
def test_one_wrong_answer_for_the_journal_does_not_end_a_run(status: Break) -> None:
    """The look says another ETag, of a write whose answer is on its way; the GET that asks whose it is is answered wrong once."""
    puts: list[Request] = []
    struck: list[Request] = []

    def otherwise(request: Request) -> tuple[float, float] | None:
        if is_one(request, 1, "PutObject", JOURNAL):
            puts.append(request)
            return 0.01, 0.5
        return None

    def how(request: Request) -> Break | None:
        if len(puts) > 1 and is_one(request, 1, "GetObject", JOURNAL) and not struck:
            struck.append(request)
            return status
        return None

    world = a_world("aws", "already staged", Told((0.05,), otherwise=otherwise, how=how))
    with simulated(world, 0):
        run = world.run(asked("long", force=True))
        assert struck
        assert run.outcome == "staged"


@pytest.mark.parametrize("wrong", [False, True])
def test_a_checkpoint_that_could_not_be_deleted_in_time_is_left_with_a_journal(wrong: bool) -> None:
    """Its deletion has no answer within the clean-up's time, and never takes effect: only a journal makes a rerun look for it."""
    last = 2 if wrong else 1
    struck: list[Request] = []

    def otherwise(request: Request) -> tuple[float, float] | None:
        is_deletion = request.operation == "DeleteObject" and "/checkpoint-" in request.key
        in_the_end = wrong or world.store.look(BUCKET, MARKER) is not None
        if is_deletion and in_the_end and request.process.pid == last and not struck:
            struck.append(request)
            return 25.0, 0.01
        return None

    world = a_world("aws", "long", Told(otherwise=otherwise))
    with simulated(world, 0):
        if wrong:
            assert world.run(asked("long")).outcome == "staged"
        wanted = asked("long", force=wrong, wrong=wrong).model_copy(update={"lease": 60.0})
        assert world.run(wanted).outcome == ("65" if wrong else "staged")
        assert struck
        converge(world, asked("long"))
        assert not list(map(str, world.violations))


@pytest.mark.parametrize("cleans", [asked(force=True), collection(asked())], ids=["stage", "gc"])
def test_what_a_killed_probe_had_completed_is_removed(cleans: Any) -> None:
    """A store that takes a wrong checksum has completed the probe's upload, and the run is killed before it deletes the object."""
    world = a_world("ignores", "already staged", Told())
    body = PartBody((b"probed",), 6)
    immediately(world.store.put(BUCKET, PROBE, body, content_type="a/b", metadata={}))
    with simulated(world, 0):
        world.pass_time(100)
        world.run(cleans)
        assert world.store.look(BUCKET, PROBE) is None
        assert world.store.look(BUCKET, MARKER) is not None


def test_a_run_that_is_suspended_while_it_withdraws_still_aborts_what_it_has_created() -> None:
    """Its clean-up has seconds of its own, and they were over when it went on; nobody else knows of what it had created late."""
    schedule = Overtaken((0.05, 0.01))
    aborts: list[Request] = []

    def how(request: Request) -> Break | None:
        if is_one(request, 1, CREATE, PREFIX + "artifact.json"):
            return Break.FREEZE_BEFORE
        if request.process.pid == 1 and request.operation == "AbortMultipartUpload":
            aborts.append(request)
            return Break.FREEZE_AFTER if len(aborts) == 1 and request.key != PROBE else None
        return None

    schedule.strike = how  # type: ignore[method-assign]
    world = schedule.world = a_world("aws", "fresh", schedule)

    def thaw(process: int) -> None:
        world.network.thaw(world.processes[process - 1], clock_stood_still=False)

    with simulated(world, 0):
        world.start(asked())
        world.start_in(6.0, asked(), machine="b")
        for when in (40.0, 80.0):
            world.loop.call_at(when, lambda: thaw(1), context=world.network.context)
        world.wait()
        assert aborts
        assert [run.outcome for run in world.processes] == ["75", "staged"]
        assert not world.store.open_uploads(BUCKET)


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("nth", range(1, 9))
def test_no_checkpoint_is_put_once_another_run_has_taken_over(kind: str, nth: int) -> None:
    """Of a run that is killed just then no journal tells of it. It was suspended with its n-th part."""
    parts: list[Request] = []
    late: list[Request] = []

    def how(request: Request) -> Break | None:
        if request.process.pid != 1:
            return None
        if request.process.has_slept and request.operation == "PutObject" and "checkpoint" in request.key:
            late.append(request)
        if request.operation != "UploadPart" or request.process.has_slept:
            return None
        parts.append(request)
        if len(parts) != nth:
            return None
        goes_on_in_a_minute(world)
        return Break.FREEZE_AFTER

    world = a_world(kind, "long", Frozen(how=how))
    with simulated(world, 0):
        world.start(asked("long"))
        world.start_in(3.0, asked("long"), machine="b")
        world.wait()
        assert [run.outcome for run in world.processes] == ["75", "staged"]
        assert not late
