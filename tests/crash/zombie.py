"""SIGSTOP the holder, let another host take over with another source, SIGCONT the first."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.crash.kit import JOURNAL, Actor, Ground, Trial, say, side_by_side
from tests.crash.points import Request, strike
from tests.crash.verdict import wrong_with
from tests.staging import PREFIX, SOURCE_KEY
from tests.support.faultproxy import Hook
from tests.support.faults import Gate, Reset, Rule, Stall
from tests.support.process import SignalTrigger

__all__ = ["STOPS", "WAKES", "WHEN_DONE", "Zombie", "awaken", "report_zombies"]

_ARCHIVE = f"{PREFIX}source/{SOURCE_KEY.rpartition('/')[2]}"
_COMPLETE = "CompleteMultipartUpload"


def _complete(name: str) -> Request:
    return Request(_COMPLETE, f"{PREFIX}{name}", None)


Stop = Callable[[Actor, SignalTrigger, Gate], None]


def _at(request: Request, *, lost: bool) -> Stop:
    def stop(actor: Actor, trigger: SignalTrigger, _: Gate) -> None:
        actor.proxy.hooks.append(strike(actor, request, "before" if lost else "after", trigger))

    return stop


def _before_all_completes(actor: Actor, trigger: SignalTrigger, _: Gate) -> None:
    actor.proxy.hooks.append(Hook(trigger, operation=_COMPLETE, drop=True))


def _between_completes(actor: Actor, trigger: SignalTrigger, _: Gate) -> None:
    actor.proxy.rules.append(Rule(_COMPLETE, key="*/models/*", fault=Reset("request")))
    actor.proxy.hooks.append(strike(actor, _complete(_ARCHIVE.removeprefix(PREFIX)), "after", trigger))


def _late_completes(actor: Actor, trigger: SignalTrigger, gate: Gate) -> None:
    """The Completes are on the network while the holder sleeps, and arrive when the other one is done."""
    actor.proxy.hooks.append(Hook(trigger, operation=_COMPLETE))
    actor.proxy.rules.append(Rule(_COMPLETE, fault=Stall("request", gate=gate)))


def _late_journal(actor: Actor, trigger: SignalTrigger, gate: Gate) -> None:
    """It is written over the other one's, where a store knows no conditional writes."""
    actor.proxy.hooks.append(strike(actor, Request("PutObject", JOURNAL, None, 2), "sent", trigger))
    actor.proxy.rules.append(Rule("PutObject", key=JOURNAL, occurrence=2, fault=Stall("request", gate=gate)))


def _late_marker(actor: Actor, trigger: SignalTrigger, gate: Gate) -> None:
    marker = _complete("staging_complete.txt")
    actor.proxy.hooks.append(strike(actor, marker, "sent", trigger))
    actor.proxy.rules.append(Rule(_COMPLETE, key=marker.key, fault=Stall("request", gate=gate)))


STOPS: dict[str, Stop] = {
    "its first part was acknowledged": _at(Request("UploadPart", _ARCHIVE, 1), lost=False),
    "a part of a model is lost": _at(Request("UploadPart", f"{PREFIX}models/model-0.riva", 1), lost=True),
    "its first journal was written": _at(Request("PutObject", JOURNAL, None), lost=False),
    "its second journal write is lost": _at(Request("PutObject", JOURNAL, None, 2), lost=True),
    "its second journal write arrives late": _late_journal,
    "before the first Complete": _before_all_completes,
    "between the Completes": _between_completes,
    "the Completes arrive late": _late_completes,
    "before checksums.sha256": _at(_complete("checksums.sha256"), lost=True),
    "checksums.sha256 was written": _at(_complete("checksums.sha256"), lost=False),
    "before artifact.json": _at(_complete("artifact.json"), lost=True),
    "before upload_manifest.json": _at(_complete("upload_manifest.json"), lost=True),
    "upload_manifest.json was written": _at(_complete("upload_manifest.json"), lost=False),
    "before the marker": _at(_complete("staging_complete.txt"), lost=True),
    "the marker arrives late": _late_marker,
    "the marker was written": _at(_complete("staging_complete.txt"), lost=False),
    "before the journal is deleted": _at(Request("DeleteObject", JOURNAL, None), lost=True),
}
DONE = ("the marker was written", "before the journal is deleted")
"""Here the first had committed: it may say so, as long as it changes nothing any more."""

WHEN_DONE = "when the other is done"
WAKES: dict[str, Request] = {
    "at the other's first part": Request("UploadPart", _ARCHIVE, 1),
    "at the other's first Complete": _complete(_ARCHIVE.removeprefix(PREFIX)),
    "at the other's marker": _complete("staging_complete.txt"),
}


@dataclass(slots=True)
class Zombie:
    """One that was stopped and woken."""

    stop: str
    wake: str
    stopped: bool = False
    ends: tuple[str, str] = ("", "")
    wrong: list[str] = field(default_factory=list)


def awaken(trial: Trial, stop: str, wake: str) -> Zombie:
    """Stop the first run, let the second one replace it, and wake the first."""
    zombie, ground, gate = Zombie(stop, wake), trial.ground, Gate()
    with (
        trial.actor("host-a", ground.one, "--force") as first,
        trial.actor("host-b", ground.two, "--force") as second,
    ):
        trigger = SignalTrigger(signal.SIGSTOP)
        STOPS[stop](first, trigger, gate)
        trigger.arm(first.launch().process)
        if not first.until(trigger.fired.is_set):
            zombie.wrong += [f"it was never stopped, and ended as {first.outcome}", first.account()]
            return zombie
        zombie.stopped = True
        # Not until nothing is under way: what a sleeper has half sent stays so.
        time.sleep(0.2)
        first.proxy.hooks[:] = first.tape.hooks
        woken = _Waker(first, gate)
        if wake != WHEN_DONE:
            second.proxy.hooks.append(strike(second, WAKES[wake], "sent", woken))
        code_b = second.launch().wait().exit_code
        second.settle()
        before = wrong_with(trial.place, ground.two)
        woken()
        code_a = first.wait().exit_code
        first.settle()
        zombie.ends = (first.outcome, second.outcome)
        zombie.wrong += [f"before the first woke: {wrong}" for wrong in before if wake == WHEN_DONE]
        zombie.wrong += wrong_with(trial.place, ground.two)
        if (zombie.ends[1], code_b) != ("staged", 0):
            zombie.wrong.append(f"the other ended with {zombie.ends[1]}, exit code {code_b}")
        if code_a != 75 and not (code_a == 0 and stop in DONE):
            zombie.wrong.append(f"the first ended with {zombie.ends[0]}, exit code {code_a}")
        zombie.wrong += [f"the first, awake again, did {what}" for what in _did_after(first, woken.at)]
        if zombie.wrong:
            zombie.wrong += [first.account(), second.account()]
    return zombie


class _Waker:
    """Wakes the stopped run, once, and first lets what it had on the network arrive."""

    def __init__(self, actor: Actor, gate: Gate) -> None:
        self._actor, self._gate, self._once = actor, gate, threading.Lock()
        self.at = 0.0

    def __call__(self, *_: object) -> None:
        with self._once:
            if not self.at:
                self._actor.proxy.rules.clear()
                self._gate.release()
                self.at = time.monotonic()
                self._actor.process.send_signal(signal.SIGCONT)


def _did_after(actor: Actor, moment: float) -> list[str]:
    """What the store did of what a run asked for after *moment*, and others could see.

    To abort its own uploads is no harm, nor is a part that it sends once more: parts cannot be seen, and whoever has adopted
    the upload looks at what it completes. A last word about its own journal, or one more upload that nobody goes on with,
    may come from between its last look and its being stopped, where a store knows no conditional writes: the other run
    puts its journal back, and the verdict on the prefix makes sure that no upload stays.
    """
    tape = actor.tape
    return [
        f"{record.operation} {record.key.removeprefix(PREFIX)}"
        for record in actor.proxy.select("mutating")
        if record.number in tape.answered
        and tape.came.get(record.number, 0.0) > moment
        and record.operation not in {"AbortMultipartUpload", "CreateMultipartUpload", "UploadPart"}
        and not record.key.endswith(JOURNAL)
    ]


def report_zombies(ground: Ground, count: int, seed: object, *, jobs: int) -> list[str]:
    """Every stop with every waking (or *count* of them, drawn by *seed*), and print what came of it; what failed."""
    cases = [(stop, wake) for stop in STOPS for wake in (WHEN_DONE, *WAKES)]
    if count:
        cases = random.Random(f"{seed}").sample(cases, min(count, len(cases)))

    def one(index: int, _: random.Random) -> Zombie:
        with ground.trial(f"zombie-{index}") as trial:
            return awaken(trial, *cases[index])

    failures, zombies = [], []
    for zombie in side_by_side(jobs, len(cases), seed, one):
        zombies.append(zombie)
        words = f"{zombie.stop}; woken {zombie.wake}"
        say(f"{'WRONG' if zombie.wrong else 'ok':6} {words}: {zombie.ends[0]} / {zombie.ends[1]}")
        if zombie.wrong:
            failures.append(f"zombie, {words}: " + "\n".join(zombie.wrong))
    say(f"zombie: {len(cases)} cases, {sum(z.stopped for z in zombies)} stopped, {len(failures)} wrong")
    return failures
