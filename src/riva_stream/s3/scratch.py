"""A multipart upload that is only there to find something out, and never stays.

Whatever happens, a cancelled task included: the answer to its Create is waited for, an outcome that nobody told is
looked for in the store, and what is open is aborted, each within a time limit of its own. What could not be aborted
is said.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio

from riva_stream.errors import HeldError, RivaStreamError, TransientError
from riva_stream.s3.bucket import WritableBucket, confirm_refusal
from riva_stream.s3.port import NO_TAGS, REQUEST_EXPIRED, CompletedPart, Stored

__all__ = ["CONDITION_REFUSED", "ScratchUpload", "discard_message", "scratch_upload"]

CONDITION_REFUSED = frozenset({"NotImplemented", "PreconditionFailed", "412", "501"})
"""Codes with which a store answers a condition that it does not have, or that does not hold."""
CREATE_SECONDS = 30.0
CLEANUP_SECONDS = 10.0

Make = Callable[[Mapping[str, str]], Awaitable[str]]


def discard_message(_: str) -> None:
    """Ignore a message that nobody wants to hear."""


@dataclass(eq=False)
class ScratchUpload:
    """One key, and the uploads that are open there for us."""

    bucket: WritableBucket
    key: str
    limit: float
    """Seconds that one Create may take."""
    declare: bool
    tagged: Callable[[Make], Awaitable[str]]
    _open: list[str] = field(default_factory=list, init=False)
    _unsure: int = field(default=0, init=False)
    """Creates of which nobody told what became."""

    @property
    def upload_id(self) -> str:
        """Of the upload that was made."""
        return self._open[-1]

    async def create(self) -> None:
        """Make it.

        Raises:
            RivaStreamError: it cannot be made.
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

    async def complete(self, part: CompletedPart) -> Stored:
        """Complete it with its one part, where there is no object yet; whoever asks has to remove the object.

        The condition goes along as in a run, and is left out where the store cannot deal with it though it holds.

        Raises:
            RivaStreamError: it cannot be completed, and stays open until :meth:`close`.
        """
        upload_id, condition = self.upload_id, {"if_absent": True}

        async def once() -> Stored:
            async def complete(**given: Any) -> Stored:
                # As with Create: cut off in the middle it might take effect after the clean-up.
                with anyio.fail_after(self.limit, shield=True):
                    return await self.bucket.once.complete_upload(
                        self.key, upload_id, [part], crc64nvme=None, **given
                    )

            try:
                return await complete(**condition)
            except TimeoutError as error:
                raise TransientError(f"no answer within {self.limit:g} s") from error
            except RivaStreamError as error:
                # The second attempt hears of a condition that does not hold, or of no upload, after a lost answer.
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

    async def close(self) -> list[str]:
        """Abort whatever is open; gives what could not be aborted. Not to be cancelled."""
        with anyio.move_on_after(CLEANUP_SECONDS, shield=True):
            for upload_id in list(self._open):
                with suppress(RivaStreamError):
                    await self._abort(upload_id)
                    self._open.remove(upload_id)
            if self._unsure:
                with suppress(RivaStreamError):
                    await self._sweep()
                    self._unsure = 0
        place = f"s3://{self.bucket.name}/{self.key}"
        left = [f"an open upload of {place}"] * len(self._open)
        return [*left, f"perhaps an open upload of {place}"] if self._unsure else left

    async def _create_once(self, tags: Mapping[str, str]) -> str:
        window = await self.bucket.look()
        # Cancelled in the middle it might be made after the clean-up: its answer is waited for.
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
            # Held: the prefix is another run's, which is asked only once a first attempt was refused.
            is_told = error.where.code == REQUEST_EXPIRED or isinstance(error, HeldError)
            if is_told or not isinstance(error, TransientError):
                self._unsure -= 1  # there is none
            raise
        self._unsure -= 1
        self._open.append(upload_id)
        return upload_id

    async def _sweep(self) -> None:
        """By the exact key: that listing every store has.

        Another run's scratch upload of the same key looks the same: one of a prefix is looked for while that is ours.
        Elsewhere a run that is struck by this is told to run again.
        """
        found = await self.bucket.list_uploads(self.key)
        await self.bucket.require_no_holder_but_us()
        for upload in found:
            if upload.key == self.key:
                await self._abort(upload.upload_id)

    async def _abort(self, upload_id: str) -> None:
        """Abort it surely, as far as that goes: nobody comes back for it."""
        await confirm_refusal(partial(self.bucket.abort_upload, self.key, upload_id))


@asynccontextmanager
async def scratch_upload(
    bucket: WritableBucket,
    key: str,
    *,
    declare: bool = False,
    limit: float = CREATE_SECONDS,
    tagged: Callable[[Make], Awaitable[str]] = lambda make: make(NO_TAGS),
    left: Callable[[str], None] = discard_message,
) -> AsyncIterator[ScratchUpload]:
    """An open upload, for as long as the block lasts.

    Args:
        bucket: where it is made; its retrier tries one request again when the transport fails.
        key: its key: one that is known, so that what a killed process left can be found on stores that list the
            uploads of an exact key only. Nothing ever becomes visible there.
        declare: declare CRC64NVME when it is created.
        limit: seconds that one Create may take.
        tagged: is given what creates it, and calls that with the tags it shall have.
        left: is told what could not be aborted.

    Raises:
        RivaStreamError: it cannot be made.
    """
    scratch = ScratchUpload(bucket, key, limit, declare, tagged)
    try:
        await scratch.create()
        yield scratch
    finally:
        for what in await scratch.close():
            left(what)
