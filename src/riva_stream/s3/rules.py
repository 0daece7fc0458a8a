"""Tags of objects and lifecycle rules of buckets: the adapter's requests that move no bytes of a model.

botocore's parser drops what its model does not know: a field that S3 adds next year, or another vendor's. Putting the
rest back would delete it from other people's rules, as PutBucketLifecycleConfiguration replaces all of them. So the
answer is compared with what botocore would send again, and anything missing there is named.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlencode
from xml.etree import ElementTree as ET

from botocore.serialize import create_serializer

from riva_stream.errors import ConfigurationError, Where
from riva_stream.s3.errors import parsed
from riva_stream.s3.options import WriteOptions
from riva_stream.s3.port import Lifecycle, Window
from riva_stream.s3.responses import code_of
from riva_stream.s3.windows import within

__all__ = ["RuleRequests", "keep_raw_lifecycle", "tagging_of"]

_RAW = "RivaStreamRawBody"
_READ, _PUT = "GetBucketLifecycleConfiguration", "PutBucketLifecycleConfiguration"


def tagging_of(tags: Mapping[str, str]) -> dict[str, str]:
    """The argument of PutObject and CreateMultipartUpload that tags the object (``x-amz-tagging``)."""
    return {"Tagging": urlencode(tags)} if tags else {}


class RuleRequests:
    """See :class:`~riva_stream.s3.port.Store`."""

    _client: Any
    _options: WriteOptions

    async def put_tags(
        self, bucket: str, key: str, tags: Mapping[str, str], *, window: Window | None = None
    ) -> None:
        """Replace the tags of an object."""
        with parsed("PutObjectTagging", bucket, key), within(window):
            await self._client.put_object_tagging(
                Bucket=bucket,
                Key=key,
                Tagging={"TagSet": [{"Key": name, "Value": value} for name, value in tags.items()]},
                **self._options.for_all(),
            )

    async def get_tags(self, bucket: str, key: str) -> Mapping[str, str]:
        """The tags of an object."""
        with parsed("GetObjectTagging", bucket, key):
            answer = await self._client.get_object_tagging(Bucket=bucket, Key=key, **self._options.for_all())
        return {tag["Key"]: tag["Value"] for tag in answer.get("TagSet", [])}

    async def get_lifecycle(self, bucket: str) -> Lifecycle | None:
        """The rules, and the elements that botocore does not understand; None if there are none."""
        with parsed(_READ, bucket):
            try:
                answer = await self._client.get_bucket_lifecycle_configuration(
                    Bucket=bucket, **self._options.for_all()
                )
            except self._client.exceptions.ClientError as error:
                if code_of(error) == "NoSuchLifecycleConfiguration":
                    return None
                raise
        root = ET.fromstring(answer[_RAW])  # noqa: S314 - botocore has read the same bytes with the same parser
        if _name(root) != "LifecycleConfiguration":
            raise ConfigurationError(
                f"the lifecycle rules of the bucket cannot be read: the store answers with <{_name(root)}>",
                where=Where(_READ, bucket),
                hint=f"inspect them with: aws s3api get-bucket-lifecycle-configuration --bucket {bucket}",
            )
        rules = answer.get("Rules", [])
        understood = Counter(_elements(self._sent_again(rules)))
        return Lifecycle(
            rules=json.loads(json.dumps(rules, default=datetime.isoformat)),
            transition_minimum=answer.get("TransitionDefaultMinimumObjectSize", ""),
            unknown=sorted(Counter(_elements(root)) - understood),
        )

    def _sent_again(self, rules: Sequence[Any]) -> ET.Element:
        operation = self._client.meta.service_model.operation_model(_PUT)
        serializer = create_serializer("rest-xml", include_validation=False)
        parameters = {"Bucket": "any", "LifecycleConfiguration": {"Rules": rules}}
        return ET.fromstring(serializer.serialize_to_request(parameters, operation)["body"])  # noqa: S314 - our own


def _elements(parent: ET.Element, above: str = "") -> Iterator[str]:
    """The path of every element of the rules, as often as it occurs."""
    for child in parent:
        path = f"{above}/{_name(child)}".lstrip("/")
        if path.startswith("Rule"):
            yield path
            yield from _elements(child, path)


def _name(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def keep_raw_lifecycle(client: Any) -> None:
    """Keep the raw bytes of lifecycle rules."""
    client.meta.events.register(f"before-parse.s3.{_READ}", _keep_body)


def _keep_body(response_dict: Any, customized_response_dict: Any, **_: Any) -> None:
    customized_response_dict[_RAW] = response_dict["body"]
