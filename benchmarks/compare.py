"""The comparison: every peer on the same archive, interleaved, checked, and set against the sum of the kernels."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

from benchmarks.kernels import CHECKSUMS, EXTRA, KERNELS, KernelJob
from benchmarks.measure import Usage, measure
from benchmarks.peers import PEERS, Job, Peer
from benchmarks.relay import Moved, Relay
from benchmarks.stand import Source, Stand
from benchmarks.tools import ROOT, MissingToolError, program
from tests.support.faultproxy import FaultProxy

__all__ = [
    "IMPORTS",
    "Kernels",
    "Runs",
    "check_run",
    "compare",
    "count_traffic",
    "kernel_job",
    "kernel_sum",
    "run_checked",
    "run_kernel",
    "work_folder",
]

IMPORTS = (sys.executable, "-c", "import riva_stream.cli, riva_stream.pipeline")
"""Starts Python and imports what ``stage`` needs."""

_numbers = count(1)


@dataclass(eq=False)
class Runs:
    """All runs of one peer on one archive."""

    peer: Peer
    usages: list[Usage] = field(default_factory=list)
    failure: str = ""
    """Why it is out; a peer that failed once has no figures at all."""
    traffic: dict[str, dict[str, int]] = field(default_factory=dict)
    """S3 operation → requests, bytes sent by the client, bytes received by it; from a run through a proxy."""
    details: dict[str, Any] = field(default_factory=dict)
    """What the peer tells of itself: for riva_stream the ``build_info`` of its first run."""
    check: str = "none"
    """The upload check that was in force."""
    source_copy: str = ""
    """What proved riva_stream's copy of the archive, or ``sent``."""
    moved: list[Moved] = field(default_factory=list)
    """Bytes on the link of each run, where there is one."""

    def median(self, name: str) -> float:
        """The median of one figure of :class:`Usage`."""
        return float(statistics.median(getattr(usage, name) for usage in self.usages))


@dataclass(eq=False)
class Kernels:
    """CPU seconds of each kernel, and of what is told apart from them."""

    cpu: dict[str, float] = field(default_factory=dict)
    start_up: float = 0.0
    """CPU seconds of a dry run of riva_stream: imports, clients, the HEAD, and no byte of the archive."""
    imports: float = 0.0
    """CPU seconds of starting Python and importing what ``stage`` needs."""

    def total(self, check: str = "none") -> float:
        """The sum for an upload check."""
        more = self.cpu.get(f"check-{check}", 0.0) if check in CHECKSUMS else 0.0
        return sum(self.cpu[name] for name in KERNELS) + more


def compare(
    stand: Stand,
    source: Source,
    peers: Sequence[Peer],
    repeats: int,
    relay: Relay | None = None,
    *,
    staged: str = "",
) -> list[Runs]:
    """Run every peer ``repeats`` times, one after the other and again, so that all of them see the same weather.

    With a ``relay`` they reach the server through it, and what each moves is noted. ``staged``: see :class:`Job`.
    """
    every = [Runs(peer) for peer in peers]
    for number in range(repeats):
        for runs in every:
            if runs.failure:
                continue
            try:
                before = relay.counts() if relay else Moved()
                endpoint = relay.endpoint_url if relay else None
                runs.usages.append(
                    _once(stand, source, runs, whole=number == 0, endpoint=endpoint, staged=staged)
                )
                if relay:
                    runs.moved.append(relay.counts() - before)
            except (MissingToolError, TimeoutError, _FailedError) as error:
                runs.failure = str(error)
                runs.usages.clear()
            _say(runs, number, repeats)
    return every


def count_traffic(stand: Stand, source: Source, every: Sequence[Runs]) -> None:
    """One more run of each peer, not timed, through a proxy that counts."""
    for runs in every:
        if runs.failure:
            continue
        with FaultProxy(stand.server).in_thread() as proxy:
            try:
                _once(stand, source, runs, whole=False, endpoint=proxy.endpoint_url)
            except (TimeoutError, _FailedError) as error:
                print(f"{runs.peer.name}: not counted: {error}", file=sys.stderr)
                continue
            runs.traffic = {
                name: {"requests": sums.requests, "sent": sums.received, "received": sums.sent}
                for name, sums in sorted(proxy.traffic.items())
            }


def kernel_sum(stand: Stand, source: Source, repeats: int, checks: Sequence[str]) -> Kernels:
    """Each kernel alone on the bytes of ``source``; medians."""
    found: dict[str, list[float]] = {}
    names = [*KERNELS, *(f"check-{name}" for name in checks if name in CHECKSUMS), *EXTRA]
    with kernel_job(stand, source) as job:
        for _ in range(repeats):
            for name in names:
                found.setdefault(name, []).append(run_kernel(name, job, stand.environment()))
            for name, argv in _start_up(stand, source).items():
                found.setdefault(name, []).append(run_checked(argv, stand.environment(), job.parent).cpu)
    medians = {name: statistics.median(values) for name, values in found.items()}
    return Kernels(start_up=medians.pop("start-up"), imports=medians.pop("imports"), cpu=medians)


@contextmanager
def kernel_job(stand: Stand, source: Source) -> Iterator[Path]:
    """What kernels work on, laid out in files; gives the one that describes it."""
    with stand.local(source) as archive, work_folder(stand) as folder:
        members = folder / "members"
        with members.open("wb") as out, tarfile.open(archive) as tar:
            for member in source.archive.rivas:
                content = tar.extractfile(member.name)
                if content is not None:
                    shutil.copyfileobj(content, out, 1 << 20)
        job = KernelJob(str(archive), str(members), stand.bucket, source.key, f"scratch/{uuid4().hex}")
        (folder / "job.json").write_text(json.dumps(asdict(job)))
        yield folder / "job.json"


def run_kernel(name: str, job: Path, environment: Mapping[str, str]) -> float:
    """CPU seconds of one kernel, in a process of its own."""
    argv = [sys.executable, "-m", "benchmarks.kernels", name, str(job)]
    cpu: float = json.loads(run_checked(argv, environment, job.parent).stdout)["cpu"]
    return cpu


def _start_up(stand: Stand, source: Source) -> dict[str, list[str]]:
    dry = PEERS["riva"].make(Job(source, stand.bucket, f"dry/run/{uuid4().hex}/", stand.folder)).argv
    return {
        "start-up": [*dry, "--dry-run"],
        "imports": [*IMPORTS],
    }


class _FailedError(Exception):
    """A peer did not do what it was asked."""


def _once(
    stand: Stand,
    source: Source,
    runs: Runs,
    *,
    whole: bool,
    endpoint: str | None = None,
    staged: str = "",
) -> Usage:
    peer = runs.peer
    with work_folder(stand, on_disk=peer.on_disk) as folder:
        prefix = f"to/{peer.name}/{next(_numbers)}/"
        work = folder / "work"
        work.mkdir()
        job = Job(source, stand.bucket, prefix, work, staged)
        command = peer.make(job)
        # A program that peers start by name is not looked for anywhere but on PATH.
        argv = [
            program(command.argv[0]) if "/" not in command.argv[0] else command.argv[0],
            *command.argv[1:],
        ]
        environment = stand.environment(endpoint) | dict(command.env)
        try:
            usage = measure(argv, folder=work, env=environment, server_pid=stand.pid)
            check_run(stand, source, peer, prefix, usage, whole=whole)
            if whole and peer.name.startswith("riva"):
                artifact = _report(json.loads(usage.stdout))["artifact"]
                runs.details, validation = artifact["build_info"], artifact["validation"]
                runs.check, runs.source_copy = validation["upload_check"], validation["source_copy"]
            return usage
        finally:
            stand.remove(prefix)


def _report(told: dict[str, Any]) -> dict[str, Any]:
    """That of the staging; of a promotion, that of its one place."""
    report: dict[str, Any] = told["places"][0]["report"] if "places" in told else told
    return report


def check_run(
    stand: Stand, source: Source, peer: Peer, prefix: str, usage: Usage, *, whole: bool = False
) -> None:
    """A run counts only when its status, its digests and its objects are right, or this raises.

    With ``whole`` the objects are read back and hashed, else their sizes are compared.
    """
    if usage.exit_code != 0:
        raise _FailedError(
            f"it ended with {usage.exit_code}: {(usage.stderr or usage.stdout).strip()[-500:]}"
        )
    digests = peer.digests(usage)
    sizes = stand.sizes(prefix)
    for name, (size, sha256) in source.expected.items():
        folder = "source" if name == source.name else "models"
        key = f"{prefix}{folder}/{name}"
        if peer.computes and digests.get(name) != sha256:
            raise _FailedError(f"its SHA-256 of {name} is {digests.get(name, 'missing')}, not {sha256}")
        if sizes.get(key) != size:
            raise _FailedError(f"{folder}/{name} has {sizes.get(key, 'no')} bytes in the bucket, not {size}")
        if whole and stand.sha256(key) != sha256:
            raise _FailedError(f"{folder}/{name} holds other bytes in the bucket than it was to hold")


def run_checked(argv: Sequence[str], environment: Mapping[str, str], folder: Path) -> Usage:
    """Something of our own that must not fail."""
    path = argv[0] if "/" in argv[0] else program(argv[0])
    usage = measure([path, *argv[1:]], folder=folder / "own", env={**environment, "PYTHONPATH": str(ROOT)})
    if usage.exit_code != 0:
        raise RuntimeError(f"{argv[:4]} ended with {usage.exit_code}: {usage.stderr[-2000:]}")
    return usage


@contextmanager
def work_folder(stand: Stand, *, on_disk: bool = False) -> Iterator[Path]:
    """An empty folder, removed afterwards with all that is left in it."""
    folder = stand.folder / uuid4().hex
    if on_disk:
        folder = Path(tempfile.mkdtemp(prefix="riva-benchmark-", dir="/var/tmp"))  # never a tmpfs (hier(7))
    else:
        folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _say(runs: Runs, number: int, repeats: int) -> None:
    told = f"FAILED: {runs.failure}" if runs.failure else ""
    if runs.usages:
        last = runs.usages[-1]
        told = f"{last.wall:7.2f} s wall, {last.cpu:7.2f} s CPU, {last.server_cpu:6.2f} s server CPU"
    print(f"  {number + 1}/{repeats} {runs.peer.name:12s} {told}", file=sys.stderr, flush=True)
