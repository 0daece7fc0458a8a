"""Figures out of runs, as a table, as JSON and as plots."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.compare import Kernels, Runs
from benchmarks.measure import Usage
from benchmarks.stand import Source

__all__ = ["Result", "Results", "Spread", "figures_of", "peer_document", "plot", "table"]

MIB, GIB = 1 << 20, 1 << 30


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over all runs."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


def figures_of(usages: Sequence[Usage], size: int, cores: int) -> dict[str, Spread]:
    """What is reported of each peer. ``size`` is the archive's, in bytes."""
    each: dict[str, Callable[[Usage], float]] = {
        "wall_seconds": lambda usage: usage.wall,
        "mib_per_second": lambda usage: size / MIB / usage.wall,
        "client_cpu_seconds": lambda usage: usage.cpu,
        "client_cpu_seconds_per_gib": lambda usage: usage.cpu * GIB / size,
        "server_cpu_seconds": lambda usage: usage.server_cpu,
        "server_cpu_seconds_per_gib": lambda usage: usage.server_cpu * GIB / size,
        "cores_busy": lambda usage: (usage.cpu + usage.server_cpu) / (cores * usage.wall),
        "foreign_load": lambda usage: usage.foreign_cpu / (cores * usage.wall),
        "peak_rss_bytes": lambda usage: usage.peak_rss,
        "peak_rss_sum_bytes": lambda usage: usage.peak_rss_sum,
    }
    return {name: Spread.of([figure(usage) for usage in usages]) for name, figure in each.items()}


@dataclass(eq=False)
class Result:
    """All that was found out on one archive."""

    source: Source
    runs: list[Runs]
    kernels: Kernels | None
    lanes: list[dict[str, float]]

    def document(self, cores: int) -> dict[str, Any]:
        """As JSON."""
        size = self.source.archive.size
        return {
            "kind": self.source.kind,
            "model_mib": self.source.mib,
            "archive_bytes": size,
            "expanded_bytes": self.source.archive.tar_size,
            "peers": [peer_document(runs, size, cores) for runs in self.runs],
            "kernels": None if self.kernels is None else self._kernels(self.kernels),
            "lanes": self.lanes,
        }

    def ratios(self) -> dict[str, float]:
        """How many times faster riva_stream is than each peer, by wall: "riva" and "riva-check" / peer."""
        walls = {runs.peer.name: runs.median("wall") for runs in self.runs if runs.usages}
        return {
            f"{own} against {name}": round(wall / walls[own], 3)
            for own in ("riva", "riva-check")
            if own in walls
            for name, wall in walls.items()
            if not name.startswith("riva")
        }

    def against_kernels(self, kernels: Kernels) -> dict[str, float]:
        """Client CPU, start-up apart, as a multiple of the kernels' sum; by peer."""
        found = {}
        for runs in self.runs:
            if runs.usages and runs.peer.name.startswith("riva"):
                own = runs.median("cpu") - kernels.start_up
                found[runs.peer.name] = round(own / kernels.total(runs.check), 3)
        return found

    def _kernels(self, kernels: Kernels) -> dict[str, Any]:
        return {
            "cpu_seconds": kernels.cpu,
            "sum_cpu_seconds": kernels.total(),
            "start_up_cpu_seconds": kernels.start_up,
            "imports_cpu_seconds": kernels.imports,
            "client_cpu_against_sum": self.against_kernels(kernels),
        }


def peer_document(runs: Runs, size: int, cores: int) -> dict[str, Any]:
    """A peer's figures as JSON. ``size`` is the archive's, in bytes."""
    head = {"name": runs.peer.name, "label": runs.peer.label, "failure": runs.failure or None}
    if not runs.usages:
        return head
    figures = figures_of(runs.usages, size, cores)
    return head | {
        "versions": runs.peer.versions(),
        "upload_check": runs.check,
        "source_copy": runs.source_copy or None,
        "runs": len(runs.usages),
        "figures": {name: asdict(spread) for name, spread in figures.items()},
        "traffic": runs.traffic,
        "details": runs.details,
    }


@dataclass(eq=False)
class Results:
    """One run of the benchmark."""

    machine: dict[str, Any]
    seed: int
    repeats: int
    results: list[Result] = field(default_factory=list)

    def add(self, result: Result) -> None:
        self.results.append(result)

    def document(self) -> dict[str, Any]:
        """As JSON."""
        cores = self.machine["cores"]
        return {
            "schema_version": 1,
            "machine": self.machine,
            "seed": self.seed,
            "repeats": self.repeats,
            "archives": [result.document(cores) | {"ratios": result.ratios()} for result in self.results],
        }

    def write(self, folder: Path) -> None:
        """``compare.json``, and the plots where matplotlib is there."""
        document = self.document()
        (folder / "compare.json").write_text(json.dumps(document, indent=1) + "\n")
        for archive in document["archives"]:
            name = f"{archive['kind']}-{archive['model_mib']}"
            plot("peers", archive, folder / f"peers-{name}.svg")
            if archive["lanes"]:
                plot("lanes", archive, folder / f"lanes-{name}.svg")

    def text(self) -> str:
        """For people."""
        cores = self.machine["cores"]
        lines = [
            (
                f"{self.machine['cpu']}, {cores} cores, Linux {self.machine['kernel']}, Python {self.machine['python']}, "
                f"server {self.machine['server']}, seed {self.seed}, medians of {self.repeats} (least to most)"
            )
        ]
        for result in self.results:
            lines += ["", f"{result.source.kind}: {result.source.archive.size / MIB:.0f} MiB archive", ""]
            if result.runs:
                lines += table(
                    _HEADS, [_row(runs, result.source.archive.size, cores) for runs in result.runs]
                )
            lines += [f"  {name}: {ratio:.2f}x" for name, ratio in result.ratios().items()]
            if result.kernels is not None:
                kernels = result.kernels
                told = ", ".join(f"{name} {seconds:.2f}" for name, seconds in kernels.cpu.items())
                lines += ["", f"  kernels, CPU s: {told}; sum {kernels.total():.2f}"]
                lines += [f"  start-up {kernels.start_up:.2f} CPU s, of which imports {kernels.imports:.2f}"]
                for name, ratio in result.against_kernels(kernels).items():
                    lines += [f"  {name}: client CPU without start-up is {ratio:.2f}x the sum"]
        return "\n".join(lines)


def plot(name: str, archive: dict[str, Any], path: Path) -> None:
    """One of :mod:`benchmarks.plots`, where matplotlib is there: the JSON is worth something without it."""
    try:
        from benchmarks import plots  # noqa: PLC0415
    except ImportError:
        print("no plots: matplotlib is not installed (the [bench] extra)", file=sys.stderr)
        return
    getattr(plots, name)(archive, path)


_HEADS = (
    "peer",
    "wall s",
    "MiB/s",
    "CPU s/GiB",
    "server",
    "busy",
    "others",
    "peak RSS",
    "all",
    "requests",
    "sent MiB",
)


def _row(runs: Runs, size: int, cores: int) -> list[str]:
    if not runs.usages:
        return [runs.peer.name, "FAILED: " + runs.failure.replace("\n", " ")[:100]]
    of = figures_of(runs.usages, size, cores)
    wall = of["wall_seconds"]
    sums = runs.traffic.values()
    return [
        runs.peer.name,
        f"{wall.median:.2f} ({wall.least:.2f} to {wall.most:.2f})",
        f"{of['mib_per_second'].median:.0f}",
        f"{of['client_cpu_seconds_per_gib'].median:.2f}",
        f"{of['server_cpu_seconds_per_gib'].median:.2f}",
        f"{of['cores_busy'].median:.2f}",
        f"{of['foreign_load'].median:.2f}",
        f"{of['peak_rss_bytes'].median / MIB:.0f}",
        f"{of['peak_rss_sum_bytes'].median / MIB:.0f}",
        str(sum(one["requests"] for one in sums)) if sums else "",
        f"{sum(one['sent'] for one in sums) / MIB:.0f}" if sums else "",
    ]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns side by side: the first to the left, the others to the right; a short row is not stretched."""
    full = [row for row in rows if len(row) == len(heads)]
    widths = [max(len(row[column]) for row in [heads, *full]) for column in range(len(heads))]
    return [
        "  "
        + "  ".join(
            cell.ljust(widths[column]) if column == 0 or len(row) < len(heads) else cell.rjust(widths[column])
            for column, cell in enumerate(row)
        ).rstrip()
        for row in [heads, *rows]
    ]
