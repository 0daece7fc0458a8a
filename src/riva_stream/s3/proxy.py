"""Check of the environment's proxy before a request uses it: an unusable one is not a network failure."""

from __future__ import annotations

import urllib.request
from urllib.parse import urlsplit

from riva_stream.errors import ConfigurationError, Where

__all__ = ["check_proxy"]


def check_proxy(endpoint_url: str) -> None:
    """Check the URL of the proxy in front of an endpoint, if there is one.

    Raises:
        ConfigurationError: it is malformed, or of an unsupported kind. It is not quoted: it may contain a password.
    """
    endpoint = urlsplit(endpoint_url)
    proxy = urllib.request.getproxies().get(endpoint.scheme)
    if proxy is None or urllib.request.proxy_bypass(endpoint.hostname or ""):
        return
    wrong = _wrong(proxy)
    if wrong:
        variable = f"{endpoint.scheme.upper()}_PROXY"
        raise ConfigurationError(
            f"the proxy that {variable} names {wrong}",
            where=Where(operation="CreateClient"),
            hint=f"for example: {variable}=http://proxy.example:3128; or name the store in NO_PROXY",
        )


def _wrong(proxy: str) -> str:
    scheme, mark, _ = proxy.partition("://")
    if mark and scheme not in {"http", "https"}:
        return "is neither http nor https, the only supported schemes"
    try:
        parts = urlsplit(proxy if mark else f"http://{proxy.removeprefix('//')}")  # completed as the SDK does
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is malformed"
    return "" if host and not any(letter.isspace() for letter in proxy) else "is malformed"
