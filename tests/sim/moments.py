"""What depends on single moments: requests that are slower than all others, runs that begin at another one's request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from riva_stream.config import StageRequest
from tests.sim.breaks import Break
from tests.sim.network import Network, Request
from tests.sim.process import Process
from tests.sim.scenarios import LEASE, collection
from tests.sim.schedules import Drawn, suits

__all__ = [
    "TANGLED",
    "Moment",
    "Slow",
    "Uneven",
    "add_absences",
    "another",
    "at_random",
    "entrance",
    "tangle",
    "uneven",
]

_JOURNAL = ".riva-stream/journal.json"
_MARKER = "staging_complete.txt"
_HOLD = (
    ("PutObject", _JOURNAL),
    ("GetObject", _JOURNAL),
    ("HeadObject", _JOURNAL),
    ("DeleteObject", _JOURNAL),
)
"""What a run holds the prefix by."""
_MOMENTS = (
    *(("PutObject", _JOURNAL), ("GetObject", _JOURNAL), ("DeleteObject", _JOURNAL)),
    *(("CompleteMultipartUpload", _MARKER), ("DeleteObject", _MARKER)),
    *(("GetObject", _MARKER), ("CreateMultipartUpload", _MARKER)),
    *(("CompleteMultipartUpload", ""), ("CreateMultipartUpload", ""), ("AbortMultipartUpload", "")),
    *(
        ("DeleteObject", ""),
        ("HeadObject", ""),
        ("GetObject", ""),
        ("UploadPart", ""),
        ("UploadPartCopy", ""),
    ),
    *(("ListMultipartUploads", ""), ("ListObjectsV2", ""), ("PutObject", "")),
)
"""What two runs can get between: operations, and how their keys end."""
_OF_MOMENTS = (*(Break.REFUSED,) * 2, Break.SWEPT, *(Break.KILL_LATE,) * 2, Break.HANGS)
"""What becomes of them besides what becomes of any request."""
TANGLED = (
    "already staged",
    "forced same",
    "forced other",
    "forced image",
    "fewer includes",
    "unlisted other",
)
"""Scenarios in which something stands that a forced run takes down."""


@dataclass(eq=False)
class Moment:
    """One request of a run, by what it is: the ``nth``, from 0, of an operation at keys that end so."""

    operation: str
    ending: str
    nth: int
    seen: int = 0

    def has_come(self, request: Request) -> bool:
        """Whether it is this one. Asked once for each request of the run, in order."""
        if request.operation != self.operation or not request.key.endswith(self.ending):
            return False
        self.seen += 1
        return self.seen == self.nth + 1


@dataclass(frozen=True, slots=True)
class Slow:
    """A request that takes its time."""

    moment: Moment
    there: float
    """Seconds to the store."""
    back: float


@dataclass(eq=False)
class Uneven(Drawn):
    """The same, but each run has its own pace, single requests take long, and a run begins when another one asks something.

    What two runs do to each other often depends on milliseconds around one request that is slower than all others: times
    that are drawn from one spread meet those once in millions.

    Args:
        paces: for each run, by its pid: what its times are multiplied by.
        slow: for each run: requests that take longer.
        moments: for each run: what becomes of which of its requests, besides ``strikes``.
        begins: for each run: what begins at which of its requests, or when it ends, and how many seconds after it. Where
            one of its requests arrives although it is over, that may be when it begins.
        odds: where all of this comes from.
    """

    paces: Mapping[int, float] = field(default_factory=dict)
    slow: Mapping[int, Sequence[Slow]] = field(default_factory=dict)
    moments: dict[int, list[tuple[Moment, Break]]] = field(default_factory=dict)
    odds: Random = field(default_factory=Random)
    begins: dict[int, list[tuple[Moment, float, Callable[[float], None]]]] = field(default_factory=dict)

    def strike(self, request: Request) -> Break | None:
        pid = request.process.pid
        waiting = self.begins.pop(pid, [])
        for moment, seconds, begin in waiting:
            if moment.has_come(request):
                begin(seconds)
            else:
                self.begins.setdefault(pid, []).append((moment, seconds, begin))
        struck = super().strike(request)
        for moment, how in self.moments.get(pid, ()):
            if moment.has_come(request) and suits(how, request):
                struck = struck or how
        return struck

    def delays(self, request: Request) -> tuple[float, float]:
        there, back = super().delays(request)
        pace = self.paces.get(request.process.pid, 1.0)
        there, back = there * pace, back * pace
        for slow in self.slow.get(request.process.pid, ()):
            if slow.moment.has_come(request):
                there, back = there + slow.there, back + slow.back
        return there, back

    def abandoned(self, request: Request) -> float | None:
        late = super().abandoned(request)
        if late is None or self.odds.random() < 0.3:
            return late
        # Nothing arrives when a window is over: what is still within one is what two runs can trip over.
        late = self.odds.random() * self.odds.choice((1.0, 3.0, 6.0))
        waiting = self.begins.get(request.process.pid)
        if waiting and self.odds.random() < 0.5:
            _, seconds, begin = waiting.pop()
            begin(late + seconds / 10)
        return late

    def refusals(self, request: Request) -> int:
        if "/checkpoint-" in request.key:
            return self.odds.choice((0, 1))  # after three a right is missing, and gc finds what stays
        return self.odds.choice((0, 2, 3))

    def ended(self, process: Process, on: Network) -> None:
        for _, seconds, begin in self.begins.pop(process.pid, []):
            begin(seconds)


def another(request: StageRequest, odds: Random) -> StageRequest:
    """The same, for a longer lease now and then, or the leftovers collected in place of it."""
    if odds.random() < 0.1:
        return collection(request)
    return request.model_copy(update={"lease": 30.0}) if odds.random() < 0.2 else request


def _any(odds: Random) -> Moment:
    return Moment(*odds.choice(_MOMENTS), odds.choice((0, 0, int(odds.random() ** 2 * 12))))


def uneven(even: Drawn, odds: Random, pids: Sequence[int], breaks: Sequence[Break]) -> Uneven:
    """What ``even`` draws, with paces, slow requests and moments besides."""
    return Uneven(
        even.draw,
        even.strikes,
        even.spread,
        even.lateness,
        paces={pid: odds.choice((0.05, 0.3, 1.0, 1.0)) for pid in pids},
        slow={pid: [_slow(odds) for _ in range(odds.choice((0, 1, 1, 2, 3)))] for pid in pids},
        moments={pid: list(_struck(odds, breaks)) for pid in pids},
        odds=odds,
    )


def _struck(odds: Random, breaks: Sequence[Break]) -> Iterator[tuple[Moment, Break]]:
    for _ in range(odds.choice((0, 0, 1, 2))):
        moment = _any(odds)
        yield moment, odds.choice((*breaks, *_OF_MOMENTS))
        if odds.random() < 0.3:  # and what is tried again after it
            again = Moment(moment.operation, moment.ending, moment.nth + odds.choice((1, 1, 2, 3)))
            yield again, odds.choice((Break.KILL_LATE, Break.HANGS, Break.LOST, *breaks))


def _slow(odds: Random) -> Slow:
    if odds.random() < 0.4:  # what does the most harm, about as late as its window lets it be
        moment = Moment("DeleteObject", odds.choice((_MARKER, _MARKER, "")), 0)
        return Slow(moment, LEASE * 0.55 * odds.random(), 0.0)
    seconds = LEASE * odds.choice((0.05, 0.3, 1.0, 1.3, 2.5)) * (0.5 + odds.random())
    share = odds.choice((0.0, 1.0, odds.random()))
    return Slow(_any(odds), seconds * share, seconds * (1 - share))


def add_absences(moments: dict[int, list[tuple[Moment, Break]]], odds: Random, pids: Sequence[int]) -> None:
    """Let something be told to be missing though it is there, for each run; nothing for most of them."""
    for pid in pids:
        for _ in range(odds.choice((0, 0, 0, 1, 2))):
            operation, ending = (
                odds.choice(("HeadObject", "GetObject")),
                odds.choice((_JOURNAL, _MARKER, "", "")),
            )
            moments.setdefault(pid, []).append(
                (Moment(operation, ending, int(odds.random() ** 2 * 8)), Break.MISSING)
            )


def tangle(even: Drawn, odds: Random, count: int) -> Uneven:
    """One run's deletion is under way for about as long as a lease lets it be, and something is amiss with a journal meanwhile.

    Two such things at once, of different runs, within one lease: what was drawn independently hardly ever meets.
    """
    slow: dict[int, list[Slow]] = {}
    moments: dict[int, list[tuple[Moment, Break]]] = {}
    for pid in range(1, count + 1):
        if odds.random() < 0.7:
            late = Moment(
                "DeleteObject", odds.choice((_MARKER, _MARKER, "models/a.riva")), odds.choice((0, 0, 1))
            )
            slow.setdefault(pid, []).append(Slow(late, LEASE * odds.choice((0.1, 0.55)) * odds.random(), 0.0))
        for _ in range(odds.choice((0, 1, 1, 2))):
            where = (*odds.choice(_HOLD), odds.choice((0, 0, 1, 2)))
            seconds = LEASE * 1.6 * odds.random()
            what = odds.choice(
                (None, None, "back", Break.DENIED, Break.REFUSED, Break.LOST, Break.HANGS, Break.KILL_LATE)
            )
            if isinstance(what, Break):
                moments.setdefault(pid, []).append((Moment(*where), what))
            if not isinstance(what, Break) or odds.random() < 0.2:
                there, back = (0.0, seconds) if what == "back" else (seconds, 0.0)
                slow.setdefault(pid, []).append(Slow(Moment(*where), there, back))
    paces = {pid: odds.choice((0.02, 0.2, 1.0)) for pid in range(1, count + 1)}
    return Uneven(
        even.draw, {}, even.spread, even.lateness, paces=paces, slow=slow, moments=moments, odds=odds
    )


def at_random(odds: Random) -> tuple[Moment, float]:
    """When a run begins, otherwise."""
    return _any(odds), odds.random() * odds.choice((0.0, 0.01, 0.1, 1.0, LEASE))


def entrance(odds: Random) -> tuple[Moment, float]:
    """When a run begins that gets into a tangle: at which request of another one, and how many seconds after it."""
    where = odds.choice(
        (*_HOLD, ("DeleteObject", _MARKER), ("CompleteMultipartUpload", _MARKER), ("none", ""))
    )
    return Moment(*where, odds.choice((0, 0, 1, 2))), odds.choice((0.0, 0.1, LEASE * 0.6)) * odds.random()
