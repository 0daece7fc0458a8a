"""As much of Ray as the engine uses: a task runs in a thread, an actor in the caller. Where Ray itself is not installed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Generator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

__all__ = ["install"]


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``import ray`` find it: one node, with room for everything."""
    strategies = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node, *, soft: (node, soft))
    ray = SimpleNamespace(
        exceptions=SimpleNamespace(RayError=_RayError, RayTaskError=_RayTaskError),
        get_runtime_context=lambda: SimpleNamespace(get_node_id=lambda: "here"),
        is_initialized=lambda: True,
        nodes=lambda: [{"Alive": True, "Resources": {"CPU": 64, "memory": 1 << 50}}],
        remote=lambda made: _Remote(_actor(made) if isinstance(made, type) else _task(made)),
        wait=lambda references, *, timeout: (references, timeout),
    )
    monkeypatch.setitem(sys.modules, "ray", _module("ray", ray))
    monkeypatch.setitem(
        sys.modules, "ray.util.scheduling_strategies", _module("ray.util.scheduling_strategies", strategies)
    )


class _RayError(Exception):
    pass


class _RayTaskError(_RayError):
    def __init__(self, cause: Exception) -> None:
        super().__init__(cause)
        self.cause = cause


class _Remote:
    """What ``remote`` gives: called by the method of that name, with or without options."""

    def __init__(self, remote: Callable[..., Any]) -> None:
        self.remote = remote

    def options(self, **_: object) -> _Remote:
        return self


class _Given:
    """A reference to a value that is there already."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __await__(self) -> Generator[Any, None, object]:
        yield from asyncio.sleep(0).__await__()
        return self._value


def _task(run: Callable[..., Any]) -> Callable[..., Any]:
    async def ran(*given: object) -> object:
        try:
            return await asyncio.to_thread(run, *given)
        except Exception as error:
            raise _RayTaskError(error) from error

    return lambda *given: asyncio.ensure_future(ran(*given))


def _actor(kind: type) -> Callable[..., Any]:
    def made(*given: object) -> SimpleNamespace:
        actor = kind(*given)
        calls = (name for name in vars(kind) if not name.startswith("_"))
        return SimpleNamespace(**{name: _Remote(_call(getattr(actor, name))) for name in calls})

    return made


def _call(method: Callable[..., Any]) -> Callable[..., _Given]:
    return lambda *given: _Given(method(*given))


def _module(name: str, content: SimpleNamespace) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(vars(content))
    return module
