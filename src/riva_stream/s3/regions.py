"""Whether the name of the region is the reason that an AWS host has no address.

A name is never refused for itself: the SDK's list of regions lacks the newest ones. Only if the resolver says that
there is no such host, and the list does not have the region either, is it a typing error, and retrying is useless.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
from botocore.exceptions import EndpointConnectionError

from riva_stream.errors import ConfigurationError, RivaStreamError, TransientError

__all__ = ["RegionName"]


@dataclass(frozen=True, slots=True)
class RegionName:
    """The region of a client, and the regions that the SDK knows."""

    name: str
    known: frozenset[str] = field(repr=False)

    @classmethod
    def of(cls, session: Any, client: Any) -> Self:
        """The region of a client. Reads nothing once ``session.prepared`` has."""
        loader = session._session.get_component("data_loader")  # noqa: SLF001 - as in session.prepared
        partitions = loader.load_data("partitions")["partitions"]
        known = (region for partition in partitions for region in partition["regions"])
        return cls(client.meta.region_name or "", frozenset(known))

    def watch(self, client: Any) -> None:
        """Make a request that fails because of the region's name say so, instead of reporting a failed connection."""
        client.meta.events.register("needs-retry.s3", self._failed)

    def blamed(self, url: str, error: BaseException | None) -> RivaStreamError | None:
        """The error to raise when the host of ``url`` has no address; None if its region is not the cause.

        Args:
            url: of the request.
            error: the resolver's error.
        """
        host = urlsplit(url).hostname or ""
        # A configured endpoint has no region in its name, or an intended one.
        if self.name in self.known or f".{self.name.lower()}." not in f".{host}.":
            return None
        hint = (
            "a region is named like us-east-1: check --region (AWS_REGION), or --source-region for the source; "
            "a store that is not AWS needs --endpoint-url (AWS_ENDPOINT_URL)"
        )
        what = f"unknown region {self.name} ({host} does not resolve)"
        if getattr(error, "errno", None) == socket.EAI_AGAIN:
            # The resolver itself is unreachable: it has said nothing about this name.
            words = getattr(error, "strerror", None) or str(error)
            return TransientError(f"{what}: {words}", hint=f"check this host's DNS; {hint}")
        return ConfigurationError(what, hint=hint)

    def _failed(self, caught_exception: BaseException | None = None, **_: Any) -> None:
        """Botocore's hook after each attempt."""
        if not isinstance(caught_exception, EndpointConnectionError):
            return
        error = caught_exception.kwargs.get("error")
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            error = error.os_error
        elif not isinstance(error, socket.gaierror):
            return
        if (blamed := self.blamed(caught_exception.kwargs["endpoint_url"], error)) is not None:
            raise blamed from caught_exception
