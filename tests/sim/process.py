"""One simulated process: who it says it is, what it runs, what it has under way, how it ended."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from riva_stream import lease as state
from riva_stream.config import StageRequest
from riva_stream.errors import RivaStreamError
from riva_stream.report import PromoteReport
from tests.sim.breaks import Break
from tests.sim.loop import CURRENT, Host

if TYPE_CHECKING:
    from tests.sim.network import Request

__all__ = ["Process", "identities", "unheard"]


class Process:
    """One call of ``stage()``, as a process of its own on some machine."""

    def __init__(self, name: str, pid: int, machine: str, request: StageRequest) -> None:
        self.name = name
        self.pid = pid
        self.machine = machine
        self.request = request
        self.host = Host()
        self.task: asyncio.Task[Any] | None = None
        self.requests = 0
        self.in_flight: dict[int, Request] = {}
        self.busy = 0
        """So many of its next requests are asked to come later."""
        self.refusals: dict[tuple[str, str], int] = {}
        """So many of the next attempts of an operation at a key are refused with 403."""
        self.cuts = False
        """Whether every body that it is sent ends early."""
        self.down_until = 0.0
        self.has_slept = False
        """Whether it was suspended, and has gone on."""
        self.is_beside = False
        """Whether it runs another version of the package: what that breaks is told apart."""
        self.denied: frozenset[str] = frozenset()
        """Operations for which it has no right."""
        self.credential = 0
        self.valid_from = 0
        """Older credentials have expired."""
        self.outcome = ""
        """How it ended: the report's outcome, an exit code, ``killed`` or ``cancelled``; empty while it runs."""
        self.problem = ""
        """What it ended with, in words."""
        self._read: dict[tuple[str, str, str], int] = {}

    @property
    def is_over(self) -> bool:
        return bool(self.outcome)

    def over(self, outcome: str, problem: str = "") -> None:
        self.outcome = self.outcome or outcome
        self.problem = self.problem or problem

    def cancel(self) -> None:
        """As SIGINT and SIGTERM do."""
        if self.task is not None:
            self.task.cancel()

    def refuses(self, operation: str, key: str, now: float) -> Break | None:
        """What becomes of any request of its, whatever the schedule says."""
        if now < self.down_until:
            return Break.DOWN
        if left := self.refusals.get((operation, key), 0):
            self.refusals[operation, key] = left - 1
            return Break.DENIED
        return Break.DENIED if operation in self.denied else None

    def read_until(self, bucket: str, key: str, etag: str, end: int) -> None:
        """It was given the bytes of an object up to ``end``."""
        place = (bucket, key, etag)
        self._read[place] = max(end, self._read.get(place, 0))

    def has_read(self, bucket: str, key: str, etag: str) -> int:
        """Bytes from the start of an object of which the last was given to it."""
        return self._read.get((bucket, key, etag), 0)

    def take_result(self, task: asyncio.Task[Any]) -> None:
        """How it ended, from its task."""
        if task.cancelled():
            self.over("cancelled")
            return
        error = task.exception()
        if error is None:
            self._take_report(task.result())
        elif isinstance(error, RivaStreamError):
            self.over(str(error.exit_code), f"{type(error).__name__}: {error}")
        else:
            self.over("1", f"{type(error).__name__}: {error}")

    def _take_report(self, report: Any) -> None:
        if not isinstance(report, PromoteReport):
            self.over(getattr(report, "outcome", "0"))
            return
        (place,) = report.places
        if place.report is not None:
            self.over(place.report.outcome)
        elif place.error is not None:
            self.over(str(place.exit_code), f"{place.error.type}: {place.error.message}")


@contextmanager
def unheard() -> Iterator[None]:
    """What is left of killed runs complains when it is cleared away: nobody needs to hear it."""
    heard = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        yield
        gc.collect()
    finally:
        sys.unraisablehook = heard


@contextmanager
def identities(processes: list[Process]) -> Iterator[None]:
    """Let each process be one of its own to the journal, and the simulation say which of them are dead.

    The one place that knows where the code under test asks who it is.
    """
    known = state.Process

    def this(_: type[state.Process]) -> state.Process:
        host = CURRENT.get()
        mine = next(process for process in processes if process.host is host)
        return known(host=mine.machine, boot=mine.machine, pid=mine.pid, started=str(mine.pid))

    def is_dead(journaled: state.Process, here: state.Process) -> bool:
        if journaled.host != here.host:
            return False
        return all(process.is_over for process in processes if process.pid == journaled.pid)

    with patch.object(known, "this", classmethod(this)), patch.object(known, "is_dead", is_dead):
        yield
