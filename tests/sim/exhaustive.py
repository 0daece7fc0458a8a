"""Every request of every scenario, broken in every way; and every schedule of two runs with up to two switches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from riva_stream.config import StageRequest
from riva_stream.s3.memory import MemoryStore
from tests.sim.breaks import Break
from tests.sim.ending import converge
from tests.sim.judge import Violation
from tests.sim.kinds import KINDS
from tests.sim.network import Request
from tests.sim.remains import Remains
from tests.sim.scenarios import FOLLOW_UPS, SCENARIOS, Scenario, name_foreign_key
from tests.sim.schedules import Plain, Strike, Switches
from tests.sim.world import World, new_store, simulated

__all__ = ["BREAKS", "Cell", "Duel", "Result", "Trace", "cells", "duels", "parse", "prepared", "result_of"]

Trace = Callable[[str], None]

BREAKS = (
    Break.CANCEL_BEFORE,
    Break.CANCEL_AFTER,
    Break.CANCEL_LATE,
    Break.KILL_AFTER,
    Break.KILL_LATE,
    Break.ERROR_BEFORE,
    Break.ERROR_AFTER,
    Break.LOST,
    Break.CUT,
    Break.CUTS,
    Break.DOWN,
    Break.DENIED,
    Break.DENIED_LATE,
    Break.MISSING,
    Break.BUSY,
    Break.EXPIRED,
)
_LEFTOVERS = (Break.CANCEL_BEFORE, Break.KILL_AFTER, Break.ERROR_AFTER, Break.LOST)
"""What strikes a run over the leftover of a killed one."""
_PASSING = {Break.ERROR_BEFORE, Break.ERROR_AFTER, Break.LOST, Break.CUT, Break.BUSY, Break.EXPIRED}
"""What trying again is for."""
_WRONG = "65"
"""How a run ends that has found something to be wrong."""
_AFTER_SUCCESS = ("same", "refused", "other forced")
"""What comes after a run that has got over its break; the rest finds what it finds after any other."""
_SEED = 1_000_000
"""Beyond those of broken runs: what comes after them must not draw what they have drawn."""
_PREPARED = 2_000_000
"""The same of the runs before those: a run with the ids of the one that it follows on would be its own predecessor."""
_WATCHING = 16
"""Requests with which the second run waits for the first one's lease to end."""
_RIVALS = ("same", "force", "other", "other forced")


@dataclass(frozen=True, slots=True)
class Result:
    """What one simulation came to."""

    name: str
    kind: str
    violations: tuple[Violation, ...]
    broken: int
    """Runs that were broken in it."""
    runs: int
    """Those that were simulated for it alone, and so for ``requests``: a cell goes on where others have been."""
    requests: int
    outcomes: tuple[str, ...] = ()
    """How its runs ended, of a cell: those of the runs that were simulated for it, or for another that left the same."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run that is broken at one request, what is run after it, and the same again."""

    kind: str
    scenario: str
    ordinal: int
    how: Break
    follow_up: str
    leftover: int = -1
    """The request at which a run before it was killed; -1: there was none."""

    @property
    def name(self) -> str:
        over = f"@{self.leftover}" if self.leftover >= 0 else ""
        return f"{self.kind}/{self.scenario}{over}/{self.ordinal}/{self.how.name}/{self.follow_up}"

    def simulate(self, trace: Trace | None = None, *, anew: bool = False) -> Result | None:
        """Run it; None when the run has no such request.

        Args:
            trace: takes a line for each thing that happens.
            anew: whether to run again what others have been through: what comes after a run finds the same as it would
                after others that leave the same behind.
        """
        done = _Done() if anew or trace else _DONE
        before = done.counts
        what = (self.kind, self.scenario, self.leftover, self.ordinal, self.how)
        broken = done.broken(what, lambda: self._broken(trace))
        if broken.struck is None:
            return None
        steps = self._steps(is_late=broken.last is not None)
        if broken.remains is not None:
            rest = done.after(broken.remains, (self.kind, self.scenario), steps, trace)
        else:
            rest = self._in_one_world(steps, trace)
            done.count(1, 1 + len(rest.outcomes), rest.requests)
        broke, runs, requests = (now - then for now, then in zip(done.counts, before, strict=True))
        violations = (*broken.violations, *rest.violations)
        outcomes = (broken.outcome, *rest.outcomes)
        return Result(self.name, self.kind, violations, broke, runs, requests, outcomes)

    def _broken(self, trace: Trace | None) -> _Broken:
        """The run that is broken, in a world of its own."""
        strike = Strike(self.ordinal, self.how)
        world = self._world(strike, trace)
        with simulated(world, self.ordinal):
            self._break(world, strike)
            run, *_ = world.processes
            return _Broken(
                strike.struck,
                strike.last,
                Remains.of(world),
                run.outcome,
                tuple(world.violations),
                world.network.sent,
            )

    def _in_one_world(self, steps: Sequence[_Step], trace: Trace | None) -> _Rest:
        """All of it again, in one world."""
        strike = Strike(self.ordinal, self.how)
        world = self._world(strike, trace)
        with simulated(world, self.ordinal):
            self._break(world, strike)
            already = len(world.violations)
            world.schedule = Plain()
            for step in steps:
                step.run(world)
            return _Rest(_outcomes(world, 1), tuple(world.violations[already:]), world.network.sent)

    def _world(self, strike: Strike, trace: Trace | None) -> World:
        store = prepared(self.kind, self.scenario, self.leftover).copy()
        return World(store, strike, bintarball=SCENARIOS[self.scenario].is_bintarball, trace=trace)

    def _break(self, world: World, strike: Strike) -> None:
        scenario = SCENARIOS[self.scenario]
        run = world.run(scenario.request, denied=scenario.denied)
        unbroken, _ = _unbroken(self.kind, self.scenario, self.leftover)
        text = f"it ends with {run.outcome}: {run.problem}, after {strike.struck}"
        if self.how in _PASSING and run.outcome != unbroken:
            world.judge.violations.append(Violation("E5", text))
        if run.outcome == _WRONG != unbroken:
            world.judge.violations.append(Violation("E6", text))

    def _steps(self, *, is_late: bool) -> tuple[_Step, ...]:
        """What is run after it.

        Args:
            is_late: whether something arrives when everything is over.
        """
        scenario = SCENARIOS[self.scenario]

        def follow(world: World) -> None:
            world.run(FOLLOW_UPS[self.follow_up](scenario.request))

        def end(world: World, *, last: bool = True) -> None:
            converge(world, scenario.request, force=scenario.is_hostile, denied=scenario.denied, last=last)

        def wait(world: World) -> None:
            end(world, last=False)
            world.pass_time(100)

        steps = [] if self.follow_up == "same" else [_Step(self.follow_up, follow)]
        return (*steps, *([_Step("wait", wait)] if is_late else []), _Step("converge", end))


@dataclass(frozen=True, slots=True)
class _Step:
    name: str
    run: Callable[[World], None]


@dataclass(frozen=True, slots=True)
class _Broken:
    """What came of the run that was broken."""

    struck: Request | None
    last: Request | None
    """What arrives when everything is over."""
    remains: Remains | None
    outcome: str
    violations: tuple[Violation, ...]
    requests: int


@dataclass(frozen=True, slots=True)
class _Rest:
    """What came of the runs after it."""

    outcomes: tuple[str, ...] = ()
    violations: tuple[Violation, ...] = ()
    requests: int = 0


class _Done:
    """What was simulated before, so that it need not be again: the last broken run, and what followed on the same remains."""

    def __init__(self) -> None:
        self.counts = (0, 0, 0)
        """Broken runs, runs and requests that were really simulated."""
        self._last: tuple[object, _Broken] | None = None
        self._place: object = None
        self._known: dict[tuple[object, ...], _Rest] = {}

    def broken(self, place: object, run: Callable[[], _Broken]) -> _Broken:
        """The run that is broken at a place, which several cells begin with."""
        if self._last is None or self._last[0] != place:
            self._last = place, run()
            self.count(1, 1, self._last[1].requests)
        return self._last[1]

    def after(
        self, remains: Remains, place: object, steps: Sequence[_Step], trace: Trace | None = None
    ) -> _Rest:
        """What comes of these steps, one after the other, on these remains."""
        if not steps:
            return _Rest()
        if self._place != place:
            self._place = place
            self._known.clear()
        what = (*(step.name for step in steps), remains.fingerprint if remains.is_quiet else "")
        rest = self._known.get(what)
        if rest is None:
            step, *others = steps
            world, already = remains.world(trace), len(remains.processes)
            with simulated(world, _SEED + len(others)):
                step.run(world)
                left = Remains.of(world)
                if left is None:
                    for other in others:
                        other.run(world)
                rest = _Rest(_outcomes(world, already), tuple(world.violations), world.network.sent)
            self.count(0, len(rest.outcomes), rest.requests)
            if left is not None:
                then = self.after(left, place, others, trace)
                rest = _Rest(
                    rest.outcomes + then.outcomes,
                    rest.violations + then.violations,
                    rest.requests + then.requests,
                )
            if remains.is_quiet:
                self._known[what] = rest
        return rest

    def count(self, *more: int) -> None:
        broken, runs, requests = (have + add for have, add in zip(self.counts, more, strict=True))
        self.counts = broken, runs, requests


_DONE = _Done()
"""Of this process, and of the code as it is: whoever patches it simulates anew."""


def _outcomes(world: World, already: int) -> tuple[str, ...]:
    return tuple(process.outcome for process in world.processes[already:])


@dataclass(frozen=True, slots=True)
class Duel:
    """Two runs by turns on one prefix."""

    kind: str
    scenario: str
    rival: str
    first: int
    second: int | None
    how: Break

    @property
    def name(self) -> str:
        second = "end" if self.second is None else self.second
        return f"{self.kind}/{self.scenario}+{self.rival}/{self.first}-{second}/{self.how.name}"

    def simulate(self, trace: Trace | None = None) -> Result | None:
        """Run it; None when there are no such requests."""
        scenario = SCENARIOS[self.scenario]
        store = prepared(self.kind, self.scenario, -1).copy()
        rival = FOLLOW_UPS[self.rival](scenario.request)
        switches = Switches(self.first, self.second, self.how, lambda: world.start(rival, machine="b"))
        world = World(store, switches, bintarball=scenario.is_bintarball, trace=trace)
        with simulated(world, self.first):
            world.run(scenario.request, denied=scenario.denied)
            if switches.switched < 1 + (self.second is not None):
                return None
            world.schedule = Plain()
            converge(world, scenario.request, force=scenario.is_hostile, denied=scenario.denied, machine="c")
            return result_of(world, self.name, self.kind)


def cells(kind: str, scenario: str, *, leftovers: bool = True) -> Iterator[Cell]:
    """All cells of a scenario on a kind of store."""
    for ordinal in range(_requests_of(kind, scenario, -1)):
        for how in BREAKS:
            for follow_up in _AFTER_SUCCESS if how in _PASSING else FOLLOW_UPS:
                yield Cell(kind, scenario, ordinal, how, follow_up)
    if not leftovers:
        return
    for leftover in range(_requests_of(kind, scenario, -1)):
        for ordinal in range(_requests_of(kind, scenario, leftover)):
            for how in _LEFTOVERS:
                yield Cell(kind, scenario, ordinal, how, "same", leftover)


def duels(kind: str, scenario: str, *, step: int = 1) -> Iterator[Duel]:
    """All schedules of two runs with up to two switches, or every ``step``-th request of the second."""
    for rival in _RIVALS:
        for how in (Break.FREEZE_BEFORE, Break.FREEZE_AFTER):
            for first in range(_requests_of(kind, scenario, -1)):
                yield Duel(kind, scenario, rival, first, None, how)
                for second in range(0, _requests_of(kind, scenario, -1) + _WATCHING, step):
                    yield Duel(kind, scenario, rival, first, second, how)


def parse(name: str) -> Cell | Duel:
    """The simulation of a name.

    Raises:
        ValueError: it is none.
    """
    kind, what, place, *rest = name.split("/")
    if "+" in what:
        scenario, _, rival = what.partition("+")
        first, _, second = place.partition("-")
        return Duel(
            kind, scenario, rival, int(first), None if second == "end" else int(second), Break[rest[0]]
        )
    scenario, _, leftover = what.partition("@")
    return Cell(kind, scenario, int(place), Break[rest[0]], rest[1], int(leftover or -1))


def result_of(world: World, name: str, kind: str) -> Result:
    broken = world.network.breaks
    return Result(name, kind, tuple(world.violations), broken, len(world.processes), world.network.sent)


@cache
def prepared(kind: str, scenario: str, leftover: int) -> MemoryStore:
    """The store before the run that is looked at."""
    what: Scenario = SCENARIOS[scenario]
    if leftover >= 0:
        store = prepared(kind, scenario, -1).copy()
        world = World(store, Strike(leftover, Break.KILL_AFTER), bintarball=what.is_bintarball)
        requests: tuple[StageRequest, ...] = (what.request,)
    else:
        store = new_store(KINDS[kind])
        for number, original in enumerate(what.originals, _PREPARED + 1000):
            elsewhere = World(store, Plain(), prefix=original.prefix)
            with simulated(elsewhere, number):
                elsewhere.run(original)
        world = World(store, Plain(), bintarball=what.is_bintarball)
        requests = what.before
    with simulated(world, _PREPARED + leftover):
        for request in requests:
            world.run(request)
    if what.is_hostile and leftover < 0:
        name_foreign_key(store)
    return store


def _requests_of(kind: str, scenario: str, leftover: int) -> int:
    return _unbroken(kind, scenario, leftover)[1]


@cache
def _unbroken(kind: str, scenario: str, leftover: int) -> tuple[str, int]:
    """How the run ends when nothing breaks, and how many requests it has."""
    what: Scenario = SCENARIOS[scenario]
    world = World(prepared(kind, scenario, leftover).copy(), Plain(), bintarball=what.is_bintarball)
    with simulated(world, 0):
        run = world.run(what.request, denied=what.denied)
        return run.outcome, world.network.sent
