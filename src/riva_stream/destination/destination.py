"""The only object that makes changes which readers can see; it knows whether there is a marker.

The rules, each enforced by the method that could break it:

* Only uploads that a confirmed journal names are completed, and each journal names everything that may be in flight.
* Each attempt of a change first checks that the prefix is still ours and the marker the known one, and carries the rest
  of the lease in its signature.
* While there is a marker, nothing that it vouches for is replaced or deleted: the marker itself is deleted first.
* Each change replaces or deletes exactly the object that was checked, where the store supports conditions.
* Only keys of the layout are deleted, whatever a document says.
* Once the marker was sent nothing is rolled back. Uncertainty is never a reason to delete anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import anyio

from riva_stream import clock
from riva_stream.deployment import KINDS
from riva_stream.documents.compare import (
    ContradictionError,
    retry_contradictions,
    verify_document,
    verify_upload,
)
from riva_stream.documents.existing import Existing, inspect
from riva_stream.errors import (
    AccessDeniedError,
    DigestMismatchError,
    HeldError,
    IntegrityError,
    RivaStreamError,
    TransientError,
    Where,
    leaves_of,
)
from riva_stream.events import ObjectCompleted
from riva_stream.layout import (
    DEPLOYMENT_DOCUMENTS,
    DEPLOYMENT_READY,
    FOLDERS,
    MANIFEST_JSON,
    OF_FULL,
    SCRATCH,
)
from riva_stream.lease import Identity, Journal, JournaledCheckpoint, Lease
from riva_stream.manifest import StagedFile
from riva_stream.naming import option
from riva_stream.printable import some_of
from riva_stream.report import ObjectCheck
from riva_stream.run import Run, gather_bounded
from riva_stream.s3 import (
    REQUEST_EXPIRED,
    UNSEEN,
    Bucket,
    LeftUpload,
    ObjectInfo,
    OpenUpload,
    Stored,
    Window,
    WritableBucket,
)
from riva_stream.s3.bucket import LOOKS, confirm_refusal, pause_after
from riva_stream.s3.scratch import CONDITION_REFUSED
from riva_stream.sink import Upload, UploadRecord, Uploads, body_of, etags_of
from riva_stream.tasks import await_shielded

__all__ = ["Destination"]

T = TypeVar("T")

_GONE = frozenset({"NoSuchUpload", "NoSuchKey", "404"})
"""Codes of the answer to Complete for an upload that does not exist (any more)."""
_ATTEMPTS = 3
"""Uploads created for one document, at most, if the store says that its key has changed meanwhile."""
_LIMIT = 1 << 20
"""Bytes at most of a document that is read back."""
_UNDO_SECONDS = 20.0
_CHECKPOINT_SECONDS = 2.0
"""Seconds to wait for the answer to a checkpoint's PUT: if it is unknown whether it was kept, a listing finds it."""
_KEPT_CHECKPOINTS = 2
"""Checkpoints that are kept: one to fall back to if the newest is unusable."""


@dataclass(eq=False)
class Destination:
    """One prefix while this run holds it."""

    run: Run
    bucket: WritableBucket
    lease: Lease
    uploads: Uploads
    existing: Existing = field(default_factory=partial(Existing, listed=False), init=False)
    """What was at the prefix when we took it over; empty until that is known."""
    identity: Identity | None = field(default=None, init=False)
    """Set once it is known how parts are checksummed; only then can another run use the uploads."""
    settled: bool = field(default=False, init=False)
    """Whether the previous holder's uploads, if any, have been adopted or aborted."""
    adoptable: bool = field(default=True, init=False)
    """Whether another run may resume the uploads that our journal names."""
    committing: bool = field(default=False, init=False)
    """Whether changes that readers can see are allowed."""
    checkpoints: list[JournaledCheckpoint] = field(default_factory=list, init=False)
    """Newest first: those of this run, and of the one that it resumes."""
    checks: list[ObjectCheck] = field(default_factory=list, init=False)
    """The checks of each object that was written."""
    _marker: str | None = field(default=None, init=False)
    """ETag of the current marker; None: there is none."""
    _seal: str = field(default="", init=False)
    """Key of the marker that this run writes."""
    _sealed: bool = field(default=False, init=False)
    """Whether Complete was sent for that marker: from then on nothing is rolled back."""
    _conditional: bool = field(default=True, init=False)
    _keeps_etags: bool = field(default=False, init=False)
    """Whether an object was seen to keep the ETag of the answer to its Complete."""
    _documents: dict[str, Upload] = field(default_factory=dict, init=False)
    """Uploads of documents that are not completed yet, by name."""
    _completed: dict[str, str] = field(default_factory=dict, init=False)
    """Keys that this run has completed, in order, with their ETags."""
    _sent: set[str] = field(default_factory=set, init=False)
    """Keys for which Complete was sent, even if its answer was lost."""
    _deleted: set[str] = field(default_factory=set, init=False)
    """Keys whose objects this run has deleted, so that none is expected there."""
    _checked: dict[str, Callable[[], Awaitable[ObjectCheck]]] = field(default_factory=dict, init=False)
    """Key → the check that the stored object is the one that was sent."""
    _checkpoints: int = field(default=0, init=False)
    """How many checkpoints this run has written."""
    _written: set[str] = field(default_factory=set, init=False)
    """Keys of this run's checkpoints that may still exist."""
    _dropped: set[str] = field(default_factory=set, init=False)
    """Keys of checkpoints, of this run or earlier ones, that are no longer needed and could not be deleted yet."""
    _doubtful_until: float = field(default=float("-inf"), init=False)
    """The time until which a deletion of ours whose answer was lost may still take effect."""

    async def ensure(self) -> None:
        """Check that the prefix is still ours.

        Raises:
            HeldError: another run has taken over.
        """
        await self.bucket.retrier("HeadObject", self.lease.check)

    @property
    def guarded(self) -> WritableBucket:
        """The bucket for creating uploads: each attempt first checks that the prefix is ours."""
        return replace(self.bucket, guard=self.lease, left=self._note_scratch)

    def _note_scratch(self, left: LeftUpload) -> None:
        """Have the journal name a probe's upload that may still be open, and stay for as long as it may."""
        self.uploads.give_up(left.key, left.upload_id)
        self.run.warn_scratch(left)

    async def _is_ours(self) -> bool:
        try:
            await self.ensure()
        except RivaStreamError:
            return False
        return True

    async def disown_uploads(self) -> None:
        """Stop others from resuming the uploads that our journal names: they are about to be aborted.

        An abort may arrive late, after its sender has died: it must not hit an upload that the next run has resumed.

        Raises:
            HeldError: another run has taken over.
        """
        self.adoptable = False
        await self.lease.write()

    # ── checkpoints: invisible to readers, and each key is used by one process only ───────────────────────────────────

    async def keep_checkpoint(self, data: bytes, offset: int) -> None:
        """Write a checkpoint, name it in the journal, and delete all but the newest two.

        Args:
            data: the checkpoint's bytes.
            offset: bytes of the archive that it saves a resuming run from reading again.

        Raises:
            HeldError: another run has taken over.
        """
        self._checkpoints += 1
        key = self.run.layout.checkpoint(self.lease.token, self._checkpoints)
        self._written.add(key)
        await await_shielded(partial(self._put_checkpoint, key, data), grace=_CHECKPOINT_SECONDS)
        named = JournaledCheckpoint(key=key, sha256=hashlib.sha256(data).hexdigest(), offset=offset)
        self._dropped |= {old.key for old in self.checkpoints[_KEPT_CHECKPOINTS - 1 :]}
        self.checkpoints = [named, *self.checkpoints[: _KEPT_CHECKPOINTS - 1]]
        await self.lease.write()
        # What cannot be deleted now is deleted with the next, or at the end: the newest is kept and named in any case.
        try:
            for old in sorted(self._dropped):
                await self._delete_checkpoint(old)
                self._dropped.discard(old)
        except RivaStreamError:
            if len(self._dropped) >= LOOKS:  # they would pile up
                raise

    async def forget_checkpoints(self, theirs: Journal | None = None) -> bool:
        """Delete all checkpoints, and a killed probe's object: no run will resume from them. Not to be cancelled.

        Args:
            theirs: another run's journal: what it names, and what other runs have written, is not ours to delete.

        Returns:
            Whether none is left but those that may not be deleted: the journal must tell the next run of any other.
        """
        named = {checkpoint.key for checkpoint in (theirs.checkpoints if theirs else ())}
        keys = set(self._written)
        if theirs is None:
            before = self.lease.predecessor
            keys |= {checkpoint.key for checkpoint in (before.checkpoints if before else ())}
            keys |= set(self.existing.etags)
        layout = self.run.layout
        todo = sorted(key for key in keys - named if layout.is_checkpoint(key) or layout.is_probe(key))
        with anyio.move_on_after(_UNDO_SECONDS, shield=True):
            try:
                await gather_bounded(todo, self._surely_delete_checkpoint)
            except RivaStreamError as error:
                return isinstance(error, AccessDeniedError)
            return True
        return False

    async def _put_checkpoint(self, key: str, data: bytes) -> None:
        """Put it, checking the prefix first in each attempt: no journal names what is put after losing the prefix."""
        bucket, body = self.guarded, body_of(data, self.uploads.check)
        put = partial(bucket.once.put, key, body, content_type="application/json", metadata={})

        async def once() -> None:
            await bucket.send_within(await bucket.look(), lambda window: put(window=window))

        await bucket.retrier("PutObject", once)

    async def _delete_checkpoint(self, key: str) -> None:
        await self.bucket.delete(key)
        self._written.discard(key)

    async def _surely_delete_checkpoint(self, key: str) -> None:
        """Delete one whose only record is about to be deleted."""
        await confirm_refusal(partial(self._delete_checkpoint, key))

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def inspect(self) -> Existing:
        """Inspect the prefix. Only now: the previous holder can no longer change anything there."""
        self.existing = await inspect(self.run)
        self._marker = self.existing.marker_etag
        return self.existing

    # ── committing ───────────────────────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def commit(self, names: Sequence[str]) -> AsyncIterator[None]:
        """Allow changes that readers can see while the body runs.

        Args:
            names: documents that will be put; their uploads are created now.

        What must not remain after a failure is rolled back: after an integrity error all completed objects, otherwise
        the documents that allow deployment. What belongs to a run that has taken over is left alone.
        """
        retracted = {self.run.layout.marker_name} if self._marker is not None else set()
        if self.existing.may_have(self.run.layout.prefix + DEPLOYMENT_READY):
            retracted.add(DEPLOYMENT_READY)
        # S3 wants a new upload if the key is deleted meanwhile (CompleteMultipartUpload: ConditionalRequestConflict).
        await gather_bounded([name for name in names if name not in retracted], self._open)
        self.committing = True
        self._conditional = self.lease.conditional
        await self.lease.write()
        if not self.lease.is_settled:
            await self.ensure()
        if self.lease.was_late:
            await self._require_as_found()
        await self.uploads.abort_unused()
        await self.abort_foreign_uploads()
        try:
            yield
        except BaseException as error:
            causes = leaves_of(error)
            with anyio.move_on_after(_UNDO_SECONDS, shield=True):
                # An aborted upload does not mean that the prefix is another run's.
                if not any(isinstance(cause, HeldError) for cause in causes) or await self._is_ours():
                    await self._roll_back(
                        everything=any(isinstance(cause, IntegrityError) for cause in causes)
                    )
            raise

    async def _require_as_found(self) -> None:
        """Inspect the prefix again: a run that held it before, unseen, may have changed it since.

        Raises:
            HeldError: the content has changed.
        """
        layout = self.run.layout

        def seen(found: Existing) -> tuple[str | None, dict[str, str]]:
            return found.marker_etag, {
                key: etag for key, etag in found.etags.items() if not layout.is_own(key)
            }

        if seen(await inspect(self.run)) != seen(self.existing):
            raise HeldError(
                f"another run has changed the content of {layout.uri} since this run took it over",
                where=Where("ListObjectsV2", layout.bucket, layout.prefix),
                hint="run the same command again",
            )

    async def retract(self) -> None:
        """Delete the markers before anything else: nothing is staged from here on, and nothing may be deployed."""
        if self._marker is not None:
            await self._delete(self.run.layout.marker, self._marker)
            self._marker = None
        await self.retract_ready()

    async def retract_ready(self) -> None:
        """Delete a ``deployment_ready.txt`` that does not belong to the staging being made."""
        key = self.run.layout.prefix + DEPLOYMENT_READY
        if key != self.run.layout.marker and self.existing.may_have(key):
            info = await self._head_existing(key)
            if info is not None and _has_our_metadata(info):
                await self._delete(key, info.etag)

    async def complete(self, upload: Upload) -> UploadRecord:
        """Make the object of an upload visible.

        Raises:
            HeldError: another run has aborted the upload, or has changed what is there.
        """
        if upload.upload_id not in self.lease.named:
            await self.lease.write()
        condition, run_id = await self._condition(upload.key)
        whole = self.uploads.whole_crc64nvme(upload)
        # Afterwards the run id tells our object from the old one, unless that came from a run with the same id.
        before = condition.get("if_match") if run_id == upload.created_by else None
        in_doubt = False  # whether an attempt may have succeeded, whatever its answer was

        async def once() -> Stored:
            nonlocal in_doubt
            refusals = 0
            while True:
                if (there := await self._marker_already_put(upload)) is not None:
                    return there
                window = await self._may_change(upload.key)
                sent = condition if self._conditional else {}
                if upload.upload_id not in self.lease.named:
                    raise RuntimeError("an upload that no journal names")
                self._sealed |= upload.key == self._seal
                self._sent.add(upload.key)
                try:
                    return await self._send_complete(upload, before, crc64nvme=whole, window=window, **sent)
                except RivaStreamError as error:
                    # A second attempt also gets "no such upload", or a failed condition, after a first whose answer was
                    # lost.
                    info = await self.bucket.once.head_or_unseen(upload.key)
                    # The old object may have the same bytes: then only the upload tells, by being gone.
                    done = info is not None and (info.etag != before or error.where.code in _GONE)
                    if info is not None and done and self.uploads.is_ours(info, upload, before=before):
                        return Stored(info.etag, info.version_id)
                    refusals += 1
                    in_doubt |= isinstance(error, TransientError)
                    if not await self._may_retry(error, sent, window, info, refusals):
                        if isinstance(error, DigestMismatchError) and not in_doubt:
                            self._sent.discard(upload.key)  # it cannot appear later
                            self._sealed &= upload.key != self._seal
                        raise self._complete_error(error, upload) from error

        stored = await self.bucket.retrier("CompleteMultipartUpload", once)
        record = upload.record = self.uploads.record_of(upload, await self._as_kept(upload, stored))
        self._completed[upload.key] = record.stored.etag
        self._checked[upload.key] = partial(verify_upload, self.run, record)
        self.run.meter.touch()
        return record

    async def _send_complete(self, upload: Upload, before: object, **given: Any) -> Stored:
        """Send one Complete; an answer without an ETag is not believed.

        Some stores return none, and some return 200 with no object behind it.

        Raises:
            TransientError: the object does not exist.
        """
        stored = await self.bucket.once.complete_upload(
            upload.key, upload.upload_id, upload.completed_parts(), **given
        )
        if stored.etag:
            return stored
        info = await self.bucket.once.head_or_unseen(upload.key)
        # Whether its ETag is that of these bytes is checked later, on the stored object.
        is_there = info is UNSEEN or (
            info is not None
            and (info.size, info.metadata.get("run-id")) == (upload.size, upload.created_by)
            and (info.etag != before or self.uploads.is_ours(info, upload, before=before))
        )
        if not is_there:
            raise TransientError(
                "the store has acknowledged the object, but it is not there",
                where=Where("CompleteMultipartUpload", self.run.layout.bucket, upload.key),
            )
        return stored

    async def _as_kept(self, upload: Upload, stored: Stored) -> Stored:
        """The answer to Complete, corrected by a HEAD if its ETag is missing or might not be the final one.

        Some stores answer with another ETag than they show from then on, such as that of a single part's bytes; the one
        shown is believed if it fits these bytes. A store that once kept the ETag of its answer is not asked again.
        """
        parts = upload.in_order
        usual = stored.etag in etags_of(parts)
        if stored.etag and (self.bucket.is_aws or (usual and (len(parts) > 1 or self._keeps_etags))):
            return stored
        info = await self._head_confirmed(self.bucket, upload.key)
        if info is None or (stored.etag and not self.uploads.is_ours(info, upload)):
            return stored
        self._keeps_etags |= usual and info.etag == stored.etag
        return Stored(info.etag, info.version_id)

    async def complete_all(self, uploads: Sequence[Upload]) -> list[UploadRecord]:
        """Make the objects of the archive and its models visible, and verify each."""
        records = await gather_bounded(uploads, self.complete)
        for record in records:
            self.run.observer(ObjectCompleted(key=record.key, size=record.size))
        await self.tag(
            *(record.key for record in records),
            older=[upload.key for upload in uploads if upload.is_adopted],
        )
        await gather_bounded(records, partial(verify_upload, self.run))
        return records

    async def put(self, name: str, data: bytes) -> StagedFile:
        """Write a document, without verifying it yet.

        Through an upload like everything else: a run that takes over aborts it, so a run that was taken for dead cannot
        put a document of its own beside another run's.

        Raises:
            HeldError: another run has taken over.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            if name not in self._documents:
                await self._open(name)
            upload = self._documents.pop(name)
            try:
                await self.uploads.send_whole(upload, data)
                record = await self.complete(upload)
                break
            except RivaStreamError as error:
                if error.where.code != "ConditionalRequestConflict" or attempt == _ATTEMPTS:
                    raise
        await self.tag(record.key)
        await self.run.save_copy(name, data)
        file = StagedFile(
            s3_key=record.key,
            size_bytes=len(data),
            content_type=record.content_type,
            etag=record.stored.etag,
            checksum=f"sha256:{hashlib.sha256(data).hexdigest()}",
            version_id=record.stored.version_id,
            store_checksum=f"crc64nvme:{record.crc64nvme}" if record.crc64nvme else None,
        )
        self._checked[record.key] = partial(verify_document, self.run, file)
        return file

    async def verify(self, file: StagedFile) -> StagedFile:
        """Verify, by HEAD, a document that was put.

        Raises:
            DigestMismatchError: it is not what was sent.
            HeldError: another run has written it.
        """
        await verify_document(self.run, file)
        return file

    async def clear(self, *upcoming: str) -> None:
        """Delete what older stagings left behind: what their manifest names, and what has our metadata.

        Args:
            upcoming: names of documents that are put later.

        Raises:
            AccessDeniedError: an object that must not remain beside the new staging may not be deleted.
        """
        layout, existing = self.run.layout, self.existing
        kept = {*self._completed, layout.marker, *(layout.prefix + name for name in upcoming)}
        named = {key for key in existing.committed_keys if layout.owns(key)}
        if existing.is_complete:
            named |= {layout.prefix + name for name in OF_FULL}
        # A listing may lag: what was written here before is checked even if it was not listed.
        before = self.lease.predecessor
        unseen = named | existing.named_keys | set(before.leftover_keys() if before else ())
        if not existing.listed:
            unseen |= self._deployment
        ours = (*FOLDERS, *OF_FULL, *DEPLOYMENT_DOCUMENTS)
        candidates = {
            key
            for key in {*existing.etags, *unseen}
            if layout.owns(key) and key.removeprefix(layout.prefix).startswith(ours)
        }
        foreign = [key for key in existing.etags if layout.is_in_payload_folder(key) and not layout.owns(key)]

        async def remove(key: str) -> None:
            info = await self._head_existing(key)
            if info is not None and (key in named or _has_our_metadata(info)):
                await self._delete(key, info.etag)
            elif info is not None and layout.is_in_payload_folder(key):
                foreign.append(key)

        # The manifest last: without permission to list, only it tells the next run of the others.
        todo, manifest = candidates - kept, layout.prefix + MANIFEST_JSON
        try:
            await gather_bounded(sorted(todo - {manifest}), remove)
            await gather_bounded(sorted(todo & {manifest}), remove)
        except AccessDeniedError as error:
            raise AccessDeniedError(
                f"a file of an older staging may not be deleted, and must not remain beside the new one: {error}",
                where=error.where,
                hint=f"grant s3:DeleteObject, or stage under another {option('model_version')}",
            ) from error
        if foreign:
            self.run.warn(
                "foreign-object",
                f"not written by this tool, and left beside the staging: {some_of(sorted(foreign))}; "
                "`verify` reports models among them until they are removed",
            )

    async def seal(self, name: str, text: bytes, last: Callable[[], Awaitable[None]]) -> None:
        """Put a marker: verify every object again, abort foreign uploads, put it, and read it back.

        Args:
            name: of the marker.
            text: its content.
            last: checks again what the staging was made from, and raises if that is gone.

        Raises:
            DigestMismatchError: an object is not what was sent, or the marker does not read back as written.
            HeldError: another run has taken over.
        """
        self.checks += await gather_bounded(list(self._checked.values()), lambda check: check())
        await self.abort_foreign_uploads()
        await last()
        layout = self.run.layout
        self._seal = layout.prefix + name
        file = await self.put(name, text)

        async def read_back() -> None:
            found = await self.bucket.once.get(file.s3_key, limit=_LIMIT)
            if found is None or found.data != text:
                raise ContradictionError(
                    "the marker read back differs from the one written",
                    where=Where("GetObject", layout.bucket, file.s3_key),
                    hint=f"inspect it: riva-stream verify {layout.uri}",
                )

        await retry_contradictions(self.bucket, "GetObject", read_back)
        self.checks.append(ObjectCheck(key=file.s3_key, size_bytes=len(text), by=["content"]))
        if file.s3_key == layout.marker:
            self._marker = file.etag

    async def tag(self, *keys: str, older: Sequence[str] = ()) -> None:
        """Make sure that objects have the requested tags; see :class:`~riva_stream.sink.Tagging`."""
        await self.run.tagging.ensure_tagged(self.bucket, self._tag, keys, older=older)

    async def _tag(self, key: str) -> None:
        put = partial(self.bucket.once.put_tags, key, self.run.tagging.wanted)

        async def once() -> None:
            window = await self.lease.check()
            await self.guarded.send_within(window, lambda window: put(window=window), self.lease.check)

        await self.bucket.retrier("PutObjectTagging", once)

    async def wait_out_doubts(self) -> None:
        """Wait until no deletion of ours can take effect any more: only then may others hold the prefix."""
        if not self.in_doubt:
            return
        self.run.warn("doubt", "a deletion was not answered: waiting until it can no longer take effect")
        while (pause := self._doubtful_until - clock.monotonic()) > 0:
            self.run.meter.touch()
            await clock.sleep(min(1.0, pause))

    @property
    def in_doubt(self) -> bool:
        """Whether a deletion of ours may still take effect."""
        return self._doubtful_until > clock.monotonic()

    @property
    def leaves_unseen(self) -> bool:
        """Whether only a journal can tell the next run of objects that must not remain beside its staging."""
        before = self.lease.predecessor
        return not self.existing.listed and bool(
            self._sent or (before is not None and before.leftover_keys())
        )

    # ── internals ────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _deployment(self) -> set[str]:
        """Keys of the deployment documents."""
        return {self.run.layout.prefix + name for name in DEPLOYMENT_DOCUMENTS}

    async def _open(self, name: str) -> None:
        self._documents[name] = await self.uploads.open(
            self.run.layout.prefix + name,
            content_type=KINDS[name].content_type,
            metadata=self.run.metadata(KINDS[name].artifact_type),
        )

    async def _may_change(self, key: str) -> Window | None:
        """Check that one attempt of one change may be made, and within which window.

        Raises:
            HeldError: the prefix is another run's, or the marker is not the known one.
        """
        layout = self.run.layout
        is_beside = key in self._deployment - {layout.marker} and layout.marker not in self._deployment
        beside = is_beside and key not in self.existing.committed_keys
        if not (self.lease.committing and self.committing):
            raise RuntimeError("a change outside a commit")
        if self._marker is not None and key != layout.marker and not beside:
            raise RuntimeError("a change under a marker")
        window = await self.lease.check()
        info = UNSEEN if self._marker is not None else await self.bucket.once.head_or_unseen(layout.marker)
        if info is UNSEEN:
            info = await self._head_confirmed(self.bucket.once, layout.marker)
        if key == layout.marker and info is None:
            return window  # perhaps deleted by us, in an attempt whose answer was lost
        if (info.etag if info else None) != self._marker:
            raise HeldError(
                f"the marker {layout.uri}{layout.marker_name} is not the one this run found: another run has changed "
                "it",
                where=Where("HeadObject", layout.bucket, layout.marker),
                hint="run the same command again",
            )
        return window

    async def _marker_already_put(self, upload: Upload) -> Stored | None:
        """The marker, if an earlier Complete whose answer was lost has put it already; else None."""
        if upload.key == self.run.layout.marker:
            info = await self.bucket.once.head_or_unseen(upload.key)
            if info is not None and self.uploads.is_ours(info, upload):
                return Stored(info.etag, info.version_id)
        return None

    async def _condition(self, key: str) -> tuple[dict[str, object], str | None]:
        """The condition that a key is as found (absent, or with this ETag), and the run id of the object there."""
        if key in self._completed:
            return {"if_match": self._completed[key]}, self.run.run_id
        if key == self.run.layout.marker or not self.existing.may_have(key):
            return {"if_absent": True}, None
        # What may not be read must be absent: it is never overwritten blindly.
        is_there = self.existing.has_shown(key) and key not in self._deleted
        info = await (self._head_confirmed(self.bucket, key) if is_there else self._head(key))
        if info is None:
            return {"if_absent": True}, None
        return {"if_match": info.etag}, info.metadata.get("run-id")

    async def _may_retry(
        self,
        error: RivaStreamError,
        condition: Mapping[str, object],
        window: Window | None,
        info: ObjectInfo | None,
        refusals: int,
    ) -> bool:
        """Whether the same change may be sent again at once: a refusal may be temporary, or due to something optional.

        A condition that is refused although it holds, or is not supported, is omitted from then on. So is the window if
        a policy turns out to forbid signatures in the query, but never because of a refusal alone: a request without a
        window may arrive after another run has committed.
        """
        code = error.where.code
        if code == REQUEST_EXPIRED:
            self.lease.expire()  # the next attempt renews the lease, and is signed anew
            return False
        is_denied = window is not None and isinstance(error, AccessDeniedError)
        if is_denied or isinstance(error, DigestMismatchError):
            if refusals < LOOKS:
                await pause_after(refusals)
                return True
            return is_denied and await self._disable_windows()
        if not condition or code not in CONDITION_REFUSED or info is UNSEEN:
            return False
        holds = (
            info is None
            if "if_absent" in condition
            else info is not None and info.etag == condition["if_match"]
        )
        refused = code in {"PreconditionFailed", "412"}
        if refused and holds and refusals < LOOKS:
            await pause_after(refusals)  # it may be about the object of a moment before
        elif refused and not holds:
            return False
        else:
            self._conditional = False
        return True

    async def _disable_windows(self) -> bool:
        await self.lease.try_window()
        if self.lease.windowed:
            return False
        self.run.warn(
            "windows",
            "a policy forbids signatures in the query (s3:authType), so changes are sent that do not expire with the "
            "lease of their run: see docs/semantics.md for what is weaker in that case",
        )
        return True

    async def _delete(self, key: str, etag: str) -> None:
        """Delete an object only if it has this ETag."""
        layout = self.run.layout
        if not layout.owns(key):
            raise RuntimeError("a deletion outside the layout")

        async def once() -> None:
            refusals = 0
            while True:
                window = await self._may_change(key)
                info = await self._head_confirmed(self.bucket.once, key)
                if info is None:
                    return None  # it is gone: deleted by an attempt whose answer was lost
                if info.etag != etag:
                    raise HeldError(
                        "another run has overwritten an object that was to be deleted",
                        where=Where("HeadObject", layout.bucket, key),
                        hint="run the same command again",
                    )
                condition: dict[str, object] = {"if_match": etag} if self._conditional else {}
                delete = partial(self.bucket.once.delete, key, window=window)
                try:
                    return await self._delete_noting_doubt(partial(delete, **condition))
                except RivaStreamError as error:
                    refusals, there = refusals + 1, await self.bucket.once.head_or_unseen(key)
                    if not await self._may_retry(error, condition, window, there, refusals):
                        raise

        await self.bucket.retrier("DeleteObject", once)
        self._completed.pop(key, None)
        self._sent.discard(key)
        self._deleted.add(key)

    async def _delete_noting_doubt(self, delete: Callable[[], Awaitable[object]]) -> None:
        """Make one attempt to delete; if no answer comes, remember until when it may still take effect."""
        try:
            await delete()
        except BaseException as error:
            told = isinstance(error, RivaStreamError) and (
                not isinstance(error, TransientError) or isinstance(error, HeldError)
            )
            if not told:
                self._doubtful_until = max(self._doubtful_until, self.lease.ends)
            raise

    async def _roll_back(self, *, everything: bool) -> None:
        """Delete what this run has completed, last first: the last ones allow the others to be used.

        If one of those may still exist, the others are kept: the next run removes all of them.
        """
        if self._sealed or self._marker is not None:
            return
        prefix = self.run.layout.prefix
        ready = prefix + DEPLOYMENT_READY
        with suppress(RivaStreamError):
            if ready in self._sent - self._completed.keys():
                info = await self._head_confirmed(self.bucket, ready)
                if info is None or info.metadata.get("run-id") != self.run.run_id:
                    return  # it may still appear
                await self._delete(ready, info.etag)
            for key, etag in reversed(list(self._completed.items())):
                if everything or key in self._deployment:
                    await self._delete(key, etag)

    async def abort_foreign_uploads(self) -> None:
        """Abort every upload of our keys that is not ours: one that an earlier holder's late request created."""
        found = await self.open_uploads()
        if found:
            await self.ensure()  # the last check may be long ago: they would be another run's
        for upload in found:
            await self.abort(upload)

    async def open_uploads(self) -> list[OpenUpload]:
        """Open uploads of this layout's keys, except our own.

        Some stores list only the uploads of an exact key. If none of ours is listed, each key is queried by itself.
        """
        run, layout = self.run, self.run.layout
        ours = {upload.upload_id for upload in [*self.uploads.opened, *self.uploads.adopted.values()]}
        keys = {upload.key for upload in self.uploads.opened if upload.record is None}
        listed = await self.bucket.open_uploads(layout.prefix)
        if listed is None:
            run.warn(
                "list-uploads",
                "open uploads may not be listed (s3:ListBucketMultipartUploads): those that no journal names "
                "stay open until the bucket's lifecycle rule aborts them",
            )
            return []
        found = list(listed)
        if not self.bucket.is_aws and not any(upload.key in keys for upload in found):
            names = (*layout.documents, *SCRATCH)
            asked = {*keys, *(layout.prefix + name for name in names), *self.existing.committed_keys}
            asked |= run.meter.own_keys | self.uploads.creating
            for uploads in await gather_bounded(sorted(asked), self.bucket.open_uploads):
                found += uploads or ()
        return [upload for upload in found if layout.owns(upload.key) and upload.upload_id not in ours]

    async def abort(self, upload: OpenUpload) -> None:
        """Abort an upload by its id, wherever it is listed."""
        layout = self.run.layout
        try:
            await self.bucket.abort_upload(upload.key, upload.upload_id)
            self.uploads.aborted.add(upload.upload_id)
        except TransientError:
            # A probe's upload can stay: it could never become part of a staging.
            if layout.is_payload(upload.key) or upload.key.removeprefix(layout.prefix) in KINDS:
                raise
            self._note_scratch(LeftUpload(layout.bucket, upload.key, upload.upload_id))

    def _complete_error(self, error: RivaStreamError, upload: Upload) -> RivaStreamError:
        """The error to raise for a Complete; one that a new upload of a document can cure is not retried."""
        if error.where.code == "ConditionalRequestConflict" and not self.run.layout.is_payload(upload.key):
            return HeldError("another run writes the same object", where=error.where, hint=error.hint)
        return error

    async def _head_existing(self, key: str) -> ObjectInfo | None:
        """The object still at a key where one may have been found; a refusal for a listed key hides nothing."""
        if self.existing.listed and (not self.existing.may_have(key) or key in self._deleted):
            return await self._head(key)
        return await self._head_confirmed(self.bucket, key)

    async def _head_confirmed(self, bucket: Bucket, key: str) -> ObjectInfo | None:
        """The object at a key where there may be one that must not be missed.

        Raises:
            AccessDeniedError: it may no longer be read.
        """
        info = await bucket.head_confirming_absence(key)
        if info is UNSEEN and self.existing.listed:
            # A missing key is refused too if s3:ListBucket has a condition that no HEAD meets: a listing can tell.
            page = await bucket.list_objects(key, limit=1)
            return await bucket.head(key) if any(entry.key == key for entry in page.objects) else None
        return None if info is UNSEEN else info

    async def _head(self, key: str) -> ObjectInfo | None:
        """The object at a key, as far as it may be read."""
        info = await self.bucket.head_or_unseen(key)
        return None if info is UNSEEN else info


def _has_our_metadata(info: ObjectInfo) -> bool:
    """Whether this tool has written an object."""
    return {"run-id", "artifact-type"} <= info.metadata.keys()
