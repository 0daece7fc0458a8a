"""Two live runs on one prefix, started at random distances."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from tests.crash.kit import SCRATCH, Actor, Ground, Source, Trial, say, side_by_side
from tests.crash.verdict import wrong_with
from tests.staging import PREFIX
from tests.support.faults import Latency, Rule

__all__ = ["Rivalry", "report_rivals", "rival"]

_SLOW = Rule("mutating", fault=Latency(0.1))
"""Makes a run last as long as its heartbeats need to matter."""


@dataclass(slots=True)
class Rivalry:
    """Two runs and how they ended."""

    distance: float
    same_source: bool
    ends: tuple[str, str] = ("", "")
    wrong: list[str] = field(default_factory=list)


def rival(trial: Trial, distance: float, *, same_source: bool) -> Rivalry:
    """Start a second run *distance* seconds after the first.

    With another source both are forced: then the one may replace the other, but only when it is done.
    """
    ground, flags = trial.ground, () if same_source else ("--force",)
    rivalry = Rivalry(distance, same_source)
    sources = (ground.one, ground.one if same_source else ground.two)
    with (
        trial.actor("host-a", sources[0], *flags) as first,
        trial.actor("host-b", sources[1], *flags) as second,
    ):
        actors = (first, second)
        for actor in actors:
            actor.proxy.rules.append(_SLOW)
        first.launch()
        time.sleep(distance)
        second.launch()
        codes = [actor.wait().exit_code for actor in actors]
        for actor in actors:
            actor.settle()
        rivalry.ends = (first.outcome, second.outcome)
        rivalry.wrong += _judge(trial, actors, sources, codes, rivalry)
        if rivalry.wrong:
            rivalry.wrong += [first.account(), second.account()]
    return rivalry


def _judge(
    trial: Trial,
    actors: tuple[Actor, Actor],
    sources: tuple[Source, Source],
    codes: list[int],
    rivalry: Rivalry,
) -> list[str]:
    winners = [i for i in (0, 1) if rivalry.ends[i] == "staged"]
    losing = {("HeldError", 75), ("already_staged", 0)}
    wrong = [
        f"{actors[i].host} ended with {rivalry.ends[i]}, exit code {codes[i]}"
        for i in (0, 1)
        if i not in winners and (rivalry.ends[i], codes[i]) not in losing
    ]
    last = winners[-1]
    if len(winners) == 2:
        if rivalry.same_source:
            wrong.append("both staged")
        marked = [_marked_at(actor) for actor in actors]
        last = marked.index(max(marked))
        if (began := _wrote_first(actors[last])) < marked[1 - last]:
            wrong.append(f"both staged, one of them beginning {marked[1 - last] - began:.3f} s too early")
    return wrong + wrong_with(trial.place, sources[last])


def _marked_at(actor: Actor) -> float:
    marks = actor.proxy.select("CompleteMultipartUpload", f"{PREFIX}staging_complete.txt")
    return max(actor.tape.answered.get(record.number, 0.0) for record in marks)


def _wrote_first(actor: Actor) -> float:
    """When it first changed anything but its scratch upload and the journal."""
    return min(
        actor.tape.came[record.number]
        for record in actor.proxy.select("mutating")
        if record.number in actor.tape.answered and not fnmatchcase(record.key, SCRATCH)
    )


def report_rivals(ground: Ground, count: int, seed: object, *, jobs: int) -> list[str]:
    """Let two runs meet *count* times, every third time with two sources, and print how it went; what failed."""
    with ground.trial("whole") as trial, trial.actor("host-a", ground.one) as actor:
        actor.proxy.rules.append(_SLOW)
        began = time.monotonic()
        if actor.launch().wait().exit_code:
            raise AssertionError(f"a run without a rival failed\n{actor.account()}")
        seconds = time.monotonic() - began

    def one(index: int, chance: random.Random) -> Rivalry:
        # The quickest of runs are still one after the other at the largest distances.
        with ground.trial(f"rivals-{index}") as trial:
            return rival(trial, chance.uniform(0, 1.2 * seconds), same_source=index % 3 != 2)

    ends: Counter[str] = Counter()
    failures = []
    for index, rivalry in enumerate(side_by_side(jobs, count, seed, one)):
        words = f"{rivalry.ends[0]} / {rivalry.ends[1]}"
        ends[words] += 1
        kind = "one source" if rivalry.same_source else "two sources"
        say(f"{index:4} {'WRONG' if rivalry.wrong else 'ok':6} {rivalry.distance:.3f} s, {kind}: {words}")
        if rivalry.wrong:
            failures.append(
                f"rivals {index} (seed {seed}, {rivalry.distance:.3f} s, {kind}): " + "\n".join(rivalry.wrong)
            )
    say(
        f"rivals: seed {seed}, {count} times at 0 to {1.2 * seconds:.1f} s, {len(failures)} wrong; "
        + "; ".join(f"{number} x {words}" for words, number in sorted(ends.items()))
    )
    return failures
