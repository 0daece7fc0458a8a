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


@dataclass
class Tally:
    """What all simulations so far came to."""

    simulations: int = 0
    violating: int = 0
    """Simulations in which a promise was broken that is made on that kind of store."""
    runs: int = 0
    broken: int = 0
    requests: int = 0
    violations: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Simulations by (kind of store, property)."""
    first: dict[tuple[str, str], int] = field(default_factory=dict)
    """How many simulations it took to find it."""
    examples: dict[tuple[str, str], list[tuple[str, str]]] = field(default_factory=dict)
    """Names of some of these simulations, and what was wrong there."""

    def add(self, result: Result) -> None:
        """Count one simulation."""
        self.simulations += 1
        self.runs += result.runs
        self.broken += result.broken
        self.requests += result.requests
        told_of = {violation.kind for violation in result.violations}
        self.violating += bool(told_of - NOT_PROMISED - KINDS[result.kind].weaker)
        told = {violation.kind: violation.text for violation in reversed(result.violations)}
        for kind, text in told.items():
            place = (result.kind, kind)
            self.violations[place] += 1
            self.first.setdefault(place, self.simulations)
            examples = self.examples.setdefault(place, [])
            if len(examples) < _EXAMPLES:
                examples.append((result.name, text))

    def lines(self, seconds: float) -> Iterator[str]:
        """The summary."""
        minutes = max(seconds, 1e-9) / 60
        yield (
            f"{self.simulations} simulations, {self.runs} runs ({self.broken} of them broken on purpose), "
            f"{self.requests} requests in {seconds:.0f} s: {self.runs / minutes:.0f} runs and "
            f"{self.broken / minutes:.0f} breaks a minute"
        )
        yield f"{self.violating} simulations in which a promise is broken"
        for (kind, name), number in sorted(
            self.violations.items(), key=lambda item: (item[0][1], item[0][0])
        ):
            weaker = ", which is not promised there" if name in KINDS[kind].weaker else ""
            yield f"  {name} on {kind}: {number} (the first after {self.first[kind, name]}){weaker}; {PROPERTIES[name]}"
            for example, text in self.examples[kind, name]:
                yield f"      python -m tests.sim --replay '{example}' --trace"
                yield f"          {text}"
