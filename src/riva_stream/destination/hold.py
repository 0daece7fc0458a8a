"""Hold a prefix: take the lease, fence off the previous holder, resume its uploads, and release in the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from weakref import WeakKeyDictionary

import anyio

from riva_stream import clock
from riva_stream.destination.destination import Destination
from riva_stream.errors import AccessDeniedError, HeldError, RivaStreamError, first_of, leaves_of
from riva_stream.lease import Identity, JournaledPart, JournaledUpload, Lease, Process
from riva_stream.lease.lease import JournalContent
from riva_stream.retry import Retrier
from riva_stream.run import Run, gather_bounded
from riva_stream.s3 import CompletedPart, OpenUpload, WritableBucket
from riva_stream.s3.bucket import ask_until_found, confirm_refusal
from riva_stream.sink import SentPart, Upload, UploadedPart, Uploads
from riva_stream.sizes import human_size

__all__ = ["hold", "resume", "warn_resumed"]

_CLEANUP_SECONDS = 10.0


@asynccontextmanager
async def hold(
    run: Run, bucket: WritableBucket, *, listed: bool = False, lists: bool = False
) -> AsyncIterator[Destination]:
    """Hold the prefix while the body runs.

    It is released for good when the body succeeds or fails for good; otherwise the journal stays for a rerun.

    Args:
        run: the run.
        bucket: where it makes its changes.
        listed: a listing has just shown a journal.
        lists: the prefix could be listed.

    Raises:
        HeldError: a live run holds it, or another run has taken it over meanwhile.
    """
    uploads = Uploads(
        bucket,
        "none",
        run.lanes.upload,
        run.meter.add_durable,
        run.run_id,
        run.lanes.copy,
        run.meter.add_copied,
        tagging=run.tagging,
    )
    journaled = _JournaledParts()
    lease = Lease(
        replace(bucket, retrier=Retrier(run.retrier.policy, run.observer, renew=run.renew_sessions)),
        run.layout,
        run.request.lease,
        run.run_id,
        run.started_at,
        await clock.in_thread(Process.this),
        lambda: _journal_content(destination, journaled),
        partial(run.warn, "journal"),
        partial(run.save_copy, "journal.json"),
        run.meter.touch,
        run.observer,
        lists=lists,
    )
    destination = Destination(run, bucket, lease, uploads)
    await lease.acquire(wait=run.request.wait, listed=listed)
    if not (lease.conditional or lease.windowed):
        run.warn(
            "conditions",
            "the store has neither conditional writes nor expiring signatures: a run that is suspended for longer than "
            "its lease and wakes up may change objects that another one has staged meanwhile",
        )
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lease.heartbeat)
            uploads.bucket, uploads.before_abort = destination.guarded, destination.disown_uploads
            async with uploads:
                yield destination
            await destination.wait_out_doubts()
            await lease.settle()
            tasks.cancel_scope.cancel()
    except BaseException as error:  # noqa: BLE001 - told again
        try:
            told = await _clean_up(destination, error)
        except Exception as broken:  # noqa: BLE001 - of a caller's own store; the first error is the one to tell
            told = first_of(error)
            told.add_note(f"besides, the clean-up has failed: {type(broken).__name__}")
        try:
            raise told from None
        finally:
            del told  # a reference cycle through its traceback would keep open what the run has open
    if not await destination.forget_checkpoints() or uploads.may_be_open:
        run.warn(
            "journal",
            "an upload or a checkpoint could not be removed; the journal, which names it, stays too: the next run "
            "that writes here, or `gc`, removes them",
        )
        destination.committing = False  # all that was begun is done
        await lease.stop()
    else:
        await lease.release()


async def _clean_up(destination: Destination, error: BaseException) -> BaseException:
    """Clean up after a failed run, except for what may stay; return the error to raise."""
    lease, uploads = destination.lease, destination.uploads
    causes = leaves_of(error)
    if held := [cause for cause in causes if isinstance(cause, HeldError)]:
        await _clean_up_after_takeover(destination, has_ended=any(cause.has_ended for cause in held))
        return first_of(error)
    has_failed = all(isinstance(cause, RivaStreamError) for cause in causes)  # otherwise it was cancelled
    final = any(isinstance(cause, RivaStreamError) and not cause.resumable for cause in causes)
    # Neither uploads of ours nor of the previous holder.
    nothing_left = not (uploads.opened or uploads.adopted) and (
        destination.settled or lease.predecessor is None
    )
    swept = False
    if final or nothing_left:
        try:
            swept = await _sweep(destination)
        except HeldError as lost:
            await _clean_up_after_takeover(destination, has_ended=lost.has_ended)
            return lost if any(isinstance(cause, RivaStreamError) for cause in causes) else first_of(error)
    nothing_stays = swept and not (destination.in_doubt or destination.leaves_unseen or uploads.may_be_open)
    if nothing_stays and await destination.forget_checkpoints():
        await lease.release()  # nothing is left to resume
    elif taken := await lease.stop():
        await _clean_up_after_takeover(destination, has_ended=taken.has_ended)
        if has_failed:  # due to the uploads being another run's now; some stores answer that with odd errors
            return taken
    return first_of(error)


async def _sweep(destination: Destination) -> bool:
    """Abort every open upload, also one whose Create was not answered; return whether that is certain.

    Raises:
        HeldError: the prefix is another run's.
    """
    lease, uploads = destination.lease, destination.uploads
    with anyio.move_on_after(_CLEANUP_SECONDS, shield=True):
        await uploads.abort_given_up()
        if lease.was_late and not (lease.is_settled or uploads.opened or uploads.may_be_open):
            return True  # nothing is left, and it would be long before the prefix could be checked
        try:
            await destination.ensure()
            await destination.abort_foreign_uploads()
        except HeldError:
            raise
        except RivaStreamError:
            return False
        uploads.creating.clear()
        return True
    return False


async def resume(destination: Destination, identity: Identity) -> None:
    """Fence off the run that held the prefix before, and adopt those of its uploads that can be resumed.

    The UploadId is the fencing token: what the journal names is aborted by id, whatever a listing shows. From here on
    nothing that an earlier run still sends can become visible. If that run had begun to commit, nothing is adopted: the
    previous holder could still complete an adopted upload.
    """
    run = destination.run
    destination.identity = identity
    before = destination.lease.predecessor
    resumable = (
        run.request.mode == "full"
        and before is not None
        and before.identity == identity
        and not before.has_begun
    )
    # An upload whose abort failed may be named beside its replacement: an object is made of only one of them.
    best: dict[str, JournaledUpload] = {}
    if before is not None:
        for upload in before.uploads if resumable else ():
            if run.layout.is_payload(upload.key):
                best[upload.key] = max(best.get(upload.key, upload), upload, key=lambda it: len(it.parts))
        kept = {upload.upload_id for upload in best.values()}
        unwanted = [
            OpenUpload(upload.key, upload.upload_id)
            for upload in before.uploads
            if upload.upload_id not in kept and run.layout.owns(upload.key)
        ]
        await (destination.disown_uploads() if unwanted and not resumable else destination.ensure())
        await gather_bounded(unwanted, destination.abort)
    hidden = [
        upload
        for upload in await gather_bounded(list(best.values()), partial(_adopt, destination))
        if upload is not None
    ]
    if hidden:
        # They are replaced by new ones: they would stay open forever, and the previous holder could complete them.
        await destination.disown_uploads()
        await gather_bounded(hidden, destination.abort)
    if before is not None:
        if resumable:
            destination.checkpoints = [
                named for named in before.checkpoints if run.layout.is_checkpoint(named.key)
            ]
        else:
            await destination.forget_checkpoints()
    if destination.lease.is_settled:  # otherwise the commit does it: a stranger may still be the holder
        await destination.abort_foreign_uploads()
    destination.settled = destination.adoptable = True


def warn_resumed(destination: Destination) -> None:
    """Report what an earlier run has left for this one to resume."""
    before = destination.lease.predecessor
    parts = [part for upload in destination.uploads.adopted.values() for part in upload.uploaded.values()]
    if parts and before is not None:
        size = human_size(sum(part.size for part in parts))
        destination.run.warn(
            "resume", f"resuming {before.holder()}: {len(parts)} parts ({size}) are already uploaded"
        )


async def _adopt(destination: Destination, journaled: JournaledUpload) -> OpenUpload | None:
    """Adopt an upload if it exists; return one that may exist but cannot be listed."""
    here = OpenUpload(journaled.key, journaled.upload_id)
    ask = partial(destination.bucket.list_parts, journaled.key, journaled.upload_id)
    try:
        listed = await confirm_refusal(partial(ask_until_found, ask))
    except AccessDeniedError as error:
        destination.run.warn("list-parts", f"nothing can be resumed: {error}")
        return here
    if listed is not None:
        destination.uploads.adopt(
            journaled.key, journaled.upload_id, journaled.created_by, _uploaded_parts(listed, journaled.parts)
        )
        return None
    await destination.abort(here)  # in case the store is wrong after all
    return None


def _journal_content(destination: Destination, journaled: _JournaledParts) -> JournalContent:
    """The current content of this run's journal."""
    before = destination.lease.predecessor
    if not destination.settled and before is not None:
        # If this run dies before it has dealt with these, the next one must still find them.
        return JournalContent(
            before.identity if destination.adoptable else None,
            before.uploads,
            destination.committing or before.has_begun,
            before.stale,
            before.checkpoints,
        )
    current, existing = destination.uploads, destination.existing
    stale = set(before.leftover_keys() if before else ())
    if destination.committing and not existing.listed:
        stale |= existing.named_keys  # the documents that name them are about to be replaced or deleted
    return JournalContent(
        destination.identity if destination.adoptable else None,
        [journaled.of(upload) for upload in (*current.opened, *current.adopted.values(), *current.unsure)],
        destination.committing,
        sorted(stale),
        destination.checkpoints,
    )


async def _clean_up_after_takeover(destination: Destination, *, has_ended: bool) -> None:
    """Clean up once the prefix is another run's: nothing that its journal names is touched.

    Args:
        destination: the one that was lost.
        has_ended: there was no journal any more, so that no other run holds the prefix.
    """
    for _ in range(2):  # if the process is suspended meanwhile, the first attempt has no time left
        with anyio.move_on_after(_CLEANUP_SECONDS, shield=True) as scope, suppress(RivaStreamError):
            await _abort_own(destination, has_ended=has_ended)
        if not scope.cancelled_caught:
            return


async def _abort_own(destination: Destination, *, has_ended: bool) -> None:
    lease, uploads = destination.lease, destination.uploads
    try:
        current = await lease.current()
    except RivaStreamError:
        if not has_ended:
            # Whatever a journal of ours has named may be named by the current one: another run may be using it.
            await uploads.abort_own(lease.sent)
            raise
        current = None
    if current is None or current.token != lease.token:
        await uploads.abort_own({upload.upload_id for upload in current.uploads} if current else set())
        await destination.forget_checkpoints(current)
        return
    await destination.disown_uploads()
    await uploads.abort_own(set())
    forgotten = await destination.forget_checkpoints()
    # Neither a missing upload nor a refusal makes the journal another run's: it may be the last record of what the
    # previous run has left open.
    unsettled = lease.predecessor is not None and not destination.settled
    if unsettled or not forgotten or destination.in_doubt or destination.leaves_unseen or uploads.may_be_open:
        await lease.stop()
    else:
        await lease.release()


def _uploaded_parts(
    listed: Sequence[CompletedPart], journaled: Sequence[JournaledPart]
) -> dict[int, UploadedPart]:
    """The parts in the store, each with what the journal says of it if that has the same ETag and size."""
    told = {(part.number, part.size, part.etag): (part.fingerprint, part.crc64nvme) for part in journaled}

    def uploaded(part: CompletedPart) -> UploadedPart:
        fingerprint, sent = told.get((part.number, part.size, part.etag), ("", None))
        return UploadedPart(part.size, part.etag, fingerprint, part.crc64nvme, sent)

    return {part.number: uploaded(part) for part in listed}


class _JournaledParts:
    """Uploads as journaled, each part built once: journals are written often, on the loop, with tens of thousands."""

    def __init__(self) -> None:
        self._built: WeakKeyDictionary[Upload, dict[int, tuple[UploadedPart | SentPart, JournaledPart]]] = (
            WeakKeyDictionary()
        )

    def of(self, upload: Upload) -> JournaledUpload:
        """The upload with the parts that a later run could recognise: not those in the store without a fingerprint."""
        built = self._built.setdefault(upload, {})
        parts: dict[int, UploadedPart | SentPart] = {
            n: part for n, part in upload.uploaded.items() if part.fingerprint
        }
        parts |= {n: part for n, part in upload.parts.items() if part.fingerprint}
        for number, part in parts.items():
            if number not in built or built[number][0] is not part:
                built[number] = part, _journaled(number, part)
        return JournaledUpload(
            key=upload.key,
            upload_id=upload.upload_id,
            created_by=upload.created_by,
            parts=[built[number][1] for number in sorted(parts)],
        )


def _journaled(number: int, part: UploadedPart | SentPart) -> JournaledPart:
    crc = part.sent_crc64nvme if isinstance(part, UploadedPart) else part.checksum
    return JournaledPart(
        number=number, size=part.size, etag=part.etag, fingerprint=part.fingerprint, crc64nvme=crc
    )
