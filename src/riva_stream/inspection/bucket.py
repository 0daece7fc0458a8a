"""Where a command looks: a bucket with its store open."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from riva_stream.errors import first_of
from riva_stream.events import Observer, Warned
from riva_stream.retry import Retrier
from riva_stream.s3 import Bucket, Reader, StoreSettings, open_store

__all__ = ["open_bucket"]


@asynccontextmanager
async def open_bucket(
    settings: StoreSettings | Reader, name: str, observer: Observer, session: Any = None, *, slots: int = 16
) -> AsyncIterator[Bucket]:
    """A bucket that is asked at most ``slots`` things at once; a store that is open already stays so.

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
            yield Bucket(store, name, Retrier(observer=observer, renew=store.renew, slots=slots))
    except BaseExceptionGroup as group:
        raise first_of(group) from None
