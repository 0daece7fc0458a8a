"""``python -m benchmarks``: the comparison; the other commands are further measurements."""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

from benchmarks import catalogue, link, memory, promote, reference, resume, tls
from benchmarks.arguments import names_of, numbers
from benchmarks.compare import Runs, compare, count_traffic, kernel_sum
from benchmarks.machine import describe
from benchmarks.peers import PEERS
from benchmarks.progress import record_lanes
from benchmarks.results import Result, Results
from benchmarks.stand import KINDS, Stand

RESULTS = Path(__file__).with_name("results")


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    root = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure riva_stream against its peers, on loopback."
    )
    commands = root.add_subparsers(dest="command", metavar="COMMAND")
    for name, text in (
        ("compare", "the peers and the kernel sum (this is what no command means)"),
        ("memory", "peak memory by archive size and by --memory"),
        ("reference", "whole process wall of reference-only mode"),
        ("tls", "what TLS adds to the client's CPU seconds"),
        ("resume", "what a run that was killed costs the next one; with --cost, what checkpoints cost"),
        ("link", "the ways to stage over a narrow link"),
        ("promote", "promoting a staging, against aws s3 sync and staging anew"),
        ("catalogue", "several stagings of a catalogue at once, against one after the other"),
    ):
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument(
            "--out", type=Path, default=RESULTS, help="folder for JSON and plots (default: %(default)s)"
        )
        sub.add_argument(
            "--quick", action="store_true", help="small and few: shows that it works, not how fast"
        )
        sub.add_argument(
            "--seed", type=int, help="of the archives' bytes (default: a new one, which is told)"
        )
        if name != "memory":
            sub.add_argument(
                "--server", default="juicefs", metavar="juicefs|seaweedfs|moto|URL", help="default: juicefs"
            )
    compared = commands.choices["compare"]
    compared.add_argument(
        "--sizes", type=numbers(int), default=[1024], metavar="MIB,...", help="of the model (default: 1024)"
    )
    compared.add_argument(
        "--kinds", type=names_of(list(KINDS)), default=list(KINDS), help="of " + ",".join(KINDS)
    )
    only = compared.add_mutually_exclusive_group()
    only.add_argument(
        "--peers", type=names_of(list(PEERS)), default=list(PEERS), help="of " + ",".join(PEERS)
    )
    only.add_argument(
        "--only", type=names_of([*PEERS, "kernels"]), help="only these peers, or only the kernels"
    )
    compared.add_argument("--repeats", type=int, default=3, help="runs of each, interleaved (default: 3)")
    memory.add_arguments(commands.choices["memory"])
    reference.add_arguments(commands.choices["reference"])
    tls.add_arguments(commands.choices["tls"])
    resume.add_arguments(commands.choices["resume"])
    link.add_arguments(commands.choices["link"])
    promote.add_arguments(commands.choices["promote"])
    catalogue.add_arguments(commands.choices["catalogue"])
    return root


def main(argv: list[str] | None = None) -> int:
    """Run one measurement; 1 when a peer failed."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0] not in {*_COMMANDS, "-h", "--help"}:
        given.insert(0, "compare")
    args = parser().parse_args(given)
    if args.seed is None:
        args.seed = random.SystemRandom().randrange(1 << 32)
    args.out.mkdir(parents=True, exist_ok=True)
    return _COMMANDS[args.command](args)


def _compare(args: argparse.Namespace) -> int:
    repeats, sizes, peers = args.repeats, args.sizes, args.only or args.peers
    if args.quick:
        repeats, sizes = 1, [24]
    every: list[Runs] = []
    with Stand(args.server, args.seed) as stand:
        results = Results(describe(args.server), args.seed, repeats)
        for size in sizes:
            for kind in args.kinds:
                print(f"{kind}, {size} MiB: making the archive ...", file=sys.stderr, flush=True)
                source = stand.add(kind, size)
                chosen = [name for name in peers if name in PEERS]
                runs = compare(stand, source, [PEERS[name] for name in chosen], repeats)
                count_traffic(stand, source, runs)
                kernels = None
                if not args.only or "kernels" in args.only:
                    checks = {run.check for run in runs}
                    kernels = kernel_sum(stand, source, repeats, sorted(checks))
                lanes = record_lanes(stand, source) if "riva" in chosen else []
                every += runs
                results.add(Result(source, runs, kernels, lanes))
                stand.remove(source.key)
    results.write(args.out)
    print(results.text())
    return 1 if any(run.failure for run in every) else 0


_COMMANDS = {
    "compare": _compare,
    "memory": memory.main,
    "reference": reference.main,
    "tls": tls.main,
    "resume": resume.main,
    "link": link.main,
    "promote": promote.main,
    "catalogue": catalogue.main,
}


if __name__ == "__main__":
    sys.exit(main())
