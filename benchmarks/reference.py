"""Reference-only mode: the whole process from its start to its end, and where that time goes."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from benchmarks.measure import Usage, measure
from benchmarks.peers import PEERS, Job
from benchmarks.results import Spread, table
from benchmarks.stand import Source, Stand

__all__ = ["add_arguments", "costliest_imports", "main"]

_TARGET = 0.8
_IMPORT = re.compile(r"^import time:\s+(\d+) \|\s+(\d+) \| ( *)(\S+)$", re.MULTILINE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its own arguments."""
    parser.add_argument("--repeats", type=int, default=10, help="runs (default: 10)")
    parser.add_argument("--import-time", action="store_true", help="say which imports the time goes to")


def main(args: argparse.Namespace) -> int:
    """Measure, print, write."""
    repeats = 2 if args.quick else args.repeats
    with Stand(args.server, args.seed) as stand:
        source = stand.add("stored", 1)
        usages = [_run(stand, source, number) for number in range(repeats)]
        imports = []
        if args.import_time:
            told = _run(stand, source, repeats, "-X", "importtime").stderr
            imports = costliest_imports(told)
    wall, cpu = Spread.of([usage.wall for usage in usages]), Spread.of([usage.cpu for usage in usages])
    document: dict[str, Any] = {
        "schema_version": 1,
        "machine": describe(args.server),
        "repeats": repeats,
        "wall_seconds": {"median": wall.median, "least": wall.least, "most": wall.most},
        "client_cpu_seconds": {"median": cpu.median, "least": cpu.least, "most": cpu.most},
        "target_wall_seconds": _TARGET,
        "imports": imports,
    }
    (args.out / "reference.json").write_text(json.dumps(document, indent=1) + "\n")
    print(
        f"reference-only, whole process: {wall.median:.3f} s ({wall.least:.3f} to {wall.most:.3f}), ", end=""
    )
    print(f"CPU {cpu.median:.3f} s; at most {_TARGET} s is aimed at")
    if imports:
        rows = [[one["module"], f"{one['own_ms']:.1f}", f"{one['with_its_own_ms']:.1f}"] for one in imports]
        print("\n".join(table(("import", "own ms", "with all it imports, ms"), rows)))
    return 0


def costliest_imports(text: str, *, shown: int = 25) -> list[dict[str, Any]]:
    """The packages and modules at the two upper levels that took the most, out of ``-X importtime``."""
    found = [
        {
            "module": name,
            "own_ms": int(own) / 1000,
            "with_its_own_ms": int(total) / 1000,
            "depth": len(indent) // 2,
        }
        for own, total, indent, name in _IMPORT.findall(text)
    ]
    return sorted(found, key=lambda one: float(one["with_its_own_ms"]), reverse=True)[:shown]


def _run(stand: Stand, source: Source, number: int, *options: str) -> Usage:
    prefix = f"to/reference/{number}/"
    folder: Path = stand.folder / "reference"
    argv = PEERS["riva"].make(Job(source, stand.bucket, prefix, folder)).argv
    argv = [argv[0], *options, *argv[1:], "--reference-only"]
    usage = measure(argv, folder=folder, env=stand.environment(), server_pid=stand.pid)
    if usage.exit_code != 0:
        raise RuntimeError(usage.stderr[-2000:])
    stand.remove(prefix)
    return usage
