"""The mapping from exceptions of botocore and aiohttp to our errors.

Failures are classified by what happened, never by an exception's base class or by an HTTP status that comes with an S3
code: botocore wraps an unsendable header, a missing CA bundle and a proxy's refusal in the same class as a broken
connection, and aiohttp's errors are OSErrors like those of a missing file.
"""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from riva_stream.errors import (
    ConfigurationError,
    DigestMismatchError,
    HeldError,
    RivaStreamError,
    SourceChangedError,
    SourceNotFoundError,
    ThrottledError,
    TransientError,
    Where,
)
from riva_stream.naming import option
from riva_stream.printable import in_one_line
from riva_stream.s3.config_files import malformed
from riva_stream.s3.denials import denied
from riva_stream.s3.port import REQUEST_EXPIRED
from riva_stream.s3.responses import now_of
from riva_stream.s3.transport_errors import one_line, proxy_refusal, text_of, transport_error

__all__ = ["ARCHIVED", "CREDENTIALS", "refusal", "translated"]

_WITHOUT: Mapping[str, str] = {
    "GetBucketLifecycleConfiguration": "remove old objects by hand, and leftovers of dead runs with: riva-stream gc "
    "s3://BUCKET",
}
"""Advice if the store does not support an operation."""

ARCHIVED = "InvalidObjectState"
"""S3's code for an object in a storage class that cannot be read before it is restored (S3 API, "GetObject")."""

_BAD_REQUEST, _UNAUTHORIZED, _FORBIDDEN = 400, 401, 403
_READS = ("HeadObject", "GetObject")

_THROTTLED = {
    # what the SDK retries as throttling (botocore.retries.standard), KMS behind S3, and what other stores send
    *("SlowDown", "Throttling", "ThrottlingException", "ThrottledException", "KMS.ThrottlingException"),
    *("RequestLimitExceeded", "RequestThrottled", "RequestThrottledException", "TooManyRequestsException"),
    *("ProvisionedThroughputExceededException", "TransactionInProgressException", "LimitExceededException"),
    *("BandwidthLimitExceeded", "EC2ThrottledException", "PriorRequestNotComplete"),
    *("TooManyRequests", "ServiceUnavailable", "503", "429"),
}
_TRANSIENT = {
    "InternalError",
    "InternalFailure",
    "RequestTimeout",
    "RequestTimeoutException",
    "OperationAborted",
    "ConditionalRequestConflict",
    "IncompleteBody",
    # the signature has expired: the next attempt is signed anew
    REQUEST_EXPIRED,
    # the store received other bytes than we hashed: they were corrupted on the way, so they are sent again
    "BadDigest",
    "XAmzContentSHA256Mismatch",
    "XAmzContentChecksumMismatch",
    "408",
    "500",
    "502",
    "504",
}
_FROM_THE_SOURCE = {"GetObject", "UploadPartCopy"}
"""Operations for which a missing object, or a failed condition, concerns the source."""
_OF_AN_UPLOAD = {"ListParts", "AbortMultipartUpload", "UploadPart"}
"""Operations for which "no such key" can only refer to the upload (Ceph, Swift)."""
_CONDITIONAL = {"PutObject", "CompleteMultipartUpload", "DeleteObject"}
"""Operations that support If-Match."""
_DENIED = {"AccessDenied", "AccessDeniedException", "KMS.AccessDeniedException"}
"""The codes for a missing permission. A HEAD's refusal has no body, so there only the bare status exists."""
_BARE = {"", "None", "Unknown", "Forbidden", "Unauthorized", "BadRequest", "Bad Request"}
"""Placeholders for the code if the answer had none; the status in digits is another."""
CREDENTIALS = {
    *("InvalidAccessKeyId", "InvalidTokenId", "InvalidClientTokenId", "InvalidToken", "InvalidSecurity"),
    *("MissingAuthenticationToken", "MissingSecurityHeader", "CredentialsNotSupported"),
    *("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"),
    *("SignatureDoesNotMatch", "UnrecognizedClientException"),
}
"""Service codes that blame the credentials themselves."""
_VIRTUAL_ONLY = {"SecondLevelDomainForbidden", "PathStyleDomainForbidden"}
"""Alibaba's and Tencent's codes for requiring the bucket in the host name."""
_VIRTUAL_WORDS = re.compile(r"virtual[- ]host", re.IGNORECASE)
_SSE_C = re.compile(r"server[- ]side encryption|customer[- ]provided|SSE-C", re.IGNORECASE)
_CLOCK = timedelta(minutes=5)
"""Clock difference above which the clock is to blame, and not a request that was sent too late."""
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
    OSError,
    # and corrupted answers
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
    boto.ConfigNotFound,
)


@contextmanager
def translated(operation: str, bucket: str, key: str = "", **details: Any) -> Iterator[None]:
    """Raise our error instead of botocore's; ``details`` are further fields of ``Where``."""
    where = Where(operation=operation, bucket=bucket, key=key, **details)
    try:
        yield
    except RivaStreamError as error:
        error.located(operation=operation, bucket=bucket, key=key, **details)
        raise
    except boto.ClientError as error:
        raise _from_answer(error, where) from error
    except (boto.SSLError, aiohttp.ClientSSLError) as error:
        raise ConfigurationError(
            f"the TLS certificate of the endpoint is not trusted: {text_of(error)}",
            where=where,
            hint="pass the store's CA certificates with --ca-bundle",
        ) from error
    except _NOCREDENTIALS as error:
        raise ConfigurationError(
            f"there are no usable credentials: {text_of(error)}",
            where=where,
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (in the environment or in .env), or AWS_PROFILE "
            "to a profile that exists, or run where a role gives some",
        ) from error
    except boto.ConfigParseError as error:
        raise malformed(error, where) from error
    except boto.NoRegionError as error:
        raise ConfigurationError(
            "no region is set", where=where, hint="set AWS_REGION or pass --region"
        ) from error
    except _NETWORK as error:
        raise transport_error(error, where) from error
    except boto.BotoCoreError as error:
        # Anything else that the SDK refuses before sending: a region, an ARN, a parameter, its configuration.
        raise ConfigurationError(
            f"the request cannot be made: {text_of(error)}",
            where=where,
            hint=f"check --region, --endpoint-url, {option('bucket')} and the AWS configuration file",
        ) from error


@contextmanager
def parsed(operation: str, bucket: str, key: str = "", **details: Any) -> Iterator[None]:
    """Translate errors of a request to the store, and of parsing its answer."""
    with translated(operation, bucket, key, **details):
        try:
            yield
        except (boto.BotoCoreError, RivaStreamError):  # some of the SDK's are also ValueErrors
            raise
        except (ValueError, KeyError, TypeError) as error:  # a malformed date, number or field
            raise TransientError(
                f"the store's answer cannot be understood: {type(error).__name__}"
            ) from error


def refusal(operation: str, bucket: str, key: str, code: str, status: int, **details: Any) -> RivaStreamError:
    """The error for a store's refusal, for stores not behind the SDK; ``details`` are fields of ``Where``."""
    return _known(
        code, "", status, Where(operation, bucket, key, code=code, status=status, **details), None, None
    )


def _from_answer(error: boto.ClientError, where: Where) -> RivaStreamError:
    answer: dict[str, Any] = error.response
    meta = answer.get("ResponseMetadata", {})
    headers = meta.get("HTTPHeaders", {})
    told = answer.get("Error", {})
    # Both may be present and None: Ceph sends an empty <Message/>.
    code, message = str(told.get("Code") or ""), one_line(str(told.get("Message") or ""))
    status = meta.get("HTTPStatusCode")
    place = replace(
        where,
        status=status,
        code=code,
        request_id=str(meta.get("RequestId") or headers.get("x-amz-request-id") or ""),
    )
    is_bare = code in _BARE or code == str(status)
    found = (is_bare and proxy_refusal(status, message, place, headers)) or _known(
        code,
        message,
        status,
        place,
        headers.get("x-amz-bucket-region") or told.get("Region"),
        now_of(answer),
    )
    if not is_bare and message and message not in found.what:
        found.what = f"{found.what}; the store says: {message}"
    return found


def _is_far_off(there: datetime | None) -> bool:
    """Whether the clocks of the store, by its answer, and of this host are too far apart for any signature."""
    return there is not None and abs(datetime.now(UTC) - there.replace(tzinfo=there.tzinfo or UTC)) > _CLOCK


def _known(
    code: str, message: str, status: int | None, place: Where, region: str | None, there: datetime | None
) -> RivaStreamError:
    """The error of the first matching row."""
    is_bare, told, operation = code in _BARE or code == str(status), message or code, place.operation
    is_skewed, is_gone = code == "RequestTimeTooSkewed", code in {"NoSuchKey", "404"}
    # Swift reports a failed condition as InvalidRequest: there the status counts.
    has_failed = code in {"PreconditionFailed", "InvalidRange", "412", "416"} or status == 412  # noqa: PLR2004
    again = "run the same command again"
    restore = f" --bucket {place.bucket} --key {shlex.quote(in_one_line(place.key))} …"
    rows: Sequence[tuple[object, Callable[..., RivaStreamError], str, str]] = (
        (
            code in _REGION or (is_bare and status in {301, 307, 400} and region),
            ConfigurationError,
            f"wrong region: the bucket is in {region or 'another region'}",
            f"pass --region {region} (or --source-region, for the source)" if region else "check AWS_REGION",
        ),
        (
            code in _THROTTLED or (status in {429, 503} and code not in _DENIED | CREDENTIALS),
            ThrottledError,
            "throttled by the store",
            f"reduce concurrency: {option('connections')} 4",
        ),
        (
            code in CREDENTIALS or (status == _UNAUTHORIZED and is_bare),
            ConfigurationError,
            f"the store does not accept the credentials: {told}",
            "check the access key, the secret key and the session token, or sign in again",
        ),
        (
            code in _VIRTUAL_ONLY
            or (not is_bare and status in {400, 403} and _VIRTUAL_WORDS.search(message)),
            ConfigurationError,
            f"the store requires the bucket in the host name: {told}",
            "pass --addressing virtual (RIVA_STREAM_ADDRESSING)",
        ),
        (
            is_skewed and _is_far_off(there),
            ConfigurationError,
            f"this host's clock is wrong: {told}",
            "set the clock (NTP), then run again",
        ),
        (
            is_skewed,
            TransientError,
            f"the request took too long to arrive: {told}",
            "check this host's clock, and the network",
        ),
        (
            code == "NoSuchBucket",
            ConfigurationError,
            f"there is no bucket {place.bucket}",
            "check the bucket's name and the endpoint",
        ),
        (
            code == "NoSuchUpload" or (is_gone and operation in _OF_AN_UPLOAD),
            HeldError,
            "the multipart upload no longer exists: another run, or a lifecycle rule, has aborted or completed it",
            again,
        ),
        (
            code == "InvalidPart",
            HeldError,
            "the store no longer has the parts that it acknowledged: another run has sent others in their place",
            again,
        ),
        (
            (is_gone or code == "NoSuchVersion") and operation in _FROM_THE_SOURCE,
            SourceChangedError,
            "the source was removed while it was read",
            "check the source and run again",
        ),
        (
            code == "NotImplemented" or (status == 501 and code not in _DENIED | CREDENTIALS),  # noqa: PLR2004
            ConfigurationError,
            (
                "the store does not support this "
                f"({'no lifecycle rules' if 'Lifecycle' in operation else f'no {operation}'}): {told}"
            ),
            _WITHOUT.get(operation, "see riva-stream docs reliability for what a store has to support"),
        ),
        (
            code == ARCHIVED and operation in {*_READS, "UploadPartCopy"},
            SourceNotFoundError,
            "the object is archived (Glacier) and cannot be read before it is restored",
            # For a copy, the place is its destination.
            "restore it first: aws s3api restore-object" + restore * (operation in _READS),
        ),
        (
            has_failed and operation in _FROM_THE_SOURCE,
            SourceChangedError,
            "the source was replaced while it was read",
            "run again to stage what is there now",
        ),
        (has_failed, HeldError, "another run has changed the object first", again),
        # If-Match on an object that is gone
        (is_gone and operation in _CONDITIONAL, HeldError, "another run has removed the object", again),
        (
            # Of a part the bytes were corrupted on the way; of the whole, nothing is sent again by another Complete.
            code in {"BadDigest", "XAmzContentChecksumMismatch"} and operation == "CompleteMultipartUpload",
            DigestMismatchError,
            "the parts that the store has do not make up the object that was sent: its checksum differs",
            "run the same command again: it starts over",
        ),
        (
            code in _TRANSIENT or ((status or 0) >= 500 and code not in _DENIED),  # noqa: PLR2004 - HTTP's server errors
            TransientError,
            f"the store failed: {told}",
            f"raise {option('retries')}, for example: {option('retries')} 20",
        ),
        (
            code in _DENIED or (status == _FORBIDDEN and is_bare),
            lambda *_, **__: denied(code, message, place),
            "",
            "",
        ),
        (
            status == _BAD_REQUEST and operation in _READS and (is_bare or _SSE_C.search(message)),
            ConfigurationError,
            (
                f"the store refuses to read the object{' and gives no reason (HTTP 400)' if is_bare else f': {told}'}"
                ": most likely it is encrypted with a key that the reader must supply (SSE-C)"
            ),
            (
                "copy it once without SSE-C (aws s3 cp --sse-c-copy-source AES256 --sse-c-copy-source-key …), and "
                "stage the copy; if it is not encrypted so, check the region and whether the session token has expired"
            ),
        ),
        (
            True,
            ConfigurationError,
            f"the store refuses the request: {told or f'HTTP {status}'}",
            "check the settings it was made with: bucket, endpoint, encryption, storage class, owner",
        ),
    )
    return next(kind(what, where=place, hint=hint) for applies, kind, what, hint in rows if applies)
