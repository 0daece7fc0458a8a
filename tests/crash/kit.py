"""A bucket for one trial, the runs in it, and many trials side by side."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from riva_stream.sizes import MIB
from tests.staging import PREFIX, SOURCE_KEY, Place
from tests.support.archives import Archive, archive_bytes
from tests.support.faultlog import Record
from tests.support.faultproxy import FaultProxy, Hook
from tests.support.process import ProcessReport, RunningProcess, start
from tests.support.servers import S3Server

__all__ = ["JOURNAL", "PART", "SCRATCH", "Actor", "Ground", "Source", "Tape", "Trial", "say", "side_by_side"]

T = TypeVar("T")

JOURNAL = f"{PREFIX}.riva-stream/journal.json"
SCRATCH = "*/.riva-stream/*"
"""A glob over keys of the tool's own."""
PART = 5 * MIB
PATIENCE = 120.0
"""Seconds that a run may take before it counts as hung."""


def say(text: str) -> None:
    """One line to standard output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@dataclass(frozen=True, slots=True)
class Source:
    """An archive that lies ready. Both of a ground's sources have the same file name: their stagings have the same
    keys, so that a mixture of them would show by its bytes alone."""

    uri: str
    data: bytes = field(repr=False)
    archive: Archive = field(repr=False)

    @property
    def object_bytes(self) -> int:
        """What a staging of it uploads: the archive and its models."""
        return self.archive.size + sum(member.size for member in self.archive.rivas)


class Ground:
    """A server, two sources on it, and a folder for everything local. A context manager."""

    def __init__(self, server: S3Server, size: int = 11 * MIB, *, lease: float = 1.0) -> None:
        self.server, self.lease = server, lease
        self._bucket = server.new_bucket("sources")
        self.one, self.two = (self._source(name, size) for name in ("one", "two"))
        self.folder = Path(tempfile.mkdtemp(prefix="riva-crash-"))

    def _source(self, name: str, size: int) -> Source:
        data, archive = archive_bytes(size, members=2, seed=name)
        key = f"{name}/{SOURCE_KEY.rpartition('/')[2]}"
        self.server.client().put_object(Bucket=self._bucket, Key=key, Body=data)
        return Source(f"s3://{self._bucket}/{key}", data, archive)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.server.remove_bucket(self._bucket)

    @contextlib.contextmanager
    def trial(self, name: str) -> Iterator[Trial]:
        """A bucket of its own for one trial."""
        bucket = self.server.new_bucket("crash")
        folder = self.folder / name
        try:
            yield Trial(self, Place(self.server, bucket), folder)
        finally:
            self.server.remove_bucket(bucket)
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Trial:
    """One bucket; each run in it has a host id, a state directory and a proxy of its own."""

    ground: Ground
    place: Place
    folder: Path

    def actor(self, host: str, source: Source, *flags: str) -> Actor:
        return Actor(self, host, source, flags)

    @property
    def open_uploads(self) -> list[str]:
        """Keys with an upload open, the tool's own scratch upload left out."""
        return [key for key in self.place.open_uploads() if "/.riva-stream/" not in key]

    def journal(self) -> dict[str, Any] | None:
        """The journal as it stands in the bucket."""
        if JOURNAL.removeprefix(PREFIX) not in self.place.names():
            return None
        document: dict[str, Any] = json.loads(self.place.read(JOURNAL))
        return document


@dataclass(slots=True)
class Tape:
    """When each mutating request came to the proxy, and when the store had answered it, in seconds."""

    came: dict[int, float] = field(default_factory=dict)
    answered: dict[int, float] = field(default_factory=dict)

    @property
    def hooks(self) -> list[Hook]:
        return [Hook(self._came), Hook(self._answered, when="response")]

    async def _came(self, record: Record) -> None:
        self.came[record.number] = time.monotonic()

    async def _answered(self, record: Record) -> None:
        if record.upstream_status is not None and record.upstream_status < 300:
            self.answered[record.number] = time.monotonic()


class Actor:
    """One run of the command line, seen through its proxy.

    A context manager: inside it the proxy is up; rules and hooks go in before `launch`.
    """

    process: RunningProcess

    def __init__(self, trial: Trial, host: str, source: Source, flags: Sequence[str]) -> None:
        self.trial, self.host = trial, host
        self.proxy, self.tape = FaultProxy(trial.place.server), Tape()
        self.proxy.hooks += self.tape.hooks
        self._argv = [
            sys.executable,
            "-m",
            "riva_stream",
            "stage",
            f"--source={source.uri}",
            f"--bucket={trial.place.bucket}",
            "--env=prod",
            "--model-name=parakeet-rnnt-en-us",
            "--model-version=v2025.09",
            f"--part-size={PART}",
            f"--lease={trial.ground.lease:g}",
            "--connections=3",
            "--source-copy=send",  # the accounts are about what is sent
            "--json",
            *flags,
        ]
        self._stack = contextlib.ExitStack()
        self._ended: concurrent.futures.Future[ProcessReport]

    def __enter__(self) -> Self:
        self._stack.enter_context(self.proxy.in_thread())
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.__exit__(None, None, None)

    def launch(self) -> Self:
        """Start the process."""
        environment = self.trial.place.server.environment(self.proxy.endpoint_url)
        environment["RIVA_STREAM_HOST_ID"] = self.host
        environment |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
        self.process = self._stack.enter_context(
            start(self._argv, folder=self.trial.folder / self.host, env=environment)
        )
        waiter = self._stack.enter_context(concurrent.futures.ThreadPoolExecutor(1))
        self._ended = waiter.submit(self.process.wait, PATIENCE)
        return self

    @property
    def is_over(self) -> bool:
        """Whether the process has ended."""
        return self._ended.done()

    def wait(self) -> ProcessReport:
        """Wait for its end."""
        return self._ended.result()

    def until(self, holds: Callable[[], bool]) -> bool:
        """Wait until *holds*, or the process has ended. True: it holds."""
        while not holds():
            if self.is_over:
                return holds()
            time.sleep(0.001)
        return True

    def kill(self) -> ProcessReport:
        """kill -9, and wait until what it had handed to its kernel went through the proxy."""
        self.process.send_signal(signal.SIGKILL)
        return self.wait()

    def settle(self) -> None:
        """Wait until no request is under way any more."""
        quiet = 0
        give_up = time.monotonic() + 30
        while quiet < 3 and time.monotonic() < give_up:
            time.sleep(0.01)
            quiet = 0 if any(record.outcome == "open" for record in self.proxy.log) else quiet + 1

    def account(self) -> str:
        """How it ended and the last it asked for: for a failure's message."""
        report = self.wait()
        lines = [
            f"    {r.number} {r.operation} {r.key.removeprefix(PREFIX)} part={r.part} {r.upstream_status} {r.outcome}"
            for r in self.proxy.select("mutating")[-24:]
        ]
        return "\n".join(
            [f"  {self.host}: exit {report.exit_code}", *report.stderr.splitlines()[-12:], *lines]
        )

    @property
    def outcome(self) -> str:
        """``staged``, ``already_staged``, ...; the error's kind for a run that failed; "" for one that was killed."""
        report = self.wait()
        if not report.stdout.strip():
            return ""
        document = json.loads(report.stdout)
        return str(document["outcome"] if "outcome" in document else document["error"]["type"])


def side_by_side(jobs: int, count: int, seed: object, act: Callable[[int, random.Random], T]) -> Iterator[T]:
    """``act(index, chance)`` for each index below *count*, *jobs* at a time, results in the order of the indices.

    The chance of a trial hangs on seed and index alone, so one trial can be done again.
    """
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(act, index, random.Random(f"{seed}/{index}")) for index in range(count)]
        for future in futures:
            yield future.result()
