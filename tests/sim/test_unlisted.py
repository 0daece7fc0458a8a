"""Runs without the right to list: what they must not take for missing, and what they must not leave."""

from __future__ import annotations

import pytest

from tests.sim.breaks import Break
from tests.sim.network import Request, immediately
from tests.sim.scenarios import BUCKET, asked
from tests.sim.test_moments import JOURNAL, MARKER, PREFIX, Told, a_world, is_one
from tests.sim.world import simulated

UNLISTED = frozenset({"ListObjectsV2"})


def test_two_404s_for_the_marker_replace_nothing_under_it() -> None:
    gets, heads = list[Request](), list[Request]()

    def otherwise(request: Request) -> None:
        if is_one(request, 1, "GetObject", MARKER):
            gets.append(request)
            if len(gets) == 2:  # the look under the lease
                request.carry_out = lambda _: None
        if is_one(request, 1, "HeadObject", MARKER):
            heads.append(request)
            if len(heads) == 1:  # the look before the first Complete
                request.carry_out = lambda _: None

    world = a_world("aws", "downgrade", Told(otherwise=otherwise))
    with simulated(world, 0):
        world.run(asked(reference=True, force=True), denied=UNLISTED)
        assert heads
        assert not list(map(str, world.violations))


@pytest.mark.parametrize("how_it_ends", [Break.KILL_BEFORE, Break.CANCEL_BEFORE, Break.DOWN])
def test_the_manifest_goes_last_of_what_it_names(how_it_ends: Break) -> None:
    def how(request: Request) -> Break | None:
        return how_it_ends if is_one(request, 1, "DeleteObject", PREFIX + "models/b.riva") else None

    def otherwise(request: Request) -> tuple[float, float] | None:
        return (0.3, 0.0) if is_one(request, 1, "HeadObject", PREFIX + "models/b.riva") else None

    world = a_world("aws", "downgrade", Told(how=how, otherwise=otherwise))
    with simulated(world, 0):
        first = world.run(asked(reference=True, force=True), denied=UNLISTED)
        assert first.outcome != "staged"
        world.pass_time(100)
        again = world.run(asked(reference=True), denied=UNLISTED)
        assert again.outcome == "staged"
        assert world.store.look(BUCKET, MARKER) is not None
        assert not list(map(str, world.violations))
        assert world.store.look(BUCKET, PREFIX + "models/b.riva") is None


def test_two_plain_runs_without_the_right_to_list_leave_no_journal() -> None:
    def how(request: Request) -> Break | None:
        return Break.KILL_BEFORE if is_one(request, 1, "DeleteObject", JOURNAL) else None

    world = a_world("aws", "fresh", Told(how=how))
    with simulated(world, 0):
        world.run(asked(), denied=UNLISTED)
        assert world.store.look(BUCKET, MARKER) is not None
        for _ in range(2):
            world.pass_time(100)
            assert world.run(asked(), denied=UNLISTED).outcome == "already_staged"
        assert world.store.look(BUCKET, JOURNAL) is None


def test_two_plain_runs_without_the_right_to_list_leave_no_upload_of_a_dead_forced_run() -> None:
    def how(request: Request) -> Break | None:
        it = (
            request.process.pid == 2
            and request.operation == "ListMultipartUploads"
            and "b.riva" in str(world.store.open_uploads(BUCKET))
        )
        return Break.KILL_BEFORE if it else None

    world = a_world("aws", "fresh", Told(how=how))
    with simulated(world, 0):
        world.run(asked(), denied=UNLISTED)
        dead = world.run(asked(force=True), denied=UNLISTED)
        assert dead.outcome == "killed"
        for _ in range(2):
            world.pass_time(100)
            assert world.run(asked(), denied=UNLISTED).outcome == "already_staged"
        assert not world.store.open_uploads(BUCKET)


@pytest.mark.parametrize("status", [Break.DENIED, Break.MISSING])
def test_one_refusal_of_the_manifest_leaves_no_stale_archive(status: Break) -> None:
    gets = list[Request]()

    def is_it(request: Request) -> bool:
        if not is_one(request, 2, "GetObject", PREFIX + "upload_manifest.json"):
            return False
        gets.append(request)
        return len(gets) == 2  # the look under the lease

    def how(request: Request) -> Break | None:
        if is_one(request, 1, "CompleteMultipartUpload", PREFIX + "source/one.tar.gz"):
            return Break.KILL_BEFORE
        return status if is_it(request) else None

    world = a_world("aws", "unlisted other", Told(how=how))
    with simulated(world, 0):
        world.run(asked(force=True), denied=UNLISTED)
        world.pass_time(100)
        again = world.run(asked(force=True), denied=UNLISTED)
        assert len(gets) >= 2
        assert again.outcome == "staged"
        assert world.store.look(BUCKET, MARKER) is not None
        assert not list(map(str, world.violations))
        assert world.store.look(BUCKET, PREFIX + "source/two.tar.gz") is None


@pytest.mark.parametrize("status", [Break.DENIED, Break.MISSING])
@pytest.mark.parametrize("name", ["deployment_ready.txt", "deployment.json"])
def test_one_refusal_at_each_look_for_the_pair_is_no_bug(status: Break, name: str) -> None:
    """One at the look before the prefix is held, one at the look after."""
    struck: list[Request] = []

    def is_it(request: Request) -> bool:
        it = len(struck) < 2 and is_one(request, 2, "GetObject", PREFIX + name)
        struck.extend([request] if it else [])
        return it

    def how(request: Request) -> Break | None:
        return status if is_it(request) else None

    world = a_world("aws", "image", Told(how=how))
    with simulated(world, 0):
        world.run(asked(image=True), denied=UNLISTED)
        world.pass_time(100)
        again = world.run(asked(image=True), denied=UNLISTED)
        assert struck
        assert (again.outcome, again.problem) == ("already_staged", "")


@pytest.mark.parametrize("kind", ["aws", "exact", "ignores"])
def test_a_run_that_is_refused_after_one_that_had_not_begun_its_commit_leaves_no_journal(kind: str) -> None:
    def how(request: Request) -> Break | None:
        is_part = is_one(request, 1, "UploadPart", PREFIX + "source/two.tar.gz")
        return Break.CANCEL_BEFORE if is_part else None

    world = a_world(kind, "already staged", Told(how=how))
    with simulated(world, 0):
        world.run(asked("two", force=True), denied=UNLISTED)
        world.pass_time(100)
        assert world.run(asked("two", force=True, wrong=True), denied=UNLISTED).outcome == "65"
        assert world.store.look(BUCKET, JOURNAL) is None


@pytest.mark.parametrize("gone", ["deployment_ready.txt", "artifact.json", "upload_manifest.json"])
def test_force_repairs_a_staging_of_which_a_document_is_gone(gone: str) -> None:
    """What is missing is refused to such a role, and a marker, or a manifest, says that it is there."""
    world = a_world("aws", "image", Told())
    with simulated(world, 0):
        assert world.run(asked(image=True)).outcome == "staged"
        immediately(world.store.delete(BUCKET, PREFIX + gone))
        world.judge.violations.clear()

        def hide(request: Request) -> Break | None:
            looks = request.operation in {"HeadObject", "GetObject"} and request.bucket == BUCKET
            return Break.DENIED if looks and world.store.look(BUCKET, request.key) is None else None

        world.schedule = Told(how=hide)
        assert world.run(asked(image=True, force=True), denied=UNLISTED).outcome == "staged"
