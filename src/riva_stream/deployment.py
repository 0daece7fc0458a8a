"""``deployment.json`` and ``deployment_ready.txt``: all that the pipeline's next step reads. Pure models, no I/O.

The two documents are self-contained. ``deployment.json`` pins a model archive and a container image by ETag (and
VersionId), and ``deployment_ready.txt``, written after it, records its SHA-256: either without the other, or beside a
different one, means nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Self

from pydantic import Field, model_validator

from riva_stream.layout import (
    ARTIFACT_JSON,
    CHECKSUMS,
    DEPLOYMENT_JSON,
    DEPLOYMENT_READY,
    MANIFEST_JSON,
    MARKER,
)
from riva_stream.manifest import (
    SCHEMA_VERSION,
    Artifact,
    BuildInfo,
    Document,
    Lines,
    Marker,
    Mode,
    Model,
    SchemaVersion,
    UploadManifest,
)
from riva_stream.readback import UnreadableError, read_model
from riva_stream.uris import key_of

__all__ = [
    "DOCUMENTS",
    "DOCUMENT_LIMIT",
    "KINDS",
    "SAVED",
    "BintarballReferences",
    "DeploymentDocument",
    "DeploymentReady",
    "DeploymentState",
    "DocumentKind",
    "ObjectReference",
]


DOCUMENT_LIMIT = 64 << 20
"""Maximum bytes of a document: of one that is read, and so of one that is written."""
_MOST_VALUES = 1 << 22
"""Maximum number of values in a document, containers included: an ``artifact.json`` of a thousand models, each with the
names of two hundred files, as version 0.1 wrote it, has half of that."""
_MOST_LINES = 64 << 10
"""Maximum bytes of a marker, which has a dozen lines."""


class ObjectReference(Document):
    """An object that stays where it is, pinned."""

    s3_uri: str
    path: str
    """Its key in its bucket."""
    size_bytes: int = Field(ge=0)
    size_human: str
    etag: str
    version_id: str | None
    last_modified: datetime | None = None
    sha256: str | None = None
    """Only for an archive that was staged in full: nothing else was read."""

    @model_validator(mode="after")
    def _of_one_key(self) -> Self:
        if key_of(self.s3_uri) != self.path:
            raise ValueError("its path is not the key in its s3_uri")
        return self

    def is_same(self, other: ObjectReference) -> bool:
        """Whether both are the same object, unchanged."""
        mine, theirs = (
            (ref.s3_uri, ref.size_bytes, ref.etag, ref.version_id or None) for ref in (self, other)
        )
        return mine == theirs

    def text(self) -> str:
        """A description for messages."""
        version = f", version {self.version_id}" if self.version_id else ""
        return f"{self.s3_uri} (ETag {self.etag}, {self.size_bytes} bytes{version})"


class BintarballReferences(Document):
    """The two objects that a deployment needs."""

    model_archive: ObjectReference
    container_image: ObjectReference


class DeploymentState(Document):
    """Where and whether to deploy."""

    environment: str
    s3_bucket: str
    s3_prefix: str
    """``s3://bucket/prefix/`` of these two files."""
    retention_days: int
    no_duplication: bool
    """Whether the archive was left where it was, not copied."""
    ready_for_deployment: Literal[True]
    """It is written after everything was verified."""
    artifact_sha256: str | None = None
    """SHA-256 of the ``artifact.json`` of the same staging; None for a bintarball reference."""


class DeploymentDocument(Document):
    """``deployment.json``."""

    schema_version: SchemaVersion = SCHEMA_VERSION
    deployment_type: Mode
    """How the model was staged."""
    artifact_id: str
    created_at: datetime
    model: Model
    bintarball_references: BintarballReferences
    deployment: DeploymentState
    build_info: BuildInfo


class DeploymentReady(Lines):
    """``deployment_ready.txt``: ``deployment.json`` may be read."""

    ready_at: datetime
    deployment_type: Mode
    run_id: str
    model_archive: str
    container_image: str
    next_step: str
    deployment_sha256: str
    token: str = ""
    """Of the lease under which it was written; "" if version 0.1 wrote it."""

    LINES = {  # noqa: RUF012 - as in Marker
        "Deployment ready at": "ready_at",
        "Type": "deployment_type",
        "Run ID": "run_id",
        "Model archive": "model_archive",
        "Container image": "container_image",
        "Next step": "next_step",
        "Token": "token",
        "SHA-256 of deployment.json": "deployment_sha256",
    }


@dataclass(frozen=True, slots=True)
class DocumentKind:
    """How one of the documents is written and read."""

    artifact_type: str
    """In its object's metadata."""
    model: type[Document] | None
    """None: plain lines, without a model."""
    is_json: bool = False

    @property
    def content_type(self) -> str:
        """Content type of its object."""
        return "application/json" if self.is_json else "text/plain; charset=utf-8"

    def parse(self, data: bytes) -> Document | None:
        """Parse a document; None where there is no model.

        Raises:
            ValueError: the data is not such a document.
        """
        if self.model is None:
            return None
        if issubclass(self.model, Lines):
            if len(data) > _MOST_LINES:
                raise UnreadableError(f"it has {len(data)} bytes")
            return self.model.parse(data.decode())
        return read_model(self.model, data, size=DOCUMENT_LIMIT, values=_MOST_VALUES)


KINDS: Mapping[str, DocumentKind] = {
    CHECKSUMS: DocumentKind("checksums", None),
    ARTIFACT_JSON: DocumentKind("artifact-metadata", Artifact, is_json=True),
    DEPLOYMENT_JSON: DocumentKind("deployment-metadata", DeploymentDocument, is_json=True),
    DEPLOYMENT_READY: DocumentKind("deployment-marker", DeploymentReady),
    MANIFEST_JSON: DocumentKind("upload-manifest", UploadManifest, is_json=True),
    MARKER: DocumentKind("staging-marker", Marker),
}
"""All documents that a staging may have, in the order in which they are written."""
DOCUMENTS = tuple(KINDS)
"""Their names: the one list that all others are derived from."""
SAVED = (*DOCUMENTS, "plan.json", "journal.json", "report.json")
"""Names of all that a run saves in its folder of the state directory, but for its request."""
