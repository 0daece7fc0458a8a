"""The engine of a Ray cluster: one Ray task for each staging. Ray provides queue, placement and retries.

::

    stage_all ──► RayEngine.stage ──► ray task on some node: stage() ──► the bucket
                        ▲                      │ progress, throttled
                        └──── board ◄──────────┘  an actor beside the driver: only the newest event of each kind

If a node dies, another node resumes its run from what the bucket has; if the driver dies, the runs are resumed when the
command is run again. Credentials are those of the nodes: none pass through Ray.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import Sequence
from typing import Any

import anyio

from riva_stream import clock
from riva_stream.arguments import require_whole
from riva_stream.catalogue.engine import RunOne, StagingFailed, WorkerDiedError, error_of, identity_of
from riva_stream.config import StageRequest
from riva_stream.errors import ConfigurationError, TransientError
from riva_stream.events import Event, Observer, Warned, ignore, throttled
from riva_stream.report import ErrorReport, StageReport
from riva_stream.sizes import human_size

__all__ = ["RayEngine"]

_RETRIES = 3
"""Retries of one task by Ray: after its node or process died, or after a failure with exit code 75."""
_PROGRESS_EVERY = 2.0
"""Seconds between two reports of one run, and between two polls of the board."""
_SETTLE = 5.0
"""Seconds that the board may take for the last report of a run, and to return what it has."""
_GRACE = 120.0
"""Seconds that a cancelled run has for its clean-up on its node; a node that is gone never reports that it is done."""


class RayEngine:
    """A cluster to which this process is connected for its whole lifetime.

    Args:
        address: of the cluster, ``HOST:PORT`` or ``ray://HOST:PORT``; None: where this process is connected already,
            RAY_ADDRESS, a cluster running on this host, or else a new one of this host alone.
        at_once: stagings that Ray is given at the same time; None: all, and Ray starts as many as there is room for.
        cores: cores of a node that one staging reserves. Its memory is the request's ``memory``.
        run: runs one staging on a node; None: ``stage()``.

    Raises:
        ConfigurationError: Ray is not installed, or there is no such cluster.
    """

    name = "ray"

    def __init__(
        self,
        address: str | None = None,
        *,
        at_once: int | None = None,
        cores: float = 1.0,
        run: RunOne | None = None,
    ) -> None:
        if at_once is not None:
            require_whole("at_once", at_once)
        self._ray = _connect(address)
        self._at_once = at_once
        self._cores = cores
        self._run = run or _stage
        here = self._ray.get_runtime_context().get_node_id()
        pinned = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
        self._board = (
            self._ray.remote(_Board)
            .options(num_cpus=0, scheduling_strategy=pinned(here, soft=False))
            .remote()
        )
        self._task = self._ray.remote(_work)
        self._observers: dict[str, Observer] = {}
        self._looking = anyio.Lock()

    def at_once(self, requests: Sequence[StageRequest]) -> int:
        """All of them, unless fewer were requested: those without room wait in Ray."""
        return self._at_once or len(requests)

    async def stage(self, request: StageRequest, observer: Observer) -> StageReport:
        """Stage one request on some node; Ray retries after exit code 75, and after the loss of a node."""
        key = identity_of(request)
        if not await anyio.to_thread.run_sync(self._has_room, request):
            wanted = f"{self._cores:g} cores and {human_size(request.memory)}"
            message = f"no node of the cluster has {wanted} for one staging: it waits until there is one"
            observer(Warned(code="no-node", message=message))
        options = {
            "name": request.destination,
            "num_cpus": self._cores,
            "memory": request.memory,
            "max_retries": _RETRIES,
            "retry_exceptions": [TransientError],
        }
        task = self._task.options(**options).remote(self._run, request, self._board, key)
        self._observers[key] = observer
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._look)
                outcome = await self._outcome(task)
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._show()
            del self._observers[key]
        if isinstance(outcome, StageReport):
            return outcome
        if isinstance(outcome, ErrorReport):
            raise StagingFailed(outcome)
        raise outcome

    async def _outcome(self, task: Any) -> StageReport | ErrorReport | Exception:
        """The result of a task. When cancelled, it stops the run on its node and waits for the clean-up there."""
        errors = self._ray.exceptions
        try:
            found: StageReport | ErrorReport = await task
        except errors.RayTaskError as error:
            if isinstance(error.cause, TransientError):
                return error.cause
            # Any other failure is returned by the task, so this one never began.
            return ConfigurationError(
                f"the node could not start this staging: {_reason(error.cause)}",
                hint="the same versions of Python and riva-stream[ray] are needed here and on every node",
            )
        except errors.RayError as error:
            return WorkerDiedError(
                f"the node or the process of this staging died, and so did all retries: {type(error).__name__}"
            )
        except anyio.get_cancelled_exc_class():
            self._ray.cancel(task)
            ending = asyncio.wrap_future(task.future())
            with anyio.CancelScope(shield=True):
                await asyncio.wait([ending], timeout=_GRACE)
            if not ending.done():
                self._ray.cancel(task, force=True)
            raise
        return found

    def _has_room(self, request: StageRequest) -> bool:
        """Whether any node could run it once idle. Ray waits for one without saying so."""
        nodes = (node["Resources"] for node in self._ray.nodes() if node["Alive"])
        return any(
            node.get("CPU", 0) >= self._cores and node.get("memory", 0) >= request.memory for node in nodes
        )

    async def _look(self) -> None:
        """Pass what the board has to the observers, repeatedly; one of the running stagings does it for all."""
        async with self._looking:
            while True:
                # What was taken from the board must be passed on, or it is lost.
                with anyio.CancelScope(shield=True):
                    await self._show()
                await clock.sleep(_PROGRESS_EVERY)

    async def _show(self) -> None:
        newest: dict[str, list[Event]] = {}
        try:
            with anyio.move_on_after(_SETTLE):
                newest = await self._board.take.remote()
        except self._ray.exceptions.RayError:
            return  # only the display depends on it
        for key, events in newest.items():
            for event in events:
                self._observers.get(key, ignore)(event)  # its staging may have ended


class _Board:
    """The newest event of each kind of each run, until the driver takes them."""

    def __init__(self) -> None:
        self._newest: dict[str, dict[str, Event]] = {}

    def put(self, key: str, event: Event) -> None:
        """Take one event."""
        self._newest.setdefault(key, {})[type(event).__name__] = event

    def take(self) -> dict[str, list[Event]]:
        """The events since the last call."""
        taken, self._newest = self._newest, {}
        return {key: list(events.values()) for key, events in taken.items()}


def _connect(address: str | None) -> Any:
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise ConfigurationError(
            "Ray is not installed", hint="pip install 'riva-stream[ray]', here and on every node"
        ) from error
    if ray.is_initialized():
        return ray
    # For a cluster that is started here; an existing one has its own setting.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigurationError(
            f"the Ray cluster cannot be reached: {_reason(error)}",
            hint="check --ray-address and RAY_ADDRESS; ray status, on the head, shows whether it is up",
        ) from error
    return ray


def _reason(error: BaseException) -> str:
    """The first line of an error's text; if it has none, its type."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _work(run: RunOne, request: StageRequest, board: Any, key: str) -> StageReport | ErrorReport:
    """The task, in a Ray process on a node. It raises what Ray is to retry, and returns what is final.

    ``ray.cancel`` is a KeyboardInterrupt here, which ``asyncio.run`` turns into the cancellation of the run.
    """
    poster = _Poster(board, key)
    try:
        return asyncio.run(_to_the_end(run, request, throttled(poster, _PROGRESS_EVERY)))
    except TransientError:
        raise
    except Exception as error:  # noqa: BLE001 - told where it can be told
        return error_of(error)
    finally:
        poster.settle()


async def _to_the_end(run: RunOne, request: StageRequest, observer: Observer) -> StageReport:
    ticking = asyncio.ensure_future(_stay_awake())
    try:
        return await run(request, observer)
    finally:
        ticking.cancel()


async def _stay_awake() -> None:
    """Wake up regularly: an event loop that sleeps notices ``ray.cancel`` only when it wakes up."""
    while True:
        await clock.sleep(1.0)


class _Poster:
    """Posts events to the board, without waiting for any of them during the run."""

    def __init__(self, board: Any, key: str) -> None:
        self._board = board
        self._key = key
        self._last: Any = None

    def __call__(self, event: Event, /) -> None:
        self._last = self._board.put.remote(self._key, event)

    def settle(self) -> None:
        """Wait until the last event has arrived, and so all of them."""
        if self._last is not None:
            importlib.import_module("ray").wait([self._last], timeout=_SETTLE)


async def _stage(request: StageRequest, observer: Observer) -> StageReport:
    from riva_stream.pipeline import stage  # noqa: PLC0415 - the AWS libraries are for the nodes

    return await stage(request, observer=observer)
