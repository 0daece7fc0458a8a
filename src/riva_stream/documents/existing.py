"""The existing content of the destination: read once, under the lease, before anything is changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

from riva_stream.deployment import DOCUMENT_LIMIT, DeploymentDocument
from riva_stream.documents.compare import (
    artifact_differences,
    deployment_differences,
    differences,
    disagreements,
)
from riva_stream.documents.read import Documents, parse_documents
from riva_stream.errors import (
    AccessDeniedError,
    IntegrityError,
    RivaStreamError,
    SourceNotFoundError,
    Where,
)
from riva_stream.layout import (
    ARTIFACT_JSON,
    CHECKSUMS,
    DEPLOYMENT_DOCUMENTS,
    DEPLOYMENT_JSON,
    DEPLOYMENT_READY,
    MANIFEST_JSON,
    MARKER,
    Layout,
    is_bintarball,
)
from riva_stream.manifest import Artifact, Finding, StagedFile, UploadManifest, payload_of
from riva_stream.naming import option
from riva_stream.printable import some_of
from riva_stream.report import ObjectCheck
from riva_stream.run import Run, gather_bounded
from riva_stream.s3 import Document
from riva_stream.s3.errors import ARCHIVED

__all__ = ["Existing", "confirm", "fetch_document", "inspect", "save_document_copies"]


@dataclass(frozen=True)
class Existing:
    """The content found below the prefix."""

    etags: Mapping[str, str] = field(default_factory=dict)
    """All keys below the prefix with their ETags; empty if listing is not permitted."""
    documents: Documents = field(default_factory=Documents)
    """The documents that were read: the marker and what it vouches for; ``deployment.json`` and its marker if a
    container image is requested, or a full staging in place of one by reference. Without a marker and without
    permission to list, a manifest that nothing vouches for."""
    listed: bool = True
    """Whether ``etags`` is complete: without permission to list, the existing keys are unknown."""
    prefix: str = ""
    """Of the staging."""

    @property
    def marker_etag(self) -> str | None:
        """ETag of the object whose existence is the commit; None: nothing is staged."""
        return self.documents.etags.get(self.documents.marked_by)

    @property
    def is_complete(self) -> bool:
        """Whether there is a marker: only a marker says that something is staged."""
        return self.marker_etag is not None

    @property
    def is_by_reference(self) -> bool:
        """Whether the marker says that the staging only refers to the source."""
        marker = self.documents.marker
        return marker is not None and marker.mode == "reference_only"

    @cached_property
    def foreign(self) -> str:
        """Why the marker, or the document for which it was written, cannot be parsed; otherwise ""."""
        documents, marker = self.documents, self.documents.marker
        if not self.is_complete or documents.is_bintarball:
            return ""
        if documents.problem or marker is None or marker.mode != "full":
            return documents.problem
        return documents.problem_of(MANIFEST_JSON, "the marker", marker.manifest_sha256)

    @property
    def artifact(self) -> Artifact | None:
        """The artifact of the staging."""
        return self.documents.artifact if self.is_complete and not self.foreign else None

    @property
    def manifest(self) -> UploadManifest | None:
        """The manifest of the staging; None by reference."""
        return self.documents.manifest if self.is_complete and not self.foreign else None

    @cached_property
    def deployment_problem(self) -> str:
        """Why ``deployment.json`` cannot be used although it has a marker; otherwise ""."""
        documents, marker = self.documents, self.documents.marker
        document = documents.deployment
        if documents.deployment_problem or document is None:
            return documents.deployment_problem
        if marker is not None and document.deployment.artifact_sha256 != marker.artifact_sha256:
            return f"its {DEPLOYMENT_JSON} is of another staging"
        different = deployment_differences(documents, self.prefix)
        return f"its {DEPLOYMENT_JSON} contradicts it: {different[0].message}" if different else ""

    @property
    def deployment(self) -> DeploymentDocument | None:
        """``deployment.json``, if it was read, its marker vouches for it and it belongs to this staging."""
        return None if self.deployment_problem else self.documents.deployment

    @property
    def has_newer_deployment(self) -> bool:
        """Whether the deployment documents match their marker, but are written for another version."""
        documents = self.documents
        return documents.ready is not None and documents.deployment_problem == documents.wrong.get(
            DEPLOYMENT_JSON
        )

    @property
    def may_be_deployable(self) -> bool:
        """Whether there are deployment documents that are valid, or that another version may be able to read."""
        is_mark_unknown = self.documents.has(DEPLOYMENT_READY) and self.documents.ready is None
        return self.deployment is not None or self.has_newer_deployment or is_mark_unknown

    def may_hold_payload(self, layout: Layout) -> bool:
        """Whether there may be an archive or models, even if no marker vouches for them."""
        return not self.listed or any(map(layout.is_payload, self.etags))

    @cached_property
    def named_keys(self) -> frozenset[str]:
        """Keys that a manifest or ``artifact.json`` names, even if nothing vouches for it: these objects may exist."""
        manifest, artifact = self.documents.manifest, self.documents.artifact
        keys = {file.s3_key for file in manifest.files.all()} if manifest else set[str]()
        if artifact is not None and artifact.deployment.staging_mode == "full":
            # The manifest may be missing, or refused for a while.
            keys |= {self.prefix + path for path, *_ in payload_of(artifact)}
        return frozenset(keys)

    @cached_property
    def committed_keys(self) -> frozenset[str]:
        """Keys of everything that the marker vouches for."""
        return self.named_keys if self.manifest else frozenset()

    def has_shown(self, key: str) -> bool:
        """Whether a listing or a document has shown an object at a key, or it was read."""
        is_read = self.documents.has(key.removeprefix(self.prefix))
        return key in self.etags or key in self.named_keys or is_read

    def may_have(self, key: str) -> bool:
        """Whether there may be an object at a key: a listing may lag, so what a document shows counts as well."""
        return not self.listed or self.has_shown(key)


async def inspect(run: Run) -> Existing:
    """Inspect the destination: one listing, and the documents if there is a marker."""
    bucket, prefix = run.destination, run.layout.prefix
    try:
        found = {entry.key: entry.etag async for entry in bucket.objects(prefix)}
        existing = Existing(found, prefix=prefix)
    except AccessDeniedError:
        run.warn(
            "list", f"the keys below {run.request.destination} may not be listed: leftovers there stay unseen"
        )
        existing = Existing(listed=False, prefix=prefix)
    if is_bintarball(prefix):
        return replace(
            existing,
            documents=parse_documents(await _read_deployment(run, existing), marked_by=DEPLOYMENT_READY),
        )
    if existing.listed and run.layout.marker not in existing.etags:
        return existing
    read: dict[str, Document] = {}
    ask = partial(bucket.get_confirming_absence, listed=existing.listed)

    async def fetch(*names: str) -> None:
        for name in names:
            if (document := await fetch_document(run, ask, prefix + name)) is not None:
                read[name] = document

    await fetch(MARKER)
    if told := parse_documents(read).marker:
        await fetch(ARTIFACT_JSON, *((MANIFEST_JSON,) if told.mode == "full" else ()))
    elif not existing.listed and MARKER not in read:
        # A run that was interrupted during its commit may have left more than its successor can see.
        await fetch(MANIFEST_JSON)
    existing = replace(existing, documents=parse_documents(read))
    is_upgrade = existing.is_by_reference and run.request.mode == "full"
    if existing.artifact is None or not (run.request.server_path or is_upgrade):
        return existing
    return replace(existing, documents=parse_documents(read | await _read_deployment(run, existing)))


async def _read_deployment(run: Run, existing: Existing) -> dict[str, Document]:
    """``deployment_ready.txt`` and, if it exists, ``deployment.json``."""
    read: dict[str, Document] = {}
    for name in (DEPLOYMENT_READY, DEPLOYMENT_JSON):
        key = run.layout.prefix + name
        is_known = key in existing.etags or key in existing.committed_keys or not existing.listed
        fetch = partial(run.destination.get_confirming_absence, listed=existing.listed)
        document = await fetch_document(run, fetch if is_known else run.destination.get_or_none, key)
        if document is None:
            break
        read[name] = document
    return read


async def fetch_document(
    run: Run, fetch: Callable[..., Awaitable[Document | None]], key: str
) -> Document | None:
    """A document; an archived one exists, but has no content that could be parsed."""
    try:
        return await fetch(key, limit=DOCUMENT_LIMIT)
    except SourceNotFoundError as error:
        if error.where.code != ARCHIVED:
            raise
        run.warn(
            "archived", f"s3://{run.layout.bucket}/{key} is archived (Glacier): its content cannot be read"
        )
        info = await run.destination.head_confirming_absence(key, listed=True)
        return None if info is None else Document(b"", info)


async def confirm(run: Run, existing: Existing) -> list[ObjectCheck]:
    """HEAD every object of a complete staging and compare it with its manifest, and that with ``artifact.json``.

    Raises:
        IntegrityError: one is missing, or is not what was staged, or the documents disagree.
    """
    manifest, artifact = existing.manifest, existing.artifact
    if artifact is not None and (wrong := artifact_differences(artifact, run.layout.prefix)):
        raise IntegrityError(
            f"{ARTIFACT_JSON} contradicts the staging: {wrong[0].message}",
            where=Where("GetObject", run.layout.bucket, run.layout.prefix + ARTIFACT_JSON),
            hint=f"stage it again with {option('force')}",
        )
    if manifest is not None and artifact is not None:
        other = disagreements(artifact, manifest, run.layout.prefix)
        if other or not manifest.files.models:
            raise IntegrityError(
                f"{MANIFEST_JSON} disagrees with {ARTIFACT_JSON} about {some_of(other) or 'the models'}",
                where=Where("GetObject", run.layout.bucket, run.layout.prefix + MANIFEST_JSON),
                hint=f"stage it again with {option('force')}",
            )
    files = manifest.files.all() if manifest else []
    checks = await gather_bounded(files, partial(_compare, run))
    # These were read completely: the marker vouches for artifact.json by its SHA-256.
    names = [ARTIFACT_JSON if manifest is None else MANIFEST_JSON, MARKER]
    names += DEPLOYMENT_DOCUMENTS if existing.deployment is not None else ()
    texts = existing.documents.texts
    known = {check.key for check in checks}
    return checks + [
        ObjectCheck(key=run.request.prefix + name, size_bytes=len(texts[name]), by=["content"])
        for name in names
        if name in texts and run.request.prefix + name not in known
    ]


async def save_document_copies(run: Run, existing: Existing) -> None:
    """Save copies of the staging's documents in the state directory, as the run that made them did on its host."""
    if run.request.state_dir is None:
        return
    for name, data in existing.documents.texts.items():
        if name not in DEPLOYMENT_DOCUMENTS or existing.deployment is not None:
            await run.save_copy(name, data)
    if existing.manifest is not None:
        try:
            checksums = await run.destination.get(run.layout.prefix + CHECKSUMS, limit=DOCUMENT_LIMIT)
        except RivaStreamError as error:  # it was compared already; here it is only copied
            run.warn("state", f"{CHECKSUMS} could not be copied to the state directory: {error}")
            return
        if checksums is not None:
            await run.save_copy(CHECKSUMS, checksums.data)


async def _compare(run: Run, file: StagedFile) -> ObjectCheck:
    info = await run.destination.head_confirming_absence(file.s3_key, listed=True)
    gone = Finding(code="gone", message="it is missing")
    by, different = ([], [gone]) if info is None else differences(file, info)
    if not different:
        return ObjectCheck(key=file.s3_key, size_bytes=file.size_bytes, by=by)
    raise IntegrityError(
        f"the staging no longer matches its manifest: {different[0].message}",
        where=Where("HeadObject", run.layout.bucket, file.s3_key),
        hint=f"stage it again with {option('force')}",
    )
