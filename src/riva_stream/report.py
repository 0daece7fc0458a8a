"""What a run returns: the plan, the report, and the JSON Schema of every document. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from riva_stream.deployment import DeploymentDocument, ObjectReference
from riva_stream.errors import ConfigurationError, RivaStreamError, out_of_resources
from riva_stream.events import Warned
from riva_stream.manifest import Artifact, Document, Mode, UploadManifest

__all__ = [
    "SCHEMAS",
    "CollectReport",
    "ErrorReport",
    "Leftover",
    "ObjectCheck",
    "PlaceReport",
    "Plan",
    "PlannedObject",
    "PromoteReport",
    "StageReport",
    "Would",
    "error_report",
    "json_schema",
    "worst",
]

Would = Literal["stage", "already_staged", "add_deployment", "upgrade", "replace"]
"""``add_deployment``: add ``deployment.json`` to a staging; ``upgrade``: make a staging by reference a full one."""

_FROM_WORST = (1, 65, 73, 66, 77, 78, 75)
"""A bug first, since nothing else can be trusted then; then what a rerun does not fix; last what it does."""


class ObjectCheck(Document):
    """How one object was verified after its completion."""

    key: str
    size_bytes: int
    by: list[str]
    """What was compared: size, etag, crc64nvme, run-id."""


class PlannedObject(Document):
    """One key that a run would write."""

    key: str
    kind: Literal[
        "archive",
        "models",
        "model",
        "checksums",
        "metadata",
        "deployment",
        "deployment-ready",
        "manifest",
        "marker",
    ]
    part_size: int | None = None
    parts: int | None = None


class TriedRights(Document):
    """What the dry run tried at one place."""

    of: Literal["source", "container_image", "destination"]
    operations: list[str]
    """Names of S3 operations."""


class Plan(Document):
    """What ``--dry-run`` prints."""

    mode: Mode
    source: str
    source_size: int
    source_etag: str
    source_version_id: str | None
    destination: str
    container_image: ObjectReference | None = None
    """None where no container image was named."""
    objects: list[PlannedObject]
    include: list[str]
    part_size: int
    connections: int
    memory_ceiling: int
    read_share: int
    write_share: int
    upload_check: str
    source_copy: str = "sent"
    """``sent``, or how the store's copy of the source will be proven; see ``Validation``."""
    source_copy_reason: str = ""
    """Why it is sent rather than copied."""
    rights: list[TriedRights]
    """What was tried."""
    would: Would
    """What the run would do."""


class ErrorReport(Document):
    """Why one of several stagings failed."""

    type: str
    """Name of the error's class, as in the ``--json`` of ``stage``."""
    code: str
    """What programs branch on, with the type."""
    message: str
    hint: str = ""
    exit_code: int


class StageReport(Document):
    """The result of :func:`riva_stream.stage`."""

    outcome: Literal["staged", "already_staged", "upgraded", "deployment_added", "planned"]
    """``deployment_added``: the staging existed already; only ``deployment.json`` was missing."""
    run_id: str
    mode: Mode
    destination: str
    marker: str | None
    """``s3://`` URI of the marker; None for a dry run."""
    artifact: Artifact | None
    """As it is in the bucket; None for a dry run, and for a bintarball reference, which writes none."""
    deployment: DeploymentDocument | None = None
    """``deployment.json`` as it is in the bucket; None for a dry run, and where no container image was named."""
    objects: list[ObjectCheck] = Field(default_factory=list)
    plan: Plan | None = None
    warnings: list[Warned] = Field(default_factory=list)
    replicas: list[PlaceReport] = Field(default_factory=list)
    """The result for each place that the staging was to be promoted to."""
    seconds: float
    next_step: str

    @property
    def exit_code(self) -> int:
        """0, or the worst exit code of the replicas."""
        return worst([replica.exit_code for replica in self.replicas])


class PlaceReport(Document):
    """The result of a promotion to one place."""

    destination: str
    exit_code: int
    report: StageReport | None = None
    """None: it failed."""
    error: ErrorReport | None = None


class PromoteReport(Document):
    """The result of :func:`riva_stream.promote`."""

    source: str
    """``s3://`` URI of the staging that was promoted."""
    source_run_id: str | None
    """Of the run that staged it."""
    exit_code: int
    """0, or the worst exit code of the places."""
    places: list[PlaceReport]
    seconds: float


StageReport.model_rebuild()


class Leftover(Document):
    """What ``gc`` found: an open upload, a checkpoint, the object of a killed probe, or a journal."""

    kind: Literal["upload", "checkpoint", "probe", "journal"]
    key: str
    upload_id: str | None = None
    since: datetime | None = None
    """When it was begun, by the store's clock."""
    held: bool
    """A live run holds it, so it stays."""
    old: bool
    """It is older than the requested age."""
    removed: bool = False


class CollectReport(Document):
    """The result of ``gc``."""

    prefix: str
    applied: bool
    """Whether it removed what it could, or only listed it."""
    found: list[Leftover]
    unseen: list[str]
    """``s3://bucket/prefix/`` of each staging that could not be inspected: ``found`` has nothing of it."""
    error: ErrorReport | None
    """The worst of the errors that kept something from being inspected or removed."""
    exit_code: int
    """The exit code of the error, or 0."""


SCHEMAS: dict[str, type[BaseModel]] = {
    "artifact": Artifact,
    "manifest": UploadManifest,
    "report": StageReport,
    "promotion": PromoteReport,
    "deployment": DeploymentDocument,
}


def json_schema(kind: type[BaseModel]) -> dict[str, Any]:
    """JSON Schema (2020-12) of a document."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **kind.model_json_schema(mode="serialization"),
    }


def error_report(error: BaseException) -> ErrorReport:
    """An error as one entry of a report."""
    if lacking := out_of_resources(error):
        return ErrorReport(
            type="OutOfResources",
            code="out_of_resources",
            message=f"this host has too few resources for the process: {lacking}",
            exit_code=ConfigurationError.exit_code,
        )
    if not isinstance(error, RivaStreamError):
        message = f"{type(error).__name__}: {error}"
        return ErrorReport(type=type(error).__name__, code="bug", message=message, exit_code=1)
    return ErrorReport(
        type=type(error).__name__,
        code=error.code if error.exit_code != 1 else "bug",
        message=str(error),
        hint=error.hint,
        exit_code=error.exit_code,
    )


def worst(codes: Sequence[int]) -> int:
    """0, or the exit code that matters most."""
    return min(
        filter(None, codes), key=lambda code: _FROM_WORST.index(code) if code in _FROM_WORST else 0, default=0
    )
