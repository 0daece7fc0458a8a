"""Pure models of every document a staging writes, and their text forms. No I/O.

``artifact.json`` keeps the fields and meaning of the shell script's file and adds to them. Sizes are bytes, times
are UTC in ISO 8601, digests are lower-case hexadecimal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from itertools import zip_longest
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    computed_field,
    model_validator,
)

from riva_stream.events import Warned
from riva_stream.layout import is_model
from riva_stream.readback import Items

__all__ = [
    "SCHEMA_VERSION",
    "Artifact",
    "BuildInfo",
    "Deployment",
    "Document",
    "Finding",
    "InnerFile",
    "LaneSeconds",
    "Lines",
    "Marker",
    "Mode",
    "Model",
    "ModelFile",
    "PromotedFrom",
    "SchemaVersion",
    "Source",
    "StagedFile",
    "StagedFiles",
    "UploadManifest",
    "Validation",
    "artifact_id",
    "checksums_text",
    "json_bytes",
    "payload_of",
    "to_json",
]

SCHEMA_VERSION = "1.0"


def _readable(version: str) -> str:
    if version.partition(".")[0] != SCHEMA_VERSION.partition(".")[0]:
        raise ValueError(f"only versions with the major number of {SCHEMA_VERSION} can be read")
    return version


SchemaVersion = Annotated[str, AfterValidator(_readable)]
"""Another major number means that fields have another meaning; new fields alone change the minor number."""

Mode = Literal["full", "reference_only", "bintarball_reference"]


class Document(BaseModel):
    """What all documents share: frozen; unknown fields, as of a newer version, are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Finding(Document):
    """Something that was found: a code for programs, and a sentence for people."""

    code: str
    message: str


class Model(Document):
    """The model that is staged."""

    name: str
    version: str
    type: str = "speech_recognition"
    language_code: str
    architecture: str
    description: str = ""


class Source(Document):
    """The object it was staged from, pinned."""

    uri: str
    filename: str
    size_bytes: int = Field(ge=0)
    size_human: str
    sha256: str | None
    """None for a staging by reference: nothing was read."""
    blake3: str | None = None
    """Only of a bare model; of an archive only if version 0.1 wrote it."""
    etag: str
    version_id: str | None
    status: Literal["staged", "referenced"]
    last_modified: datetime | None = None


class InnerFile(Document):
    """A file inside a ``.riva``."""

    name: str
    size_bytes: int


class ModelFile(Document):
    """One staged ``.riva``."""

    filename: str
    relative_path: str
    """Key below the staging prefix."""
    archive_path: str | None
    """Name in the archive; None when the source was the model itself."""
    size_bytes: int
    size_human: str
    sha256: str
    blake3: str | None
    format: str = "riva"


class Deployment(Document):
    """Where the staging is, for the next steps."""

    environment: str
    s3_bucket: str
    s3_prefix: str
    """``s3://bucket/prefix/`` of the staging."""
    retention_days: int
    staging_complete: bool
    staging_mode: Mode
    reference_mode: bool
    tags: dict[str, str] = Field(default_factory=dict)
    """The tags of every object of the staging; empty when they were not requested, or were refused."""


class LaneSeconds(Document):
    """How one lane of the run spent its time."""

    bytes: int
    wall_seconds: float
    busy_seconds: float
    """Summed over the lane's workers, so it may exceed the wall time."""
    waiting_seconds: float


class BuildInfo(Document):
    """What made the staging, and how the run went."""

    script: str = "riva-130"
    tool: str = "riva_stream"
    version: str
    run_id: str
    build_host: str
    aws_region: str | None
    preparation_timestamp: datetime
    wall_seconds: float
    mib_per_second: float
    cpu_seconds: float
    """User and system time of this process during the run."""
    cpu_seconds_per_gib: float | None
    """The same per GiB of the source; None for a staging by reference."""
    resumed_from: int | None = None
    """Source offset at which this run resumed from a checkpoint; None: it read the source from its start."""
    lanes: dict[str, LaneSeconds] = Field(default_factory=dict)


def _messages(warnings: list[Warned]) -> list[str]:
    return [warning.message for warning in warnings]


class Validation(Document):
    """What was actually checked: each is true only if it was."""

    source_exists: bool
    source_pinned: bool
    """By ETag (and VersionId where there is one)."""
    source_integrity: str
    """What vouches for the source's bytes, joined by "+": gzip-crc32, zstd-checksum, sha256, crc64nvme, …, or "none"."""
    archive_complete: bool
    """Read to its last byte; lengths, CRCs and end-of-archive blocks were right."""
    resumed_by: str | None = None
    """Digests were resumed from a checkpoint: what vouches for the parts before it (crc64nvme: the store's checksum of
    each equals the stream's; etag: its ETag is the one that the store returned for it). None: all was read."""
    checksums_computed: bool
    checksums_verified: bool
    """An expected SHA-256 was given and matched."""
    expected_sha256: str | None = None
    upload_check: str
    """The checksum that the store verified each part with: crc64nvme, md5, sha256 or none."""
    source_copy: str = "sent"
    """``sent``: this tool sent the source's bytes. Otherwise the store copied them, and this is how they were proven,
    before anything became visible, to be the bytes that were hashed: ``crc64nvme``, ``multipart-etag``, ``plain-etag``
    or ``md5`` (of each range). For a promotion that treated objects differently, all of them, joined by "+"."""
    source_copy_reason: str = ""
    """Why the bytes that were sent were not copied; empty where none were sent, or no copy was to be tried."""
    objects_verified: bool
    """Every object was HEADed after its completion; size and checksum or ETag match those computed on the way."""
    archive_container: str | None = None
    archive_members: int | None = None
    containers: dict[str, str] = Field(default_factory=dict)
    """Container of each staged model by its magic: tar, gzip, zip, unknown."""
    contents: dict[str, Items[InnerFile]] = Field(default_factory=dict)
    """For models that are tars: what they hold (the first few thousand)."""
    warnings: Annotated[Items[Warned], PlainSerializer(_messages, return_type=list[str])] = Field(
        default_factory=list
    )
    """Written as sentences, as version 0.1 reads them; ``warning_codes`` has the code of each."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def warning_codes(self) -> list[str]:
        """Of each warning, in their order; "" for one that version 0.1 wrote."""
        return [warning.code for warning in self.warnings]

    @model_validator(mode="before")
    @classmethod
    def _coded(cls, data: Any) -> Any:
        """Pair each warning with its code."""
        if not isinstance(data, dict):
            return data
        warnings, codes = data.get("warnings", []), data.get("warning_codes", [])
        are_lists = isinstance(warnings, list) and isinstance(codes, list)
        if not (are_lists and all(isinstance(told, str) for told in warnings)):
            return data
        pairs = zip_longest(warnings, codes, fillvalue="")
        return data | {"warnings": [Warned(code=code, message=told) for told, code in pairs if told]}


class PromotedFrom(Document):
    """The staging that this one was made from, object by object."""

    s3_prefix: str
    """``s3://bucket/prefix/``."""
    run_id: str
    """Of the run that staged it."""
    artifact_sha256: str
    """SHA-256 of its ``artifact.json``."""


class Artifact(Document):
    """``artifact.json``."""

    schema_version: SchemaVersion = SCHEMA_VERSION
    artifact_id: str
    created_at: datetime
    model: Model
    source: Source
    models: Items[ModelFile]
    primary_model: ModelFile | None
    """The largest of them."""
    deployment: Deployment
    build_info: BuildInfo
    """Of the run that made this staging."""
    validation: Validation
    """Of the run that read the source."""
    promoted_from: PromotedFrom | None = None
    """None: it was staged from its source."""


class StagedFile(Document):
    """One object of the staging."""

    s3_key: str
    size_bytes: int
    content_type: str
    etag: str
    checksum: str
    """``sha256:…`` of the bytes that were sent."""
    version_id: str | None = None
    store_checksum: str | None = None
    """``crc64nvme:…`` of the whole object, where the store keeps one."""


class StagedFiles(Document):
    """All objects of the staging."""

    source_archive: StagedFile | None
    models: Items[StagedFile]
    checksums: StagedFile
    metadata: StagedFile
    deployment: StagedFile | None = None
    deployment_ready: StagedFile | None = None

    def all(self) -> list[StagedFile]:
        """Every file, in the order in which a staging writes them."""
        files = (
            *(self.source_archive, *self.models, self.checksums, self.metadata),
            *(self.deployment, self.deployment_ready),
        )
        return [file for file in files if file is not None]


class UploadManifest(Document):
    """``upload_manifest.json``."""

    schema_version: SchemaVersion = SCHEMA_VERSION
    upload_id: str
    """The run id."""
    started_at: datetime
    s3_base: str
    include: Items[str]
    files: StagedFiles


class Lines(Document):
    """A document of ``name: value`` lines, for people and for ``grep``; a field without a value has no line."""

    LINES: ClassVar[Mapping[str, str]]
    """Name of a line → its field, in order."""

    def text(self) -> str:
        """The content of the file."""
        fields = self.model_dump(mode="json")
        return "".join(f"{name}: {fields[field]}\n" for name, field in self.LINES.items() if fields[field])

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the content of the file.

        Raises:
            ValueError: this is not such a file.
        """
        pairs = (line.partition(": ") for line in text.splitlines())
        return cls.model_validate({cls.LINES[name]: value for name, _, value in pairs if name in cls.LINES})


class Marker(Lines):
    """``staging_complete.txt``: the commit."""

    completed_at: datetime
    mode: Mode
    run_id: str
    source: str
    next_step: str
    artifact_sha256: str
    manifest_sha256: str | None = None
    """None for a staging by reference, and if version 0.1 wrote it."""
    token: str = ""
    """Of the lease under which it was written, as in the journal; "" in version 0.1. No two markers are alike."""

    LINES = {
        "Staging completed at": "completed_at",
        "Mode": "mode",
        "Run ID": "run_id",
        "Source": "source",
        "Next step": "next_step",
        "Token": "token",
        "SHA-256 of upload_manifest.json": "manifest_sha256",
        "SHA-256 of artifact.json": "artifact_sha256",
    }


def artifact_id(name: str, version: str) -> str:
    """``parakeet-rnnt-en-us-v2025.09``."""
    return f"{name}-{version}"


def payload_of(artifact: Artifact) -> list[tuple[str, int, str | None, str | None]]:
    """Path, size, SHA-256 and BLAKE3 of the archive and of each model, as ``artifact.json`` has them."""
    rows: list[tuple[str, int, str | None, str | None]] = [
        (model.relative_path, model.size_bytes, model.sha256, model.blake3) for model in artifact.models
    ]
    # A bare model is its own source, and is stored once: among the models.
    if not is_model(artifact.source.filename):
        source = artifact.source
        rows.insert(0, (f"source/{source.filename}", source.size_bytes, source.sha256, source.blake3))
    return rows


def checksums_text(entries: list[tuple[str, str]]) -> str:
    """``checksums.sha256`` for ``sha256sum -c`` from (SHA-256, path below the prefix) pairs.

    coreutils marks a line whose name holds a backslash or a newline with a leading backslash; the member policy
    refuses such names, so no line needs it.
    """
    return "".join(f"{digest}  {path}\n" for digest, path in entries)


def json_bytes(value: object) -> bytes:
    """JSON as every document is written: indented, UTF-8, ends with a newline."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def to_json(document: BaseModel) -> bytes:
    """The document as it is written."""
    return json_bytes(document.model_dump(mode="json"))
