"""Where a command looks: a bucket with its store open, and the S3 URI that names it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from riva_stream.errors import ConfigurationError, first_of
from riva_stream.events import Observer, Warned
from riva_stream.retry import Retrier
from riva_stream.s3 import Bucket, Reader, StoreSettings, open_store
from riva_stream.uris import split_uri

__all__ = ["open_bucket", "split"]


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


def split(uri: str, example: str = "s3://deployments/prod/") -> tuple[str, str]:
    """Bucket and key of ``s3://bucket/key``; the key may be empty.

    Raises:
        ConfigurationError: this is no such URI.
    """
    try:
        return split_uri(uri)
    except ValueError as error:
        raise ConfigurationError(f"{uri!r} {error}", hint=f"for example: {example}") from error
