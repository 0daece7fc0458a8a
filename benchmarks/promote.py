"""A staging becomes another one: by ``promote``, by ``aws s3 sync`` between the prefixes, and by staging it anew.

All reach the server through the relay, which lets everything pass and counts it. ``aws s3 sync`` has the store copy as
well, and compares nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from benchmarks.arguments import names_of
from benchmarks.compare import Runs, compare, run_checked, work_folder
from benchmarks.link import moved_rows
from benchmarks.machine import describe
from benchmarks.peers import PEERS, PROMOTING, Job
from benchmarks.relay import Relay
from benchmarks.results import peer_document, table
from benchmarks.stand import KINDS, Stand

__all__ = ["add_arguments", "main", "rows"]

_WAYS = PROMOTING
_STAGED = "from/staged/1/"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its own arguments."""
    parser.add_argument("--kind", choices=list(KINDS), default="stored", help="default: %(default)s")
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each, interleaved (default: 5)")
    parser.add_argument("--ways", type=names_of(_WAYS), default=list(_WAYS), help="of " + ",".join(_WAYS))


def main(args: argparse.Namespace) -> int:
    """Measure, print, write; 1 when a way failed."""
    if args.quick:
        args.repeats, args.size = 1, 24
    with Stand(args.server, args.seed) as stand, Relay(stand.server.port) as relay:
        machine = describe(args.server)
        source = stand.add(args.kind, args.size)
        with work_folder(stand) as folder:
            staging = PEERS["riva-check"].make(Job(source, stand.bucket, _STAGED, folder))
            run_checked(staging.argv, stand.environment(), folder)
        ways = [_WAYS[name] for name in args.ways]
        every = compare(stand, source, ways, args.repeats, relay, staged=_STAGED)
        size = source.archive.size
        document = {
            "schema_version": 1,
            "machine": machine,
            "seed": args.seed,
            "repeats": args.repeats,
            "model_mib": source.mib,
            "archive_bytes": size,
            "ways": [
                peer_document(runs, size, machine["cores"])
                | {"moved": [asdict(moved) for moved in runs.moved]}
                for runs in every
            ],
        }
        print(f"\n{source.kind}, {source.mib} MiB of models, medians of {args.repeats}")
        heads = ("way", "wall s", f"to {args.ways[0]}", "sent", "received", "CPU s/GiB", "server CPU s")
        print("\n".join(table(heads, rows(every, size, machine["cores"]))))
    (args.out / "promote.json").write_text(json.dumps(document, indent=1) + "\n")
    return 1 if any(runs.failure for runs in every) else 0


def rows(every: Sequence[Runs], size: int, cores: int) -> list[list[str]]:
    """For people. ``size`` is the archive's, in bytes; walls are compared with the first way's."""
    found = moved_rows(every, size, cores, digits=4)
    for row, runs in zip(found, every, strict=True):
        if not runs.failure:
            row.append(f"{runs.median('server_cpu'):.2f}")
    return found
