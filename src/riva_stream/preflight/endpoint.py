"""``check``: whether an endpoint's name resolves, and what a HEAD of a bucket says about region and clock."""

from __future__ import annotations

import asyncio
import socket
import threading
import urllib.request
from concurrent.futures import Future
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from riva_stream.errors import SourceNotFoundError, TransientError
from riva_stream.preflight.report import CheckRecord, failed, passed, warned
from riva_stream.s3.diagnostics import BucketInfo

__all__ = ["clock_record", "region_record", "resolved"]


async def resolved(url: str) -> bool:
    """Resolve a URL's host, before the client does so and cannot be stopped from waiting for it.

    Returns:
        Whether there is a proxy, which resolves the name instead.

    Raises:
        TransientError: the host has no address.
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
    answer = Future[Any]()
    answer.set_running_or_notify_cancel()  # makes it uncancellable: a cancelled waiter just drops it

    def ask() -> None:
        try:
            answer.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            answer.set_exception(error)

    threading.Thread(target=ask, name="resolver", daemon=True).start()
    await asyncio.wrap_future(answer)


_WARN_SECONDS = 60.0
_FAIL_SECONDS = 900.0
"""S3 refuses requests whose signature is a quarter of an hour off."""


def region_record(component: str, bucket: str, found: BucketInfo, region: str | None) -> CheckRecord:
    """Whether the bucket exists, in the expected region."""
    flag = "--source-region" if component == "source-region" else "--region"
    facts: dict[str, Any] = {
        "bucket": bucket,
        "region": found.region,
        "configured": region,
        "status": found.status,
    }
    if found.status == HTTPStatus.NOT_FOUND:
        is_source = component == "source-region"
        return failed(
            component,
            f"there is no bucket {bucket}",
            exit_code=SourceNotFoundError.exit_code if is_source else 78,
            fix="check the source URI and its endpoint"
            if is_source
            else "check the bucket's name and the endpoint",
            **facts,
        )
    elsewhere = bool(found.region) and found.region != region
    # 400 is also the response to an expired token, which other checks report better.
    is_redirected = found.status in {HTTPStatus.MOVED_PERMANENTLY, HTTPStatus.TEMPORARY_REDIRECT}
    if is_redirected or (found.status == HTTPStatus.BAD_REQUEST and elsewhere):
        where = found.region or "another region"
        return failed(
            component,
            f"wrong region: {bucket} is in {where}, not in {region}",
            fix=f"pass {flag} {found.region}" if found.region else f"check {flag}",
            **facts,
        )
    if elsewhere:
        return warned(
            component,
            f"{bucket} is in {found.region}, not in {region}; the store answers all the same",
            fix=f"pass {flag} {found.region}",
            **facts,
        )
    if found.region:
        return passed(component, f"{bucket} is in {found.region}", **facts)
    is_denied = found.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
    why = "its region may not be asked for" if is_denied else "the store names no region"
    return passed(component, f"{bucket} is there; {why}", **facts)


def clock_record(found: BucketInfo) -> CheckRecord:
    """How far this host's clock is from the store's."""
    if found.store_time is None:
        return warned("clock", "the response has no Date header, so the clock cannot be compared")
    # The response's time is truncated to whole seconds: the real time is half a second later on average.
    offset = (found.local_time - found.store_time).total_seconds() - 0.5
    ahead = "ahead of" if offset > 0 else "behind"
    facts: dict[str, Any] = {"offset_seconds": round(offset, 1)}
    said = f"{abs(offset):.0f} s {ahead} the store's"
    if abs(offset) <= _WARN_SECONDS:
        return passed("clock", f"agrees with the store's to {max(abs(offset), 1):.0f} s", **facts)
    fix = "set this host's clock (timedatectl set-ntp true, or chronyc makestep)"
    if abs(offset) <= _FAIL_SECONDS:
        return warned("clock", f"this host's clock is {said}", fix=fix, **facts)
    return failed(
        "clock",
        f"this host's clock is {said}; S3 refuses what is signed more than 15 minutes off",
        fix=fix,
        **facts,
    )
