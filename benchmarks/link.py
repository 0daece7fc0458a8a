"""What binds on a narrow link: the ways to stage through a relay that lets so many bits a second pass each way.

A way to add is a :class:`benchmarks.peers.Peer` in ``_WAYS``: it gets a job, is timed, has its bytes counted, and
must have staged what it was to stage.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.arguments import names_of, numbers
from benchmarks.compare import Runs, compare
from benchmarks.machine import describe
from benchmarks.peers import COPYING, PEERS
from benchmarks.relay import GBPS, Moved, Relay, ceiling
from benchmarks.results import figures_of, peer_document, plot, table
from benchmarks.stand import KINDS, Source, Stand

__all__ = ["add_arguments", "main", "medians", "moved_rows", "rows"]

_WAYS = PEERS | COPYING
_DEFAULT = ("riva-check", "riva-copy", "pipe-best", "pipe-copy", "old-aws")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its own arguments."""
    parser.add_argument("--kind", choices=list(KINDS), default="stored", help="default: %(default)s")
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, interleaved (default: 3)")
    parser.add_argument(
        "--rates", type=numbers(float), default=[1, 5], metavar="GBPS,...", help="each way (default: 1,5)"
    )
    parser.add_argument("--ways", type=names_of(_WAYS), default=list(_DEFAULT), help="of " + ",".join(_WAYS))


def main(args: argparse.Namespace) -> int:
    """Measure, print, write; 1 when a way failed."""
    if args.quick:
        args.repeats, args.size = 1, 24
    alone = ceiling((64 << 20) if args.quick else (4 << 30))
    print(
        f"the relay alone: {alone.bytes_per_second / GBPS:.1f} Gb/s, "
        f"{alone.relay_cpu_seconds_per_gib:.2f} CPU s/GiB"
    )
    failed = False
    links: list[dict[str, Any]] = []
    with Stand(args.server, args.seed) as stand, Relay(stand.server.port) as relay:
        machine = describe(args.server)
        source = stand.add(args.kind, args.size)
        for gbps in args.rates:
            seen = ceiling(int(gbps * GBPS), gbps * GBPS).bytes_per_second / GBPS
            relay.limit(gbps * GBPS)
            every = compare(stand, source, [_WAYS[name] for name in args.ways], args.repeats, relay)
            failed = failed or any(runs.failure for runs in every)
            links.append(_document(source, every, gbps, seen, machine["cores"]))
            print(
                f"\n{gbps:g} Gb/s each way ({seen:.2f} seen), {source.kind}, {source.mib} MiB, medians of {args.repeats}"
            )
            heads = (
                "way",
                "wall s",
                f"to {args.ways[0]}",
                "sent",
                "received",
                "CPU s/GiB",
                "others",
                "relay CPU s",
            )
            print("\n".join(table(heads, rows(every, source.archive.size, machine["cores"]))))
    document = {
        "schema_version": 1,
        "machine": machine,
        "seed": args.seed,
        "repeats": args.repeats,
        "relay": asdict(alone),
        "links": links,
    }
    (args.out / "link.json").write_text(json.dumps(document, indent=1) + "\n")
    for link in links:
        plot("peers", link, args.out / f"link-{link['gbps']:g}gbps.svg")
    return 1 if failed else 0


def rows(every: Sequence[Runs], size: int, cores: int) -> list[list[str]]:
    """For people. ``size`` is the archive's, in bytes; walls are compared with the first way's."""
    found = moved_rows(every, size, cores, digits=3)
    for row, runs in zip(found, every, strict=True):
        if not runs.failure:
            load = figures_of(runs.usages, size, cores)["foreign_load"].median
            row.extend([f"{load:.2f}", f"{medians(runs).cpu:.2f}"])
    return found


def moved_rows(every: Sequence[Runs], size: int, cores: int, *, digits: int) -> list[list[str]]:
    """Way, wall, its ratio to the first way's, bytes sent and received per byte of the archive, CPU seconds per GiB."""
    found = []
    for runs in every:
        if runs.failure:
            found.append([runs.peer.name, "FAILED: " + runs.failure.replace("\n", " ")[:100]])
            continue
        of = figures_of(runs.usages, size, cores)
        wall, moved = of["wall_seconds"], medians(runs)
        base = every[0].median("wall") if every[0].usages else math.nan
        found.append(
            [
                f"{runs.peer.name} ({runs.source_copy})" if runs.source_copy else runs.peer.name,
                f"{wall.median:.2f} ({wall.least:.2f} to {wall.most:.2f})",
                f"{wall.median / base:.2f}",
                f"{moved.sent / size:.{digits}f}",
                f"{moved.received / size:.{digits}f}",
                f"{of['client_cpu_seconds_per_gib'].median:.2f}",
            ]
        )
    return found


def medians(runs: Runs) -> Moved:
    """What a run moved."""
    return Moved(
        *(
            statistics.median(getattr(moved, name) for moved in runs.moved)
            for name in ("sent", "received", "cpu")
        )
    )


def _document(source: Source, every: Sequence[Runs], gbps: float, seen: float, cores: int) -> dict[str, Any]:
    """As JSON, in the shape that :func:`benchmarks.plots.peers` draws."""
    size = source.archive.size
    return {
        "kind": f"{source.kind} over {gbps:g} Gb/s",
        "gbps": gbps,
        "gbps_seen": round(seen, 3),
        "model_mib": source.mib,
        "archive_bytes": size,
        "peers": [
            peer_document(runs, size, cores) | {"moved": [asdict(moved) for moved in runs.moved]}
            for runs in every
        ],
        "kernels": None,
    }
