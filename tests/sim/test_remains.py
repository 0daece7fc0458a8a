"""What follows on a broken run is simulated once for all that leave the same behind: what counts as the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from random import Random

import pytest

from tests.sim.breaks import Break
from tests.sim.exhaustive import Cell, cells, prepared
from tests.sim.remains import Remains
from tests.sim.scenarios import BUCKET, SCENARIOS, prefix_of
from tests.sim.schedules import Strike
from tests.sim.world import World, simulated

PREFIX = prefix_of()
JOURNAL = f"{PREFIX}.riva-stream/journal.json"
MODEL = f"{PREFIX}models/a.riva"
MARKER = f"{PREFIX}staging_complete.txt"
IN_MID_STREAM, COMMITTED = (22, Break.CANCEL_BEFORE), (65, Break.ERROR_AFTER)
AGAIN = 30
"""Cells that are simulated both ways."""


def left(ordinal: int, how: Break, *, seed: int = 1) -> Remains:
    """What a fresh staging leaves that is struck there."""
    world = World(prepared("aws", "fresh", -1).copy(), Strike(ordinal, how))
    with simulated(world, seed):
        world.run(SCENARIOS["fresh"].request)
        remains = Remains.of(world)
    assert remains is not None
    return remains


def put(remains: Remains, key: str, **fields: object) -> None:
    found = remains.store.look(BUCKET, key)
    assert found is not None
    remains.store._buckets[BUCKET].versions[key] = [replace(found, **fields)]  # type: ignore[arg-type]


@pytest.mark.parametrize("where", [IN_MID_STREAM, COMMITTED])
def test_ids_and_times_make_no_difference(where: tuple[int, Break]) -> None:
    one, other = left(*where), left(*where, seed=2)
    assert [one.store.look(BUCKET, key) for key in one.store.keys(BUCKET)] != [
        other.store.look(BUCKET, key) for key in other.store.keys(BUCKET)
    ]
    assert one.fingerprint == other.fingerprint


def test_a_failure_that_passes_leaves_what_none_leaves() -> None:
    unbroken = left(*COMMITTED)
    for ordinal in (3, 20, 40, 60):
        for how in (Break.ERROR_AFTER, Break.LOST, Break.BUSY):
            assert left(ordinal, how).fingerprint == unbroken.fingerprint


def _other_model(remains: Remains) -> None:
    put(remains, MODEL, data=b"other bytes")


def _older_journal(remains: Remains) -> None:
    found = remains.store.look(BUCKET, JOURNAL)
    assert found is not None
    put(remains, JOURNAL, last_modified=found.last_modified - timedelta(seconds=1))


def _one_part_less(remains: Remains) -> None:
    next(upload for upload in remains.store._buckets[BUCKET].uploads.values() if upload.parts).parts.popitem()


def _one_upload_less(remains: Remains) -> None:
    remains.store._buckets[BUCKET].uploads.popitem()


def _an_upload_that_no_journal_named(remains: Remains) -> None:
    remains.judge._named.pop()


def _an_upload_that_came_late(remains: Remains) -> None:
    remains.judge._late.add(remains.store.open_uploads(BUCKET)[0].upload_id)


def _another_lease(remains: Remains) -> None:
    found = remains.store.look(BUCKET, JOURNAL)
    assert found is not None
    put(remains, JOURNAL, data=found.data.replace(b'"lease":6.0', b'"lease":7.0'))


def _another_holder(remains: Remains) -> None:
    found = remains.store.look(BUCKET, JOURNAL)
    assert found is not None
    put(remains, JOURNAL, data=found.data.replace(b'"pid":1', b'"pid":2'))


def _no_marker(remains: Remains) -> None:
    remains.store._buckets[BUCKET].versions.pop(MARKER)


def _a_marker_of_another_run(remains: Remains) -> None:
    """Its run id was one with that of the other documents."""
    found = remains.store.look(BUCKET, MARKER)
    assert found is not None
    put(remains, MARKER, metadata={**found.metadata, "run-id": "130-20260101-000000-00000000"})


def _another_size_in_the_manifest(remains: Remains) -> None:
    """That of another document."""
    manifest = remains.store.look(BUCKET, f"{PREFIX}upload_manifest.json")
    sizes = [remains.store.look(BUCKET, PREFIX + name) for name in ("artifact.json", "checksums.sha256")]
    assert manifest is not None
    artifact, checksums = [f'"size_bytes": {len(found.data)},'.encode() for found in sizes if found]
    assert manifest.data.count(checksums) == 1
    put(remains, manifest.key, data=manifest.data.replace(checksums, artifact))


def _what_is_ready_is_gone(remains: Remains) -> None:
    remains.judge._ready = {MODEL: remains.judge.promised[MODEL]}


def _a_marker_over_another_manifest(remains: Remains) -> None:
    """What it says of the manifest was its SHA-256."""
    found = remains.store.look(BUCKET, f"{PREFIX}upload_manifest.json")
    assert found is not None
    put(remains, found.key, data=found.data.replace(b'"include"', b'"excluded"'))


@pytest.mark.parametrize(
    ("where", "change"),
    [
        (IN_MID_STREAM, _older_journal),
        (IN_MID_STREAM, _one_part_less),
        (IN_MID_STREAM, _one_upload_less),
        (IN_MID_STREAM, _an_upload_that_no_journal_named),
        (IN_MID_STREAM, _an_upload_that_came_late),
        (IN_MID_STREAM, _another_holder),
        (IN_MID_STREAM, _another_lease),
        (COMMITTED, _other_model),
        (COMMITTED, _no_marker),
        (COMMITTED, _another_size_in_the_manifest),
        (COMMITTED, _what_is_ready_is_gone),
        (COMMITTED, _a_marker_of_another_run),
        (COMMITTED, _a_marker_over_another_manifest),
    ],
)
def test_all_else_makes_one(where: tuple[int, Break], change: Callable[[Remains], None]) -> None:
    one, other = left(*where), left(*where)
    change(other)
    assert one.fingerprint != other.fingerprint


def test_a_key_that_came_late_is_noted_after_it_has_gone() -> None:
    """Should one come to lie there again, it is not the one that nobody could know of."""
    one, other = left(*IN_MID_STREAM), left(*IN_MID_STREAM)
    for remains in (one, other):
        remains.store._buckets[BUCKET].versions.pop(JOURNAL)
    other.judge._late.add(JOURNAL)
    assert one.fingerprint != other.fingerprint


def test_what_a_follow_up_is_shown_others_are_not() -> None:
    remains = left(*COMMITTED)
    for _ in range(2):
        world = remains.world()
        before = {pid: len(shown) for pid, shown in world.judge._seen.items()}
        with simulated(world, 3):
            world.judge._seen[1].append(world.judge.promised[MARKER])
        assert before == {pid: len(shown) for pid, shown in remains.judge._seen.items()}


def test_what_is_taken_over_from_another_cell_is_what_it_comes_to_itself() -> None:
    draw = Random(130)
    for scenario in ("forced other", "reference image", "promoted over another"):
        some = draw.randrange(4, 45)
        results = [
            (cell, result)
            for cell in cells("aws", scenario, leftovers=False)
            if cell.ordinal % 60 == some and (result := cell.simulate()) is not None
        ]
        taken = [(cell, result) for cell, result in results if not result.runs]
        assert len(taken) > AGAIN // 3
        for cell, result in draw.sample(taken, AGAIN // 3):
            again = cell.simulate(anew=True)
            assert again is not None
            assert again.runs == len(again.outcomes) > 1
            at_once = cell._in_one_world(cell._steps(is_late=False), None)
            assert [v.kind for v in at_once.violations] == [v.kind for v in result.violations]
            assert at_once.outcomes == result.outcomes[1:]
            assert (again.outcomes, again.violations) == (result.outcomes, result.violations), cell.name


def test_a_cell_replays_with_every_request_of_it() -> None:
    cell = Cell("aws", "fresh", 22, Break.KILL_LATE, "other forced")
    told: list[str] = []
    result = cell.simulate(told.append)
    assert result is not None
    assert sum(" starts: " in line for line in told) == result.runs == len(result.outcomes)
    again = cell.simulate()
    assert again is not None
    assert again.outcomes == result.outcomes


def test_what_arrives_late_arrives_in_what_follows() -> None:
    told: list[str] = []
    assert Cell("aws", "fresh", 22, Break.KILL_LATE, "same").simulate(told.append) is not None
    late = next(i for i, line in enumerate(told) if "arrives late" in line)
    assert sum(" starts: " in line for line in told[:late]) > 1
