"""kill -9 at random moments, each followed by a rerun on another host."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.crash.accounts import left_out, part_bytes, sent_again
from tests.crash.kit import Actor, Ground, Trial, say, side_by_side
from tests.crash.moments import KINDS, Moment, Profile, draw
from tests.crash.verdict import wrong_with
from tests.support.faultlog import Record

__all__ = ["Kill", "kill_many", "killed_at", "profile_of", "report_kills"]

_TWICE = 5
"""Of so many trials one kills the rerun as well."""
_DRAWS = 20
"""How often another moment is drawn when a run ended before its moment came."""
_MANY = 20
"""Kills of which half hit a run with uploads open, however fast the machine is."""


@dataclass(slots=True)
class Kill:
    """One kill and what became of it."""

    index: int
    moment: str
    kills: int = 0
    uploads_open: int = 0
    sent: int = 0
    """Bytes of parts that the killed run had sent."""
    twice: int = 0
    """Bytes of parts that both runs together sent beyond what there is."""
    at_most: int = 0
    """Bytes of parts that the journals did not name which the killed runs left."""
    wrong: list[str] = field(default_factory=list)


def profile_of(ground: Ground) -> Profile:
    """Do one whole run, to know what there is to strike."""
    with ground.trial("whole") as trial, trial.actor("host-a", ground.one) as actor:
        actor.launch().until(lambda: bool(actor.proxy.log))
        began = time.monotonic()
        report = actor.wait()
        if report.exit_code or (wrong := wrong_with(trial.place, ground.one)):
            raise AssertionError(
                f"a run that nobody struck failed: {wrong if not report.exit_code else ''}\n{actor.account()}"
            )
        return Profile.of(actor.proxy.log, time.monotonic() - began)


def kill_many(ground: Ground, count: int, seed: object, *, jobs: int) -> Iterator[Kill]:
    """Kill *count* runs, each at a moment of its own; the kinds of moments take turns."""
    profile = profile_of(ground)

    def one(index: int, chance: random.Random) -> Kill:
        for attempt in range(_DRAWS):
            moments = [draw(KINDS[index % len(KINDS)], profile, chance)]
            if index % _TWICE == _TWICE - 1:
                moments.append(draw("time", profile, chance, later=ground.lease))
            with ground.trial(f"kill-{index}-{attempt}") as trial:
                kill = _strike(trial, index, moments)
            if kill.kills:
                return kill
        return kill

    return side_by_side(jobs, count, seed, one)


def _strike(trial: Trial, index: int, moments: Sequence[Moment]) -> Kill:
    """Kill a run at each of *moments*, each on a host of its own, and let one more come to its end.

    Only the first moment must come: a run that goes on with what another left may well be done before.
    """
    source = trial.ground.one
    kill = Kill(index, ", then ".join(moment.words for moment in moments))
    with contextlib.ExitStack() as stack:
        actors, struck = list[Actor](), list[Actor]()
        again = dict[int, Record]()  # each once, however often its run's successors were killed
        for number, moment in enumerate(moments):
            actor = stack.enter_context(trial.actor(f"host-{number}", source))
            actors.append(actor)
            if not killed_at(actor, moment):
                break
            struck.append(actor)
            journal = trial.journal()
            again |= {id(record): record for record in sent_again(struck, journal)}
            kill.wrong += left_out(actor, journal)
            kill.wrong += _seen_too_early(trial)
            if number == 0:
                kill.uploads_open = len(trial.open_uploads)
        kill.kills = len(struck)
        if not struck:
            return kill
        last = stack.enter_context(trial.actor("host-z", source))
        actors.append(last)
        if code := last.launch().wait().exit_code:
            kill.wrong.append(f"the rerun ended with {code}")
        last.settle()
        kill.wrong += wrong_with(trial.place, source)
        kill.sent = sum(part_bytes(actor) for actor in struck)
        kill.at_most = sum(record.received for record in again.values())
        kill.twice = sum(part_bytes(actor) for actor in actors) - source.object_bytes
        if not 0 <= kill.twice <= kill.at_most:
            kill.wrong.append(f"{kill.twice} bytes were sent twice, {kill.at_most} at most might be")
        if kill.wrong:
            kill.wrong += [actor.account() for actor in actors]
    return kill


def killed_at(actor: Actor, moment: Moment) -> bool:
    """Run until the moment, and kill; false: the run had ended before, or never came there."""
    moment.set(actor)
    actor.launch()
    try:
        return moment.await_in(actor) and actor.kill().exit_code == -9
    finally:
        moment.over()
        actor.settle()


def _seen_too_early(trial: Trial) -> list[str]:
    """A marker that a killed run left must be the end of a whole staging."""
    if "staging_complete.txt" not in trial.place.names():
        return []
    return [
        wrong
        for wrong in wrong_with(trial.place, trial.ground.one)
        if not (wrong.startswith("the keys are") and "journal.json" in wrong)
    ]


def report_kills(ground: Ground, count: int, seed: object, *, jobs: int) -> list[str]:
    """Kill, and print what came of it; what failed."""
    kills, failures = [], []
    for kill in kill_many(ground, count, seed, jobs=jobs):
        kills.append(kill)
        mark = "ok" if kill.kills and not kill.wrong else "WRONG" if kill.wrong else "not killed"
        say(
            f"{kill.index:4} {mark:10} open={kill.uploads_open} twice={kill.twice:9,} <= {kill.at_most:10,}  {kill.moment}"
        )
        if kill.wrong or not kill.kills:
            failures.append(
                f"kill {kill.index} (seed {seed}), {kill.moment}: " + "\n".join(kill.wrong or ["never came"])
            )
    killed = [kill for kill in kills if kill.kills]
    with_open = sum(bool(kill.uploads_open) for kill in killed)
    # Half of many; of a few, at times that the machine decides, only that some are worth the name.
    if with_open < (len(killed) // 2 if len(killed) >= _MANY else 1):
        failures.append(f"only {with_open} of {len(killed)} kills hit a run with uploads open")
    say(
        f"kill: seed {seed}, {len(killed)} of {count} killed, "
        f"{sum(kill.kills > 1 for kill in killed)} of them twice, {with_open} with uploads open, "
        f"{sum(not kill.wrong for kill in killed)} converged; the killed had sent "
        f"{sum(kill.sent for kill in killed):,} bytes of parts; {sum(kill.twice for kill in killed):,} bytes were "
        f"sent twice, {sum(kill.at_most for kill in killed):,} might be"
    )
    return failures
