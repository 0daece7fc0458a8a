"""The event loop: its choice is the command line's, never the library's."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from riva_stream.cli.signals import Interrupted, SignalWatch
from riva_stream.errors import ConfigurationError

__all__ = ["run"]

T = TypeVar("T")


def run(
    main: Callable[[], Coroutine[Any, Any, T]],
    *,
    watch: SignalWatch,
    loop: str = "auto",
    on_signal: Callable[[int], None],
) -> T:
    """Run what ``main`` gives in an event loop of its own until it ends or a signal comes.

    Args:
        main: makes the coroutine to run.
        watch: an entered watch; the first signal that it sees cancels the run and lets it clean up.
        loop: ``uvloop``, ``asyncio``, or ``auto``, which is asyncio (the two were measured to be equally quick
            here, and asyncio brings its own debugging).
        on_signal: called on the event loop with the signal's number.

    Raises:
        Interrupted: a signal ended it.
    """
    gc.freeze()  # what was imported stays for good: no later collection need look at it
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
    task = loop.create_task(main)

    def stop(number: int) -> None:
        task.cancel()
        on_signal(number)

    with watch.calling(lambda number: _soon(loop, stop, number)):
        try:
            return await task
        except BaseException as error:
            if watch.caught:
                # What the clean-up ran into is worth a line, the cancellation itself is not.
                raise Interrupted(watch.caught) from (None if task.cancelled() else error)
            raise


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[[int], None], number: int) -> None:
    loop.call_soon_threadsafe(call, number)
