"""What stands at the destination, and what that means for a request."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial

from pydantic import ValidationError

from riva_stream.config import StageRequest
from riva_stream.deployment import DEPLOYMENT_JSON, DEPLOYMENT_READY
from riva_stream.errors import (
    AccessDeniedError,
    DestinationConflictError,
    DigestMismatchError,
    IntegrityError,
    RivaStreamError,
    Where,
)
from riva_stream.manifest import (
    ARTIFACT_JSON,
    CHECKSUMS,
    MANIFEST_JSON,
    MARKER,
    Artifact,
    Marker,
    StagedFile,
    UploadManifest,
)
from riva_stream.pipeline.pair import Pair, another_container, read_pair
from riva_stream.pipeline.run import Run, each
from riva_stream.pipeline.verify import differences
from riva_stream.report import ObjectCheck
from riva_stream.source import PinnedSource
from riva_stream.state import JOURNAL, read_journal

__all__ = ["Decision", "Standing", "confirm", "decide", "inspect", "remove_leftover"]

_SMALL = 64 << 20
"""Bytes at most of a document that is read back."""


class Decision(Enum):
    """What a run does with what it finds."""

    STAGE = "stage"
    ALREADY_STAGED = "nothing: it is staged already"
    HAND_OVER = "add deployment.json to what is staged already"
    UPGRADE = "upgrade a staging by reference to a full one"
    REPLACE = "replace what is staged"


@dataclass(frozen=True, slots=True)
class Standing:
    """What was found below the prefix."""

    keys: Sequence[str]
    """All keys there; none where listing is not allowed."""
    marker: Marker | None = None
    artifact: Artifact | None = None
    manifest: UploadManifest | None = None
    foreign: str = ""
    """Why the marker that is there cannot be understood."""
    documents: dict[str, bytes] = field(default_factory=dict)
    """Those that were read, by name, as they are written."""
    pair: Pair = field(default_factory=Pair)
    """``deployment.json`` and its marker, read where a container image is asked for; whole only if they are of this
    very staging."""
    listed: bool = True
    """Whether ``keys`` is to be believed: without the right to list, nobody knows what there is."""

    @property
    def is_empty(self) -> bool:
        """Whether surely nothing is there, no journal either."""
        return self.listed and not self.keys

    @property
    def is_complete(self) -> bool:
        """Whether there is a marker: it alone says that something is staged."""
        return self.marker is not None or bool(self.foreign)


async def inspect(run: Run) -> Standing:
    """Look at the destination: one listing, and the documents if there is a marker."""
    try:
        keys = await _keys_below(run)
        marked = run.request.prefix + MARKER in keys
    except AccessDeniedError:
        run.warn(
            "list", f"the keys below {run.request.destination} may not be listed: leftovers there stay unseen"
        )
        return replace(await _unlisted(run), listed=False)
    text = await _document(run, MARKER) if marked else None
    return await _marked(run, keys, text)


async def _unlisted(run: Run) -> Standing:
    """What can be known without listing: S3 answers 403 to the GET of what is not there, so as not to tell."""
    try:
        text = await _document(run, MARKER)
    except AccessDeniedError:
        return Standing([])
    return await _marked(run, [], text)


async def _marked(run: Run, keys: list[str], text: bytes | None) -> Standing:
    if text is None:
        return Standing(keys)
    try:
        marker = Marker.parse(text.decode())
    except (ValidationError, UnicodeDecodeError):
        return Standing(keys, foreign="its marker is not one of this tool's")
    return await _documents(run, keys, marker, text)


async def _documents(run: Run, keys: list[str], marker: Marker, text: bytes) -> Standing:
    """What the marker was written for; ``foreign`` says it when that is no longer there."""
    data = await _document(run, ARTIFACT_JSON)
    listed = await _document(run, MANIFEST_JSON) if marker.mode == "full" else None
    if data is None or (marker.mode == "full" and listed is None):
        missing = ARTIFACT_JSON if data is None else MANIFEST_JSON
        return Standing(keys, marker, foreign=f"it has a marker but no {missing}")
    if hashlib.sha256(data).hexdigest() != marker.artifact_sha256:
        return Standing(keys, marker, foreign="artifact.json is not the one that the marker was written for")
    try:
        artifact = Artifact.model_validate_json(data)
        manifest = UploadManifest.model_validate_json(listed) if listed is not None else None
    except ValidationError:
        return Standing(keys, marker, foreign="its documents are not of a version that this tool knows")
    read = {MARKER: text, ARTIFACT_JSON: data} | ({} if listed is None else {MANIFEST_JSON: listed})
    pair = await read_pair(run) if run.request.server_path else Pair()
    if pair.document is not None and pair.document.deployment.artifact_sha256 != marker.artifact_sha256:
        pair = replace(pair, document=None, broken=f"its {DEPLOYMENT_JSON} is of another staging")
    return Standing(keys, marker, artifact, manifest, documents=read, pair=pair)


def decide(
    request: StageRequest, source: PinnedSource, standing: Standing, container: PinnedSource | None = None
) -> Decision:
    """What to do, from what is asked for and what is there. Nothing is read or written.

    Raises:
        DestinationConflictError: another staging is there, and ``force`` was not given.
        DigestMismatchError: this very source is staged, but with another SHA-256 than the one expected.
    """
    if not standing.is_complete:
        return Decision.STAGE
    where = Where(bucket=request.bucket, key=request.prefix + MARKER)
    staged, mode = standing.artifact, standing.marker.mode if standing.marker else "full"
    if standing.foreign or staged is None:
        difference = standing.foreign or "it cannot be understood"
    else:
        difference = _difference(request, source, standing, staged)
    if not difference and container is not None and standing.pair.document is not None:
        difference = another_container(standing.pair.document, container)
    if not difference and staged is not None:
        expected = request.expect_sha256
        if (
            expected
            and not request.force
            and not request.no_checksum
            and staged.source.sha256 not in {None, expected}
        ):
            raise DigestMismatchError(
                f"what is staged has the SHA-256 {staged.source.sha256}, not the expected {expected}",
                where=where,
                hint="check the expected SHA-256; the source itself has not changed since it was staged",
            )
        if mode == "reference_only" and not request.reference_only:
            return Decision.UPGRADE
        if not request.force:
            whole = container is None or standing.pair.document is not None
            return Decision.ALREADY_STAGED if whole else Decision.HAND_OVER
    if request.force:
        return Decision.REPLACE
    raise DestinationConflictError(
        f"{request.destination} holds another staging: {difference}",
        where=where,
        hint="stage under another --model-version, or replace what is there with --force",
    )


def _difference(request: StageRequest, source: PinnedSource, standing: Standing, staged: Artifact) -> str:
    """In what the staging there differs from what is asked for, or ""."""
    if staged.source.uri != source.uri:
        return f"it was made from {staged.source.uri}"
    if (staged.source.etag, staged.source.size_bytes) != (source.etag, source.size):
        return f"its source was ETag {staged.source.etag}, {staged.source.size_bytes} bytes; now it is {source.etag}, {source.size}"
    if staged.source.version_id != source.version_id:
        return f"its source was version {staged.source.version_id}; now it is {source.version_id}"
    if (
        standing.manifest
        and not request.reference_only
        and set(standing.manifest.include) != set(request.include)
    ):
        return f"it was made with --include {' '.join(standing.manifest.include)}"
    return ""


async def confirm(run: Run, standing: Standing) -> list[ObjectCheck]:
    """HEAD every object of a complete staging and compare it with its manifest.

    Raises:
        IntegrityError: one is missing or is not what was staged.
    """
    files = standing.manifest.files.all() if standing.manifest else []
    checks = await each(files, partial(_compare, run))
    # These were read whole: the marker vouches for artifact.json by its SHA-256.
    names = [ARTIFACT_JSON, MARKER] if standing.manifest is None else [MANIFEST_JSON, MARKER]
    read = {name: len(standing.documents[name]) for name in names}
    if standing.pair.document is not None:
        read |= {DEPLOYMENT_JSON: len(standing.pair.text), DEPLOYMENT_READY: len(standing.pair.ready)}
    known = {check.key for check in checks}
    return checks + [
        ObjectCheck(key=run.request.prefix + name, size_bytes=size, by=["content"])
        for name, size in read.items()
        if run.request.prefix + name not in known
    ]


async def keep_documents(run: Run, standing: Standing) -> None:
    """Leave copies of the staging's documents in the state directory, as the run that made them did on its host."""
    if run.request.state_dir is None:
        return
    documents = dict(standing.documents)
    if standing.pair.document is not None:
        documents |= {DEPLOYMENT_JSON: standing.pair.text, DEPLOYMENT_READY: standing.pair.ready}
    for name, data in documents.items():
        await run.keep(name, data)
    if standing.manifest is not None:
        try:
            checksums = await _document(run, CHECKSUMS)
        except RivaStreamError as error:  # it was compared already; here it is only to be copied
            run.warn("state", f"{CHECKSUMS} could not be copied to the state directory: {error}")
            return
        if checksums is not None:
            await run.keep(CHECKSUMS, checksums)


async def remove_leftover(run: Run, standing: Standing) -> None:
    """Delete the journal of the very run whose marker is there: it died between the two."""
    key = run.request.prefix + JOURNAL
    if key not in standing.keys or standing.marker is None:
        return
    found = await read_journal(run.destination, run.retrier, run.request.bucket, key)
    if found is not None and found.journal is not None and found.journal.run_id == standing.marker.run_id:
        try:
            await run.retrier("DeleteObject", partial(run.destination.delete, run.request.bucket, key))
        except AccessDeniedError as error:  # it says of itself that it is over, and misleads nobody
            run.warn("journal", f"the journal s3://{run.request.bucket}/{key} could not be removed: {error}")


async def _compare(run: Run, file: StagedFile) -> ObjectCheck:
    bucket = run.request.bucket
    info = await run.retrier("HeadObject", partial(run.destination.head, bucket, file.s3_key))
    by, different = ([], ["it is gone"]) if info is None else differences(file, info)
    if not different:
        return ObjectCheck(key=file.s3_key, size_bytes=file.size_bytes, by=by)
    raise IntegrityError(
        f"what is staged is no longer what was staged: {different[0]}",
        where=Where("HeadObject", bucket, file.s3_key),
        hint="stage it again with --force",
    )


async def _keys_below(run: Run) -> list[str]:
    keys: list[str] = []
    while True:
        page = await run.retrier(
            "ListObjectsV2",
            partial(
                run.destination.list_objects,
                run.request.bucket,
                run.request.prefix,
                after=keys[-1] if keys else "",
            ),
        )
        keys += [entry.key for entry in page.objects]
        if not page.truncated or not page.objects:
            return keys


async def _document(run: Run, name: str) -> bytes | None:
    found = await run.retrier(
        "GetObject",
        partial(run.destination.get, run.request.bucket, run.request.prefix + name, limit=_SMALL),
    )
    return found.data if found else None
