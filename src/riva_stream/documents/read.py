"""The documents of a staging as they lie in the bucket, understood as far as they can be."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import TypeVar

from riva_stream.deployment import DOCUMENTS, KINDS, DeploymentDocument, DeploymentReady, ObjectReference
from riva_stream.errors import AccessDeniedError, IntegrityError
from riva_stream.layout import (
    ARTIFACT_JSON,
    DEPLOYMENT_DOCUMENTS,
    DEPLOYMENT_JSON,
    DEPLOYMENT_READY,
    MARKER,
    OF_FULL,
    marker_at,
)
from riva_stream.manifest import Artifact, Document, Marker, Mode, UploadManifest
from riva_stream.run import gather_bounded
from riva_stream.s3 import Bucket
from riva_stream.s3 import Document as InStore

__all__ = ["DOCUMENT_LIMIT", "Documents", "read_documents", "understood"]

D = TypeVar("D", bound=Document)

DOCUMENT_LIMIT = 64 << 20
"""Bytes at most of a document."""


@dataclass(frozen=True, slots=True)
class Documents:
    """What was read. What is missing or cannot be understood is None, and ``wrong`` says why."""

    texts: Mapping[str, bytes] = field(default_factory=dict)
    """Name → content of each that is there."""
    etags: Mapping[str, str] = field(default_factory=dict)
    """Name → ETag of these very bytes."""
    marker: Marker | None = None
    artifact: Artifact | None = None
    manifest: UploadManifest | None = None
    deployment: DeploymentDocument | None = None
    ready: DeploymentReady | None = None
    marked_by: str = MARKER
    """Name of the marker of a staging that is there."""
    hidden: Sequence[str] = ()
    """Names of those of the pair that may not be read, so that nobody knows whether they are there."""
    foreign: Sequence[str] = ()
    """Names of those of the pair that are there but belong to nothing that this tool has staged there."""
    wrong: Mapping[str, str] = field(default_factory=dict)
    """Name → why it cannot be understood."""

    @property
    def is_marked(self) -> bool:
        """Whether there is a marker, be it one that cannot be understood: it alone says that something is staged."""
        return self.has(self.marked_by)

    def has(self, name: str) -> bool:
        """Whether it was read, be it that it cannot be understood."""
        return name in self.texts or name in self.wrong

    @property
    def is_bintarball(self) -> bool:
        """Whether ``deployment.json`` is all that there is to a staging."""
        return self.marked_by == DEPLOYMENT_READY

    @property
    def mode(self) -> Mode | None:
        """How it was staged."""
        if self.is_bintarball:
            return "bintarball_reference"
        if self.artifact is not None:
            return self.artifact.deployment.staging_mode
        return self.marker.mode if self.marker else None

    @property
    def is_full(self) -> bool:
        """Whether it has objects of its own."""
        return self.mode not in {"reference_only", "bintarball_reference"}

    @property
    def missing(self) -> list[str]:
        """Names of those that have to be there, as the marks tell, and are not."""
        if not self.is_marked:
            return []
        named = () if self.is_bintarball else (ARTIFACT_JSON, *(OF_FULL if self.is_full else ()))
        paired = (DEPLOYMENT_JSON,) if self.has(DEPLOYMENT_READY) else ()
        return [name for name in (*named, *paired) if not self.has(name) and name not in self.hidden]

    @property
    def problem(self) -> str:
        """Why what is marked as staged cannot be used, as far as marker and what it vouches for tell; else ""."""
        if self.is_bintarball:
            return self.deployment_problem
        if self.marker is None:
            return "its marker is not one of this tool's"
        return self.problem_of(ARTIFACT_JSON, "the marker", self.marker.artifact_sha256)

    @property
    def run_id(self) -> str | None:
        """Of the run that staged it, as its marker tells."""
        marker = self.ready if self.is_bintarball else self.marker
        return marker.run_id if marker else None

    @property
    def staged_at(self) -> datetime | None:
        """When, as its marker tells."""
        if self.is_bintarball:
            return self.ready.ready_at if self.ready else None
        return self.marker.completed_at if self.marker else None

    @property
    def reference(self) -> ObjectReference | None:
        """The archive where it lies, of a bintarball reference."""
        found = self.deployment if self.is_bintarball else None
        return found.bintarball_references.model_archive if found else None

    @property
    def source(self) -> str | None:
        """URI of what was staged."""
        if self.reference is not None:
            return self.reference.s3_uri
        return self.artifact.source.uri if self.artifact else None

    @property
    def deployment_problem(self) -> str:
        """Why the pair cannot be used, as far as the two tell; "" also where there is none."""
        if not self.has(DEPLOYMENT_READY):
            return ""
        if self.ready is None:
            return f"its {DEPLOYMENT_READY} is not one of this tool's"
        return self.problem_of(DEPLOYMENT_JSON, DEPLOYMENT_READY, self.ready.deployment_sha256)

    def problem_of(self, name: str, marker: str, sha256: str | None) -> str:
        """Why a document cannot be used, or "". ``sha256``: what its marker says; None: it says nothing."""
        if name not in self.texts:
            return self.wrong.get(name, f"it has {marker} but no {name}")
        if sha256 not in {None, hashlib.sha256(self.texts[name]).hexdigest()}:
            return f"{name} is not the one that {marker} was written for"
        return self.wrong.get(name, "")


async def read_documents(
    bucket: Bucket, prefix: str, names: Sequence[str] = DOCUMENTS, *, listed: bool = False
) -> Documents:
    """Read the documents below ``prefix`` that are in ``names``; of a bintarball reference there are but the two.

    The marker first: without it nobody vouches for the others, and none of them is read. What a listing has shown, or
    the marker says to be there, is asked for again before it is believed to be gone.

    Args:
        bucket: where it is.
        prefix: of the staging.
        names: of documents.
        listed: a listing has shown the marker, or it should be there.
    """
    marked_by = marker_at(prefix)
    wanted = DEPLOYMENT_DOCUMENTS if marked_by == DEPLOYMENT_READY else names
    read: dict[str, InStore] = {}
    wrong: dict[str, str] = {}
    hidden: list[str] = []

    async def look(name: str, *, again: bool = False) -> None:
        """Read one, if it is there; ``again``: it should be."""
        ask = bucket.get_confirming_absence if again else bucket.get
        try:
            document = await ask(prefix + name, limit=DOCUMENT_LIMIT)
        except IntegrityError as error:
            wrong[name] = error.what
        except AccessDeniedError:
            if name not in DEPLOYMENT_DOCUMENTS or marked_by in DEPLOYMENT_DOCUMENTS:
                raise
            # most stagings have none: that must not keep the rest from being looked at
            hidden.append(name)
        else:
            if document is not None:
                read[name] = document

    def so_far() -> Documents:
        """What they are, in the order of their names."""
        in_order = {name: read[name] for name in wanted if name in read}
        return replace(understood(in_order, wrong, marked_by=marked_by), hidden=sorted(hidden))

    await look(marked_by, again=listed)
    if read or wrong:
        await gather_bounded([name for name in wanted if name != marked_by], look)
    found = so_far()
    if missing := [name for name in found.missing if name in wanted]:
        await gather_bounded(missing, partial(look, again=True))
        found = so_far()
    return found if found.is_bintarball else _without_foreign(found)


def _without_foreign(documents: Documents) -> Documents:
    """Leave out a pair that says nothing: one without its marker, and what somebody else has put there."""
    there = [name for name in DEPLOYMENT_DOCUMENTS if documents.has(name)]
    named = documents.manifest is not None and documents.manifest.files.deployment is not None
    ours = documents.ready is not None or documents.deployment is not None
    if not there or named or (documents.has(DEPLOYMENT_READY) and ours):
        return documents
    return replace(
        documents,
        texts={name: text for name, text in documents.texts.items() if name not in DEPLOYMENT_DOCUMENTS},
        wrong={name: why for name, why in documents.wrong.items() if name not in DEPLOYMENT_DOCUMENTS},
        deployment=None,
        ready=None,
        foreign=there,
    )


def understood(
    found: Mapping[str, InStore], unreadable: Mapping[str, str] | None = None, *, marked_by: str = MARKER
) -> Documents:
    """What was read, by name, and why others could not be."""
    read: list[Document | None] = []
    wrong = dict(unreadable or {})
    for name, text in found.items():
        try:
            read.append(KINDS[name].parse(text.data))
        except ValueError as error:  # pydantic's and Unicode's are of this kind
            why = f"it cannot be understood: {error}"
            wrong[name] = why if KINDS[name].is_json else "it is not a marker of this tool's"

    def of(kind: type[D]) -> D | None:
        return next((document for document in read if isinstance(document, kind)), None)

    return Documents(
        {name: text.data for name, text in found.items()},
        {name: text.info.etag for name, text in found.items()},
        marker=of(Marker),
        artifact=of(Artifact),
        manifest=of(UploadManifest),
        deployment=of(DeploymentDocument),
        ready=of(DeploymentReady),
        marked_by=marked_by,
        wrong=wrong,
    )
