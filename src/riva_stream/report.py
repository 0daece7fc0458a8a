"""What a run gives back: the plan, the report, and the JSON Schema of every document. No I/O."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from riva_stream.deployment import DeploymentDocument, ObjectReference
from riva_stream.manifest import Artifact, Document, Mode, UploadManifest

__all__ = [
    "SCHEMAS",
    "CollectReport",
    "Leftover",
    "ObjectCheck",
    "Plan",
    "PlannedObject",
    "StageReport",
    "json_schema",
    "schema_of",
]


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
    """``sent``, or how it is going to be proven that the store has copied the source; see ``Validation``."""
    source_copy_reason: str = ""
    """Why it is sent."""
    rights: list[str]
    """What was tried, e.g. "source HeadObject"."""
    would: str
    """What the run would do: stage, nothing (already staged), upgrade, replace."""


class StageReport(Document):
    """The result of :func:`riva_stream.stage`."""

    outcome: Literal["staged", "already_staged", "upgraded", "deployment_added", "planned"]
    """``deployment_added``: it was staged already; ``deployment.json`` was not there yet."""
    run_id: str
    mode: Mode
    destination: str
    marker: str | None
    """``s3://`` URI of the marker; None for a dry run."""
    artifact: Artifact | None
    """As it stands in the bucket; None for a dry run, and for a bintarball reference, which writes none."""
    deployment: DeploymentDocument | None = None
    """``deployment.json`` as it stands in the bucket; None for a dry run, and where no container image was named."""
    objects: list[ObjectCheck] = Field(default_factory=list)
    plan: Plan | None = None
    warnings: list[str] = Field(default_factory=list)
    seconds: float
    next_step: str


class Leftover(Document):
    """An open upload, a checkpoint or a journal that ``gc`` found."""

    kind: Literal["upload", "checkpoint", "journal"]
    key: str
    upload_id: str | None = None
    since: datetime | None = None
    """When it was begun, by the store's clock."""
    held: bool
    """A live run holds it: it stays."""
    old: bool
    """It is older than was asked for."""
    removed: bool = False


class CollectReport(Document):
    """The result of ``gc``."""

    prefix: str
    applied: bool
    """Whether it removed what it could, or only listed it."""
    found: list[Leftover]


SCHEMAS: dict[str, type[BaseModel]] = {
    "artifact": Artifact,
    "manifest": UploadManifest,
    "report": StageReport,
    "deployment": DeploymentDocument,
}


def schema_of(kind: str) -> dict[str, Any]:
    """JSON Schema (2020-12) of one of :data:`SCHEMAS`.

    Raises:
        KeyError: there is no such document.
    """
    return json_schema(SCHEMAS[kind])


def json_schema(kind: type[BaseModel]) -> dict[str, Any]:
    """JSON Schema (2020-12) of a document."""
    schema = kind.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
