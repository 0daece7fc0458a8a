"""All uploads of a run: opened or adopted, fed, completed, kept or aborted.

:class:`Uploads` is an async context manager. When it ends with an error that a rerun can get over, the open uploads
stay for that rerun (``keep``); with one that is final they are aborted: shielded, within a limited time, without
hiding the first error. Parts of all of them go through one queue to as many senders as there shall be connections.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Self

import anyio
import anyio.to_thread

from riva_stream import clock
from riva_stream.buffers import Channel, Chunk, Piece
from riva_stream.digest import combined_crc64nvme
from riva_stream.errors import (
    DigestMismatchError,
    HeldError,
    RivaStreamError,
    TransientError,
    Where,
    leaves_of,
)
from riva_stream.lanes import Lane
from riva_stream.retry import Retrier, at_least_some_speed
from riva_stream.s3 import CompletedPart, ObjectInfo, Store, Stored
from riva_stream.sink.parts import Check, SentPart, Weighed, base64_crc, weigh
from riva_stream.sink.tagging import Tagging
from riva_stream.sink.upload import Upload, UploadRecord, multipart_etag

__all__ = ["Uploads"]

_CLEANUP_SECONDS = 20.0
_CLEANUP_TASKS = 8


@dataclass(eq=False)
class Uploads:
    """All uploads of a run into one bucket."""

    store: Store
    bucket: str
    check: Check
    retrier: Retrier
    lane: Lane
    durable: Callable[[Upload, int], None]
    """Is told how many bytes of which upload became durable."""
    run_id: str
    guard: Callable[[], Awaitable[None]] | None = None
    """Makes sure, before an upload is created, that the prefix is still ours."""
    keep: bool = False
    """Leave open uploads for a rerun when the error lets it go on."""
    tagging: Tagging = field(default_factory=Tagging)
    opened: list[Upload] = field(default_factory=list, init=False)
    adopted: dict[str, Upload] = field(default_factory=dict, init=False)
    """By key: uploads of an earlier run that this one has not come to yet."""
    _creating: list[str] = field(default_factory=list, init=False)
    _queue: Channel[tuple[Upload, int, Chunk]] = field(default_factory=Channel, init=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        causes = leaves_of(error) if error else []
        # Held: they are the other run's now. Resumable: they are the next run's.
        held = any(isinstance(cause, HeldError) for cause in causes)
        final = any(isinstance(cause, RivaStreamError) and not cause.resumable for cause in causes)
        if error is not None and (held or (self.keep and not final)):
            return
        left = [upload for upload in [*self.opened, *self.adopted.values()] if not upload.record]
        await self._abort(left)
        if final:
            await self._take_back([upload.key for upload in left if upload.stored is not None])

    async def open(self, key: str, *, content_type: str, metadata: Mapping[str, str]) -> Upload:
        """Create an upload, or go on with the one that an earlier run had created."""
        upload = self.adopted.pop(key, None)
        attempts = 0
        if upload is not None:
            upload.content_type, upload.metadata = content_type, metadata
        else:
            # Whoever is cancelled between the store's doing and its answer leaves an upload that nobody knows by
            # its id; the key is remembered so that the cleanup can look for it.
            if self.guard is not None:
                await self.guard()
            self._creating.append(key)

            async def create() -> str:
                nonlocal attempts
                attempts += 1
                return await self.tagging.along(
                    lambda tags: self.store.create_upload(
                        self.bucket,
                        key,
                        content_type=content_type,
                        metadata=metadata,
                        crc64nvme=self.check == "crc64nvme",
                        tags=tags,
                    )
                )

            try:
                upload_id = await self.retrier("CreateMultipartUpload", create)
            except RivaStreamError as error:
                if error.where.status is not None:
                    self._creating.remove(key)  # the store has said no: there is nothing of ours to look for
                raise
            self._creating.remove(key)
            upload = Upload(key, content_type, metadata, upload_id, self.run_id, self.enqueue)
        self.opened.append(upload)
        if attempts > 1:  # an attempt whose answer was lost may have made one that nobody knows
            await self._abort_all(await self._unknown(key))
        return upload

    def enqueue(self, upload: Upload, number: int, chunk: Chunk) -> None:
        """Queue a part; never waits."""
        self._queue.send((upload, number, chunk))

    def close(self) -> None:
        """No more parts will come; :meth:`send_parts` ends after the last."""
        self._queue.close()

    async def send_parts(self) -> None:
        """Send parts until the queue is closed and empty; run it in as many tasks as there shall be connections."""
        async for upload, number, chunk in self._queue:
            with self.lane.busy():
                upload.parts[number] = await self._send_part(upload, number, chunk)
            self.lane.bytes += chunk.size
            self.durable(upload, chunk.size)
            chunk.release()

    async def put(self, upload: Upload, data: bytes, *, if_absent: bool = False) -> UploadRecord:
        """Send a small object through its upload, and complete it."""
        weighed = weigh((data,), self.check)
        etag = await self._upload_part(upload, 1, weighed, (data,))
        upload.parts[1] = SentPart(1, weighed.size, etag, weighed.fingerprint, weighed.crc64nvme, weighed.md5)
        return await self.complete(upload, if_absent=if_absent)

    async def complete(self, upload: Upload, *, if_absent: bool = False) -> UploadRecord:
        """Make the object visible.

        Raises:
            HeldError: another run has aborted the upload, or has put an object where there must be none.
        """
        parts = [upload.parts[number] for number in sorted(upload.parts)]
        crcs = [(part.crc64nvme, part.size) for part in parts if part.crc64nvme is not None]
        whole = combined_crc64nvme(crcs) if self.check == "crc64nvme" else None
        etag = multipart_etag(parts)
        completed = [
            CompletedPart(
                part.number,
                part.etag,
                part.size,
                None if part.crc64nvme is None else base64_crc(part.crc64nvme),
            )
            for part in parts
        ]

        async def once() -> Stored:
            try:
                return await self.store.complete_upload(
                    self.bucket,
                    upload.key,
                    upload.upload_id,
                    completed,
                    crc64nvme=whole,
                    if_absent=if_absent,
                )
            except (HeldError, TransientError) as error:
                conflict = error.where.code == "ConditionalRequestConflict"
                if isinstance(error, TransientError) and not isinstance(error, HeldError) and not conflict:
                    raise
                # "No such upload", or a conflict, is also what the second attempt hears after a first whose answer
                # was lost.
                info = await self.store.head(self.bucket, upload.key)
                if info is not None and _is_ours(info, upload, whole, etag):
                    return Stored(info.etag, info.version_id)
                if conflict and if_absent:  # the same request again would meet the same answer
                    raise HeldError(
                        "another run writes the same object",
                        where=error.where,
                        hint="run the same command again",
                    ) from error
                raise

        upload.completing = True
        stored = upload.stored
        if stored is None:
            stored = await self.retrier("CompleteMultipartUpload", once)
        upload.record = UploadRecord(
            upload.key, upload.size, upload.content_type, stored, upload.created_by, whole, etag
        )
        return upload.record

    async def abort_unused(self) -> None:
        """Abort what an earlier run had opened and this one has no use for."""
        unused = [upload for upload in self.adopted.values() if upload.stored is None]
        self.adopted.clear()
        await self._abort(unused)

    async def _send_part(self, upload: Upload, number: int, chunk: Chunk) -> SentPart:
        pieces = tuple(chunk.pieces)
        weighed = await clock.in_thread(weigh, pieces, self.check)
        known = upload.known.get(number)
        if known is not None and known.is_that(weighed):
            etag = known.etag
        elif upload.stored is not None:
            raise DigestMismatchError(
                "an earlier run has completed this object, but with other bytes than the source has now",
                where=Where("UploadPart", self.bucket, upload.key, part=number),
                hint="run the same command again: it will start afresh",
            )
        else:
            etag = await self._upload_part(upload, number, weighed, pieces)
        return SentPart(number, weighed.size, etag, weighed.fingerprint, weighed.crc64nvme, weighed.md5)

    async def _upload_part(
        self, upload: Upload, number: int, weighed: Weighed, pieces: Sequence[Piece]
    ) -> str:
        async def once() -> str:
            with at_least_some_speed(weighed.size):
                etag = await self.store.upload_part(
                    self.bucket, upload.key, upload.upload_id, number, weighed.body(pieces)
                )
            if not weighed.matches(etag):
                raise TransientError(
                    "the store has received other bytes than were sent: its ETag is not their MD5",
                    where=Where("UploadPart", self.bucket, upload.key, part=number),
                )
            return etag

        return await self.retrier("UploadPart", once)

    async def _abort(self, uploads: Sequence[Upload]) -> None:
        """Abort them, and what was being created; errors here would hide the first one."""
        left = [(upload.key, upload.upload_id) for upload in uploads if upload.stored is None]
        with anyio.move_on_after(_CLEANUP_SECONDS, shield=True):
            for key in self._creating:
                left += await self._unknown(key)
            await self._abort_all(left)

    async def abort_own(self, theirs: set[str]) -> None:
        """Abort what this run has open, but for the UploadIds that are another run's now."""
        await self._abort_all(
            [
                (upload.key, upload.upload_id)
                for upload in self.opened
                if upload.created_by == self.run_id and not upload.record and upload.upload_id not in theirs
            ]
        )

    async def _take_back(self, keys: Sequence[str]) -> None:
        """Delete what an earlier run had completed, now that its source has turned out to be bad."""
        with anyio.move_on_after(_CLEANUP_SECONDS, shield=True):
            for key in keys:
                with contextlib.suppress(RivaStreamError):
                    await self.retrier("DeleteObject", partial(self.store.delete, self.bucket, key))

    async def _unknown(self, key: str) -> list[tuple[str, str]]:
        """Uploads of ``key`` that are not ours to know: the prefix is ours alone, so they were left by accident."""
        known = {upload.upload_id for upload in [*self.opened, *self.adopted.values()]}
        with contextlib.suppress(RivaStreamError):
            found = await self.retrier(
                "ListMultipartUploads", lambda: self.store.list_uploads(self.bucket, key)
            )
            return [(u.key, u.upload_id) for u in found if u.key == key and u.upload_id not in known]
        return []

    async def _abort_all(self, left: list[tuple[str, str]]) -> None:
        async def abort_some() -> None:
            while left:
                key, upload_id = left.pop()
                with contextlib.suppress(RivaStreamError):
                    await self.retrier(
                        "AbortMultipartUpload", partial(self.store.abort_upload, self.bucket, key, upload_id)
                    )

        async with anyio.create_task_group() as cleaners:
            for _ in range(min(_CLEANUP_TASKS, len(left))):
                cleaners.start_soon(abort_some)


def _is_ours(info: ObjectInfo, upload: Upload, crc64nvme: str | None, etag: str) -> bool:
    """Whether the object that is there is the one that was to be completed."""
    kept = info.checksums.get("crc64nvme")
    return (
        info.metadata.get("run-id") == upload.created_by
        and info.size == upload.size
        and (
            kept == crc64nvme
            if kept and crc64nvme
            else info.etag == etag or info.encryption.startswith("aws:kms")
        )
    )
