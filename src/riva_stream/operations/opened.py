"""A store for a job, with what tries its requests again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from riva_stream.errors import AccessDeniedError, first_of
from riva_stream.events import Observer, Warned
from riva_stream.retry import Retrier
from riva_stream.s3 import ObjectInfo, Reader, StoreSettings, open_store

__all__ = ["head", "list_all", "opened"]


@asynccontextmanager
async def opened(
    settings: StoreSettings | Reader, observer: Observer, session: Any = None, *, slots: int = 16
) -> AsyncIterator[tuple[Reader, Retrier]]:
    """An open store, and a retrier of at most ``slots`` requests at once; one that is open already stays so.

    Several errors of one moment leave as the one that matters most.
    """

    def warn(message: str) -> None:
        observer(Warned(code="profile", message=message))

    try:
        async with AsyncExitStack() as stack:
            store: Reader = (
                await stack.enter_async_context(open_store(settings, session=session, warn=warn))
                if isinstance(settings, StoreSettings)
                else settings
            )
            yield store, Retrier(observer=observer, renew=store.renew, slots=slots)
    except BaseExceptionGroup as group:
        raise first_of(group) from None


async def head(store: Reader, retrier: Retrier, bucket: str, key: str) -> ObjectInfo | None:
    """HEAD of a key that should be there; None when it is not."""
    try:
        return await retrier("HeadObject", partial(store.head, bucket, key))
    except AccessDeniedError as error:
        # Without s3:ListBucket S3 answers 403 for a key that does not exist, so as not to tell (S3 API, HeadObject)
        error.hint = error.hint or (
            f"grant s3:GetObject on s3://{bucket}/{key}, and s3:ListBucket on {bucket}, without which the store does "
            "not say whether it is there"
        )
        raise


async def list_all(store: Reader, retrier: Retrier, bucket: str, prefix: str) -> AsyncIterator[ObjectInfo]:
    """Every object below ``prefix``, page by page."""
    after = ""
    while True:
        page = await retrier("ListObjectsV2", partial(store.list_objects, bucket, prefix, after=after))
        for entry in page.objects:
            yield entry
        if not page.truncated or not page.objects:
            return
        after = page.objects[-1].key
