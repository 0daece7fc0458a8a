"""What a run reports while it is in progress: frozen events, passed to an observer.

The library logs nothing and prints nothing. Callers of :func:`riva_stream.stage` may pass an observer, any callable
that takes one event; it is called on the event loop, so it must be quick, and it must not raise.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from riva_stream.arguments import require

__all__ = [
    "Event",
    "MemberFound",
    "ObjectCompleted",
    "ObjectVerified",
    "Observer",
    "Phase",
    "PhaseChanged",
    "Progress",
    "Resumed",
    "RetryScheduled",
    "StageFinished",
    "StageStarted",
    "Warned",
    "Watching",
    "ignore",
    "kind_of",
    "throttled",
    "warning",
]

Phase = Literal["prepare", "stream", "verify", "commit", "done"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted:
    """The source is found and pinned, the destination is known; nothing has been transferred yet."""

    run_id: str
    mode: Literal["full", "reference_only", "bintarball_reference"]
    source_uri: str
    source_size: int
    """Bytes of the source object."""
    destination: str
    """``s3://bucket/prefix/`` of the staging."""
    upload_check: str
    """How the store checks what it is sent, e.g. ``crc64nvme``."""
    source_copy: str = "sent"
    """``sent``, or how the store's copy of the source will be proven: ``crc64nvme``, ``multipart-etag``,
    ``plain-etag`` or ``md5``."""
    source_copy_reason: str = ""
    """Why it is sent rather than copied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseChanged:
    """The run enters its next phase."""

    phase: Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Byte counters, each of which only ever grows."""

    source_size: int
    fetched: int
    """Source bytes read from the store."""
    hashed: int
    """Source bytes that were hashed."""
    extracted: int
    """Source bytes that were decompressed and parsed as tar."""
    expanded: int
    """Bytes that decompression produced."""
    durable: int
    """Bytes of all objects (archive and members) that were sent and that the store has acknowledged."""
    durable_source: int
    """Bytes of the archive's own object alone, copied or sent: at most ``source_size``."""
    copied: int = 0
    """Bytes of all objects that the store copied itself: they are neither sent nor part of ``durable``."""
    elapsed: float
    """Seconds since the first byte was requested."""
    resumed_from: int = 0
    """Source bytes that an earlier run transferred; the counters of source bytes start there."""
    bottleneck: str
    """The lane that the others wait for: ``source``, ``hash``, ``extract``, ``upload``, or empty at the start."""
    counts: tuple[str, ...] = ("fetched", "hashed", "extracted", "durable")
    """Which of the counters mean something: where objects are only read, nothing is extracted or made durable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """Reading of the source resumes from a checkpoint of an earlier run."""

    offset: int
    """Source bytes that are not read again."""
    source_size: int
    by: str
    """What vouches for them: ``crc64nvme`` or ``etag``; see docs/semantics.md."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberFound:
    """A member of the archive matches ``include``; its upload begins."""

    name: str
    key: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryScheduled:
    """A request failed and will be tried again after ``delay`` seconds."""

    operation: str
    attempt: int
    delay: float
    reason: str
    request_id: str = ""
    """The store's id of the request that failed, where it gave one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """Something the user should know, although the run continues."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectCompleted:
    """An object of the staging is complete in the store."""

    key: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectVerified:
    """A staged object was compared with its manifest entry."""

    key: str
    size: int
    difference: str
    """How it differs; empty when it does not."""
    codes: tuple[str, ...] = ()
    """The same as codes, for programs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watching:
    """The journal of another run is watched for a heartbeat."""

    who: str
    seconds: float
    """Upper limit of the watch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFinished:
    """The marker is written and read back, or the staging was already there."""

    run_id: str
    outcome: str
    seconds: float


Event = (
    StageStarted
    | Resumed
    | PhaseChanged
    | Progress
    | MemberFound
    | RetryScheduled
    | Warned
    | ObjectCompleted
    | ObjectVerified
    | Watching
    | StageFinished
)


def kind_of(event: type) -> str:
    """``member_found`` for :class:`MemberFound`: the name that programs see."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", event.__name__).lower()


class Observer(Protocol):
    """Anything that takes events, e.g. a function or the ``append`` of a list."""

    def __call__(self, event: Event, /) -> None:
        """Take one event."""


def warning(observer: Observer, code: str) -> Callable[[str], None]:
    """A function that sends an observer warnings of one code."""
    return lambda message: observer(Warned(code=code, message=message))


def ignore(event: object, /) -> None:
    """Observe nothing."""


def throttled(
    observer: Observer, interval: float, *, clock: Callable[[], float] = time.monotonic
) -> Observer:
    """Pass on at most one :class:`Progress` per ``interval`` seconds, and every other event at once.

    Meant for heartbeats: an orchestrator that forwards progress to a queue does not want one message per part.
    """
    require(callable(observer), "observer", "callable with one event", observer)
    last = -interval

    def observe(event: Event, /) -> None:
        nonlocal last
        if isinstance(event, Progress):
            now = clock()
            if now - last < interval:
                return
            last = now
        observer(event)

    return observe
