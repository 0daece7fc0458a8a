"""Which IAM action each S3 request needs, and on what: the one table behind everything about rights.

``policy`` prints it, ``check`` tries it, and an "access denied" error looks up here what to ask for. A test runs every
kind of staging against a store that grants exactly what is printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from riva_stream.uris import ALIAS, partition_of

__all__ = ["KMS_ACTIONS", "RIGHTS", "Right", "bucket_arn", "describe_rights", "object_arn"]


@dataclass(frozen=True, slots=True)
class Right:
    """One IAM action, and what it is granted on."""

    action: str
    on: Literal["object", "bucket"]
    when: str = ""
    """In which case the request needs it; empty: always."""
    of_source: bool = False
    """Only for what is read as the source."""


_READ = Right("s3:GetObject", "object")
_WRITE = Right("s3:PutObject", "object")

RIGHTS: Mapping[str, tuple[Right, ...]] = {
    "HeadBucket": (Right("s3:ListBucket", "bucket"),),
    "HeadObject": (_READ, Right("s3:ListBucket", "bucket", "to be told that a key is missing")),
    "GetObject": (_READ, Right("s3:GetObjectVersion", "object", "for a version", of_source=True)),
    "ListObjectsV2": (Right("s3:ListBucket", "bucket"),),
    "PutObject": (_WRITE,),
    "PutObjectTagging": (Right("s3:PutObjectTagging", "object"),),
    "GetObjectTagging": (Right("s3:GetObjectTagging", "object"),),
    "DeleteObject": (Right("s3:DeleteObject", "object"),),
    "CreateMultipartUpload": (_WRITE,),
    "UploadPart": (_WRITE,),
    "UploadPartCopy": (
        _WRITE,
        Right("s3:GetObject", "object", "on the source", of_source=True),
        Right("s3:GetObjectVersion", "object", "for a version", of_source=True),
    ),
    "CompleteMultipartUpload": (_WRITE,),
    "AbortMultipartUpload": (Right("s3:AbortMultipartUpload", "object"),),
    "ListParts": (Right("s3:ListMultipartUploadParts", "object"),),
    "ListMultipartUploads": (Right("s3:ListBucketMultipartUploads", "bucket"),),
    "GetBucketLifecycleConfiguration": (Right("s3:GetLifecycleConfiguration", "bucket"),),
}
"""What each operation of the S3 API needs (Amazon S3 User Guide, "Required permissions for S3 API operations")."""

KMS_ACTIONS = ("kms:GenerateDataKey", "kms:Decrypt")
"""What writing with a KMS key needs: completing a multipart upload reads its parts again."""


def describe_rights(operation: str) -> str:
    """The rights of an operation for a person: ``s3:GetObject (s3:GetObjectVersion for a version)``."""
    always = [right.action for right in RIGHTS.get(operation, ()) if not right.when]
    also = [f"{right.action} {right.when}" for right in RIGHTS.get(operation, ()) if right.when]
    text = ", ".join(always) or operation
    return f"{text} ({', '.join(also)})" if also else text


def bucket_arn(bucket: str, region: str | None) -> str:
    """ARN of a bucket; the ARN of an access point is returned as it is.

    IAM does not know aliases: the access points whose name starts like the alias are meant (AWS truncates long names).
    """
    if bucket.startswith("arn:"):
        return bucket
    if bucket.endswith(ALIAS):
        name = bucket.removesuffix(ALIAS).rpartition("-")[0]
        return f"arn:{partition_of(region)}:s3:{region or '*'}:*:accesspoint/{name}*"
    return f"arn:{partition_of(region)}:s3:::{bucket}"


def object_arn(bucket: str, pattern: str, region: str | None) -> str:
    """ARN of the objects whose keys match ``pattern``, with ``*`` and ``?`` as in IAM.

    A ``$`` would begin a policy variable, so it is escaped as IAM requires.
    """
    whole = bucket_arn(bucket, region)
    middle = "/object/" if ":accesspoint/" in whole else "/"
    return whole + middle + pattern.replace("$", "${$}")
