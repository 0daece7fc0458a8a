"""Hold the prefix, fence whoever held it before, and go on with what it left."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial

import anyio
import anyio.to_thread

from riva_stream import clock
from riva_stream.errors import (
    AccessDeniedError,
    ConfigurationError,
    HeldError,
    RivaStreamError,
    TransientError,
    leaves_of,
)
from riva_stream.manifest import MARKER
from riva_stream.pipeline.run import Run, each, is_parted
from riva_stream.retry import Retrier
from riva_stream.s3 import CompletedPart, OpenUpload, Stored
from riva_stream.sink import KnownPart, Upload, Uploads
from riva_stream.sizes import human_size
from riva_stream.source import PinnedSource
from riva_stream.state import (
    OWN_FOLDER,
    Identity,
    Journal,
    JournaledPart,
    JournaledUpload,
    Lease,
    Process,
)

__all__ = ["Hold", "hold", "identity_of"]

_CLEANUP_SECONDS = 10.0


class Hold:
    """This run's hold on the prefix: its lease, and what the run before it left."""

    def __init__(self, run: Run, uploads: Uploads, process: Process) -> None:
        self.identity: Identity | None = None
        """Set once it is known how parts are checked; only then do the uploads mean anything to another run."""
        self._settled = False
        """Whether it is decided what becomes of the predecessor's uploads."""
        self._run = run
        self._uploads = uploads
        self._process = process
        self._token = secrets.token_hex(8)
        self.lease = Lease(
            run.destination,
            # Apart from the work's: a beat is no progress, and must not queue behind parts.
            Retrier(run.retrier.policy, run.observer, renew=run.renew_sessions),
            run.request.bucket,
            run.request.prefix,
            run.request.lease,
            self._draw,
            partial(run.warn, "journal"),
            partial(run.keep, "journal.json"),
            run.meter.touch,
            self._unfenced,
        )

    async def adopt(self) -> None:
        """Abort every open upload below the prefix but those that this run goes on with.

        The UploadId is the fencing token: from here on nothing that an earlier run still sends can become visible.
        """
        run = self._run
        before = self.lease.predecessor
        journaled = {} if before is None else {upload.upload_id: upload for upload in before.uploads}
        usable = before is not None and before.identity is not None and before.identity == self.identity
        parted = (
            {i: upload for i, upload in journaled.items() if is_parted(run.request.prefix, upload.key)}
            if usable
            else {}
        )
        adoptable = set(parted)
        try:
            found = await self._abort_all_but(adoptable)
        except AccessDeniedError:
            run.warn(
                "list-uploads",
                "open uploads may not be listed (s3:ListBucketMultipartUploads): those that no journal names stay "
                "open until the bucket's lifecycle rule aborts them",
            )
            found = [OpenUpload(upload.key, upload.upload_id) for upload in journaled.values()]
            await each([upload for upload in found if upload.upload_id not in adoptable], self._abort)
        if before is None or not usable:
            self._settle()
            return
        still_open = {upload.upload_id for upload in found}
        await each(list(parted.values()), partial(self._go_on_with, still_open))
        self._settle()
        adopted = list(self._uploads.adopted.values())
        parts = [part for upload in adopted for part in upload.known.values()]
        if parts:
            size = human_size(sum(part.size for part in parts))
            run.warn(
                "resume",
                f"going on where {before.holder()} stopped: {len(parts)} parts ({size}) are in the store already",
            )

    async def _abort_all_but(self, adoptable: set[str]) -> Sequence[OpenUpload]:
        """Abort the uploads below the prefix until a listing shows no new one; gives the last listing.

        A run that still thinks it holds the prefix may create one more between a listing and the abort of the upload
        by which it knows (:meth:`_unfenced`). It does so no more after that, so the listing after it has them all.
        """
        run = self._run
        aborted: set[str] = set()
        while True:
            found = await run.retrier(
                "ListMultipartUploads",
                partial(run.destination.list_uploads, run.request.bucket, run.request.prefix),
            )
            foreign = [upload for upload in found if upload.upload_id not in adoptable | aborted]
            if not foreign:
                return found
            await each(foreign, self._abort)
            aborted |= {upload.upload_id for upload in foreign}

    async def _unfenced(self) -> bool | None:
        """Whether the upload of our marker, which no other run would go on with, is open still; None: it is not known."""
        run = self._run
        key = run.request.prefix + MARKER
        ours = [upload for upload in self._uploads.opened if upload.key == key]
        if not ours or any(upload.completing for upload in ours):
            return None
        try:
            parts = await run.destination.list_parts(run.request.bucket, key, ours[-1].upload_id)
        except (AccessDeniedError, ConfigurationError):
            return None  # not allowed, or a store that cannot do it
        return parts is not None

    def _settle(self) -> None:
        self._settled = True
        self.lease.fenced = True

    async def withdraw(self) -> None:
        """Clean up after ourselves once the prefix is another run's: nothing that it knows is touched."""
        with anyio.move_on_after(_CLEANUP_SECONDS, shield=True), suppress(RivaStreamError):
            await self.lease.remove()  # only if it is ours still
            current = await self.lease.current()
            theirs = {upload.upload_id for upload in current.uploads} if current else set()
            await self._uploads.abort_own(theirs)

    async def _abort(self, upload: OpenUpload) -> None:
        run = self._run
        abort = partial(run.destination.abort_upload, run.request.bucket, upload.key, upload.upload_id)
        try:
            await run.retrier("AbortMultipartUpload", abort)
        except TransientError as error:
            # A probe's can stay: nothing of it could ever become part of a staging.
            if not upload.key.startswith(run.request.prefix + OWN_FOLDER):
                raise
            run.warn("probe", f"the upload of a probe stays open until gc removes it: {error}")

    async def _go_on_with(self, still_open: set[str], journaled: JournaledUpload) -> None:
        run, bucket = self._run, self._run.request.bucket
        upload = Upload(
            journaled.key,
            "",
            {},
            journaled.upload_id,
            journaled.created_by,
            self._uploads.enqueue,
        )
        if journaled.upload_id in still_open:
            listed = await run.retrier(
                "ListParts",
                partial(run.destination.list_parts, bucket, journaled.key, journaled.upload_id),
            )
            if listed is None:
                # Another upload takes its place. Should the store have been wrong, it would be open for ever, and
                # whoever held the prefix before could complete it still.
                await self._abort(OpenUpload(journaled.key, journaled.upload_id))
                return
            upload.known = _known(listed, journaled.parts)
        else:
            # Completed, when that run had come to its commit; or gone.
            info = await run.retrier("HeadObject", partial(run.destination.head, bucket, journaled.key))
            size = sum(part.size for part in journaled.parts)
            if (
                info is None
                or info.metadata.get("run-id") != journaled.created_by
                or info.size != size
                or not journaled.parts
            ):
                return
            upload.known = {
                part.number: KnownPart(part.size, part.etag, part.fingerprint, None)
                for part in journaled.parts
            }
            upload.stored = Stored(info.etag, info.version_id)
        self._uploads.adopted[journaled.key] = upload

    def _draw(self, beat: int, stopped: bool) -> Journal:
        run, before = self._run, self.lease.predecessor
        opened = [*self._uploads.opened, *self._uploads.adopted.values()]
        # The documents tell of one run, so the next one writes its own; it only has to know what to abort.
        documents = [
            JournaledUpload(key=upload.key, upload_id=upload.upload_id, created_by=upload.created_by)
            for upload in opened
            if not is_parted(run.request.prefix, upload.key)
        ]
        parted = [upload for upload in opened if is_parted(run.request.prefix, upload.key)]
        identity, journaled = (
            self.identity,
            [_journaled(upload) for upload in parted] if self.identity else [],
        )
        if not self._settled and before is not None:
            # Should this run die before it has come to them, the next one must still find them.
            identity, journaled = before.identity, before.uploads
        return Journal(
            run_id=run.run_id,
            token=self._token,
            process=self._process,
            started_at=run.started_at,
            lease=run.request.lease,
            beat=beat,
            stopped=stopped,
            identity=identity,
            uploads=[*journaled, *documents],
        )


@asynccontextmanager
async def hold(run: Run, uploads: Uploads) -> AsyncIterator[Hold]:
    """Hold the prefix while the body runs.

    It is let go for good when the body succeeds or fails for good; otherwise the journal stays for a rerun.

    Raises:
        HeldError: a live run holds it, or another run has taken it over meanwhile.
    """
    held = Hold(run, uploads, await clock.in_thread(Process.this))
    await held.lease.acquire(wait=run.request.wait)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(held.lease.beat)
            yield held
            await held.lease.settle()
            tasks.cancel_scope.cancel()
    except BaseException as error:
        causes = leaves_of(error)
        if any(isinstance(cause, HeldError) for cause in causes):
            await held.withdraw()
            raise
        final = any(isinstance(cause, RivaStreamError) and not cause.resumable for cause in causes)
        if final or not (uploads.opened or uploads.adopted):
            await held.lease.remove()  # there is nothing to go on with
        elif (taken := await held.lease.leave()) and all(
            isinstance(cause, RivaStreamError) for cause in causes
        ):
            # What failed, failed because the uploads are another run's now; some stores say so in odd words.
            await held.withdraw()
            raise taken from error
        raise
    await held.lease.remove()


def identity_of(run: Run, source: PinnedSource, check: str) -> Identity:
    """What a run must agree in with another one to go on with its uploads."""
    request = run.request
    return Identity(
        source=source.uri,
        etag=source.etag,
        version_id=source.version_id,
        size=source.size,
        include=sorted(request.include),
        part_size=request.part_size,
        check=check,
        options=[str(option) for option in (request.sse, request.kms_key_id, request.storage_class)]
        + [f"{name}={value}" for name, value in request.tags.items()],
    )


def _known(listed: Sequence[CompletedPart], journaled: Sequence[JournaledPart]) -> dict[int, KnownPart]:
    """What the store has, with the fingerprint of each part that the journal names with the same ETag and size."""
    fingerprints = {(part.number, part.size, part.etag): part.fingerprint for part in journaled}
    return {
        part.number: KnownPart(
            part.size,
            part.etag,
            fingerprints.get((part.number, part.size, part.etag), ""),
            part.crc64nvme,
        )
        for part in listed
    }


def _journaled(upload: Upload) -> JournaledUpload:
    """Its parts as far as a later run could recognise them: what the store has without a fingerprint is told by it."""
    parts = {
        number: JournaledPart(number=number, size=known.size, etag=known.etag, fingerprint=known.fingerprint)
        for number, known in upload.known.items()
        if known.fingerprint
    }
    parts |= {
        sent.number: JournaledPart(
            number=sent.number, size=sent.size, etag=sent.etag, fingerprint=sent.fingerprint
        )
        for sent in upload.parts.values()
    }
    return JournaledUpload(
        key=upload.key,
        upload_id=upload.upload_id,
        created_by=upload.created_by,
        parts=[parts[number] for number in sorted(parts)],
    )
