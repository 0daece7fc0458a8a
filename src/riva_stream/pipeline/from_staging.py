"""A committed staging: its objects are copied by the store, or read, hashed and sent where it cannot.

Each matches the staging's manifest, or the run ends before anything becomes visible: the CRC64NVME or ETag of the
store's copy, or the SHA-256 of the bytes read, is that of the manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import anyio

from riva_stream import clock
from riva_stream.deployment import ObjectReference
from riva_stream.destination import Destination
from riva_stream.documents.references import reference_to
from riva_stream.errors import (
    AccessDeniedError,
    DigestMismatchError,
    HeldError,
    IntegrityError,
    SourceChangedError,
    SourceNotFoundError,
    TransientError,
    Where,
    leaves_of,
)
from riva_stream.events import MemberFound, PhaseChanged
from riva_stream.flow.buffers import Chunk, Credits
from riva_stream.flow.digest import Hash, HashLane
from riva_stream.flow.tee import Branch, tee
from riva_stream.inspection.crosscheck import Ledger, StagedObject
from riva_stream.inspection.deep import fetching
from riva_stream.inspection.staging import Staging, compare, pinned
from riva_stream.layout import ARTIFACT_JSON, FOLDERS
from riva_stream.manifest import Artifact, Deployment, PromotedFrom, artifact_id
from riva_stream.naming import option
from riva_stream.pipeline.begin import reserve_memory
from riva_stream.pipeline.copies import COPIES, SourceCopy, cannot_copy, plan_objects
from riva_stream.pipeline.documents import build_info
from riva_stream.pipeline.work import Payload, TransferMethod, Work
from riva_stream.report import PlannedObject
from riva_stream.run import Run, gather_bounded
from riva_stream.s3 import Bucket, Reader, WritableBucket
from riva_stream.sink import PartCopier, Proof, Upload
from riva_stream.source import PinnedSource, SourceChecksums, SourceReader, find_source
from riva_stream.uris import split_uri

__all__ = ["FromStaging", "Original", "StoreOf", "incomplete", "originals_of"]


_UNVOUCHED = "its marker, of version 0.1, does not vouch for the manifest"


@dataclass(frozen=True, slots=True)
class Original:
    """An archive or a model of the staging, as found."""

    item: StagedObject
    source: PinnedSource

    @property
    def is_archive(self) -> bool:
        """Whether it is the archive from which the models were unpacked."""
        return self.item.path.startswith(FOLDERS[0])

    @property
    def sha256(self) -> str:
        """SHA-256 according to the staging's documents."""
        assert self.item.sha256 is not None  # noqa: S101 - of archive and models it is known, or there is no staging
        return self.item.sha256

    @property
    def crc64nvme(self) -> str:
        """CRC64NVME of the whole object, base64; "" if the staging's run did not compute it."""
        entry = self.item.entry
        name, _, value = (entry.store_checksum or "").partition(":") if entry else ("", "", "")
        return value if name == Proof.CRC64NVME else ""


async def originals_of(staging: Staging) -> list[Original]:
    """Archive and models in the order of the staging's manifest, each verified to be as staged; documents are too.

    Raises:
        SourceNotFoundError: some are gone; the message names them.
        IntegrityError: some differ from what was staged; the message names them.
        HeldError: the staging is being replaced.
    """
    if missing := staging.documents.missing:
        await staging.still_stands()
        raise incomplete(staging, missing)
    await staging.require_agreement()
    items = [item for item in staging.objects.values() if not item.is_document]
    infos = await gather_bounded(
        [item.key for item in items], partial(staging.bucket.head_confirming_absence, listed=True)
    )
    ledger = Ledger()
    for item, info in zip(items, infos, strict=True):
        compare(item, info, ledger)
    wrong = {item.path: text for item in items if (text := ledger.difference(item.key))}
    gone = [item.path for item, info in zip(items, infos, strict=True) if info is None]
    if wrong:
        await staging.still_stands()
        if gone:
            raise incomplete(staging, gone)
        told = "; ".join(f"{path}: {text}" for path, text in wrong.items())
        raise IntegrityError(
            f"{staging.destination} does not match its manifest; {told}",
            where=Where("HeadObject", staging.layout.bucket, staging.layout.prefix + next(iter(wrong))),
            hint=f"all that differs: riva-stream verify {staging.destination}",
        )
    return [
        Original(item, pinned(staging.layout.bucket, info))
        for item, info in zip(items, infos, strict=True)
        if info is not None
    ]


StoreOf = Callable[[str], Reader]
"""The store of an object that a document refers to, by its URI."""


@dataclass(eq=False)
class FromStaging(Work):
    """See :class:`~riva_stream.pipeline.work.Work`."""

    staging: Staging
    originals: Sequence[Original]
    """The archive and the models; empty by reference."""
    store_of: StoreOf
    deep: bool
    """Whether every byte is read, even of what the store copies."""
    budget: Credits
    """Byte credits shared by several runs; each that reads takes ``request.memory`` of them."""
    _copies: list[SourceCopy] = field(default_factory=list, init=False)
    """The decision for each original."""

    @classmethod
    async def find(
        cls,
        run: Run,
        staging: Staging,
        originals: Sequence[Original],
        store_of: StoreOf,
        *,
        deep: bool,
        budget: Credits,
    ) -> FromStaging:
        """Find what the staging's documents refer to, accepting only what they pin.

        Raises:
            SourceNotFoundError: an object that they refer to is gone.
            IntegrityError: it was replaced since.
        """
        find = partial(_find, run, store_of)
        container = None
        if staging.deployment is not None:
            references = staging.deployment.bintarball_references
            container = await find(references.container_image)
            if staging.artifact is None:
                archive = await find(references.model_archive)
                return cls(run, archive, container, staging, (), store_of, deep, budget)
        artifact = _require_artifact(staging)
        told = artifact.source
        source = PinnedSource(
            *split_uri(told.uri),
            told.size_bytes,
            told.etag,
            told.version_id,
            told.last_modified,
            SourceChecksums(),
        )
        if artifact.deployment.reference_mode:  # otherwise it was read once, and need not exist any more
            source = await find(reference_to(source))
        return cls(run, source, container, staging, originals, store_of, deep, budget)

    @property
    def uri(self) -> str:
        """``s3://`` URI of the staging."""
        return self.staging.destination

    @property
    def size(self) -> int:
        """Bytes of archive and models; by reference, of what is referred to."""
        return sum(original.source.size for original in self.originals) or self.source.size

    @property
    def pin(self) -> tuple[str, str | None]:
        """ETag of the staging's marker."""
        return self.staging.documents.etags[self.staging.layout.marker_name], None

    @property
    def largest(self) -> int:
        """Bytes of the largest object that is read here."""
        if not self._reads:
            return 0
        return max(original.source.size for original in self.originals)

    @property
    def first(self) -> PinnedSource | None:
        """The archive, or a bare model."""
        return self.originals[0].source if self.originals else None

    @property
    def own_keys(self) -> frozenset[str]:
        """The keys of all originals: each is an object of the source staging."""
        return frozenset(self._key(original) for original in self.originals)

    @property
    def method(self) -> TransferMethod:
        """The methods and reasons of all originals together."""
        how = sorted({copy.how for copy in self._copies if copy.plan is not None or copy.reason})
        reasons = sorted({copy.reason for copy in self._copies if copy.reason})
        return TransferMethod("+".join(how) or "sent", "; ".join(reasons))

    def reads(self) -> list[tuple[Bucket, str]]:
        """The staging itself, and what it refers to."""
        referenced = (None if self.originals else self.source, self.container)
        return [
            (self.staging.bucket, self.staging.layout.marker),
            *((self._bucket_of(one), one.key) for one in referenced if one is not None),
        ]

    async def plan(self, bucket: WritableBucket, check: str) -> None:
        """Decide whether the store copies the objects, and how each copy will be proven."""
        objects = [(original.source, original.crc64nvme) for original in self.originals]
        if self.staging.vouched:
            self._copies = await plan_objects(self.run, bucket, objects, check)
        elif objects and self.run.request.source_copy == "store":
            raise cannot_copy(_UNVOUCHED)
        else:
            self.send_instead(_UNVOUCHED)
        self.run.request.plan_for(self.largest, self.run.most_parts)

    def send_instead(self, reason: str) -> None:
        """Send all objects instead of copying them."""
        self._copies = [SourceCopy(None, reason)] * len(self.originals)

    def planned(self) -> list[PlannedObject]:
        """Archive and models."""
        objects = []
        for original, copy in zip(self.originals, self._copies, strict=True):
            size = self.run.part_size_for(original.source.size)
            sizes = copy.plan.sizes if copy.plan else (size,) * -(-original.source.size // size)
            objects.append(
                PlannedObject(
                    key=self._key(original),
                    kind="archive" if original.is_archive else "model",
                    part_size=max(sizes, default=0) or None,
                    parts=len(sizes),
                )
            )
        return objects

    async def move(self, destination: Destination) -> Payload:
        """Copy the objects, or read and send them."""
        try:
            return await super().move(destination)
        except (BaseExceptionGroup, SourceChangedError) as error:
            if any(isinstance(leaf, SourceChangedError) for leaf in leaves_of(error)):
                await self.confirm()  # an object may have changed because the staging was replaced
            raise

    def describe(self, upload_check: str) -> Artifact:
        """The staging's own ``artifact.json``, adapted to another place."""
        run, staged, request = self.run, _require_artifact(self.staging), self.run.request
        marker = self.staging.documents.marker
        assert marker is not None  # noqa: S101 - it vouches for the artifact
        return staged.model_copy(
            update={
                "artifact_id": artifact_id(request.model_name, request.model_version),
                "created_at": clock.now(),
                "model": staged.model.model_copy(
                    update={"name": request.model_name, "version": request.model_version}
                ),
                "deployment": Deployment(
                    environment=request.env,
                    s3_bucket=request.bucket,
                    s3_prefix=request.destination,
                    retention_days=request.retention_days,
                    staging_complete=True,
                    staging_mode=staged.deployment.staging_mode,
                    reference_mode=staged.deployment.reference_mode,
                    tags=dict(run.tagging.tags),
                ),
                "build_info": build_info(run, self.source, None),
                "validation": staged.validation.model_copy(
                    update={
                        "upload_check": upload_check,
                        "source_copy": self.method.how,
                        "source_copy_reason": self.method.reason,
                        "objects_verified": True,
                        "warnings": list(run.warnings),
                    }
                ),
                "promoted_from": PromotedFrom(
                    s3_prefix=self.staging.destination,
                    run_id=marker.run_id,
                    artifact_sha256=marker.artifact_sha256,
                ),
            }
        )

    async def confirm(self) -> None:
        """Check what the staging's documents refer to, and its marker, again."""
        await super().confirm()
        try:
            await self.staging.still_stands()
        except HeldError as error:  # held by another run, but not at the prefix that this one holds
            raise TransientError(
                error.what, where=error.where, hint="run the same command again when that run is done"
            ) from error

    # ── internals ────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _reads(self) -> bool:
        """Whether bytes pass through here."""
        sent = any(copy.plan is None for copy in self._copies)
        return bool(self.originals) and (self.deep or sent)

    def _key(self, original: Original) -> str:
        return self.run.request.prefix + original.item.path

    def _store_of(self, pinned: PinnedSource) -> Reader:
        return self.store_of(pinned.uri)

    async def _moved(self, destination: Destination) -> Payload:
        run, uploads, copies = self.run, destination.uploads, self._copies
        opened = [
            (original, await self._open(destination, original), copy)
            for original, copy in zip(self.originals, copies, strict=True)
        ]
        run.observer(PhaseChanged(phase="stream"))
        run.meter.source_size = self.size
        copies_made = any(copy.plan is not None for copy in copies)
        run.meter.counts = (
            *(("fetched", "hashed") if self._reads else ()),
            *(("durable",) if any(copy.plan is None for copy in copies) else ()),
            *(("copied",) if copies_made else ()),
        )
        uploads.copier = PartCopier(
            uploads.bucket,
            self._is_unchanged,
            with_crc64nvme=any(copy.plan is not None and copy.plan.crc64nvme for copy in copies),
        )
        hashes, read = HashLane(run.lanes.hash), []
        shares = run.request.plan_for(self.largest, run.most_parts)
        budget = Credits(shares.read_share) if self._reads else None
        async with (
            reserve_memory(self.budget if self._reads else None, run.request.memory, waiting=run.meter.touch),
            anyio.create_task_group() as tasks,
        ):
            for _ in range(COPIES if copies_made else 0):
                tasks.start_soon(uploads.copy_parts)
            for _ in range(run.request.connections):
                tasks.start_soon(uploads.send_parts)
            tasks.start_soon(hashes.run)
            copied = [copy.plan.begin_source(upload) for _, upload, copy in opened if copy.plan is not None]
            for original, upload, copy in opened:
                if budget is not None and (copy.plan is None or self.deep):
                    outlets = [upload.send] if copy.plan is None else []
                    read.append((original, await self._read(original, outlets, hashes, budget)))
            hashes.close()
            uploads.close()
        run.meter.tell()
        run.observer(PhaseChanged(phase="verify"))
        for original, digest in read:
            if digest.text() != original.sha256:
                raise DigestMismatchError(
                    f"the SHA-256 of the bytes read is {digest.text()}, the manifest says {original.sha256}",
                    where=Where("GetObject", original.source.bucket, original.source.key),
                    hint=f"the stored object is damaged: stage it again with {option('force')}",
                )
        for made in copied:
            made.prove()
        return Payload(
            [upload for _, upload, _ in opened],
            [original.sha256 for original in self.originals],
            has_archive=self.originals[0].is_archive,
        )

    async def _open(self, destination: Destination, original: Original) -> Upload:
        run, entry = self.run, original.item.entry
        upload = await destination.uploads.open(
            self._key(original),
            content_type=entry.content_type if entry else "application/octet-stream",
            metadata=run.metadata("model-archive" if original.is_archive else "riva-model"),
            size=original.source.size,
        )
        run.observer(MemberFound(name=original.item.path, key=upload.key, size=original.source.size))
        return upload

    async def _read(
        self, original: Original, outlets: Sequence[Branch], hashes: HashLane, budget: Credits
    ) -> Hash:
        """Read an original whole, into its digest and its other outlets."""
        run, source = self.run, original.source
        digest = Hash("sha256")
        branches: list[Branch] = [partial(hashes.send, digest), *outlets]
        reader = SourceReader(
            Bucket(run.source_store, source.bucket, run.retrier),
            source,
            run.part_size_for(source.size),
            budget,
            run.lanes.source,
            lambda count: run.meter.add(fetched=count),
            run.observer,
        )
        async with fetching(reader, run.request.connections) as chunks:
            async for chunk in chunks:
                tee(chunk, branches)
        if not source.size:  # S3 has no upload without parts: one empty part is sent for it
            tee(Chunk(0, 0, [], budget, 0), branches)
        return digest

    async def _is_unchanged(self) -> bool:
        """Whether the staging and its objects are still those that were found."""
        try:
            await self.staging.still_stands()
        except HeldError:
            return False
        sources = [original.source for original in self.originals]
        infos = await gather_bounded(
            [source.key for source in sources],
            partial(self.staging.bucket.head_confirming_absence, listed=True),
        )
        found = [info.etag if info is not None else "" for info in infos]
        return found == [source.etag for source in sources]


async def _find(run: Run, store_of: StoreOf, reference: ObjectReference) -> PinnedSource:
    """The object that a document refers to, unchanged."""
    bucket, key = split_uri(reference.s3_uri)
    # A single 404 may be wrong: a document says that the object exists.
    there = Bucket(store_of(reference.s3_uri), bucket, run.retrier)
    with suppress(AccessDeniedError):  # which is reported better below
        await there.head_confirming_absence(key, listed=True)
    stage_again = "stage it again from what is there now"
    try:
        found = await find_source(there.store, bucket, key, run.retrier)
    except SourceNotFoundError as error:
        error.hint = stage_again  # its own is for who stages
        raise
    if not reference_to(found).is_same(reference):
        raise IntegrityError(
            f"the staging refers to {reference.text()}; the object is now {reference_to(found).text()}",
            where=Where("HeadObject", bucket, key),
            hint=stage_again,
        )
    return found


def incomplete(staging: Staging, missing: Sequence[str]) -> SourceNotFoundError:
    """The error for a staging some of whose objects are gone; ``missing``: their paths below the prefix."""
    return SourceNotFoundError(
        f"{staging.destination} is not complete; missing: {', '.join(missing)}",
        where=Where(bucket=staging.layout.bucket, key=staging.layout.prefix + missing[0]),
        hint=f"all that differs: riva-stream verify {staging.destination}",
    )


def _require_artifact(staging: Staging) -> Artifact:
    if staging.artifact is None:
        raise IntegrityError(
            f"{staging.destination} has no readable {ARTIFACT_JSON}",
            hint=f"inspect it: riva-stream verify {staging.destination}",
        )
    return staging.artifact
