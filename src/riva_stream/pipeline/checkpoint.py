"""Checkpoints: what a run needs to resume in the middle of the archive, saved from time to time.

::

    archive   ├────────────── A ──── offset ─────────────────────────►
                 its SHA-256    the decoder begins here
              every part before A, and every part of members that was handed over, is durable

A checkpoint is taken where a part of a member ends, and counts once all that it covers is durable. It is one small
object under ``.riva-stream/``, which the journal names with its SHA-256: numbers, digest states, and a window of the
decoder. The journal has the uploads and their parts; the store is asked before any of it is believed. Of what the store
copies nothing has to be durable: what was read of it is compared with the copies in the end, whenever they are made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Annotated, TypedDict

import anyio
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from riva_stream import clock
from riva_stream.archive import Extractor, InsideReport, Limits, Member, Snapshot
from riva_stream.config import StageRequest
from riva_stream.destination import Destination
from riva_stream.errors import HeldError, RivaStreamError
from riva_stream.flow.digest import Digest, DigestRecord, DigestState
from riva_stream.layout import is_model
from riva_stream.lease import JournaledCheckpoint
from riva_stream.pipeline.copies import Compared, CopyPlan
from riva_stream.pipeline.traced import TracedDigest, TracedRanges
from riva_stream.readback import read_back
from riva_stream.run import Run
from riva_stream.sink import Proof, RangeDigests, Upload, UploadedPart
from riva_stream.sizes import MOST_PARTS
from riva_stream.source import PinnedSource, SourceChecksums

__all__ = [
    "Checkpoint",
    "Checkpointer",
    "FinishedDigest",
    "ObjectProgress",
    "ResumePoint",
    "can_resume",
    "extractor_options",
    "find_resume_point",
    "forget_before",
]

_LIMIT = 4 << 20
"""Bytes of a checkpoint: a snapshot has 1 MiB at most, as much again when quoted, each member's digests 180 bytes."""
_MOST_MEMBERS = 10_000
"""Members in a checkpoint: a snapshot has no room for half as many."""
_MOST_VALUES = 1 << 16
"""JSON values, containers included; the snapshot is one string."""


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FinishedDigest(_Document):
    """The digests of a member that was handed over completely."""

    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    blake3: str | None = Field(pattern=r"^[0-9a-f]{64}$")

    def record(self) -> DigestRecord:
        """The record, as :class:`~riva_stream.flow.digest.Digest` returns it."""
        return DigestRecord(self.size, self.sha256, self.blake3, {})


class CopiedRanges(_Document):
    """What was read so far of an object that the store copies; see :class:`~riva_stream.sink.RangeDigests`."""

    values: Annotated[
        list[Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{10}[AEIMQUYcgkosw048]=$")]],
        Field(fail_fast=True, max_length=MOST_PARTS),
    ]
    """CRC64NVME of each part, base64."""
    crc: int = Field(ge=0, lt=1 << 64)
    """CRC of what was read of the next part."""


class Checkpoint(_Document):
    """The saved state, without the uploads and their parts, which the journal has."""

    version: int = Field(ge=1, le=1)
    offset: int = Field(ge=0)
    """Byte of the source to read first: the start of one of its parts."""
    archive: DigestState
    """State of the digest of the bytes before ``offset``."""
    extractor: str | None
    """A snapshot of the extractor, JSON; None for a bare model."""
    members: Annotated[list[FinishedDigest], Field(fail_fast=True, max_length=_MOST_MEMBERS)]
    """The complete members, in the archive's order."""
    open: DigestState | None
    """State of the digest of the incomplete member."""
    copied_by: str = ""
    """The proof of the copies that the store makes meanwhile; empty: the source is sent."""
    copied: Annotated[list[CopiedRanges], Field(fail_fast=True, max_length=_MOST_MEMBERS)] = Field(
        default_factory=list
    )
    """For the source's own object and for each member that is copied, where such digests prove the copy."""
    parts: str
    """Digest of the CRC64NVMEs of all parts that it covers. If the store lists no checksums of parts, Complete is given
    those in the journal."""


def can_resume(checksums: SourceChecksums, plan: CopyPlan | None) -> bool:
    """Whether every digest of the stream can be saved; MD5 and SHA-1 cannot."""
    return not {"md5", "sha1"} & {*checksums.to_compute} and (plan is None or plan.can_resume)


class _ExtractorOptions(TypedDict):
    include: Sequence[str]
    limits: Limits
    allow_missing_end: bool


def extractor_options(request: StageRequest) -> _ExtractorOptions:
    """The options of every extractor of a request."""
    return {
        "include": request.include,
        "limits": Limits(
            members=request.max_members,
            matching_members=request.max_models,
            header_bytes=request.max_header_bytes,
            expanded_bytes=request.max_expanded,
            ratio=request.max_ratio,
            streams=request.max_streams,
            zstd_window=request.max_zstd_window,
        ),
        "allow_missing_end": request.allow_missing_end,
    }


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


_MOST_TAKEN = 32
_MOST_BYTES = 2 << 20
"""Bytes of the snapshots of pending checkpoints; a single one may exceed it."""


@dataclass(frozen=True, slots=True, eq=False)
class ObjectProgress:
    """An object whose bytes are being handed over: a member, or the archive."""

    upload: Upload
    digest: TracedDigest | FinishedDigest
    size: int
    """Bytes handed over."""
    ranges: TracedRanges | None = None
    """Digests to compare with the parts that the store copies."""

    @property
    def is_hashed(self) -> bool:
        """Whether all bytes handed over are hashed."""
        hashed = isinstance(self.digest, FinishedDigest) or self.size in self.digest.states
        return hashed and (self.ranges is None or self.size in self.ranges.states)


@dataclass(frozen=True, slots=True, eq=False)
class _PendingCheckpoint:
    """A checkpoint that has been taken, and waits until everything that it covers is durable."""

    offset: int
    snapshot: Snapshot | None
    objects: Sequence[ObjectProgress]
    """The archive, and the members that have begun, in order."""
    required: Mapping[Upload, int]
    """Their uploads that are not copied, each with the number of its first parts that have to be durable."""
    missing: list[tuple[Upload, int]]
    """Parts that were not durable at the last check."""


@dataclass(eq=False)
class Checkpointer:
    """Takes checkpoints of one run while it streams, every ``every`` bytes of the archive.

    Args:
        destination: stores them.
        every: bytes of the archive between two checkpoints.
        part_size: bytes of a part of the archive.
        archive: the archive's upload.
        digest: the archive's digest.
        from_offset: byte of the archive at which this run begins to read.
        bare: the source is a model itself: there is no archive to unpack.
        ranges: digests to compare with the copies that the store makes of the archive.
        copied_by: the proof of those copies; see :class:`Checkpoint`.
    """

    destination: Destination
    every: int
    part_size: int
    archive: Upload
    digest: TracedDigest
    from_offset: int = 0
    bare: bool = False
    ranges: TracedRanges | None = None
    copied_by: str = ""
    is_over: bool = field(init=False)
    """Whether no checkpoint is taken any more, if any was at all."""
    _next: int = field(init=False)
    _taken: list[_PendingCheckpoint] = field(default_factory=list, init=False)
    """Oldest first: the bytes in flight may be many times ``every``, and each counts once its parts are durable."""
    _moved: anyio.Event = field(default_factory=anyio.Event, init=False)

    def __post_init__(self) -> None:
        self._next = self.from_offset + self.every
        self.is_over = (
            not self.every or not self.digest.states
        )  # none are requested, or SHA-256 has no state here

    @property
    def is_waiting(self) -> bool:
        """Whether a checkpoint was taken and is not written yet: it will need the states of that moment."""
        return bool(self._taken)

    def is_due(self, read: int) -> bool:
        """Whether a checkpoint is due at byte ``read`` of the archive; if none is pending, drop older states."""
        if not self._taken:
            forget_before(read // self.part_size * self.part_size, self.digest, self.ranges)
        return not self.is_over and read >= self._next and self._has_room()

    def _has_room(self) -> bool:
        """Whether one more may be pending: a snapshot lists the members so far, of which there may be many."""
        sizes = [len(taken.snapshot.data) for taken in self._taken if taken.snapshot is not None]
        return len(self._taken) < _MOST_TAKEN and (not sizes or sum(sizes) + max(sizes) <= _MOST_BYTES)

    def take(self, snapshot: Snapshot | None, members: Sequence[ObjectProgress], read: int) -> None:
        """Take a checkpoint: a snapshot of this moment, in which the open member is at the end of a part.

        Args:
            snapshot: None for a bare model.
            members: those that have begun, in order.
            read: bytes of the archive that have been processed.
        """
        at = read if snapshot is None else snapshot.offset
        offset = at // self.part_size * self.part_size
        self.postpone(read)
        if self.is_over or offset <= self.from_offset:
            return  # nothing would be gained
        if 0 < self.archive.expected <= offset:
            return  # a resuming run reads something of the source, if only to see that it is still readable
        objects = [ObjectProgress(self.archive, self.digest, offset, self.ranges), *members]
        sent = {self.archive: offset // self.part_size} | {it.upload: it.upload.numbered for it in members}
        required = {upload: parts for upload, parts in sent.items() if not upload.is_copied}
        # What the previous checkpoint covers is durable before this one is examined.
        before = self._taken[-1].required if self._taken else {}
        missing = [
            (upload, number)
            for upload, parts in required.items()
            for number in range(before.get(upload, 0) + 1, parts + 1)
        ]
        self._taken.append(_PendingCheckpoint(offset, snapshot, objects, required, missing))
        self._moved.set()

    def postpone(self, read: int) -> None:
        """Try again later: no checkpoint could be taken up to here."""
        self._next = read + self.every

    def moved(self) -> None:
        """Note that something was hashed, or became durable."""
        read = self.digest.hashed
        if self.bare and self.is_due(read):
            self.take(None, [], read)
        self._moved.set()

    def close(self) -> None:
        """End: the stream is over, and a checkpoint that is not written by now is useless."""
        self.is_over = True
        self._moved.set()

    async def run(self) -> None:
        """Write each checkpoint once it counts; ends after :meth:`close`.

        Raises:
            HeldError: another run has taken over.
        """
        while not self.is_over:
            await self._moved.wait()
            self._moved = anyio.Event()
            # Each covers everything that the one before it does, and more.
            counting = list(takewhile(self._counts, self._taken))
            if not counting or self.is_over:
                continue
            newest = counting[-1]  # a resuming run has no use for the others
            data = await clock.in_thread(self._written, newest)
            if len(data) > _LIMIT or len(newest.objects) > 1 + _MOST_MEMBERS:
                self._end()  # each later one is larger
                continue
            try:
                await self.destination.keep_checkpoint(data, newest.offset)
            except HeldError:
                raise
            except RivaStreamError as error:
                self.destination.run.warn("checkpoint", f"no further checkpoint is kept: {error}")
                self._end()
                continue
            self._taken = self._taken[self._taken.index(newest) + 1 :]
            # Older ones are not needed any more, nor are states after fewer bytes of what is not hashed to its end.
            for progress in (newest.objects[0], newest.objects[-1]):
                forget_before(progress.size, progress.digest, progress.ranges)

    def _end(self) -> None:
        """Take no more checkpoints, and drop pending ones: no states will be needed."""
        self.is_over = True
        self._taken = []

    def _counts(self, taken: _PendingCheckpoint) -> bool:
        """Whether everything that it covers is hashed and durable."""
        taken.missing[:] = [
            (upload, number) for upload, number in taken.missing if number not in upload.parts
        ]
        return not taken.missing and all(progress.is_hashed for progress in taken.objects)

    def _written(self, taken: _PendingCheckpoint) -> bytes:
        snapshot, members = taken.snapshot, list(taken.objects[1:])
        opened: DigestState | None = None
        if snapshot is not None and snapshot.member is not None:
            progress = members.pop()
            if not isinstance(progress.digest, TracedDigest):
                raise RuntimeError("an open member must have a resumable digest")
            opened = progress.digest.states[progress.size]
        records = [progress.digest.record() for progress in members]
        return to_json(
            Checkpoint(
                version=1,
                offset=taken.offset,
                archive=self.digest.states[taken.offset],
                extractor=snapshot.data.decode() if snapshot is not None else None,
                members=[FinishedDigest(size=r.size, sha256=r.sha256, blake3=r.blake3) for r in records],
                open=opened,
                copied_by=self.copied_by,
                copied=[_copied(it.ranges, it.size) for it in taken.objects if it.ranges is not None],
                parts=_parts_digest(
                    [upload.parts[number].checksum for number in range(1, parts + 1)]
                    for upload, parts in taken.required.items()
                ),
            )
        )


def _parts_digest(uploads: Iterable[Sequence[str | None]]) -> str:
    """One digest of the CRC64NVMEs of the parts of each upload."""
    digest = hashlib.sha256()
    for checksums in uploads:
        digest.update(f"{len(checksums)} {' '.join(map(str, checksums))}\n".encode())
    return digest.hexdigest()


def _copied(ranges: TracedRanges, size: int) -> CopiedRanges:
    state = ranges.states[size]
    return CopiedRanges(values=ranges.digest.values[: state.over], crc=state.crc)


def forget_before(size: int, *traced: TracedDigest | FinishedDigest | TracedRanges | None) -> None:
    """Drop the states of these digests after fewer bytes: no checkpoint will need them."""
    for digest in traced:
        if isinstance(digest, TracedDigest | TracedRanges):
            digest.forget_before(size)


# ── resuming ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ResumedMember:
    """A member that an earlier run began."""

    member: Member
    inside: InsideReport | None
    """None for the open member."""
    digest: TracedDigest | FinishedDigest
    parts: int
    """Number of parts already uploaded; 0 for a member that is copied."""
    compared: Compared | None
    """What was read of a member that is copied, if that is compared."""


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where a run resumes, and with what state, all of it compared with what the store has."""

    offset: int
    """Byte of the source to read first."""
    digest: Digest
    extractor: Extractor | None
    snapshot: Snapshot | None
    members: list[ResumedMember]
    compared: Compared | None
    """What was read of the source's own object, if the store copies that and it is compared."""
    by: str
    """Proof of the bytes that are not read again: ``crc64nvme``, the store's own checksum of each part against that of
    the stream, or ``etag``, the same ETag."""


async def find_resume_point(
    destination: Destination, source: PinnedSource, plan: CopyPlan | None
) -> ResumePoint | None:
    """The newest usable checkpoint of the previous run; None: read from the start.

    An unusable checkpoint raises nothing, whatever it contains: it leads to a warning.

    Args:
        destination: where the uploads are that this run resumes.
        source: what this run reads.
        plan: how the store copies the source; None: it is sent.
    """
    run = destination.run
    if run.request.resume == "full":
        return None
    for named in destination.checkpoints:
        try:
            restorer = _Restorer(destination, source, plan)
            earlier = await clock.in_thread(restorer.restore, await _read(run, named))
        except ValueError as error:  # also raised by the extractor and the digests
            run.warn(
                "checkpoint", f"the checkpoint at byte {named.offset} of the archive is not used: {error}"
            )
        except RivaStreamError as error:
            run.warn(
                "checkpoint", f"the checkpoint at byte {named.offset} of the archive cannot be read: {error}"
            )
        else:
            # It is the one to fall back to, not those before it in the list, which are unusable.
            destination.checkpoints = [named, *(it for it in destination.checkpoints if it is not named)]
            return earlier
    return None


def _require(holds: object, what: str) -> None:
    """Require that a checkpoint, or what the store has, matches the journal."""
    if not holds:
        raise ValueError(what)


async def _read(run: Run, named: JournaledCheckpoint) -> bytes:
    found = await run.destination.get_or_none(named.key, limit=_LIMIT)
    if found is None:
        raise ValueError("it is missing")
    _require(
        hashlib.sha256(found.data).hexdigest() == named.sha256, "it is not the one that the journal names"
    )
    return found.data


@dataclass(eq=False)
class _Restorer:
    """What a checkpoint has to match: this run, and what it is going to do."""

    destination: Destination
    source: PinnedSource
    plan: CopyPlan | None
    sent_parts: list[list[UploadedPart]] = field(default_factory=list, init=False)
    """Parts of each object that is sent."""
    copied: list[CopiedRanges] = field(default_factory=list, init=False)
    """Digests of copied objects that were not processed yet."""

    def restore(self, data: bytes) -> ResumePoint:
        """Restore a checkpoint, comparing all of it.

        Raises:
            ValueError: it does not match.
        """
        checkpoint = read_back(Checkpoint.model_validate_json, data, size=_LIMIT, values=_MOST_VALUES)
        run, source, plan = self.destination.run, self.source, self.plan
        part_size = run.part_size_for(source.size)
        _require(checkpoint.offset % part_size == 0, "it was taken with another part size")
        _require(checkpoint.offset <= source.size, "the source ends before it")
        _require(checkpoint.archive.size == checkpoint.offset, "its digest is at another offset")
        _require(
            checkpoint.copied_by == (plan.proof if plan else ""),
            "the store copied the source in another way, or not at all",
        )
        self.copied = list(checkpoint.copied)
        compared = None
        if plan is None:
            parts = checkpoint.offset // part_size
            self._sent(run.layout.of_source(source.filename), parts, checkpoint.offset)
        else:
            compared = self._copied(plan.sizes, plan.proof, checkpoint.offset)
        digest = Digest.restore(checkpoint.archive)
        _require(
            {*digest.others} == {*source.checksums.to_compute},
            "the source's store now reports other checksums",
        )
        is_of_model = checkpoint.extractor is None
        _require(
            is_of_model == is_model(source.key), "it is of an archive and the source is not, or the reverse"
        )
        extractor, snapshot, members = None, None, list[ResumedMember]()
        if checkpoint.extractor is not None:
            extractor, snapshot = Extractor.restore(
                checkpoint.extractor.encode(), **extractor_options(run.request)
            )
            _require(0 <= snapshot.offset - checkpoint.offset < part_size, "its decoder begins elsewhere")
            _require(snapshot.consumed <= source.size, "the source ends before its decoder's place")
            members = self._members(checkpoint, snapshot, plain=extractor.is_plain)
        else:
            _require(
                not (checkpoint.members or checkpoint.open),
                "it has members, but the source is not an archive",
            )
        _require(not self.copied, "it has digests of objects that are not copied")
        return ResumePoint(
            checkpoint.offset, digest, extractor, snapshot, members, compared, self._proven(checkpoint)
        )

    def _members(self, checkpoint: Checkpoint, snapshot: Snapshot, *, plain: bool) -> list[ResumedMember]:
        _require(len(snapshot.staged) == len(checkpoint.members), "its members are not those of its archive")
        members: list[ResumedMember] = []
        for staged, finished in zip(snapshot.staged, checkpoint.members, strict=True):
            _require(finished.size == staged.member.size, "a member has another size")
            members.append(self._member(staged.member, finished, finished.size, staged.inside, plain=plain))
        _require((snapshot.member is None) == (checkpoint.open is None), "it has another open member")
        if snapshot.member is not None and checkpoint.open is not None:
            told = checkpoint.open.size == snapshot.handed_over
            _require(told, "the digest of its open member is at another offset")
            going_on = TracedDigest(Digest.restore(checkpoint.open))
            members.append(self._member(snapshot.member, going_on, snapshot.handed_over, None, plain=plain))
        return members

    def _member(
        self,
        member: Member,
        digest: TracedDigest | FinishedDigest,
        size: int,
        inside: InsideReport | None,
        *,
        plain: bool,
    ) -> ResumedMember:
        plan, run = self.plan, self.destination.run
        parts = _parts(run, member.size, size)
        if plan is not None and plain and plan.of_members and (sizes := plan.sizes_of(member)) is not None:
            return ResumedMember(member, inside, digest, 0, self._copied(sizes, plan.of_members, size))
        self._sent(run.layout.of_model(member.key_name), parts, size)
        return ResumedMember(member, inside, digest, parts, None)

    def _sent(self, key: str, parts: int, size: int) -> None:
        """Record the first ``parts`` parts of an upload, each of which is proven to be as it was sent."""
        upload = self.destination.uploads.adopted.get(key)
        # A count that may be forged is not used before it is known to be that of existing parts.
        there = upload is not None and parts <= len(upload.uploaded)
        uploaded = [upload.uploaded.get(number) for number in range(1, parts + 1)] if upload and there else []
        sent = [part for part in uploaded if part is not None and part.proof]
        _require(
            there and len(sent) == parts, f"the store does not have all parts of {key} as they were sent"
        )
        _require(sum(part.size for part in sent) == size, "its parts have other sizes")
        self.sent_parts.append(sent)

    def _copied(self, sizes: Sequence[int], proof: Proof, size: int) -> Compared | None:
        """What was read of a copied object; None if only the source's ETag is compared."""
        if not proof.of_stream:
            return None
        _require(self.copied, "it has no digests of the copied objects")
        told = self.copied.pop(0)
        RangeDigests(sizes, proof.of_stream).restore(told.values, told.crc, size)
        return Compared(told.values, told.crc, size)

    def _proven(self, checkpoint: Checkpoint) -> str:
        """Proof that the store has what was read of all objects that are covered; see :attr:`ResumePoint.by`."""
        told = _parts_digest([part.sent_crc64nvme for part in parts] for parts in self.sent_parts)
        _require(checkpoint.parts == told, "the journal records other checksums for its parts")
        proofs = {part.proof for parts in self.sent_parts for part in parts}
        if self.plan is not None:
            proofs.add(self.plan.proof.of_stream or "etag")
        return "crc64nvme" if proofs <= {"crc64nvme"} else "etag"


def _parts(run: Run, size: int, sent: int) -> int:
    """The number of parts in the first ``sent`` bytes of a member of ``size`` bytes."""
    part = min(run.part_size_for(size), size)
    if size == 0:
        return 1  # one empty part
    _require(sent == size or sent % part == 0, "a part of its open member has another size")
    return -(-sent // part)
