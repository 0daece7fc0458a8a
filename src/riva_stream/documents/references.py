"""References of ``deployment.json`` to objects that stay where they are."""

from __future__ import annotations

from riva_stream.deployment import DeploymentDocument, ObjectReference
from riva_stream.sizes import human_size
from riva_stream.source import PinnedSource

__all__ = ["another_container", "reference_to"]


def reference_to(source: PinnedSource) -> ObjectReference:
    """A reference to an object that stays where it is."""
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
    """How the existing container image differs from the requested one, or ""."""
    there, asked = document.bintarball_references.container_image, reference_to(container)
    if there.is_same(asked):
        return ""
    return f"it is for the container image {there.text()}; the request names {asked.text()}"
