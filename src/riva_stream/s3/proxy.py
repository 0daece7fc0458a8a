"""The proxy of the environment, looked at before a request goes through it: one that cannot be is no failing network."""

from __future__ import annotations

import urllib.request
from urllib.parse import urlsplit

from riva_stream.errors import ConfigurationError, Where

__all__ = ["check_proxy"]


def check_proxy(endpoint_url: str) -> None:
    """Look at the URL of the proxy that stands before an endpoint, where there is one.

    Raises:
        ConfigurationError: it is malformed, or of a kind that is not spoken. It is not repeated: it may have a password.
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
        return "is none of http and https, which are all that is spoken"
    try:
        parts = urlsplit(proxy if mark else f"http://{proxy.removeprefix('//')}")  # as the SDK completes it
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is malformed"
    return "" if host and not any(letter.isspace() for letter in proxy) else "is malformed"
