"""More single moments, at most of which what had mended those of ``test_moments.py`` was not enough."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from riva_stream import StoreSettings
from riva_stream.config import StageRequest
from riva_stream.deployment import KINDS
from riva_stream.errors import TransientError
from riva_stream.retry import Retrier, RetryPolicy
from riva_stream.s3 import PartBody
from riva_stream.s3.errors import refusal
from riva_stream.s3.memory import MemoryStore
from riva_stream.s3.session import open_store
from riva_stream.source import find_source
from riva_stream.source.ranges import PinnedRanges
from tests.sim.breaks import Break
from tests.sim.exhaustive import prepared
from tests.sim.network import Request
from tests.sim.process import Process
from tests.sim.scenarios import BUCKET, asked, collection
from tests.sim.sources import IMAGE, source
from tests.sim.test_moments import JOURNAL, MARKER, PREFIX, LateDelete, Told, a_world, is_one
from tests.sim.world import World, simulated


def leased(seconds: float, **fields: Any) -> StageRequest:
    return asked(**fields).model_copy(update={"lease": seconds})


# ---- stores that have no conditions, but expiring signatures: docs/semantics.md says that nothing is weaker there


def first_journal_is_late(
    kind: str,
    seconds: float,
    *,
    nth: int,
    lateness: float,
    begins: float,
    leases: tuple[float, float],
    lost: bool,
) -> tuple[World, LateDelete]:
    """Two forced runs. A PUT of the first one's first journal is under way for so long, from when nobody held the prefix."""
    deletion, puts = LateDelete(2, lateness), list[Request]()

    def otherwise(request: Request) -> tuple[float, float] | None:
        if len(puts) >= nth and request is puts[nth - 1]:
            return seconds, 0.005
        return deletion.otherwise(request)

    def how(request: Request) -> Break | None:
        if is_one(request, 1, "PutObject", JOURNAL):
            puts.append(request)
            return Break.LOST if lost and len(puts) == nth else None
        return None

    world = a_world(kind, "already staged", Told((0.005, 0.005), otherwise, how, deletion.late))
    deletion.world = world
    with simulated(world, 0):
        world.start(leased(leases[0], force=True))
        world.start_in(begins, leased(leases[1], force=True), machine="b")
        world.wait()
        world.pass_time(10)
    return world, deletion


def test_a_takeover_that_arrives_late_and_is_sent_again_does_not_cut_into_anothers_lease() -> None:
    """Its answer is lost. The look before the second attempt finds the first one's journal: ``_acquire_seconds`` counts from there."""
    options: dict[str, Any] = {"nth": 1, "begins": 0.2, "leases": (6.0, 6.0), "lost": True}
    _, deletion = first_journal_is_late("ignores", 40.0, lateness=0.005, **options)
    assert deletion.sent is not None
    world, _ = first_journal_is_late("ignores", deletion.sent - 0.06 + 0.02, lateness=2.9, **options)
    assert not list(map(str, world.violations))


def test_a_takeover_is_not_settled_before_that_of_a_longer_lease_can_have_arrived() -> None:
    """Where conditions are refused ``_distrust_journal`` comes before the windows are tried: its pause is 0.3 s of a lease of 6, and
    1.5 s of one of 30, whose journal may be under way for as long."""
    options: dict[str, Any] = {"nth": 2, "begins": 0.1, "leases": (30.0, 6.0), "lost": False}
    world, deletion = first_journal_is_late("refuses", 1.4, lateness=4.3, **options)
    assert not list(map(str, world.violations))
    assert deletion.sent is None or deletion.sent > 1.6


@dataclass(eq=False)
class Abandoned(Told):
    """A request of the first run about its journal has no answer, and arrives late. The second run begins at its end, on the
    same host; a third one when that request has arrived."""

    operation: str = ""
    nth: int = 1
    kills: bool = False
    third: str = "c"
    lateness: float | None = None
    sent: float | None = None
    world: World = field(init=False)

    def strike(self, request: Request) -> Break | None:
        if self.sent is not None or not is_one(request, 1, self.operation, JOURNAL):
            return None
        self.nth -= 1
        if self.nth:
            return None
        self.sent = self.world.loop.now
        if self.lateness is not None:
            self.world.network._in(self.lateness, lambda: self._arrives(request))
        return Break.KILL_LATE if self.kills else Break.HANGS

    def _arrives(self, request: Request) -> None:
        self.world.network._effect(request, late=True)
        self.world.start(leased(30.0, force=True), machine=self.third)

    def ended(self, process: Process, on: Any) -> None:
        if process.pid == 1:
            self.world.start(leased(30.0, force=True))


def abandoned(
    kind: str, lateness: float | None, first: StageRequest, **how: Any
) -> tuple[World, Abandoned, LateDelete]:
    deletion = LateDelete(2, 6.0)
    schedule = Abandoned(
        (0.002, 0.002, 0.002), deletion.otherwise, late=deletion.late, lateness=lateness, **how
    )
    world = a_world(kind, "already staged", schedule)
    deletion.world = schedule.world = world
    with simulated(world, 0):
        world.run(first)
        world.wait()
        world.pass_time(20)
    return world, schedule, deletion


@pytest.mark.parametrize("kind", ["ignores", "refuses"])
@pytest.mark.parametrize("kills", [False, True])
def test_whoever_comes_after_a_release_that_was_cut_off_waits_until_it_can_no_longer_arrive(
    kind: str, kills: bool
) -> None:
    """``release`` gives up after 6 s without a word, or the process is killed in it. The journal says "not committing", its
    process has ended: the next run on this host begins at once, and the deletion hits its journal."""
    options: dict[str, Any] = {"operation": "DeleteObject", "kills": kills}
    bad = asked("bad", force=True).model_copy(update={"lease": 30.0})
    _, schedule, deletion = abandoned(kind, None, bad, **options)
    assert schedule.sent is not None
    assert deletion.sent is not None
    world, _, _ = abandoned(kind, deletion.sent - schedule.sent + 0.02, bad, **options)
    assert not list(map(str, world.violations))


@pytest.mark.parametrize(("kind", "nth"), [("ignores", 1), ("refuses", 2)])
def test_a_dead_runs_journal_that_came_late_does_not_hide_a_live_holder(kind: str, nth: int) -> None:
    """The PUT of a takeover has no window. It arrives over the journal of a holder that has a deletion under way; its own run
    has ended and was not committing, so whoever comes next on this host does not wait."""
    options: dict[str, Any] = {"operation": "PutObject", "nth": nth, "kills": True, "third": "a"}
    good = leased(30.0, force=True)
    _, schedule, deletion = abandoned(kind, None, good, **options)
    assert schedule.sent is not None
    assert deletion.sent is not None
    world, _, _ = abandoned(kind, deletion.sent - schedule.sent + 0.02, good, **options)
    assert not list(map(str, world.violations))


# ---- 403


def test_a_spell_of_refusals_does_not_take_the_expiry_either() -> None:
    """403 to the deletion three times and to the one PUT that asks whether it is the window: then the spell is over."""
    deletions, puts = list[Request](), list[Request]()

    def how(request: Request) -> Break | None:
        if is_one(request, 1, "DeleteObject", PREFIX + "models/a.riva"):
            deletions.append(request)
            return Break.DENIED if len(deletions) <= 3 else Break.KILL_LATE
        if len(deletions) == 3 and not puts and is_one(request, 1, "PutObject", JOURNAL):
            puts.append(request)
            return Break.DENIED
        return None

    world = a_world("aws", "already staged", Told(how=how, late=lambda request: 60.0))
    with simulated(world, 0):
        world.run(asked(include=("b.riva",), force=True))
        assert world.run(asked(force=True), machine="b").outcome == "staged"
        world.pass_time(100)
        assert not list(map(str, world.violations))


def test_a_window_that_is_over_when_it_is_tried_does_not_hide_the_missing_right() -> None:
    """It is drawn once for all attempts of that PUT, and nobody can renew the lease meanwhile: RequestExpired each time."""
    deletions, puts = list[Request](), list[Request]()

    def otherwise(request: Request) -> tuple[float, float] | None:
        if is_one(request, 1, "DeleteObject", PREFIX + "models/a.riva"):
            deletions.append(request)
            return 0.01, 1.2
        if len(deletions) >= 3 and is_one(request, 1, "PutObject", JOURNAL):
            puts.append(request)
            return 3.2, 0.01
        return None

    def how(request: Request) -> Break | None:
        return Break.DENIED if is_one(request, 1, "DeleteObject", PREFIX + "models/a.riva") else None

    world = a_world("aws", "already staged", Told(otherwise=otherwise, how=how))
    with simulated(world, 0):
        run = world.run(asked(include=("b.riva",), force=True))
        assert (run.outcome, run.problem.partition(":")[0]) == ("77", "AccessDeniedError")
        assert world.loop.now < 60


def test_one_refusal_does_not_let_a_dead_holder_seem_alive_on_aws() -> None:
    """A single 403 to the GET of the journal of a run that was killed long ago: "run 1 has taken over", exit 75."""
    struck: list[Request] = []

    def how(request: Request) -> Break | None:
        if request.process.pid == 1 and request.operation == "UploadPart":
            return Break.KILL_AFTER
        if not struck and is_one(request, 2, "GetObject", JOURNAL):
            struck.append(request)
            return Break.DENIED
        return None

    world = a_world("aws", "fresh", Told(how=how))
    with simulated(world, 0):
        world.run(asked())
        world.pass_time(100)
        again = world.run(asked(), machine="b")
        assert (again.outcome, again.problem) == ("staged", "")


@pytest.mark.parametrize("begins", [0.6, 0.8])
def test_without_the_right_to_list_what_a_forced_run_replaces_is_no_fault_of_the_data_either(
    begins: float,
) -> None:
    """A marker that was read just now and is refused with 403, as S3 says "gone" there, passes for one that still stands."""
    stood: list[bool] = []

    def how(request: Request) -> Break | None:
        reads = request.operation in {"GetObject", "HeadObject"} and request.bucket == BUCKET
        return Break.DENIED if reads and world.store.look(BUCKET, request.key) is None else None

    def ended(process: Process, task: Any) -> None:
        if process.pid == 1:
            stood.append(world.store.look(BUCKET, MARKER) is not None)
        told(process, task)

    world = a_world("aws", "already staged", Told((0.1, 0.005), how=how))
    told, world._ended = world._ended, ended  # type: ignore[method-assign]
    with simulated(world, 0):
        world.start(asked(), machine="b", denied=frozenset({"ListObjectsV2"}))
        world.start_in(begins, asked(force=True))
        world.wait()
        assert (world.processes[0].outcome, stood) in [
            ("75", [True]),
            ("75", [False]),
            ("already_staged", [True]),
        ]


# ---- what is looked at again, and what is left


@pytest.mark.parametrize(
    ("request_", "key"),
    [(asked(force=True, reference=True), source("one").key), (asked(force=True, image=True), IMAGE)],
)
def test_one_404_for_what_is_pointed_at_does_not_cost_what_was_staged(
    request_: StageRequest, key: str
) -> None:
    """The third HEAD comes when the old marker is gone: 65, all is rolled back. A range's 404 is looked at twice, this is not."""
    heads: list[Request] = []

    def otherwise(request: Request) -> None:
        if request.operation == "HeadObject" and request.key == key:
            heads.append(request)
            if len(heads) == 3:
                request.carry_out = lambda _: None

    world = a_world("aws", "already staged", Told(otherwise=otherwise))
    with simulated(world, 0):
        run = world.run(request_)
        assert (run.outcome, run.problem) == ("staged", "")


def test_a_commit_that_was_rolled_back_leaves_no_journal_without_the_right_to_list() -> None:
    """``_sent`` forgets nothing: what was deleted again counts as left, and the next run waits for a lease."""

    def larger(carry_out: Callable[[MemoryStore], Any]) -> Callable[[MemoryStore], Any]:
        def told(store: MemoryStore) -> Any:
            found = carry_out(store)
            return found and replace(found, size=found.size + 1)

        return told

    def otherwise(request: Request) -> None:
        if is_one(request, 1, "HeadObject", PREFIX + "checksums.sha256"):
            request.carry_out = larger(request.carry_out)

    world = a_world("aws", "fresh", Told(otherwise=otherwise))
    with simulated(world, 0):
        run = world.run(asked(), denied=frozenset({"ListObjectsV2"}))
        assert run.outcome == "65"
        assert world.store.look(BUCKET, PREFIX + "source/one.tar.gz") is None
        assert world.store.look(BUCKET, JOURNAL) is None


# ---- what is read back


def artifact() -> dict[str, Any]:
    found = prepared("aws", "already staged", -1).look(BUCKET, PREFIX + "artifact.json")
    assert found is not None
    return json.loads(found.data)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["warnings", "warning_codes"])
@pytest.mark.parametrize("value", [None, 5, True])
def test_warnings_that_are_no_list_are_told_as_what_is_wrong_with_a_document(name: str, value: Any) -> None:
    """A TypeError in a validator is nobody's ValidationError: exit 1 of stage, status and verify."""
    document = artifact()
    document["validation"][name] = value
    with pytest.raises(ValueError, match="validation"):
        KINDS["artifact.json"].parse(json.dumps(document).encode())


def test_what_version_0_1_wrote_of_two_thousand_models_is_read() -> None:
    """With --max-models 2000; it names 200 files of each. It has 33 MB, half of what may be read, and too many values."""
    document = artifact()
    names = [f"m{number:04}.riva" for number in range(2000)]
    files = [{"name": f"f{number:03}.bin", "size_bytes": 1} for number in range(200)]
    document["models"] = [
        {**document["models"][0], "filename": name, "relative_path": f"models/{name}"} for name in names
    ]
    document["validation"]["contents"] = dict.fromkeys(names, files)
    data = json.dumps(document, indent=2).encode()
    assert len(data) < 40 << 20
    assert KINDS["artifact.json"].parse(data) is not None


async def test_a_body_without_a_length_that_nothing_ends_is_not_believed_to_be_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """HTTP/1.0, or "Connection: close" without chunks (a proxy): where it breaks off is where it ends. It is half a marker."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.0 200 OK\r\nETag: "e"\r\nContent-Type: text/plain\r\n\r\nStaging comple')
        await writer.drain()
        writer.close()  # in the middle

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    settings = StoreSettings(endpoint_url=f"http://127.0.0.1:{port}", region="us-east-1")
    try:
        async with open_store(settings, warn=lambda _: None) as store:
            with pytest.raises(TransientError):
                await store.get("bucket", "key", limit=1000)
    finally:
        server.close()


async def test_one_404_of_a_pinned_version_is_looked_at_though_a_newer_one_is_there() -> None:
    """The look asks for the newest version, which is another; the one that is read is still there."""
    store = MemoryStore("b", versioned=True)
    await store.put("b", "k", PartBody((b"old",), 3), content_type="a/b", metadata={})
    source = await find_source(store, "b", "k", Retrier())
    assert source.version_id is not None
    await store.put("b", "k", PartBody((b"newer",), 5), content_type="a/b", metadata={})
    struck, get_range = list[int](), store.get_range

    @asynccontextmanager
    async def odd(*args: Any, **options: Any) -> AsyncIterator[Any]:
        if not struck:
            struck.append(1)
            raise refusal("GetObject", "b", "k", "NoSuchKey", 404)
        async with get_range(*args, **options) as reply:
            yield reply

    store.get_range = odd  # type: ignore[method-assign]
    ranges = PinnedRanges(store, source, lambda _: None)

    async def read() -> bytes:
        async with ranges.open(0, 2, source.version_id) as reply:
            return b"".join([piece async for piece in reply.pieces])

    assert await Retrier(RetryPolicy(base=0.01))("GetObject", read) == b"old"


def test_one_refusal_leaves_no_checkpoint_that_nobody_names() -> None:
    """403 to one deletion at the end: the journal goes next, so only gc would ever find what stays."""
    struck: list[Request] = []

    def how(request: Request) -> Break | None:
        if request.operation != "DeleteObject" or "/checkpoint-" not in request.key or struck:
            return None
        struck.append(request)
        return Break.DENIED

    world = a_world("aws", "long", Told(how=how))
    with simulated(world, 0):
        assert world.run(asked("long")).outcome == "staged"
        assert struck
        assert not world.store.keys(BUCKET, PREFIX + ".riva-stream/")


@pytest.mark.parametrize("how", [Break.KILL_AFTER, Break.CANCEL_AFTER])
@pytest.mark.parametrize("operation", ["CreateMultipartUpload", "UploadPart"])
def test_gc_leaves_word_of_what_a_run_has_begun_between_its_look_and_its_takeover(
    how: Break, operation: str
) -> None:
    """It lists, a run opens an upload and dies. The journal is the same run's as at the look, so it went, and the upload stayed:
    a rerun that finds the staging committed looks no further than for a journal."""

    def otherwise(request: Request) -> tuple[float, float] | None:
        return (0.01, 3.0) if is_one(request, 2, "ListMultipartUploads", PREFIX) else None

    def struck(request: Request) -> Break | None:
        begun = request.process.pid == 1 and request.operation == operation
        return how if begun and request.key.endswith(".tar.gz") else None

    world = a_world("aws", "fresh", Told((0.2,), otherwise=otherwise, how=struck))
    with simulated(world, 0):
        world.start(asked())
        world.start_in(1.5, collection(asked()), machine="b")
        world.wait()
        assert world.processes[1].outcome == "0"
        assert world.store.open_uploads(BUCKET), "it is younger than what was asked for"
        assert world.store.look(BUCKET, JOURNAL) is not None
        assert world.run(collection(asked())).outcome == "0"
        assert not world.store.open_uploads(BUCKET)
        assert world.store.look(BUCKET, JOURNAL) is None


@pytest.mark.parametrize("kind", ["ignores", "refuses"])
@pytest.mark.parametrize("longer", [30.0, 300.0])
def test_whoever_took_over_unseen_looks_again_when_nothing_of_a_longer_lease_can_arrive(
    kind: str, longer: float
) -> None:
    """A first journal that was under way for seconds replaces that of a holder whose lease is longer than ours, and whose
    Complete is under way: it arrived after we had looked, or after a lease of ours."""
    puts, completed = list[Request](), list[Request]()

    def otherwise(request: Request) -> tuple[float, float] | None:
        if not puts and is_one(request, 1, "PutObject", JOURNAL):
            puts.append(request)
            return (0.005, 0.005) if kind == "refuses" else (late, 0.005)
        if kind == "refuses" and len(puts) == 1 and is_one(request, 1, "PutObject", JOURNAL):
            puts.append(request)  # the first was refused with 501, this one has no condition
            return late, 0.005
        if not completed and is_one(request, 2, "CompleteMultipartUpload", PREFIX + "source/two.tar.gz"):
            completed.append(request)
            return slow, 0.005
        return None

    def race() -> World:
        puts.clear()
        completed.clear()
        world = a_world(kind, "already staged", Told((0.005, 0.02), otherwise))
        with simulated(world, 0):
            world.start(leased(6.0, force=True))
            world.start_in(0.03, leased(longer, name="two", force=True), machine="b")
            world.wait()
            world.pass_time(400)
        return world

    late, slow = 40.0, 0.02
    race()
    sent = completed[0]
    assert sent.process.pid == 2
    for late in (2.0, 2.5, 3.0, 3.5, 4.0, 5.0):
        for slow in (0.5, 3.0, 12.0, 24.0, 29.0):
            assert not list(map(str, race().violations)), (late, slow)


@pytest.mark.parametrize(("lease", "timeout"), [(600.0, 300.0), (30.0, 20.0)])
def test_a_wait_until_the_own_journal_is_trusted_is_no_stall(lease: float, timeout: float) -> None:
    """A first journal that is slow has its holder wait for a lease, which ``timeout`` may be shorter than."""
    puts: list[Request] = []

    def otherwise(request: Request) -> tuple[float, float] | None:
        if is_one(request, 1, "PutObject", JOURNAL):
            puts.append(request)
            return (0.01, 2.0) if len(puts) == 1 else None
        return None

    world = a_world("ignores", "fresh", Told(otherwise=otherwise))
    with simulated(world, 0):
        run = world.run(asked().model_copy(update={"lease": lease, "timeout": timeout}))
        assert run.outcome == "staged", run.problem
        assert world.loop.now > lease


@pytest.mark.parametrize("kind", ["aws", "exact", "ignores", "refuses"])
def test_a_run_that_lets_go_later_than_its_lease_leaves_no_journal(kind: str) -> None:
    """Nothing renews its lease any more: its deletion was sent again and again in a window that was over."""
    deletions: list[Request] = []

    def otherwise(request: Request) -> tuple[float, float] | None:
        if is_one(request, 1, "DeleteObject", JOURNAL):
            deletions.append(request)
            return (5.5, 0.01) if len(deletions) == 1 else None
        return None

    world = a_world(kind, "fresh", Told(otherwise=otherwise))
    with simulated(world, 0):
        assert world.run(asked()).outcome == "staged"
        assert len(deletions) > 1
        assert world.store.look(BUCKET, JOURNAL) is None
