"""The narrow port through which the rest of the package accesses S3.

Errors are ours (see ``errors``), never botocore's. One call is one request, tried once: the caller retries.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from riva_stream.arguments import require
from riva_stream.flow.buffers import Piece
from riva_stream.flow.digest import md5_of

__all__ = [
    "NO_TAGS",
    "REQUEST_EXPIRED",
    "CompletedPart",
    "CopiedPart",
    "CopySource",
    "Document",
    "Folders",
    "Lifecycle",
    "Listing",
    "ObjectInfo",
    "ObjectPart",
    "OpenUpload",
    "PartBody",
    "RangeReply",
    "Reader",
    "Store",
    "Stored",
    "Window",
    "Writer",
    "require_store",
]

NO_TAGS: Mapping[str, str] = {}
REQUEST_EXPIRED = "RequestExpired"
"""Our code for a request that arrived after its :class:`Window`; stores name it differently."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as described by HEAD or a listing. A listing leaves the later fields empty."""

    key: str
    size: int
    etag: str
    """Without its quotes."""
    last_modified: datetime | None = None
    version_id: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    content_type: str = ""
    checksums: Mapping[str, str] = field(default_factory=dict)
    """Full-object checksums kept by the store: algorithm (``crc64nvme``, ``sha256``, …) → base64."""
    encryption: str = ""
    """``AES256``, ``aws:kms`` or empty."""
    storage_class: str = ""
    """Empty for the standard class."""
    restore: str = ""
    """S3's own text, for an archived object that is being or was restored."""
    now: datetime | None = field(default=None, compare=False)
    """The store's own clock at its answer (the header ``Date``), to be compared only with its own timestamps."""


@dataclass(frozen=True, slots=True)
class Document:
    """A small object as returned by one GET: the bytes, and the ETag of exactly these bytes."""

    data: bytes
    info: ObjectInfo


@dataclass(frozen=True, slots=True)
class Window:
    """The time within which the store is to execute a request; one that arrives later is to be refused.

    By a signature in the query (AWS, "Authenticating Requests: Using Query Parameters"): ``X-Amz-Date`` and
    ``X-Amz-Expires``. Stores that do not check it execute the request all the same.
    """

    since: datetime
    """By the store's own clock."""
    seconds: int


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of a listing."""

    objects: Sequence[ObjectInfo]
    truncated: bool


@dataclass(frozen=True, slots=True)
class Folders:
    """One page of the direct contents of a folder: keys up to the next ``/``."""

    names: Sequence[str]
    """Folders in it, as prefixes with their closing slash, in order."""
    objects: Sequence[ObjectInfo]
    token: str
    """Token for requesting the next page; "" after the last."""
    now: datetime | None = None
    """The store's own clock at its answer, to be compared only with its own timestamps."""


@dataclass(frozen=True, slots=True)
class RangeReply:
    """The head of the answer to a ranged GET, and its body piece by piece.

    Nothing in it is checked yet: the caller compares it with the request.
    """

    status: int
    content_range: str
    content_length: int | None
    etag: str
    pieces: AsyncIterator[bytes]
    """Raises our errors when the connection breaks; may end early."""


@dataclass(frozen=True, slots=True)
class PartBody:
    """The body of one PUT, and the checksums by which the store verifies it: in general at most one."""

    pieces: Sequence[Piece]
    size: int
    crc64nvme: str | None = None
    """base64"""
    md5: str | None = None
    """base64"""
    sha256: str | None = None
    """hexadecimal; becomes the request's signed payload hash"""

    @classmethod
    def with_md5(cls, data: bytes) -> PartBody:
        """A small body, verified by its MD5."""
        return cls((data,), len(data), md5=base64.b64encode(md5_of((data,))).decode())


@dataclass(frozen=True, slots=True)
class CompletedPart:
    """A part that the store acknowledged."""

    number: int
    etag: str
    size: int
    crc64nvme: str | None = None


@dataclass(frozen=True, slots=True)
class CopySource:
    """The source of a copied part: a whole object, or a range of it, while it has this ETag."""

    bucket: str
    key: str
    etag: str
    """Without its quotes."""
    version_id: str | None = None
    first: int | None = None
    """First byte of the range; None: the whole object."""
    last: int | None = None
    """Last byte, inclusive."""


@dataclass(frozen=True, slots=True)
class CopiedPart:
    """The store's answer about a part that it has copied."""

    etag: str
    crc64nvme: str | None = None
    """base64; as computed by the store, if the upload was created with CRC64NVME."""


@dataclass(frozen=True, slots=True)
class ObjectPart:
    """One part from which an object was completed."""

    size: int
    parts: int
    """Number of parts of the object."""


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """A multipart upload that is neither completed nor aborted."""

    key: str
    upload_id: str
    initiated: datetime | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """The store's answer to a finished PUT or CompleteMultipartUpload."""

    etag: str
    version_id: str | None = None
    now: datetime | None = field(default=None, compare=False)
    """As in :class:`ObjectInfo`."""


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """All lifecycle rules of a bucket."""

    rules: Sequence[Mapping[str, Any]]
    """In the form and the order that the AWS command line reads and writes."""
    transition_minimum: str = ""
    """The bucket's setting that a PUT without it would reset (``x-amz-transition-default-minimum-object-size``)."""
    unknown: Sequence[str] = ()
    """Elements of rules, such as ``Rule/Colour``, that this form cannot represent: putting it would delete them."""


class Reader(Protocol):
    """One S3 endpoint with one set of credentials: the read-only half.

    Every method raises :class:`~riva_stream.errors.RivaStreamError` of the appropriate kind. A missing object is
    ``None`` from :meth:`head` and :meth:`get`, as that is an answer, not a failure.
    """

    @property
    def is_aws(self) -> bool:
        """Whether this is AWS itself, so that what AWS documents can be relied on."""

    async def renew(self) -> bool:
        """Reload the credentials, after the store reported them as expired; return whether that was possible."""

    async def head(self, bucket: str, key: str, *, window: Window | None = None) -> ObjectInfo | None:
        """HEAD, with the store's checksums if it keeps any. ``window``: as for a :class:`Writer`."""

    async def head_part(self, bucket: str, key: str, number: int) -> ObjectPart | None:
        """HEAD of one part of an object, by its number from 1; None if the store does not report parts."""

    async def get(self, bucket: str, key: str, *, limit: int) -> Document | None:
        """The whole of a small object and its ETag, by one GET.

        No data if it is longer than ``limit`` bytes: then it is not a document of ours, and is to be replaced or
        reported like any other that cannot be parsed.
        """

    def get_range(
        self, bucket: str, key: str, *, first: int, last: int, etag: str, version_id: str | None
    ) -> AbstractAsyncContextManager[RangeReply]:
        """Bytes ``first`` to ``last`` (inclusive) if the object still has this ETag; "": whatever ETag it has."""

    async def list_objects(self, bucket: str, prefix: str, *, limit: int = 1000, after: str = "") -> Listing:
        """One page of at most ``limit`` (1,000 is S3's own limit) objects below ``prefix``, by key."""

    async def list_folder(self, bucket: str, prefix: str, *, limit: int = 1000, token: str = "") -> Folders:
        """One page of the direct contents of ``prefix``, without descending into folders."""

    async def list_parts(self, bucket: str, key: str, upload_id: str) -> Sequence[CompletedPart] | None:
        """All parts (all pages) of an upload, or None if there is no such upload."""

    async def list_uploads(self, bucket: str, prefix: str) -> Sequence[OpenUpload]:
        """All open uploads (all pages) below ``prefix``."""

    async def get_tags(self, bucket: str, key: str) -> Mapping[str, str]:
        """The tags of an object."""

    async def get_lifecycle(self, bucket: str) -> Lifecycle | None:
        """The lifecycle rules of a bucket; None if there are none."""


class Writer(Protocol):
    """The half that makes changes. Passed only to code that may make them (docs/semantics.md).

    A request with a ``window`` that arrives after it raises :class:`~riva_stream.errors.TransientError` with the code
    :data:`REQUEST_EXPIRED`, if the store checks that.
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
        """PUT a small object, on condition that none exists, or one with this ETag; some stores ignore that.

        HeldError if the store finds the condition not met.
        """

    async def delete(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str | None = None,
        if_match: str | None = None,
        window: Window | None = None,
    ) -> str | None:
        """DELETE; for a missing object it succeeds. With ``version_id`` that version is gone for good.

        With ``if_match`` only while the object has this ETag; some stores ignore that. HeldError if the store finds the
        condition not met.

        Returns:
            The VersionId of the delete marker that a versioned bucket puts in its place.
        """

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
        """Create a multipart upload; return its UploadId. A store may ignore the tags; AWS accepts or refuses them."""

    async def upload_part(self, bucket: str, key: str, upload_id: str, number: int, body: PartBody) -> str:
        """Send one part and return its ETag."""

    async def copy_part(
        self, bucket: str, key: str, upload_id: str, number: int, source: CopySource
    ) -> CopiedPart:
        """Have the store make one part from an object that it has; nothing is sent.

        SourceChangedError if that object is missing, or has another ETag; some stores ignore the ETag. HeldError if
        there is no such upload.
        """

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
        """Make the object visible. ``crc64nvme`` is that of the whole object, base64.

        HeldError if there is no such upload (any more), or the store finds a condition on the existing object (that
        there is none, or one with this ETag) not met.
        """

    async def abort_upload(self, bucket: str, key: str, upload_id: str) -> None:
        """Abort; for a missing upload it succeeds."""

    async def put_tags(
        self, bucket: str, key: str, tags: Mapping[str, str], *, window: Window | None = None
    ) -> None:
        """Replace the tags of an object."""


class Store(Reader, Writer, Protocol):
    """Both halves."""


def require_store(name: str, value: object) -> None:
    """Refuse an argument that is not an open store.

    Raises:
        TypeError: it is the settings of one, for example, or an ``open_store()`` that was not entered.
    """
    is_open = hasattr(value, "get_range")
    require(is_open, name, "an open store (`async with open_store(settings) as store`)", value)
