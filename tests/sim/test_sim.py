"""The part of the simulation that every run of the tests has time for, and that the simulation itself can fail."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterator
from random import Random
from typing import Any

import anyio
import pytest

from riva_stream.config import StageRequest
from riva_stream.errors import TransientError
from riva_stream.s3.port import CompletedPart, PartBody, Store
from tests.sim import seeds
from tests.sim.ending import converge
from tests.sim.exhaustive import Cell, Duel, cells, duels, parse, prepared, result_of
from tests.sim.judge import NOT_PROMISED
from tests.sim.kinds import DRAWN, KINDS
from tests.sim.report import Tally
from tests.sim.scenarios import BUCKET, SCENARIOS, asked, prefix_of
from tests.sim.schedules import Plain
from tests.sim.sources import source
from tests.sim.world import World, simulated

PREFIX = prefix_of()
JOURNAL = f"{PREFIX}.riva-stream/journal.json"
SEEDS = (*range(150), 702_044, 900_216, 926_073, 1_017_283, 1_523_435)
FOUND = (
    *(9121, 9482, 12022, 12523, 16948, 18127, 26652, 27388, 28729, 28773, 29019, 29795),
    *(30218, 38312, 38979, 40743, 41163, 41654, 49207, 52179, 5919, 7987),
)
"""Seeds that broke a promise once; what they draw is another thing after each change of the simulator,"""
AMONG, AMONG_SINCE = tuple(SCENARIOS)[:27], tuple(SCENARIOS)[:33]
"""as it would be among more scenarios than there were then."""
FOUND_SINCE = (701663, 2375)
"""Some more, with more scenarios, and ``--even`` times."""
FOUND_UNEVEN = (7228, 8031, 16037, 18224, 20730)
"""Some that single moments broke, when nothing was told to be missing yet."""
CELLS = 200
DUELS = 80

Rogue = Callable[[StageRequest, Store], Coroutine[Any, Any, Any]]


def broken(results: Iterator[tuple[str, str, list[str]]]) -> list[str]:
    """Every promise that was broken where it was made, with what replays it."""
    return [f"{name}: {text}" for name, kind, texts in results for text in texts if _is_made(kind, text)]


def _is_made(kind: str, text: str) -> bool:
    return text.partition(":")[0] not in NOT_PROMISED | KINDS[kind].weaker


def drawn_cells() -> list[Cell | Duel]:
    """Some of the cells, the same ones each time."""
    draw = Random(9)
    some: list[Cell | Duel] = []
    for scenario in SCENARIOS:
        found = list(cells("aws", scenario, leftovers=False))
        some += draw.sample(found, min(len(found), CELLS // len(SCENARIOS)))
    for scenario in ("fresh", "forced other", "upgrade", "reference image"):
        found_too = list(duels("aws", scenario, step=7))
        some += draw.sample(found_too, DUELS // 4)
    return some


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("refuses")])
def test_nothing_is_blamed_when_nothing_breaks(kind: str) -> None:
    for name, scenario in SCENARIOS.items():
        world = World(prepared(kind, name, -1).copy(), Plain(), bintarball=scenario.is_bintarball)
        with simulated(world, 0):
            world.run(scenario.request, denied=scenario.denied)
            converge(world, scenario.request, denied=scenario.denied)
            assert not [v for v in world.violations if not scenario.is_hostile], name


def test_no_promise_is_broken_whatever_a_seed_draws() -> None:
    results = (
        *(seeds.simulate(seed) for seed in SEEDS),
        *(seeds.simulate(seed, whole=True, among=AMONG_SINCE) for seed in FOUND_UNEVEN),
        *(seeds.simulate(seed, even=True, among=AMONG_SINCE) for seed in FOUND_SINCE),
        *(seeds.simulate(seed, even=True, among=AMONG) for seed in FOUND),
    )
    assert not broken((r.name, r.kind, list(map(str, r.violations))) for r in results)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(DRAWN)))
def test_no_promise_is_broken_on_kinds_that_no_seed_draws(kind: str) -> None:
    results = (seeds.simulate(seed, kind=kind) for seed in SEEDS[:10])
    assert not broken((r.name, r.kind, list(map(str, r.violations))) for r in results)


def test_no_promise_is_broken_at_any_request() -> None:
    results = (cell.simulate() for cell in drawn_cells())
    assert not broken((r.name, r.kind, list(map(str, r.violations))) for r in results if r is not None)


@pytest.mark.parametrize("seed", range(5))
def test_a_seed_replays_exactly(seed: int) -> None:
    logs: list[list[str]] = [[], []]
    for log in logs:
        seeds.simulate(seed, trace=log.append)
    assert len(logs[0]) > 20
    assert logs[0] == logs[1]


def test_a_name_says_which_simulation_it_is() -> None:
    for cell in drawn_cells():
        assert parse(cell.name) == cell


# ---- the judge: each promise is broken on purpose


async def _put(store: Store, key: str, data: bytes = b"something") -> None:
    await store.put(BUCKET, key, PartBody((data,), len(data)), content_type="a/b", metadata={})


async def _deletes_under_the_marker(_: StageRequest, store: Store) -> None:
    await store.delete(BUCKET, f"{PREFIX}models/a.riva")


async def _replaces_under_the_marker(_: StageRequest, store: Store) -> None:
    upload_id = await store.create_upload(
        BUCKET, f"{PREFIX}artifact.json", content_type="a/b", metadata={}, crc64nvme=False
    )
    etag = await store.upload_part(BUCKET, f"{PREFIX}artifact.json", upload_id, 1, PartBody((b"{}",), 2))
    part = CompletedPart(1, etag, 2)
    await store.complete_upload(BUCKET, f"{PREFIX}artifact.json", upload_id, [part], crc64nvme=None)


async def _replaces_what_is_ready(_: StageRequest, store: Store) -> None:
    await _delete_seen(store, f"{PREFIX}staging_complete.txt")
    await _put(store, f"{PREFIX}source/one.tar.gz")


async def _delete_seen(store: Store, key: str) -> None:
    await store.head(BUCKET, key)
    await store.delete(BUCKET, key)


async def _adds_beside_the_marker(_: StageRequest, store: Store) -> None:
    await _put(store, f"{PREFIX}models/c.riva")


async def _deletes_a_marker_unseen(_: StageRequest, store: Store) -> None:
    await store.delete(BUCKET, f"{PREFIX}staging_complete.txt")


async def _deletes_a_marker_unasked(_: StageRequest, store: Store) -> None:
    await store.head(BUCKET, f"{PREFIX}staging_complete.txt")
    await store.delete(BUCKET, f"{PREFIX}staging_complete.txt")


async def _writes_elsewhere(_: StageRequest, store: Store) -> None:
    await _put(store, "prod/another/model")


async def _marks_what_is_not_there(_: StageRequest, store: Store) -> None:
    marker = await store.get(BUCKET, f"{PREFIX}staging_complete.txt", limit=9999)
    assert marker is not None
    await store.delete(BUCKET, f"{PREFIX}staging_complete.txt")
    await store.delete(BUCKET, f"{PREFIX}models/b.riva")
    await _put(store, f"{PREFIX}staging_complete.txt", marker.data)


async def _marks_a_mixture(_: StageRequest, store: Store) -> None:
    marker = await store.get(BUCKET, f"{PREFIX}staging_complete.txt", limit=9999)
    assert marker is not None
    await store.delete(BUCKET, f"{PREFIX}staging_complete.txt")
    await _put(store, f"{PREFIX}source/one.tar.gz", source("two").data)
    await _put(store, f"{PREFIX}staging_complete.txt", marker.data)


async def _shows_what_it_has_not_read(_: StageRequest, store: Store) -> None:
    await store.head(BUCKET, f"{PREFIX}staging_complete.txt")
    await store.delete(BUCKET, f"{PREFIX}staging_complete.txt")
    await _put(store, f"{PREFIX}models/a.riva")


async def _has_a_bug(_: StageRequest, store: Store) -> None:
    raise ZeroDivisionError


async def _gives_up(_: StageRequest, store: Store) -> None:
    raise TransientError("not today")


@pytest.mark.parametrize(
    ("rogue", "force", "kinds"),
    [
        (_deletes_under_the_marker, True, {"P1"}),
        (_replaces_under_the_marker, True, {"P1"}),
        (_adds_beside_the_marker, True, {"P1", "P4"}),
        (_deletes_a_marker_unseen, True, {"P1m"}),
        (_deletes_a_marker_unasked, False, {"P1m"}),
        (_deletes_a_marker_unasked, True, set()),
        (_writes_elsewhere, True, {"P2"}),
        (_marks_what_is_not_there, True, {"P3"}),
        (_marks_a_mixture, True, {"P3", "P4"}),
        (_shows_what_it_has_not_read, True, {"P4"}),
        (_has_a_bug, True, {"E4"}),
        (_gives_up, True, set()),
    ],
)
def test_the_judge_sees_what_is_wrong(rogue: Rogue, force: bool, kinds: set[str]) -> None:
    world = World(prepared("aws", "already staged", -1).copy(), Plain())
    with simulated(world, 0):
        world.run(asked(force=force), factory=rogue)
        assert {violation.kind for violation in world.violations} == kinds


def test_the_judge_sees_what_changes_under_the_deployment_documents() -> None:
    world = World(prepared("aws", "image", -1).copy(), Plain())
    with simulated(world, 0):
        world.run(SCENARIOS["image"].request)
        world.run(asked(force=True), factory=_replaces_what_is_ready)
        assert {violation.kind for violation in world.violations} == {"P1r", "P4"}


def test_what_is_left_over_is_told() -> None:
    async def leaves(_: StageRequest, store: Store) -> None:
        await store.create_upload(
            BUCKET, f"{PREFIX}.riva-stream/probe", content_type="a/b", metadata={}, crc64nvme=False
        )
        await _put(store, f"{PREFIX}.riva-stream/journal.json", b"{}")

    world = World(prepared("aws", "already staged", -1).copy(), Plain())
    with simulated(world, 0):
        world.run(asked(), factory=leaves)
        world.judge.judge_end()
        assert {violation.kind for violation in world.violations} == {"E2", "E3"}


# ---- what another version has done is told apart


async def _create(store: Store) -> None:
    """Create an upload, and name it in a journal."""
    upload_id = await store.create_upload(
        BUCKET, f"{PREFIX}models/a.riva", content_type="a/b", metadata={}, crc64nvme=False
    )
    await _put(store, JOURNAL, json.dumps({"uploads": [{"upload_id": upload_id}]}).encode())


@pytest.mark.parametrize("is_beside", [True, False])
def test_what_a_run_deletes_is_put_down_to_its_version(is_beside: bool) -> None:
    world = World(prepared("aws", "already staged", -1).copy(), Plain())
    with simulated(world, 0):
        world.run(asked(force=True), factory=_deletes_under_the_marker, is_beside=is_beside)
        assert [(v.kind, v.is_beside) for v in world.violations] == [("P1", is_beside)]
        tally = Tally()
        tally.add(result_of(world, "", "aws"))
        assert (tally.violating, tally.beside) == (not is_beside, is_beside)


@pytest.mark.parametrize(
    ("holds", "looks", "is_beside"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_a_mixture_is_put_down_to_a_version_that_meddled_unseen(
    holds: bool, looks: bool, is_beside: bool
) -> None:
    async def marks(_: StageRequest, store: Store) -> None:
        if holds:
            await _put(store, JOURNAL, b"{}")
        marker = await store.get(BUCKET, f"{PREFIX}staging_complete.txt", limit=9999)
        assert marker is not None
        await store.delete(BUCKET, f"{PREFIX}staging_complete.txt")
        await store.head(BUCKET, f"{PREFIX}models/b.riva")
        await anyio.sleep(2)
        if looks:
            await store.head(BUCKET, f"{PREFIX}models/b.riva")
        await _put(store, f"{PREFIX}staging_complete.txt", marker.data)

    async def meddles(_: StageRequest, store: Store) -> None:
        await store.delete(BUCKET, f"{PREFIX}models/b.riva")

    world = World(prepared("aws", "already staged", -1).copy(), Plain())
    with simulated(world, 0):
        world.start_in(0.0, asked(force=True), factory=marks)
        world.start_in(1.0, asked(force=True), factory=meddles, is_beside=True)
        world.wait()
        assert [(v.kind, v.is_beside) for v in world.violations] == [("P3", is_beside)]


@pytest.mark.parametrize("is_beside", [True, False])
def test_an_open_upload_is_put_down_to_who_took_its_last_word_away(is_beside: bool) -> None:
    async def creates(_: StageRequest, store: Store) -> None:
        await _create(store)

    async def forgets(_: StageRequest, store: Store) -> None:
        await store.delete(BUCKET, JOURNAL)

    world = World(prepared("aws", "already staged", -1).copy(), Plain())
    with simulated(world, 0):
        world.run(asked(), factory=creates, is_beside=not is_beside)
        world.run(asked(), factory=forgets, is_beside=is_beside)
        world.judge.judge_end()
        assert [(v.kind, v.is_beside) for v in world.violations] == [("E2", is_beside)]


def test_an_open_upload_is_put_down_to_the_holder_that_saw_it() -> None:
    async def creates(_: StageRequest, store: Store) -> None:
        await _create(store)
        await store.delete(BUCKET, JOURNAL)

    async def looks(_: StageRequest, store: Store) -> None:
        await _put(store, JOURNAL, b"{}")
        await store.list_uploads(BUCKET, PREFIX)
        await store.delete(BUCKET, JOURNAL)

    world = World(prepared("aws", "already staged", -1).copy(), Plain())
    with simulated(world, 0):
        world.run(asked(), factory=creates, is_beside=True)
        world.run(asked(), factory=looks)
        world.judge.judge_end()
        assert [(v.kind, v.is_beside) for v in world.violations] == [("E2", False)]
