"""The statements that an IAM policy is made of, and those about KMS keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from pydantic import model_serializer

from riva_stream.config import StageRequest
from riva_stream.errors import AccessDeniedError
from riva_stream.manifest import Document
from riva_stream.rights import KMS_ACTIONS
from riva_stream.uris import partition_of

__all__ = ["Grant", "PolicyDocument", "key_grant", "key_grant_for", "merged"]

_KEY_ID = re.compile(r"[0-9a-fA-F-]{36}|mrk-[0-9a-fA-F]{32}")


class Grant(Document):
    """One statement of a policy, with IAM's names."""

    Sid: str
    Effect: Literal["Allow"] = "Allow"
    Action: list[str]
    Resource: str
    Condition: dict[str, dict[str, Any]] | None = None

    @model_serializer(mode="wrap")
    def _without_nothing(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """IAM takes no null."""
        return {name: value for name, value in handler(self).items() if value is not None}


class PolicyDocument(Document):
    """An identity-based IAM policy, as ``aws iam put-role-policy`` takes it."""

    Version: Literal["2012-10-17"] = "2012-10-17"
    Statement: list[Grant]


def merged(grants: Iterable[Grant]) -> list[Grant]:
    """One statement for all that grant something on the same resource under the same condition."""
    found: dict[tuple[str, str], Grant] = {}
    for grant in grants:
        place = (grant.Resource, str(grant.Condition))
        before = found.get(place, grant)
        actions = list(dict.fromkeys([*before.Action, *grant.Action]))
        found[place] = before.model_copy(update={"Action": actions})
    return list(found.values())


def key_grant(sid: str, actions: Sequence[str], key: str, region: str | None) -> Grant:
    """The use of a key, through S3 alone.

    Args:
        sid: of the statement.
        actions: of :data:`~riva_stream.rights.KMS_ACTIONS`.
        key: an id, an ARN or an alias.
        region: of the S3 that uses it.
    """
    via = f"s3.{region or '*'}.amazonaws.com" + (".cn" if partition_of(region) == "aws-cn" else "")
    condition: dict[str, dict[str, Any]] = {"StringLike": {"kms:ViaService": via}}
    start = f"arn:{partition_of(region)}:kms:{region or '*'}:*:"
    if key.startswith("arn:") and ":key/" in key:
        resource = key
    elif _KEY_ID.fullmatch(key):
        resource = f"{start}key/{key}"
    else:
        # A statement about a key cannot name it by its alias, except in a condition.
        account = key.rpartition(":alias/")[0] if key.startswith("arn:") else start.rstrip(":")
        resource = f"{account}:key/*"
        alias = "alias/" + key.rpartition("alias/")[2]
        condition["ForAnyValue:StringEquals"] = {"kms:ResourceAliases": alias}
    return Grant(Sid=sid, Action=list(actions), Resource=resource, Condition=condition)


def key_grant_for(error: AccessDeniedError, request: StageRequest | None, region: str | None) -> Grant:
    """The use of the key that a denied access needs: the one that the store named, else that of the request, else any."""
    named = error.resource or (request.kms_key_id if request else None)
    where = (request.region if request else None) or region
    reads = error.where.operation in {"GetObject", "HeadObject"}
    actions = KMS_ACTIONS[1:] if reads else KMS_ACTIONS
    if named:
        return key_grant("ReadWithKey" if reads else "UseKey", actions, named, where)
    grant = key_grant("ReadWithKey" if reads else "UseKey", actions, "0" * 36, where)
    return grant.model_copy(update={"Resource": grant.Resource.replace("0" * 36, "*")})
