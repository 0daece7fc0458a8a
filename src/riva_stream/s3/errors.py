"""The map from what botocore and aiohttp raise to our errors."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import aiohttp
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from riva_stream.errors import (
    AccessDeniedError,
    ConfigurationError,
    HeldError,
    RivaStreamError,
    SourceChangedError,
    SourceNotFoundError,
    ThrottledError,
    TransientError,
    Where,
)
from riva_stream.rights import KMS_ACTIONS, words_for

__all__ = ["CREDENTIALS", "refusal", "translated"]

_WITHOUT: Mapping[str, str] = dict.fromkeys(
    ("GetBucketLifecycleConfiguration", "PutBucketLifecycleConfiguration", "DeleteBucketLifecycle"),
    "remove what is too old by hand, and what dead runs left with: riva-stream gc s3://BUCKET",
)
"""What to do where the store does not have an operation."""

_THROTTLED = {
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "TooManyRequests",
    "ServiceUnavailable",
    "503",
    "429",
}
_TRANSIENT = {
    "InternalError",
    "InternalFailure",
    "RequestTimeout",
    "RequestTimeTooSkewed",
    "OperationAborted",
    "ConditionalRequestConflict",
    "IncompleteBody",
    # of a signature that was good for a while: the next attempt is signed anew
    "RequestExpired",
    # the store received other bytes than we hashed: the way there broke them, so they are sent again
    "BadDigest",
    "XAmzContentSHA256Mismatch",
    "XAmzContentChecksumMismatch",
    "408",
    "500",
    "502",
    "504",
}
_CONDITIONAL = {"PutObject", "CompleteMultipartUpload", "DeleteObject"}
"""What can go with If-Match."""
CREDENTIALS = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidToken",
    "TokenRefreshRequired",
    "UnrecognizedClientException",
}
"""Service codes that say: it is the credentials themselves."""
_REGION = {
    "PermanentRedirect",
    "TemporaryRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "301",
    "307",
}
_NETWORK = (
    boto.EndpointConnectionError,
    boto.ConnectionClosedError,
    boto.ConnectTimeoutError,
    boto.ReadTimeoutError,
    boto.HTTPClientError,
    boto.ResponseStreamingError,
    boto.IncompleteReadError,
    aiohttp.ClientError,
    asyncio.TimeoutError,
    ConnectionError,
    OSError,
)
_BROKEN_ANSWERS = (
    boto.ChecksumError,
    boto.FlexibleChecksumError,
    boto.ConnectionError,
    ResponseParserError,
)
_NOCREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.SSOError,
    boto.UnauthorizedSSOTokenError,
    boto.ProfileNotFound,
    boto.ConfigParseError,
    boto.ConfigNotFound,
)


@contextmanager
def translated(operation: str, bucket: str, key: str = "", **details: Any) -> Iterator[None]:
    """Raise our error in place of botocore's; ``details`` are further fields of ``Where``."""
    where = Where(operation=operation, bucket=bucket, key=key, **details)
    try:
        yield
    except RivaStreamError as error:
        details_known = {"operation": operation, "bucket": bucket, "key": key, **details}
        error.located(**details_known)
        raise
    except boto.ClientError as error:
        raise _from_answer(error, where) from error
    except (boto.SSLError, aiohttp.ClientSSLError) as error:
        raise ConfigurationError(
            f"the TLS certificate of the endpoint is not trusted: {_text(error)}",
            where=where,
            hint="pass the store's CA certificates with --ca-bundle",
        ) from error
    except _NOCREDENTIALS as error:
        raise ConfigurationError(
            f"there are no usable credentials: {_text(error)}",
            where=where,
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (in the environment or in .env), or AWS_PROFILE "
            "to a profile that exists, or run where a role gives some",
        ) from error
    except boto.NoRegionError as error:
        raise ConfigurationError(
            "no region is set", where=where, hint="set AWS_REGION or pass --region"
        ) from error
    except (*_NETWORK, *_BROKEN_ANSWERS) as error:
        raise TransientError(
            f"the connection failed: {_text(error)}",
            where=where,
            hint="check the network, and that --endpoint-url (AWS_ENDPOINT_URL) is right",
        ) from error
    except boto.BotoCoreError as error:
        # Whatever else the SDK refuses before it sends anything: a region, an ARN, a parameter, its configuration.
        raise ConfigurationError(
            f"the request cannot be made: {_text(error)}",
            where=where,
            hint="check --region, --endpoint-url, --bucket and the AWS configuration file",
        ) from error


def refusal(operation: str, bucket: str, key: str, code: str, status: int, **details: Any) -> RivaStreamError:
    """What a store's refusal comes to, for stores that are not behind the SDK; ``details`` are fields of ``Where``."""
    place = Where(operation=operation, bucket=bucket, key=key, code=code, status=status, **details)
    return _known(code, "", status, place, None)


def _text(error: BaseException) -> str:
    """What an error says, without any query string: a signed URL's would hold its signature."""
    words = str(error) or type(error).__name__
    return " ".join(word.partition("?")[0] for word in words.split())


def _from_answer(error: boto.ClientError, where: Where) -> RivaStreamError:
    answer: dict[str, Any] = error.response
    meta = answer.get("ResponseMetadata", {})
    headers = meta.get("HTTPHeaders", {})
    code = str(answer.get("Error", {}).get("Code", ""))
    message = str(answer.get("Error", {}).get("Message", ""))
    status = meta.get("HTTPStatusCode")
    place = Where(
        operation=where.operation,
        bucket=where.bucket,
        key=where.key,
        part=where.part,
        byte_range=where.byte_range,
        status=status,
        code=code,
        request_id=str(meta.get("RequestId") or headers.get("x-amz-request-id", "")),
    )
    region = headers.get("x-amz-bucket-region") or answer.get("Error", {}).get("Region")
    return _known(code, message, status, place, region)


def _known(  # noqa: PLR0911, PLR0912, C901 - a table, one row a kind
    code: str, message: str, status: int | None, place: Where, region: str | None
) -> RivaStreamError:
    if code in _REGION or (status in {301, 307, 400} and region and code != "ExpiredToken"):
        named = f"the bucket lies in {region}" if region else "the bucket lies in another region"
        return ConfigurationError(
            f"wrong region: {named}",
            where=place,
            hint=f"pass --region {region} (or --source-region, for the source)"
            if region
            else "check AWS_REGION",
        )
    if code in _THROTTLED or status in {429, 503}:
        return ThrottledError(
            "the store asks for fewer requests", where=place, hint="with fewer at once: --connections 4"
        )
    if code in CREDENTIALS:
        return ConfigurationError(
            f"the store does not accept the credentials: {message or code}",
            where=place,
            hint="check the access key, the secret key and the session token, or sign in again",
        )
    if code == "NoSuchBucket":
        return ConfigurationError(
            f"there is no bucket {place.bucket}", where=place, hint="check the bucket's name and the endpoint"
        )
    if code == "NoSuchUpload":
        return HeldError(
            "the multipart upload is gone: another run, or a lifecycle rule, has aborted or completed it",
            where=place,
            hint="run the same command again",
        )
    if code == "InvalidPart":
        return HeldError(
            "the store no longer has the parts that it acknowledged: another run has sent others in their place",
            where=place,
            hint="run the same command again",
        )
    if code in {"NoSuchKey", "NoSuchVersion", "404"} and place.operation == "GetObject":
        return SourceChangedError(
            "the source was removed while it was read", where=place, hint="check the source and run again"
        )
    if code == "NotImplemented" or status == 501:  # noqa: PLR2004 - Not Implemented
        lacking = "no lifecycle rules" if "Lifecycle" in place.operation else f"no {place.operation}"
        return ConfigurationError(
            f"the store does not support this ({lacking}): {message or code}",
            where=place,
            hint=_WITHOUT.get(
                place.operation, "see riva-stream docs reliability for what a store has to support"
            ),
        )
    if code == "InvalidObjectState":
        return SourceNotFoundError(
            "the object is archived (Glacier) and cannot be read before it is restored",
            where=place,
            hint=f"restore it first: aws s3api restore-object --bucket {place.bucket} --key {place.key} …",
        )
    if code in {"PreconditionFailed", "InvalidRange", "412", "416"}:
        if place.operation == "GetObject":
            return SourceChangedError(
                "the source was replaced while it was read",
                where=place,
                hint="run again to stage what is there now",
            )
        return HeldError("another run was there first", where=place, hint="run the same command again")
    if code in {"NoSuchKey", "404"} and place.operation in _CONDITIONAL:
        # If-Match on an object that is gone
        return HeldError("another run has removed the object", where=place, hint="run the same command again")
    if code in _TRANSIENT or (status is not None and status >= 500):  # noqa: PLR2004 - HTTP's server errors
        return TransientError(
            f"the store failed: {message or code}", where=place, hint="more patience for each: --retries 20"
        )
    if status in {401, 403} or code in {"AccessDenied", "Forbidden"}:
        return _denied(code, message, place)
    return ConfigurationError(
        f"the store refuses the request: {message or code}",
        where=place,
        hint="check the settings it was made with: bucket, endpoint, encryption, storage class, owner",
    )


# "User: ARN is not authorized to perform: s3:PutObject on resource: "ARN" because no identity-based policy allows
# the s3:PutObject action", or "... with an explicit deny in a service control policy" (IAM User Guide, "Troubleshoot
# access denied error messages").
_ACTION = re.compile(r"not authorized to perform: ([a-z0-9-]+:\w+)")
_RESOURCE = re.compile(r"on resource: \"?(arn:[^\s\"]+)")
_DENY = re.compile(r"with an explicit deny in (an? [\w -]+)")


def _denied(code: str, message: str, place: Where) -> AccessDeniedError:
    """What is missing: as the store says, where it says so; else what the request is known to need."""
    action, resource, denied_by = (
        found[1] if (found := pattern.search(message)) else "" for pattern in (_ACTION, _RESOURCE, _DENY)
    )
    if not action and "kms" in message.lower():
        action = KMS_ACTIONS[0]
    if action.startswith("kms:"):
        key = resource or "the key of the bucket"
        right = f"{' and '.join(KMS_ACTIONS)} on {key}"
    else:
        right = words_for(place.operation)
    hint = f"the credentials need {right}"
    if denied_by:
        hint = f"{denied_by} forbids it in so many words, and no grant outweighs that: ask whoever keeps that policy"
    return AccessDeniedError(
        f"access denied: {message or code}",
        where=place,
        hint=hint,
        action=action,
        resource=resource,
        denied_by=denied_by,
    )
