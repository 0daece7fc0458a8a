"""A small IAM: whether a policy allows an S3 request, and a fault that refuses what it does not.

Which action a request needs is written down here a second time, from the Amazon S3 User Guide ("Required permissions
for Amazon S3 API operations"), so that the table of the program is held against something.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.faults import Refuse, Rule
from tests.support.s3ops import S3Request

__all__ = ["Enforce", "action_of", "allows", "without"]

_ACTIONS = {
    "HeadBucket": "s3:ListBucket",
    "ListObjectsV2": "s3:ListBucket",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "HeadObject": "s3:GetObject",
    "GetObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "UploadPartCopy": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "ListParts": "s3:ListMultipartUploadParts",
    "DeleteObject": "s3:DeleteObject",
    "GetBucketLifecycleConfiguration": "s3:GetLifecycleConfiguration",
    "PutBucketLifecycleConfiguration": "s3:PutLifecycleConfiguration",
    "DeleteBucketLifecycle": "s3:PutLifecycleConfiguration",
}


def action_of(request: S3Request) -> str:
    """The IAM action that a request needs."""
    action = _ACTIONS[request.operation]
    if "versionId" in parse_qs(urlsplit(request.target).query):
        return action + "Version"
    return action


def allows(policy: Mapping[str, Any], request: S3Request) -> bool:
    """Whether a policy of Allow statements allows a request; a copy needs to read its source as well."""
    if request.source is not None:
        bucket, _, key = request.source.partition("?")[0].partition("/")
        read = replace(
            request, operation="GetObject", target=request.source, bucket=bucket, key=key, source=None
        )
        return allows(policy, read) and allows(policy, replace(request, source=None))
    arn = f"arn:aws:s3:::{request.bucket}" + (f"/{request.key}" if request.key else "")
    query = parse_qs(urlsplit(request.target).query)
    context = {"s3:prefix": query["prefix"][0]} if "prefix" in query else {}
    return any(
        action_of(request) in statement["Action"]
        and fnmatchcase(arn, statement["Resource"].replace("${$}", "$"))
        and _holds(statement.get("Condition", {}), context)
        for statement in policy["Statement"]
        if statement["Effect"] == "Allow"
    )


def _holds(condition: Mapping[str, Mapping[str, Any]], context: Mapping[str, str]) -> bool:
    for operator, keys in condition.items():
        assert operator in {"StringLike", "StringLikeIfExists"}, operator
        for key, values in keys.items():
            assert key == "s3:prefix", key
            if key not in context:
                if not operator.endswith("IfExists"):
                    return False
            elif not any(fnmatchcase(context[key], value) for value in values):
                return False
    return True


def without(policy: Mapping[str, Any], action: str) -> dict[str, Any]:
    """The policy less one action."""
    left = [
        {**statement, "Action": [name for name in statement["Action"] if name != action]}
        for statement in policy["Statement"]
    ]
    return {**policy, "Statement": [statement for statement in left if statement["Action"]]}


@dataclass(frozen=True, kw_only=True)
class Enforce(Rule):
    """Refuses whatever *policy* does not allow, as S3 does: AccessDenied."""

    policy: Mapping[str, Any] = field(default_factory=dict)
    fault: Any = field(default_factory=lambda: Refuse("AccessDenied"))

    def fits(self, request: S3Request) -> bool:
        return request.operation != "Connect" and not allows(self.policy, request)
