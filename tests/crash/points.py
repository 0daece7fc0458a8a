"""Killed before and after each mutating request of a whole run, one after the other."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tests.crash.kit import Actor, Ground, Trial, say, side_by_side
from tests.crash.verdict import wrong_with
from tests.staging import PREFIX
from tests.support.faultlog import Record
from tests.support.faultproxy import FaultProxy, Hook
from tests.support.faults import Where
from tests.support.process import SignalTrigger

__all__ = ["At", "Point", "Request", "points_of", "report_points", "strike"]

How = Literal["before", "sent", "after"]
HOWS: tuple[How, ...] = ("before", "sent", "after")
"""``before``: the store never sees the request; ``sent``: what the kernel had of it still arrives;
``after``: the store has done it, and the run has not heard of it."""


@dataclass(frozen=True, slots=True)
class Request:
    """One mutating request of a run: which it is hangs on what it asks for, since the order may change."""

    operation: str
    key: str
    part: int | None
    nth: int = 1

    def __str__(self) -> str:
        part = "" if self.part is None else f" part {self.part}"
        nth = "" if self.nth == 1 else f" ({self.nth}.)"
        return f"{self.operation} {self.key.removeprefix(PREFIX)}{part}{nth}"


def requests_of(log: Sequence[Record]) -> list[Request]:
    """The mutating requests of a run, each with its number among those that ask for the same."""
    seen: Counter[tuple[str, str, int | None]] = Counter()
    found = []
    for record in log:
        if record.mutation is not None:
            same = (record.operation, record.key, record.part)
            seen[same] += 1
            found.append(Request(*same, seen[same]))
    return found


@dataclass(frozen=True, kw_only=True)
class At(Hook):
    """A hook at one request of a run."""

    proxy: FaultProxy
    request: Request

    def fits(self, when: Where, record: Record) -> bool:
        wanted = self.request
        if when != self.when or (record.operation, record.key, record.part) != (
            wanted.operation,
            wanted.key,
            wanted.part,
        ):
            return False
        before = self.proxy.log[: record.number]
        same = [
            r for r in before if (r.operation, r.key, r.part) == (record.operation, record.key, record.part)
        ]
        return len(same) == wanted.nth


@dataclass(slots=True)
class Point:
    """One kill at a known request."""

    request: Request
    how: How
    killed: bool = False
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.how} {self.request}"


def strike(actor: Actor, request: Request, how: How, trigger: Callable[[Record], None]) -> At:
    """The hook that calls *trigger* when *actor* makes *request*."""
    when: Where = "response" if how == "after" else "request"
    return At(trigger, when, drop=how == "before", proxy=actor.proxy, request=request)


def points_of(ground: Ground) -> list[Point]:
    """All of them, from a whole run that nobody strikes."""
    with ground.trial("whole") as trial, trial.actor("host-a", ground.one) as actor:
        if actor.launch().wait().exit_code:
            raise AssertionError(f"a run that nobody struck failed\n{actor.account()}")
        return [Point(request, how) for request in requests_of(actor.proxy.log) for how in HOWS]


def kill_at(trial: Trial, point: Point) -> Point:
    """Kill a run there, and run it again on another host."""
    source = trial.ground.one
    with trial.actor("host-a", source) as first, trial.actor("host-b", source) as second:
        trigger = SignalTrigger()
        first.proxy.hooks.append(strike(first, point.request, point.how, trigger))
        trigger.arm(first.launch().process)
        code = first.wait().exit_code
        first.settle()
        point.killed = code == -9
        if not point.killed:
            # A heartbeat that this run did not need: whole, or a failure of its own.
            point.wrong += wrong_with(trial.place, source) if code == 0 else [f"it ended with {code}"]
            point.wrong += [first.account()] if point.wrong else []
            return point
        if code := second.launch().wait().exit_code:
            point.wrong.append(f"the rerun ended with {code}")
        second.settle()
        point.wrong += wrong_with(trial.place, source)
        if point.wrong:
            point.wrong += [first.account(), second.account()]
    return point


def report_points(ground: Ground, count: int, seed: object, *, jobs: int) -> list[str]:
    """Kill at every point (or at *count* of them, drawn by *seed*), and print what came of it; what failed."""
    points = points_of(ground)
    if count:
        points = random.Random(f"{seed}").sample(points, min(count, len(points)))

    def one(index: int, _: random.Random) -> Point:
        with ground.trial(f"point-{index}") as trial:
            return kill_at(trial, points[index])

    failures = []
    for point in side_by_side(jobs, len(points), seed, one):
        say(f"{'WRONG' if point.wrong else 'ok' if point.killed else 'not reached':12} {point}")
        if point.wrong:
            failures.append(f"point {point}: " + "\n".join(point.wrong))
    killed = [point for point in points if point.killed]
    operations = Counter(point.request.operation for point in killed if point.how == "after")
    say(
        f"points: {len({point.request for point in points})} requests, {len(killed)} of {len(points)} points reached, "
        f"{sum(not point.wrong for point in killed)} converged; "
        + ", ".join(f"{number} {name}" for name, number in sorted(operations.items()))
    )
    beats = {point.request for point in points if not point.killed}
    return failures + [
        f"{request} was never reached" for request in beats if not request.key.endswith("journal.json")
    ]
