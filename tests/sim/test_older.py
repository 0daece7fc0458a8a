"""Version 0.1 runs in the simulation, and what it breaks is told apart from what this version breaks."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sim import older, seeds
from tests.sim.ending import converge
from tests.sim.exhaustive import prepared
from tests.sim.report import Tally
from tests.sim.scenarios import SCENARIOS, asked
from tests.sim.schedules import Plain
from tests.sim.sources import source
from tests.sim.world import World, simulated

SEEDS = (*range(60), 178, 1304, 1371, 1563, 1868, 2023, 2634, 2749)
"""The last ones: version 0.1 broke a promise there once."""


@pytest.fixture
def old() -> None:
    """Skip where the source of version 0.1 is not at hand."""
    try:
        older.load()
    except older.NotAvailableError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize("kind", ["aws", "ignores", "exact"])
def test_what_version_0_1_stages_is_staged_and_the_other_way_round(kind: str) -> None:
    for name, scenario in SCENARIOS.items():
        world = World(prepared(kind, name, -1).copy(), Plain(), bintarball=scenario.is_bintarball)
        with simulated(world, 0):
            run = world.run(scenario.request, denied=scenario.denied, factory=older.stage, is_beside=True)
            converge(world, scenario.request)
            told = {(violation.kind, violation.is_beside) for violation in world.violations}
            assert told == ({("P2", True)} if scenario.is_hostile else set()), name
            if scenario.request.source == source("bad").uri:
                assert run.outcome == "65", name
                continue
            plain = scenario.request.model_copy(update={"force": False})
            world.run(plain, factory=older.stage, is_beside=True)
            outcomes = [process.outcome for process in world.processes[1:]]
            assert outcomes == ["already_staged", "already_staged"], name


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True)])
def test_each_version_waits_for_a_live_run_of_the_other(first: bool, second: bool) -> None:
    world = World(prepared("aws", "fresh", -1).copy(), Plain())
    factories: dict[bool, dict[str, Any]] = {True: {"factory": older.stage, "is_beside": True}, False: {}}
    with simulated(world, 0):
        world.start_in(0.0, asked(), **factories[first])
        world.start_in(0.5, asked(), **factories[second])
        world.wait()
        # Had the second one taken over, the first one would have ended with 75.
        assert [process.outcome for process in world.processes] == ["staged", "already_staged"]
        assert not world.violations


@pytest.mark.usefixtures("old")
def test_this_version_breaks_no_promise_beside_version_0_1() -> None:
    tally = Tally()
    for seed in SEEDS:
        tally.add(seeds.simulate(seed, even=True, beside=older.stage))
    assert tally.violating == 0, "\n".join(tally.lines(seconds=1))


@pytest.mark.usefixtures("old")
def test_a_seed_replays_exactly_beside_version_0_1() -> None:
    logs: list[list[str]] = [[], []]
    for log in logs:
        seeds.simulate(178, even=True, beside=older.stage, trace=log.append)
    assert len(logs[0]) > 20
    assert logs[0] == logs[1]
