"""Listings of objects, of parts and of open uploads: the adapter's requests whose answers come in pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from riva_stream.errors import HeldError
from riva_stream.s3.answers import folders_of, info_of, unquoted
from riva_stream.s3.errors import translated
from riva_stream.s3.options import WriteOptions
from riva_stream.s3.port import CompletedPart, Folders, Listing, OpenUpload

__all__ = ["ListRequests"]


class ListRequests:
    """See :class:`~riva_stream.s3.port.Store`."""

    _client: Any
    _options: WriteOptions

    async def list_objects(self, bucket: str, prefix: str, *, limit: int = 1000, after: str = "") -> Listing:
        """One page of objects below ``prefix``."""
        with translated("ListObjectsV2", bucket, prefix):
            answer = await self._client.list_objects_v2(
                Bucket=bucket, Prefix=prefix, MaxKeys=limit, StartAfter=after, **self._options.for_all()
            )
        objects = [info_of(entry["Key"], entry, size=entry["Size"]) for entry in answer.get("Contents", [])]
        return Listing(objects, bool(answer.get("IsTruncated")))

    async def list_folder(self, bucket: str, prefix: str, *, limit: int = 1000, token: str = "") -> Folders:
        """One page of what lies directly below ``prefix``."""
        going_on = {"ContinuationToken": token} if token else {}
        with translated("ListObjectsV2", bucket, prefix):
            answer = await self._client.list_objects_v2(
                Bucket=bucket,
                Prefix=prefix,
                Delimiter="/",
                MaxKeys=limit,
                **going_on,
                **self._options.for_all(),
            )
        return folders_of(answer)

    async def list_parts(self, bucket: str, key: str, upload_id: str) -> Sequence[CompletedPart] | None:
        """All parts of an upload."""
        parts: list[CompletedPart] = []
        marker = 0
        try:
            while True:
                with translated("ListParts", bucket, key):
                    answer = await self._client.list_parts(
                        Bucket=bucket,
                        Key=key,
                        UploadId=upload_id,
                        PartNumberMarker=marker,
                        **self._options.for_all(),
                    )
                parts += [
                    CompletedPart(
                        part["PartNumber"],
                        unquoted(part["ETag"]),
                        part["Size"],
                        part.get("ChecksumCRC64NVME"),
                    )
                    for part in answer.get("Parts", [])
                ]
                if not answer.get("IsTruncated"):
                    return parts
                marker = answer["NextPartNumberMarker"]
        except HeldError:
            return None

    async def list_uploads(self, bucket: str, prefix: str) -> Sequence[OpenUpload]:
        """All open uploads below ``prefix``."""
        uploads: list[OpenUpload] = []
        markers: dict[str, str] = {}
        while True:
            with translated("ListMultipartUploads", bucket, prefix):
                answer = await self._client.list_multipart_uploads(
                    Bucket=bucket, Prefix=prefix, **markers, **self._options.for_all()
                )
            uploads += [
                OpenUpload(entry["Key"], entry["UploadId"], entry.get("Initiated"))
                for entry in answer.get("Uploads", [])
            ]
            if not answer.get("IsTruncated"):
                return uploads
            markers = {
                "KeyMarker": answer["NextKeyMarker"],
                "UploadIdMarker": answer["NextUploadIdMarker"],
            }
