"""A catalogue staged while workers, nodes and the command itself are killed: ``python -m tests.chaos --engine ray``.

The command is run until it ends with 0, as its user would; between its ends nothing is put right. Then every staging
is verified to its last byte, and no upload may be open. Not a part of the suite: it takes minutes. ``--engine ray`` needs Ray.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.staging import Place
from tests.support.archives import archive_bytes
from tests.support.rays import add_node, ray_cluster
from tests.support.servers import GatewayServer, S3Server

MIB = 1 << 20
ROOT = Path(__file__).parent.parent
PLACES = ("dev", "staging", "prod")
MOST_RUNS = 20


@dataclass
class Tally:
    """What was done to the command and its workers."""

    workers: int = 0
    nodes: int = 0
    drivers: int = 0
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
    """Strikes at the children of the command."""

    arguments = ("--engine", "local", "--at-once", "3")

    def strike(self, driver: int, tally: Tally) -> None:
        tally.workers += kill_one([pid for pid, line in below(driver).items() if " stage " in line])


class OfACluster:
    """Strikes at workers that are in a task, and at whole nodes, each of which another one replaces."""

    def __init__(self, cluster: Any, nodes: list[Any]) -> None:
        self.cluster, self.nodes, self.number = cluster, nodes, len(nodes)
        self.arguments = ("--engine", "ray", "--ray-address", cluster.address)

    def strike(self, driver: int, tally: Tally) -> None:
        if random.random() < 0.5:
            busy = [pid for pid, line in below(os.getpid()).items() if line.startswith("ray::s3://")]
            tally.workers += kill_one(busy)
            return
        self.cluster.remove_node(self.nodes.pop(random.randrange(len(self.nodes))), allow_graceful=False)
        self.number += 1
        self.nodes.append(add_node(self.cluster, 1, RIVA_STREAM_HOST_ID=f"node-{self.number}"))
        tally.nodes += 1


@contextmanager
def ground(engine: str) -> Iterator[OfThisHost | OfACluster]:
    if engine == "local":
        yield OfThisHost()
        return
    with ray_cluster(nodes=0, cores=1) as cluster:
        importlib.import_module("ray").shutdown()  # the command is the driver, not this process
        nodes = [add_node(cluster, 1, RIVA_STREAM_HOST_ID=f"node-{number}") for number in range(1, 4)]
        yield OfACluster(cluster, nodes)


def write_catalogue(folder: Path, server: S3Server, bucket: str, sources: int, size: int) -> Path:
    client = server.client()
    for number in range(sources):
        data = archive_bytes(size, members=2, seed=number)[0]
        # In parts: its ETag is no MD5, of which no state can be kept, so that there are checkpoints.
        client.upload_fileobj(io.BytesIO(data), bucket, f"in/m{number}_v1.tar.gz")
    defaults: dict[str, Any] = {"bucket": bucket, "region": server.region, "env": PLACES}
    defaults |= {"endpoint_url": server.endpoint_url, "memory": "160MiB", "part_size": "5MiB", "lease": "4s"}
    defaults |= {"checkpoint": "5MiB"}
    entry = {"source": f"s3://{bucket}/in/", "pattern": "{model_name}_{model_version}.tar.gz"}
    path = folder / "catalogue.json"
    # What the store copies is not read on from the middle; in prod it may copy.
    environments = {env: {"source_copy": "send"} for env in PLACES[:2]}
    path.write_text(json.dumps({"defaults": defaults, "environments": environments, "staging": [entry]}))
    return path


def run_until_done(
    argv: list[str], folder: Path, every: float, driver_kills: int, strike: Callable[[int, Tally], None]
) -> Tally:
    tally = Tally()
    while len(tally.runs) < MOST_RUNS and (not tally.runs or tally.runs[-1] != 0):
        with (folder / f"run-{len(tally.runs)}.log").open("w") as log:
            process = subprocess.Popen(argv, cwd=folder, stdout=log, stderr=log)
            blows = 0
            while True:
                try:
                    process.wait(every)
                    break
                except subprocess.TimeoutExpired:
                    blows += 1
                if blows == 3 and tally.drivers < driver_kills:
                    process.kill()
                    tally.drivers += 1
                else:
                    strike(process.pid, tally)
        tally.runs.append(process.returncode)
        print(f"  run {len(tally.runs)} ended with {process.returncode}", flush=True)
    return tally


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


def resumed(server: S3Server, bucket: str, sources: int) -> int:
    """Stagings whose run began in the middle of the archive, at a checkpoint of one that was killed."""
    place = Place(server, bucket)
    artifacts = (
        json.loads(place.read(f"{env}/m{number}/v1/artifact.json"))
        for env in PLACES
        for number in range(sources)
    )
    return sum(bool(artifact["build_info"]["resumed_from"]) for artifact in artifacts)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--sources", type=int, default=10)
    parser.add_argument("--size", type=int, default=32, help="MiB of each")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two blows")
    parser.add_argument("--driver-kills", type=int, default=0, help="of the command itself")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    random.seed(args.seed)
    began = time.monotonic()
    with GatewayServer() as server, tempfile.TemporaryDirectory(prefix="riva-chaos-") as name:
        os.environ.update(server.environment() | {"PYTHONPATH": str(ROOT), "RIVA_STREAM_HOST_ID": "driver"})
        bucket = server.new_bucket()
        catalogue = write_catalogue(Path(name), server, bucket, args.sources, args.size * MIB)
        with ground(args.engine) as here:
            argv = [sys.executable, "-m", "riva_stream", "stage-all", str(catalogue), *here.arguments]
            tally = run_until_done(argv, Path(name), args.every, args.driver_kills, here.strike)
        seconds = time.monotonic() - began
        if tally.runs[-1]:
            print((Path(name) / f"run-{len(tally.runs) - 1}.log").read_text()[-3000:])
        failures = wrong(server, bucket, args.sources)
        halfway = 0 if failures else resumed(server, bucket, args.sources)
    for failure in failures:
        print(f"FAILED {failure}")
    print(
        f"{args.engine}: {len(PLACES) * args.sources} stagings of {args.size} MiB, {tally.workers} workers, "
        f"{tally.nodes} nodes and {tally.drivers} drivers killed; the command ended with {tally.runs}; "
        f"{halfway} read on from a checkpoint; {len(failures)} failures; {seconds:.0f} s"
    )
    return bool(failures or tally.runs[-1])


if __name__ == "__main__":
    sys.exit(main())
