"""What is at the destination: read once, under the lease, before anything is changed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from pydantic import ValidationError

from riva_stream.documents.compare import differences
from riva_stream.documents.pair import Pair, read_pair
from riva_stream.errors import (
    AccessDeniedError,
    IntegrityError,
    RivaStreamError,
    Where,
)
from riva_stream.layout import (
    ARTIFACT_JSON,
    CHECKSUMS,
    DEPLOYMENT_JSON,
    DEPLOYMENT_READY,
    MANIFEST_JSON,
    MARKER,
    is_bintarball,
)
from riva_stream.manifest import Artifact, Marker, StagedFile, UploadManifest
from riva_stream.report import ObjectCheck
from riva_stream.run import Run, each
from riva_stream.s3 import Document

__all__ = ["Existing", "confirm", "inspect", "keep_documents"]

_SMALL = 64 << 20
"""Bytes at most of a document that is read back."""


@dataclass(frozen=True, slots=True)
class Existing:
    """What was found below the prefix."""

    etags: Mapping[str, str] = field(default_factory=dict)
    """All keys there with their ETags; none where listing is not allowed."""
    marker_etag: str | None = None
    """Of the object whose being there is the commit; None: nothing is staged."""
    marker: Marker | None = None
    """None also of a bintarball reference, whose marker is that of ``pair``."""
    artifact: Artifact | None = None
    manifest: UploadManifest | None = None
    foreign: str = ""
    """Why the marker that is there cannot be understood."""
    hinted: frozenset[str] = frozenset()
    """Keys that a manifest names which nobody vouches for: what may be there, where nothing may be listed."""
    documents: dict[str, bytes] = field(default_factory=dict)
    """Those that were read, by name, as they are written."""
    pair: Pair = field(default_factory=Pair)
    """``deployment.json`` and its marker, read where a container image is asked for; whole only if they are of this
    very staging."""
    listed: bool = True
    """Whether ``etags`` is to be believed: without the right to list, nobody knows what there is."""

    @property
    def is_complete(self) -> bool:
        """Whether there is a marker: it alone says that something is staged."""
        return self.marker_etag is not None

    def promised(self) -> set[str]:
        """Keys of all that the marker vouches for."""
        return {file.s3_key for file in self.manifest.files.all()} if self.manifest else set()


async def inspect(run: Run) -> Existing:
    """Look at the destination: one listing, and the documents if there is a marker."""
    try:
        existing = Existing(
            {entry.key: entry.etag async for entry in run.destination.objects(run.layout.prefix)}
        )
        unmarked = run.layout.marker not in existing.etags
    except AccessDeniedError:
        run.warn(
            "list", f"the keys below {run.request.destination} may not be listed: leftovers there stay unseen"
        )
        existing, unmarked = Existing(listed=False), False
    if is_bintarball(run.layout.prefix):
        pair = await read_pair(run)
        return replace(existing, marker_etag=pair.ready_etag, pair=pair)
    if unmarked:
        return existing
    found = await (_read if existing.listed else _read_unlisted)(run, MARKER)
    if found is None:
        if not existing.listed:
            # A run that was interrupted in its commit has perhaps left more than its successor can see.
            manifest = await _read_unlisted(run, MANIFEST_JSON)
            existing = replace(existing, hinted=_hinted(manifest.data if manifest else None))
        return existing
    existing = replace(existing, marker_etag=found.info.etag)
    try:
        marker = Marker.parse(found.data.decode())
    except (ValidationError, UnicodeDecodeError):
        return replace(existing, foreign="its marker is not one of this tool's")
    return await _documents(run, replace(existing, marker=marker), marker, found.data)


async def _documents(run: Run, existing: Existing, marker: Marker, text: bytes) -> Existing:
    """What the marker was written for; ``foreign`` says it when that is no longer there."""
    data = await _document(run, ARTIFACT_JSON)
    listed = await _document(run, MANIFEST_JSON) if marker.mode == "full" else None
    existing = replace(existing, hinted=_hinted(listed))
    if data is None or (marker.mode == "full" and listed is None):
        missing = ARTIFACT_JSON if data is None else MANIFEST_JSON
        return replace(existing, foreign=f"it has a marker but no {missing}")
    if hashlib.sha256(data).hexdigest() != marker.artifact_sha256:
        return replace(existing, foreign=f"{ARTIFACT_JSON} is not the one that the marker was written for")
    if listed is not None and marker.manifest_sha256 not in {None, hashlib.sha256(listed).hexdigest()}:
        return replace(existing, foreign=f"{MANIFEST_JSON} is not the one that the marker was written for")
    try:
        artifact = Artifact.model_validate_json(data)
        manifest = UploadManifest.model_validate_json(listed) if listed is not None else None
    except ValidationError:
        return replace(existing, foreign="its documents are not of a version that this tool knows")
    read = {MARKER: text, ARTIFACT_JSON: data} | ({} if listed is None else {MANIFEST_JSON: listed})
    pair = await read_pair(run) if run.request.server_path else Pair()
    if pair.document is not None and pair.document.deployment.artifact_sha256 != marker.artifact_sha256:
        pair = replace(pair, document=None, broken=f"its {DEPLOYMENT_JSON} is of another staging")
    return replace(existing, artifact=artifact, manifest=manifest, documents=read, pair=pair)


def _hinted(manifest: bytes | None) -> frozenset[str]:
    try:
        files = UploadManifest.model_validate_json(manifest).files.all() if manifest is not None else []
    except ValidationError:
        return frozenset()
    return frozenset(file.s3_key for file in files)


async def confirm(run: Run, existing: Existing) -> list[ObjectCheck]:
    """HEAD every object of a complete staging and compare it with its manifest.

    Raises:
        IntegrityError: one is missing or is not what was staged.
    """
    files = existing.manifest.files.all() if existing.manifest else []
    checks = await each(files, partial(_compare, run))
    # These were read whole: the marker vouches for artifact.json by its SHA-256.
    names = [ARTIFACT_JSON, MARKER] if existing.manifest is None else [MANIFEST_JSON, MARKER]
    read = {name: len(existing.documents[name]) for name in names if name in existing.documents}
    if existing.pair.document is not None:
        read |= {DEPLOYMENT_JSON: len(existing.pair.text), DEPLOYMENT_READY: len(existing.pair.ready)}
    known = {check.key for check in checks}
    return checks + [
        ObjectCheck(key=run.request.prefix + name, size_bytes=size, by=["content"])
        for name, size in read.items()
        if run.request.prefix + name not in known
    ]


async def keep_documents(run: Run, existing: Existing) -> None:
    """Leave copies of the staging's documents in the state directory, as the run that made them did on its host."""
    if run.request.state_dir is None:
        return
    documents = dict(existing.documents)
    if existing.pair.document is not None:
        documents |= {DEPLOYMENT_JSON: existing.pair.text, DEPLOYMENT_READY: existing.pair.ready}
    for name, data in documents.items():
        await run.keep(name, data)
    if existing.manifest is not None:
        try:
            checksums = await _document(run, CHECKSUMS)
        except RivaStreamError as error:  # it was compared already; here it is only to be copied
            run.warn("state", f"{CHECKSUMS} could not be copied to the state directory: {error}")
            return
        if checksums is not None:
            await run.keep(CHECKSUMS, checksums)


async def _compare(run: Run, file: StagedFile) -> ObjectCheck:
    info = await run.destination.head(file.s3_key)
    by, different = ([], ["it is gone"]) if info is None else differences(file, info)
    if not different:
        return ObjectCheck(key=file.s3_key, size_bytes=file.size_bytes, by=by)
    raise IntegrityError(
        f"what is staged is no longer what was staged: {different[0]}",
        where=Where("HeadObject", run.layout.bucket, file.s3_key),
        hint="stage it again with --force",
    )


async def _document(run: Run, name: str) -> bytes | None:
    found = await _read(run, name)
    return found.data if found else None


async def _read_unlisted(run: Run, name: str) -> Document | None:
    return await run.destination.find(run.layout.prefix + name, limit=_SMALL)


async def _read(run: Run, name: str) -> Document | None:
    return await run.destination.get(run.layout.prefix + name, limit=_SMALL)
