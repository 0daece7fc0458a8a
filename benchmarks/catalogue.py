"""What it gains to have several stagings of a catalogue at once: ``stage-all`` with ``--at-once 1, 2, ...``.

On a store that makes up its sources and forgets what it is sent, so that the client has the cores; on the same with a pause
before each answer, as a store has that is not next door; and on a real server, which shares the cores with the client.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks import synthetic
from benchmarks.arguments import names_of, numbers
from benchmarks.compare import work_folder
from benchmarks.machine import describe
from benchmarks.measure import Usage, measure
from benchmarks.results import Spread, figures_of, table
from benchmarks.stand import KINDS, Stand
from benchmarks.tools import program
from tests.support.servers import ram_or_disk_folder

__all__ = ["Series", "Store", "add_arguments", "main", "stage_all"]

_STORES = ("made-up", "far", "server")
_numbers = count(1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its own arguments."""
    parser.add_argument("--kind", choices=list(KINDS), default="weights6", help="default: %(default)s")
    parser.add_argument("--entries", type=int, default=8, help="of the catalogue (default: %(default)s)")
    parser.add_argument(
        "--size", type=int, default=128, metavar="MIB", help="of each model (default: %(default)s)"
    )
    parser.add_argument("--at-once", type=numbers(int), default=[1, 2], metavar="N,...", help="default: 1,2")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each, interleaved (default: 5)")
    parser.add_argument(
        "--stores", type=names_of(_STORES), default=list(_STORES), help="of " + ",".join(_STORES)
    )
    parser.add_argument(
        "--pause",
        type=float,
        default=20,
        metavar="MS",
        help="of the far store before each answer (default: %(default)s)",
    )


@dataclass(frozen=True, slots=True)
class Store:
    """Where a catalogue is staged."""

    name: str
    label: str
    bucket: str
    keys: Sequence[str]
    """Of the archives, all of one size."""
    archive_bytes: int
    environment: Mapping[str, str]
    pid: int | None
    folder: Path
    forget: Callable[[str], None]
    """Removes all that was staged below a prefix, which has to be as many bytes as archives and models are."""


@dataclass(eq=False)
class Series:
    """All runs on one store; by how many stagings ran at once."""

    store: Store
    usages: dict[int, list[Usage]] = field(default_factory=dict)

    def gains(self) -> dict[int, Spread]:
        """How many times quicker each is than one after the other: of each round, since both saw the same weather."""
        base = [usage.wall for usage in self.usages[min(self.usages)]]
        return {
            at_once: Spread.of([one / usage.wall for one, usage in zip(base, usages, strict=True)])
            for at_once, usages in self.usages.items()
        }

    def document(self, cores: int) -> dict[str, Any]:
        """As JSON."""
        size, gains = self._bytes, self.gains()
        return {
            "name": self.store.name,
            "label": self.store.label,
            "entries": len(self.store.keys),
            "archive_bytes": self.store.archive_bytes,
            "at_once": {
                at_once: {
                    "gain": asdict(gains[at_once]),
                    "client_cores": asdict(_cores_of(usages)),
                    "figures": {name: asdict(one) for name, one in figures_of(usages, size, cores).items()},
                    "walls": [round(usage.wall, 3) for usage in usages],
                }
                for at_once, usages in self.usages.items()
            },
        }

    @property
    def _bytes(self) -> int:
        return self.store.archive_bytes * len(self.store.keys)

    def rows(self, cores: int) -> list[list[str]]:
        """For people."""
        found, gains = [], self.gains()
        for at_once, usages in self.usages.items():
            of, gain = figures_of(usages, self._bytes, cores), gains[at_once]
            wall = of["wall_seconds"]
            found.append(
                [
                    str(at_once),
                    f"{wall.median:.2f} ({wall.least:.2f} to {wall.most:.2f})",
                    f"{gain.median:.2f} ({gain.least:.2f} to {gain.most:.2f})",
                    f"{of['mib_per_second'].median:.0f}",
                    f"{of['client_cpu_seconds'].median / len(self.store.keys):.2f}",
                    f"{_cores_of(usages).median:.2f}",
                    f"{of['server_cpu_seconds'].median / len(self.store.keys):.2f}",
                    f"{of['foreign_load'].median:.2f}",
                ]
            )
        return found


_HEADS = ("at once", "wall s", "gain", "MiB/s", "CPU s each", "cores", "server CPU s each", "others")


def _cores_of(usages: Sequence[Usage]) -> Spread:
    return Spread.of([usage.cpu / usage.wall for usage in usages])


def main(args: argparse.Namespace) -> int:
    """Measure, print, write."""
    if args.quick:
        args.repeats, args.size, args.entries = 1, 16, 2
    every: list[dict[str, Any]] = []
    machine = describe(args.server)
    print(f"{args.entries} stagings, {args.kind}, {args.size} MiB each, medians of {args.repeats}")
    for name in args.stores:
        with _GROUNDS[name](args) as store:
            series = Series(store)
            for number in range(args.repeats):
                for at_once in args.at_once:
                    usage = stage_all(store, at_once)
                    series.usages.setdefault(at_once, []).append(usage)
                    told = f"{usage.wall:7.2f} s wall, {usage.cpu:7.2f} s CPU"
                    print(
                        f"  {number + 1}/{args.repeats} {name:8s} {at_once} at once {told}", file=sys.stderr
                    )
        every.append(series.document(machine["cores"]))
        print(f"\n{store.label}")
        print("\n".join(table(_HEADS, series.rows(machine["cores"]))), flush=True)
    document = {
        "schema_version": 1,
        "machine": machine,
        "seed": args.seed,
        "repeats": args.repeats,
        "kind": args.kind,
        "model_mib": args.size,
        "stores": every,
    }
    (args.out / "catalogue.json").write_text(json.dumps(document, indent=1) + "\n")
    return 0


def stage_all(store: Store, at_once: int) -> Usage:
    """Stage all archives with the local engine.

    Raises:
        RuntimeError: one of them was not staged.
    """
    version = f"run-{next(_numbers)}"
    defaults = {"bucket": store.bucket, "env": "dev", "model_version": version}
    defaults |= {"source_copy": "send", "upload_check": "none"}
    entries = [
        {"source": f"s3://{store.bucket}/{key}", "model_name": f"model-{number}"}
        for number, key in enumerate(store.keys)
    ]
    catalogue = store.folder / "catalogue.json"
    catalogue.write_text(json.dumps({"defaults": defaults, "staging": entries}))
    argv = [program("python"), "-m", "riva_stream", "stage-all", str(catalogue), "--json"]
    argv += [f"--at-once={at_once}", f"--state-dir={store.folder / version}"]
    usage = measure(argv, folder=store.folder / "work", env=store.environment, server_pid=store.pid)
    staged = [json.loads(line) for line in usage.stdout.splitlines()]
    told = [entry.get("outcome") for entry in staged[:-1]]
    if usage.exit_code != 0 or told != ["staged"] * len(entries):
        raise RuntimeError(f"it ended with {usage.exit_code}: {told} {usage.stderr[-2000:]}")
    for number in range(len(entries)):
        store.forget(f"dev/model-{number}/{version}/")
    return usage


def _keep(prefix: str, /) -> None:
    """Of what is staged there, the store keeps little more than names."""


@contextmanager
def _made_up(args: argparse.Namespace, pause: float = 0.0) -> Iterator[Store]:
    folder = ram_or_disk_folder("riva-catalogue-")
    try:
        with synthetic.served(args.kind, args.size, pause) as (port, pid):
            yield Store(
                "far" if pause else "made-up",
                f"a store that is made up, {pause:g} ms before each answer",
                synthetic.BUCKET,
                [f"archive-{number}.tar.gz" for number in range(args.entries)],
                synthetic.Archive(args.kind, args.size).size,
                synthetic.environment(port, folder),
                pid,
                folder,
                _keep,
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _far(args: argparse.Namespace) -> Any:
    return _made_up(args, args.pause)


@contextmanager
def _server(args: argparse.Namespace) -> Iterator[Store]:
    with Stand(args.server, args.seed) as stand, work_folder(stand) as folder:
        source = stand.add(args.kind, args.size)
        keys = [f"from/archive-{number}.tar.gz" for number in range(args.entries)]
        for key in keys:
            stand.server.client().copy({"Bucket": stand.bucket, "Key": source.key}, stand.bucket, key)
        expected = sorted(size for size, _ in source.expected.values())

        def forget(prefix: str) -> None:
            sizes = stand.sizes(prefix)
            found = sorted(size for key, size in sizes.items() if "/source/" in key or "/models/" in key)
            if found != expected:
                raise RuntimeError(f"{prefix} holds {found} bytes, not {expected}")
            stand.remove(prefix)

        yield Store(
            "server",
            f"{args.server} on the same cores",
            stand.bucket,
            keys,
            source.archive.size,
            stand.environment(),
            stand.pid,
            folder,
            forget,
        )


_GROUNDS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "made-up": _made_up,
    "far": _far,
    "server": _server,
}
