"""``gc``: find, and abort, what dead runs left open below a prefix.

Each staging's leftovers are collected under its lease, like every other change, and only those that can be this tool's
own according to the layout: uploads of other programs stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial

from riva_stream import clock
from riva_stream.errors import ConfigurationError, HeldError, RivaStreamError, Where
from riva_stream.events import Observer, ignore, warning
from riva_stream.layout import OWN_FOLDER, SCRATCH, Layout, layout_around, layout_of
from riva_stream.lease import Found, Journal, Lease, Process, ended_reason, read_journal, watch
from riva_stream.lease.lease import JournalContent
from riva_stream.report import CollectReport, Leftover, error_report, worst
from riva_stream.retry import Retrier
from riva_stream.run import gather_bounded
from riva_stream.s3 import UNSEEN, Bucket, ObjectInfo, OpenUpload, StoreSettings, WritableBucket, open_store
from riva_stream.s3.bucket import ask_until_found
from riva_stream.state import new_run_id
from riva_stream.tasks import in_child_task

__all__ = ["collect"]


@in_child_task
async def collect(
    settings: StoreSettings,
    bucket: str,
    prefix: str,
    *,
    older_than: float,
    lease: float,
    apply: bool,
    observer: Observer = ignore,
) -> CollectReport:
    """List the uploads, checkpoints and journals of dead runs below ``prefix``, and with ``apply`` remove them.

    Args:
        settings: the store.
        bucket: its bucket.
        prefix: of one staging, of a model, of an environment, or "" for the whole bucket.
        older_than: seconds, by the store's clock; what is younger stays.
        lease: seconds for which a journal is watched for a heartbeat, or the journal's own lease if that is longer.
        apply: abort and delete; otherwise only report what would be.
        observer: is told what could not be inspected or removed.

    Raises:
        ConfigurationError: the prefix is inside a staging.
        RivaStreamError: the uploads or keys cannot be listed.
    """
    if prefix and not prefix.endswith("/"):
        prefix += "/"  # v1 must not match v10
    around = layout_around(bucket, prefix)
    if around is not None and around.prefix != prefix:
        raise ConfigurationError(
            f"s3://{bucket}/{prefix} is inside a staging, which is collected only as a whole",
            hint=f"name the staging: {around.uri}",
        )
    warn = warning(observer, "gc")
    async with open_store(settings, warn=warn) as store:
        there, for_leases = (
            WritableBucket(store, bucket, Retrier(observer=observer, renew=store.renew)) for _ in range(2)
        )
        # By the clock of the time stamps; if the store does not report it, by this host's.
        now = await there.now(prefix) or clock.now()
        limit = now - timedelta(seconds=older_than)
        place = partial(
            _StagingLeftovers, there, for_leases, limit, lease, await clock.in_thread(Process.this), warn
        )
        places: dict[Layout, _StagingLeftovers] = {}

        def layout_below(key: str) -> Layout | None:
            # Not every store respects the prefix in a listing.
            return layout_of(bucket, key) if key.startswith(prefix) else None

        known: dict[Layout, None] = {}
        async for entry in there.objects(prefix):
            if (layout := layout_below(entry.key)) is not None:
                known[layout] = None
                if layout.is_own(entry.key):
                    places.setdefault(layout, place(layout)).add(entry)
        for upload in await _open_uploads(there, prefix, known):
            if (layout := layout_below(upload.key)) is not None:
                places.setdefault(layout, place(layout)).uploads.append(upload)
        found = await gather_bounded(list(places.values()), lambda place: place.collect(apply=apply))
        errors = [error for at in places.values() for error in at.errors]
        code = worst([error.exit_code for error in errors])
        return CollectReport(
            prefix=f"s3://{bucket}/{prefix}",
            applied=apply,
            found=[left for some in found for left in some],
            unseen=[layout.uri for layout, at in places.items() if at.unseen],
            error=next((error_report(error) for error in errors if error.exit_code == code), None),
            exit_code=code,
        )


async def _open_uploads(bucket: Bucket, prefix: str, stagings: Iterable[Layout]) -> Sequence[OpenUpload]:
    """Those below a prefix; where a store lists only those of an exact key, those of probes and markers."""
    found = await bucket.list_uploads(prefix)
    if found or bucket.is_aws:
        return found
    keys = [at.prefix + name for at in stagings for name in (*SCRATCH, at.marker_name)]
    return [upload for listed in await gather_bounded(keys, bucket.list_uploads) for upload in listed]


@dataclass(eq=False)
class _StagingLeftovers:
    """One staging, and what dead runs left there."""

    bucket: WritableBucket
    for_leases: WritableBucket
    """The same with its own retrier: a lease is renewed within an attempt of the work, which occupies a slot."""
    limit: datetime
    lease: float
    here: Process
    warn: Callable[[str], None]
    layout: Layout
    written: datetime | None = field(default=None, init=False)
    """When its journal was written."""
    listed: bool = field(default=False, init=False)
    """Whether a listing has shown its journal."""
    uploads: list[OpenUpload] = field(default_factory=list, init=False)
    checkpoints: dict[str, datetime | None] = field(default_factory=dict, init=False)
    """When each checkpoint, or object of a killed probe, was written."""
    errors: list[RivaStreamError] = field(default_factory=list, init=False)
    """What kept it from being inspected, or something from being removed."""
    unseen: bool = field(default=False, init=False)
    """It could not be inspected: what is left there is unknown."""

    def add(self, entry: ObjectInfo) -> None:
        """Add a key of the staging's own folder."""
        if entry.key == self.layout.journal:
            self.written, self.listed = entry.last_modified, True
        elif self._is_left(entry.key):
            self.checkpoints[entry.key] = entry.last_modified

    def _is_left(self, key: str) -> bool:
        return self.layout.is_checkpoint(key) or self.layout.is_probe(key)

    async def collect(self, *, apply: bool) -> list[Leftover]:
        """Return its leftovers; with ``apply``, remove those that are old and not of a live run."""
        try:
            journal = await read_journal(self.bucket, self.layout.journal, listed=self.listed)
            if journal is not None:
                self.written = journal.info.last_modified or self.written
            await self._add_named(journal.journal if journal is not None else None)
            held = journal is not None and await self._is_live(journal)
        except RivaStreamError as error:
            self.unseen = True
            self._record_error(f"{self.layout.uri} could not be inspected", error)
            return []
        found = self._leftovers(held=held)
        if journal is not None:
            found.append(self._leftover("journal", self.layout.journal, self.written, held))
        if not apply or held or not any(left.old for left in found):
            return found
        try:
            return await self._remove_old(found, journal)
        except HeldError:
            return [left.model_copy(update={"held": True}) for left in found]
        except RivaStreamError as error:
            self._record_error(f"{self.layout.uri} could not be collected", error)
            return found

    def _record_error(self, what: str, error: RivaStreamError) -> None:
        self.errors.append(error)
        self.warn(f"{what}: {error}")

    async def _refresh(self, journal: Journal | None) -> None:
        """List again: the run may have continued between the first look and the takeover, and died since."""
        before, listed = self.uploads, await self.bucket.list_uploads(self.layout.prefix)
        self.uploads = [it for it in listed if layout_of(self.layout.bucket, it.key) == self.layout]
        await self._add_unlisted(before)
        own = self.bucket.objects(self.layout.prefix + OWN_FOLDER)
        self.checkpoints = {it.key: it.last_modified async for it in own if self._is_left(it.key)}
        await self._add_named(journal)

    async def _add_named(self, journal: Journal | None) -> None:
        """Date what the journal names like the journal itself, and add uploads that a listing by prefix omits."""
        if journal is None:
            return
        for named in journal.checkpoints:
            if named.key in self.checkpoints and self.written is not None:
                self.checkpoints[named.key] = self.written
        of_use = {upload.upload_id for upload in journal.uploads}
        self.uploads = [
            replace(upload, initiated=max(upload.initiated or self.written, self.written))
            if upload.upload_id in of_use and self.written is not None
            else upload
            for upload in self.uploads
        ]
        await self._add_unlisted(OpenUpload(it.key, it.upload_id, self.written) for it in journal.uploads)

    async def _add_unlisted(self, uploads: Iterable[OpenUpload]) -> None:
        """Add those of ``uploads`` that are open although a listing has not shown them."""
        known = {upload.upload_id for upload in self.uploads}

        async def add(upload: OpenUpload) -> None:
            ask = partial(self.bucket.list_parts, upload.key, upload.upload_id)
            # The listing of AWS is complete, so this answer is already the second of the same kind.
            if await (ask() if self.bucket.is_aws else ask_until_found(ask)) is not None:
                self.uploads.append(upload)

        await gather_bounded(
            [it for it in uploads if it.upload_id not in known and self.layout.owns(it.key)], add
        )

    async def _is_live(self, journal: Found) -> bool:
        if ended_reason(journal, self.here):
            return False
        seconds = max(self.lease, journal.journal.lease if journal.journal else 0.0)
        life = await watch(self.bucket, self.layout.journal, journal, self.here, seconds=seconds)
        return life is not None and bool(life.alive)

    def _leftovers(self, *, held: bool) -> list[Leftover]:
        """All leftovers but the journal."""
        uploads = [self._leftover("upload", it.key, it.initiated, held, it.upload_id) for it in self.uploads]
        return uploads + [
            self._leftover("probe" if self.layout.is_probe(key) else "checkpoint", key, since, held)
            for key, since in sorted(self.checkpoints.items())
        ]

    def _leftover(
        self, kind: str, key: str, since: datetime | None, held: bool, upload_id: str | None = None
    ) -> Leftover:
        return Leftover.model_validate(
            {
                "kind": kind,
                "key": key,
                "upload_id": upload_id,
                "since": since,
                "held": held,
                "old": since is None or since <= self.limit,
            }
        )

    async def _remove_old(self, found: Sequence[Leftover], journal: Found | None) -> list[Leftover]:
        """Remove what is old, under the lease of the prefix; the journal too when nothing is left of its run."""

        def content() -> JournalContent:
            # If this process dies, the next one must still find what this one has not got to.
            before = lease.predecessor
            if before is None:
                return JournalContent(None, (), False)
            # An abort may arrive late: it must not hit an upload that another run resumes.
            identity = None if giving_up else before.identity
            stale = before.leftover_keys() if giving_up else before.stale
            return JournalContent(identity, before.uploads, before.has_begun, stale, before.checkpoints)

        giving_up = False

        lease = Lease(
            self.for_leases,
            self.layout,
            self.lease,
            new_run_id(),
            clock.now(),
            self.here,
            content,
            self.warn,
            _discard,
            lambda: None,
            lists=True,
        )
        await lease.acquire(wait=False, listed=journal is not None)
        before, looked_at = lease.predecessor, journal.journal if journal is not None else None
        if (before.token if before else None) != (looked_at.token if looked_at else None):
            # Another run held the prefix meanwhile: what was found belongs to its predecessor.
            await (lease.stop() if before else lease.release())
            raise HeldError(
                "another run has held the prefix meanwhile",
                where=Where(bucket=self.layout.bucket, key=self.layout.journal),
            )
        named = {upload.upload_id for upload in before.uploads} if before else set()
        journals = [left for left in found if left.kind == "journal"]
        try:
            await self._refresh(before)
            found = self._leftovers(held=False)
            if any(left.old and left.upload_id in named for left in found):
                giving_up = True
                await lease.write()
            removed = [await self._remove(lease, left) for left in found]
            is_only_record = before is not None and await self._is_only_record(before)
        except BaseException:
            await (lease.stop() if before is not None else lease.release())
            raise
        if (
            not is_only_record
            and all(left.removed for left in removed)
            and all(left.old for left in journals)
        ):
            gone = await lease.release()
            return removed + [left.model_copy(update={"removed": gone}) for left in journals]
        # With a journal, stop without releasing: something is still to be resumed, or aborted.
        await (lease.release() if journal is None else lease.stop())
        return removed + journals

    async def _is_only_record(self, journal: Journal) -> bool:
        """Whether the journal is the only record of objects left by a run that died in its commit."""
        if not (keys := set(journal.leftover_keys())):
            return False
        marker = await self.bucket.head_confirming_absence(self.layout.marker)
        if marker is not None and marker is not UNSEEN:
            return False  # its own run has removed what was beside it
        there = [it.key async for it in self.bucket.objects(self.layout.prefix) if it.key in keys]
        if not there:  # a listing may lag
            infos = await gather_bounded(sorted(keys), self.bucket.head_confirming_absence)
            there = [info.key for info in infos if info is not None]
        if there:
            self.warn(
                f"the journal at {self.layout.uri} stays: it is the only record of objects left by an interrupted "
                f"commit, which the next staging removes ({len(there)} objects)"
            )
        return bool(there)

    async def _remove(self, lease: Lease, left: Leftover) -> Leftover:
        if not left.old:
            return left

        async def once() -> None:
            await lease.check()
            if left.upload_id is None:
                await self.bucket.once.delete(left.key)
            else:
                await self.bucket.once.abort_upload(left.key, left.upload_id)

        try:
            await self.bucket.retrier(
                "DeleteObject" if left.upload_id is None else "AbortMultipartUpload", once
            )
        except HeldError:
            raise
        except RivaStreamError as error:
            self._record_error(f"{left.key} could not be removed", error)
            return left
        return left.model_copy(update={"removed": True})


async def _discard(_: bytes) -> None:
    """Keep no copy of the journal: there is no state directory."""
