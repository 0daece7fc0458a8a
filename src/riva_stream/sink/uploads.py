"""All uploads of a run: opened or adopted, fed, kept or aborted. Only the destination completes them.

:class:`Uploads` is an async context manager. If it exits with an error from which a rerun can recover, the open uploads
stay for that rerun; if the error is final they are aborted: shielded, within a time limit, without hiding the first
error. Parts of all of them go through one queue to as many senders as there are to be connections.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Self

import anyio
import anyio.to_thread

from riva_stream import clock
from riva_stream.errors import (
    ConfigurationError,
    HeldError,
    RivaStreamError,
    TransientError,
    Where,
    leaves_of,
)
from riva_stream.flow.buffers import Channel, Chunk, Piece
from riva_stream.flow.digest import combined_crc64nvme
from riva_stream.flow.lanes import Lane
from riva_stream.naming import option
from riva_stream.s3 import REQUEST_EXPIRED, ObjectInfo, OpenUpload, Stored, Window, WritableBucket
from riva_stream.s3.speed import min_throughput
from riva_stream.sink.copies import PartCopier
from riva_stream.sink.parts import Check, Copy, Part, PartChecksums, SentPart, checksum_part
from riva_stream.sink.tagging import Tagging
from riva_stream.sink.upload import Upload, UploadedPart, UploadRecord, etags_of, multipart_etag
from riva_stream.sizes import MIB
from riva_stream.tasks import await_shielded

__all__ = ["Uploads"]

_CLEANUP_SECONDS = 20.0
_CLEANUP_TASKS = 8
_ANSWER_SECONDS = 10.0
"""Seconds for which a cancelled run waits for the answer to a Create: without it the UploadId is unknown."""
_TOO_MANY = frozenset(
    {"InvalidArgument", "InvalidPart", "InvalidPartNumber", "InvalidRequest", "TooManyParts"}
)
"""Codes of stores for a part whose number is too large."""


@dataclass(eq=False)
class Uploads:
    """All uploads of a run into one bucket."""

    bucket: WritableBucket
    check: Check
    lane: Lane
    durable: Callable[[Upload, int], None]
    """Called with the number of bytes of an upload that became durable."""
    run_id: str
    copy_lane: Lane
    copied: Callable[[Upload, int], None]
    """Called with the number of bytes of an upload that the store has copied."""
    copier: PartCopier | None = None
    """Copies parts; None: all of them are sent."""
    before_abort: Callable[[], Awaitable[object]] | None = None
    """Awaited before uploads that another run could resume are aborted; raises HeldError if the prefix is not ours."""
    tagging: Tagging = field(default_factory=Tagging)
    opened: list[Upload] = field(default_factory=list, init=False)
    adopted: dict[str, Upload] = field(default_factory=dict, init=False)
    """By key: uploads of an earlier run that this one has not opened yet."""
    creating: set[str] = field(default_factory=set, init=False)
    """Keys for which a Create was sent and there may be an upload of unknown UploadId."""
    unsure: list[Upload] = field(default_factory=list, init=False)
    """Uploads that were given up, or only served to probe, and may not have been aborted."""
    aborted: set[str] = field(default_factory=set, init=False)
    """UploadIds of the uploads that the store has confirmed as aborted."""
    _queue: Channel[tuple[Upload, int, Chunk]] = field(default_factory=Channel, init=False)
    _copies: Channel[tuple[Upload, int, Copy]] = field(default_factory=Channel, init=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        causes = leaves_of(error) if error else []
        # HeldError: the uploads belong to the other run now. Resumable: they belong to the next run.
        held = any(isinstance(cause, HeldError) for cause in causes)
        final = any(isinstance(cause, RivaStreamError) and not cause.resumable for cause in causes)
        if error is None or (final and not held and await self._are_ours()):
            await self._abort(
                [upload for upload in [*self.opened, *self.adopted.values()] if not upload.record]
            )

    @property
    def may_be_open(self) -> bool:
        """Whether an upload may still be open (aborts can fail or be cancelled). Only a journal tells the next run."""
        known = [*self.opened, *self.adopted.values(), *self.unsure]
        return bool(self.creating) or any(
            not upload.record and upload.upload_id not in self.aborted for upload in known
        )

    async def _are_ours(self) -> bool:
        """Whether the prefix is still ours, as far as is known now."""
        with anyio.move_on_after(_CLEANUP_SECONDS, shield=True), contextlib.suppress(RivaStreamError):
            if self.before_abort is not None:
                await self.before_abort()
            return True
        return False

    async def open(
        self, key: str, *, content_type: str, metadata: Mapping[str, str], size: int = 0
    ) -> Upload:
        """Create an upload, or resume the one that an earlier run created. ``size``: bytes, 0 if unknown."""
        upload = self.adopted.pop(key, None)
        attempts = 0
        if upload is not None:
            upload.content_type, upload.metadata = content_type, metadata
            self.opened.append(upload)
        else:
            # Cancelling between the store's action and its answer leaves an upload of unknown UploadId: the answer is
            # awaited, and if none comes the key is remembered so that the cleanup can look for it.
            async def create(window: Window | None, tags: Mapping[str, str]) -> Upload:
                upload_id = await self.bucket.create_within(
                    window,
                    key,
                    content_type=content_type,
                    metadata=metadata,
                    crc64nvme=self.check == "crc64nvme",
                    tags=tags,
                )
                created = Upload(key, content_type, metadata, upload_id, self.run_id, self.enqueue)
                self.opened.append(created)
                return created

            async def once() -> Upload:
                nonlocal attempts
                window = await self.bucket.look()
                attempts += 1
                self.creating.add(key)
                try:
                    return await self.tagging.along(
                        lambda tags: await_shielded(partial(create, window, tags), grace=_ANSWER_SECONDS)
                    )
                except RivaStreamError as error:
                    is_told = error.where.code == REQUEST_EXPIRED or (
                        error.where.status is not None and not isinstance(error, TransientError)
                    )
                    if is_told and attempts == 1:  # nothing of ours was created
                        self.creating.discard(key)
                    raise

            upload = await self.bucket.retrier("CreateMultipartUpload", once)
            if attempts == 1:
                self.creating.discard(key)
        upload.expected = size
        if attempts > 1:  # an attempt whose answer was lost may have created an unknown one
            await self._require_prefix(settled=True)
            await self._abort_unknown(key)
        return upload

    def adopt(self, key: str, upload_id: str, created_by: str, uploaded: dict[int, UploadedPart]) -> None:
        """Keep an earlier run's upload for :meth:`open`, with the parts that the store has of it."""
        sends = self.check == "crc64nvme"
        self.adopted[key] = Upload(
            key,
            "",
            {},
            upload_id,
            created_by,
            self.enqueue,
            uploaded,
            is_adopted=True,
            sends_crc64nvme=sends,
        )

    def give_up(self, key: str, upload_id: str | None) -> None:
        """Note one that only served to probe and may still be open; ``upload_id``: None if its Create was not answered."""
        if upload_id is None:
            self.creating.add(key)
        elif upload_id not in {upload.upload_id for upload in self.unsure}:
            self.unsure.append(Upload(key, "", {}, upload_id, self.run_id, self.enqueue))

    def enqueue(self, upload: Upload, number: int, part: Part) -> None:
        """Queue a part; never waits."""
        match part:
            case Chunk():
                self._queue.send((upload, number, part))
            case Copy():
                self._copies.send((upload, number, part))

    def close(self) -> None:
        """Declare that no more parts will come; :meth:`send_parts` and :meth:`copy_parts` end after the last."""
        self._queue.close()
        self._copies.close()

    async def send_parts(self, moved: Callable[[], None] = lambda: None) -> None:
        """Send parts until the queue is closed and empty; run it in as many tasks as there are to be connections.

        Args:
            moved: called after each part that became durable.
        """
        async for upload, number, part in self._queue:
            with self.lane.busy():
                upload.parts[number] = await self._send_part(upload, number, part)
            self.lane.bytes += part.size
            self.durable(upload, part.size)
            part.release()
            moved()

    async def copy_parts(self) -> None:
        """Have parts copied until the queue is closed and empty; run it in as many tasks as there are to be copies."""
        async for upload, number, part in self._copies:
            if self.copier is None:
                raise RuntimeError("nobody copies parts here")
            with self.copy_lane.busy():
                upload.parts[number] = await self.copier.copy(upload, number, part)
            self.copy_lane.bytes += part.size
            self.copied(upload, part.size)

    async def start_over(self) -> None:
        """Keep sent parts for :meth:`open`, as if an earlier run had sent them; drop what is queued or copied.

        An upload with copied parts is aborted: a copy that is still in flight could arrive after a part that is sent.
        """
        self._queue, self._copies, self.copier = Channel(), Channel(), None
        todo = [upload for upload in self.opened if not upload.record]
        await self._require_prefix(settled=False)
        await self._disown([upload for upload in todo if upload.is_copied])
        self.opened = [upload for upload in self.opened if upload.record]
        for upload in todo:
            if not upload.is_copied:
                uploaded = upload.uploaded | {
                    part.number: UploadedPart(part.size, part.etag, part.fingerprint, part.checksum)
                    for part in upload.parts.values()
                }
                self.adopt(upload.key, upload.upload_id, upload.created_by, uploaded)

    async def send_whole(self, upload: Upload, data: bytes) -> None:
        """Send a small object as the one part of its upload."""
        checksums = checksum_part((data,), self.check)
        etag = await self._upload_part(upload, 1, checksums, (data,))
        upload.parts[1] = SentPart(
            1, checksums.size, etag, checksums.fingerprint, checksums.crc64nvme, checksums.md5
        )

    def record_of(self, upload: Upload, stored: Stored) -> UploadRecord:
        """The record of an upload that was completed."""
        return UploadRecord(
            upload.key,
            upload.size,
            upload.content_type,
            stored,
            upload.created_by,
            self.whole_crc64nvme(upload),
            multipart_etag(upload.in_order),
        )

    def whole_crc64nvme(self, upload: Upload) -> str | None:
        """CRC64NVME of the whole object, base64; None unless that of every part is known: a copied one's may not be."""
        if self.check != "crc64nvme":
            return None
        known = [(part.crc64nvme, part.size) for part in upload.in_order if part.crc64nvme is not None]
        return combined_crc64nvme(known) if len(known) == len(upload.parts) else None

    def is_ours(self, info: ObjectInfo, upload: Upload, *, before: object = None) -> bool:
        """Whether the existing object is the one that was to be completed.

        Args:
            info: of the existing object.
            upload: the one that was to be completed.
            before: the ETag of the object to be replaced. If neither ETag nor checksum describes the bytes (KMS), only
                this tells the two apart: an earlier run may have had the same run id and as many bytes.
        """
        kept, whole = info.checksums.get("crc64nvme"), self.whole_crc64nvme(upload)
        return (
            info.metadata.get("run-id") == upload.created_by
            and info.size == upload.size
            and (
                kept == whole
                if kept and whole
                else info.etag in etags_of(upload.in_order)
                or (info.encryption.startswith("aws:kms") and info.etag != before)
            )
        )

    async def abort_unused(self) -> None:
        """Abort uploads of an earlier run for which this one has no use."""
        unused = list(self.adopted.values())
        self.adopted.clear()
        await self._disown(unused)

    async def _disown(self, uploads: Sequence[Upload]) -> None:
        """Abort uploads that are no longer ours; the journal keeps naming those whose abort is not confirmed."""
        await self._abort(uploads)
        self.unsure += [upload for upload in uploads if upload.upload_id not in self.aborted]

    async def _send_part(self, upload: Upload, number: int, part: Chunk) -> SentPart:
        pieces = tuple(part.pieces)
        checksums = await clock.in_thread(checksum_part, pieces, self.check)
        uploaded = upload.uploaded.get(number)
        if uploaded is not None and uploaded.matches(checksums):
            etag = uploaded.etag
        else:
            etag = await self._upload_part(upload, number, checksums, pieces)
        return SentPart(
            number, checksums.size, etag, checksums.fingerprint, checksums.crc64nvme, checksums.md5
        )

    async def _upload_part(
        self, upload: Upload, number: int, checksums: PartChecksums, pieces: Sequence[Piece]
    ) -> str:
        async def once() -> str:
            with min_throughput(checksums.size), _limit_of_parts(upload, number):
                etag = await self.bucket.once.upload_part(
                    upload.key, upload.upload_id, number, checksums.body(pieces)
                )
            if not checksums.matches(etag):
                raise TransientError(
                    "the store has received other bytes than were sent: its ETag is not their MD5",
                    where=Where("UploadPart", self.bucket.name, upload.key, part=number),
                )
            return etag

        return await self.bucket.retrier("UploadPart", once)

    async def abort_given_up(self) -> None:
        """Abort once more what was given up, and what is being created; errors here would hide the first one."""
        for key in sorted(self.creating):
            await self._abort_unknown(key)
        await self._abort_all(
            [upload.handle for upload in self.unsure if upload.upload_id not in self.aborted]
        )

    async def _abort(self, uploads: Sequence[Upload]) -> None:
        """Abort them, and all that was given up."""
        with anyio.move_on_after(_CLEANUP_SECONDS, shield=True):
            await self.abort_given_up()
            await self._abort_all([upload.handle for upload in uploads])

    async def abort_own(self, theirs: set[str]) -> None:
        """Abort this run's open uploads, except for the UploadIds that now belong to another run."""
        spared = theirs | self.aborted
        await self._abort_all(
            [
                upload.handle
                for upload in [*self.opened, *self.unsure]
                if upload.created_by == self.run_id and not upload.record and upload.upload_id not in spared
            ]
        )
        for key in sorted(self.creating):
            await self._abort_unknown(key)

    async def _require_prefix(self, *, settled: bool) -> None:
        if self.bucket.guard is not None:
            await self.bucket.retrier("HeadObject", partial(self.bucket.guard.check, settled=settled))

    async def _abort_unknown(self, key: str) -> None:
        """Abort unknown uploads of ``key``: no other run holds the prefix, so they were left by accident."""
        known = {upload.upload_id for upload in [*self.opened, *self.adopted.values()]}
        with contextlib.suppress(RivaStreamError):
            # Without permission to list they will never be known.
            listed = await self.bucket.open_uploads(key) or ()
            found = [upload for upload in listed if upload.key == key and upload.upload_id not in known]
            if found:
                await self.bucket.require_no_holder_but_us()
            await self._abort_all(found)
            if self.aborted.issuperset(upload.upload_id for upload in found):
                self.creating.discard(key)

    async def _abort_all(self, uploads: Sequence[OpenUpload]) -> None:
        left = list(uploads)

        async def abort_some() -> None:
            while left:
                upload = left.pop()
                with contextlib.suppress(RivaStreamError):
                    await self.bucket.abort_upload(upload.key, upload.upload_id)
                    self.aborted.add(upload.upload_id)

        async with anyio.create_task_group() as cleaners:
            for _ in range(min(_CLEANUP_TASKS, len(left))):
                cleaners.start_soon(abort_some)


@contextlib.contextmanager
def _limit_of_parts(upload: Upload, number: int) -> Iterator[None]:
    """Report a refused part, after others were accepted, as its likely cause: a limit on their number.

    The store was probed (:func:`~riva_stream.s3.probe.probe_uploads`); this is for one that behaves differently later.

    Raises:
        ConfigurationError: the message names the smallest part size that works.
    """
    try:
        yield
    except (ConfigurationError, HeldError) as error:
        taken = max((done for done in upload.parts if done < number), default=0)
        if not taken or error.where.code not in _TOO_MANY:
            raise
        part = max(-(-upload.expected // taken), upload.parts[taken].size + 1)
        raise ConfigurationError(
            f"the store has accepted {taken:,} parts of the upload and refuses part {number:,}: {error.what}",
            where=error.where,
            hint=f"if it limits the parts of an upload, make them fewer: {option('part_size')} {-(-part // MIB)}MiB",
        ) from error
