"""What a seed draws: the store, what is staged, runs after and beside each other, and what becomes of their requests."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from riva_stream.config import StageRequest
from tests.sim.breaks import Break
from tests.sim.ending import converge
from tests.sim.exhaustive import Result, Trace, prepared, result_of
from tests.sim.kinds import DRAWN
from tests.sim.moments import TANGLED, Uneven, add_absences, another, at_random, entrance, tangle, uneven
from tests.sim.scenarios import FOLLOW_UPS, SCENARIOS
from tests.sim.schedules import Drawn, Plain
from tests.sim.world import RunFactory, World, newest, simulated

__all__ = ["simulate"]

_LATENESS = 90.0
_REQUESTS = 75
"""About as many as a run has."""

_ALONE = (
    *(Break.CANCEL_BEFORE, Break.CANCEL_AFTER, Break.KILL_BEFORE, Break.KILL_AFTER, Break.KILL_LATE),
    *(
        Break.ERROR_BEFORE,
        Break.ERROR_AFTER,
        Break.LOST,
        Break.CUT,
        Break.CUTS,
        Break.DENIED,
        Break.BUSY,
        Break.EXPIRED,
    ),
    *(Break.HANGS, Break.DOWN),
)
_BESIDE = (*(Break.FREEZE_BEFORE, Break.FREEZE_AFTER) * 4, *_ALONE)


def simulate(
    seed: int,
    *,
    kind: str = "",
    beside: RunFactory = newest,
    trace: Trace | None = None,
    among: Sequence[str] = tuple(SCENARIOS),
    even: bool = False,
    whole: bool = False,
) -> Result:
    """Run what ``seed`` draws.

    Args:
        seed: any number.
        kind: of the store; empty: drawn as well.
        beside: makes every run but the first, and but those that are to converge in the end.
        trace: takes a line for each thing that happens.
        among: scenarios to draw from: with others a seed draws another thing.
        even: draw all times from one spread, and when runs begin from another, as seeds did before there were moments.
        whole: nothing that is there is told to be missing, as before that was drawn.
    """
    draw = Random(seed)
    drawn = draw.choice([*DRAWN, "aws", "aws", "aws"])
    kind = kind or drawn
    scenario = SCENARIOS[draw.choice(among)]
    count = draw.choice((1, 2, 2, 2, 3))
    together = count > 1 and draw.random() < 0.8
    breaks = _BESIDE if together else _ALONE
    strikes = {
        pid: {draw.randrange(_REQUESTS): draw.choice(breaks) for _ in range(draw.choice((0, 1, 1, 2)))}
        for pid in range(1, count + 1)
    }
    schedule: Drawn = Drawn(draw, strikes, draw.choice((0.02, 0.2, 2.0)), _LATENESS)
    odds = Random(f"moments of {seed}")
    is_tangle = not even and odds.random() < 0.4
    if is_tangle:
        scenario, count, together = SCENARIOS[odds.choice(TANGLED)], odds.choice((2, 3, 3)), True
        schedule = tangle(schedule, odds, count)
    elif not even:
        schedule = uneven(schedule, odds, range(1, count + 1), breaks)
    world = World(
        prepared(kind, scenario.name, -1).copy(), schedule, bintarball=scenario.is_bintarball, trace=trace
    )
    requests = [scenario.request, *(_asked_beside(draw, scenario.request) for _ in range(count - 1))]
    if not even:
        requests = [requests[0], *(another(request, odds) for request in requests[1:])]
    if is_tangle:
        requests = [request.model_copy(update={"force": odds.random() < 0.9}) for request in requests]
    if isinstance(schedule, Uneven) and not whole and not scenario.denied:
        add_absences(schedule.moments, Random(f"absences of {seed}"), range(1, count + 1))
    begins = schedule.begins if together and isinstance(schedule, Uneven) else None
    with simulated(world, seed):
        for index, request in enumerate(requests):
            options: dict[str, Any] = {
                "machine": draw.choice("ab"),
                "skew": draw.choice((0.0, -4e5, 3e3)),
                "denied": scenario.denied,
            }
            if index:
                options |= {"factory": beside, "is_beside": beside is not newest}
            if begins is not None and index and odds.random() < (0.9 if is_tangle else 0.6):
                when = entrance(odds) if is_tangle else at_random(odds)
                at = begins.setdefault(odds.randint(1, index), [])
                at.append((*when, world.starter(request, **options)))
            elif together:
                world.start_in(draw.random() * draw.choice((0.1, 1.0, 15.0)), request, **options)
            else:
                world.run(request, **options)
        world.wait()
        world.schedule = Plain()
        converge(
            world,
            scenario.request,
            force=scenario.is_hostile,
            denied=scenario.denied,
            machine="c",
            last=False,
        )
        world.pass_time(2 * _LATENESS)
        converge(world, scenario.request, force=scenario.is_hostile, denied=scenario.denied, machine="c")
        return result_of(world, str(seed), kind)


def _asked_beside(draw: Random, request: StageRequest) -> StageRequest:
    asked: StageRequest = FOLLOW_UPS[draw.choice(list(FOLLOW_UPS))](request)
    return asked
