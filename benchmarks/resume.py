"""What an interruption costs: a run killed part of the way through its archive, and the run that is started after it.

The second staging has nothing of the first but what is in the store: another host id, another state directory. What it
reads is counted by a relay between it and the server. Beside it is what aws, s5cmd and rclone do when a download to a
file is killed at the same places and started again in the same folder, which is the first of the old script's steps.

With ``--cost`` it is what the checkpoints cost a run that nobody interrupts.
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.arguments import names_of, numbers
from benchmarks.compare import IMPORTS, Runs, check_run, compare, run_checked, work_folder
from benchmarks.machine import describe
from benchmarks.measure import Usage, measure
from benchmarks.peers import Command, Job, aws_settings, riva_stream
from benchmarks.relay import GBPS, Relay
from benchmarks.results import Spread, table
from benchmarks.stand import KINDS, Source, Stand
from benchmarks.tools import MissingToolError, program, version

__all__ = ["Restarts", "add_arguments", "kill_at", "main", "ratios", "working_seconds"]

_WAYS = ("riva", "aws", "s5cmd", "rclone")
_LOOK_EVERY = 0.005
_LEASE = 3
"""Seconds: what a run of another host waits for before it takes over."""
_numbers = count(1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its own arguments."""
    parser.add_argument("--kind", choices=list(KINDS), default="stored", help="default: %(default)s")
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each, interleaved (default: 5)")
    parser.add_argument("--ways", type=names_of(_WAYS), default=list(_WAYS), help="of " + ",".join(_WAYS))
    parser.add_argument("--checkpoint", default="16MiB", metavar="SIZE", help="default: %(default)s")
    parser.add_argument(
        "--at",
        type=numbers(int),
        default=[50, 95],
        metavar="PERCENT,...",
        help="of the archive read when the first run is killed (default: 50,95)",
    )
    parser.add_argument(
        "--gbps", type=float, default=math.inf, help="rate of the link each way (default: as it comes)"
    )
    parser.add_argument(
        "--memory",
        default="",
        metavar="SIZE",
        help="of riva_stream: what is in flight is read again (its default)",
    )
    parser.add_argument("--cost", action="store_true", help="what checkpoints cost, against --checkpoint off")


def main(args: argparse.Namespace) -> int:
    """Measure, print, write."""
    if args.quick:
        args.repeats, args.size, args.gbps = 1, 24, 0.2
    with Stand(args.server, args.seed) as stand:
        source = stand.add(args.kind, args.size)
        head = {
            "schema_version": 1,
            "machine": describe(args.server),
            "seed": args.seed,
            "repeats": args.repeats,
            "kind": args.kind,
            "archive_bytes": source.archive.size,
            "checkpoint": args.checkpoint,
            "gbps": args.gbps if math.isfinite(args.gbps) else None,
        }
        if args.cost:
            return _cost(stand, source, args, head)
        every = _interrupt(stand, source, args)
    (args.out / "resume.json").write_text(
        json.dumps({**head, "ways": [one.document() for one in every]}, indent=1) + "\n"
    )
    link = f"over {args.gbps:g} Gb/s" if math.isfinite(args.gbps) else "over loopback"
    print(f"{args.kind}, {args.size} MiB, {link}, medians of {args.repeats}")
    heads = ("killed at", "read again", "wall of a whole run", "CPU of a whole run", "whole: wall s", "CPU s")
    for one in every:
        print(f"\n{one.label}")
        print("\n".join(table(heads, one.rows()) if not one.failure else [f"  left out: {one.failure}"]))
    return 0


@dataclass(frozen=True, slots=True)
class Restart:
    """What a run took: a staging without its start-up and its wait for the lease, a download as a whole."""

    received: int
    """Bytes that the relay passed to the client, the headers of answers included."""
    wall: float
    cpu: float
    """Seconds; what it takes to watch the lease is in it."""


@dataclass(eq=False)
class Restarts:
    """All runs of one way of doing it. Shares and ratios are of medians."""

    label: str
    size: int
    """Bytes of the archive."""
    version: str = ""
    runs: dict[int, list[Restart]] = field(default_factory=dict)
    """Per cent of the archive after which the first run was killed → the second runs; 0: whole runs."""
    failure: str = ""

    def median(self, at: int, figure: str) -> float:
        """The median of one figure of :class:`Restart`."""
        return float(statistics.median(getattr(run, figure) for run in self.runs[at]))

    def shares(self, at: int) -> dict[str, float]:
        """What the second run read of the archive, and its wall and CPU in those of a whole run."""
        return {
            "read": self.median(at, "received") / self.size,
            "wall": self.median(at, "wall") / self.median(0, "wall"),
            "cpu": self.median(at, "cpu") / self.median(0, "cpu"),
        }

    def rows(self) -> list[list[str]]:
        """For people."""
        whole = [f"{self.median(0, 'wall'):.2f}", f"{self.median(0, 'cpu'):.2f}"]
        return [
            [f"{at} %", *(f"{share:.3f}" for share in self.shares(at).values()), *whole]
            for at in self.runs
            if at
        ]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        if self.failure:
            return {"label": self.label, "failure": self.failure}
        return {
            "label": self.label,
            "version": self.version,
            "failure": None,
            "shares": {at: self.shares(at) for at in self.runs if at},
            "runs": {at: [asdict(run) for run in runs] for at, runs in self.runs.items()},
        }


def kill_at(
    relay: Relay, argv: Sequence[str], *, folder: Path, env: Mapping[str, str], received: float
) -> None:
    """Run a command until it has received so many bytes, then kill it and all that it has started.

    Raises:
        RuntimeError: it ended before that.
    """
    begun = relay.counts()
    with subprocess.Popen(
        argv,
        cwd=folder,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        while process.poll() is None and (relay.counts() - begun).received < received:
            time.sleep(_LOOK_EVERY)
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
    if process.returncode != -signal.SIGKILL:
        raise RuntimeError(f"{argv[0]} ended with {process.returncode} before it was killed")


def working_seconds(events: Iterable[str]) -> float:
    """Seconds of a run from ``prepare`` to its end, out of its ``events.jsonl``."""
    at: dict[str, dt.datetime] = {}
    for event in map(json.loads, events):
        at[event.get("phase", event["event"])] = dt.datetime.fromisoformat(event["time"])
    return (at["stage_finished"] - at["prepare"]).total_seconds()


def _interrupt(stand: Stand, source: Source, args: argparse.Namespace) -> list[Restarts]:
    size = source.archive.size
    ways = {name: Restarts(f"{name}, a download to a file, by the same host", size) for name in args.ways}
    if "riva" in ways:
        memory = f" --memory {args.memory}" if args.memory else ""
        ways["riva"].label = f"riva_stream, --checkpoint {args.checkpoint}{memory}, by another host"
    with Relay(stand.server.port) as relay:
        relay.limit(args.gbps * GBPS)
        for number in range(args.repeats):
            for name, way in ways.items():
                for at in (0, *args.at):
                    if way.failure:
                        break
                    try:
                        if name == "riva":
                            restart = _stage(stand, source, relay, at, args.checkpoint, args.memory)
                        else:
                            way.version = version(name)
                            restart = _download(stand, source, relay, at, name)
                    except MissingToolError as error:
                        way.failure = str(error)
                        break
                    way.runs.setdefault(at, []).append(restart)
                    told = f"{restart.received / size:.3f} read, {restart.wall:.2f} s wall, {restart.cpu:.2f} s CPU"
                    print(f"  {number + 1}/{args.repeats} {name:6s} {at:3d} %: {told}", file=sys.stderr)
    return list(ways.values())


def _stage(stand: Stand, source: Source, relay: Relay, at: int, checkpoint: str, memory: str) -> Restart:
    """Stage after a run that was killed at ``at`` per cent; 0: after none."""
    flags = [f"--checkpoint={checkpoint}", f"--lease={_LEASE}s", *([f"--memory={memory}"] if memory else [])]
    peer = riva_stream("riva", "", "none", *flags)
    prefix = f"to/resume/{next(_numbers)}/"
    environment = stand.environment(relay.endpoint_url)
    with work_folder(stand) as folder:
        start_up = run_checked(IMPORTS, environment, folder).cpu
        jobs = [Job(source, stand.bucket, prefix, folder / host) for host in ("first", "second")]
        for job in jobs:
            job.folder.mkdir()
        try:
            first, second = (
                (peer.make(job).argv, {**environment, "RIVA_STREAM_HOST_ID": job.folder.name}) for job in jobs
            )
            if at:
                wanted = source.archive.size * at / 100
                kill_at(relay, first[0], folder=jobs[0].folder, env=first[1], received=wanted)
            before = relay.counts()
            usage = measure(second[0], folder=jobs[1].folder, env=second[1], server_pid=stand.pid)
            received = (relay.counts() - before).received
            check_run(stand, source, peer, prefix, usage, whole=True)
            (events,) = jobs[1].folder.glob("state/runs/*/events.jsonl")
            working = working_seconds(events.read_text().splitlines()) - (_LEASE if at else 0)
            return Restart(received, working, usage.cpu - start_up)
        finally:
            stand.remove(prefix)


def _download(stand: Stand, source: Source, relay: Relay, at: int, tool: str) -> Restart:
    """Download to a file, in the folder in which the same was killed at ``at`` per cent."""
    with work_folder(stand) as folder:
        command = _download_command(tool, Job(source, stand.bucket, "", folder), relay.endpoint_url)
        environment = {**stand.environment(relay.endpoint_url), **command.env}
        if at:
            wanted = source.archive.size * at / 100
            kill_at(relay, command.argv, folder=folder, env=environment, received=wanted)
        before = relay.counts()
        usage = measure(command.argv, folder=folder, env=environment, server_pid=stand.pid)
        received = (relay.counts() - before).received
        _check_download(usage, folder / source.name, source, tool)
        return Restart(received, usage.wall, usage.cpu)


def _download_command(tool: str, job: Job, endpoint_url: str) -> Command:
    place, name = f"{job.bucket}/{job.source.key}", job.source.name
    match tool:
        case "aws":
            arguments = ["s3", "cp", "--only-show-errors", "--no-progress", f"s3://{place}", name]
            return Command([program(tool), *arguments], aws_settings(job))
        case "s5cmd":
            return Command([program(tool), "--endpoint-url", endpoint_url, "cp", f"s3://{place}", name])
        case _:
            options = ["--s3-provider=Other", "--s3-env-auth", f"--s3-endpoint={endpoint_url}", "--config="]
            return Command([program(tool), "copyto", *options, f":s3:{place}", name])


def _check_download(usage: Usage, path: Path, source: Source, tool: str) -> None:
    if usage.exit_code != 0:
        raise RuntimeError(f"{tool} ended with {usage.exit_code}: {usage.stderr[-500:]}")
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != source.archive.sha256:
            raise RuntimeError(f"{tool} downloaded other bytes than there are")


def ratios(runs: Runs, base: Runs) -> dict[str, Spread]:
    """Wall and CPU of ``runs`` in those of ``base``, round by round."""
    pairs = list(zip(runs.usages, base.usages, strict=True))
    return {
        "wall": Spread.of([one.wall / other.wall for one, other in pairs]),
        "cpu": Spread.of([one.cpu / other.cpu for one, other in pairs]),
    }


def _cost(stand: Stand, source: Source, args: argparse.Namespace, head: dict[str, Any]) -> int:
    labels = {"off": "off", args.checkpoint: args.checkpoint, "auto": "the default"}
    peers = [
        riva_stream(f"riva-{value}", label, "none", f"--checkpoint={value}")
        for value, label in labels.items()
    ]
    every = compare(stand, source, peers, args.repeats)
    failures = [f"{runs.peer.name}: {runs.failure}" for runs in every if runs.failure]
    if failures:
        print("\n".join(failures), file=sys.stderr)
        return 1
    found = {runs.peer.label: ratios(runs, every[0]) for runs in every}
    usages = {runs.peer.label: [{"wall": one.wall, "cpu": one.cpu} for one in runs.usages] for runs in every}
    document = {
        **head,
        "ratios": {
            label: {figure: asdict(spread) for figure, spread in one.items()} for label, one in found.items()
        },
        "runs": usages,
    }
    (args.out / "checkpoints.json").write_text(json.dumps(document, indent=1) + "\n")
    rows = [
        [
            runs.peer.label,
            f"{runs.median('wall'):.2f}",
            f"{runs.median('cpu'):.2f}",
            *(
                f"{one.median:.3f} ({one.least:.3f} to {one.most:.3f})"
                for one in found[runs.peer.label].values()
            ),
        ]
        for runs in every
    ]
    print("\n".join(table(("--checkpoint", "wall s", "CPU s", "wall to off", "CPU to off"), rows)))
    return 0
