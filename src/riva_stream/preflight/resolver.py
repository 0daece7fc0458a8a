"""Whether an endpoint's name has an address, asked in a way that can be given up.

Left to itself the SDK asks in a thread of the event loop's own pool, and the loop waits for that at its end: a resolver
that does not answer would hold the whole program.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import urllib.request
from contextlib import suppress
from urllib.parse import urlsplit

from riva_stream.errors import TransientError

__all__ = ["resolved"]


async def resolved(url: str) -> bool:
    """Make sure that a URL's host has an address, before the client asks and cannot be stopped from waiting for it.

    Returns:
        Whether there is a proxy, which asks in our place.

    Raises:
        TransientError: it has none.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
        return True
    try:
        await _addresses_of(host, port)
    except OSError as error:
        raise TransientError(f"{host} has no address: {error.strerror or error}") from error
    return False


async def _addresses_of(host: str, port: int) -> None:
    """Ask the resolver in a thread that nobody has to wait for.

    Raises:
        OSError: there is no such host.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[OSError | None] = loop.create_future()

    def settle(error: OSError | None) -> None:
        if not answer.done():
            answer.set_result(error)

    def ask() -> None:
        error = None
        try:
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as failure:
            error = failure
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=ask, name="resolver", daemon=True).start()
    if (error := await answer) is not None:
        raise error
