"""Requests that the store executes within a time window, or not at all.

Such a request is signed in its query (AWS, "Authenticating Requests: Using Query Parameters"): the signature itself
states when its validity begins and how long it lasts, so a store that checks signatures refuses what arrives later,
whether it supports conditions or not. Conditions, checksums and metadata remain headers and are signed as such.

Only SigV4 has windows. Requests that are unsigned or use SigV4a (multi-region access points) are sent without one.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, timedelta
from typing import Any

import botocore.auth
from botocore.exceptions import ClientError, HTTPClientError

from riva_stream import clock
from riva_stream.errors import TransientError, Where
from riva_stream.flow.digest import md5_of
from riva_stream.s3.port import REQUEST_EXPIRED, PartBody, Window
from riva_stream.s3.responses import now_of
from riva_stream.s3.transport_errors import without_queries

__all__ = ["WINDOWED", "body_within", "choose_window", "within", "without_signed_url"]

WINDOWED = (
    "HeadObject",
    "PutObject",
    "PutObjectTagging",
    "DeleteObject",
    "CreateMultipartUpload",
    "CompleteMultipartUpload",
)
"""Operations that can have a window."""

_SIGNER = "riva-stream-s3v4-query"
_LONGEST = 7 * 24 * 3600
"""Maximum seconds of validity of a signature in the query (AWS, the same page)."""
_WINDOW: ContextVar[Window | None] = ContextVar("riva_stream_window", default=None)
"""Window of the current request in this task."""
_LATE_WORDS = re.compile(r"\bexpired\b", re.IGNORECASE)


@contextmanager
def within(window: Window | None) -> Iterator[None]:
    """Sign the requests of this block for a window; None: as usual.

    Raises:
        TransientError: the window had expired when the store got the request, or before it was sent.
    """
    if window is None:
        yield
        return
    if window.seconds < 1:
        raise _too_late(None)
    token = _WINDOW.set(window)
    began = clock.monotonic()
    try:
        yield
    except ClientError as error:
        if _came_too_late(error, window, clock.monotonic() - began):
            raise _too_late(error) from error
        raise
    finally:
        _WINDOW.reset(token)


def choose_window(signature_version: Any = None, **_: Any) -> str | None:
    """Sign in the query those requests that have a window; botocore's hook ``choose-signer``."""
    return _SIGNER if _WINDOW.get() is not None and signature_version in {"v4", "s3v4"} else None


async def body_within(body: PartBody, window: Window | None) -> PartBody:
    """The body of a PUT, with a checksum in a header: a bucket with Object Lock takes no other (S3 API, PutObject).

    A signature in the query has no room for the payload's hash; Content-MD5 in its place is a header like any other,
    and every store that was seen to check the one also checks the other (docs/reliability.md).
    """
    if body.crc64nvme or body.md5:
        return body
    digest = await clock.in_thread(md5_of, body.pieces)
    sha256 = body.sha256 if window is None else None
    return replace(body, sha256=sha256, md5=base64.b64encode(digest).decode())


def without_signed_url(error: BaseException) -> HTTPClientError | None:
    """Return a replacement for an HTTP client's error that quotes a signed URL, of the same kind; else None.

    Anyone who has the URL can repeat the request, so it must not be in a traceback or a log. The error's cause would
    quote it too, so only its text is kept.
    """
    if "X-Amz-Signature" not in f"{error}{error.__cause__}{error.__context__}":
        return None
    if not isinstance(error, HTTPClientError):
        return HTTPClientError(error=without_queries(str(error)))
    return type(error)(**{name: without_queries(str(value)) for name, value in error.kwargs.items()})


class _WindowAuth(botocore.auth.S3SigV4QueryAuth):  # type: ignore[misc]
    """botocore's signer of presigned URLs, with the window's own start time and the body left in place."""

    def _modify_request_before_signing(self, request: Any) -> None:
        window = _WINDOW.get()
        if window is None:
            raise RuntimeError("a request without a window was to be signed for one")
        request.context["timestamp"] = window.since.astimezone(UTC).strftime(botocore.auth.SIGV4_TIMESTAMP)
        self._expires = min(window.seconds, _LONGEST)
        # A header with the payload's hash or a time would take precedence over what is signed in the query.
        for name in ("X-Amz-Content-SHA256", "X-Amz-Date", "Date", "Authorization", "X-Amz-Security-Token"):
            del request.headers[name]  # no effect if there is none
        # The base class moves a body into the query, as older AWS services require.
        data, request.data = request.data, b""
        try:
            super()._modify_request_before_signing(request)
        finally:
            request.data = data


# A name of our own in botocore's table of signers, as in ``body``.
botocore.auth.AUTH_TYPE_MAPS[_SIGNER] = _WindowAuth


def _came_too_late(error: ClientError, window: Window, took: float) -> bool:
    """Whether a refusal is because of the time, not because of a missing permission.

    AWS and MinIO say AccessDenied and "Request has expired", AWS with the times as well; a HEAD has only its 403. An
    answer that says nothing of the kind counts as late only if it was late by the clock of the store, which checks the
    time before permissions: a repeated request in time tells them apart.
    """
    answer: Mapping[str, Any] = error.response.get("Error", {})
    code, message = str(answer.get("Code", "")), str(answer.get("Message", ""))
    # "Not authorized" is IAM's wording: it got as far as checking permissions.
    if code not in {"AccessDenied", "403", "Forbidden"} or "not authorized" in message:
        return code in {REQUEST_EXPIRED, "ExpiredPresignRequest"}
    if ("Expires" in answer and "ServerTime" in answer) or _LATE_WORDS.search(message):
        return True
    # By the store's clock, in whole seconds; without it, by how long the request took.
    now = now_of(error.response)
    return took >= window.seconds if now is None else now >= window.since + timedelta(seconds=window.seconds)


def _too_late(error: ClientError | None) -> TransientError:
    meta = {} if error is None else error.response.get("ResponseMetadata", {})
    return TransientError(
        "the request came later than it was meant to be carried out",
        where=Where(
            code=REQUEST_EXPIRED,
            status=meta.get("HTTPStatusCode"),
            request_id=str(meta.get("RequestId", "")),
        ),
        hint="run the same command again; if it happens again, check the network: requests take very long",
    )
