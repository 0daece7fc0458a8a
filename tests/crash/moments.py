"""A moment of a run, drawn at random from what a whole run was seen to do."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tests.crash.kit import Actor
from tests.support.faultlog import Record
from tests.support.faults import Gate, Rule, Stage, Stall

__all__ = ["Moment", "Profile", "draw"]

Kind = Literal["request", "byte", "time"]
STAGES: tuple[Stage, ...] = ("request", "response")
KINDS: tuple[Kind, ...] = ("request", "byte", "time")


@dataclass(frozen=True, slots=True)
class Body:
    """One body that went through the proxy."""

    operation: str
    key: str
    part: int | None
    nth: int
    """The how many-th of this operation, key and part."""
    stage: Stage
    size: int


@dataclass(frozen=True, slots=True)
class Profile:
    """A whole run, as its proxy saw it."""

    requests: int
    bodies: tuple[Body, ...]
    seconds: float
    """From the first request to the process's end."""

    @classmethod
    def of(cls, log: Sequence[Record], seconds: float) -> Profile:
        seen: dict[tuple[str, str, int | None], int] = {}
        bodies = []
        for record in log:
            same = (record.operation, record.key, record.part)
            nth = seen[same] = seen.get(same, 0) + 1
            if record.received:
                bodies.append(Body(*same, nth, "request-body", record.received))
            if record.sent:
                bodies.append(Body(*same, nth, "response-body", record.sent))
        return cls(len(log), tuple(bodies), seconds)


@dataclass(slots=True)
class Moment:
    """Where a run is to be struck: a stalled request holds it there, or the clock."""

    words: str
    rule: Rule | None = None
    gate: Gate | None = None
    seconds: float = 0.0

    def set(self, actor: Actor) -> None:
        """Put the rule in, before the launch."""
        if self.rule is not None:
            actor.proxy.rules.append(self.rule)

    def await_in(self, actor: Actor) -> bool:
        """Wait for the moment; false: the run ended before it came."""
        gate = self.gate
        if gate is not None:
            return actor.until(lambda: gate.is_reached)
        actor.until(lambda: bool(actor.proxy.log))
        at = time.monotonic() + self.seconds
        actor.until(lambda: time.monotonic() >= at)
        return not actor.is_over

    def over(self) -> None:
        """Let the stalled request pass."""
        if self.gate is not None:
            self.gate.release()


def draw(kind: Kind, profile: Profile, chance: random.Random, *, later: float = 0.0) -> Moment:
    """A moment uniform over the requests of a run, over its bytes, or over its time.

    *later* is what a run that takes over waits before it does anything.
    """
    gate = Gate()
    if kind == "request":
        nth, stage = chance.randrange(profile.requests) + 1, chance.choice(STAGES)
        words = f"request {nth} of {profile.requests}, {'before' if stage == 'request' else 'after'}"
        return Moment(words, Rule(occurrence=nth, fault=Stall(stage, gate=gate)), gate)
    if kind == "byte":
        body = chance.choices(profile.bodies, weights=[body.size for body in profile.bodies])[0]
        after = chance.randrange(body.size)
        words = f"byte {after} of {body.size}, {body.stage} of {body.operation} {body.key} part={body.part}"
        rule = Rule(
            body.operation,
            key=body.key,
            part=body.part,
            occurrence=body.nth,
            fault=Stall(body.stage, after, gate=gate),
        )
        return Moment(words, rule, gate)
    seconds, whole = later + chance.uniform(0, profile.seconds), later + profile.seconds
    return Moment(f"{seconds:.3f} s of {whole:.3f} s", seconds=seconds)
