"""The engine interface, what it reports for each staging, and the result of a whole catalogue."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import Field

from riva_stream.config import StageRequest
from riva_stream.errors import TransientError
from riva_stream.events import Event, Observer, Warned
from riva_stream.manifest import Document
from riva_stream.report import ErrorReport, StageReport, Would, error_report
from riva_stream.uris import is_aws_url, partition_of

__all__ = [
    "CatalogueObserver",
    "CatalogueReport",
    "Engine",
    "EntryEnded",
    "EntryEvent",
    "EntryReport",
    "EntryStarted",
    "Planned",
    "RunOne",
    "StagingFailed",
    "WorkerDiedError",
    "error_of",
    "identity_of",
    "store_of",
]

RunOne = Callable[[StageRequest, Observer], Awaitable[StageReport]]
"""Runs one staging, and raises what :class:`Engine` specifies."""


class WorkerDiedError(TransientError):
    """The process or the node of a staging ended without a report: killed, out of memory, switched off."""


class EntryReport(Document):
    """The result of one staging."""

    destination: str
    source: str
    outcome: Literal[
        "staged",
        "already_staged",
        "upgraded",
        "deployment_added",
        "planned",
        "failed",
        "stopped",
        "not_started",
    ]
    """``stopped`` and ``not_started``: another one had failed, and ``fail_fast`` was set."""
    exit_code: int
    """That of ``stage``; 75 if it was stopped or not started."""
    run_id: str = ""
    size_bytes: int = 0
    """Of the source; 0 where it was not found."""
    seconds: float = 0.0
    would: Would | None = None
    """The outcome that a dry run predicts."""
    warnings: list[Warned] = Field(default_factory=list)
    error: ErrorReport | None = None
    next_step: str = ""


class CatalogueReport(Document):
    """The results of all stagings of a catalogue, in its order."""

    catalogue: str
    engine: str
    exit_code: int
    """0, or the worst exit code of the entries."""
    entries: list[EntryReport]
    passed_over: list[str]
    """Archives that match the glob of an entry, but not its pattern."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The catalogue is valid, and all archives are listed."""

    entries: int
    jobs: int
    """Number of source reads; each has one place or more."""
    at_once: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryStarted:
    """A staging was passed to the engine, which may still make it wait."""

    destination: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryEvent:
    """An event of one staging; its progress comes every few seconds, not with each part."""

    destination: str
    event: Event


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryEnded:
    """A staging has ended, whatever its result."""

    report: EntryReport


CatalogueObserver = Callable[[Planned | EntryStarted | EntryEvent | EntryEnded], None]
"""Anything that takes these events; called on the event loop, so it must be quick, and it must not raise."""


class Engine(Protocol):
    """Where stagings run. It keeps no list: the caller does."""

    @property
    def name(self) -> str:
        """Its name in reports."""

    def at_once(self, requests: Sequence[StageRequest]) -> int:
        """How many stagings it should be given at the same time."""

    async def stage(self, request: StageRequest, observer: Observer) -> StageReport:
        """Stage one request. A failure with exit code 75 is raised only after a retry; others are raised at once.

        When cancelled, it stops the run and waits until the run has left a state that a rerun can use.

        Raises:
            RivaStreamError: as ``stage()`` does; :class:`WorkerDiedError` when its process or node died.
            StagingFailed: the same for a run in another process, of whose error only the text is known.
        """


class StagingFailed(Exception):  # noqa: N818 - it carries an error from elsewhere
    """A run in another process failed."""

    def __init__(self, error: ErrorReport) -> None:
        super().__init__(error.message)
        self.error = error


def error_of(error: Exception) -> ErrorReport:
    """An error for a report."""
    return error.error if isinstance(error, StagingFailed) else error_report(error)


def identity_of(request: StageRequest) -> str:
    """The place of a staging among all stores: no two stagings of one catalogue have the same."""
    return f"{store_of(request)} {request.destination}"


def store_of(request: StageRequest) -> str:
    """Which store a staging goes to; a destination's URI says only which bucket.

    The buckets of AWS are the same through every endpoint, but each partition has its own.
    """
    url = request.endpoint_url
    if url is None or is_aws_url(url):
        return partition_of(request.region)
    return url
