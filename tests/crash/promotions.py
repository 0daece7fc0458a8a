"""kill -9 of promotions at random moments, each followed by a rerun on another host."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.crash.kill import killed_at
from tests.crash.kit import PART, Actor, Ground, Source, Trial, say, side_by_side
from tests.crash.moments import KINDS, Moment, Profile, draw
from tests.crash.verdict import wrong_with
from tests.staging import PREFIX

__all__ = ["report_promotions"]

PROMOTED = PREFIX.replace("prod/", "live/", 1)
_DRAWS = 20
"""How often another moment is drawn when a run ended before its moment came."""


class Promoter(Actor):
    """A run of ``promote``, from where the source was staged."""

    def __init__(self, trial: Trial, host: str, source: Source) -> None:
        super().__init__(trial, host, source, ())
        self._argv = [
            *(sys.executable, "-m", "riva_stream", "promote", f"s3://{trial.place.bucket}/{PREFIX}"),
            *("--env=live", f"--part-size={PART}", f"--lease={trial.ground.lease:g}", "--json"),
        ]


@dataclass(slots=True)
class _Strike:
    index: int
    moment: str = ""
    is_killed: bool = False
    uploads_open: int = 0
    wrong: list[str] = field(default_factory=list)


def report_promotions(ground: Ground, count: int, seed: object, *, jobs: int) -> list[str]:
    """Kill, and print what came of it; what failed."""
    failures, killed, with_open = [], 0, 0
    for strike in _strikes(ground, count, seed, jobs=jobs):
        killed += strike.is_killed
        with_open += bool(strike.uploads_open)
        mark = "WRONG" if strike.wrong else "ok" if strike.is_killed else "not killed"
        say(f"{strike.index:4} {mark:10} open={strike.uploads_open}  {strike.moment}")
        if strike.wrong or not strike.is_killed:
            told = "\n".join(strike.wrong or ["never came"])
            failures.append(f"promotion {strike.index} (seed {seed}), {strike.moment}: {told}")
    say(
        f"promotions: seed {seed}, {killed} of {count} killed, {with_open} with uploads open, "
        f"{count - len(failures)} converged"
    )
    return failures


def _strikes(ground: Ground, count: int, seed: object, *, jobs: int) -> Iterator[_Strike]:
    with ground.trial("whole") as trial:
        _stage(trial)
        with Promoter(trial, "host-a", ground.one) as actor:
            actor.launch().until(lambda: bool(actor.proxy.log))
            began = time.monotonic()
            if actor.wait().exit_code or (wrong := wrong_with(trial.place, ground.one, PROMOTED)):
                raise AssertionError(f"a promotion that nobody struck failed: {wrong}\n{actor.account()}")
            profile = Profile.of(actor.proxy.log, time.monotonic() - began)

    def one(index: int, chance: random.Random) -> _Strike:
        strike = _Strike(index)
        for attempt in range(_DRAWS):
            with ground.trial(f"promotion-{index}-{attempt}") as trial:
                strike = _struck(trial, index, draw(KINDS[index % len(KINDS)], profile, chance))
            if strike.is_killed:
                break
        return strike

    return side_by_side(jobs, count, seed, one)


def _stage(trial: Trial) -> None:
    with trial.actor("host-s", trial.ground.one) as actor:
        if actor.launch().wait().exit_code:
            raise AssertionError(actor.account())


def _struck(trial: Trial, index: int, moment: Moment) -> _Strike:
    source, strike = trial.ground.one, _Strike(index, moment.words)
    _stage(trial)
    with Promoter(trial, "host-a", source) as first:
        strike.is_killed = killed_at(first, moment)
        if not strike.is_killed:
            return strike
        strike.uploads_open = len(trial.open_uploads)
        if "staging_complete.txt" in trial.place.names(PROMOTED):
            early = wrong_with(trial.place, source, PROMOTED)
            strike.wrong += [text for text in early if not text.startswith("the keys are")]
        with Promoter(trial, "host-z", source) as last:
            if code := last.launch().wait().exit_code:
                strike.wrong.append(f"the rerun ended with {code}")
            last.settle()
            strike.wrong += wrong_with(trial.place, source, PROMOTED)
            strike.wrong += [f"of what was promoted: {text}" for text in wrong_with(trial.place, source)]
            if strike.wrong:
                strike.wrong += [first.account(), last.account()]
    return strike
