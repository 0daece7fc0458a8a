"""The port's adapter for aioboto3: one request per call, tried once, errors translated."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from riva_stream.errors import ConfigurationError, HeldError, TransientError, Where
from riva_stream.s3.body import SentBody
from riva_stream.s3.errors import parsed
from riva_stream.s3.listings import ListRequests
from riva_stream.s3.options import WriteOptions
from riva_stream.s3.port import (
    NO_TAGS,
    CompletedPart,
    CopiedPart,
    CopySource,
    Document,
    ObjectInfo,
    ObjectPart,
    PartBody,
    RangeReply,
    Stored,
    Window,
)
from riva_stream.s3.responses import (
    checksum_of,
    code_of,
    condition_of,
    copied_from,
    info_of,
    now_of,
    require_own,
    unquoted,
    version_of,
    versioned,
)
from riva_stream.s3.rules import RuleRequests, tagging_of
from riva_stream.s3.speed import min_throughput
from riva_stream.s3.windows import body_within, within

__all__ = ["S3Store"]

_MISSING = {"404", "NoSuchKey", "NotFound"}


class S3Store(ListRequests, RuleRequests):
    """See :class:`~riva_stream.s3.port.Store`."""

    def __init__(
        self,
        client: Any,
        *,
        is_aws: bool,
        options: WriteOptions,
        reopen: Callable[[], Awaitable[Any]] | None = None,
    ) -> None:
        self._client = client
        self._reopen = reopen
        self._options = options
        self._is_aws = is_aws
        self._spoke_s3 = False
        """Whether a HEAD was ever answered as by S3."""

    @property
    def is_aws(self) -> bool:
        """Whether this is AWS itself."""
        return self._is_aws

    async def renew(self) -> bool:
        """Reload the credentials. Requests in progress keep the client with which they began."""
        if self._reopen is None:
            return False
        client = await self._reopen()
        if self._reopen is not None:  # closed meanwhile
            self._client = client
        return True

    def close(self) -> None:
        """Refuse all further use: the client is being closed, and would open connections that nobody closes."""
        self._client, self._reopen = _Closed(), None

    async def head(self, bucket: str, key: str, *, window: Window | None = None) -> ObjectInfo | None:
        """HEAD, with the store's checksums if it keeps any."""
        with parsed("HeadObject", bucket, key), within(window):
            try:
                answer = await self._client.head_object(
                    Bucket=bucket, Key=key, ChecksumMode="ENABLED", **self._options.for_all()
                )
            except self._client.exceptions.ClientError as error:
                if code_of(error) in _MISSING:
                    return None
                await self._ask_why(bucket, key, error)
                raise
        if not answer.get("ETag") or "ContentLength" not in answer:
            if self._spoke_s3:
                # It is S3, so this is temporary: the object is being replaced at this moment.
                raise TransientError("the store answered without an ETag or a length").located(
                    operation="HeadObject", bucket=bucket, key=key
                )
            raise _not_s3("HeadObject", bucket, key)
        self._spoke_s3 = True
        return info_of(key, answer, size=answer["ContentLength"])

    async def _ask_why(self, bucket: str, key: str, error: Any) -> None:
        """Let a GET of the same object explain a bare 400, as the refusal of a HEAD has no body.

        An expired token, among others, results in it; a GET needs the same permission.

        Raises:
            ClientError: the GET's refusal.
        """
        if code_of(error) != "400" or "x-amz-bucket-region" in error.response["ResponseMetadata"].get(
            "HTTPHeaders", {}
        ):
            return
        answer = await self._client.get_object(
            Bucket=bucket, Key=key, Range="bytes=0-0", **self._options.for_all()
        )
        answer["Body"].close()

    async def head_part(self, bucket: str, key: str, number: int) -> ObjectPart | None:
        """HEAD of one part of an object."""
        with parsed("HeadObject", bucket, key, part=number):
            answer = await self._client.head_object(
                Bucket=bucket, Key=key, PartNumber=number, **self._options.for_all()
            )
        # A store without part numbers answers with the whole object.
        parts = answer.get("PartsCount")
        return ObjectPart(answer["ContentLength"], parts) if parts and "ContentLength" in answer else None

    async def get(self, bucket: str, key: str, *, limit: int) -> Document | None:
        """The whole of a small object."""
        with parsed("GetObject", bucket, key):
            try:
                answer = await self._client.get_object(Bucket=bucket, Key=key, **self._options.for_all())
            except self._client.exceptions.ClientError as error:
                if code_of(error) in _MISSING:
                    return None
                raise
            expected: int | None = answer.get("ContentLength")
            headers = answer["ResponseMetadata"].get("HTTPHeaders", {})
            if expected is None and headers.get("transfer-encoding", "").lower() != "chunked":
                # Only a last chunk, or a length, shows that the body was complete.
                raise TransientError("the response body has neither a length nor an end marker")
            data = bytearray()
            async with answer["Body"] as body:
                with min_throughput(limit if expected is None else min(expected, limit)):
                    while max(expected or 0, len(data)) <= limit and (piece := await body.content.readany()):
                        data += piece
            if (size := max(expected or 0, len(data))) > limit:
                return Document(b"", info_of(key, answer, size=size))
            if expected not in {None, len(data)}:
                raise TransientError(f"the body ended after {len(data)} of {expected} bytes")
            return Document(bytes(data), info_of(key, answer, size=len(data)))

    @asynccontextmanager
    async def get_range(
        self, bucket: str, key: str, *, first: int, last: int, etag: str, version_id: str | None
    ) -> AsyncIterator[RangeReply]:
        """Bytes ``first`` to ``last`` (inclusive) if the object still has this ETag; "": whatever ETag it has."""
        details = {"byte_range": (first, last)}
        with parsed("GetObject", bucket, key, **details):
            answer = await self._client.get_object(
                Bucket=bucket,
                Key=key,
                Range=f"bytes={first}-{last}",
                **condition_of(if_match=etag),
                **versioned(version_id),
                **self._options.for_all(),
            )
        body = answer["Body"]

        async def pieces() -> AsyncIterator[bytes]:
            with parsed("GetObject", bucket, key, **details):
                while piece := await body.content.readany():
                    yield piece

        try:
            yield RangeReply(
                status=answer["ResponseMetadata"]["HTTPStatusCode"],
                content_range=answer.get("ContentRange", ""),
                content_length=answer.get("ContentLength"),
                etag=unquoted(answer.get("ETag")),
                pieces=pieces(),
            )
        finally:
            body.close()  # a body read to its end is back in the pool; any other closes its connection

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
        body = await body_within(body, window)
        with parsed("PutObject", bucket, key), within(window), SentBody(body) as sent:
            answer = await self._client.put_object(
                Bucket=bucket,
                Key=key,
                Body=sent,
                ContentType=content_type,
                Metadata=dict(metadata),
                **tagging_of(tags),
                **checksum_of(body),
                **condition_of(if_absent=if_absent, if_match=if_match),
                **self._options.for_create(),
            )
        return Stored(unquoted(answer.get("ETag")), version_of(answer), now_of(answer))

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
        with parsed("DeleteObject", bucket, key), within(window):
            answer = await self._client.delete_object(
                Bucket=bucket,
                Key=key,
                **versioned(version_id),
                **condition_of(if_match=if_match),
                **self._options.for_all(),
            )
        return version_of(answer) if answer.get("DeleteMarker") else None

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
        """Create a multipart upload and return its UploadId."""
        declared = {"ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "FULL_OBJECT"} if crc64nvme else {}
        with parsed("CreateMultipartUpload", bucket, key), within(window):
            answer = await self._client.create_multipart_upload(
                Bucket=bucket,
                Key=key,
                ContentType=content_type,
                Metadata=dict(metadata),
                **tagging_of(tags),
                **declared,
                **self._options.for_create(),
            )
        if not answer.get("UploadId"):
            raise _not_s3("CreateMultipartUpload", bucket, key)
        return str(answer["UploadId"])

    async def upload_part(self, bucket: str, key: str, upload_id: str, number: int, body: PartBody) -> str:
        """Send one part and return its ETag."""
        with parsed("UploadPart", bucket, key, part=number), SentBody(body) as sent:
            answer = await self._client.upload_part(
                Bucket=bucket,
                Key=key,
                UploadId=upload_id,
                PartNumber=number,
                Body=sent,
                **checksum_of(body),
                **self._options.for_all(),
            )
        if not (etag := unquoted(answer.get("ETag"))):
            raise TransientError("the store acknowledged a part without an ETag").located(
                operation="UploadPart", bucket=bucket, key=key, part=number
            )
        return etag

    async def copy_part(
        self, bucket: str, key: str, upload_id: str, number: int, source: CopySource
    ) -> CopiedPart:
        """Have the store make one part from an object that it has."""
        details: dict[str, Any] = {"part": number}
        if source.first is not None and source.last is not None:
            details["byte_range"] = (source.first, source.last)
        with parsed("UploadPartCopy", bucket, key, **details):
            answer = await self._client.upload_part_copy(
                Bucket=bucket,
                Key=key,
                UploadId=upload_id,
                PartNumber=number,
                **copied_from(source),
                **self._options.for_all(),
            )
        # The answer begins with 200 while the store is still copying; a truncated body has none of this.
        told = answer.get("CopyPartResult", {})
        if not (etag := unquoted(told.get("ETag"))):
            raise TransientError("the store acknowledged a copied part without an ETag").located(
                operation="UploadPartCopy", bucket=bucket, key=key, **details
            )
        return CopiedPart(etag, told.get("ChecksumCRC64NVME"))

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
        """Make the object visible."""
        listed = [
            {"PartNumber": part.number, "ETag": f'"{part.etag}"'}
            | ({"ChecksumCRC64NVME": part.crc64nvme} if part.crc64nvme else {})
            for part in parts
        ]
        whole = {"ChecksumCRC64NVME": crc64nvme, "ChecksumType": "FULL_OBJECT"} if crc64nvme else {}
        # The store compares the size with the sum of its parts (AWS; others ignore it).
        with parsed("CompleteMultipartUpload", bucket, key), within(window):
            answer = await self._client.complete_multipart_upload(
                Bucket=bucket,
                Key=key,
                UploadId=upload_id,
                MultipartUpload={"Parts": listed},
                MpuObjectSize=sum(part.size for part in parts),
                **whole,
                **condition_of(if_absent=if_absent, if_match=if_match),
                **self._options.for_all(),
            )
            require_own(answer)
        return Stored(unquoted(answer.get("ETag")), version_of(answer), now_of(answer))

    async def abort_upload(self, bucket: str, key: str, upload_id: str) -> None:
        """Abort; for a missing upload it succeeds."""
        # NoSuchUpload: it is gone, as intended
        with suppress(HeldError), parsed("AbortMultipartUpload", bucket, key):
            await self._client.abort_multipart_upload(
                Bucket=bucket, Key=key, UploadId=upload_id, **self._options.for_all()
            )


class _Closed:
    """In place of a client."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("the store is closed: its open_store() block has ended")


def _not_s3(operation: str, bucket: str, key: str) -> ConfigurationError:
    return ConfigurationError(
        "the endpoint answers, but not as S3 does",
        where=Where(operation, bucket, key),
        hint="check --endpoint-url (AWS_ENDPOINT_URL): is it the store itself, or a web site in front of it?",
    )
