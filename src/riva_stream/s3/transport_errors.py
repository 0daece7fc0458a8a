"""Failures that are not answers of the store: the network's, a proxy's, and this host's own."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Mapping

import aiohttp
from botocore import exceptions as boto

from riva_stream.errors import (
    ConfigurationError,
    RivaStreamError,
    TransientError,
    Where,
    out_of_resources,
    raise_limits,
)

__all__ = ["is_local", "one_line", "proxy_refusal", "text_of", "transport_error", "without_queries"]

_FORBIDDEN, _PROXY_AUTHENTICATION = 403, 407
_PROXY_MAY_PASS = {408, 429, *range(500, 1000)}
_OF_A_PROXY = {"proxy-authenticate", "proxy-status", "x-squid-error"}
_LONGEST = 600
"""Characters of a store's own message that go into an error."""
_LOCAL = {
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENOEXEC, errno.ELOOP),
    *(errno.ENAMETOOLONG, errno.EROFS, errno.E2BIG, errno.ENXIO, errno.ENODEV, errno.EINVAL),
}
"""Error numbers of files and programs on this host; a connection that fails with one is distinguished by its class."""
_QUERY = re.compile(r"\?\S*?(?=[\"'>)\].,:;]*(?:\s|$))")
_CERTIFICATE_FILES = {"X509", "PEM", "ASN1"}
"""The parts of OpenSSL that read files; its others talk to the server."""


def transport_error(error: BaseException, where: Where) -> RivaStreamError:
    """The error for an unanswered request: because of the network, a proxy, or this host, which could not send it."""
    if isinstance(error, boto.ProxyConnectionError):
        return _from_proxy(error, where)
    cause = _cause_of(error)
    if is_local(cause):
        return _of_this_host(cause, where)
    return TransientError(
        f"the connection failed: {text_of(error)}",
        where=where,
        hint="check the network, and that --endpoint-url (AWS_ENDPOINT_URL) is right",
    )


def _cause_of(error: BaseException) -> BaseException:
    """The original error, unwrapped from those of the SDK and its HTTP client."""
    inner = getattr(error, "kwargs", {}).get("error") if isinstance(error, boto.BotoCoreError) else None
    return _cause_of(inner) if isinstance(inner, BaseException) else error


def is_local(error: BaseException) -> bool:
    """Whether it happened on this host before anything was sent: retrying will not help."""
    match error:
        case _ if isinstance(error, aiohttp.InvalidURL) or out_of_resources(error):
            return True
        case ValueError():  # of Unicode: a header of an answer that is not UTF-8
            return not isinstance(error, aiohttp.ClientError | UnicodeDecodeError)
        case ssl.SSLError():
            return error.library in _CERTIFICATE_FILES
        case aiohttp.ClientError() | socket.gaierror() | ConnectionError():
            return False
        case OSError():
            return error.errno in _LOCAL
    return False


def _of_this_host(error: BaseException, where: Where) -> ConfigurationError:
    """The error for an unusable file, header or URL, or lack of memory. Headers hold credentials: none is quoted."""
    match error:
        case _ if lacking := out_of_resources(error):
            return ConfigurationError(
                f"this host has too few resources for the request: {lacking}",
                where=where,
                hint=raise_limits(),
            )
        case aiohttp.InvalidURL():
            return ConfigurationError(
                "a URL is malformed, that of the endpoint or of a proxy",
                where=where,
                hint="check --endpoint-url (AWS_ENDPOINT_URL), HTTPS_PROXY and HTTP_PROXY",
            )
        case ssl.SSLError():
            return ConfigurationError(
                f"a file of certificates cannot be read: {error.reason}",
                where=where,
                hint="check --ca-bundle (AWS_CA_BUNDLE) and ca_bundle in the AWS configuration file",
            )
        case OSError():
            file = f": {error.filename}" if error.filename else ""
            return ConfigurationError(
                f"a file that the request needs cannot be used{file}: {error.strerror}",
                where=where,
                hint="check --ca-bundle (AWS_CA_BUNDLE) and the files that the AWS configuration names",
            )
        case _:
            return ConfigurationError(
                "the request cannot be sent: a header or a URL of it is malformed",
                where=where,
                hint="look for line breaks and odd characters in the credentials (AWS_ACCESS_KEY_ID, AWS_SESSION_TOKEN), in "
                "HTTPS_PROXY, HTTP_PROXY and --endpoint-url, and in the options of what is written",
            )


def _from_proxy(error: boto.ProxyConnectionError, where: Where) -> RivaStreamError:
    """The error if the proxy was not reached, or does not let the request through."""
    cause = _cause_of(error)
    if isinstance(cause, aiohttp.ClientHttpProxyError) and cause.status not in _PROXY_MAY_PASS:
        return _proxy_error(cause.status, str(cause.message), where, "the proxy")
    return TransientError(
        f"the connection failed: {text_of(error)}",
        where=where,
        hint="check the proxy (HTTPS_PROXY, HTTP_PROXY), and NO_PROXY for a store that needs none",
    )


def _proxy_error(status: int, message: str, where: Where, who: str) -> ConfigurationError:
    wants = (
        "requires a user name and a password" if status == _PROXY_AUTHENTICATION else "refuses the request"
    )
    said = f": {one_line(message)}" if message else ""
    return ConfigurationError(
        f"{who} {wants} (HTTP {status}, not an answer of S3){said}",
        where=where,
        hint="give them in HTTPS_PROXY (http://USER:PASSWORD@HOST:PORT), or name the store in NO_PROXY"
        if status == _PROXY_AUTHENTICATION
        else "ask the administrator of the proxy or firewall to let it through; check --endpoint-url (AWS_ENDPOINT_URL), "
        "HTTPS_PROXY, HTTP_PROXY and NO_PROXY",
    )


def one_line(message: str) -> str:
    """A store's own message in one line of limited length."""
    line = " ".join(message.split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def text_of(error: BaseException) -> str:
    """The text of an error in one line, without any query string."""
    return without_queries(" ".join((str(error) or type(error).__name__).split()))


def without_queries(text: str) -> str:
    """``text`` without any query string: that of a signed URL would contain its signature.

    What follows a ``?`` is left out up to the next space, except the marks that it ends with, such as a quote.
    """
    return _QUERY.sub("", text)


def proxy_refusal(
    status: int | None, message: str, place: Where, headers: Mapping[str, str]
) -> ConfigurationError | None:
    """The error for a refusal without the S3 code that S3 would send: from something in front of the store."""
    is_page = headers.get("content-type", "").startswith("text/html") and headers.get("content-length") != "0"
    # a HEAD's answer has no body to judge by: mostly it is from S3 itself
    is_head = place.operation.startswith("Head") and not is_page and not _OF_A_PROXY & headers.keys()
    is_own = status != _FORBIDDEN or is_head or any(name.startswith("x-amz") for name in headers)
    if status is None or (is_own and status != _PROXY_AUTHENTICATION):
        return None
    name = headers.get("via") or headers.get("server")
    who = "something in front of the store" + (f" ({one_line(name)})" if name else "")
    return _proxy_error(status, message, place, who)
