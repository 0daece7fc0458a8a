"""What ``verify``, ``status`` and ``ls`` return. No I/O, and nothing heavy: ``schema`` prints them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from riva_stream.manifest import Document, Finding, Mode

__all__ = [
    "NOT_STAGED",
    "DeepRead",
    "Holder",
    "LastRun",
    "ListReport",
    "ListedStaging",
    "Rerun",
    "StagedNow",
    "StatusReport",
    "UploadStatus",
    "VerifiedObject",
    "VerifyReport",
]


NOT_STAGED = "not-staged"
"""The code of a model that no document lists."""


class VerifiedObject(Document):
    """One object, and how it compares with what was staged."""

    key: str
    """Key in the bucket; for the source of a staging by reference its whole URI."""
    size_bytes: int | None
    """None: it does not exist, or its size was not requested."""
    by: list[str]
    """What was compared and matches: size, etag, version-id, crc64nvme, run-id, content, sha256, blake3, …"""
    ok: bool
    differences: list[Finding]
    """All the ways in which it differs."""

    @property
    def difference(self) -> str:
        """The same for people; empty when it does not differ."""
        return "; ".join(found.message for found in self.differences)


class DeepRead(Document):
    """What ``--deep`` read."""

    objects: int
    bytes: int
    seconds: float
    mib_per_second: float


class VerifyReport(Document):
    """The result of ``verify``."""

    ok: bool
    """Whether every object is still what was staged."""
    destination: str
    depth: Literal["quick", "deep"]
    mode: Mode | None
    run_id: str | None
    """Of the run that staged it."""
    staged_at: datetime | None
    source: str | None
    """``s3://`` URI of what it was staged from."""
    container: str | None = None
    """``s3://`` URI of the container image that is to serve it; None where ``deployment.json`` names none."""
    objects: list[VerifiedObject]
    extra: list[str]
    """Keys below the prefix that were not staged and do no harm (the first thousand)."""
    notes: list[Finding]
    source_sha256: str | None = None
    """Of the source of a staging by reference, as it was read; None unless ``--deep``."""
    read: DeepRead | None
    """None unless ``--deep``."""
    seconds: float


class StagedNow(Document):
    """What the marker says is staged."""

    run_id: str | None
    mode: Mode | None
    staged_at: datetime | None
    source: str | None
    source_size: int | None
    models: int
    sha256: str | None
    """Of the archive; None for a staging by reference."""
    problem: str
    """Why it cannot be used, as far as the marker and the two documents it vouches for show; empty when it can."""


class UploadStatus(Document):
    """One object that a run is sending."""

    key: str
    state: Literal["open", "completed", "gone", "unknown"]
    """``unknown``: the parts may not be listed."""
    journaled_parts: int
    journaled_bytes: int
    """What the journal says the store has acknowledged."""
    stored_parts: int | None
    stored_bytes: int | None
    """What the store says it has."""


class Holder(Document):
    """The run whose journal is at the prefix."""

    state: Literal["in_flight", "resumable"]
    alive: bool | None
    """None: it was not watched long enough to know."""
    why: str
    """How that is known."""
    run_id: str | None
    host: str | None
    pid: int | None
    started_at: datetime | None
    beats: int | None
    """Number of times that it has written its journal."""
    written_at: datetime | None
    """When it last did so, by the store's clock."""
    lease: float | None
    """Seconds without a heartbeat after which another run takes over."""
    stopped: bool
    source: str | None
    source_size: int | None
    source_bytes: int
    """Bytes of the source's own object that the store has acknowledged: the higher value of journal and store."""
    percent: float | None
    """The same as a percentage of the source's size."""
    resumes_at: int | None = None
    """Source offset at which a run of the same request would start to read; None: nothing of it is resumed."""
    uploads: list[UploadStatus]


class LastRun(Document):
    """The last run recorded in a state directory."""

    folder: str
    run_id: str
    status: Literal["success", "failure", "running", "unknown"]
    exit_code: int | None
    outcome: str | None
    """``staged``, ``already_staged``, ``upgraded``, of a run that succeeded."""
    destination: str
    """Empty if it ended before it knew where to stage to: then the place is that of an earlier run."""
    alive: bool | None
    """Whether its process is still running; None: that cannot be seen from here."""


class Rerun(Finding):
    """What staging the same source again would do; ``message`` continues the sentence "a rerun would"."""

    code: Literal["stage", "resume", "start_over", "already_staged", "held", "refused"]
    """``start_over``: take over and stage it from the beginning."""
    exit_code: int = 0
    parts: int = 0
    size_bytes: int = 0
    """Parts that would not be sent again, and their bytes."""
    left_bytes: int | None = None
    """Bytes of the source that are left to read; None where a run would not start in the middle."""
    adds_deployment: bool = False
    """If requested with a container image, it would add ``deployment.json``."""


class StatusReport(Document):
    """The result of ``status``."""

    state: Literal["staged", "in_flight", "resumable", "absent"]
    destination: str
    staged: StagedNow | None
    run: Holder | None
    """Not None beside ``staged``: a forced restage, which leaves the existing staging whole until it commits."""
    last_run: LastRun | None
    """None unless a state directory was given."""
    rerun: Rerun
    notes: list[Finding] = Field(default_factory=list)
    watched_seconds: float


class ListedStaging(Document):
    """One version of one model in one environment."""

    env: str
    model: str
    version: str
    state: Literal["staged", "in_flight", "incomplete", "damaged"]
    destination: str
    mode: Mode | None
    source: str | None
    size_bytes: int | None
    """Of the source."""
    stored_bytes: int | None
    """Of the archive and its models below the prefix; 0 for a staging by reference."""
    models: int | None
    staged_at: datetime | None
    run_id: str | None
    restaged_by: str | None
    """Run id of another run that has begun to replace it."""
    note: str


class ListReport(Document):
    """The result of ``ls``."""

    place: str
    """``s3://bucket/prefix/`` that was listed."""
    stagings: list[ListedStaging]
    folders: int
    """Number of folders that were listed."""
    notes: list[Finding] = Field(default_factory=list)
    """What was not listed, and why."""
    seconds: float
