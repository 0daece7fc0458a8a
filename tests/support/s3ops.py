"""Which S3 operation an HTTP request is, from its method, path and query alone (path-style addressing)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, unquote, urlsplit

if TYPE_CHECKING:
    from tests.support.http1 import Head

__all__ = ["MUTATING", "S3Request", "recognise"]

MUTATING: Final = frozenset(
    {
        "AbortMultipartUpload",
        "CompleteMultipartUpload",
        "CopyObject",
        "CreateBucket",
        "CreateMultipartUpload",
        "DeleteBucket",
        "DeleteObject",
        "DeleteObjectTagging",
        "DeleteObjects",
        "PutObject",
        "PutObjectTagging",
        "UploadPart",
        "UploadPartCopy",
    }
)
"""The operations after which a store may be another one than before."""

_SUBRESOURCES: Final = {
    "acl": "Acl",
    "attributes": "Attributes",
    "encryption": "Encryption",
    "legal-hold": "LegalHold",
    "lifecycle": "LifecycleConfiguration",
    "location": "Location",
    "object-lock": "ObjectLockConfiguration",
    "ownershipControls": "OwnershipControls",
    "policy": "Policy",
    "retention": "Retention",
    "tagging": "Tagging",
    "versioning": "Versioning",
}
_VERBS: Final = {"GET": "Get", "PUT": "Put", "DELETE": "Delete", "HEAD": "Head", "POST": "Post"}
_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(frozen=True, slots=True)
class S3Request:
    """What a client asked for."""

    operation: str
    """Its name in the S3 API, for example ``UploadPart``; ``Unknown`` when it is none we know."""
    method: str
    target: str
    bucket: str
    key: str
    part: int | None = None
    upload_id: str | None = None
    range: tuple[int | None, int | None] | None = None
    """First and last byte of the Range header (of the copy source's range for UploadPartCopy), as they stand
    there: ``bytes=5-`` is ``(5, None)``, ``bytes=-5`` is ``(None, 5)``."""
    if_match: str | None = None
    if_none_match: str | None = None
    source: str | None = None
    """``bucket/key`` that is copied, with its ``?versionId=`` if it has one."""
    tagged: bool = False
    """Whether it carries tags, in a header or, signed there, in the query."""

    @property
    def mutating(self) -> bool:
        return self.operation in MUTATING


def _bucket_operation(method: str, query: dict[str, str]) -> str:
    if method == "GET" and query.get("list-type") == "2":
        return "ListObjectsV2"
    special = {
        ("GET", "uploads"): "ListMultipartUploads",
        ("GET", "versions"): "ListObjectVersions",
        ("POST", "delete"): "DeleteObjects",
        ("DELETE", "lifecycle"): "DeleteBucketLifecycle",
    }
    plain = {"GET": "ListObjects", "HEAD": "HeadBucket", "PUT": "CreateBucket", "DELETE": "DeleteBucket"}
    return _choose(method, query, special, plain, "Bucket")


def _object_operation(method: str, query: dict[str, str], *, copies: bool) -> str:
    special = {
        ("GET", "uploadId"): "ListParts",
        ("PUT", "uploadId"): "UploadPartCopy" if copies else "UploadPart",
        ("POST", "uploadId"): "CompleteMultipartUpload",
        ("POST", "uploads"): "CreateMultipartUpload",
        ("DELETE", "uploadId"): "AbortMultipartUpload",
    }
    plain = {
        "GET": "GetObject",
        "HEAD": "HeadObject",
        "PUT": "CopyObject" if copies else "PutObject",
        "DELETE": "DeleteObject",
    }
    return _choose(method, query, special, plain, "Object")


def _choose(
    method: str, query: dict[str, str], special: dict[tuple[str, str], str], plain: dict[str, str], kind: str
) -> str:
    for name in query:
        if (method, name) in special:
            return special[method, name]
    for name in query:
        if name in _SUBRESOURCES and method in _VERBS:
            return f"{_VERBS[method]}{kind}{_SUBRESOURCES[name]}"
    return plain.get(method, "Unknown")


def _range(value: str | None) -> tuple[int | None, int | None] | None:
    found = _RANGE.fullmatch(value or "")
    if not found:
        return None
    first, last = (int(text) if text else None for text in found.groups())
    return first, last


def recognise(head: Head) -> S3Request:
    """Read the S3 operation off the head of a request."""
    method, target = head.words[0], head.words[1]
    url = urlsplit(target)
    bucket, _, key = unquote(url.path).removeprefix("/").partition("/")
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    copies = head.get("x-amz-copy-source") is not None
    if not bucket:
        operation = "ListBuckets" if method == "GET" else "Unknown"
    elif not key:
        operation = _bucket_operation(method, query)
    else:
        operation = _object_operation(method, query, copies=copies)
    part = query.get("partNumber", "")
    return S3Request(
        operation=operation,
        method=method,
        target=target,
        bucket=bucket,
        key=key,
        part=int(part) if part.isdigit() else None,
        upload_id=query.get("uploadId"),
        range=_range(head.get("x-amz-copy-source-range" if copies else "range")),
        if_match=head.get("x-amz-copy-source-if-match" if copies else "if-match"),
        if_none_match=head.get("if-none-match"),
        source=unquote(head.get("x-amz-copy-source") or "").removeprefix("/") or None,
        tagged=head.get("x-amz-tagging") is not None or "x-amz-tagging" in {name.lower() for name in query},
    )
