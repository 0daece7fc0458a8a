"""Back-to-back runs in one process under random faults: nothing grows, nothing is left open."""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from riva_stream.sizes import MIB
from tests.crash.kit import Ground, say
from tests.crash.verdict import wrong_with
from tests.staging import Place
from tests.support.faultproxy import FaultProxy
from tests.support.faults import Fault, Refuse, Reset, Rule, ShortBody, cut
from tests.support.process import run
from tests.support.servers import random_bucket_name

__all__ = ["Held", "report_soak"]

FAULTS: tuple[Fault, ...] = (
    Refuse("InternalError"),
    Refuse("InternalError", executed=True),
    Refuse("SlowDown"),
    Refuse("ServiceUnavailable"),
    Reset("request"),
    Reset("request-body", after=20),
    Reset("response"),
    cut(100),
    ShortBody(1),
)
WARM_UP = 0.3
"""Share of the runs after which nothing may grow any more."""
RSS_GROWTH = 12 * MIB
"""What the resident memory may wander by; a leak of one part per run would come to 100 MiB in 20 runs."""


@dataclass(frozen=True, slots=True)
class Held:
    """What the process held after a run."""

    index: int
    attempts: int
    rss: int
    blocks: int
    """Objects of Python's own allocator."""
    descriptors: int
    threads: int
    tasks: int


def _soak(ground: Ground, bucket: str, runs: int, proxy: FaultProxy) -> tuple[list[Held], str]:
    server = ground.server
    argv = [sys.executable, "-m", "tests.crash.soaker", f"--runs={runs}", f"--source={ground.one.uri}"]
    argv += [f"--bucket={bucket}", f"--endpoint-url={proxy.endpoint_url}"]
    environment = server.environment(proxy.endpoint_url)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(Path.cwd()))))
    report = run(argv, folder=ground.folder / "soak", env=environment, timeout=60 + 30 * runs)
    held = [Held(**json.loads(line)) for line in report.stdout.splitlines()]
    return held, report.stderr if not report.exit_code else f"exit {report.exit_code}\n{report.stderr}"


def report_soak(ground: Ground, runs: int, fault_rate: float, seed: int) -> list[str]:
    """Soak, and print what was held; what failed."""
    server, bucket = ground.server, random_bucket_name("soak")
    server.client().create_bucket(Bucket=bucket)
    rules = [Rule("*", occurrence=fault_rate / len(FAULTS), fault=fault) for fault in FAULTS]
    try:
        with FaultProxy(server, rules, seed=seed).in_thread() as proxy:
            held, stderr = _soak(ground, bucket, runs, proxy)
            log = proxy.log
        failures = _failures(held, runs, stderr)
        place = Place(server, bucket)
        for index in range(len(held)):
            failures += [
                f"v{index}: {wrong}" for wrong in wrong_with(place, ground.one, f"prod/soak/v{index}/")
            ]
    finally:
        server.remove_bucket(bucket)
    faults = Counter(fault for record in log for fault in record.faults)
    for each in held:
        say(
            f"{each.index:4} attempts={each.attempts} rss={each.rss / MIB:.1f} MiB fds={each.descriptors} "
            f"blocks={each.blocks:,} threads={each.threads} tasks={each.tasks}"
        )
    struck = sum(faults.values())
    say(
        f"soak: seed {seed}, {len(held)} of {runs} staged in {sum(each.attempts for each in held)} calls, "
        f"{len(log)} requests, {struck} faults ({struck / max(1, len(log)):.1%}: "
        + ", ".join(f"{number} {name}" for name, number in sorted(faults.items()))
        + ")"
    )
    return failures


def _failures(held: list[Held], runs: int, stderr: str) -> list[str]:
    if len(held) != runs:
        return [f"{len(held)} of {runs} were staged\n{stderr}"]
    warm = max(1, int(runs * WARM_UP))
    early, late = held[warm : warm + (runs - warm + 1) // 2], held[-((runs - warm + 1) // 2) :]
    failures = []
    for name, allowed in (("rss", RSS_GROWTH), ("descriptors", 0), ("threads", 0), ("tasks", 0)):
        # The median of each half: a single run may hold more or less for a moment.
        was, now = (statistics.median(getattr(each, name) for each in half) for half in (early, late))
        if now > was + allowed:
            failures.append(f"{name} grew from {was:,.0f} to {now:,.0f}")
    if any(each.tasks for each in held):
        failures.append(f"tasks were left: {[each.tasks for each in held]}")
    return failures
