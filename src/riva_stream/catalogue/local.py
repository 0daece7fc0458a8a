"""The engine of this host: a child process for each staging, as many at once as memory and cores allow.

A process pool would break with the first worker that the kernel kills; if a child dies, only its staging is retried.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast, get_args
from urllib.parse import urlsplit

import anyio
from pydantic import BaseModel, Field, TypeAdapter

from riva_stream.arguments import require_whole
from riva_stream.catalogue.engine import RunOne, StagingFailed, WorkerDiedError, error_of, store_of
from riva_stream.config import StageRequest
from riva_stream.errors import ConfigurationError, RivaStreamError, TransientError
from riva_stream.events import Event, Observer, Warned, kind_of
from riva_stream.preflight.host import free_memory
from riva_stream.redact import for_child
from riva_stream.report import ErrorReport, StageReport
from riva_stream.sizes import plain
from riva_stream.uris import partition_of

__all__ = ["LocalEngine", "arguments", "end_children", "environment_for", "stage_in_child", "state_of"]

_PROGRAM = (sys.executable, "-m", "riva_stream.child")
_MEMORY_SHARE = 0.8
"""The share of free memory that children may be given: other processes here may grow too."""
_GRACE = 120.0
"""Seconds that a child has to stop: a run's own clean-up is limited to less."""
_LAST_WORDS = 1.0
"""Seconds for which a child's pipes are read after it has ended: its own children may keep them open indefinitely."""
_SIGNALLED = 128
"""Exit codes above it mean, as in shells, that a signal ended the run."""
_OF_ONE_STAGING = frozenset(
    {"ENV", "ENV_VERSION", "MODEL_VERSION", "NVIDIA_DRIVERS_S3_BUCKET", "ARTIFACT_RETENTION_DAYS"}
    | {"REFERENCE_ONLY", "BINTARBALL_REFERENCE", "FORCE_DOWNLOAD", "DRY_RUN", "CHECKSUM_VALIDATION"}
    | {"RIVA_STREAM_CALLED_AS", "RIVA_STREAM_PARSE_ONLY"}
)
"""Variables, beside RIVA_*, by which the environment configures ``stage``: here only the catalogue does."""
_OF_LOGS = ("LOG_", "RIVA_STREAM_KEEP_RUNS")
"""Variables of a ``.env`` that children get: they do not read the file, which also configures ``stage``."""
_KINDS = {kind_of(kind): TypeAdapter[Event](kind) for kind in get_args(Event)}
_NO_ROOM = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
_groups: set[int] = set()
"""Process groups of all current children of this process."""


class LocalEngine:
    """Runs stagings in child processes.

    Args:
        at_once: stagings at the same time; None: as many as there are cores, and as fit into free memory.
        run: runs one staging; None: a child process, ``python -m riva_stream.child stage``.
        state_dir: where children leave state and logs, each in its own folder, see :func:`state_of`.
    """

    name = "local"

    def __init__(
        self, *, at_once: int | None = None, run: RunOne | None = None, state_dir: Path | None = None
    ) -> None:
        if at_once is not None:
            require_whole("at_once", at_once)
        self._at_once = at_once
        self._run = run or partial(stage_in_child, state_dir=state_dir or Path("state"))

    def at_once(self, requests: Sequence[StageRequest]) -> int:
        """As many as were requested, or as cores and memory allow."""
        if self._at_once is not None:
            return self._at_once
        slots = len(os.sched_getaffinity(0))
        free = free_memory()
        if free is not None:
            slots = min(slots, int(free.available * _MEMORY_SHARE) // max(r.memory for r in requests))
        return max(1, slots)

    async def stage(self, request: StageRequest, observer: Observer) -> StageReport:
        """Stage one request; a failure with 75, including a child that dies, is retried once."""
        try:
            return await self._run(request, observer)
        except (TransientError, StagingFailed) as error:
            failure = error_of(error)
            if failure.exit_code != TransientError.exit_code:
                raise
        observer(Warned(code="tried-again", message=f"tried again after: {failure.message}"))
        return await self._run(request, observer)


async def stage_in_child(
    request: StageRequest,
    observer: Observer,
    *,
    state_dir: Path,
    program: Sequence[str] | None = None,
    env_file: Mapping[str, str] | None = None,
) -> StageReport:
    """Stage a request in a child process: ``python -m riva_stream.child stage --json``.

    Args:
        request: what to stage.
        observer: is told of its progress, every few seconds.
        state_dir: the child's own state directory is in it.
        program: the command line without the command; None: this very program.
        env_file: the variables of a ``.env``. Of these, and of the environment's that it does not get, the child learns
            how to log, and what it must redact, through a pipe.

    Raises:
        StagingFailed: it failed.
        WorkerDiedError: it was killed, or left no valid report.
    """
    folder = state_of(request, state_dir).absolute()
    argv = [*(program or _PROGRAM), *arguments(request), f"--state-dir={folder}"]
    child = _Child(observer)
    environment = environment_for(request, env_file=env_file or {})
    names = [name.strip() for name in environment.get("LOG_REDACT", "").split(",")]
    try:
        # In its own session: Ctrl-C in the terminal reaches only this process, which then stops its children.
        transport, _ = await asyncio.get_running_loop().subprocess_exec(
            lambda: child,
            *argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise _not_started(error) from error
    _groups.add(group := transport.get_pid())
    try:
        stdin = cast(asyncio.WriteTransport, transport.get_pipe_transport(0))
        stdin.write(for_child(os.environ, env_file or {}, names=names))
        stdin.close()  # once all of it is written
        await child.ended.wait()
    except BaseException:
        with anyio.CancelScope(shield=True):
            transport.terminate()
            with anyio.move_on_after(_GRACE):
                await child.ended.wait()
        raise
    finally:
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(_LAST_WORDS if child.ended.is_set() else 0):
                await child.silent.wait()
            if not (child.ended.is_set() and child.silent.is_set()):
                _kill(group)
            _groups.discard(group)
            code = transport.get_returncode()
            transport.close()
            with anyio.move_on_after(_LAST_WORDS):
                await child.silent.wait()
    return _result(code, bytes(child.output))


def end_children() -> None:
    """Kill all children and their descendants at once: for a process that ends without waiting for anything."""
    for group in list(_groups):
        _kill(group)


def state_of(request: StageRequest, state_dir: Path) -> Path:
    """The folder of a child's state and log: no two stagings of one catalogue share it.

    It is named after the destination. Whatever else distinguishes stagings follows an ``@``, which no bucket name has.
    """
    marks, store = [request.bucket], store_of(request)
    if request.endpoint_url is not None:
        host = (urlsplit(request.endpoint_url).hostname or "")[:60].replace(":", "_")
        marks.append(f"{host}-{hashlib.sha256(store.encode()).hexdigest()[:8]}")
    elif store != partition_of(None):
        marks.append(store)
    if request.bintarball_reference:
        marks.append("bintarball")
    return state_dir.joinpath(
        "catalogue", "@".join(marks), request.env, request.model_name, request.model_version
    )


def _kill(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _not_started(error: OSError) -> RivaStreamError:
    message = f"no process could be started for this staging: {error.strerror or error}"
    if error.errno in _NO_ROOM:
        return TransientError(
            message, hint="lower --at-once, or raise the limits of this host (ulimit -u, ulimit -n)"
        )
    return ConfigurationError(
        message, hint="a description or another text of the entry may be too long for an argument"
    )


def arguments(request: StageRequest) -> list[str]:
    """The command line of a request: no secrets, and nothing that has its default."""
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
    if given.get("checkpoint") == 0:
        given["checkpoint"] = "off"
    for name, value in given.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        else:
            values = value if isinstance(value, list) else [value]
            words += [f"{flag}={plain(one) if isinstance(one, float) else one}" for one in values]
    return words


def environment_for(
    request: StageRequest,
    environment: Mapping[str, str] = os.environ,
    env_file: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """This process's environment, with its credentials, but without anything else that would configure ``stage``.

    Settings of logs that it lacks are those of ``env_file``.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if name not in _OF_ONE_STAGING and (not name.startswith("RIVA_") or name.startswith("RIVA_STREAM_"))
    }
    logs = {
        name: value
        for name, value in env_file.items()
        if name.startswith(_OF_LOGS) and not environment.get(name, "").strip()
    }
    own = {
        "RIVA_STREAM_ADDRESSING": request.addressing,
        "AWS_ENDPOINT_URL_S3": request.endpoint_url,
        "RIVA_SOURCE_ENDPOINT_URL": request.source_endpoint_url,
    }
    return kept | logs | {name: value for name, value in own.items() if value is not None}


class _Child(asyncio.SubprocessProtocol):
    """Listens to a process: its standard output is kept, events on its standard error are passed on."""

    def __init__(self, observer: Observer) -> None:
        self.output = bytearray()
        self.ended = anyio.Event()
        """The process has ended, though its own children may be running, and may hold its pipes."""
        self.silent = anyio.Event()
        """Nobody holds its pipes any more."""
        self._observer = observer
        self._rest = b""
        self._open = {1, 2}

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Keep output, or pass on events."""
        if fd == 1:
            self.output += data
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if (event := _event(line)) is not None:
                self._observer(event)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """Note that a pipe is closed."""
        del exc
        self._open.discard(fd)
        if not self._open:
            self.silent.set()

    def process_exited(self) -> None:
        """Note that the process has ended."""
        self.ended.set()


def _event(line: bytes) -> Event | None:
    """The event in a line of a child's log; None if there is none."""
    try:
        document: dict[str, Any] = json.loads(line)
        return _KINDS[document.pop("event")].validate_python(document)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


class _Error(ErrorReport):
    """A failure as a child prints it; it may have further fields."""

    where: dict[str, Any] = Field(default_factory=dict)
    exit_code: int = Field(gt=0)


class _Failed(BaseModel):
    error: _Error


_ANSWER = TypeAdapter[StageReport | _Failed](StageReport | _Failed)


def _result(code: int | None, output: bytes) -> StageReport:
    """The result of a child.

    Raises:
        StagingFailed: it reports that it failed.
        WorkerDiedError: a signal ended it, or its report cannot be read.
    """
    if code is None or code < 0:
        raise WorkerDiedError(
            f"the process of this staging was ended by {_signal_of(code)}",
            hint="if the kernel killed it for lack of memory (see dmesg): lower --at-once",
        )
    try:
        answer = _ANSWER.validate_json(output)
    except ValueError as error:
        raise WorkerDiedError(
            f"the process of this staging ended with exit code {code} and no report"
        ) from error
    if isinstance(answer, StageReport):
        return answer
    told = answer.error
    if told.exit_code > _SIGNALLED:
        raise WorkerDiedError(f"the process of this staging was stopped by a signal: {told.type}")
    place = ", ".join(f"{name} {value}" for name, value in told.where.items())
    message = f"{told.message} [{place}]" if place else told.message
    raise StagingFailed(ErrorReport.model_validate(told.model_dump() | {"message": message}))


def _signal_of(code: int | None) -> str:
    try:
        return signal.Signals(-code).name if code is not None else "SIGKILL"
    except ValueError:
        return f"signal {-code}"  # type: ignore[operator]  # of real time, which has no name
