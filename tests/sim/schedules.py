"""What becomes of each request: nothing, one break at one place, two switches between two runs, or what is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random

from tests.sim.breaks import Break
from tests.sim.network import Network, Request
from tests.sim.process import Process

__all__ = ["Drawn", "Plain", "Strike", "Switches", "suits"]

_STEP = 0.01
_OF_BODIES = {Break.CUT, Break.CUTS}
_LATE = {Break.CANCEL_LATE, Break.KILL_LATE}
_LATENESS = 3.0
"""Seconds after which such a request takes effect: the next run is about to end, and the lease is not over yet."""

_MUCH_LATER = 60.0
"""The next run has ended; no window is as long."""


def suits(how: Break, request: Request) -> bool:
    """Whether that can become of this request."""
    if how in _OF_BODIES:
        return request.operation == "GetObject"
    return how is not Break.MISSING or request.may_be_missing


class Plain:
    """Nothing breaks; requests arrive in the order in which they are sent."""

    def strike(self, request: Request) -> Break | None:
        return None

    def delays(self, request: Request) -> tuple[float, float]:
        return _STEP, _STEP

    def abandoned(self, request: Request) -> float | None:
        return None

    def outage(self, request: Request) -> float:
        return 1e9

    def refusals(self, request: Request) -> int:
        return 2

    def frozen(self, request: Request, on: Network) -> None:
        raise AssertionError("nobody is frozen here")

    def ended(self, process: Process, on: Network) -> None:
        pass


@dataclass(eq=False)
class Strike(Plain):
    """One break at one request of the first run."""

    ordinal: int
    how: Break
    struck: Request | None = None
    last: Request | None = None
    """Of what was refused: the next attempt, which arrives when everything is over."""

    def strike(self, request: Request) -> Break | None:
        if self.struck is not None:
            return self._again(request, self.struck)
        if request.ordinal != self.ordinal or request.process.pid != 1:
            return None
        if not suits(self.how, request):
            return None
        self.struck = request
        return Break.DENIED if self.how is Break.DENIED_LATE else self.how

    def _again(self, request: Request, struck: Request) -> Break | None:
        if (
            self.how is not Break.DENIED_LATE
            or self.last is not None
            or request.process is not struck.process
        ):
            return None
        if (request.operation, request.key) != (struck.operation, struck.key):
            return None
        self.last = request
        return Break.KILL_LATE

    def abandoned(self, request: Request) -> float | None:
        if request is self.last:
            return _MUCH_LATER
        return _LATENESS if self.how in _LATE and request is self.struck else None


@dataclass(eq=False)
class Switches(Plain):
    """Two runs by turns: the first up to a request, then the second up to one of its own, then the first to its end.

    Args:
        first: the request of the first run at which the second one begins.
        second: the request of the second run at which the first one goes on; None: at its end.
        how: whether the request at which a run is frozen takes effect before, or when the run goes on.
        begin: starts the second run.
    """

    first: int
    second: int | None
    how: Break
    begin: Callable[[], Process]
    switched: int = 0
    _frozen: list[Process] = field(default_factory=list)

    def strike(self, request: Request) -> Break | None:
        where = (self.first, self.second)[request.process.pid - 1] if request.process.pid <= 2 else None
        if self.switched != request.process.pid - 1 or request.ordinal != where:
            return None
        self.switched += 1
        return self.how

    def frozen(self, request: Request, on: Network) -> None:
        others, self._frozen = self._frozen, [request.process]
        if request.process.pid == 1:
            self.begin()
        for process in others:
            on.thaw(process, clock_stood_still=False)

    def ended(self, process: Process, on: Network) -> None:
        others, self._frozen = self._frozen, []
        for other in others:
            on.thaw(other, clock_stood_still=False)


@dataclass(eq=False)
class Drawn(Plain):
    """Everything from one source of randomness.

    Args:
        draw: the source.
        strikes: for each run, by its pid: what becomes of which of its requests.
        spread: seconds that a request is under way at most.
        lateness: seconds after which the last of a dead run's requests has arrived.
    """

    draw: Random
    strikes: Mapping[int, Mapping[int, Break]]
    spread: float
    lateness: float

    def strike(self, request: Request) -> Break | None:
        how = self.strikes.get(request.process.pid, {}).get(request.ordinal)
        return how if how is not None and suits(how, request) else None

    def delays(self, request: Request) -> tuple[float, float]:
        return self.draw.random() * self.spread, self.draw.random() * self.spread

    def abandoned(self, request: Request) -> float | None:
        drawn = self.draw.random()
        if drawn < 0.4:
            return None
        return 0.0 if drawn < 0.6 else self.draw.random() ** 2 * self.lateness

    def outage(self, request: Request) -> float:
        return self.draw.choice((0.5, 5.0, 30.0, 1e9)) * (0.5 + self.draw.random())

    def frozen(self, request: Request, on: Network) -> None:
        seconds = self.draw.choice((1.0, 5.0, 10.0, 30.0)) * (0.5 + self.draw.random())
        still = self.draw.random() < 0.3

        def thaw() -> None:
            on.thaw(request.process, clock_stood_still=still)

        on.loop.call_at(on.loop.now + seconds, thaw, context=on.context)
