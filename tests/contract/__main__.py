"""Print what each store enforces: ``python -m tests.contract``.

With ``--server NAME`` one real server is brought up (tests/support/on_demand.py says how each is installed), asked every
question of the suite, and given the main jobs by the command line; exit 1 where that is not what is written down.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time

from tests.contract.enforcement import table
from tests.contract.jobs import run_jobs
from tests.contract.on_demand import Seen, ask, differences, seen, table_of_jobs, table_of_servers
from tests.support.on_demand import ON_DEMAND


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _tell(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main() -> int:
    """Print the tables, or look at one server."""
    parser = argparse.ArgumentParser(prog="python -m tests.contract", description=__doc__)
    parser.add_argument("--server", choices=ON_DEMAND, help="bring this one up, and ask it")
    parser.add_argument("--json", action="store_true", help="what was seen, as it is written down")
    parser.add_argument("--jobs-only", action="store_true", help="no questions")
    args = parser.parse_args()
    if args.server is None:
        _say(f"{table()}\n\n{table_of_servers()}\n\n{table_of_jobs()}")
        return 0
    began = time.monotonic()
    with ON_DEMAND[args.server]() as server:
        _tell(f"{args.server} is up after {time.monotonic() - began:.1f} s: {server.endpoint_url}")
        known = seen(args.server)
        answers, probed = ({}, {}) if args.jobs_only else asyncio.run(ask(server, _tell))
        jobs = run_jobs(server, _tell)
    if args.json:
        _say(json.dumps({"answers": answers, "probed": probed, "jobs": dict(jobs)}, indent=1))
    odd = differences(known, Seen(answers, probed, dict(jobs)))
    for line in odd:
        _tell(f"DIFFERS: {line}")
    return 1 if odd else 0


sys.exit(main())
