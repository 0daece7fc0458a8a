"""Single moments at which a promise was broken once, told request by request: a seed meets one of them in millions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from riva_stream.s3.port import PartBody
from tests.sim.breaks import Break
from tests.sim.exhaustive import prepared
from tests.sim.network import Request, immediately
from tests.sim.process import Process
from tests.sim.scenarios import BUCKET, LEASE, asked, collection, prefix_of
from tests.sim.schedules import Plain
from tests.sim.sources import SOURCE_BUCKET, source
from tests.sim.world import World, simulated

PREFIX = prefix_of()
JOURNAL = PREFIX + ".riva-stream/journal.json"
MARKER = PREFIX + "staging_complete.txt"


@dataclass(eq=False)
class Told(Plain):
    """Each run has a pace of its own; single requests are told otherwise."""

    paces: tuple[float, ...] = ()
    """Seconds that each request of the first run takes in either direction, of the second, and so on."""
    otherwise: Callable[[Request], tuple[float, float] | None] = lambda request: None
    """Seconds to the store and back."""
    how: Callable[[Request], Break | None] = lambda request: None
    late: Callable[[Request], float | None] = lambda request: None
    """Of a request that nobody waits for any more: seconds until it arrives."""

    def strike(self, request: Request) -> Break | None:
        return self.how(request)

    def delays(self, request: Request) -> tuple[float, float]:
        told = self.otherwise(request)
        pace = self.paces[request.process.pid - 1] if request.process.pid <= len(self.paces) else 0.01
        return told or (pace, pace)

    def abandoned(self, request: Request) -> float | None:
        return self.late(request)


@dataclass(eq=False)
class Overtaken(Told):
    """The first run is frozen at a request, goes on just after one of the second's, and then meets a refusal."""

    freezes: Callable[[Request], bool] = lambda request: False
    """Whether the first run is frozen at this request of its."""
    thaws: Callable[[Request], bool] = lambda request: False
    """Whether it goes on 0.1 seconds after this request of the second run's."""
    looks: Callable[[Request], bool] = lambda request: False
    """Whether this is one of the first run's requests of which the second, once it has gone on, is refused."""
    world: World | None = None
    is_frozen: bool = False
    goes_on: bool = False
    looked: list[Request] = field(default_factory=list)

    def strike(self, request: Request) -> Break | None:
        world = self.world
        assert world is not None
        if not self.is_frozen and request.process.pid == 1 and self.freezes(request):
            self.is_frozen = True
            return Break.FREEZE_AFTER
        if not self.goes_on and request.process.pid == 2 and self.thaws(request):
            self.goes_on = True

            def thaw() -> None:
                world.network.thaw(world.processes[0], clock_stood_still=False)

            world.loop.call_at(world.loop.now + 0.1, thaw, context=world.network.context)
        if self.goes_on and self.looks(request):
            self.looked.append(request)
            return Break.DENIED if len(self.looked) == 2 else None
        return None

    def frozen(self, request: Request, on: Any) -> None:
        pass


def a_world(kind: str, scenario: str, schedule: Told) -> World:
    return World(prepared(kind, scenario, -1).copy(), schedule)


def is_one(request: Request, pid: int, operation: str, key: str) -> bool:
    return (request.process.pid, request.operation, request.key) == (pid, operation, key)


# ---- the end of a run that finds something staged


def test_a_run_beside_a_forced_one_does_not_say_that_what_is_gone_is_staged() -> None:
    """It saw marker and journal, waited for the holder, and looks again when the marker is deleted: exit 0."""
    world = a_world("aws", "already staged", Told((0.02, 0.02)))
    with simulated(world, 0):
        world.start(asked(force=True))
        world.start_in(0.3, asked(), machine="b")
        stood: list[bool] = []

        def ended(process: Process, task: Any) -> None:
            if process.pid == 2:
                stood.append(world.store.look(BUCKET, MARKER) is not None)
            told(process, task)

        told = world._ended
        world._ended = ended  # type: ignore[method-assign]
        world.wait()
        plain = world.processes[1]
        assert (plain.outcome, stood) in [("already_staged", [True]), ("75", [False]), ("75", [True])]


@pytest.mark.parametrize("begins", [0.3, 0.5])
def test_what_a_forced_run_replaces_meanwhile_is_no_fault_of_the_data(begins: float) -> None:
    """Without a hold: the marker is read, then others of the documents (73) or the objects (65) are already new."""
    world = a_world("aws", "already staged", Told((0.1, 0.005)))
    with simulated(world, 0):
        world.start(asked(), machine="b")
        world.start_in(begins, asked(force=True))  # of the very same source
        world.wait()
        assert [run.outcome for run in world.processes] in [["75", "staged"], ["already_staged", "staged"]]


# ---- stores that have no conditions, but expiring signatures: docs/semantics.md says that nothing is weaker there


@dataclass(eq=False)
class LateDelete:
    """The deletion of the old marker, which one run sends, and which arrives when another has committed."""

    pid: int
    lateness: float
    sent: float | None = None
    world: World = field(init=False)

    def otherwise(self, request: Request) -> tuple[float, float] | None:
        if self.sent is None and is_one(request, self.pid, "DeleteObject", MARKER):
            self.sent = self.world.loop.now
            return self.lateness, 0.01
        return None

    def late(self, request: Request) -> float | None:
        if self.sent is not None and is_one(request, self.pid, "DeleteObject", MARKER):
            return max(0.0, self.sent + self.lateness - self.world.loop.now)
        return None


def run_two(world: World, deletion: LateDelete, begins: float) -> None:
    """Two forced runs, the second one so many seconds after the first, and whatever still arrives after them."""
    deletion.world = world
    with simulated(world, 0):
        world.start(asked(force=True))
        world.start_in(begins, asked(force=True), machine="b")
        world.wait()
        world.pass_time(10)


def first_journal_arrives_late(kind: str, seconds: float, *, lateness: float) -> tuple[World, LateDelete]:
    """Two forced runs. The first one's takeover is under way for so long, beginning when nobody holds the prefix."""
    deletion = LateDelete(2, lateness)
    puts: list[Request] = []

    def otherwise(request: Request) -> tuple[float, float] | None:
        if not puts and is_one(request, 1, "PutObject", JOURNAL):
            puts.append(request)
            return seconds, 0.005
        return deletion.otherwise(request)

    world = a_world(kind, "already staged", Told((0.005, 0.005), otherwise, late=deletion.late))
    run_two(world, deletion, 0.2)
    return world, deletion


def test_a_takeover_that_arrives_late_does_not_cut_into_anothers_lease() -> None:
    """The first PUT of a journal has no window, and conditions are ignored: it replaces a live holder's."""
    _, deletion = first_journal_arrives_late("ignores", 40.0, lateness=0.005)
    assert deletion.sent is not None
    world, _ = first_journal_arrives_late("ignores", deletion.sent - 0.06 + 0.02, lateness=2.5)
    assert not list(map(str, world.violations))


def watched_by_a_late_answer(
    kind: str, seconds: float, *, lateness: float
) -> tuple[World, LateDelete, float]:
    """The second run watches the first one's journal; the answer to its first look is under way for so long."""
    deletion, looks = LateDelete(1, lateness), list[float]()

    def otherwise(request: Request) -> tuple[float, float] | None:
        if not looks and is_one(request, 2, "HeadObject", JOURNAL):
            looks.append(world.loop.now)
            return 0.005, seconds
        return deletion.otherwise(request)

    world = a_world(kind, "already staged", Told((0.15, 0.005), otherwise, late=deletion.late))
    run_two(world, deletion, 1.9)
    return world, deletion, looks[0]


def test_a_journal_is_watched_until_a_look_was_sent_and_not_until_it_was_answered() -> None:
    """An answer of 9 s ago, of a journal that was written three times since, passes for a lease without a sign of life."""
    _, deletion, looked = watched_by_a_late_answer("ignores", 40.0, lateness=0.15)
    assert deletion.sent is not None
    late = deletion.sent - looked + 0.1
    assert late > LEASE
    world, _, _ = watched_by_a_late_answer("ignores", late, lateness=2.5)
    assert not list(map(str, world.violations))


def test_one_refusal_does_not_hide_a_live_holder() -> None:
    """A single 403 for the GET of the journal counts as "there is none": the holder's is replaced at once."""
    deletion, struck = LateDelete(1, 2.5), list[Request]()

    def how(request: Request) -> Break | None:
        if not struck and is_one(request, 2, "GetObject", JOURNAL):
            struck.append(request)
            return Break.DENIED
        return None

    world = a_world("ignores", "already staged", Told((0.1, 0.005), deletion.otherwise, how, deletion.late))
    deletion.world = world
    with simulated(world, 0):
        world.start(asked(force=True))
        world.start_in(7.12, asked(force=True), machine="b")  # just before the deletion is sent
        world.wait()
        world.pass_time(10)
        assert not list(map(str, world.violations))


@dataclass(eq=False)
class LateRelease(Told):
    """The first run cannot delete its journal: it is told 500 each time, and the first attempt arrives all the same.

    The second run begins at its end, and the third when the journal, by then the second one's, was deleted.
    """

    lateness: float | None = None
    released: float | None = None
    world: World = field(init=False)

    def strike(self, request: Request) -> Break | None:
        if not is_one(request, 1, "DeleteObject", JOURNAL):
            return None
        if self.released is None:
            self.released = self.world.loop.now
            if self.lateness is not None:
                self.world.network._in(self.lateness, lambda: self._arrives(request))
        return Break.ERROR_BEFORE

    def _arrives(self, request: Request) -> None:
        self.world.network._effect(request)
        self.world.start(asked(force=True), machine="c")

    def ended(self, process: Process, on: Any) -> None:
        if process.pid == 1:
            self.world.start(asked(force=True), machine="b")


def released_late(kind: str, lateness: float | None) -> tuple[World, LateRelease, LateDelete]:
    deletion = LateDelete(2, 2.9)
    schedule = LateRelease((0.002, 0.002, 0.002), deletion.otherwise, late=deletion.late, lateness=lateness)
    world = a_world(kind, "already staged", schedule)
    deletion.world = schedule.world = world
    with simulated(world, 0):
        world.run(asked(force=True))
        world.wait()
        world.pass_time(10)
    return world, schedule, deletion


@pytest.mark.parametrize("kind", ["ignores", "refuses"])
def test_whoever_comes_after_a_release_without_an_answer_waits_until_it_can_no_longer_arrive(
    kind: str,
) -> None:
    """It says "stopped, not committing", so the next one begins at once; then its deletion hits that one's journal."""
    _, schedule, deletion = released_late(kind, None)
    assert schedule.released is not None
    assert deletion.sent is not None
    world, _, _ = released_late(kind, deletion.sent - schedule.released + 0.02)
    assert not list(map(str, world.violations))


@pytest.mark.parametrize("kind", ["ignores", "refuses"])
def test_one_refusal_does_not_take_the_expiry_from_all_that_follows(kind: str) -> None:
    """A single 403 for the deletion of the old marker: it is sent again without a window, and arrives when it likes."""
    deletions: list[Request] = []

    def how(request: Request) -> Break | None:
        if not is_one(request, 1, "DeleteObject", MARKER):
            return None
        deletions.append(request)
        return (Break.DENIED, Break.KILL_LATE)[min(len(deletions), 2) - 1]

    world = a_world(kind, "already staged", Told(how=how, late=lambda request: 60.0))
    with simulated(world, 0):
        assert world.run(asked(force=True)).outcome == "killed"
        assert world.run(asked(force=True), machine="b").outcome == "staged"
        world.pass_time(100)
        assert not list(map(str, world.violations))


def test_one_refusal_does_not_take_the_expiry_on_aws_either() -> None:
    """Of a model that the new staging does not have; the next one has it again, of the same bytes and so the same ETag."""
    deletions: list[Request] = []

    def how(request: Request) -> Break | None:
        if not is_one(request, 1, "DeleteObject", PREFIX + "models/a.riva"):
            return None
        deletions.append(request)
        return (Break.DENIED, Break.KILL_LATE)[min(len(deletions), 2) - 1]

    world = a_world("aws", "already staged", Told(how=how, late=lambda request: 60.0))
    with simulated(world, 0):
        assert world.run(asked(include=("b.riva",), force=True)).outcome == "killed"
        assert world.run(asked(force=True), machine="b").outcome == "staged"
        world.pass_time(100)
        assert not list(map(str, world.violations))


# ---- what is left, and nobody knows


def test_a_holder_whose_upload_is_gone_leaves_word_of_what_it_has_completed() -> None:
    """Without s3:ListBucket only the journal tells of it; the next staging is committed with its archive beside."""
    unlisted = frozenset({"ListObjectsV2"})

    def otherwise(request: Request) -> None:
        if is_one(request, 1, "CompleteMultipartUpload", PREFIX + "upload_manifest.json"):
            for upload in world.store.open_uploads(BUCKET, request.key):  # as a lifecycle rule does
                immediately(world.store.abort_upload(BUCKET, upload.key, upload.upload_id))

    world = a_world("aws", "fresh", Told(otherwise=otherwise))
    with simulated(world, 0):
        assert world.run(asked(), denied=unlisted).outcome == "75"
        assert world.run(asked("two"), denied=unlisted).outcome == "staged"
        assert not list(map(str, world.violations))


def test_a_holder_whose_upload_is_gone_leaves_nothing_that_is_ready_without_a_marker() -> None:
    """Nobody has taken over: what it completed of the deployment documents is its own to delete."""

    def otherwise(request: Request) -> None:
        if is_one(request, 1, "CompleteMultipartUpload", PREFIX + "upload_manifest.json"):
            for upload in world.store.open_uploads(BUCKET, request.key):
                immediately(world.store.abort_upload(BUCKET, upload.key, upload.upload_id))

    world = a_world("aws", "image", Told(otherwise=otherwise))
    with simulated(world, 0):
        assert world.run(asked(image=True)).outcome == "75"
        assert world.store.look(BUCKET, MARKER) is None
        assert world.store.look(BUCKET, PREFIX + "deployment_ready.txt") is None


def test_gc_leaves_a_journal_that_it_has_not_looked_at() -> None:
    """It looks at a dead run's; until it holds the prefix another run was there, and left its own to be resumed."""

    looks: list[Request] = []

    def otherwise(request: Request) -> tuple[float, float] | None:
        if not looks and is_one(request, 2, "GetObject", JOURNAL):
            looks.append(request)
            return 0.01, 4.0
        return None

    def how(request: Request) -> Break | None:
        if request.operation != "UploadPart" or "/source/" not in request.key:
            return None
        return {1: Break.KILL_AFTER, 3: Break.CANCEL_AFTER}.get(request.process.pid)

    world = a_world("exact", "fresh", Told(otherwise=otherwise, how=how))
    with simulated(world, 0):
        world.run(asked())
        world.start(collection(asked()))
        world.start_in(0.5, asked("two"))
        world.wait()
        assert [run.outcome for run in world.processes] == ["killed", "0", "cancelled"]
        there = world.store.look(BUCKET, JOURNAL)
        named = {upload["key"] for upload in json.loads(there.data)["uploads"]} if there else set()
        left = {upload.key for upload in world.store.open_uploads(BUCKET)}
        assert {key for key in left if "two" in key} <= named


# ---- wrong ends


def test_what_was_sent_in_place_of_copies_is_resumed_or_not_but_the_run_ends_well() -> None:
    """Copies are not proven, so the source is sent, with checkpoints; interrupted, each further run ends with 1."""
    kept: list[Request] = []

    def how(request: Request) -> Break | None:
        if request.process.pid != 1:
            return None
        if request.operation == "PutObject" and "/checkpoint-" in request.key:
            kept.append(request)
        return Break.CANCEL_AFTER if kept and request.operation == "UploadPart" else None

    world = a_world("aws", "long", Told(how=how))
    world.store.set_copies("unproven")
    request = asked("long", copy="auto", check="md5")
    with simulated(world, 0):
        assert world.run(request).outcome == "cancelled"
        assert kept
        again = world.run(request)
        assert (again.outcome, again.problem) == ("staged", "")


def test_a_reference_is_not_committed_to_what_was_replaced_while_the_run_waited() -> None:
    """The source is looked at once, before the run waits for the prefix; the same goes for the container image."""
    world = a_world("aws", "already staged", Told((0.1, 0.01)))
    wanted = asked(reference=True, force=True).model_copy(update={"wait": True})

    def replace() -> None:
        put = world.store.put(
            SOURCE_BUCKET, source("one").key, PartBody((b"new",), 3), content_type="a/b", metadata={}
        )
        immediately(put)

    with simulated(world, 0):
        world.start(asked("two", force=True))
        world.start_in(2.0, wanted, machine="b")
        world.loop.call_at(4.0, replace, context=world.network.context)
        world.wait()
        assert not list(map(str, world.violations))
