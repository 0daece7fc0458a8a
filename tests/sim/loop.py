"""An event loop on virtual time, in which a process can be frozen, suspended and killed.

Whatever runs for a process (its tasks, their callbacks, its timers) carries the process in its context, so holding
one back needs no help from the code that runs: callbacks of a frozen process wait, those of a dead one are dropped, as
SIGSTOP and SIGKILL have it. That is also why this is no library for virtual time: those (``looptime`` for one) move the
clock of a selector loop, and cannot hold back one part of what runs on it; besides, each turn of theirs costs a system
call.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import events
from collections import deque
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from enum import Enum
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any, ClassVar
from unittest.mock import patch

from anyio._backends import _asyncio

__all__ = ["CURRENT", "Host", "State", "VirtualLoop", "in_order"]


class State(Enum):
    RUNNING = "running"
    FROZEN = "frozen"
    DEAD = "dead"


class Host:
    """What one process is to the loop: whether it runs, and how far its clock is behind."""

    def __init__(self) -> None:
        self.state = State.RUNNING
        self.lag = 0.0
        """Seconds for which its clock stood still."""
        self.frozen_at = 0.0
        self.held: list[events.Handle] = []
        self.held_timers: list[tuple[float, int, events.TimerHandle]] = []
        self.tasks: list[asyncio.Task[Any]] = []


_ROUNDING = 1e-9
_TURNS = 2_000
"""Callbacks after which time passes although more are waiting: anyio calls itself again and again while a task that it
has cancelled does not end, and what that task waits for may need time."""
_AWAITS = 50
"""Places at which the clean-up of one task may want to wait."""

CURRENT: ContextVar[Host | None] = ContextVar("simulated_process", default=None)


class _Task(asyncio.Task[Any]):
    """A task whose hash is its number in its loop: sets of tasks are then walked in the same order every time."""

    def __init__(self, number: int, *args: Any, **options: Any) -> None:
        self.number = number
        super().__init__(*args, **options)

    def __hash__(self) -> int:
        return self.number


class _Scope(_asyncio.CancelScope):
    """The same for anyio's cancel scopes, so that what is cancelled together ends in the same order every time."""

    __slots__ = ("number",)
    numbers: ClassVar[Iterator[int]] = count()

    def __init__(self, *args: Any, **options: Any) -> None:
        self.number = next(self.numbers)
        super().__init__(*args, **options)

    def __hash__(self) -> int:
        return self.number


@contextmanager
def in_order() -> Iterator[None]:
    """Let nothing within depend on where objects are in memory."""
    _Scope.numbers = count()
    with patch.object(_asyncio, "CancelScope", _Scope):
        yield


def _unwind(task: asyncio.Task[Any]) -> None:
    """Close what a task runs, over whatever it would still wait for."""
    coroutine: Any = task.get_coro()
    for _ in range(_AWAITS):
        try:
            coroutine.close()
        except RuntimeError:  # it has awaited something on its way out
            continue
        except BaseException:  # noqa: BLE001 - what it ends with is of no interest
            return
        return


class VirtualLoop:
    """As much of an event loop as a run needs that speaks to a store in memory: no sockets, signals or threads."""

    def __init__(self) -> None:
        self.now = 0.0
        """Seconds of virtual time, of the world."""
        self._ready: deque[events.Handle] = deque()
        self._timers: list[tuple[float, int, events.TimerHandle]] = []
        self._numbers = count()
        self._task_numbers = count()
        self._morgue: list[Host] = []
        self._stopped = False

    # ---- what a simulation does

    def run(self, *, limit: float) -> bool:
        """Run until :meth:`stop`; False when nothing is left to run before, or when it is ``limit`` by then."""
        ready, timers = self._ready, self._timers
        self._stopped = False
        before = events._get_running_loop()
        events._set_running_loop(self)  # type: ignore[arg-type]
        hooks = sys.get_asyncgen_hooks()
        # A generator of a killed process is let go of as it is: nobody is left to finish it.
        sys.set_asyncgen_hooks(finalizer=lambda _: None)
        try:
            turns = 0
            while not self._stopped:
                turns += 1
                if not ready or turns > _TURNS:
                    turns = 0
                    while timers and timers[0][2]._cancelled:
                        heappop(timers)
                    if not timers or timers[0][0] > limit:
                        return False
                    self.now = max(self.now, timers[0][0])
                    while timers and timers[0][0] <= self.now:
                        self._fire(heappop(timers))
                    continue
                handle = ready.popleft()
                if handle._cancelled:
                    continue
                host = handle._context.get(CURRENT)  # type: ignore[attr-defined]
                if host is None or host.state is State.RUNNING:
                    handle._run()
                elif host.state is State.FROZEN:
                    host.held.append(handle)
        finally:
            events._set_running_loop(before)
            sys.set_asyncgen_hooks(*hooks)
        return True

    def stop(self) -> None:
        """Let :meth:`run` return before anything else runs."""
        self._stopped = True

    def _fire(self, timer: tuple[float, int, events.TimerHandle]) -> None:
        handle = timer[2]
        host = handle._context.get(CURRENT)  # type: ignore[attr-defined]
        if host is not None and host.state is State.FROZEN:
            host.held_timers.append(timer)
        elif host is None or host.state is State.RUNNING:
            self._ready.append(handle)

    def freeze(self, host: Host) -> None:
        """Let nothing of it run from now on."""
        if host.state is State.RUNNING:
            host.state, host.frozen_at = State.FROZEN, self.now

    def thaw(self, host: Host, *, clock_stood_still: bool) -> None:
        """Let it run again: as after SIGCONT, or as a virtual machine that was suspended, whose clock stood still."""
        if host.state is not State.FROZEN:
            return
        host.state = State.RUNNING
        self._ready.extend(host.held)
        host.held.clear()
        held, host.held_timers = host.held_timers, []
        if not clock_stood_still:
            self._ready.extend(timer[2] for timer in held)
            return
        lag = self.now - host.frozen_at
        host.lag += lag
        mine = [t for t in self._timers if t[2]._context.get(CURRENT) is host]  # type: ignore[attr-defined]
        others = [t for t in self._timers if t[2]._context.get(CURRENT) is not host]  # type: ignore[attr-defined]
        self._timers[:] = others + [(when + lag, number, handle) for when, number, handle in [*mine, *held]]
        heapify(self._timers)

    def kill(self, host: Host) -> None:
        """Nothing of it runs any more, not even its clean-up."""
        host.state = State.DEAD
        host.held.clear()
        host.held_timers.clear()
        self._morgue.append(host)

    def close(self) -> None:
        """Unwind what was killed, where nobody sees it: the garbage collector is no place for that."""
        before = events._get_running_loop()
        events._set_running_loop(self)  # type: ignore[arg-type]
        try:
            for host in self._morgue:
                for task in host.tasks:
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                    if not task.done():
                        _unwind(task)
                    # What anyio knows of a task holds the task, and would hold the whole world for ever.
                    _asyncio._task_states.pop(task, None)
                host.tasks.clear()
        finally:
            events._set_running_loop(before)
        self._ready.clear()
        self._timers.clear()

    def spawn(self, host: Host, coroutine: Coroutine[Any, Any, Any], context: Context) -> asyncio.Task[Any]:
        """Start the main task of a process."""
        context.run(CURRENT.set, host)
        before = events._get_running_loop()
        events._set_running_loop(self)  # type: ignore[arg-type]
        try:
            return context.run(self.create_task, coroutine)
        finally:
            events._set_running_loop(before)

    # ---- what asyncio and anyio ask for

    def time(self) -> float:
        host = CURRENT.get()
        return self.now if host is None else self.now - host.lag

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> events.Handle:
        handle = events.Handle(callback, args, self, context if context is not None else copy_context())  # type: ignore[arg-type]
        self._ready.append(handle)
        return handle

    def call_at(
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> events.TimerHandle:
        context = context if context is not None else copy_context()
        host = context.get(CURRENT)
        # With a lag the sum may come out a little short, and the timer would find that it is not yet time, for ever.
        due = when if host is None or not host.lag else when + host.lag + _ROUNDING
        handle = events.TimerHandle(due, callback, args, self, context)  # type: ignore[arg-type]
        heappush(self._timers, (due, next(self._numbers), handle))
        return handle

    def call_later(
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> events.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)  # type: ignore[arg-type]

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> Any:
        task = _Task(next(self._task_numbers), coro, loop=self, name=name, context=context)
        # asyncio's table of all tasks has those of worlds that are gone, too, by the same numbers: ever slower.
        asyncio.tasks._unregister_task(task)
        host = (context or copy_context()).get(CURRENT)
        if host is not None:
            host.tasks.append(task)
        return task

    def get_task_factory(self) -> None:
        return None

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Let a callback that fails end the simulation: it is one of ours, or of anyio's.

        What else a loop is told of here is what killed processes leave behind.
        """
        error = context.get("exception")
        if error is not None and str(context.get("message")).startswith("Exception in callback"):
            raise error

    def _timer_handle_cancelled(self, handle: events.TimerHandle) -> None:
        pass
