"""A run, from its request: what its stages share, its state directory, and the watch over it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from riva_stream.config import StageRequest
from riva_stream.events import Observer
from riva_stream.flow.lanes import Lanes
from riva_stream.manifest import json_bytes
from riva_stream.pipeline.copies import COPIES
from riva_stream.pipeline.limits import stall_timeout
from riva_stream.redact import SECRETS
from riva_stream.retry import Retrier, RetryPolicy
from riva_stream.run import Meter, Run
from riva_stream.state import StateDirectory

__all__ = ["open_run"]

_FREE = ("source", "server_path", "replicate_to", "description")
"""Fields of a request in which anything may stand, a signature or a password too."""


@asynccontextmanager
async def open_run(request: StageRequest, run_id: str, observer: Observer) -> AsyncIterator[Run]:
    """A run that ends when nothing moves for ``request.timeout`` seconds. It has no stores yet.

    Raises:
        ConfigurationError: there is no place for its state.
        StalledError: so it is (in a group, with what it interrupted).
    """
    lanes = Lanes()
    meter = Meter(observer, lanes)
    retrier = Retrier(
        RetryPolicy(retries=request.retries),
        observer,
        meter.touch,
        slots=2 * request.connections + 8 + COPIES,
    )
    run = Run(request, run_id, observer, retrier, lanes, meter)
    # Whether there is a place for state is found out now, and not when the bytes are moved.
    given = request.model_dump(mode="json")
    # `status` reads the rest back, and there a short word that is somebody's password is just a word.
    kept = given | {name: SECRETS.value(given[name]) for name in _FREE}
    await StateDirectory(request.state_dir, run_id).write("request.json", json_bytes(kept))
    async with stall_timeout(meter, request.timeout):
        yield run
