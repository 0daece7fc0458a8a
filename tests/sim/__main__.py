"""``python -m tests.sim``: many simulations, or one of them again."""

from __future__ import annotations

import argparse
import gc
import importlib
import itertools
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.sim import seeds
from tests.sim.exhaustive import Cell, Duel, Result, cells, duels, parse
from tests.sim.kinds import KINDS
from tests.sim.report import Tally
from tests.sim.scenarios import SCENARIOS
from tests.sim.world import RunFactory

_TELL = 60.0
"""Seconds between two lines about how far it is, where nobody watches a terminal."""
_BATCH = 25
"""Simulations that a process is given at a time."""
_CELLS = 2500
"""The same of cells."""
_RUNS = 100
"""Runs between two collections of garbage: it is made faster than it is worth looking for."""


def _say(line: str) -> None:
    print(line)  # noqa: T201 - it is what this module is for


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, metavar="N", help="simulate N seeds")
    parser.add_argument("--even", action="store_true", help="of seeds: no request is slower than all others")
    parser.add_argument(
        "--whole", action="store_true", help="of seeds: nothing is told to be missing that is there"
    )
    parser.add_argument("--start", type=int, default=0, metavar="S", help="the first of them")
    parser.add_argument("--exhaustive", action="store_true", help="break every request in every way")
    parser.add_argument(
        "--duels", action="store_true", help="two runs, all schedules with up to two switches"
    )
    parser.add_argument(
        "--step", type=int, default=1, help="of duels: only every STEP-th request of the second run"
    )
    parser.add_argument("--every", type=int, default=1, metavar="K", help="only every K-th cell and duel")
    parser.add_argument("--no-leftovers", action="store_true", help="not over the leftovers of killed runs")
    parser.add_argument("--store", choices=list(KINDS), action="append", help="only this kind of store")
    parser.add_argument("--scenario", choices=list(SCENARIOS), action="append", help="only this scenario")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, metavar="P")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after that time")
    parser.add_argument(
        "--beside",
        default="tests.sim.world:newest",
        metavar="MODULE:FUNCTION",
        help="of seeds: what makes the runs beside the first, for another version of the package",
    )
    parser.add_argument("--replay", metavar="NAME", help="one seed, or one cell by its name")
    parser.add_argument("--trace", action="store_true", help="with --replay: print every request")
    return parser.parse_args()


def _work(options: argparse.Namespace) -> Iterator[int | Cell | Duel]:
    kinds = options.store or list(KINDS)
    for kind, scenario in itertools.product(kinds, options.scenario or list(SCENARIOS)):
        if options.exhaustive:
            found = cells(kind, scenario, leftovers=not options.no_leftovers)
            yield from itertools.islice(found, 0, None, options.every)
        if options.duels:
            yield from itertools.islice(duels(kind, scenario, step=options.step), 0, None, options.every)
    if options.seeds:
        yield from range(options.start, options.start + options.seeds)


def _factory(name: str) -> RunFactory:
    module, _, function = name.partition(":")
    factory: RunFactory = getattr(importlib.import_module(module), function)
    return factory


def _simulate(
    work: list[int | Cell | Duel], *, kind: str, beside: str, even: bool, whole: bool
) -> list[Result]:
    factory = _factory(beside)
    done: list[Result] = []
    runs = 0
    for one in work:
        result = (
            seeds.simulate(one, kind=kind, beside=factory, even=even, whole=whole)
            if isinstance(one, int)
            else one.simulate()
        )
        if result is None:
            continue
        done.append(result)
        runs += result.runs
        if runs >= _RUNS:
            runs = 0
            gc.collect()
    gc.collect()
    return done


def _settle() -> None:
    """Of a process that simulates: garbage is collected between two batches only, and the libraries are none."""
    gc.disable()
    gc.freeze()
    sys.unraisablehook = lambda _: None  # what is left of killed runs complains when it is cleared away


def _batches(work: Iterable[int | Cell | Duel]) -> Iterator[list[int | Cell | Duel]]:
    """Cells of one scenario stay together, for much of one has been simulated for others."""
    numbered = enumerate(work)

    def belongs_to(item: tuple[int, int | Cell | Duel]) -> tuple[object, ...]:
        number, one = item
        return (one.kind, one.scenario, number // _CELLS) if isinstance(one, Cell) else (number // _BATCH,)

    for _, items in itertools.groupby(numbered, belongs_to):
        yield [one for _, one in items]


def _replay(name: str, kind: str, beside: RunFactory, *, even: bool, whole: bool, trace: bool) -> int:
    tell: Callable[[str], None] | None = _say if trace else None
    result = (
        seeds.simulate(int(name), kind=kind, beside=beside, trace=tell, even=even, whole=whole)
        if name.isdigit()
        else parse(name).simulate(tell)
    )
    if result is None:
        _say("there is no such request")
        return 2
    _say(f"{result.name} on {result.kind}: {result.runs} runs, {result.requests} requests")
    for violation in result.violations:
        _say(f"  {violation}")
    return 1 if result.violations else 0


def _everything(options: argparse.Namespace, kind: str) -> int:
    tally, began, told = Tally(), time.monotonic(), 0.0
    simulate = partial(_simulate, kind=kind, beside=options.beside, even=options.even, whole=options.whole)
    # A pool that says so when one of its processes dies, in place of waiting for its answer for ever.
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(options.processes, fork, initializer=_settle) as pool:
        for results in pool.map(simulate, _batches(_work(options))):
            for result in results:
                if tally.add(result):  # such a one is worth a look before all others are done
                    sys.stderr.write(f"{result.name} on {result.kind}: {result.violations[0]}\n")
            spent = time.monotonic() - began
            if sys.stderr.isatty() or spent - told >= _TELL:
                told, end = spent, "\r" if sys.stderr.isatty() else "\n"
                sys.stderr.write(f"{tally.simulations} simulations, {tally.violating} bad{end}")
                sys.stderr.flush()
            if options.minutes and spent > options.minutes * 60:
                pool.shutdown(wait=False, cancel_futures=True)
                break
    _say("\n".join(tally.lines(time.monotonic() - began)))
    return 1 if tally.violating else 0


def main() -> int:
    options = _arguments()
    kind = options.store[0] if options.store else ""
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Sets of strings are walked in an order of their own in each process; a seed must give the same every time.
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.sim", *sys.argv[1:]],
            os.environ | {"PYTHONHASHSEED": "0"},
        )
    if options.replay:
        modes = {"even": options.even, "whole": options.whole, "trace": options.trace}
        return _replay(options.replay, kind, _factory(options.beside), **modes)
    return _everything(options, kind)


if __name__ == "__main__":
    sys.exit(main())
