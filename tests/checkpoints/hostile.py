"""Snapshots that somebody has changed, restored in child processes: one that dies, hangs or grows is found by its parent."""

from __future__ import annotations

import base64
import hashlib
import json
import multiprocessing
import os
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from riva_stream.archive import Extractor, InvalidSnapshotError, Limits, MemberData, MemberEnd
from riva_stream.archive.inflate import NativeInflater
from riva_stream.errors import ArchiveError
from tests.checkpoints.archives import quick_case

__all__ = ["OPTIONS", "Report", "change_value", "mutated", "run", "snapshots_of"]

_LIMITS = Limits(
    members=500,
    matching_members=60,
    header_bytes=1 << 15,
    expanded_bytes=1 << 24,
    streams=5000,
    zstd_window=1 << 23,
)
OPTIONS: dict[str, Any] = {"include": ("*.bin",), "limits": _LIMITS}
_BATCH = 250
_SECONDS = 120.0
"""For one batch: a hundred times what it takes."""
_MEMORY = 1 << 30
"""Bytes of address space that a child may take on top of what it begins with."""
_EDGES = (
    0,
    1,
    7,
    8,
    63,
    64,
    255,
    511,
    512,
    4095,
    4096,
    32767,
    32768,
    65536,
    1 << 31,
    1 << 32,
    (1 << 63) - 1,
    1 << 63,
)


@dataclass(slots=True)
class Report:
    """What the changed snapshots came to."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    most_memory: int = 0
    """Bytes that were resident at most in one child."""


def snapshots_of(archive: bytes, rng: random.Random) -> list[bytes]:
    """Some of the snapshots that reading it gives."""
    found: list[bytes] = []
    extractor = Extractor(**OPTIONS)
    at = 0
    while at < len(archive):
        size = rng.randint(1, 20_000)
        extractor.push(archive[at : at + size])
        at += size
        while not extractor.needs_input:
            if rng.random() < 0.5:
                extractor.mark()
            extractor.pull(rng.choice((700, 5000, 50_000)), until=rng.choice((0, 300, 5000)))
            snapshot = extractor.snapshot() if rng.random() < 0.3 else None
            if snapshot is not None:
                found.append(snapshot.data)
    return rng.sample(found, min(len(found), 6))


def mutated(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """The snapshot with one to three changes: of its bytes, of the values in it, or with parts of another one."""
    if rng.random() < 0.15:
        return _bytes_changed(data, rng)
    document, donor = json.loads(data), json.loads(other)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _change(document, donor, rng)
    return json.dumps(document).encode()


def _bytes_changed(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    at = rng.randrange(len(changed))
    match rng.randrange(4):
        case 0:
            del changed[at:]
        case 1:
            changed[at] ^= 1 << rng.randrange(8)
        case 2:
            changed[at:at] = changed[rng.randrange(len(changed)) :][: rng.randrange(200)]
        case _:
            changed = bytearray(rng.randbytes(rng.randrange(300)))
    return bytes(changed)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [path] if path else []
    for key, inner in items:
        found += _places(inner, (*path, key))
    return found


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _change(document: Any, donor: Any, rng: random.Random) -> None:
    places = _places(document)
    # The layers count for as much as the listing, however long that is.
    if rng.random() < 0.8:
        places = [place for place in places if place[0] != "found"] or places
    place = rng.choice(places)
    holder, key = _at(document, place[:-1]), place[-1]
    if rng.random() < 0.15:
        try:
            holder[key] = _at(donor, place)
        except (KeyError, IndexError, TypeError):
            holder[key] = None
        return
    holder[key] = _other(holder[key], rng)


def change_value(document: Any, rng: random.Random, *, without: Collection[str] = ()) -> None:
    """Put another value in place of one of a document, but of none below the keys ``without``."""
    place = rng.choice([place for place in _places(document) if not {*without} & {*place}])
    holder, key = _at(document, place[:-1]), place[-1]
    holder[key] = _other(holder[key], rng)


def _other(value: Any, rng: random.Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice(
            (value + 1, max(0, value - 1), value ^ 1 << rng.randrange(40), rng.choice(_EDGES), -1, value * 2)
        )
    if isinstance(value, str):
        return _other_text(value, rng)
    if isinstance(value, list):
        return rng.choice((value[:-1], value + value[:1], [], value * 3, value[::-1]))
    return rng.choice((None, {}, [], 0, 1, "", "AAAA", [[0, 1]], {"size": 1}))


def _other_text(value: str, rng: random.Random) -> Any:
    try:
        raw = bytearray(base64.b64decode(value, validate=True))
    except ValueError:
        raw = bytearray()
    if raw and rng.random() < 0.7:
        match rng.randrange(4):
            case 0:
                raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
            case 1:
                del raw[rng.randrange(len(raw)) :]
            case 2:
                raw += raw[: rng.randrange(1, 40_000)]
            case _:
                raw[:] = rng.randbytes(len(raw))
        return base64.b64encode(raw).decode()
    return rng.choice(
        ("", value + "A", value[:-1], value * 2, "x" * rng.randrange(5000), None, 1, "data", "header")
    )


def _outcome(data: bytes, archive: bytes) -> tuple[str, str]:
    """How it ended, and the digest of all that came out."""
    try:
        extractor, snapshot = Extractor.restore(data, **OPTIONS)
    except InvalidSnapshotError:
        return "refused", ""
    digest = hashlib.sha256()
    try:
        for at in range(snapshot.offset, len(archive) + 30_000, 30_000):
            while not extractor.needs_input:
                for event in extractor.pull(1 << 17):
                    if isinstance(event, MemberData):
                        digest.update(event.data)
                    elif isinstance(event, MemberEnd):
                        digest.update(repr(event.member).encode())
            extractor.push(archive[at : at + 30_000])
        digest.update(repr(extractor.finish()).encode())
    except ArchiveError:
        return "refused by what the archive then was", ""
    return "read to its end", digest.hexdigest()


def _child(pipe: Connection, archive: bytes, pristine: list[bytes], begun: int, chosen_seed: int) -> None:
    NativeInflater()
    _forget_peak()
    before = _peak()
    now = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + _MEMORY, now + _MEMORY))
    right = {data: _outcome(data, archive)[1] for data in pristine}
    for number in range(begun, begun + _BATCH):
        rng = random.Random(f"{chosen_seed}/{number}")
        data = rng.choice(pristine)
        changed = mutated(data, rng.choice(pristine), rng)
        pipe.send(("at", number, changed))
        how, digest = _outcome(changed, archive)
        if how == "read to its end":
            how = (
                "read to its end, with the same bytes"
                if digest == right[data]
                else "read to its end, with other bytes"
            )
        pipe.send(("done", how))
    pipe.send(("end", _peak() - before))


def _peak() -> int:
    """Bytes that were resident at once at most, since :func:`_forget_peak` or the start of the process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def _forget_peak() -> None:
    """What the process has from the one that it was forked from does not count (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def run(count: int, chosen_seed: int, workers: int | None = None) -> Report:
    """Restore ``count`` changed snapshots; every ``_BATCH`` of them belong to an archive of their own."""
    report = Report()
    context = multiprocessing.get_context("fork")
    batches = list(range(0, count, _BATCH))
    running: dict[Connection, _Batch] = {}
    while batches or running:
        while batches and len(running) < (workers or os.cpu_count() or 1):
            batch = _Batch.begin(context, batches.pop(), chosen_seed)
            running[batch.pipe] = batch
        for pipe in wait(list(running), timeout=1.0):
            assert isinstance(pipe, Connection)
            if not running[pipe].read(report):
                del running[pipe]
        for pipe, batch in list(running.items()):
            if time.monotonic() > batch.deadline:
                batch.end(report, "hung")
                del running[pipe]
    return report


@dataclass(slots=True)
class _Batch:
    process: Any
    pipe: Connection
    deadline: float
    number: int = -1
    changed: bytes = b""

    @classmethod
    def begin(cls, context: Any, begun: int, chosen_seed: int) -> _Batch:
        rng = random.Random(f"{chosen_seed}/archive/{begun}")
        pristine: list[bytes] = []
        while not pristine:
            archive = quick_case(rng)
            pristine = snapshots_of(archive, rng)
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(theirs, archive, pristine, begun, chosen_seed))
        process.start()
        theirs.close()
        return cls(process, ours, time.monotonic() + _SECONDS)

    def read(self, report: Report) -> bool:
        """Take one message; whether there may be more."""
        try:
            what, *rest = self.pipe.recv()
        except EOFError:
            self.end(report, "crashed")
            return False
        if what == "at":
            self.number, self.changed = rest
        elif what == "done":
            report.counts[rest[0]] += 1
        else:
            report.most_memory = max(report.most_memory, rest[0])
            self.process.join()
            return False
        return True

    def end(self, report: Report, how: str) -> None:
        if how == "hung":
            self.process.kill()
        self.process.join()
        report.counts[how] += 1
        print(f"{how}: number {self.number}", file=sys.stderr)  # noqa: T201
        report.failures.append(
            f"{how} (exit {self.process.exitcode}): number {self.number}: {self.changed[:3000]!r}"
        )
