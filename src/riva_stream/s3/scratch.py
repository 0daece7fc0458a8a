"""A multipart upload that only serves to find something out, and never stays.

Whatever happens, even if the task is cancelled: the answer to its Create is awaited, an unknown outcome is looked up in
the store, and open uploads are aborted, each within its own time limit. Uploads that could not be aborted are reported.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio

from riva_stream.errors import HeldError, RivaStreamError, TransientError
from riva_stream.s3.bucket import LeftUpload, WritableBucket, confirm_refusal
from riva_stream.s3.port import NO_TAGS, REQUEST_EXPIRED, CompletedPart, Stored

__all__ = ["CONDITION_REFUSED", "ScratchUpload", "discard_message", "scratch_upload"]

CONDITION_REFUSED = frozenset({"NotImplemented", "PreconditionFailed", "412", "501"})
"""Codes with which a store answers a condition that it does not support, or that does not hold."""
CREATE_SECONDS = 30.0
CLEANUP_SECONDS = 10.0

Make = Callable[[Mapping[str, str]], Awaitable[str]]


def discard_message(_: str) -> None:
    """Ignore a message."""


@dataclass(eq=False)
class ScratchUpload:
    """One key, and our open uploads there."""

    bucket: WritableBucket
    key: str
    limit: float
    """Seconds that one Create may take."""
    declare: bool
    tagged: Callable[[Make], Awaitable[str]]
    _open: list[str] = field(default_factory=list, init=False)
    _unsure: int = field(default=0, init=False)
    """Creates whose outcome is unknown."""

    @property
    def upload_id(self) -> str:
        """UploadId of the upload that was created."""
        return self._open[-1]

    async def create(self) -> None:
        """Create it.

        Raises:
            RivaStreamError: it cannot be created.
        """
        await self.bucket.retrier("CreateMultipartUpload", partial(self.tagged, self._create_once))

    async def abort(self) -> None:
        """Abort it, as a step that may fail.

        Raises:
            RivaStreamError: it cannot be aborted.
        """
        upload_id = self.upload_id
        await self.bucket.abort_upload(self.key, upload_id)
        self._open.remove(upload_id)

    async def complete(self, part: CompletedPart, *, crc64nvme: str | None = None) -> Stored:
        """Complete it with its one part, if there is no object yet; the caller has to delete the object.

        The condition is sent as in a run, and omitted if the store refuses it although it holds.

        Raises:
            RivaStreamError: it cannot be completed, and stays open until :meth:`close`.
        """
        upload_id, condition = self.upload_id, {"if_absent": True}

        async def once() -> Stored:
            async def complete(**given: Any) -> Stored:
                # As with Create: if cancelled midway it might take effect after the cleanup.
                with anyio.fail_after(self.limit, shield=True):
                    return await self.bucket.once.complete_upload(
                        self.key, upload_id, [part], crc64nvme=crc64nvme, **given
                    )

            try:
                return await complete(**condition)
            except TimeoutError as error:
                raise TransientError(f"no answer within {self.limit:g} s") from error
            except RivaStreamError as error:
                # After a lost answer the second attempt gets a failed condition, or no such upload.
                info = await self.bucket.once.head(self.key)
                if info is not None:
                    return Stored(info.etag, info.version_id, info.now)
                if not condition or error.where.code not in CONDITION_REFUSED:
                    raise
                condition.clear()
                return await complete()

        stored = await self.bucket.retrier("CompleteMultipartUpload", once)
        self._open.remove(upload_id)
        return stored

    async def close(self) -> None:
        """Abort all open uploads, and report what could not be aborted. Not to be cancelled."""
        with anyio.move_on_after(CLEANUP_SECONDS, shield=True):
            for upload_id in list(self._open):
                with suppress(RivaStreamError):
                    await self._abort(upload_id)
                    self._open.remove(upload_id)
            if self._unsure:
                with suppress(RivaStreamError):
                    await self._sweep()
                    self._unsure = 0
        for upload_id in [*self._open, *([None] if self._unsure else ())]:
            self.bucket.left(LeftUpload(self.bucket.name, self.key, upload_id))

    async def _create_once(self, tags: Mapping[str, str]) -> str:
        window = await self.bucket.look()
        # If cancelled midway it might be created after the cleanup: its answer is awaited.
        self._unsure += 1
        try:
            with anyio.fail_after(self.limit, shield=True):
                upload_id = await self.bucket.create_within(
                    window,
                    self.key,
                    content_type="application/octet-stream",
                    metadata={},
                    crc64nvme=self.declare,
                    tags=tags,
                )
        except TimeoutError as error:
            raise TransientError(f"no answer within {self.limit:g} s") from error
        except RivaStreamError as error:
            # HeldError: the prefix is another run's, which is checked only once a first attempt was refused.
            is_told = error.where.code == REQUEST_EXPIRED or isinstance(error, HeldError)
            if is_told or not isinstance(error, TransientError):
                self._unsure -= 1  # none was created
            raise
        self._unsure -= 1
        self._open.append(upload_id)
        return upload_id

    async def _sweep(self) -> None:
        """Abort what is listed for the exact key: every store has that listing.

        Another run's scratch upload of the same key looks the same: in a prefix this is done only while that is ours.
        Elsewhere a run whose upload is hit is told to run again.
        """
        found = await self.bucket.list_uploads(self.key)
        await self.bucket.require_no_holder_but_us()
        for upload in found:
            if upload.key == self.key:
                await self._abort(upload.upload_id)

    async def _abort(self, upload_id: str) -> None:
        """Abort it as reliably as possible: nothing will retry later."""
        await confirm_refusal(partial(self.bucket.abort_upload, self.key, upload_id))


@asynccontextmanager
async def scratch_upload(
    bucket: WritableBucket,
    key: str,
    *,
    declare: bool = False,
    limit: float = CREATE_SECONDS,
    tagged: Callable[[Make], Awaitable[str]] = lambda make: make(NO_TAGS),
) -> AsyncIterator[ScratchUpload]:
    """An open upload for the duration of the block.

    Args:
        bucket: where it is created; its retrier repeats a request when the transport fails, and its ``left`` is called
            with what could not be aborted.
        key: its key: a fixed one, so that uploads left by a killed process can be found on stores that list only the
            uploads of an exact key. Nothing ever becomes visible there.
        declare: declare CRC64NVME when it is created.
        limit: seconds that one Create may take.
        tagged: receives the function that creates it, and calls that with the tags for it.

    Raises:
        RivaStreamError: it cannot be created.
    """
    scratch = ScratchUpload(bucket, key, limit, declare, tagged)
    try:
        await scratch.create()
        yield scratch
    finally:
        await scratch.close()
