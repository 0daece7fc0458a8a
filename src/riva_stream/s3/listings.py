"""Listings of objects, of parts and of open uploads: the adapter's paged requests.

No page is trusted to be followed by another: one that announces more, but gives no token for it or has brought nothing
new, ends in an error. Continuing would take forever, and stopping would present a part as the whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_plus

from riva_stream.errors import ConfigurationError, HeldError, Where
from riva_stream.s3.errors import parsed
from riva_stream.s3.options import WriteOptions
from riva_stream.s3.port import CompletedPart, Folders, Listing, OpenUpload
from riva_stream.s3.responses import folders_of, require_own, unquoted

__all__ = ["STUCK", "ListRequests", "listing_is_stuck"]

STUCK = "ListingDoesNotAdvance"
"""Our own code for a listing whose pages do not advance."""


class ListRequests:
    """See :class:`~riva_stream.s3.port.Store`."""

    _client: Any
    _options: WriteOptions

    async def list_objects(self, bucket: str, prefix: str, *, limit: int = 1000, after: str = "") -> Listing:
        """One page of objects below ``prefix``: if truncated it has at least one, and never ``after`` itself.

        Raises:
            ConfigurationError: the store ignores ``after``, or a page is truncated before its first object.
        """
        page, truncated = await self._page(bucket, prefix, MaxKeys=limit, StartAfter=after)
        if (truncated and not page.objects) or (after and any(entry.key == after for entry in page.objects)):
            raise listing_is_stuck("ListObjectsV2", bucket, prefix)
        return Listing(page.objects, truncated)

    async def list_folder(self, bucket: str, prefix: str, *, limit: int = 1000, token: str = "") -> Folders:
        """One page of the direct contents of ``prefix``."""
        going_on = {"ContinuationToken": token} if token else {}
        page, truncated = await self._page(bucket, prefix, Delimiter="/", MaxKeys=limit, **going_on)
        if truncated and page.token in {"", token}:
            raise listing_is_stuck("ListObjectsV2", bucket, prefix)
        return page

    async def _page(self, bucket: str, prefix: str, **given: Any) -> tuple[Folders, bool]:
        """One page, and whether it announces more."""
        with parsed("ListObjectsV2", bucket, prefix):
            answer = await self._client.list_objects_v2(
                Bucket=bucket, Prefix=prefix, **given, **self._options.for_all()
            )
            require_own(answer)
            return folders_of(answer), bool(answer.get("IsTruncated"))

    async def list_parts(self, bucket: str, key: str, upload_id: str) -> Sequence[CompletedPart] | None:
        """All parts of an upload, each number once."""
        parts: dict[int, tuple[datetime, CompletedPart]] = {}
        marker = 0
        try:
            while True:
                with parsed("ListParts", bucket, key):
                    answer = await self._client.list_parts(
                        Bucket=bucket,
                        Key=key,
                        UploadId=upload_id,
                        PartNumberMarker=marker,
                        **self._options.for_all(),
                    )
                    require_own(answer)
                    page = answer.get("Parts", [])
                    for part in page:
                        _keep_newest(parts, part)
                if not answer.get("IsTruncated"):
                    return [part for _, (_, part) in sorted(parts.items())]
                last = max((part["PartNumber"] for part in page), default=0)
                following = int(answer.get("NextPartNumberMarker") or last)
                if following <= marker:
                    raise listing_is_stuck("ListParts", bucket, key)
                marker = following
        except HeldError:
            return None

    async def list_uploads(self, bucket: str, prefix: str) -> Sequence[OpenUpload]:
        """All open uploads below ``prefix``."""
        uploads: dict[tuple[str, str], OpenUpload] = {}
        markers: dict[str, str] = {}
        while True:
            try:
                with parsed("ListMultipartUploads", bucket, prefix):
                    # A key may hold what XML cannot, and one such upload, of any program, would hide all others. The SDK
                    # asks for this encoding, and undoes it, only for listings of objects.
                    answer = await self._client.list_multipart_uploads(
                        Bucket=bucket, Prefix=prefix, EncodingType="url", **markers, **self._options.for_all()
                    )
                    require_own(answer)
                    key_of = unquote_plus if answer.get("EncodingType") == "url" else str
                    page = [
                        OpenUpload(key_of(entry["Key"]), entry["UploadId"], entry.get("Initiated"))
                        for entry in answer.get("Uploads", [])
                    ]
            except HeldError:  # rclone: NoSuchUpload, which for a listing can only mean that there are none
                return list(uploads.values())
            before = len(uploads)
            uploads |= {(upload.key, upload.upload_id): upload for upload in page}
            if not answer.get("IsTruncated"):
                return list(uploads.values())
            if len(uploads) == before:
                raise listing_is_stuck("ListMultipartUploads", bucket, prefix)
            markers = _after(key_of(answer.get("NextKeyMarker") or ""), answer, page[-1])


def _keep_newest(parts: dict[int, tuple[datetime, CompletedPart]], told: Mapping[str, Any]) -> None:
    """Keep one part per number: the one sent last.

    SeaweedFS lists all parts that were ever sent with a number, unordered, and completes with the one whose ETag is
    named: of two from the same second either will do.
    """
    number, sent = told["PartNumber"], told.get("LastModified") or datetime.min.replace(tzinfo=UTC)
    if number not in parts or parts[number][0] <= sent:
        etag, checksum = unquoted(told["ETag"]), told.get("ChecksumCRC64NVME")
        parts[number] = sent, CompletedPart(number, etag, told["Size"], checksum)


def _after(key: str, answer: Mapping[str, Any], last: OpenUpload) -> dict[str, str]:
    """The arguments for requesting the next page of uploads.

    SeaweedFS returns only the marker that it uses, the UploadId; adding a key would omit uploads of other keys. A store
    that returns neither is asked for what follows the last upload that it listed.
    """
    upload_id = answer.get("NextUploadIdMarker")
    if not key and not upload_id:
        key, upload_id = last.key, last.upload_id
    told = {"KeyMarker": key, "UploadIdMarker": upload_id}
    return {name: value for name, value in told.items() if value}


def listing_is_stuck(operation: str, bucket: str, prefix: str) -> ConfigurationError:
    """The error for a listing whose pages do not advance."""
    return ConfigurationError(
        "the store's listing never ends: it announces more, but returns the same page again or none",
        where=Where(operation, bucket, prefix, code=STUCK),
        hint="check that the endpoint is the store itself; such a store cannot be listed in pages",
    )
