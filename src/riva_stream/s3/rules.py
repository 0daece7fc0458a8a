"""Tags of objects and lifecycle rules of buckets: the adapter's requests that move no bytes of a model.

Lifecycle rules travel as the XML that the store speaks. botocore's parser drops what its model does not know (a
field that S3 gets next year, or one of another vendor), and putting the rest back would delete it from the rules of
others: PutBucketLifecycleConfiguration replaces all of them.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlencode

from riva_stream.s3.answers import code_of
from riva_stream.s3.errors import translated
from riva_stream.s3.options import WriteOptions
from riva_stream.s3.port import Lifecycle

__all__ = ["RuleRequests", "carry_rules_as_they_are", "tagging_of"]

_RAW = "RivaStreamRawBody"
_XML: ContextVar[bytes] = ContextVar("riva_stream_lifecycle_xml")
"""What the request under way sends in place of what botocore has made."""


def tagging_of(tags: Mapping[str, str]) -> dict[str, str]:
    """The argument of PutObject and CreateMultipartUpload that tags the object (``x-amz-tagging``)."""
    return {"Tagging": urlencode(tags)} if tags else {}


class RuleRequests:
    """See :class:`~riva_stream.s3.port.Store`."""

    _client: Any
    _options: WriteOptions

    async def put_tags(self, bucket: str, key: str, tags: Mapping[str, str]) -> None:
        """Replace the tags of an object."""
        with translated("PutObjectTagging", bucket, key):
            await self._client.put_object_tagging(
                Bucket=bucket,
                Key=key,
                Tagging={"TagSet": [{"Key": name, "Value": value} for name, value in tags.items()]},
                **self._options.for_all(),
            )

    async def get_tags(self, bucket: str, key: str) -> Mapping[str, str]:
        """The tags of an object."""
        with translated("GetObjectTagging", bucket, key):
            answer = await self._client.get_object_tagging(Bucket=bucket, Key=key, **self._options.for_all())
        return {tag["Key"]: tag["Value"] for tag in answer.get("TagSet", [])}

    async def get_lifecycle(self, bucket: str) -> Lifecycle | None:
        """The rules as the store tells them; None when there are none."""
        with translated("GetBucketLifecycleConfiguration", bucket):
            try:
                answer = await self._client.get_bucket_lifecycle_configuration(
                    Bucket=bucket, **self._options.for_all()
                )
            except self._client.exceptions.ClientError as error:
                if code_of(error) == "NoSuchLifecycleConfiguration":
                    return None
                raise
        return Lifecycle(bytes(answer[_RAW]), answer.get("TransitionDefaultMinimumObjectSize", ""))

    async def put_lifecycle(self, bucket: str, lifecycle: Lifecycle) -> None:
        """Replace all rules of the bucket."""
        minimum = lifecycle.transition_minimum
        kept = {"TransitionDefaultMinimumObjectSize": minimum} if minimum else {}
        token = _XML.set(lifecycle.xml)
        try:
            with translated("PutBucketLifecycleConfiguration", bucket):
                await self._client.put_bucket_lifecycle_configuration(
                    Bucket=bucket,
                    LifecycleConfiguration={"Rules": []},  # in its place goes the XML
                    **kept,
                    **self._options.for_all(),
                )
        finally:
            _XML.reset(token)

    async def delete_lifecycle(self, bucket: str) -> None:
        """Remove all rules of the bucket."""
        with translated("DeleteBucketLifecycle", bucket):
            await self._client.delete_bucket_lifecycle(Bucket=bucket, **self._options.for_all())


def carry_rules_as_they_are(client: Any) -> None:
    """Let lifecycle rules pass through ``client`` as the bytes that they are."""
    events = client.meta.events
    events.register("before-parse.s3.GetBucketLifecycleConfiguration", _keep_body)
    events.register("before-call.s3.PutBucketLifecycleConfiguration", _send_body)


def _keep_body(response_dict: Any, customized_response_dict: Any, **_: Any) -> None:
    customized_response_dict[_RAW] = response_dict["body"]


def _send_body(params: Any, **_: Any) -> None:
    data = _XML.get()
    params["body"] = data
    # Content-MD5 is the one checksum of this request that every store has always taken.
    params["headers"]["Content-MD5"] = base64.b64encode(
        hashlib.md5(data, usedforsecurity=False).digest()
    ).decode()
    params["context"].pop("checksum", None)
