"""The engine of this host: a child process for each staging, as many at once as memory and cores allow.

A process pool would break with the first worker that the kernel kills; a child that dies is one staging that is tried again.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, get_args

import anyio
from anyio.abc import ByteReceiveStream, Process

from riva_stream.catalogue.engine import StagingFailed, WorkerDiedError, error_of
from riva_stream.config import StageRequest
from riva_stream.errors import TransientError
from riva_stream.events import Event, Observer, Warned, kind_of
from riva_stream.preflight.host import free_memory
from riva_stream.report import ErrorReport, StageReport

__all__ = ["LocalEngine", "arguments", "environment_for", "stage_in_child"]

RunOne = Callable[[StageRequest, Observer], Awaitable[StageReport]]
"""Runs one staging, and raises what :class:`~riva_stream.catalogue.engine.Engine` says."""

_PROGRAM = (sys.executable, "-m", "riva_stream")
_RETRIES = 1
_MEMORY_SHARE = 0.8
"""Of the memory that is free now, what children may be given: what else runs here may grow too."""
_GRACE = 120.0
"""Seconds that a child has to stop: a run's own clean-up is limited to less."""
_SIGNALLED = 128
"""Exit codes above it, as shells count them, say that a signal ended the run."""
_OF_ONE_STAGING = frozenset(
    {"ENV", "ENV_VERSION", "MODEL_VERSION", "NVIDIA_DRIVERS_S3_BUCKET", "ARTIFACT_RETENTION_DAYS"}
    | {"REFERENCE_ONLY", "BINTARBALL_REFERENCE", "FORCE_DOWNLOAD", "DRY_RUN", "CHECKSUM_VALIDATION"}
)
"""Variables, beside RIVA_*, by which the environment tells ``stage`` what to stage: here the catalogue alone does."""
_KEPT = "RIVA_STREAM_"
_NAMES = {kind_of(kind): kind for kind in get_args(Event)}


class LocalEngine:
    """Child processes of this one.

    Args:
        at_once: stagings at the same time; None: as many as cores, and as fit into the memory that is free.
        run: runs one staging; None: a child process, ``python -m riva_stream stage``.
        state_dir: where children leave state and logs, each in a folder of its destination's name.
    """

    name = "local"

    def __init__(
        self, *, at_once: int | None = None, run: RunOne | None = None, state_dir: Path | None = None
    ) -> None:
        self._at_once = at_once
        self._run = run or partial(stage_in_child, state_dir=state_dir or Path("state"))

    def at_once(self, requests: Sequence[StageRequest]) -> int:
        """As many as were asked for, or as cores and memory allow."""
        if self._at_once is not None:
            return self._at_once
        slots = len(os.sched_getaffinity(0))
        free = free_memory()
        if free is not None:
            slots = min(slots, int(free.available * _MEMORY_SHARE) // max(r.memory for r in requests))
        return max(1, slots)

    async def stage(self, request: StageRequest, observer: Observer) -> StageReport:
        """Stage one request; what ends with 75, as a child that dies does, is tried again once."""
        left = _RETRIES
        while True:
            try:
                return await self._run(request, observer)
            except (TransientError, StagingFailed) as error:
                failure = error_of(error)
                if failure.exit_code != TransientError.exit_code or not left:
                    raise
                left -= 1
                observer(Warned(code="tried-again", message=f"tried again after: {failure.message}"))


async def stage_in_child(
    request: StageRequest, observer: Observer, *, state_dir: Path, program: Sequence[str] | None = None
) -> StageReport:
    """Stage a request in a child process: ``python -m riva_stream stage --json``.

    Args:
        request: what to stage.
        observer: is told of its progress, every few seconds.
        state_dir: the child's own state directory is in it.
        program: the command line without the command; None: this very program.

    Raises:
        StagingFailed: it failed.
        WorkerDiedError: it was killed, or said nothing that can be read.
    """
    folder = (
        state_dir / "catalogue" / request.bucket / request.env / request.model_name / request.model_version
    )
    argv = [*(program or _PROGRAM), *arguments(request), f"--state-dir={folder.absolute()}"]
    # In a session of its own: a Ctrl-C in the terminal is for this process, which then stops its children.
    process = await anyio.open_process(argv, env=environment_for(request), start_new_session=True)
    try:
        output = await _listen(process, observer)
        code = await process.wait()
    except BaseException:
        with anyio.CancelScope(shield=True):
            await _stop(process)
        raise
    finally:
        with anyio.CancelScope(shield=True):
            await process.aclose()
    return _result(code, output)


def arguments(request: StageRequest) -> list[str]:
    """The command line of a request: nothing that is secret, nothing that has its default."""
    mode = "full_download" if request.mode == "full" else request.mode
    words = [
        "stage",
        "--json",
        "--log-format=json",
        f"--env-file={os.devnull}",
        f"--{mode.replace('_', '-')}",
    ]
    elsewhere = {"reference_only", "bintarball_reference", "endpoint_url", "source_endpoint_url"}
    given = request.model_dump(
        mode="json", exclude_defaults=True, exclude=elsewhere | {"state_dir", "run_id"}
    )
    for name, value in given.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif name == "checkpoint" and not value:
            words.append(f"{flag}=off")
        elif isinstance(value, list):
            words += [f"{flag}={item}" for item in value]
        else:
            words.append(f"{flag}={value}")
    return words


def environment_for(request: StageRequest, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """This process's environment, with its credentials, but without what else would tell ``stage`` what to do.

    URLs of endpoints, which may hold a password, go this way too.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if name not in _OF_ONE_STAGING and (not name.startswith("RIVA_") or name.startswith(_KEPT))
    }
    kept["RIVA_STREAM_ADDRESSING"] = request.addressing
    for name in ("RIVA_STREAM_CALLED_AS", "RIVA_STREAM_PARSE_ONLY"):
        kept.pop(name, None)
    urls = {
        "AWS_ENDPOINT_URL_S3": request.endpoint_url,
        "RIVA_SOURCE_ENDPOINT_URL": request.source_endpoint_url,
    }
    return kept | {name: url for name, url in urls.items() if url is not None}


async def _listen(process: Process, observer: Observer) -> bytes:
    """All of standard output; what comes on standard error is told meanwhile."""
    assert process.stdout is not None  # noqa: S101 - both are pipes
    assert process.stderr is not None  # noqa: S101
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_tell, process.stderr, observer)
        pieces = [piece async for piece in process.stdout]
    return b"".join(pieces)


async def _tell(stream: ByteReceiveStream, observer: Observer) -> None:
    rest = b""
    async for piece in stream:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if (event := _event(line)) is not None:
                observer(event)


def _event(line: bytes) -> Event | None:
    """The event of a line of a child's log; None for what is none."""
    try:
        document: dict[str, Any] = json.loads(line)
        kind = _NAMES[document["event"]]
        known = {f.name for f in fields(kind)}
        found = {name: value for name, value in document.items() if name in known}
        event: Event = kind(**found)
    except (ValueError, KeyError, TypeError):
        return None
    return event


async def _stop(process: Process) -> None:
    """Ask a child to stop, wait until it has cleaned up, and kill it when it does not come to an end."""
    with anyio.move_on_after(_GRACE):
        if process.returncode is None:
            process.terminate()
        await _listen(process, lambda _: None)
        await process.wait()
    if process.returncode is None:
        process.kill()


def _result(code: int, output: bytes) -> StageReport:
    if code < 0:
        raise WorkerDiedError(
            f"the process of this staging was ended by {signal.Signals(-code).name}",
            hint="if that was the kernel for want of memory (dmesg): fewer --at-once",
        )
    try:
        document = json.loads(output)
        if "error" not in document:
            return StageReport.model_validate(document)
        error = document["error"]
        if error["exit_code"] > _SIGNALLED:
            raise WorkerDiedError(f"the process of this staging was stopped by a signal: {error['type']}")
        raise StagingFailed(ErrorReport.model_validate({**error, "message": _with_place(error)}))
    except ValueError as error:
        raise WorkerDiedError(
            f"the process of this staging ended with exit code {code} and no report"
        ) from error


def _with_place(error: Mapping[str, Any]) -> str:
    where = error.get("where") or {}
    place = ", ".join(f"{name} {value}" for name, value in where.items())
    return f"{error['message']} [{place}]" if place else str(error["message"])
