"""How a request with a window is signed, and which refusals say that it came too late."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError, EndpointConnectionError, HTTPClientError

from riva_stream.errors import AccessDeniedError, ConfigurationError, RivaStreamError, TransientError
from riva_stream.s3.errors import translated
from riva_stream.s3.port import Window
from riva_stream.s3.windows import choose_window, within, without_signed_url

SINCE = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
WINDOW = Window(SINCE, 30)


def signed(window: Window, *, body: bytes = b"<xml/>", token: str | None = "a session/token+=") -> AWSRequest:
    request = AWSRequest(
        method="POST",
        url="https://host.example/bucket/a%20key?uploadId=u",
        data=body,
        headers={
            "Content-MD5": "AAAA",
            "If-Match": '"e"',
            "x-amz-meta-run-id": "r",
            "X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD",
            "User-Agent": "ours",
        },
    )
    with within(window):
        name = choose_window(signature_version="s3v4")
        assert name is not None
        signer = botocore.auth.AUTH_TYPE_MAPS[name](Credentials("ACCESS", "secret", token), "s3", "us-east-1")
        signer.add_auth(request)
    return request


async def test_a_window_is_signed_in_the_query_and_all_else_stays_where_it_was() -> None:
    request = signed(WINDOW)
    query = {name: values[0] for name, values in parse_qs(urlsplit(request.url).query).items()}
    assert query["uploadId"] == "u"
    assert (query["X-Amz-Date"], query["X-Amz-Expires"]) == ("20260301T120000Z", "30")
    assert query["X-Amz-Credential"] == "ACCESS/20260301/us-east-1/s3/aws4_request"
    assert query["X-Amz-Security-Token"] == "a session/token+="
    assert query["X-Amz-SignedHeaders"] == "content-md5;host;if-match;x-amz-meta-run-id"
    assert len(query["X-Amz-Signature"]) == 64
    assert request.data == b"<xml/>"
    assert not {"authorization", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256"} & {
        name.lower() for name in request.headers
    }


async def test_a_window_is_no_longer_than_a_signature_may_last() -> None:
    query = parse_qs(urlsplit(signed(Window(SINCE, 10**9)).url).query)
    assert query["X-Amz-Expires"] == ["604800"]


async def test_without_a_window_nothing_is_chosen() -> None:
    assert choose_window(signature_version="s3v4") is None
    with within(None):
        assert choose_window(signature_version="s3v4") is None
    with within(WINDOW):
        assert choose_window(signature_version="s3v4a") is None
    assert choose_window(signature_version="s3v4") is None


def refusal(code: str, *, late: int | None, message: str = "", status: int = 403, **more: str) -> ClientError:
    """``late``: seconds between the end of the window and the store's clock; None: it tells no time."""
    headers = {} if late is None else {"date": format_datetime(SINCE + timedelta(seconds=30 + late), True)}
    response: Any = {
        "Error": {"Code": code, "Message": message, **more},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers, "RequestId": "R1"},
    }
    return ClientError(response, "HeadObject")


@pytest.mark.parametrize(
    "error",
    [
        # AWS, MinIO and SeaweedFS; whatever the clock says
        refusal("AccessDenied", late=-5, message="Request has expired"),
        refusal("AccessDenied", late=-5, Expires="2026-03-01T12:00:30Z", ServerTime="2026-03-01T12:00:31Z"),
        # a HEAD, and a store that gives no reason
        refusal("403", late=0, message="Forbidden"),
        refusal("AccessDenied", late=3),
        refusal("ExpiredPresignRequest", late=None, status=400),
        refusal("RequestExpired", late=None, status=400),
    ],
)
async def test_a_refusal_for_the_time_is_told_as_such(error: ClientError) -> None:
    with pytest.raises(TransientError) as caught, translated("HeadObject", "b", "k"), within(WINDOW):
        raise error
    where = caught.value.where
    assert (where.code, where.operation, where.key, where.request_id) == (
        "RequestExpired",
        "HeadObject",
        "k",
        "R1",
    )
    assert where.status in {400, 403}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (refusal("AccessDenied", late=-5, message="Access Denied"), AccessDeniedError),
        (refusal("403", late=-1), AccessDeniedError),
        (refusal("AccessDenied", late=None), AccessDeniedError),
        # who looked at rights had found the time right
        (
            refusal("AccessDenied", late=9, message="User: x is not authorized to perform: s3:Put"),
            AccessDeniedError,
        ),
        (refusal("SignatureDoesNotMatch", late=9), ConfigurationError),
        (refusal("ExpiredToken", late=9, message="The provided token has expired."), ConfigurationError),
        (refusal("InvalidAccessKeyId", late=9), ConfigurationError),
    ],
)
async def test_a_refusal_for_another_reason_stays_one(
    error: ClientError, kind: type[RivaStreamError]
) -> None:
    code = error.response["Error"]["Code"]
    with pytest.raises(kind) as caught, translated("HeadObject", "b", "k"), within(WINDOW):
        raise error
    assert caught.value.where.code == code


async def test_without_the_stores_clock_the_time_that_passed_here_tells() -> None:
    async def refused() -> None:
        with translated("HeadObject", "b", "k"), within(Window(SINCE, 1)):
            await anyio.sleep(1.01)
            raise refusal("403", late=None)

    with pytest.raises(TransientError) as caught:
        await refused()
    assert caught.value.where.code == "RequestExpired"


@pytest.mark.parametrize(
    "error",
    [
        EndpointConnectionError(endpoint_url="https://h/k?X-Amz-Signature=0123", error="no route"),
        HTTPClientError(error="400, url='https://h/k?X-Amz-Signature=0123'"),
        ValueError("cannot parse https://h/k?X-Amz-Signature=0123"),
    ],
)
def test_an_error_that_quotes_a_signed_url_is_told_without(error: Exception) -> None:
    told = without_signed_url(error)
    assert told is not None
    assert isinstance(told, type(error) if isinstance(error, HTTPClientError) else HTTPClientError)
    assert "0123" not in f"{told} {told.kwargs}"
    assert "https://h/k" in str(told)


def test_an_error_that_quotes_none_is_left_alone() -> None:
    assert (
        without_signed_url(EndpointConnectionError(endpoint_url="https://h/k?uploadId=u", error="no route"))
        is None
    )
