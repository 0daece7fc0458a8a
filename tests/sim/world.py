"""One simulation: a store and its judge, and processes that are started in it."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from contextvars import Context, copy_context
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

from riva_stream import clock, promote, stage
from riva_stream.config import StageRequest
from riva_stream.inspection import gc
from riva_stream.inspection.gc import collect
from riva_stream.pipeline import copies
from riva_stream.s3.memory import MemoryStore
from riva_stream.s3.port import PartBody, Store
from tests.sim.judge import Judge, Violation
from tests.sim.kinds import Kind
from tests.sim.loop import VirtualLoop, in_order
from tests.sim.network import Connection, Network, Request, Schedule, immediately
from tests.sim.process import Process, identities
from tests.sim.scenarios import BUCKET, LEASE, Collection, Promotion, prefix_of
from tests.sim.sources import IMAGE, SOURCE_BUCKET, SOURCES, Source, source

__all__ = ["RunFactory", "World", "new_store", "newest", "simulated"]

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
_PATIENCE = 3600.0
"""Virtual seconds after which a run that has not ended hangs."""

RunFactory = Callable[[StageRequest, Store], Coroutine[Any, Any, Any]]
"""Starts one run; another version of the package can be plugged in here."""


def newest(request: StageRequest, store: Store) -> Coroutine[Any, Any, Any]:
    """The code that is tested here."""
    if isinstance(request, Collection):
        return collect(store, BUCKET, request.prefix, older_than=0.0, lease=LEASE, apply=True)  # type: ignore[arg-type]
    # Nothing is expected of the source of a promotion but what its own staging has been compared with.
    if isinstance(request, Promotion) and request.expect_sha256 is None:
        return promote(request.promotion, store=store)
    return stage(request, store=store)


def new_store(kind: Kind) -> MemoryStore:
    """A store of this kind with the sources in it, and nothing else."""
    store = kind.store(SOURCE_BUCKET, BUCKET)
    store.set_clock(lambda: _EPOCH)
    keys = {source(name).key: source(name).data for name in SOURCES} | {IMAGE: b"an image"}
    for key, data in keys.items():
        immediately(
            store.put(SOURCE_BUCKET, key, PartBody((data,), len(data)), content_type="a/b", metadata={})
        )
    return store


class World:
    """A store, its judge, and whoever works on one prefix of it.

    Args:
        store: of this world alone.
        schedule: decides what becomes of each request.
        bintarball: whether the prefix is that of a bintarball reference.
        prefix: another one than what is staged at usually.
        sources: what there is to stage besides those that are always there.
        trace: takes a line for each thing that happens.
    """

    def __init__(
        self,
        store: MemoryStore,
        schedule: Schedule,
        *,
        bintarball: bool = False,
        prefix: str = "",
        sources: Sequence[Source] = (),
        trace: Callable[[str], None] | None = None,
    ) -> None:
        self.loop = VirtualLoop()
        self.store = store
        store.set_clock(lambda: _EPOCH + timedelta(seconds=self.loop.now))
        known = {one.uri: one for one in (*map(source, SOURCES), *sources)}
        self.judge = Judge(store, BUCKET, prefix or prefix_of(bintarball=bintarball), known)
        self.network = Network(
            self.loop, store, schedule, self.judge.carry_out, Context(), trace, self._look_round
        )
        self.processes: list[Process] = []
        self._awaited = 0
        """So many are still to be started."""
        self._judged = 0
        """So many of them have been looked at after their end."""
        self._trace = trace

    @property
    def schedule(self) -> Schedule:
        return self.network.schedule

    @schedule.setter
    def schedule(self, schedule: Schedule) -> None:
        self.network.schedule = schedule

    @property
    def violations(self) -> list[Violation]:
        return self.judge.violations

    def start(
        self,
        request: StageRequest,
        *,
        machine: str = "a",
        skew: float = 0.0,
        denied: frozenset[str] = frozenset(),
        factory: RunFactory = newest,
        is_beside: bool = False,
    ) -> Process:
        """Start a run as a process of its own.

        Args:
            request: what it shall stage.
            machine: processes of one machine can tell of each other whether they are dead.
            skew: seconds by which the machine's time of day is off.
            denied: operations for which it has no right.
            factory: makes the run.
            is_beside: whether that is another version of the package.
        """
        process = Process(f"run{len(self.processes) + 1}", len(self.processes) + 1, machine, request)
        process.denied, process.is_beside = denied, is_beside
        self.processes.append(process)
        epoch = _EPOCH + timedelta(seconds=skew)

        async def main() -> Any:
            with clock.threads_inline(epoch):
                return await factory(request, Connection(self.network, process))

        process.task = self.loop.spawn(process.host, main(), copy_context())
        process.task.add_done_callback(lambda task: self._ended(process, task), context=self.network.context)
        self._tell(f"{process.name} starts: {_told(request)}, on machine {machine}")
        return process

    def start_in(self, seconds: float, request: StageRequest, **options: Any) -> None:
        """Start a run a little later."""
        self.starter(request, **options)(seconds)

    def starter(self, request: StageRequest, **options: Any) -> Callable[[float], None]:
        """What starts a run so many seconds after it is called, once: the world waits for it from now on."""
        self._awaited += 1

        def begin() -> None:
            self._awaited -= 1
            self.start(request, **options)

        def start_in(seconds: float) -> None:
            self.loop.call_at(self.loop.now + seconds, begin, context=self.network.context)

        return start_in

    def _ended(self, process: Process, task: Any) -> None:
        process.take_result(task)
        self.judge.judge_outcome(process)
        self._tell(f"{process.name} ends: {process.outcome} {process.problem}")
        self.schedule.ended(process, self.network)
        self._look_round()

    def _look_round(self) -> None:
        if not self._awaited and all(process.is_over for process in self.processes):
            self.loop.stop()

    def wait(self) -> None:
        """Until all runs are over."""
        if self._awaited or any(not process.is_over for process in self.processes):
            self.loop.run(limit=self.loop.now + _PATIENCE)
        for process in self.processes[self._judged :]:
            if not process.is_over:
                self.judge.violations.append(Violation("E4", f"{process.name} hangs", process.is_beside))
                self.network.kill(process)
            elif process.outcome == "1":
                text = f"{process.name} ends with a bug: {process.problem}"
                self.judge.violations.append(Violation("E4", text, process.is_beside))
        self._judged = len(self.processes)

    def run(self, request: StageRequest, **options: Any) -> Process:
        """Start a run and wait for its end."""
        process = self.start(request, **options)
        self.wait()
        return process

    def pass_time(self, seconds: float) -> None:
        """Let what is still under way arrive."""
        until = self.loop.now + seconds
        self.loop.run(limit=until)
        self.loop.now = until

    def go_on_from(
        self, judge: Judge, now: float, processes: Sequence[Process], late: Sequence[tuple[float, Request]]
    ) -> None:
        """Begin where another world has ended, whose store this one's is a copy of."""
        self.judge = judge.gone_on(self.store)
        self.network.judged = self.judge.carry_out
        self.loop.now = now
        self.processes += processes
        self._judged = len(processes)
        for when, request in late:
            self.network.later(when, replace(request))

    def close(self) -> None:
        """Let go of everything."""
        self.loop.close()
        self.processes.clear()

    def _tell(self, line: str) -> None:
        if self._trace:
            self._trace(f"{self.loop.now:9.3f}  {line}")


def _told(request: StageRequest) -> str:
    if isinstance(request, Collection):
        return "gc"
    words = ["promotion"] if isinstance(request, Promotion) else []
    words += [request.mode, request.source.rpartition("/")[2].partition(".")[0], *request.include]
    words += ["--force"] if request.force else []
    words += ["--server-path"] if request.server_path else []
    words += ["--expect-sha256 (wrong)"] if request.expect_sha256 else []
    return " ".join(words)


@asynccontextmanager
async def _opened(store: Store, **_: Any) -> AsyncIterator[Store]:
    """What gc opens: it is given a simulated store in place of the settings of a real one."""
    yield store


@contextmanager
def simulated(world: World, seed: int) -> Iterator[World]:
    """Let everything that is drawn come from ``seed``, and processes be those of ``world``."""
    drawn = random.Random(seed)
    random.seed(seed)
    with ExitStack() as stack:
        stack.enter_context(in_order())
        stack.enter_context(identities(world.processes))
        stack.enter_context(patch.object(secrets, "token_hex", lambda size: drawn.randbytes(size).hex()))
        # As small as the parts: a few KiB are many copies.
        stack.enter_context(patch.object(copies, "LEAST_COPY", 2500))
        stack.enter_context(patch.object(copies, "FEW_BYTES", 1))
        stack.enter_context(patch.object(gc, "open_store", _opened))
        stack.enter_context(patch.object(time, "process_time", lambda: world.loop.now))
        try:
            yield world
        finally:
            world.close()
