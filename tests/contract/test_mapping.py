"""Everything that botocore raises and every error code that S3 documents becomes an error of ours.

A class or a code that an upgrade brings, and that stands in no table here, fails a test.
"""

from __future__ import annotations

import inspect
import socket
import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, cast

import aiohttp
import botocore.session
import pytest
from botocore import exceptions as boto
from botocore import parsers
from botocore.retries.standard import ThrottledRetryableChecker

from riva_stream.errors import (
    AccessDeniedError,
    ConfigurationError,
    DigestMismatchError,
    HeldError,
    RivaStreamError,
    SourceChangedError,
    SourceNotFoundError,
    ThrottledError,
    TransientError,
)
from riva_stream.rights import RIGHTS
from riva_stream.s3 import client, diagnostics, listings, rules
from riva_stream.s3.errors import translated
from riva_stream.s3.responses import info_of
from riva_stream.s3.transport_errors import text_of

Kind = type[RivaStreamError]

# ---- exception classes

NETWORK = {
    "ConnectTimeoutError",
    "ConnectionClosedError",
    "ConnectionError",
    "EndpointConnectionError",
    "HTTPClientError",
    "IncompleteReadError",
    "ProxyConnectionError",
    "ReadTimeoutError",
    "ResponseStreamingError",
}
"""Another attempt may not meet it: `TransientError`."""

BROKEN_ON_THE_WAY = {"ChecksumError", "FlexibleChecksumError", "ResponseParserError"}
"""The answer was broken on its way here: `TransientError`."""

SETTINGS = {
    # credentials
    "ConfigNotFound",
    "ConfigParseError",
    "CredentialRetrievalError",
    "InfiniteLoopConfigError",
    "InvalidConfigError",
    "InvalidIMDSEndpointError",
    "InvalidIMDSEndpointModeError",
    "InvalidSTSRegionalEndpointsConfigError",
    "MetadataRetrievalError",
    "NoAuthTokenError",
    "NoCredentialsError",
    "PartialCredentialsError",
    "PendingAuthorizationExpiredError",
    "ProfileNotFound",
    "RefreshWithMFAUnsupportedError",
    "SSOError",
    "SSOTokenLoadError",
    "TokenRetrievalError",
    "UnauthorizedSSOTokenError",
    "UnknownCredentialError",
    # region and endpoint
    "BaseEndpointResolverError",
    "EndpointProviderError",
    "EndpointResolutionError",
    "EndpointVariantError",
    "InvalidDNSNameError",
    "InvalidEndpointConfigurationError",
    "InvalidEndpointDiscoveryConfigurationError",
    "InvalidHostLabelError",
    "InvalidRegionError",
    "NoRegionError",
    "ServiceNotInRegionError",
    "UnknownEndpointError",
    "UnknownEndpointResolutionBuiltInName",
    "UnknownFIPSEndpointError",
    "UnknownRegionError",
    # what stands in the AWS configuration file, or in AWS_… variables
    "InvalidChecksumConfigError",
    "InvalidDefaultsMode",
    "InvalidMaxRetryAttemptsError",
    "InvalidProxiesConfigError",
    "InvalidRetryConfigurationError",
    "InvalidRetryModeError",
    "InvalidS3AddressingStyleError",
    "InvalidS3UsEast1RegionalEndpointConfigError",
    "MissingDependencyException",
    "UnknownSignatureVersionError",
    "UnsupportedSignatureVersionError",
    "SSLError",
    # the bucket: an ARN that the SDK does not take, a name that it refuses
    "ParamValidationError",
    "UnsupportedOutpostResourceError",
    "UnsupportedS3AccesspointConfigurationError",
    "UnsupportedS3ArnError",
    "UnsupportedS3ConfigurationError",
    "UnsupportedS3ControlArnError",
    "UnsupportedS3ControlConfigurationError",
}
"""The user can put it right: `ConfigurationError`."""

NEVER = {
    # bases that are not raised themselves
    "BotoCoreError",
    "ClientError",
    "EventStreamError",
    # pages, waiters, stubs and models, none of which the adapter uses
    "AliasConflictParameterError",
    "ApiVersionNotFoundError",
    "CapacityNotAvailableError",
    "DataNotFoundError",
    "InvalidExpressionError",
    "MissingParametersError",
    "MissingServiceIdError",
    "OperationNotPageableError",
    "PaginationError",
    "RangeError",
    "StubAssertionError",
    "StubResponseError",
    "UnStubbedResponseError",
    "UndefinedModelAttributeError",
    "UnknownClientMethodError",
    "UnknownKeyError",
    "UnknownParameterError",
    "UnknownServiceError",
    "UnknownServiceStyle",
    "UnsupportedServiceProtocolsError",
    "ValidationError",
    "WaiterConfigError",
    "WaiterError",
    # bodies that botocore would read, wrap or rewind; ours are none
    "AwsChunkedWrapperError",
    "MD5UnavailableError",
    "UnseekableStreamError",
    # warnings
    "ImminentRemovalWarning",
    "UnsupportedTLSVersionWarning",
}
"""Cannot come out of a call of the adapter, or would be a bug of ours."""


def classes() -> dict[str, type[Exception]]:
    """Every exception class of botocore that is public, by name."""
    found = {name: kind for name, kind in vars(boto).items() if inspect.isclass(kind)}
    own = {
        name: kind
        for name, kind in found.items()
        if issubclass(kind, Exception) and kind.__module__ == boto.__name__
    }
    return own | {"ResponseParserError": parsers.ResponseParserError}


def expected_kind(name: str) -> Kind:
    return TransientError if name in NETWORK | BROKEN_ON_THE_WAY else ConfigurationError


def test_every_class_of_botocore_stands_in_a_table() -> None:
    groups = [NETWORK, BROKEN_ON_THE_WAY, SETTINGS, NEVER]
    known = set().union(*groups)
    assert sum(map(len, groups)) == len(known), "a class stands in two tables"
    assert not set(classes()) - known, "say what these come to"


@pytest.mark.parametrize("name", sorted(NETWORK | BROKEN_ON_THE_WAY | SETTINGS))
def test_every_class_of_botocore_becomes_an_error_of_ours(name: str) -> None:
    if name not in classes():
        pytest.skip("not in this botocore")
    raised: Any = classes()[name].__new__(classes()[name])  # each wants other arguments; none matters here
    raised.kwargs = {}
    with pytest.raises(RivaStreamError) as caught, translated("GetObject", "bucket", "key"):
        raise raised
    assert isinstance(caught.value, expected_kind(name))
    assert caught.value.where.operation == "GetObject"
    assert caught.value.__cause__ is raised


# ---- error codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html

CODES: dict[Kind | tuple[Kind, ...], dict[str, int]] = {
    ThrottledError: {"SlowDown": 503, "ServiceUnavailable": 503, "Busy": 503, "TooManyRequests": 429},
    TransientError: {
        "BadDigest": 400,
        "ConditionalRequestConflict": 409,
        "IncompleteBody": 400,
        "InternalError": 500,
        "OperationAborted": 409,
        "RequestTimeTooSkewed": 403,
        "RequestTimeout": 400,
        "XAmzContentChecksumMismatch": 400,
        "XAmzContentSHA256Mismatch": 400,
    },
    HeldError: {"NoSuchUpload": 404, "PreconditionFailed": 412},
    (HeldError, TransientError): {"InvalidPart": 400},  # a part is not what it was: run it again
    SourceNotFoundError: {"InvalidObjectState": 403},
    (SourceChangedError, SourceNotFoundError): {"InvalidRange": 416, "NoSuchKey": 404, "NoSuchVersion": 404},
    AccessDeniedError: {"AccessDenied": 403},
    ConfigurationError: {
        # no grant mends these
        "AccountProblem": 403,
        "AllAccessDisabled": 403,
        "InvalidPayer": 403,
        "NotSignedUp": 403,
        "PathStyleDomainForbidden": 403,
        "SecondLevelDomainForbidden": 403,
        "SomethingThatNobodyHasHeardOf": 403,
        # credentials
        "CredentialsNotSupported": 400,
        "ExpiredToken": 400,
        "InvalidAccessKeyId": 403,
        "InvalidSecurity": 403,
        "InvalidTokenId": 403,
        "InvalidToken": 400,
        "SignatureDoesNotMatch": 403,
        "TokenRefreshRequired": 400,
        # region
        "AuthorizationHeaderMalformed": 400,
        "IllegalLocationConstraintException": 400,
        "PermanentRedirect": 301,
        "TemporaryRedirect": 307,
        # the bucket
        "InvalidBucketName": 400,
        "InvalidBucketState": 409,
        "NoSuchBucket": 404,
        # what was asked for
        "EncryptionTypeMismatch": 400,
        "EntityTooLarge": 400,
        "EntityTooSmall": 400,
        "InvalidArgument": 400,
        "InvalidDigest": 400,
        "InvalidEncryptionAlgorithmError": 400,
        "InvalidPartOrder": 400,
        "InvalidRequest": 400,
        "InvalidStorageClass": 400,
        "InvalidTag": 400,
        "InvalidURI": 400,
        "InvalidWriteOffset": 400,
        "KeyTooLongError": 400,
        "MalformedXML": 400,
        "MetadataTooLarge": 400,
        "MethodNotAllowed": 405,
        "MissingContentLength": 411,
        "NotImplemented": 501,
        "TooManyParts": 400,
    },
}
FOREIGN = {
    "BucketAlreadyExists",
    "BucketAlreadyOwnedByYou",
    "IdempotencyParameterMismatch",
    "ObjectAlreadyInActiveTierError",
    "ObjectNotInActiveTierError",
}
"""In the SDK's model, of operations that the adapter never calls."""

ON_SOURCE = {"InvalidRange", "InvalidObjectState", "NoSuchKey", "NoSuchVersion"}
ON_COMPLETE = {"InvalidPart", "NoSuchUpload", "PreconditionFailed", "EntityTooSmall"}

Row = tuple[str, int, Kind | tuple[Kind, ...]]
ROWS: list[Row] = [(code, status, kind) for kind, codes in CODES.items() for code, status in codes.items()]


def answer(code: str, status: int, operation: str, message: str = "", **headers: str) -> boto.ClientError:
    meta = {"HTTPStatusCode": status, "HTTPHeaders": headers, "RequestId": "R1"}
    response: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": meta}
    return boto.ClientError(response, operation)


CONNECTION = cast(Any, type("Key", (), {"host": "h", "port": 80, "ssl": True}))


def proxy_error(status: int) -> boto.ProxyConnectionError:
    refused = aiohttp.ClientHttpProxyError(cast(Any, None), (), status=status, message="words of the proxy")
    return boto.ProxyConnectionError(proxy_url="http://proxy:3128", error=refused)


def a_bad_certificate() -> ssl.SSLError:
    try:
        ssl.create_default_context().load_verify_locations(cafile=__file__)
    except ssl.SSLError as error:
        return error
    raise AssertionError


def operation_for(code: str) -> str:
    if code in ON_SOURCE:
        return "GetObject"
    return "CompleteMultipartUpload" if code in ON_COMPLETE else "UploadPart"


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=row[0]) for row in ROWS],
)
def test_every_documented_code_becomes_an_error_of_its_kind(row: Row) -> None:
    code, status, kind = row
    operation = operation_for(code)
    with pytest.raises(RivaStreamError) as caught, translated(operation, "bucket", "key"):
        raise answer(code, status, operation, "words of the store")
    assert isinstance(caught.value, kind)
    # a plain transient error is one that another attempt may not meet
    assert caught.value.retryable == (kind in {TransientError, ThrottledError})
    where = caught.value.where
    assert (where.code, where.status, where.request_id) == (code, status, "R1")
    assert (where.operation, where.bucket, where.key) == (operation, "bucket", "key")
    assert caught.value.hint or code in CODES[ConfigurationError] or caught.value.retryable
    assert "words of the store" in caught.value.what


def test_a_digest_that_differs_for_the_whole_is_final() -> None:
    """The same Complete gets the same answer for ever: the parts have to be sent again, by a run that starts over."""
    with pytest.raises(DigestMismatchError) as caught, translated("CompleteMultipartUpload", "bucket", "key"):
        raise answer("BadDigest", 400, "CompleteMultipartUpload", "words of the store")
    assert not caught.value.retryable
    assert not caught.value.resumable


def test_what_the_sdk_takes_for_throttling_is_taken_for_it() -> None:
    for code in ThrottledRetryableChecker._THROTTLED_ERROR_CODES:
        with pytest.raises(ThrottledError), translated("UploadPart", "bucket", "key"):
            raise answer(code, 400, "UploadPart")


def test_every_code_of_the_sdks_model_stands_in_the_table() -> None:
    model = botocore.session.get_session().get_service_model("s3")
    told = {shape.name for shape in model.error_shapes}
    assert not told - {code for code, _, _ in ROWS} - FOREIGN, "say what these come to"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ConfigurationError),
        (401, ConfigurationError),
        (403, AccessDeniedError),
        (408, TransientError),
        (412, HeldError),
        (429, ThrottledError),
        (500, TransientError),
        (502, TransientError),
        (503, ThrottledError),
        (504, TransientError),
    ],
)
def test_a_head_has_no_body_so_that_its_status_alone_tells(status: int, kind: Kind) -> None:
    with pytest.raises(RivaStreamError) as caught, translated("HeadObject", "bucket", "key"):
        raise answer(str(status), status, "HeadObject")
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    "code", ["InvalidTokenId", "SecondLevelDomainForbidden", "AccountProblem", "Unheard"]
)
@pytest.mark.parametrize("status", [400, 403])
def test_a_code_outranks_the_status(code: str, status: int) -> None:
    with pytest.raises(ConfigurationError) as caught, translated("PutObject", "bucket", "key"):
        raise answer(code, status, "PutObject", "words of the store")
    assert "words of the store" in str(caught.value)
    assert ("--addressing virtual" in caught.value.hint) == (code == "SecondLevelDomainForbidden")


@pytest.mark.parametrize(
    ("operation", "status", "headers", "kind"),
    [
        ("PutObject", 403, {"server": "squid/5.7"}, ConfigurationError),
        ("ListObjectsV2", 403, {}, ConfigurationError),
        ("HeadObject", 403, {"content-type": "text/html; charset=utf-8"}, ConfigurationError),
        ("HeadObject", 403, {"x-squid-error": "ERR_ACCESS_DENIED 0"}, ConfigurationError),
        ("HeadObject", 407, {}, ConfigurationError),
        ("GetObject", 407, {"proxy-authenticate": "Basic"}, ConfigurationError),
        ("HeadObject", 403, {}, AccessDeniedError),
        ("HeadObject", 403, {"content-type": "application/xml"}, AccessDeniedError),
        ("HeadObject", 403, {"content-type": "text/html", "x-amz-request-id": "R"}, AccessDeniedError),
        ("HeadObject", 403, {"content-type": "text/html", "content-length": "0"}, AccessDeniedError),
        ("PutObject", 403, {"x-amz-request-id": "R"}, AccessDeniedError),
        ("GetObject", 403, {"content-type": "text/html", "x-amzn-requestid": "R"}, AccessDeniedError),
    ],
)
@pytest.mark.parametrize("code", ["", "bare"])
def test_a_refusal_without_a_code_is_the_stores_only_where_it_looks_so(
    operation: str, status: int, headers: dict[str, str], kind: Kind, code: str
) -> None:
    with pytest.raises(RivaStreamError) as caught, translated(operation, "bucket", "key"):
        raise answer(code and str(status), status, operation, **headers)
    assert type(caught.value) is kind
    assert headers.get("server", "") in caught.value.what


@pytest.mark.parametrize(
    ("hours", "kind"), [(0, TransientError), (2, ConfigurationError), (-2, ConfigurationError)]
)
def test_a_skewed_request_is_the_clocks_fault_only_where_the_clocks_differ(hours: int, kind: Kind) -> None:
    there = format_datetime(datetime.now(UTC) + timedelta(hours=hours), usegmt=True)
    with pytest.raises(RivaStreamError) as caught, translated("PutObject", "bucket", "key"):
        raise answer("RequestTimeTooSkewed", 403, "PutObject", date=there)
    assert type(caught.value) is kind


@pytest.mark.parametrize("code", ["InvalidTokenId", "AccessDenied", "InternalError", "Unheard", None])
def test_an_absent_message_is_not_told_as_none(code: str | None) -> None:
    error = answer("", 403, "PutObject")
    error.response["Error"] = {"Code": code, "Message": None}
    with pytest.raises(RivaStreamError) as caught, translated("PutObject", "bucket", "key"):
        raise error
    assert "None" not in str(caught.value)
    assert (code or "403") in str(caught.value)


@pytest.mark.parametrize(
    ("code", "message", "operation"),
    [
        ("400", "", "HeadObject"),
        ("InvalidRequest", "The object was stored using a form of Server Side Encryption.", "GetObject"),
        (
            "InvalidArgument",
            "Requests specifying Server Side Encryption with Customer provided keys",
            "GetObject",
        ),
    ],
)
def test_a_source_that_is_encrypted_with_its_readers_key(code: str, message: str, operation: str) -> None:
    with pytest.raises(ConfigurationError, match="SSE-C"), translated(operation, "bucket", "key"):
        raise answer(code, 400, operation, message)


LOCAL: dict[str, Exception] = {
    "a header": boto.HTTPClientError(error=ValueError("Newline in header 'abc\nSECRET'")),
    "a header's coding": boto.HTTPClientError(
        error=UnicodeEncodeError("latin-1", "SECRET\u4e00", 6, 7, "no")
    ),
    "a proxy's url": boto.HTTPClientError(error=aiohttp.InvalidURL("::SECRET::")),
    "no such file": boto.HTTPClientError(error=FileNotFoundError(2, "No such file", "/etc/none.pem")),
    "no right to a file": boto.HTTPClientError(error=PermissionError(13, "Permission denied", "/etc/ca.pem")),
    "a folder": IsADirectoryError(21, "Is a directory", "/etc"),
    "not a program": PermissionError(13, "Permission denied", "/etc/passwd"),
    "no program": FileNotFoundError(2, "No such file", "/no/helper"),
    "no memory": boto.HTTPClientError(error=MemoryError()),
    "no thread": boto.HTTPClientError(error=RuntimeError("can't start new thread")),
    "no open file": OSError(24, "Too many open files"),
    "no connection": boto.EndpointConnectionError(
        endpoint_url="http://h",
        error=aiohttp.ClientConnectorError(CONNECTION, OSError(23, "Too many open files in system")),
    ),
    "no certificate": boto.HTTPClientError(error=a_bad_certificate()),
    "proxy authentication": proxy_error(407),
    "a proxy that forbids": proxy_error(403),
}
REMOTE: dict[str, Exception] = {
    "refused": ConnectionRefusedError(111, "Connection refused"),
    "reset": boto.HTTPClientError(error=ConnectionResetError(104, "reset")),
    "unreachable": OSError(113, "No route to host"),
    "no address": socket.gaierror(-3, "try again"),
    "a firewall": boto.EndpointConnectionError(
        endpoint_url="http://h",
        error=aiohttp.ClientConnectorError(CONNECTION, PermissionError(1, "not permitted")),
    ),
    "an odd header of an answer": boto.HTTPClientError(
        error=UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no")
    ),
    "a proxy's gateway": proxy_error(502),
}


@pytest.mark.parametrize("name", LOCAL)
def test_what_fails_on_this_host_is_no_failure_of_the_network(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught, translated("GetObject", "bucket", "key"):
        raise LOCAL[name]
    assert caught.value.hint
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("name", REMOTE)
def test_what_fails_on_the_way_is_worth_another_attempt(name: str) -> None:
    with pytest.raises(TransientError) as caught, translated("GetObject", "bucket", "key"):
        raise REMOTE[name]
    assert caught.value.hint


@pytest.mark.parametrize(("code", "status"), [("PermanentRedirect", 301), ("400", 400), ("301", 301)])
def test_a_wrong_region_names_the_right_one(code: str, status: int) -> None:
    with pytest.raises(ConfigurationError, match="eu-west-3") as caught, translated("HeadObject", "bucket"):
        raise answer(code, status, "HeadObject", **{"x-amz-bucket-region": "eu-west-3"})
    assert "--region eu-west-3" in caught.value.hint


@pytest.mark.parametrize("operation", sorted(RIGHTS))
def test_a_denial_names_the_right_that_is_missing(operation: str) -> None:
    with pytest.raises(AccessDeniedError) as caught, translated(operation, "bucket", "key"):
        raise answer("AccessDenied", 403, operation)
    assert all(right.action in caught.value.hint for right in RIGHTS[operation])


def test_a_denial_by_kms_is_told_apart() -> None:
    with pytest.raises(AccessDeniedError) as caught, translated("UploadPart", "bucket", "key"):
        raise answer("AccessDenied", 403, "UploadPart", "not authorized to perform: kms:GenerateDataKey")
    assert "kms:GenerateDataKey" in caught.value.hint


def test_every_operation_of_the_adapter_has_its_right_named() -> None:
    text = "".join(map(inspect.getsource, (client, diagnostics, listings, rules)))
    model = botocore.session.get_session().get_service_model("s3")
    called = {name for name in model.operation_names if f'translated("{name}"' in text}
    assert called <= set(RIGHTS)


def test_no_signature_of_a_url_gets_into_a_message() -> None:
    error = boto.EndpointConnectionError(endpoint_url="https://h/k?X-Amz-Signature=0123")
    with pytest.raises(TransientError) as caught, translated("GetObject", "bucket"):
        raise error
    assert "Signature" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('Could not connect to the endpoint URL: "http://h/b?list-type=2&prefix="', '"http://h/b"'),
        ("no answer (https://h/k?X-Amz-Signature=SECRET).", "(https://h/k)."),
        ("'https://h/k?a='SECRET'&b=\"SECRET\"'", "'https://h/k\"'"),
        ("https://h/k?a=SECRET?SECRET", "https://h/k"),
        ("two: https://h/k?SECRET, https://h/l?SECRET; end", "two: https://h/k, https://h/l; end"),
        ("what? nothing", "what nothing"),
    ],
)
def test_a_query_is_left_out_and_nothing_around_it(text: str, left: str) -> None:
    found = text_of(RuntimeError(text))
    assert found.endswith(left)
    assert "SECRET" not in found
    assert "?" not in found


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ({"ETag": '"a"', "ChecksumCRC32": "c"}, {"crc32": "c"}),
        ({"ETag": '"a-2"', "ChecksumCRC32": "c", "ChecksumType": "FULL_OBJECT"}, {"crc32": "c"}),
        ({"ETag": '"a-2"', "ChecksumCRC32": "c", "ChecksumType": "COMPOSITE"}, {}),
        ({"ETag": '"a-2"', "ChecksumCRC32": "c-2"}, {}),
        ({"ETag": '"a-2"', "ChecksumCRC32": "c"}, {}),  # neither said nor marked, as moto has it
        ({"ETag": '"a-2"', "ChecksumCRC64NVME": "c"}, {"crc64nvme": "c"}),
    ],
)
def test_a_checksum_of_parts_is_none_of_the_object(answer: dict[str, str], kept: dict[str, str]) -> None:
    assert dict(info_of("k", answer, size=1).checksums) == kept
