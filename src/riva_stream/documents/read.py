"""The documents of a staging as stored in the bucket, parsed as far as possible."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import TypeVar

from riva_stream.deployment import (
    DOCUMENT_LIMIT,
    DOCUMENTS,
    KINDS,
    DeploymentDocument,
    DeploymentReady,
    ObjectReference,
)
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

__all__ = ["Documents", "parse_documents", "read_documents"]

D = TypeVar("D", bound=Document)


@dataclass(frozen=True, slots=True)
class Documents:
    """The documents that were read. Any that is missing or cannot be parsed is None, and ``wrong`` says why."""

    texts: Mapping[str, bytes] = field(default_factory=dict)
    """Name → content of each existing document."""
    etags: Mapping[str, str] = field(default_factory=dict)
    """Name → ETag of exactly these bytes."""
    marker: Marker | None = None
    artifact: Artifact | None = None
    manifest: UploadManifest | None = None
    deployment: DeploymentDocument | None = None
    ready: DeploymentReady | None = None
    marked_by: str = MARKER
    """Name of the marker of this kind of staging."""
    hidden: Sequence[str] = ()
    """Names of the deployment documents that may not be read, so that it is unknown whether they exist."""
    foreign: Sequence[str] = ()
    """Names of the deployment documents that exist but belong to nothing that this tool has staged there."""
    wrong: Mapping[str, str] = field(default_factory=dict)
    """Name → why it cannot be parsed."""

    @property
    def is_marked(self) -> bool:
        """Whether there is a marker, even one that cannot be parsed: only a marker says that something is staged."""
        return self.has(self.marked_by)

    def has(self, name: str) -> bool:
        """Whether it was read, even if it cannot be parsed."""
        return name in self.texts or name in self.wrong

    @property
    def is_bintarball(self) -> bool:
        """Whether the staging consists of ``deployment.json`` alone."""
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
        """Names of the documents that must exist, according to the markers, and do not."""
        if not self.is_marked:
            return []
        named = () if self.is_bintarball else (ARTIFACT_JSON, *(OF_FULL if self.is_full else ()))
        files = self.manifest.files if self.manifest is not None else None
        if files is not None and files.deployment is not None:
            named = (*named, *DEPLOYMENT_DOCUMENTS)
        elif self.has(DEPLOYMENT_READY):
            named = (*named, DEPLOYMENT_JSON)
        return [name for name in named if not self.has(name) and name not in self.hidden]

    @property
    def problem(self) -> str:
        """Why the marked staging cannot be used, as far as the marker and its documents show; otherwise ""."""
        if self.is_bintarball:
            return self.deployment_problem
        if self.marker is None:
            return "its marker is not one of this tool's"
        return self.problem_of(ARTIFACT_JSON, "the marker", self.marker.artifact_sha256)

    @property
    def run_id(self) -> str | None:
        """Id of the run that staged it, according to its marker."""
        marker = self.ready if self.is_bintarball else self.marker
        return marker.run_id if marker else None

    @property
    def staged_at(self) -> datetime | None:
        """When it was staged, according to its marker."""
        if self.is_bintarball:
            return self.ready.ready_at if self.ready else None
        return self.marker.completed_at if self.marker else None

    @property
    def reference(self) -> ObjectReference | None:
        """The archive that a bintarball reference refers to."""
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
        """Why the deployment documents cannot be used, as far as they show; "" also if there are none."""
        if not self.has(DEPLOYMENT_READY):
            return ""
        if self.ready is None:
            return f"its {DEPLOYMENT_READY} is not one of this tool's"
        return self.problem_of(DEPLOYMENT_JSON, DEPLOYMENT_READY, self.ready.deployment_sha256)

    def problem_of(self, name: str, marker: str, sha256: str | None) -> str:
        """Why a document cannot be used, or "". ``sha256``: as stated by its marker; None: the marker states none."""
        if name not in self.texts:
            return self.wrong.get(name, f"it has {marker} but no {name}")
        if sha256 not in {None, hashlib.sha256(self.texts[name]).hexdigest()}:
            return f"{name} is not the one that {marker} was written for"
        return self.wrong.get(name, "")


async def read_documents(
    bucket: Bucket, prefix: str, names: Sequence[str] = DOCUMENTS, *, listed: bool = False, sure: bool = False
) -> Documents:
    """Read the documents below ``prefix`` that are in ``names``; a bintarball reference has only two.

    The marker first: without it nothing vouches for the others, and none of them is read. A document that a listing has
    shown, or that must exist according to the marker, is requested again before it is believed to be gone.

    Args:
        bucket: where they are.
        prefix: of the staging.
        names: of documents.
        listed: a listing has shown the marker, or it should exist.
        sure: that a deployment document is missing is believed only if a listing says so too, or if it was requested
            again; the names of those that may not be read, and may exist, are in ``hidden``.
    """
    marked_by = marker_at(prefix)
    wanted = DEPLOYMENT_DOCUMENTS if marked_by == DEPLOYMENT_READY else names
    reading = _Reading(bucket, prefix, wanted, marked_by)
    await reading.look(marked_by, again=listed)
    if reading.read or reading.wrong:
        await gather_bounded([name for name in wanted if name != marked_by], reading.look)
    if missing := [name for name in reading.so_far().missing if name in wanted]:
        await gather_bounded(missing, partial(reading.look, again=True))
    found = reading.so_far()
    if found.is_bintarball:
        return found
    if sure and found.is_marked:
        await gather_bounded(
            [name for name in DEPLOYMENT_DOCUMENTS if not found.has(name)], reading.look_for_deployment
        )
    return _without_foreign(reading.so_far())


@dataclass(eq=False)
class _Reading:
    """Documents while they are read, one by one."""

    bucket: Bucket
    prefix: str
    wanted: Sequence[str]
    marked_by: str
    read: dict[str, InStore] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)

    async def look(self, name: str, *, again: bool = False) -> None:
        """Read a document, if it exists; ``again``: it should."""
        ask = self.bucket.get_confirming_absence if again else self.bucket.get
        try:
            document = await ask(self.prefix + name, limit=DOCUMENT_LIMIT)
        except IntegrityError as error:
            self.wrong[name] = error.what
        except AccessDeniedError:
            if name not in DEPLOYMENT_DOCUMENTS or self.marked_by in DEPLOYMENT_DOCUMENTS:
                raise
            # most stagings have none: that must not prevent the rest from being read
            self.hidden.add(name)
        else:
            if document is not None:
                self.read[name] = document

    async def look_for_deployment(self, name: str) -> None:
        """Make sure that a deployment document which was not read is missing."""
        try:
            page = await self.bucket.list_objects(self.prefix + name, limit=1)
            is_there = any(entry.key == self.prefix + name for entry in page.objects)
        except AccessDeniedError:
            is_there = True  # perhaps
        self.hidden.discard(name)
        if is_there:
            await self.look(name, again=True)

    def so_far(self) -> Documents:
        """The documents so far, in the order of their names."""
        in_order = {name: self.read[name] for name in self.wanted if name in self.read}
        found = parse_documents(in_order, self.wrong, marked_by=self.marked_by)
        return replace(found, hidden=sorted(self.hidden))


def _without_foreign(documents: Documents) -> Documents:
    """Leave out deployment documents that are meaningless: without a marker, or put there by somebody else."""
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


def parse_documents(
    found: Mapping[str, InStore], unreadable: Mapping[str, str] | None = None, *, marked_by: str = MARKER
) -> Documents:
    """Parse what was read, by name; ``unreadable``: why others could not be."""
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
