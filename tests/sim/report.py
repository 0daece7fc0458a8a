"""Counts over many simulations, and how to see one of them again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.sim.exhaustive import Result
from tests.sim.judge import NOT_PROMISED, PROPERTIES
from tests.sim.kinds import KINDS

__all__ = ["Tally"]

_EXAMPLES = 3
_Place = tuple[str, str, bool]


@dataclass
class Tally:
    """What all simulations so far came to."""

    simulations: int = 0
    violating: int = 0
    """Simulations in which a promise was broken that is made on that kind of store."""
    beside: int = 0
    """The same, but by another version, which has not made it."""
    runs: int = 0
    broken: int = 0
    requests: int = 0
    violations: Counter[_Place] = field(default_factory=Counter)
    """Simulations by (property, kind of store, whether another version broke it)."""
    first: dict[_Place, int] = field(default_factory=dict)
    """How many simulations it took to find it."""
    examples: dict[_Place, list[tuple[str, str]]] = field(default_factory=dict)
    """Names of some of these simulations, and what was wrong there."""

    def add(self, result: Result) -> bool:
        """Count one simulation; whether a promise is broken in it."""
        self.simulations += 1
        self.runs += result.runs
        self.broken += result.broken
        self.requests += result.requests
        promised = PROPERTIES.keys() - NOT_PROMISED - KINDS[result.kind].weaker
        broken = {violation.is_beside for violation in result.violations if violation.kind in promised}
        self.violating += False in broken
        self.beside += True in broken
        told = {(v.kind, v.is_beside): v.text for v in reversed(result.violations)}
        for (kind, is_beside), text in told.items():
            place = (kind, result.kind, is_beside)
            self.violations[place] += 1
            self.first.setdefault(place, self.simulations)
            examples = self.examples.setdefault(place, [])
            if len(examples) < _EXAMPLES:
                examples.append((result.name, text))
        return False in broken

    def lines(self, seconds: float) -> Iterator[str]:
        """The summary."""
        minutes = max(seconds, 1e-9) / 60
        yield (
            f"{self.simulations} simulations, {self.runs} runs ({self.broken} of them broken on purpose), "
            f"{self.requests} requests in {seconds:.0f} s: {self.runs / minutes:.0f} runs and "
            f"{self.broken / minutes:.0f} breaks a minute"
        )
        yield f"{self.violating} simulations in which a promise is broken"
        if self.beside:
            yield f"{self.beside} simulations in which another version breaks one"
        for place, number in sorted(self.violations.items()):
            name, kind, is_beside = place
            weaker = ", which is not promised there" if name in KINDS[kind].weaker else ""
            whose = " by another version" if is_beside else ""
            yield f"  {name} on {kind}{whose}: {number} (the first after {self.first[place]}){weaker}; {PROPERTIES[name]}"
            for example, text in self.examples[place]:
                yield f"      python -m tests.sim --replay '{example}' --trace"
                yield f"          {text}"
