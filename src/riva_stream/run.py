"""What all stages of one run share."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TypeVar

import anyio

from riva_stream import clock
from riva_stream.config import StageRequest
from riva_stream.deployment import SAVED
from riva_stream.errors import ConfigurationError, first_of
from riva_stream.events import Observer, Progress, Warned
from riva_stream.flow.lanes import Lanes
from riva_stream.layout import Layout
from riva_stream.retry import Retrier
from riva_stream.s3 import Bucket, LeftUpload, Reader
from riva_stream.sink import Tagging, Upload
from riva_stream.sizes import MOST_PARTS
from riva_stream.state import clear_state, write_state

__all__ = ["Meter", "Run", "gather_bounded"]


T = TypeVar("T")
R = TypeVar("R")

_STATE_SECONDS = 2.0
"""Time limit of one file in the state directory: the heartbeat waits for it."""
_TASKS = 8
_INTERVAL = 0.1


@dataclass(eq=False)
class Meter:
    """The byte counters of a run; none of them ever decreases.

    Every change counts as progress for the watchdog; at most one :class:`Progress` goes out per 0.1 s.
    """

    observer: Observer
    lanes: Lanes
    counts: tuple[str, ...] = ("fetched", "hashed", "extracted", "durable")
    """As in :class:`Progress`."""
    source_size: int = 0
    own_keys: frozenset[str] = frozenset()
    """Keys of the source's own bytes."""
    fetched: int = 0
    expanded: int = 0
    durable: int = 0
    durable_source: int = 0
    skipped: int = 0
    """Bytes of the source that an earlier run read: counted as if this one had, except in its lanes' own bytes."""
    kept: int = 0
    """Bytes of the source's own object that an earlier run made durable: counted likewise."""
    copied: int = 0
    moved_at: float = field(default_factory=clock.monotonic)
    _began: float = field(default_factory=clock.monotonic)
    _told_at: float = 0.0

    def begin(self, source_size: int, *, skipped: int, kept: int, bare: bool) -> None:
        """Note that reading of the source starts. On a second reading, the counts reported before stay."""
        self.source_size = source_size
        self.skipped, self.kept = max(self.skipped, skipped), max(self.kept, kept)
        if bare:
            self.counts = tuple(count for count in self.counts if count != "extracted")

    def add(
        self,
        *,
        fetched: int = 0,
        expanded: int = 0,
        durable: int = 0,
        durable_source: int = 0,
        copied: int = 0,
    ) -> None:
        """Count bytes that moved."""
        self.fetched += fetched
        self.expanded += expanded
        self.durable += durable
        self.durable_source += durable_source
        self.copied += copied
        self.moved_at = clock.monotonic()
        if self.moved_at - self._told_at >= _INTERVAL:
            self.tell()

    def add_durable(self, upload: Upload, size: int) -> None:
        """Count a part of an upload that became durable."""
        self.add(durable=size, durable_source=size if upload.key in self.own_keys else 0)

    def add_copied(self, upload: Upload, size: int) -> None:
        """Count a part of an upload that the store copied."""
        self.add(copied=size, durable_source=size if upload.key in self.own_keys else 0)

    def touch(self) -> None:
        """Note that a request was answered: nothing to count, but the run is alive."""
        self.moved_at = clock.monotonic()

    def tell(self) -> None:
        """Report the counters now."""
        self._told_at = clock.monotonic()
        self.observer(
            Progress(
                source_size=self.source_size,
                fetched=self.skipped + self.fetched,
                hashed=self.skipped + self.lanes.hash.bytes,
                extracted=self.skipped + self.lanes.extract.bytes if "extracted" in self.counts else 0,
                expanded=self.expanded,
                durable=self.durable,
                durable_source=min(self.kept + self.durable_source, self.source_size),
                copied=self.copied,
                resumed_from=self.skipped,
                elapsed=self._told_at - self._began,
                bottleneck=self.lanes.bottleneck(),
                counts=self.counts,
            )
        )


@dataclass(eq=False)
class Run:
    """One call of :func:`~riva_stream.stage`."""

    request: StageRequest
    run_id: str
    observer: Observer
    retrier: Retrier
    lanes: Lanes
    meter: Meter
    destination: Bucket = field(init=False)
    """Read-only: changes are made by the :class:`~riva_stream.destination.Destination` alone."""
    source_store: Reader = field(init=False)
    """The store that holds the source; often the same."""
    one_principal: bool = field(default=False, init=False)
    """Whether the destination's credentials and endpoint are the source's as well, so that its store may copy."""
    started_at: datetime = field(default_factory=clock.now)
    warnings: list[Warned] = field(default_factory=list)
    tagging: Tagging = field(init=False)
    most_parts: int = MOST_PARTS
    """Parts that the destination allows in an upload, as far as is known."""
    _state_hangs: bool = field(default=False, init=False)
    """The state directory has blocked a write for longer than a lease can afford."""
    _forgetting: anyio.Lock = field(default_factory=anyio.Lock, init=False)
    _has_forgotten: bool = field(default=False, init=False)
    """Whether what an earlier run with the same id has saved is gone."""
    _wall: float = field(default_factory=clock.monotonic)
    _cpu: float = field(default_factory=clock.cpu)

    def __post_init__(self) -> None:
        self.tagging = Tagging(self.request.tags, partial(self.warn, "tags"))

    def warn(self, code: str, message: str) -> None:
        """Tell the observer, and keep the warning for the report; once."""
        warning = Warned(code=code, message=message)
        if warning not in self.warnings:
            self.warnings.append(warning)
            self.observer(warning)

    def part_size_for(self, size: int) -> int:
        """Bytes of a part for an object of ``size`` bytes that goes to the destination."""
        return self.request.part_size_for(size, self.most_parts)

    @property
    def layout(self) -> Layout:
        """The keys of the staging."""
        return Layout(self.request.bucket, self.request.prefix)

    def warn_scratch(self, left: LeftUpload) -> None:
        """Warn that a scratch upload may still be open."""
        self.warn("scratch-upload", str(left))

    async def save_copy(self, name: str, data: bytes) -> None:
        """Save a copy in the state directory; a failure is worth one warning, and no more."""
        # The bucket's copy is the one that counts.
        if self._state_hangs:
            return
        try:
            with anyio.fail_after(_STATE_SECONDS):
                await self._forget_earlier_run()
                await write_state(self.request.state_dir, self.run_id, name, data)
        except ConfigurationError as error:
            self.warn("state", str(error))
        except TimeoutError:
            self._state_hangs = True  # each further attempt would tie up another thread
            self.warn(
                "state", f"the state directory accepted no file within {_STATE_SECONDS:g} s, and gets no more"
            )

    async def _forget_earlier_run(self) -> None:
        """Remove, once, what an earlier run with the same id has saved: it must not pass for this one's.

        Not before this run saves something: until then the other one may be alive, and hold the prefix.
        """
        async with self._forgetting:
            if not (self._has_forgotten or self.request.dry_run):
                await clear_state(self.request.state_dir, self.run_id, SAVED)
            self._has_forgotten = True

    @property
    def wall_seconds(self) -> float:
        """Seconds since the run began."""
        return clock.monotonic() - self._wall

    @property
    def cpu_seconds(self) -> float:
        """User and system time of this process since the run began, including that of other runs in it."""
        return clock.cpu() - self._cpu

    async def renew_sessions(self) -> bool:
        """Read the credentials again; return whether that was possible."""
        stores = {id(store): store for store in (self.destination.store, self.source_store)}
        return all([await store.renew() for store in stores.values()])

    def metadata(self, artifact_type: str) -> dict[str, str]:
        """Metadata of every object that this run creates."""
        return {
            "artifact-type": artifact_type,
            "model-name": self.request.model_name,
            "model-version": self.request.model_version,
            "upload-timestamp": self.started_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "run-id": self.run_id,
        }

    @staticmethod
    def host() -> str:
        """Name of this host, as recorded in the journal and the artifact."""
        # As for the lease: the process's, not a request's.
        return os.environ.get("RIVA_STREAM_HOST_ID") or socket.gethostname()


async def gather_bounded(
    items: Sequence[T], act: Callable[[T], Awaitable[R]], *, at_once: int = _TASKS
) -> list[R]:
    """Apply ``act`` to every item, a few at a time; results in item order. Of several errors, raise the worst."""
    results: dict[int, R] = {}
    todo = enumerate(tuple(items))

    async def some() -> None:
        for index, item in todo:  # shared by all of them
            results[index] = await act(item)

    try:
        async with anyio.create_task_group() as tasks:
            for _ in range(min(at_once, len(items))):
                tasks.start_soon(some)
    except BaseExceptionGroup as group:
        raise first_of(group) from None
    return [results[index] for index in range(len(items))]
