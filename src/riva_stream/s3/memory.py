"""A store in memory, with the semantics of AWS: for tests of code that embeds this package, and for simulations.

::

    store = MemoryStore("models", "staging")
    await store.put("models", "model.tar.gz", PartBody((data,), len(data)), content_type="…", metadata={})
    report = await stage(request, store=store)

A request takes effect at once and completely, without yielding to other tasks: interleaving is up to the caller. That
is also why AWS's 409 (a conditional write that meets a concurrent one) never occurs here.

Arguments make it weaker in the ways of real stores: conditions on writes that are ignored or refused, open uploads that
are listed only for an exact key, windows that are not checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from riva_stream.errors import RivaStreamError
from riva_stream.s3.errors import refusal
from riva_stream.s3.memory_reader import Conditions, Copies, MemoryReader
from riva_stream.s3.memory_shelf import (
    Contents,
    MemoryObject,
    Part,
    Request,
    Upload,
    crc64nvme_in,
    md5_of,
    received,
)
from riva_stream.s3.port import (
    NO_TAGS,
    CompletedPart,
    CopiedPart,
    CopySource,
    PartBody,
    Stored,
    Window,
)

__all__ = ["Conditions", "Copies", "MemoryObject", "MemoryStore"]

_MOST_PARTS = 10_000


class MemoryStore(MemoryReader):
    """Buckets, objects and uploads in memory; see :class:`~riva_stream.s3.port.Store`.

    Args:
        buckets: names of the existing buckets; see also :meth:`create_bucket`.
        is_aws: what :attr:`is_aws` says.
        conditions: how If-Match and If-None-Match are treated on PUT, Complete and DELETE: ``honoured``; ``puts``: on
            PUT alone; ``ignored``; ``refused`` with 501. On GET they always hold.
        copies: how UploadPartCopy is treated: ``honoured``; ``unconditional``, whatever the source's ETag is;
            ``refused`` with 501; ``unproven``: no checksum is returned, and the part's ETag is not an MD5; ``flipped``:
            one bit of each copy differs from its source, and the answer describes the copy; ``lying``: the same, but
            the answer describes the source.
        list_uploads_by: ``prefix``, or ``exact``: a listing of open uploads shows those of one key only.
        windows: whether a request that arrives after its :class:`~riva_stream.s3.port.Window` is refused.
        versioned: whether the buckets keep versions.
        smallest_part: bytes, at least, of every part but the last.
        page: entries of one page of a listing, at most.
        now: the store's clock, in UTC.
    """

    async def put(
        self,
        bucket: str,
        key: str,
        body: PartBody,
        *,
        content_type: str,
        metadata: Mapping[str, str],
        tags: Mapping[str, str] = NO_TAGS,
        if_absent: bool = False,
        if_match: str | None = None,
        window: Window | None = None,
    ) -> Stored:
        """PUT a small object."""
        where = ("PutObject", bucket, key)
        self._in_time(*where, window)
        there = self._bucket(*where)
        part = received(body, where)
        self._on_condition(where, there, if_absent=if_absent, if_match=if_match)
        crc64nvme = part.crc64nvme or crc64nvme_in(part.data)
        return self._keep(there, key, part.data, part.md5.hex(), metadata, content_type, crc64nvme, tags)

    async def delete(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str | None = None,
        if_match: str | None = None,
        window: Window | None = None,
    ) -> str | None:
        """DELETE."""
        where = ("DeleteObject", bucket, key)
        self._in_time(*where, window)
        there = self._bucket(*where)
        self._on_condition(where, there, if_match=if_match)
        if self._versioned and version_id is None:
            marker = self._numbered()
            there.versions.setdefault(key, []).append(
                MemoryObject(key, b"", "", self._date(), marker, {}, "", "", {}, deleted=True)
            )
            return marker
        versions = there.versions.pop(key, [])
        if left := [found for found in versions if version_id not in {None, found.version_id}]:
            there.versions[key] = left
        return None

    async def create_upload(
        self,
        bucket: str,
        key: str,
        *,
        content_type: str,
        metadata: Mapping[str, str],
        crc64nvme: bool,
        tags: Mapping[str, str] = NO_TAGS,
        window: Window | None = None,
    ) -> str:
        """Create a multipart upload."""
        where = ("CreateMultipartUpload", bucket, key)
        there = self._bucket(*where)
        self._in_time(*where, window)
        upload_id = self._numbered()
        there.uploads[upload_id] = Upload(
            key, upload_id, self._date(), content_type, dict(metadata), crc64nvme, dict(tags)
        )
        return upload_id

    async def upload_part(self, bucket: str, key: str, upload_id: str, number: int, body: PartBody) -> str:
        """Store one part, replacing one with the same number."""
        where = ("UploadPart", bucket, key)
        upload = self._upload(where, upload_id, part=number)
        if not 1 <= number <= _MOST_PARTS:
            raise refusal(*where, "InvalidArgument", 400, part=number)
        if upload.declared and body.crc64nvme is None:
            raise refusal(*where, "InvalidRequest", 400, part=number)
        part = upload.parts[number] = received(body, where, part=number)
        return part.md5.hex()

    async def copy_part(
        self, bucket: str, key: str, upload_id: str, number: int, source: CopySource
    ) -> CopiedPart:
        """Store a part made from an existing object.

        AWS copies a range only of an object of more than 5 MiB, and the range has to be within the object.
        """
        where = ("UploadPartCopy", bucket, key)
        details: dict[str, Any] = {"part": number}
        if source.first is not None:
            details["byte_range"] = (source.first, source.last)
        if self._copies == "refused":
            raise refusal(*where, "NotImplemented", 501, **details)
        upload = self._upload(where, upload_id, **details)
        if not 1 <= number <= _MOST_PARTS:
            raise refusal(*where, "InvalidArgument", 400, **details)
        data = self._copied(where, source, details)
        kept = _flipped(data, number) if self._copies in {"flipped", "lying"} and data else data
        told = kept if self._copies == "flipped" else data
        part = Part(kept, md5_of(told), crc64nvme_in(told) if upload.declared else None)
        if self._copies == "unproven":
            part = Part(kept, md5_of(b"a copy of " + part.md5), None)
        upload.parts[number] = part
        return CopiedPart(part.md5.hex(), part.crc64nvme)

    def _copied(self, where: Request, source: CopySource, details: Mapping[str, Any]) -> bytes:
        """The bytes from which a part is made."""
        try:
            found = self._version(("UploadPartCopy", source.bucket, source.key), source.version_id)
        except RivaStreamError as error:
            raise refusal(*where, error.where.code, error.where.status or 404, **details) from None
        if found.etag != source.etag and self._copies != "unconditional":
            raise refusal(*where, "PreconditionFailed", 412, **details)
        if source.first is None or source.last is None:
            return found.data
        if len(found.data) <= self._smallest_part:
            raise refusal(*where, "InvalidRequest", 400, **details)
        if not 0 <= source.first <= source.last < len(found.data):
            raise refusal(*where, "InvalidArgument", 400, **details)
        return found.data[source.first : source.last + 1]

    async def complete_upload(
        self,
        bucket: str,
        key: str,
        upload_id: str,
        parts: Sequence[CompletedPart],
        *,
        crc64nvme: str | None,
        if_absent: bool = False,
        if_match: str | None = None,
        window: Window | None = None,
    ) -> Stored:
        """Make the object visible; a refusal leaves the upload open."""
        where = ("CompleteMultipartUpload", bucket, key)
        self._in_time(*where, window)
        there = self._bucket(*where)
        upload = self._upload(where, upload_id)
        self._on_condition(where, there, if_absent=if_absent, if_match=if_match)
        kept = upload.parts_for_complete(where, parts, self._smallest_part)
        data = b"".join(part.data for part in kept)
        if len(data) != sum(part.size for part in parts):  # MpuObjectSize
            raise refusal(*where, "InvalidRequest", 400)
        whole = crc64nvme_in(data) if crc64nvme is not None or upload.declared else ""
        if crc64nvme not in {None, whole}:
            raise refusal(*where, "BadDigest", 400)
        digests = b"".join(part.md5 for part in kept)
        etag = f"{md5_of(digests).hex()}-{len(parts)}"
        del there.uploads[upload_id]
        sizes = tuple(len(part.data) for part in kept)
        return self._keep(
            there, key, data, etag, upload.metadata, upload.content_type, whole, upload.tags, sizes
        )

    async def abort_upload(self, bucket: str, key: str, upload_id: str) -> None:
        """Abort; for a missing upload it succeeds."""
        uploads = self._bucket("AbortMultipartUpload", bucket, key).uploads
        if upload_id in uploads and uploads[upload_id].key == key:
            del uploads[upload_id]

    async def put_tags(
        self, bucket: str, key: str, tags: Mapping[str, str], *, window: Window | None = None
    ) -> None:
        """Replace the tags of an object."""
        where = ("PutObjectTagging", bucket, key)
        self._in_time(*where, window)
        found = self._version(where, None)
        self._buckets[bucket].versions[key][-1] = replace(found, tags=dict(tags))

    def _on_condition(
        self,
        where: Request,
        there: Contents,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
    ) -> None:
        if (not if_absent and not if_match) or self._conditions == "ignored":
            return
        if self._conditions == "puts" and where[0] != "PutObject":
            return
        if self._conditions == "refused":
            raise refusal(*where, "NotImplemented", 501)
        current = there.current(where[2])
        if current is None and not if_absent:
            raise refusal(*where, "NoSuchKey", 404)
        if current is not None and (if_absent or current.etag != if_match):
            raise refusal(*where, "PreconditionFailed", 412)

    def _keep(
        self,
        there: Contents,
        key: str,
        data: bytes,
        etag: str,
        metadata: Mapping[str, str],
        content_type: str,
        crc64nvme: str,
        tags: Mapping[str, str],
        parts: tuple[int, ...] = (),
    ) -> Stored:
        version_id = self._numbered() if self._versioned else None
        now = self._date()
        new = MemoryObject(
            key, data, etag, now, version_id, dict(metadata), content_type, crc64nvme, dict(tags), parts
        )
        there.versions[key] = [*(there.versions.get(key, []) if self._versioned else ()), new]
        return Stored(etag, version_id, now)


def _flipped(data: bytes, number: int) -> bytes:
    """The data with one bit changed; which one depends on the part."""
    place = number * 7919 % len(data)
    return data[:place] + bytes([data[place] ^ 1 << number % 8]) + data[place + 1 :]
