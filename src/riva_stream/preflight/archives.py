"""The archives that a request's source fits, where that may be many."""

from __future__ import annotations

from functools import partial
from typing import Any

from riva_stream.config import StageRequest
from riva_stream.events import Observer, Warned, ignore
from riva_stream.pipeline.stores import source_settings
from riva_stream.retry import Retrier, RetryPolicy
from riva_stream.s3 import Bucket, open_store
from riva_stream.source import find_archives

__all__ = ["list_archives"]


async def list_archives(
    request: StageRequest, *, session: Any = None, observer: Observer = ignore
) -> list[str]:
    """Keys of all archives that ``request.source``, a prefix that ends in ``/`` or a glob, fits.

    Args:
        request: of which only the source and how to reach it count.
        session: the caller's own ``aioboto3.Session``.
        observer: is told of retries, and of what an operating system has left beside archives.

    Raises:
        RivaStreamError: the bucket cannot be listed.
    """
    warn = partial(_warn, observer)
    async with open_store(source_settings(request), session=session, warn=warn) as store:
        retrier = Retrier(RetryPolicy(retries=request.retries), observer, renew=store.renew)
        bucket = Bucket(store, request.source_bucket, retrier)
        found = await find_archives(bucket, request.source_key, observer)
        return [entry.key for entry in found]


def _warn(observer: Observer, message: str) -> None:
    observer(Warned(code="profile", message=message))
