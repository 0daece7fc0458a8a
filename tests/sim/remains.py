"""What a world is once its runs have ended: others can go on from there, and two that differ in names alone are one.

A cell is a run that is broken, and what is run after it. What comes after finds nothing but what is in the store (and
what the judge has noted of it), so it is simulated once for all breaks that leave the same behind: the same but for ids
that were drawn, the time of day, and how long things took.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from riva_stream.s3.memory import MemoryStore
from riva_stream.s3.memory_shelf import MemoryObject, Upload
from tests.sim.judge import Judge
from tests.sim.loop import State
from tests.sim.network import Request
from tests.sim.process import Process
from tests.sim.schedules import Plain
from tests.sim.sources import SOURCE_BUCKET
from tests.sim.world import World

__all__ = ["Remains"]

_DOCUMENTS = (".json", ".txt", ".sha256")
_INTERNAL = "/.riva-stream/"
_DRAWN = re.compile(
    r"130-\d{8}-\d{6}-[0-9a-f]{8}"  # a run id
    r"|\b0{20}[0-9a-f]{12}\b"  # an UploadId of the store in memory
    r"|\b[0-9a-f]{16}\b"  # a token
)
_TIMES = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)?")
_DURATIONS = re.compile(r'"(\w*seconds\w*|mib_per_second)": [\d.e-]+')


@dataclass(frozen=True, eq=False)
class Remains:
    """A world in which nothing runs."""

    store: MemoryStore
    judge: Judge
    now: float
    processes: tuple[Process, ...]
    late: tuple[tuple[float, Request], ...]
    """What is still to take effect, and when."""

    @classmethod
    def of(cls, world: World) -> Remains | None:
        """What is left of it; None once a promise is broken, or where something of a run has not ended with it."""
        processes = tuple(world.processes)
        if world.violations or world.network.on_hold or not all(map(_has_stopped, processes)):
            return None
        return cls(world.store, world.judge, world.loop.now, processes, tuple(world.network.late))

    def world(self, trace: Callable[[str], None] | None = None) -> World:
        """Another world that goes on from here."""
        world = World(self.store.copy(), Plain(), trace=trace)
        world.go_on_from(self.judge, self.now, self.processes, self.late)
        return world

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is still to change."""
        return not any(request.changes for _, request in self.late)

    @cached_property
    def fingerprint(self) -> str:
        """The same for all quiet remains that differ in names and times alone.

        Who is told apart too often costs time, who is not would go unseen: what is not known to be a name or a time
        stays as it is, and so does the age of what a lease goes by.
        """
        return hashlib.sha256(_renamed("\n".join(self._told())).encode()).hexdigest()

    def _told(self) -> Iterator[str]:
        own = self.store._buckets[self.judge.bucket]
        documents = [found for found in own.below("") if found.key.endswith(_DOCUMENTS)]
        names, sizes = _derived(documents), _sizes(documents)
        for bucket in (SOURCE_BUCKET, self.judge.bucket):
            contents = self.store._buckets[bucket]
            for found in contents.below(""):
                yield _replaced(self._object(found), names, sizes)
            for upload in contents.uploads.values():
                yield self._upload(upload)
        yield str([process.is_over for process in self.processes])
        yield str(self.judge.noted)

    def _object(self, found: MemoryObject) -> str:
        is_document = found.key.endswith(_DOCUMENTS)
        about = (
            found.key,
            found.etag,
            found.crc64nvme,
            found.content_type,
            sorted(found.metadata.items()),
            sorted(found.tags.items()),
            len(found.parts) if is_document else found.parts,
            self.judge.is_noted(found.key),
            self._age(found.last_modified) if _INTERNAL in found.key else "",
        )
        data = found.data.decode() if is_document else hashlib.sha256(found.data).hexdigest()
        return f"{about} {data}"

    def _upload(self, upload: Upload) -> str:
        about = (
            upload.key,
            upload.upload_id,
            upload.content_type,
            sorted(upload.metadata.items()),
            sorted(upload.tags.items()),
            upload.declared,
            [(number, part.md5.hex(), part.crc64nvme) for number, part in sorted(upload.parts.items())],
            self.judge.is_noted(upload.upload_id),
            self._age(upload.initiated),
        )
        return str(about)

    def _age(self, since: datetime) -> str:
        """In whole milliseconds."""
        return f"{round((self.now - since.timestamp()) * 1000)} ms"


def _derived(documents: Sequence[MemoryObject]) -> dict[str, str]:
    """What other documents say of a document, in place of which they name it: the documents have names and times in them."""
    names: dict[str, str] = {}
    for found in documents:
        names[found.etag] = f"<etag of {found.key}>"
        names[hashlib.sha256(found.data).hexdigest()] = f"<sha256 of {found.key}>"
        if found.crc64nvme:
            names[found.crc64nvme] = f"<crc64nvme of {found.key}>"
    return names


def _sizes(documents: Sequence[MemoryObject]) -> list[re.Pattern[str]]:
    """The same of the size of each, which depends on how many digits a duration has."""
    return [
        re.compile(rf'("s3_key": "{re.escape(found.key)}",\s+"size_bytes": ){len(found.data)}\b')
        for found in documents
    ]


def _replaced(text: str, names: Mapping[str, str], sizes: Sequence[re.Pattern[str]]) -> str:
    for old, new in names.items():
        text = text.replace(old, new)
    for size in sizes:
        text = size.sub(r"\1<size>", text)
    return text


def _renamed(text: str) -> str:
    """The same with names by the order in which they come, and without times."""
    numbers: dict[str, str] = {}
    named = _DRAWN.sub(lambda found: numbers.setdefault(found[0], f"<{len(numbers)}>"), text)
    return _DURATIONS.sub(r'"\1": <seconds>', _TIMES.sub("<time>", named))


def _has_stopped(process: Process) -> bool:
    """Whether nothing of it can run any more, or send what it has begun to send."""
    if process.in_flight:
        return False
    return process.host.state is State.DEAD or all(task.done() for task in process.host.tasks)
