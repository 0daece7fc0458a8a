"""The event loop of a run, and the signals that end it: the first one stops it cleanly, a later one ends the process.

SIGINT and SIGTERM, SIGHUP when a terminal or connection is closed, and what batch systems send as a warning some
time before they kill: SIGUSR1, SIGUSR2, SIGXCPU. One request often arrives as two signals: GNU ``timeout`` signals its
child and then its process group, and a terminal and a supervisor each send their own. So a second signal counts as
impatience only if it comes more than a second after the first.

The signals are blocked in every thread but one, which waits for them. Handlers would not do: Python runs them in the
main thread only, which notices a signal that the kernel delivered to another thread (a worker, the screen's) only
when its event loop happens to wake up, and none while it is stuck.
"""

from __future__ import annotations

import _thread
import asyncio
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from riva_stream.errors import ConfigurationError

__all__ = ["Interrupted", "SignalWatch", "run"]

T = TypeVar("T")

_PATIENCE = 1.0
"""Seconds after a signal during which others belong to the same request."""
_GRACE = 3.0
"""Seconds for threads that are still at work when the run has its result, such as on a disk that hangs."""
_ASKING = (signal.SIGINT, signal.SIGTERM)
_WARNING = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""Caught only where they would kill the process: one that is handled or ignored (``nohup``) has another meaning."""


class Interrupted(Exception):  # noqa: N818 - it is no error: somebody asked for it
    """A signal ended the run."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_code(self) -> int:
        """The exit code as in shells: 130 for SIGINT, 143 for SIGTERM, 129 for SIGHUP."""
        return 128 + self.number


class SignalWatch:
    """Watches for signals while entered. Enter it before any thread is started: threads inherit the blocking.

    A signal that the caller has ignored (``nohup``, a background job) stays ignored.

    Args:
        on_second: called in the watch's thread on a later signal that is not part of the first request, just before the
            process ends: it may only tidy the terminal, or make sure that nothing outlives this process.
    """

    def __init__(self, on_second: Callable[[], None] = lambda: None) -> None:
        self.caught = 0
        """Number of the first signal received; 0 before."""
        self._on_second = [on_second]
        self._stop: Callable[[int], object] | None = None
        self._lock = threading.Lock()
        self._leaving = False
        self._signals: list[signal.Signals] = []
        self._handlers: dict[signal.Signals, Any] = {}
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._signals = [number for number in _ASKING if signal.getsignal(number) is not signal.SIG_IGN]
            self._signals += [number for number in _WARNING if signal.getsignal(number) is signal.SIG_DFL]
            signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
            # Called in the main thread by interrupt_main(), while there is no run yet that could be cancelled.
            self._handlers = {n: signal.signal(n, signal.default_int_handler) for n in self._signals}
        if self._signals:
            self._thread = threading.Thread(target=self._wait, name="riva-stream-signals", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None and self._thread.ident is not None:
            self._leaving = True
            signal.pthread_kill(self._thread.ident, self._signals[0])
            self._thread.join()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals)

    @contextmanager
    def calling(self, stop: Callable[[int], object]) -> Iterator[None]:
        """While entered, the first signal calls ``stop`` with its number, in the watch's thread; after that, nothing."""
        with self._lock:
            self._stop = stop
        try:
            yield
        finally:
            self.settled()

    def settled(self) -> None:
        """There is a result, which the first signal no longer changes."""
        with self._lock:
            self._stop = lambda _: None

    def before_the_end(self, call: Callable[[], None]) -> None:
        """Register ``call`` to be called like ``on_second``, and before it."""
        self._on_second.insert(0, call)

    def _wait(self) -> None:
        patient_until = 0.0
        while True:
            number = signal.sigwait(self._signals)
            if self._leaving:
                return
            if self.caught:
                if time.monotonic() < patient_until:
                    continue
                for call in self._on_second:
                    call()
                os._exit(128 + number)
            self.caught = number
            patient_until = time.monotonic() + _PATIENCE
            with self._lock:
                if self._stop is not None:
                    self._stop(number)
                else:
                    _thread.interrupt_main(signal.Signals(number))


def run(
    main: Callable[[], Coroutine[Any, Any, T]],
    *,
    watch: SignalWatch,
    loop: str = "auto",
    on_signal: Callable[[int], None],
) -> T:
    """Run the coroutine of ``main`` in its own event loop until it ends or a signal arrives.

    A signal that arrives after it has ended, while the event loop is closed, changes nothing.

    Args:
        main: creates the coroutine to run.
        watch: an entered watch; its first signal cancels the run and lets it clean up.
        loop: ``uvloop``, ``asyncio``, or ``auto``, which is asyncio (both were measured to be equally fast
            here, and asyncio has its own debugging).
        on_signal: called on the event loop with the signal's number.

    Raises:
        Interrupted: a signal ended it.
    """
    gc.freeze()  # imported objects are permanent: later collections can skip them
    gc.enable()
    with asyncio.Runner(loop_factory=_factory(loop)) as runner:
        return runner.run(_watched(main(), watch, on_signal))


def _factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if name != "uvloop":
        return None
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError as error:
        raise ConfigurationError("uvloop is not installed", hint="use --loop asyncio") from error
    return uvloop.new_event_loop


async def _watched(main: Coroutine[Any, Any, T], watch: SignalWatch, on_signal: Callable[[int], None]) -> T:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(_Threads(thread_name_prefix="asyncio"))
    task = loop.create_task(main)
    is_stopped = False

    def stop(number: int) -> None:
        nonlocal is_stopped
        if task.cancel():  # otherwise it has its result
            is_stopped = True
            on_signal(number)

    with watch.calling(lambda number: loop.call_soon_threadsafe(stop, number)):
        try:
            return await task
        except BaseException as error:
            if is_stopped:
                # What the clean-up ran into is worth reporting, the cancellation itself is not.
                raise Interrupted(watch.caught) from (None if task.cancelled() else error)
            raise


class _Threads(ThreadPoolExecutor):
    """Threads for work that blocks. Closing the event loop, which shuts them down, waits for them, but not for ever."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=False, cancel_futures=cancel_futures)
        if wait:
            waiting = threading.Thread(target=super().shutdown, daemon=True)
            waiting.start()
            waiting.join(_GRACE)
