"""Peak memory by archive size and by ``--memory``, against the promise: at most 1.1 times ``--memory``."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from benchmarks.measure import measure
from benchmarks.results import GIB, MIB, table
from benchmarks.synthetic import BUCKET, KEY, environment, served
from benchmarks.tools import program
from riva_stream.errors import ConfigurationError
from riva_stream.flow.memory import plan_memory
from tests.support.servers import ram_or_disk_folder

__all__ = ["add_arguments", "least_memory", "main"]

_KINDS = ("weights1", "stored")
_PART = 8 * MIB
_DEFAULT = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its own arguments."""
    parser.add_argument(
        "--sizes", default="1,4,16", metavar="GIB,...", help="of the models (default: %(default)s)"
    )
    parser.add_argument(
        "--at", type=int, default=1, metavar="GIB", help="size at which --memory varies (default: 1)"
    )


def least_memory() -> int:
    """The smallest ``--memory``, in MiB, that is not refused at the default part size."""
    for mib in range(1, 4096):
        try:
            plan_memory(mib * MIB, _PART)
        except ConfigurationError:
            continue
        return mib
    raise ValueError("no memory works")


def main(args: argparse.Namespace) -> int:
    """Measure, print, write; 1 when a peak is above the promise."""
    sizes = [int(float(size) * GIB / MIB) for size in args.sizes.split(",")]
    at, limits = args.at * GIB // MIB, [least_memory(), 192, _DEFAULT, 512]
    if args.quick:
        sizes, at, limits = [32, 64], 32, [least_memory(), _DEFAULT]
    runs: list[dict[str, Any]] = []
    folder = ram_or_disk_folder("riva-memory-")
    try:
        for kind in _KINDS:
            # --memory varies at one size and the size at one --memory; their crossing is measured once.
            for mib, memory in dict.fromkeys(
                [*((mib, _DEFAULT) for mib in sizes), *((at, one) for one in limits)]
            ):
                runs.append(_run(kind, mib, memory, folder))
                print(f"  {runs[-1]}", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    document = {"schema_version": 1, "machine": describe("made-up source"), "at_mib": at, "runs": runs}
    (args.out / "memory.json").write_text(json.dumps(document, indent=1) + "\n")
    rows = [
        [
            run["kind"],
            f"{run['model_mib'] / 1024:g}",
            str(run["memory_mib"]),
            f"{run['peak_rss_mib']:.0f}",
            f"{run['of_memory']:.2f}",
            f"{run['wall_seconds']:.1f}",
            f"{run['mib_per_second']:.0f}",
        ]
        for run in runs
    ]
    print("\n".join(table(("kind", "model GiB", "--memory", "peak RSS", "of it", "wall s", "MiB/s"), rows)))
    _plot(runs, at, args.out)
    return 1 if any(run["of_memory"] > 1.1 for run in runs) else 0


def _run(kind: str, mib: int, memory: int, folder: Path) -> dict[str, Any]:
    with served(kind, mib) as (port, _):
        argv = [
            program("python"),
            "-m",
            "riva_stream",
            "stage",
            f"--source=s3://{BUCKET}/{KEY}",
            f"--bucket={BUCKET}",
        ]
        argv += [
            "--env=to",
            "--model-name=memory",
            f"--model-version={kind}-{mib}-{memory}",
            "--json",
            "--quiet",
        ]
        argv += [
            f"--memory={memory}MiB",
            "--upload-check=none",
            "--source-copy=send",
            f"--state-dir={folder / 'state'}",
        ]
        usage = measure(argv, folder=folder, env=environment(port, folder))
    if usage.exit_code != 0:
        raise RuntimeError(f"{kind}, {mib} MiB, --memory {memory}MiB: {usage.stderr[-2000:]}")
    artifact = json.loads(usage.stdout)["artifact"]
    return {
        "kind": kind,
        "model_mib": mib,
        "memory_mib": memory,
        "peak_rss_mib": round(usage.peak_rss / MIB, 1),
        "of_memory": round(usage.peak_rss / MIB / memory, 3),
        "wall_seconds": round(usage.wall, 2),
        "mib_per_second": round(artifact["source"]["size_bytes"] / MIB / usage.wall, 1),
        "client_cpu_seconds": round(usage.cpu, 2),
    }


def _plot(runs: list[dict[str, Any]], at: int, folder: Path) -> None:
    try:
        from benchmarks import plots  # noqa: PLC0415 - needs matplotlib
    except ImportError:
        print("no plots: matplotlib is not installed (the [bench] extra)", file=sys.stderr)
        return
    by_size = {
        kind: [
            (run["model_mib"] / 1024, run["peak_rss_mib"])
            for run in sorted(runs, key=lambda run: int(run["model_mib"]))
            if run["kind"] == kind and run["memory_mib"] == _DEFAULT
        ]
        for kind in _KINDS
    }
    by_memory = {
        kind: [
            (run["memory_mib"], run["peak_rss_mib"])
            for run in sorted(runs, key=lambda run: int(run["memory_mib"]))
            if run["kind"] == kind and run["model_mib"] == at
        ]
        for kind in _KINDS
    }
    ends = [point[0] for points in by_size.values() for point in points]
    limit = [(end, 1.1 * _DEFAULT) for end in (min(ends), max(ends))]
    labels = (f"Peak RSS by size, --memory {_DEFAULT}MiB", "model, GiB", "peak RSS, MiB")
    plots.lines(by_size, folder / "memory-by-size.svg", labels=labels, limits={"1.1 x --memory": limit})
    given = [point[0] for points in by_memory.values() for point in points]
    limit = [(one, 1.1 * one) for one in (min(given), max(given))]
    labels = (f"Peak RSS by --memory, model of {at / 1024:g} GiB", "--memory, MiB", "peak RSS, MiB")
    plots.lines(by_memory, folder / "memory-by-limit.svg", labels=labels, limits={"1.1 x --memory": limit})
