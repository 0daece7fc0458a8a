"""How ``check`` tries a bucket: with a small object that is put, read back and deleted; and with missing objects.

S3 checks permissions before it looks up the upload or the key. So a request for a missing one reveals permissions that
cannot be tried for real, because the result could not be removed again.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio

from riva_stream.config import StageRequest
from riva_stream.errors import AccessDeniedError, ConfigurationError, HeldError, RivaStreamError
from riva_stream.layout import OWN_FOLDER
from riva_stream.s3 import ObjectInfo, PartBody, Stored, WritableBucket
from riva_stream.s3.probe import MISSING_UPLOAD

__all__ = [
    "BODY",
    "ScratchObject",
    "Unremoved",
    "may_list_parts",
    "may_put",
    "may_read",
    "scratch_folder",
    "tells_missing",
]

BODY = b"riva_stream check: this is removed again\n"
_CLEANUP_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Unremoved:
    """Something created by a check that could not be removed."""

    what: str
    """A description for people."""
    only_versions: bool = False
    """Whether only old versions are left: removing these takes a separate permission, which no run needs."""


def scratch_folder(request: StageRequest) -> str:
    """A prefix of keys below that of the staging, which nobody else uses."""
    return f"{request.prefix}{OWN_FOLDER}check-{secrets.token_hex(6)}/"


class ScratchObject:
    """One key. ``tidy`` must be called at the end, whatever happened."""

    def __init__(self, bucket: WritableBucket, key: str, *, limit: float) -> None:
        """``limit``: seconds that each PUT may take."""
        self.key = key
        self.is_there = False
        """True also when the object may exist, because no response came."""
        self._bucket = bucket
        self._limit = limit
        self._versions: list[str] = []
        """The versions of it in a versioned bucket, oldest first."""

    async def try_removing(self) -> None:
        """Delete it before it exists, which does no harm and takes the same permission.

        Raises:
            AccessDeniedError: an object put there could not be removed.
        """
        self._keep_version(await self._bucket.delete(self.key))

    async def put(self, *, if_absent: bool = False, if_match: str | None = None) -> Stored:
        """Put it, for the first time or again.

        Raises:
            HeldError: a condition did not hold.
            RivaStreamError: it cannot be put.
        """
        was_there = self.is_there
        try:
            return await self._bucket.retrier(
                "PutObject", partial(self._put_once, if_absent=if_absent, if_match=if_match)
            )
        except (AccessDeniedError, ConfigurationError):
            self.is_there = was_there
            raise

    def appeared(self, version_id: str | None = None) -> None:
        """Note that another request created it, or may have: it is removed all the same."""
        self.is_there = True
        self._keep_version(version_id)

    async def read_back(self) -> ObjectInfo | None:
        """The object, if it is what was put; None: it is something else, or missing."""
        info = await self._bucket.head(self.key)
        read = await self._bucket.get(self.key, limit=1 << 16)
        is_whole = info is not None and info.size == len(BODY)
        return info if is_whole and read is not None and read.data == BODY else None

    async def tidy(self) -> list[Unremoved]:
        """Remove all of it, even when this is cancelled; return what could not be removed in time."""
        with anyio.move_on_after(_CLEANUP_SECONDS, shield=True):
            return await self._remove()
        return [Unremoved(f"perhaps s3://{self._bucket.name}/{self.key}")]

    async def _remove(self) -> list[Unremoved]:
        try:
            if self.is_there:
                self._keep_version(await self._bucket.delete(self.key))
                self.is_there = False
            for version in reversed(self._versions):
                await self._bucket.delete(self.key, version_id=version)
        except RivaStreamError as error:
            if isinstance(error, AccessDeniedError) and not self.is_there:
                # Removing a version takes a separate permission, which no run needs.
                return [
                    Unremoved(
                        f"old versions of s3://{self._bucket.name}/{self.key}, of {len(BODY)} bytes each",
                        only_versions=True,
                    )
                ]
            return [Unremoved(f"s3://{self._bucket.name}/{self.key}")]
        return []

    async def _put_once(self, *, if_absent: bool, if_match: str | None) -> Stored:
        self.is_there = True  # even if no response comes
        # Awaited even when cancelled: otherwise it might take effect after the clean-up.
        with anyio.fail_after(self._limit, shield=True):
            stored = await self._bucket.once.put(
                self.key,
                PartBody((BODY,), len(BODY)),
                content_type="text/plain",
                metadata={},
                if_absent=if_absent,
                if_match=if_match,
            )
        self._keep_version(stored.version_id)
        return stored

    def _keep_version(self, version: str | None) -> None:
        if version is not None:
            self._versions.append(version)


async def may_put(bucket: WritableBucket, key: str) -> bool:
    """Whether objects may be put there, tried with a part for a missing upload; False: the response does not show it.

    Raises:
        AccessDeniedError: they may not.
    """
    return await _granted(partial(bucket.upload_part, key, MISSING_UPLOAD, 1, PartBody.with_md5(b"?")))


async def may_list_parts(bucket: WritableBucket, key: str) -> bool:
    """Likewise for listing the parts of an upload.

    Raises:
        AccessDeniedError: they may not be listed.
    """
    return await _granted(partial(bucket.list_parts, key, MISSING_UPLOAD))


async def may_read(bucket: WritableBucket, key: str) -> None:
    """Make sure that objects there may be read, tried with a missing key.

    Raises:
        AccessDeniedError: they may not; see :func:`tells_missing`.
        RivaStreamError: the response of the store does not show it.
    """
    try:
        await bucket.get(key, limit=1)
    except AccessDeniedError as error:
        if error.action != "s3:ListBucket":  # naming this action means that s3:GetObject is granted
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
    except AccessDeniedError:
        raise
    except RivaStreamError as error:  # there is no such upload; or another error, which does not show it
        return isinstance(error, HeldError)
    return True
