"""``python -m tests.checkpoints --count 10000 --seed 1``, ``--stagings 10000`` and ``--hostile 100000``."""

from __future__ import annotations

import argparse
import sys
import time

from tests.checkpoints import equivalence, hostile, stagings
from tests.sim.process import unheard


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.checkpoints", description=__doc__)
    parser.add_argument(
        "--count", type=int, default=0, help="archives that are read in sittings: sound, then damaged"
    )
    parser.add_argument(
        "--stagings", type=int, default=0, help="archives whose staging is killed: sound, then damaged"
    )
    parser.add_argument("--hostile", type=int, default=0, help="snapshots that are changed and restored")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for run, count in ((equivalence.run, options.count), (stagings.run, options.stagings)):
        for damaged in (False, True) if count else ():
            begun = time.monotonic()
            with unheard():
                counts = run(count, options.seed, damaged=damaged)
            print(f"{'damaged' if damaged else 'sound'} archives, {time.monotonic() - begun:.0f} s:")  # noqa: T201
            for what, number in sorted(counts.items()):
                print(f"  {number:>9,} {what}")  # noqa: T201
    if options.hostile:
        begun = time.monotonic()
        report = hostile.run(options.hostile, options.seed)
        print(f"changed snapshots, {time.monotonic() - begun:.0f} s:")  # noqa: T201
        for what, number in sorted(report.counts.items()):
            print(f"  {number:>9,} {what}")  # noqa: T201
        print(f"  {report.most_memory >> 20:>9,} MiB of memory at most")  # noqa: T201
        for failure in report.failures:
            print(failure)  # noqa: T201
        return bool(report.failures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
