"""What several processes do to one bucket, seen on the wire: what they read, and whether two are at one prefix at once.

A process that is killed can tell nothing of itself, so all of them go through a proxy, which knows by the sockets whose
request it is, and by the journals which run that process is then.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.faultlog import Record
from tests.support.faultproxy import FaultProxy, Hook
from tests.support.servers import S3Server

__all__ = ["Change", "Reading", "Wire", "both_at_once", "client_of"]

_OWN_FOLDER = ".riva-stream/"
"""Of a prefix: where journals, checkpoints and probes are. All else is what readers see, or will."""
_JOURNAL = _OWN_FOLDER + "journal.json"
_LEVELS = 3
"""Of a prefix: environment, model, version."""


@dataclass(frozen=True, slots=True)
class Change:
    """A request that changes something below a prefix, the prefix's own folder apart."""

    prefix: str
    run: str
    """The token in the journal that its process wrote last at this prefix."""
    began: float
    ended: float
    """When the store had answered; when it began, where it never did."""
    what: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What one run was given of one object."""

    run: str
    """The token in the journal that its process wrote last, at whatever prefix."""
    key: str
    first: int
    """The first byte that it asked for."""
    size: int
    """Bytes, of all that it asked for, that were handed to its connections."""


def both_at_once(changes: list[Change]) -> list[str]:
    """Runs that changed a prefix while another one was not done with it, from its first change to its last."""
    spans: dict[tuple[str, str], tuple[float, float]] = {}
    for change in changes:
        first, last = spans.get((change.prefix, change.run), (change.began, change.ended))
        spans[change.prefix, change.run] = (min(first, change.began), max(last, change.ended))
    found = []
    latest: dict[str, tuple[float, str]] = {}
    """By prefix: until when it was changed, and by which run."""
    for (prefix, run), (first, last) in sorted(spans.items(), key=lambda item: item[1]):
        until, other = latest.get(prefix, (first, run))
        if first < until:
            found.append(f"{prefix}: run {run} began {until - first:.3f} s before run {other} was done")
        latest[prefix] = max((until, other), (last, run))
    return found


def client_of(port: int) -> int | None:
    """The process of this host whose socket has this port of the loopback; None where it is gone already."""
    sockets = set[str]()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if int(words[1].rpartition(":")[2], 16) == port:
            sockets.add(f"socket:[{words[9]}]")
    # The youngest first: it has connected a moment ago.
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda folder: -int(folder.name)):
        with suppress(OSError):
            if any(_leads_to(file, sockets) for file in (process / "fd").iterdir()):
                return int(process.name)
    return None


def _leads_to(file: Path, names: set[str]) -> bool:
    try:
        return str(file.readlink()) in names
    except OSError:  # closed meanwhile
        return False


class Wire:
    """A proxy in front of a server, and what went through it."""

    def __init__(self, server: S3Server) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._processes: dict[int, int | None] = {}
        """By the number of a connection."""
        self._runs: dict[tuple[int | None, str], str] = {}
        """By process and prefix."""
        self._holders: dict[str, str] = {}
        """By prefix: the run that wrote the last journal there."""
        self._journals: list[tuple[int, int, str]] = []
        """Of each write: the number of the request, process and token."""
        self._changes: dict[int, Change] = {}
        self._proxy = FaultProxy(
            server, hooks=[Hook(self._arrived), Hook(self._answered, "response")], connected=self._connected
        )

    @contextmanager
    def open(self) -> Iterator[str]:
        """Gives the URL of the endpoint."""
        with self._proxy.in_thread() as proxy:
            yield proxy.endpoint_url

    def readings(self, keys: str) -> list[Reading]:
        """Of the objects that fit a glob."""
        found: dict[tuple[str, str], Reading] = {}
        for record in self._proxy.select("GetObject", keys):
            run, first = self._reader(record), (record.range or (0, None))[0] or 0
            before = found.get((run, record.key), Reading(run, record.key, first, 0))
            size = before.size + record.sent
            found[run, record.key] = Reading(run, record.key, min(first, before.first), size)
        return list(found.values())

    @property
    def changes(self) -> list[Change]:
        """All so far."""
        with self._lock:
            return list(self._changes.values())

    def _connected(self, number: int, port: int) -> None:
        self._processes[number] = client_of(port)

    def _arrived(self, record: Record) -> None:
        if (prefix := _prefix(record.key)) is None or record.key.startswith(prefix + _OWN_FOLDER):
            return
        now = time.monotonic()
        process = self._processes[record.connection]
        with self._lock:
            # Of a process that was gone before it could be asked for, it is taken to be the run that held the prefix.
            known = self._holders.get(prefix) if process is None else self._runs.get((process, prefix))
            run = known or _without_journal(process)
            what = f"{record.operation} {record.key.removeprefix(prefix)}"
            self._changes[record.number] = Change(prefix, run, now, now, what)

    def _answered(self, record: Record) -> None:
        prefix = _prefix(record.key)
        if prefix is not None and record.key == prefix + _JOURNAL and record.operation == "PutObject":
            self._learn(record, prefix)
        with self._lock:
            if (change := self._changes.get(record.number)) is not None:
                fields = (change.prefix, change.run, change.began, time.monotonic(), change.what)
                self._changes[record.number] = Change(*fields)

    def _learn(self, record: Record, prefix: str) -> None:
        """Which run a process is: it waits for the answer, so what is there now is its journal, or already another's."""
        answer = self._server.client().get_object(Bucket=record.bucket, Key=record.key)
        journal = json.loads(answer["Body"].read())
        process, token = journal["process"]["pid"], journal["token"]
        if process == self._processes[record.connection]:
            with self._lock:
                self._runs[process, prefix] = self._holders[prefix] = token
                self._journals.append((record.number, process, token))

    def _reader(self, record: Record) -> str:
        process = self._processes[record.connection]
        with self._lock:
            written = [(number, token) for number, writer, token in self._journals if writer == process]
        before = [entry for entry in written if entry[0] < record.number]
        return max(before)[1] if before else _without_journal(process)


def _without_journal(process: int | None) -> str:
    return f"without a journal, of process {process}"


def _prefix(key: str) -> str | None:
    levels = key.split("/")
    return "/".join(levels[:_LEVELS]) + "/" if len(levels) > _LEVELS else None
