"""The documents of a staging as they lie in the bucket, understood as far as they can be."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from pydantic import ValidationError

from riva_stream.errors import AccessDeniedError, IntegrityError
from riva_stream.manifest import (
    ARTIFACT_JSON,
    CHECKSUMS,
    MANIFEST_JSON,
    MARKER,
    Artifact,
    Marker,
    Mode,
    UploadManifest,
)
from riva_stream.pipeline.run import each
from riva_stream.retry import Retrier
from riva_stream.s3 import Store

__all__ = ["DOCUMENTS", "Documents", "read_documents"]

DOCUMENTS = (CHECKSUMS, ARTIFACT_JSON, MANIFEST_JSON, MARKER)
"""In the order in which they are written."""
_LIMIT = 64 << 20
"""Bytes at most of a document."""


@dataclass(frozen=True, slots=True)
class Documents:
    """What was read. What is missing or cannot be understood is None, and ``wrong`` says why."""

    texts: Mapping[str, bytes]
    """Name → content of each that is there."""
    marker: Marker | None = None
    artifact: Artifact | None = None
    manifest: UploadManifest | None = None
    wrong: Mapping[str, str] = field(default_factory=dict)
    """Name → why it cannot be understood."""

    @property
    def is_marked(self) -> bool:
        """Whether there is a marker, be it one that cannot be understood: it alone says that something is staged."""
        return MARKER in self.texts or MARKER in self.wrong

    @property
    def mode(self) -> Mode | None:
        """How it was staged."""
        if self.artifact is not None:
            return self.artifact.deployment.staging_mode
        return self.marker.mode if self.marker else None

    @property
    def problem(self) -> str:
        """Why what is marked as staged cannot be used, as far as marker and ``artifact.json`` tell; else ""."""
        if self.marker is None:
            return "its marker is not one of this tool's"
        if ARTIFACT_JSON not in self.texts:
            return self.wrong.get(ARTIFACT_JSON, f"it has a marker but no {ARTIFACT_JSON}")
        if hashlib.sha256(self.texts[ARTIFACT_JSON]).hexdigest() != self.marker.artifact_sha256:
            return f"{ARTIFACT_JSON} is not the one that the marker was written for"
        return self.wrong.get(ARTIFACT_JSON, "")


async def read_documents(
    store: Store, retrier: Retrier, bucket: str, prefix: str, names: Sequence[str] = DOCUMENTS
) -> Documents:
    """Read the documents below ``prefix`` that are in ``names``."""
    wrong: dict[str, str] = {}

    async def read(name: str) -> bytes | None:
        try:
            return await retrier("GetObject", partial(store.get, bucket, prefix + name, limit=_LIMIT))
        except IntegrityError as error:
            wrong[name] = error.what
            return None
        except AccessDeniedError as error:
            # Without s3:ListBucket S3 answers 403 for a key that does not exist, so as not to tell (S3 API, GetObject)
            error.hint = error.hint or (
                f"grant s3:GetObject on s3://{bucket}/{prefix}*, and s3:ListBucket on {bucket}, without which the "
                "store does not say what is not there"
            )
            raise

    found = await each(list(names), read)
    texts = {name: text for name, text in zip(names, found, strict=True) if text is not None}
    return _understood(texts, wrong)


def _understood(texts: Mapping[str, bytes], wrong: dict[str, str]) -> Documents:
    marker = artifact = manifest = None
    if MARKER in texts:
        try:
            marker = Marker.parse(texts[MARKER].decode())
        except ValueError:  # pydantic's and Unicode's are of this kind
            wrong[MARKER] = "it is not a marker of this tool's"
    for name, kind in ((ARTIFACT_JSON, Artifact), (MANIFEST_JSON, UploadManifest)):
        if name not in texts:
            continue
        try:
            document: Artifact | UploadManifest = kind.model_validate_json(texts[name])
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the document"
            wrong[name] = f"it cannot be understood: {place}: {first['msg']}"
            continue
        if isinstance(document, Artifact):
            artifact = document
        elif isinstance(document, UploadManifest):
            manifest = document
    return Documents(texts, marker, artifact, manifest, wrong)
