"""Rights that are asked for on what is not there: whoever answers says whether they are granted, and nothing is made.

S3 looks at the rights before it looks for the upload or the key. So these tell of what cannot be tried in earnest,
because it could not be removed again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from riva_stream.errors import AccessDeniedError, HeldError, RivaStreamError
from riva_stream.s3 import PartBody, WritableBucket
from riva_stream.s3.probe import MISSING_UPLOAD

__all__ = ["may_list_parts", "may_put", "may_read", "tells_missing"]

_BYTE = PartBody((b"?",), 1)
_LIST = "s3:ListBucket"


async def may_put(bucket: WritableBucket, key: str) -> bool:
    """Whether objects may be put there, by a part for an upload that is missing; False: the answer does not tell.

    Raises:
        AccessDeniedError: they may not.
    """
    return await _granted(partial(bucket.upload_part, key, MISSING_UPLOAD, 1, _BYTE))


async def may_list_parts(bucket: WritableBucket, key: str) -> bool:
    """The same for the parts of an upload.

    Raises:
        AccessDeniedError: they may not be listed.
    """
    return await _granted(partial(bucket.list_parts, key, MISSING_UPLOAD))


async def may_read(bucket: WritableBucket, key: str) -> None:
    """Make sure that objects there may be read, by a key that is missing.

    Raises:
        AccessDeniedError: they may not; see :func:`tells_missing`.
        RivaStreamError: the store gives no answer that tells.
    """
    try:
        await bucket.get(key, limit=1)
    except AccessDeniedError as error:
        if error.action != _LIST:  # that it names this one says that the other is granted
            raise


async def tells_missing(bucket: WritableBucket, key: str) -> bool:
    """Whether keys may be listed: if not, S3 answers for a missing key as for a forbidden one."""
    try:
        await _granted(partial(bucket.list_objects, key, limit=1))
    except AccessDeniedError:
        return False
    return True


async def _granted(ask: Callable[[], Awaitable[Any]]) -> bool:
    try:
        await ask()
    except HeldError:  # there is no such upload
        return True
    except AccessDeniedError:
        raise
    except RivaStreamError:  # it has its own word for it, or none
        return False
    return True
