"""The read-only half of the store in memory, and what both halves share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from copy import copy
from datetime import datetime, timedelta
from typing import Any, Literal, Self

from riva_stream import clock
from riva_stream.s3.errors import refusal
from riva_stream.s3.memory_shelf import (
    Contents,
    MemoryObject,
    Request,
    Upload,
)
from riva_stream.s3.port import (
    REQUEST_EXPIRED,
    CompletedPart,
    Document,
    Folders,
    Lifecycle,
    Listing,
    ObjectInfo,
    ObjectPart,
    OpenUpload,
    RangeReply,
    Window,
)

__all__ = ["Conditions", "Copies", "MemoryReader"]

Conditions = Literal["honoured", "puts", "ignored", "refused"]
Copies = Literal["honoured", "unconditional", "refused", "unproven", "flipped", "lying"]

_PIECE = 64 << 10
"""Bytes of a body per piece, as from a socket."""


class MemoryReader:
    """The answers of the store; see :class:`~riva_stream.s3.memory.MemoryStore`, which documents the arguments."""

    def __init__(
        self,
        *buckets: str,
        is_aws: bool = True,
        conditions: Conditions = "honoured",
        copies: Copies = "honoured",
        list_uploads_by: Literal["prefix", "exact"] = "prefix",
        windows: bool = True,
        versioned: bool = False,
        smallest_part: int = 5 << 20,
        page: int = 1000,
        now: Callable[[], datetime] = clock.now,
    ) -> None:
        self._is_aws = is_aws
        self._conditions = conditions
        self._copies = copies
        self.lists_uploads_by_prefix = list_uploads_by == "prefix"
        """Whether a listing of open uploads shows those of more than one key."""
        self.checks_windows = windows
        """Whether it refuses requests that arrive after their window."""
        self._versioned = versioned
        self._smallest_part = smallest_part
        self._page = page
        self._now = now
        self._made = 0
        """Number of ids issued."""
        self._buckets = {name: Contents() for name in buckets}

    # ---- for tests, behind the port

    def copy(self) -> Self:
        """A store of the same kind with the same contents, independent from now on."""
        other = copy(self)
        other._buckets = {name: bucket.copy() for name, bucket in self._buckets.items()}  # noqa: SLF001
        return other

    def set_clock(self, now: Callable[[], datetime]) -> None:
        """Use another clock from now on."""
        self._now = now

    def set_copies(self, copies: Copies) -> None:
        """Treat UploadPartCopy differently from now on."""
        self._copies = copies

    def create_bucket(self, name: str) -> None:
        """Create a bucket; an existing one stays as it is."""
        self._buckets.setdefault(name, Contents())

    def delete_bucket(self, name: str) -> None:
        """Delete a bucket with all its content."""
        self._buckets.pop(name, None)

    def look(self, bucket: str, key: str) -> MemoryObject | None:
        """The object as stored, or None; not a request."""
        return self._buckets[bucket].current(key)

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """All keys below ``prefix``, in order; not a request."""
        return [found.key for found in self._buckets[bucket].below(prefix)]

    def open_uploads(self, bucket: str, prefix: str = "") -> list[OpenUpload]:
        """All open uploads below ``prefix``, however the store lists them; not a request."""
        return [
            OpenUpload(upload.key, upload.upload_id, upload.initiated)
            for upload in self._buckets[bucket].uploads.values()
            if upload.key.startswith(prefix)
        ]

    # ---- the port's reader

    @property
    def keeps_conditions(self) -> bool:
        """Whether it honours If-Match and If-None-Match on writes."""
        return self._conditions == "honoured"

    @property
    def is_aws(self) -> bool:
        """Whether it claims to be AWS."""
        return self._is_aws

    async def renew(self) -> bool:
        """Return False: there are no credentials to reload."""
        return False

    async def head(self, bucket: str, key: str, *, window: Window | None = None) -> ObjectInfo | None:
        """HEAD."""
        self._in_time("HeadObject", bucket, key, window)
        found = self._buckets[bucket].current(key) if bucket in self._buckets else None
        return None if found is None else self._info(found)

    async def head_part(self, bucket: str, key: str, number: int) -> ObjectPart | None:
        """HEAD of one part of an object."""
        where = ("HeadObject", bucket, key)
        parts = self._version(where, None, part=number).parts
        if not parts:
            return None
        if not 1 <= number <= len(parts):
            raise refusal(*where, "416", 416, part=number)
        return ObjectPart(parts[number - 1], len(parts))

    async def get(self, bucket: str, key: str, *, limit: int) -> Document | None:
        """The whole of a small object."""
        found = self._bucket("GetObject", bucket, key).current(key)
        if found is None:
            return None
        return Document(found.data if len(found.data) <= limit else b"", self._info(found))

    @asynccontextmanager
    async def get_range(
        self, bucket: str, key: str, *, first: int, last: int, etag: str, version_id: str | None
    ) -> AsyncIterator[RangeReply]:
        """Bytes ``first`` to ``last`` (inclusive) if the object still has this ETag."""
        where = ("GetObject", bucket, key)
        found = self._version(where, version_id, byte_range=(first, last))
        if etag and found.etag != etag:
            raise refusal(*where, "PreconditionFailed", 412, byte_range=(first, last))
        if first >= len(found.data):
            raise refusal(*where, "InvalidRange", 416, byte_range=(first, last))
        data = found.data[first : last + 1]

        async def pieces() -> AsyncIterator[bytes]:
            for at in range(0, len(data), _PIECE):
                yield data[at : at + _PIECE]

        yield RangeReply(
            status=206,
            content_range=f"bytes {first}-{first + len(data) - 1}/{len(found.data)}",
            content_length=len(data),
            etag=found.etag,
            pieces=pieces(),
        )

    async def list_objects(self, bucket: str, prefix: str, *, limit: int = 1000, after: str = "") -> Listing:
        """One page of objects below ``prefix``."""
        size = min(limit, self._page)
        found = [o for o in self._bucket("ListObjectsV2", bucket, prefix).below(prefix) if o.key > after]
        return Listing([_listed(o) for o in found[:size]], len(found) > size)

    async def list_folder(self, bucket: str, prefix: str, *, limit: int = 1000, token: str = "") -> Folders:
        """One page of the direct contents of ``prefix``."""
        entries: dict[str, MemoryObject | None] = {}
        for found in self._bucket("ListObjectsV2", bucket, prefix).below(prefix):
            name, slash, _ = found.key[len(prefix) :].partition("/")
            entry = f"{prefix}{name}{slash}"
            if entry > token:
                entries[entry] = None if slash else found
        size = min(limit, self._page)
        page = sorted(entries)[:size]
        return Folders(
            names=[entry for entry in page if entries[entry] is None],
            objects=[_listed(at_top) for entry in page if (at_top := entries[entry]) is not None],
            token=page[-1] if len(entries) > size else "",
            now=self._date(),
        )

    async def list_parts(self, bucket: str, key: str, upload_id: str) -> Sequence[CompletedPart] | None:
        """All parts of an upload, or None if there is no such upload."""
        upload = self._bucket("ListParts", bucket, key).uploads.get(upload_id)
        if upload is None or upload.key != key:
            return None
        return [
            CompletedPart(
                number,
                part.md5.hex(),
                len(part.data),
                part.crc64nvme if upload.declared else None,
            )
            for number, part in sorted(upload.parts.items())
        ]

    async def list_uploads(self, bucket: str, prefix: str) -> Sequence[OpenUpload]:
        """All open uploads below ``prefix``; only those of this exact key if the store lists them so."""
        self._bucket("ListMultipartUploads", bucket, prefix)
        found = sorted(self.open_uploads(bucket, prefix), key=lambda upload: (upload.key, upload.upload_id))
        return [upload for upload in found if self.lists_uploads_by_prefix or upload.key == prefix]

    async def get_tags(self, bucket: str, key: str) -> Mapping[str, str]:
        """The tags of an object."""
        return dict(self._version(("GetObjectTagging", bucket, key), None).tags)

    async def get_lifecycle(self, bucket: str) -> Lifecycle | None:
        """Return None: the port writes no rules."""
        self._bucket("GetBucketLifecycleConfiguration", bucket)
        return None

    # ---- shared

    def _date(self) -> datetime:
        """The header Date: whole seconds."""
        return self._now().replace(microsecond=0)

    def _numbered(self) -> str:
        """A new id, unique among uploads and versions."""
        self._made += 1
        return f"{self._made:032x}"

    def _bucket(self, operation: str, bucket: str, key: str = "") -> Contents:
        found = self._buckets.get(bucket)
        if found is None:
            raise refusal(operation, bucket, key, "NoSuchBucket", 404)
        return found

    def _upload(self, where: Request, upload_id: str, **details: Any) -> Upload:
        found = self._bucket(*where).uploads.get(upload_id)
        if found is None or found.key != where[2]:
            raise refusal(*where, "NoSuchUpload", 404, **details)
        return found

    def _version(self, where: Request, version_id: str | None, **details: Any) -> MemoryObject:
        """The object, or a version of it."""
        there = self._bucket(*where)
        if version_id is None:
            current = there.current(where[2])
            if current is None:
                raise refusal(*where, "NoSuchKey", 404, **details)
            return current
        if len(version_id) != len(f"{0:032x}"):
            raise refusal(*where, "InvalidArgument", 400, **details)
        versions = {found.version_id: found for found in there.versions.get(where[2], [])}
        if version_id not in versions:
            raise refusal(*where, "NoSuchVersion", 404, **details)
        if versions[version_id].deleted:
            raise refusal(*where, "MethodNotAllowed", 405, **details)
        return versions[version_id]

    def _in_time(self, operation: str, bucket: str, key: str, window: Window | None) -> None:
        if (
            self.checks_windows
            and window is not None
            and self._now() > window.since + timedelta(seconds=window.seconds)
        ):
            raise refusal(operation, bucket, key, REQUEST_EXPIRED, 403)

    def _info(self, found: MemoryObject) -> ObjectInfo:
        return ObjectInfo(
            key=found.key,
            size=len(found.data),
            etag=found.etag,
            last_modified=found.last_modified,
            version_id=found.version_id,
            metadata=found.metadata,
            content_type=found.content_type,
            checksums={"crc64nvme": found.crc64nvme} if found.crc64nvme else {},
            encryption="AES256" if self._is_aws else "",
            now=self._date(),
        )


def _listed(found: MemoryObject) -> ObjectInfo:
    return ObjectInfo(found.key, len(found.data), found.etag, found.last_modified)
