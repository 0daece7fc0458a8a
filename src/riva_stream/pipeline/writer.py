"""The documents of a staging: put, looked at again, and the marker among them read back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from riva_stream.deployment import KINDS
from riva_stream.errors import DigestMismatchError, HeldError, TransientError, Where
from riva_stream.manifest import StagedFile
from riva_stream.pipeline.run import Run, each
from riva_stream.pipeline.stale import delete
from riva_stream.pipeline.verify import verify_document
from riva_stream.report import ObjectCheck
from riva_stream.s3 import Stored
from riva_stream.sink import Check, Upload, UploadRecord, Uploads, body_of
from riva_stream.state import Lease

__all__ = ["Writer"]

_CONFLICTS = 3
"""Attempts to put a document on condition that there is none."""
_LIMIT = 1 << 20
"""Bytes at most of a document that is read back."""


@dataclass(eq=False)
class Writer:
    """Writes the documents of one staging.

    By plain PUTs, or once :meth:`open` was called through multipart uploads like all else: whoever takes the prefix over
    aborts these as well, so a run that was taken for dead can no longer put a document of its own beside another run's.
    """

    run: Run
    check: Check
    lease: Lease | None = None
    """None where nothing was there to contend for."""
    written: list[str] = field(default_factory=list, init=False)
    """Keys, in the order in which they were completed."""
    checks: list[ObjectCheck] = field(default_factory=list, init=False)
    _documents: dict[str, Upload] = field(default_factory=dict, init=False)
    _uploads: Uploads | None = field(default=None, init=False)

    async def open(self, uploads: Uploads, names: Sequence[str]) -> None:
        """Create the uploads of these documents, before any byte moves."""
        self._uploads = uploads
        await each(names, partial(self._open, uploads))

    async def _open(self, uploads: Uploads, name: str) -> None:
        self._documents[name] = await uploads.open(
            self.run.request.prefix + name,
            content_type=KINDS[name].content_type,
            metadata=self.run.metadata(KINDS[name].artifact_type),
        )

    async def put(
        self, name: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None
    ) -> StagedFile:
        """Write a document; nothing of it is looked at yet.

        Args:
            name: of the document.
            data: what it holds; no other run writes the same.
            if_absent: only if there is none.
            if_match: only if there is one with this ETag (not for documents that go through an upload).

        Raises:
            HeldError: the condition does not hold: another run has been there.
        """
        run, key = self.run, self.run.request.prefix + name
        content_type, artifact_type = KINDS[name].content_type, KINDS[name].artifact_type
        checksum: str | None
        if self._uploads is not None:
            record = await self._put_fenced(self._uploads, name, data, if_absent=if_absent)
            stored, checksum = record.stored, record.crc64nvme
        else:
            body = body_of(data, self.check)
            put = partial(
                run.destination.put,
                run.request.bucket,
                key,
                body,
                content_type=content_type,
                metadata=run.metadata(artifact_type),
                if_absent=if_absent,
                if_match=if_match,
            )

            async def once(tags: Mapping[str, str]) -> Stored:
                try:
                    return await put(tags=tags)
                except HeldError:
                    # Refused: another run's is there, or ours is, by an attempt whose answer was lost.
                    there = await run.destination.get(run.request.bucket, key, limit=_LIMIT)
                    if there is None or there.data != data:
                        raise
                    return Stored(there.info.etag, there.info.version_id)

            stored = await run.retrier("PutObject", partial(run.tagging.along, once))
            checksum = body.crc64nvme
        run.meter.touch()
        self.written.append(key)
        await self.tag(key)
        await run.keep(name, data)
        return StagedFile(
            s3_key=key,
            size_bytes=len(data),
            content_type=content_type,
            etag=stored.etag,
            checksum=f"sha256:{hashlib.sha256(data).hexdigest()}",
            version_id=stored.version_id,
            store_checksum=f"crc64nvme:{checksum}" if checksum else None,
        )

    async def tag(self, *keys: str, older: Iterable[str] = ()) -> None:
        """Make sure that objects have the tags that were asked for; see :class:`~riva_stream.sink.Tagging`."""
        run = self.run
        await run.tagging.settle(run.destination, run.request.bucket, run.retrier, keys, older=older)

    async def verify(self, file: StagedFile) -> StagedFile:
        """HEAD a document that :meth:`put` has written.

        Raises:
            DigestMismatchError: it is not what was sent.
            HeldError: another run has written it.
        """
        self.checks.append(await verify_document(self.run, file))
        return file

    async def mark(self, name: str, text: bytes, is_ours: Callable[[bytes], bool]) -> None:
        """Put a marker on condition that there is none, and read it back.

        Args:
            name: of the document.
            text: what it says.
            is_ours: whether a marker that reads otherwise is this run's, however garbled it may have come.

        Raises:
            DigestMismatchError: it reads otherwise than it was written, and was removed again.
            HeldError: another run has put its own.
        """
        if self.lease is not None:
            await self.lease.check()
        run, key = self.run, self.run.request.prefix + name
        held: HeldError | None = None
        try:
            await self.put(name, text, if_absent=True)
        except HeldError as error:
            held = error  # a marker is there: another run's, or ours, whose answer was lost

        async def read_back() -> None:
            read = await run.destination.get(run.request.bucket, key, limit=_LIMIT)
            found = read.data if read else None
            if found == text:
                return
            if held is not None or (found is not None and not is_ours(found)):
                raise held or HeldError(
                    "another run has put its own marker", hint="run the same command again"
                )
            raise TransientError("the marker reads otherwise than it was written")

        try:
            await run.retrier("GetObject", read_back)
        except HeldError:
            raise
        except TransientError as error:
            if error.where.status is not None or error.__cause__ is not None:
                raise
            await delete(run, key)
            raise DigestMismatchError(
                "the marker reads otherwise than it was written; it was removed again",
                where=Where("GetObject", run.request.bucket, key),
                hint="run the same command again",
            ) from error
        self.checks.append(ObjectCheck(key=key, size_bytes=len(text), by=["content"]))

    async def _put_fenced(self, uploads: Uploads, name: str, data: bytes, *, if_absent: bool) -> UploadRecord:
        attempt = 1
        if self._documents[name].record is not None:  # written once already, and now otherwise
            await self._open(uploads, name)
        while True:
            try:
                return await uploads.put(self._documents[name], data, if_absent=if_absent)
            except HeldError as error:
                # The key has changed since the upload was created, be it only that the old marker was deleted. S3
                # then wants a new upload (API reference, CompleteMultipartUpload: ConditionalRequestConflict).
                if error.where.code != "ConditionalRequestConflict" or attempt == _CONFLICTS:
                    raise
            attempt += 1
            if self.lease is not None:
                await self.lease.check()
            await self._open(uploads, name)
