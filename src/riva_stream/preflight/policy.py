"""The minimal IAM policy for a staging, and the part of it that an "access denied" requires.

Everything is derived from the table in :mod:`riva_stream.rights`. Nothing here needs credentials, the network or the
AWS libraries.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, Literal

from pydantic import model_serializer

from riva_stream.config import StageRequest, levels_of
from riva_stream.errors import AccessDeniedError
from riva_stream.layout import DEPLOYMENTS, Layout, layout_of
from riva_stream.log_place import LogPlace
from riva_stream.manifest import Document
from riva_stream.rights import KMS_ACTIONS, RIGHTS, Right, bucket_arn, object_arn
from riva_stream.uris import partition_of

__all__ = [
    "EXTRAS",
    "Grant",
    "PolicyDocument",
    "granting",
    "grants_for",
    "merged",
    "policy_of",
    "uses_of",
]

_KEY_ID = re.compile(r"[0-9a-fA-F-]{36}|mrk-[0-9a-fA-F]{32}")


class Grant(Document):
    """One statement of a policy, with IAM's names."""

    Sid: str
    Effect: Literal["Allow"] = "Allow"
    Action: list[str]
    Resource: str
    Condition: dict[str, dict[str, Any]] | None = None

    @model_serializer(mode="wrap")
    def _without_nulls(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Omit empty fields: IAM accepts no null."""
        return {name: value for name, value in handler(self).items() if value is not None}


class PolicyDocument(Document):
    """An identity-based IAM policy, as ``aws iam put-role-policy`` takes it."""

    Version: Literal["2012-10-17"] = "2012-10-17"
    Statement: list[Grant]


def merged(grants: Iterable[Grant]) -> list[Grant]:
    """Merge the statements that grant something on the same resource under the same condition."""
    found: dict[tuple[str, str], list[Grant]] = {}
    for grant in grants:
        found.setdefault((grant.Resource, str(grant.Condition)), []).append(grant)
    return [
        same[0].model_copy(
            update={"Action": list(dict.fromkeys(action for grant in same for action in grant.Action))}
        )
        for same in found.values()
    ]


def _key_grant(key: str | None, region: str | None, *, reads: bool = False) -> Grant:
    """The use of a key, through S3 alone.

    Args:
        key: an id, an ARN or an alias; None: any.
        region: of the S3 that uses it.
        reads: only to read what is encrypted with it.
    """
    via = f"s3.{region or '*'}.amazonaws.com" + (".cn" if partition_of(region) == "aws-cn" else "")
    condition: dict[str, dict[str, Any]] = {"StringLike": {"kms:ViaService": via}}
    start = f"arn:{partition_of(region)}:kms:{region or '*'}:*:"
    if key is None:
        resource = f"{start}key/*"
    elif key.startswith("arn:") and ":key/" in key:
        resource = key
    elif _KEY_ID.fullmatch(key):
        resource = f"{start}key/{key}"
    else:
        # A statement about a key cannot name it by its alias, except in a condition.
        account = key.rpartition(":alias/")[0] if key.startswith("arn:") else start.rstrip(":")
        resource = f"{account}:key/*"
        alias = "alias/" + key.rpartition("alias/")[2]
        condition["ForAnyValue:StringEquals"] = {"kms:ResourceAliases": alias}
    sid, actions = ("ReadWithKey", KMS_ACTIONS[1:]) if reads else ("UseKey", KMS_ACTIONS)
    return Grant(Sid=sid, Action=list(actions), Resource=resource, Condition=condition)


EXTRAS: Mapping[str, tuple[str, ...]] = {
    "gc": (
        *("ListObjectsV2", "ListMultipartUploads", "HeadObject", "GetObject"),
        *("ListParts", "AbortMultipartUpload", "PutObject", "DeleteObject"),
    ),
    "tag": ("PutObjectTagging",),
    "retention": ("GetBucketLifecycleConfiguration", "ListObjectsV2"),
}
"""Further uses of the destination, and the requests that each makes."""

_SOURCE = {
    "full": ("HeadObject", "GetObject"),
    "reference_only": ("HeadObject",),
    "bintarball_reference": ("HeadObject",),
}
_HELD = (
    *("HeadObject", "GetObject", "ListObjectsV2", "ListMultipartUploads", "PutObject", "DeleteObject"),
    *("CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload"),
)
# Every mode holds its prefix. By reference there are no parts to resume.
_DESTINATION = {"full": (*_HELD, "ListParts"), "reference_only": _HELD, "bintarball_reference": _HELD}
_COPIES = ("UploadPartCopy",)
"""Sent with the destination's credentials, which then also need the rights to read the source."""
_LOG = ("PutObject",)

_ACL = "s3:PutObjectAcl"
"""What a canned access control list needs in addition to the right to write."""


_OF_A_PLACE = ("WriteStaging", "ListStaging", "ListEnvironment", "ManageBucket")
"""Statements about the destination: a replica needs them as well. What is copied there is read from the staging."""


def uses_of(
    request: StageRequest, extras: Iterable[str] = (), *, log: bool = False
) -> list[tuple[str, str, str]]:
    """Each request that a run may send, with its right and its target: for people.

    Args:
        request: what is staged.
        extras: of :data:`EXTRAS`.
        log: whether a copy of the log is uploaded.

    Returns:
        ``(operation, right, "source" | "destination" | "log")`` in the order of the table.
    """
    wanted = _wanted(request, extras)
    # Of some requests only the rights to the source count, of others only the rest.
    places: tuple[tuple[str, Iterable[str], bool | None], ...] = (
        ("source", _SOURCE[request.mode], None),
        ("source", (name for name in wanted if name in _COPIES), True),
        ("destination", wanted, False),
        ("log", _LOG * log, None),
    )
    return [
        (name, f"{right.action} {right.when}".strip(), place)
        for name, right, place in dict.fromkeys(
            (name, right, place)
            for place, names, of_source in places
            for name in names
            for right in RIGHTS[name]
            if of_source in {None, right.of_source}
        )
    ]


def policy_of(
    request: StageRequest,
    *,
    scope: str = "version",
    extras: Iterable[str] = (),
    source_key: str | None = None,
    log: LogPlace | None = None,
) -> PolicyDocument:
    """The minimal policy for a request.

    Args:
        request: what is staged from where to where; its region determines the partition of the ARNs.
        scope: what statements about the destination cover: ``version`` (this version of the model), ``model`` (any of
            its versions), ``env`` (any model) or ``bucket`` (the whole bucket).
        extras: of :data:`EXTRAS`, further uses of the destination.
        source_key: the KMS key that the source is encrypted with: an id, an ARN or an alias.
        log: where copies of logs go.
    """
    source_region = request.source_region or request.region
    extras = tuple(extras)
    there = _wanted(request, extras)
    prefix, bucket = _prefix(request, scope), bucket_arn(request.bucket, request.region)
    grants = [
        Grant(
            Sid="WriteStaging",
            Action=_actions(there, "object") + ([_ACL] if request.acl else []),
            Resource=object_arn(request.bucket, prefix + "*", request.region),
        ),
        Grant(
            Sid="ListStaging",
            Action=["s3:ListBucket"],
            Resource=bucket,
            Condition=_below(prefix.rstrip("/")),
        ),
    ]
    if not request.no_sign_request:  # unsigned requests need no grant
        source = request.source_bucket, request.source_key, source_region
        reading = _actions(_SOURCE[request.mode], "object", source=True)
        grants = [*_reading("Source", reading, *source, request), *grants]
    if "retention" in extras and scope != "bucket":  # the rules apply to an environment, whatever the scope
        grants.append(
            Grant(
                Sid="ListEnvironment",
                Action=["s3:ListBucket"],
                Resource=bucket,
                Condition=_below(request.env, DEPLOYMENTS + request.env),
            )
        )
    if request.server_path is not None:
        region = request.region if request.server_bucket == request.bucket else source_region
        image = request.server_bucket, request.server_key, region
        grants += _reading("Container", ["s3:GetObject"], *image, request)
    if log is not None:
        grants.append(
            Grant(
                Sid="WriteLog",
                Action=_actions(_LOG, "object"),
                Resource=object_arn(log.bucket, log.key("*", "*"), request.region),
            )
        )
    # No condition on a prefix: IAM has none for these actions.
    whole = [action for action in _actions(there, "bucket") if action != "s3:ListBucket"]
    grants.append(Grant(Sid="ManageBucket", Action=whole, Resource=bucket))
    if request.sse in {"aws:kms", "aws:kms:dsse"} and request.kms_key_id:
        grants.append(_key_grant(request.kms_key_id, request.region))
    if source_key:
        grants.append(_key_grant(source_key, source_region, reads=True))
    for number, place in enumerate(request.replicate_to, 1):
        replica = request.with_valid({**levels_of(place), "replicate_to": ()})
        grants += [
            grant.model_copy(update={"Sid": f"{grant.Sid}{number}"})
            for grant in policy_of(replica, scope=scope, extras=extras).Statement
            if grant.Sid in _OF_A_PLACE
        ]
    return PolicyDocument(Statement=grants)


def _reading(
    name: str, actions: list[str], bucket: str, key: str, region: str | None, request: StageRequest
) -> Iterator[Grant]:
    """Grants to read what a staging is made from, and, in another staging, to see whether a run is replacing that."""
    inside = _literal(key)
    yield Grant(Sid=f"Read{name}", Action=actions, Resource=object_arn(bucket, _pattern(key), region))
    yield Grant(
        Sid=f"Find{name}",
        Action=["s3:ListBucket"],
        Resource=bucket_arn(bucket, region),
        Condition=_below(inside.rpartition("/")[0]),
    )
    layout = layout_of(bucket, inside + "any" if inside.endswith("/") else inside)
    if layout is not None and layout != Layout(request.bucket, request.prefix):
        yield Grant(
            Sid=f"Read{name}Journal",
            Action=["s3:GetObject"],
            Resource=object_arn(bucket, _pattern(layout.journal), region),
        )


def grants_for(
    error: AccessDeniedError,
    request: StageRequest | None = None,
    region: str | None = None,
    *,
    log: LogPlace | None = None,
) -> list[Grant]:
    """The statements that grant exactly what a denied access needs.

    Args:
        error: it names the request, and usually the action.
        request: what the run is about, so that the statement covers its whole prefix; None: just the one key.
        region: for the partition, where there is no request.
        log: where copies of logs go, if the error may be about that.
    """
    if error.denied_by:
        return []
    if error.action.startswith("kms:"):
        # The key that the store named, else that of the request, else any.
        named = error.resource or (request.kms_key_id if request else None) or None
        where = (request.region if request else None) or region
        return [_key_grant(named, where, reads=error.where.operation in {"GetObject", "HeadObject"})]
    operation, bucket, key = error.where.operation, error.where.bucket, error.where.key
    rights = [right for right in RIGHTS.get(operation, ()) if error.action in {"", right.action}]
    if error.action and not rights:
        return [
            Grant(
                Sid="GrantMissing",
                Action=[error.action],
                Resource=error.resource or object_arn(bucket, key, region),
            )
        ]
    if request is not None:
        whole = policy_of(request, log=log).Statement
        return merged(
            grant.model_copy(update={"Action": [right.action]})
            for right in rights
            for grant in [some for some in whole if _covers(some, right, bucket, key, request.region)][:1]
        )
    return merged(
        Grant(
            Sid="GrantMissing" + right.action.partition(":")[2],
            Action=[right.action],
            Resource=object_arn(bucket, key, region) if right.on == "object" else bucket_arn(bucket, region),
        )
        for right in rights
        if bucket and not right.of_source
    )


@contextmanager
def granting(request: StageRequest) -> Iterator[None]:
    """Attach to an access error inside the block the statements that a run of ``request`` lacks."""
    try:
        yield
    except AccessDeniedError as error:
        error.grants = tuple(grant.model_dump() for grant in grants_for(error, request))
        raise


def _wanted(request: StageRequest, extras: Iterable[str]) -> list[str]:
    """The requests that go to the destination."""
    asked = {*extras, "tag"} if request.tag else set(extras)
    return [
        *_DESTINATION[request.mode],
        *(_COPIES if request.mode == "full" and request.source_copy != "send" else ()),
        *(name for extra in EXTRAS if extra in asked for name in EXTRAS[extra]),
    ]


def _actions(operations: Iterable[str], on: str, *, source: bool = False) -> list[str]:
    rights = (right for operation in operations for right in RIGHTS[operation])
    wanted = (right.action for right in rights if right.on == on and (source or not right.of_source))
    return list(dict.fromkeys(wanted))


def _prefix(request: StageRequest, scope: str) -> str:
    names = (request.env, request.model_name, request.model_version)
    kept = names[: {"version": 3, "model": 2, "env": 1, "bucket": 0}[scope]]
    folder = request.prefix.removesuffix("".join(f"{name}/" for name in names))
    return folder + "".join(f"{name}/" for name in kept)


def _literal(pattern: str) -> str:
    """A key pattern up to its first wildcard."""
    return re.split(r"[*?\[]", pattern, maxsplit=1)[0]


def _pattern(key: str) -> str:
    """A source key as an IAM pattern, which supports ``*`` and ``?`` but not ``[...]``."""
    return key + "*" if key.endswith("/") else re.sub(r"\[.*", "*", key, flags=re.DOTALL)


def _below(*folders: str) -> dict[str, dict[str, Any]] | None:
    """Allow listing only below these folders.

    ``IfExists``, because S3 also checks this permission when a HEAD or GET finds nothing, and then there is no prefix:
    with a plain StringLike it would answer 403 instead of 404.
    """
    if not all(folders):
        return None
    return {"StringLikeIfExists": {"s3:prefix": [f"{folder}/*" for folder in folders]}}


def _covers(grant: Grant, right: Right, bucket: str, key: str, region: str | None) -> bool:
    """Whether a statement of a policy grants a right, and on this key or bucket."""
    if right.action not in grant.Action:
        return False
    if right.on == "object":
        pattern = grant.Resource.replace("${$}", "$")
        return fnmatchcase(object_arn(bucket, key, region).replace("${$}", "$"), pattern)
    prefixes = (grant.Condition or {}).get("StringLikeIfExists", {}).get("s3:prefix", ["*"])
    return grant.Resource == bucket_arn(bucket, region) and (
        not key or any(fnmatchcase(key, prefix) for prefix in prefixes)
    )
