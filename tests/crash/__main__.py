"""``python -m tests.crash kill --count 200 --seed 1``, and the other five."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from riva_stream.sizes import MIB
from tests.crash.kill import report_kills
from tests.crash.kit import Ground, say
from tests.crash.points import report_points
from tests.crash.promotions import report_promotions
from tests.crash.rivals import report_rivals
from tests.crash.soak import report_soak
from tests.crash.zombie import report_zombies
from tests.support.servers import GatewayServer, MotoProcess, S3Server

_SERVERS: dict[str, Callable[[], S3Server]] = {"gateway": GatewayServer, "moto": MotoProcess}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.crash")
    parser.add_argument("what", choices=("kill", "promotions", "points", "rivals", "zombie", "soak"))
    parser.add_argument(
        "--count", type=int, default=0, help="kills or rivalries; points and zombies: 0 is all"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="trials at a time")
    parser.add_argument("--lease", type=float, help="seconds (1; of zombies 4)")
    parser.add_argument("--server", choices=sorted(_SERVERS), default="gateway")
    parser.add_argument("--runs", type=int, default=30, help="of the soak")
    parser.add_argument("--fault-rate", type=float, default=0.05, help="of the soak")
    return parser.parse_args()


@contextlib.contextmanager
def _ground(args: argparse.Namespace, size: int) -> Iterator[Ground]:
    # Without conditions, as on the gateway, only changes that expire hold back one that wakes up: that needs 4 seconds.
    lease = args.lease or (4.0 if args.what == "zombie" else 1.0)
    with _SERVERS[args.server]() as server, Ground(server, size, lease=lease) as ground:
        yield ground


def _main() -> int:
    args = _arguments()
    began = time.monotonic()
    # A run that is to be killed at random sends more parts, so that more of them are worth keeping.
    with _ground(args, 24 * MIB if args.what == "kill" else 11 * MIB) as ground:
        if args.what == "kill":
            failures = report_kills(ground, args.count or 200, args.seed, jobs=args.jobs)
        elif args.what == "promotions":
            failures = report_promotions(ground, args.count or 20, args.seed, jobs=args.jobs)
        elif args.what == "points":
            failures = report_points(ground, args.count, args.seed, jobs=args.jobs)
        elif args.what == "rivals":
            failures = report_rivals(ground, args.count or 50, args.seed, jobs=args.jobs)
        elif args.what == "zombie":
            failures = report_zombies(ground, args.count, args.seed, jobs=args.jobs)
        else:
            failures = report_soak(ground, args.runs, args.fault_rate, args.seed)
    for failure in failures:
        say(f"FAILED {failure}")
    say(f"{args.what} on {args.server}: {len(failures)} failures in {time.monotonic() - began:.0f} s")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(_main())
