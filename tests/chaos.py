"""A catalogue staged while workers, nodes and the command itself are killed: ``python -m tests.chaos --engine ray``.

The command is run until it ends with 0, as its user would; between its ends nothing is put right. Then every staging
is verified to its last byte, and no upload may be open. All runs reach the store through a proxy, which tells what those
that are killed cannot: how much of the sources was read again, and whether two of them ever changed one staging at once.

Of the places the first is staged and becomes the second by promotion, which reads that staging (its bytes are to be sent,
as all are here: what the store copies is not read on from the middle); the third is staged by itself, so that each source is
read twice. Not a part of the suite: it takes minutes. ``--engine ray`` needs Ray.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from riva_stream.flow.memory import plan_memory
from tests.staging import Place
from tests.support.archives import archive_bytes
from tests.support.ceilings import ceiling_for
from tests.support.rays import add_node, ray_cluster
from tests.support.servers import GatewayServer, S3Server
from tests.support.wire import Wire, both_at_once

MIB = 1 << 20
ROOT = Path(__file__).parent.parent
PLACES = ("dev", "staging", "prod")
READ = ("dev", "prod")
"""Those that are staged from the source; the other one is made from the first."""
MOST_RUNS = 20
PART = 5 * MIB
MEMORY = ceiling_for(PART, 2)
"""The least, so that as little as can be is in flight."""


@dataclass
class Tally:
    """What was done to the command and its workers."""

    workers: int = 0
    nodes: int = 0
    drivers: int = 0
    cut_off: int = 0
    """Runs of stagings that were killed by all of these."""
    runs: list[int] = field(default_factory=list)
    """Exit codes of the command, one after the other; negative: killed."""


def processes() -> Iterator[tuple[int, int, str]]:
    """Process id, parent and command line of all processes."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            yield int(folder.name), parent, (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()


def below(root: int) -> dict[int, str]:
    """All processes that come from one, with their command lines."""
    found: dict[int, str] = {}
    known = list(processes())
    frontier = {root}
    while frontier:
        inside = {pid: line for pid, parent, line in known if parent in frontier and pid not in found}
        found |= inside
        frontier = set(inside)
    return found


def kill_one(pids: list[int]) -> int:
    """Kill one of them; how many that was."""
    if not pids:
        return 0
    with suppress(ProcessLookupError):
        os.kill(random.choice(pids), signal.SIGKILL)
        return 1
    return 0


class OfThisHost:
    """Strikes at the children of the command. They outlive it."""

    arguments = ("--engine", "local", "--at-once", "3")

    def strike(self, driver: int, tally: Tally) -> None:
        killed = kill_one([pid for pid, line in below(driver).items() if " stage " in line])
        tally.workers += killed
        tally.cut_off += killed

    def runs_with(self, driver: int) -> int:
        """Runs that die with the command."""
        return 0


class OfACluster:
    """Strikes at workers that are in a task, and at whole nodes, each of which another one replaces.

    A node has one core, and so one run at most; the command's tasks end with it.
    """

    def __init__(self, cluster: Any, nodes: list[Any]) -> None:
        self.cluster, self.nodes, self.number = cluster, nodes, len(nodes)
        self.arguments = ("--engine", "ray", "--ray-address", cluster.address)

    def strike(self, driver: int, tally: Tally) -> None:
        if random.random() < 0.5:
            killed = kill_one(self._busy())
            tally.workers += killed
            tally.cut_off += killed
            return
        self.cluster.remove_node(self.nodes.pop(random.randrange(len(self.nodes))), allow_graceful=False)
        self.number += 1
        self.nodes.append(add_node(self.cluster, 1, RIVA_STREAM_HOST_ID=f"node-{self.number}"))
        tally.nodes += 1
        tally.cut_off += 1

    def runs_with(self, driver: int) -> int:
        """Runs that die with the command."""
        return len(self._busy())

    def _busy(self) -> list[int]:
        return [pid for pid, line in below(os.getpid()).items() if line.startswith("ray::s3://")]


@contextmanager
def ground(engine: str) -> Iterator[OfThisHost | OfACluster]:
    if engine == "local":
        yield OfThisHost()
        return
    with ray_cluster(nodes=0, cores=1) as cluster:
        importlib.import_module("ray").shutdown()  # the command is the driver, not this process
        nodes = [add_node(cluster, 1, RIVA_STREAM_HOST_ID=f"node-{number}") for number in range(1, 4)]
        yield OfACluster(cluster, nodes)


def write_catalogue(
    folder: Path, server: S3Server, bucket: str, endpoint_url: str, args: argparse.Namespace
) -> Path:
    client = server.client()
    for number in range(args.sources):
        data = archive_bytes(args.size * MIB, members=2, seed=number)[0]
        # In parts: its ETag is no MD5, of which no state can be kept, so that there are checkpoints.
        client.upload_fileobj(io.BytesIO(data), bucket, f"in/m{number}_v1.tar.gz")
    defaults: dict[str, Any] = {"bucket": bucket, "region": server.region, "env": PLACES}
    defaults |= {"endpoint_url": endpoint_url, "memory": MEMORY, "part_size": PART}
    defaults |= {"checkpoint": args.checkpoint * MIB, "lease": args.lease, "source_copy": "send"}
    entry = {"source": f"s3://{bucket}/in/", "pattern": "{model_name}_{model_version}.tar.gz"}
    environments = {"prod": {"description": "staged by itself"}}
    path = folder / "catalogue.json"
    path.write_text(json.dumps({"defaults": defaults, "environments": environments, "staging": [entry]}))
    return path


def run_until_done(
    argv: list[str], folder: Path, every: float, driver_kills: int, here: OfThisHost | OfACluster
) -> Tally:
    tally = Tally()
    while len(tally.runs) < MOST_RUNS and (not tally.runs or tally.runs[-1] == 75 or tally.runs[-1] < 0):
        with (
            (folder / f"run-{len(tally.runs)}.log").open("w") as log,
            subprocess.Popen(argv, cwd=folder, stdout=log, stderr=log) as process,
        ):
            try:
                blows(process, tally, every, driver_kills, here)
            except SystemExit:
                process.terminate()
                raise
        tally.runs.append(process.returncode)
        print(f"  run {len(tally.runs)} ended with {process.returncode}", flush=True)
    return tally


def blows(
    process: subprocess.Popen[bytes],
    tally: Tally,
    every: float,
    driver_kills: int,
    here: OfThisHost | OfACluster,
) -> None:
    """Until the command ends; the third is at the command itself, as long as it is to be killed."""
    for number in count(1):
        try:
            process.wait(every)
        except subprocess.TimeoutExpired:
            if number == 3 and tally.drivers < driver_kills:
                tally.cut_off += here.runs_with(process.pid)
                process.kill()
                tally.drivers += 1
            else:
                here.strike(process.pid, tally)
        else:
            return


def most_again(checkpoint: int) -> int:
    """Bytes of its source that a run which is killed may have read for nothing.

    What lies between two checkpoints, each of which is where a part begins, and what is in flight: see docs/memory.md.
    """
    plan = plan_memory(MEMORY, PART)
    return -(-checkpoint // PART) * PART + plan.read_share + plan.write_share


def wrong(server: S3Server, bucket: str, sources: int) -> list[str]:
    """What is not as it has to be: every staging to its last byte, and nothing left open."""
    found = []
    for env in PLACES:
        for number in range(sources):
            staging = f"s3://{bucket}/{env}/m{number}/v1/"
            argv = [sys.executable, "-m", "riva_stream", "verify", staging, "--deep", "--quiet"]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            if done.returncode:
                found.append(f"{staging}: verify ended with {done.returncode}: {done.stderr[-300:]}")
    place = Place(server, bucket)
    found += [f"{key} is open" for key in place.open_uploads()]
    found += [f"{name} is left" for name in place.names("") if ".riva-stream/" in name]
    return found


def sizes_of(server: S3Server, bucket: str) -> int:
    """Bytes of all sources."""
    listed = server.client().list_objects_v2(Bucket=bucket, Prefix="in/")
    return sum(entry["Size"] for entry in listed["Contents"])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--sources", type=int, default=10)
    parser.add_argument("--size", type=int, default=32, help="MiB of each")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two blows")
    parser.add_argument("--driver-kills", type=int, default=0, help="of the command itself")
    parser.add_argument("--checkpoint", type=int, default=8, help="MiB between two")
    parser.add_argument("--lease", type=float, default=3.0, help="seconds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="what each run read")
    args = parser.parse_args()
    random.seed(args.seed)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers and nodes go with it
    began = time.monotonic()
    with GatewayServer() as server, tempfile.TemporaryDirectory(prefix="riva-chaos-") as name:
        os.environ.update(server.environment() | {"PYTHONPATH": str(ROOT), "RIVA_STREAM_HOST_ID": "driver"})
        bucket, wire = server.new_bucket(), Wire(server)
        with wire.open() as endpoint_url, ground(args.engine) as here:
            catalogue = write_catalogue(Path(name), server, bucket, endpoint_url, args)
            argv = [sys.executable, "-m", "riva_stream", "stage-all", str(catalogue), *here.arguments]
            tally = run_until_done(argv, Path(name), args.every, args.driver_kills, here)
        seconds = time.monotonic() - began
        if tally.runs[-1]:
            print((Path(name) / f"run-{len(tally.runs) - 1}.log").read_text()[-3000:])
        overlaps = both_at_once(wire.changes)
        failures = wrong(server, bucket, args.sources) + overlaps
        once = len(READ) * sizes_of(server, bucket)
    readings = wire.readings("in/*")
    if args.verbose:
        for reading in sorted(readings, key=lambda reading: (reading.key, reading.run)):
            print(reading)
    again = sum(reading.size for reading in readings) - once
    most = tally.cut_off * most_again(args.checkpoint * MIB)
    offsets = [reading.first for reading in readings if reading.first]
    promoted = sum(
        reading.size for part in ("models", "source") for reading in wire.readings(f"dev/*/{part}/*")
    )
    if not 0 <= again <= most:
        failures.append(f"{again} bytes of the sources were read again, 0 to {most} should have been")
    for failure in failures:
        print(f"FAILED {failure}")
    holds = len({(change.prefix, change.run) for change in wire.changes})
    print(
        f"{args.engine}: {len(PLACES) * args.sources} stagings of {args.size} MiB, {tally.workers} workers, "
        f"{tally.nodes} nodes and {tally.drivers} drivers killed, and with them {tally.cut_off} runs; "
        f"the command ended with {tally.runs}; {len(failures)} failures; {seconds:.0f} s"
    )
    print(
        f"{once / MIB:.0f} MiB had to be read, {again / MIB:.1f} MiB were read again, at most {most / MIB:.0f} MiB; "
        f"{len(offsets)} of {len(readings)} runs that read began in the middle, which saved {sum(offsets) / MIB:.0f} MiB; "
        f"promotions read {promoted / MIB:.0f} MiB of stagings; "
        f"{holds} runs changed something, {len(overlaps)} of them a staging at which another one was at work"
    )
    return bool(failures or tally.runs[-1])


if __name__ == "__main__":
    sys.exit(main())
