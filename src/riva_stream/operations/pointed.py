"""Is an object that a document pins where it lies still the very same?"""

from __future__ import annotations

from riva_stream.deployment import ObjectReference
from riva_stream.operations.ledger import Ledger
from riva_stream.operations.uris import split
from riva_stream.s3 import Bucket, ObjectInfo

__all__ = ["pointed_at", "referenced"]


async def referenced(ledger: Ledger, bucket: Bucket, reference: ObjectReference) -> ObjectInfo | None:
    """HEAD what ``deployment.json`` pins; None when it is not that any more."""
    pinned = (reference.size_bytes, reference.etag, reference.version_id)
    return await pointed_at(ledger, bucket, reference.s3_uri, *pinned)


async def pointed_at(
    ledger: Ledger, bucket: Bucket, uri: str, size: int, etag: str, version_id: str | None
) -> ObjectInfo | None:
    """HEAD what a document pins where it lies, in any bucket of the store; None when it is not that any more."""
    name, key = split(uri)
    info = await bucket.named(name).head(key)
    if info is None:
        ledger.differs(uri, "it is gone")
        return None
    ledger.size(uri, info.size)
    for name, found, pinned in (
        ("size", info.size, size),
        ("etag", info.etag, etag),
        ("version-id", info.version_id, version_id),
    ):
        text = f"its {name} is {found}, the staging points at {pinned}"
        ledger.compare(uri, name, found, pinned, text)
    return None if ledger.difference(uri) else info
