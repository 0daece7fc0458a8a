"""Cancellation: what it may interrupt, and what it waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import anyio

__all__ = ["await_shielded", "in_child_task"]

P = ParamSpec("P")
T = TypeVar("T")


def in_child_task(work: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Run a coroutine function in a task of its own, which only a cancel scope can cancel.

    ``asyncio.Task.cancel()``, which an event loop calls at Ctrl-C and ``asyncio.timeout()`` calls too, interrupts
    whatever its task awaits, shielded clean-up included. For the task that waits here it becomes the cancellation of a
    scope, and shields hold against that. An ``observer`` that cancels the task in which it is called cancels all of it.
    """

    @wraps(work)
    async def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        results: list[T] = []
        errors: list[BaseException] = []

        async def run() -> None:
            try:
                results.append(await work(*args, **kwargs))
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # noqa: BLE001 - raised below, and not as a group
                errors.append(error)

        try:
            async with anyio.create_task_group() as tasks:
                if callable(observer := kwargs.get("observer")):
                    kwargs["observer"] = _cancelling(tasks.cancel_scope, observer)
                tasks.start_soon(run)
        finally:
            if errors:
                raise errors[0]
        return _only(results)

    return wrapped


async def await_shielded(request: Callable[[], Awaitable[T]], *, grace: float) -> T:
    """Await a request whose answer must be known, even after the caller was cancelled.

    Args:
        request: records its own answer: after a cancellation nothing is returned.
        grace: seconds that it has after a cancellation.
    """
    results: list[T] = []
    errors: list[Exception] = []
    over = anyio.Event()
    shield = anyio.CancelScope(shield=True)

    async def run() -> None:
        with shield:
            try:
                results.append(await request())
            except Exception as error:  # noqa: BLE001 - raised below, and not as a group
                errors.append(error)
        over.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        try:
            await over.wait()
        except anyio.get_cancelled_exc_class():
            shield.deadline = anyio.current_time() + grace
            raise
    if errors:
        raise errors[0]
    return _only(results)


def _cancelling(scope: anyio.CancelScope, observer: Callable[..., object]) -> Callable[..., None]:
    """An observer that, where it cancels a single task, or raises such an error, cancels a whole scope instead.

    A task group keeps the cancellation of one of its tasks to itself: the others would wait for it, or do without.
    """

    def observe(event: object, /) -> None:
        task = asyncio.current_task()
        before = task.cancelling() if task else 0
        try:
            observer(event)
        except asyncio.CancelledError:
            scope.cancel()
            raise
        if task and task.cancelling() > before:
            scope.cancel()

    return observe


def _only(results: Sequence[T]) -> T:
    """The result of a child task; there is none if the task was cancelled from within, which its group keeps to itself."""
    if not results:
        raise anyio.get_cancelled_exc_class()
    return results[0]
