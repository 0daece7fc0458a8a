"""``deployment.json`` and its marker as they stand at the destination."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from riva_stream.deployment import DeploymentDocument, DeploymentReady, ObjectReference
from riva_stream.layout import DEPLOYMENT_JSON, DEPLOYMENT_READY
from riva_stream.run import Run
from riva_stream.sizes import human_size
from riva_stream.source import PinnedSource

__all__ = ["Pair", "another_container", "read_pair", "reference_to"]

_SMALL = 16 << 20
"""Bytes at most of a document that is read back."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What was found."""

    document: DeploymentDocument | None = None
    """None when the pair is not whole."""
    broken: str = ""
    """Why it is not, where it is marked."""
    text: bytes = b""
    """``deployment.json`` as it is written."""
    ready: bytes = b""
    ready_etag: str | None = None
    """Of ``deployment_ready.txt``; None: there is none, or nobody asked."""

    @property
    def marked(self) -> bool:
        """Whether there is a ``deployment_ready.txt``."""
        return self.ready_etag is not None


async def read_pair(run: Run) -> Pair:
    """Read both; the marker vouches for the other by its SHA-256."""
    ready = await run.destination.find(run.layout.prefix + DEPLOYMENT_READY, limit=_SMALL)
    if ready is None:
        return Pair()
    found = Pair(ready=ready.data, ready_etag=ready.info.etag)
    text = await run.destination.find(run.layout.prefix + DEPLOYMENT_JSON, limit=_SMALL)
    if text is None:
        return replace(found, broken=f"it has a {DEPLOYMENT_READY} but no {DEPLOYMENT_JSON}")
    try:
        marker = DeploymentReady.parse(ready.data.decode())
        document = DeploymentDocument.model_validate_json(text.data)
    except ValueError:  # pydantic's and Unicode's errors are such
        return replace(found, broken="its documents are not of a version that this tool knows")
    if marker.deployment_sha256 != hashlib.sha256(text.data).hexdigest():
        return replace(found, broken=f"{DEPLOYMENT_JSON} is not the one that its marker was written for")
    return replace(found, document=document, text=text.data)


def reference_to(source: PinnedSource) -> ObjectReference:
    """An object that stays where it lies."""
    return ObjectReference(
        s3_uri=source.uri,
        path=source.key,
        size_bytes=source.size,
        size_human=human_size(source.size),
        etag=source.etag,
        version_id=source.version_id,
        last_modified=source.last_modified,
    )


def another_container(document: DeploymentDocument, container: PinnedSource) -> str:
    """In what the container image that is handed over differs from the one asked for, or ""."""
    there, asked = document.bintarball_references.container_image, reference_to(container)
    if there.is_same(asked):
        return ""
    return f"it is for the container image {there.text()}; asked for is {asked.text()}"
