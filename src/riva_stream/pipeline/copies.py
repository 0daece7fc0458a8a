"""Whether the store copies the source, in which parts, and how the copies will be proven.

Nothing is assumed of a store that is not AWS: how far its answers can be trusted is probed (see ``s3.copy_probe``).
Where nothing could prove a copy, none is made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from anyio.abc import TaskGroup

from riva_stream.archive import Member
from riva_stream.errors import ConfigurationError, HeldError, RivaStreamError, TransientError
from riva_stream.flow.buffers import Chunk
from riva_stream.flow.digest import HashLane
from riva_stream.flow.lanes import Lane
from riva_stream.flow.tee import Branch
from riva_stream.layout import SCRATCH
from riva_stream.naming import option
from riva_stream.pipeline.traced import TracedRanges
from riva_stream.retry import Retrier, RetryPolicy
from riva_stream.run import Run, gather_bounded
from riva_stream.s3 import Bucket, CopySource, ObjectPart, WritableBucket
from riva_stream.s3.copy_probe import CopyAbility, probe_copies
from riva_stream.sink import CopiedObject, PartCopier, Proof, Upload, Uploads
from riva_stream.sizes import MIB
from riva_stream.source import PinnedRanges, PinnedSource, is_unchanged

__all__ = [
    "COPIES",
    "FEW_BYTES",
    "LEAST_COPY",
    "CopyPlan",
    "Outlets",
    "SourceCopy",
    "plan_copies",
    "plan_objects",
]

COPIES = 8
"""Parts that the store copies at once: it does the work, so larger hosts need no more connections."""
LEAST_COPY = 64 * MIB
"""Bytes, at least, of a part whose size is ours to choose: one request copies hundreds of MB/s, whatever its size."""
FEW_BYTES = 5 * MIB
"""S3 copies ranges only of objects larger than this (API reference, "UploadPartCopy": x-amz-copy-source-range)."""
_MOST_BYTES = 5 << 30
"""Bytes of one part, at most."""
_MOST_HEADS = 1000
"""Parts of the source, at most, that are queried one by one."""
_PROBE_RETRIES = 2
_PROBED = 64 << 10
"""Bytes that a probe copies and reads."""

_COMMON_PART_SIZES = sorted(
    [
        *(MIB << power for power in range(3, 13)),
        *(n * MIB for n in (5, 10, 15, 20, 25, 50, 100, 200, 250, 500)),
    ]
)
"""Part sizes that clients commonly use, in bytes; if none of them fits, any whole MiB."""

_PLAIN = re.compile(r"[0-9a-f]{32}")
_MULTIPART = re.compile(r"[0-9a-f]{32}-([1-9][0-9]{0,4})")


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """How the store makes the source's own object, and its members if it can."""

    source: PinnedSource
    proof: Proof
    sizes: tuple[int, ...]
    """Bytes of the parts of the source's own object."""
    part_size: int
    """Bytes of the parts of members."""
    of_members: Proof | None
    """How a range of our own choice is proven; None: members are sent."""

    crc64nvme: str = ""
    """CRC64NVME of the whole source, if known without reading it; see :class:`~riva_stream.sink.CopiedObject`."""

    def begin_source(self, upload: Upload) -> CopiedObject:
        """Queue the copies of the whole source."""
        return self._begin(upload, 0, self.sizes, self.proof, self.crc64nvme)

    def begin_member(self, upload: Upload, member: Member) -> CopiedObject | None:
        """Queue the copies of a member of a plain tar; None if it has to be sent."""
        if (sizes := self.sizes_of(member)) is None or self.of_members is None:
            return None
        return self._begin(upload, member.data_offset or 0, sizes, self.of_members)

    def sizes_of(self, member: Member) -> tuple[int, ...] | None:
        """Bytes of each part of a member of a plain tar; None if it has to be sent."""
        if self.of_members is None or member.data_offset is None or not member.size:
            return None
        if self.source.size <= FEW_BYTES or member.data_offset + member.size > self.source.size:
            return None
        return _in_parts(member.size, self.part_size)

    @property
    def can_resume(self) -> bool:
        """Whether all digests that are compared with the copies can be saved; an MD5 cannot."""
        return Proof.MD5 not in {self.proof, self.of_members}

    def _begin(
        self, upload: Upload, offset: int, sizes: tuple[int, ...], proof: Proof, crc64nvme: str = ""
    ) -> CopiedObject:
        source, at = self.source, offset
        for size in sizes:
            first, last = (None, None) if size == source.size else (at, at + size - 1)
            upload.copy(
                CopySource(source.bucket, source.key, source.etag, source.version_id, first, last), size
            )
            at += size
        return CopiedObject(upload, sizes, proof, source.etag, crc64nvme)


@dataclass(frozen=True, slots=True)
class Compared:
    """What an earlier run has read of an object that the store copies."""

    values: Sequence[str]
    """Digests of those of its parts that were read whole."""
    crc: int
    """CRC of what was read of the next part."""
    size: int
    """Bytes that were read."""

    def resume(self, ranges: TracedRanges) -> None:
        """Let ``ranges`` continue after it.

        Raises:
            ValueError: the digests are of other parts.
        """
        ranges.digest.restore(self.values, self.crc, self.size)
        ranges.reset()


@dataclass(frozen=True, slots=True)
class SourceCopy:
    """The decision whether the store copies the source, and the reason."""

    plan: CopyPlan | None
    reason: str = ""
    """Why the source is sent."""

    @property
    def proven_by(self) -> str:
        """Name of the proof; "" if the source is sent."""
        return str(self.plan.proof) if self.plan else ""

    @property
    def how(self) -> str:
        """``sent``, or the name of the proof."""
        return self.proven_by or "sent"


async def plan_copies(run: Run, bucket: WritableBucket, source: PinnedSource, check: str) -> SourceCopy:
    """Decide whether the store copies the objects that are ranges of the source.

    Args:
        run: its request says what the user wants.
        bucket: the destination, for scratch uploads.
        source: the source of the staging.
        check: the checksum of parts; see ``--upload-check``.

    Raises:
        ConfigurationError: the request demands a copy by the store, which is not possible.
    """
    wished = run.request.source_copy
    if run.request.mode != "full" or wished == "send" or not source.size:
        return SourceCopy(None)
    found = await _Planner(run, bucket, source, check).of_stream()
    if found.plan is None and wished == "store":
        raise cannot_copy(found.reason)
    return found


async def plan_objects(
    run: Run, bucket: WritableBucket, objects: Sequence[tuple[PinnedSource, str]], check: str
) -> list[SourceCopy]:
    """Decide for whole objects whose checksums are known already, so that none of them needs to be read.

    Args:
        run: its request says what the user wants.
        bucket: the destination, for scratch uploads.
        objects: each with its CRC64NVME in base64, "" if unknown.
        check: the checksum of parts; see ``--upload-check``.

    Raises:
        ConfigurationError: the request demands copies by the store, which are not possible.
    """
    wished = run.request.source_copy
    if wished == "send" or not objects:
        return [SourceCopy(None) for _ in objects]
    largest = max((source for source, _ in objects), key=lambda source: source.size)
    ability = await _Planner(run, bucket, largest, check, reads=False).ability()

    async def plan(one: tuple[PinnedSource, str]) -> SourceCopy:
        source, crc64nvme = one
        found = await _Planner(run, bucket, source, check, reads=False).of_object(crc64nvme, ability)
        if found.plan is None and wished == "store" and source.size:
            raise cannot_copy(found.reason)
        return found

    return await gather_bounded(objects, plan)


def cannot_copy(reason: str) -> ConfigurationError:
    """The error if the request demands a copy by the store, which is not possible."""
    return ConfigurationError(
        f"the store cannot copy the source: {reason}",
        hint=f"use {option('source_copy')} auto, which sends it then",
    )


@dataclass(eq=False)
class Outlets:
    """Where the stream's bytes go besides the digests: to be sent, or to prove what the store copies meanwhile."""

    run: Run
    uploads: Uploads
    plan: CopyPlan | None
    keeps_states: bool
    """Whether a checkpoint may need the states of the compared digests."""
    _copied: list[CopiedObject] = field(default_factory=list, init=False)
    _proofs: HashLane = field(default_factory=lambda: HashLane(Lane("proof")), init=False)

    def __post_init__(self) -> None:
        if self.plan is not None:
            source = self.plan.source
            self.run.meter.counts = (*self.run.meter.counts, "copied")
            self.uploads.copier = PartCopier(
                self.uploads.bucket,
                partial(
                    is_unchanged, source, Bucket(self.run.source_store, source.bucket, self.run.retrier).head
                ),
                with_crc64nvme=self.plan.proof is Proof.CRC64NVME,
            )

    def of_source(self, upload: Upload) -> tuple[Branch, TracedRanges | None]:
        """Begin the source's own object; return its branch, and the digests to compare with its copies, if any."""
        return self._of(self.plan.begin_source(upload)) if self.plan else (upload.send, None)

    def of_member(self, upload: Upload, member: Member, *, plain: bool) -> tuple[Branch, TracedRanges | None]:
        """Begin the object of a member likewise; ``plain``: the source contains it uncompressed."""
        copied = self.plan.begin_member(upload, member) if self.plan and plain else None
        return self._of(copied) if copied else (upload.send, None)

    def start(self, tasks: TaskGroup, moved: Callable[[], None]) -> None:
        """Copy, and hash for comparison with copies, until :meth:`close`; ``moved``: called after each chunk hashed."""
        self._proofs.done = moved
        if self.plan is not None:
            for _ in range(COPIES):
                tasks.start_soon(self.uploads.copy_parts)
        tasks.start_soon(self._proofs.run)

    def close(self) -> None:
        """Declare that no more bytes will come."""
        self._proofs.close()

    def prove(self) -> None:
        """Prove all copies, once everything was copied and hashed; see :meth:`~riva_stream.sink.CopiedObject.prove`."""
        for copied in self._copied:
            copied.prove()

    def _of(self, copied: CopiedObject) -> tuple[Branch, TracedRanges | None]:
        self._copied.append(copied)
        if copied.digests is None:
            return Chunk.release, None
        traced = TracedRanges(copied.digests, kept=self.keeps_states)
        return partial(self._proofs.send, traced), traced


@dataclass(eq=False)
class _Planner:
    run: Run
    bucket: WritableBucket
    source: PinnedSource
    check: str
    reads: bool = True
    """Whether the source is read during the copying, so that digests of any range of it are available."""

    async def of_stream(self) -> SourceCopy:
        """Decide for a source that is read and hashed meanwhile."""
        ability = await self.ability()
        if ability.reason:
            return SourceCopy(None, ability.reason)
        part_size, own = self._own_parts()
        if self.check == "crc64nvme":
            if not ability.crc64nvme:
                return SourceCopy(
                    None, "the store does not return, or does not verify, the CRC64NVME of copied parts"
                )
            return SourceCopy(CopyPlan(self.source, Proof.CRC64NVME, own, part_size, Proof.CRC64NVME))
        ranged = Proof.MD5 if self.run.request.source_copy == "store" and ability.md5 else None
        found = await self._by_etag(ranged)
        if found.plan is None and ranged is not None and not self._is_kms:
            return SourceCopy(CopyPlan(self.source, ranged, own, part_size, ranged))
        return found

    async def of_object(self, crc64nvme: str, ability: CopyAbility) -> SourceCopy:
        """Decide for an object that is not read."""
        if not self.source.size:
            return SourceCopy(None)  # there is nothing to copy
        if ability.reason:
            return SourceCopy(None, ability.reason)
        if crc64nvme and ability.crc64nvme:
            part_size, own = self._own_parts()
            return SourceCopy(
                CopyPlan(self.source, Proof.CRC64NVME, own, part_size, None, crc64nvme=crc64nvme)
            )
        return await self._by_etag(None)

    @property
    def _is_kms(self) -> bool:
        return (self.run.request.sse or "").startswith("aws:kms")

    def _own_parts(self) -> tuple[int, tuple[int, ...]]:
        """Bytes of a part whose size is ours to choose, and of each part of such a copy."""
        part_size = max(LEAST_COPY, self.run.part_size_for(self.source.size))
        return part_size, _in_parts(self.source.size, part_size)

    async def _by_etag(self, ranged: Proof | None) -> SourceCopy:
        """Plan a copy that has the source's ETag."""
        source, (part_size, _) = self.source, self._own_parts()
        if self._is_kms:  # then an ETag is not an MD5
            return SourceCopy(None, "neither a CRC64NVME nor an ETag can prove the copy of encrypted parts")
        if _PLAIN.fullmatch(source.etag) and source.size <= _MOST_BYTES:
            return SourceCopy(CopyPlan(source, Proof.PLAIN_ETAG, (source.size,), part_size, ranged))
        if (sizes := await self._parts_of_source()) is not None:
            return SourceCopy(CopyPlan(source, Proof.MULTIPART_ETAG, sizes, part_size, ranged))
        return SourceCopy(None, "nothing could prove the copy: no CRC64NVME, and no ETag that it would share")

    async def ability(self) -> CopyAbility:
        """How far the store's copies can be trusted."""
        run, source = self.run, self.source
        with_checksums = self.check == "crc64nvme"
        if not run.one_principal:
            return CopyAbility("source and destination are not reached with the same credentials")
        # There, whether ETags are MD5s depends on the default encryption of the bucket.
        if run.destination.is_aws and (with_checksums or run.request.source_copy != "store"):
            return CopyAbility(crc64nvme=with_checksums)
        span = min(_PROBED, source.size) if source.size > FEW_BYTES else source.size
        first, last = (0, span - 1) if span < source.size else (None, None)
        read = with_checksums or (self.reads and run.request.source_copy == "store")
        try:
            return await self._probed(
                CopySource(source.bucket, source.key, source.etag, None, first, last), span, read
            )
        except HeldError:
            raise
        except TransientError as error:
            if run.request.source_copy == "store":
                raise
            # A store that cannot copy may fail without an answer that says so. The run does not depend on this probe.
            return CopyAbility(f"the store cannot be asked for a copy: {error.what}")

    async def _probed(self, asked: CopySource, span: int, read: bool) -> CopyAbility:
        run, bucket = self.run, self.bucket
        if run.request.source_copy != "store":  # otherwise the run depends on it as on any other request
            policy = RetryPolicy(retries=min(_PROBE_RETRIES, run.request.retries))
            bucket = replace(
                bucket, retrier=Retrier(policy, run.observer, run.meter.touch, run.renew_sessions)
            )
        return await probe_copies(
            bucket,
            run.request.prefix + SCRATCH[0],
            asked,
            await self._first(span) if read else None,
            declare=self.check == "crc64nvme",
        )

    async def _first(self, size: int) -> bytes:
        """The first bytes of the source."""
        ranges = PinnedRanges(self.run.source_store, self.source, self.run.observer)
        return await self.run.retrier("GetObject", partial(ranges.first, size))

    async def _parts_of_source(self) -> tuple[int, ...] | None:
        """Bytes of each part in which the source was uploaded: as the store reports them, or else a common part size.

        A wrong guess proves nothing, and costs nothing but the time that it takes.
        """
        found = _MULTIPART.fullmatch(self.source.etag)
        if found is None:
            return None
        count, size = int(found[1]), self.source.size
        if count > self.run.most_parts:
            return None
        first = await self._part(1)
        if first is None or first.parts != count:
            # A promoted staging was most likely uploaded in parts of our own size.
            ours = 0 if self.reads else self.run.part_size_for(size)
            return (
                _in_parts(size, ours)
                if ours and _ceil_div(size, ours) == count
                else _usual_parts(size, count)
            )
        if first.size and _ceil_div(size, first.size) == count:
            return _in_parts(size, first.size)
        if count > _MOST_HEADS:
            return None
        told = await gather_bounded(range(1, count + 1), self._part)
        sizes = tuple(part.size for part in told if part is not None)
        return sizes if sum(sizes) == size and len(sizes) == count else None

    async def _part(self, number: int) -> ObjectPart | None:
        place = Bucket(self.run.source_store, self.source.bucket, self.run.retrier)
        try:
            return await place.head_part(self.source.key, number)
        except TransientError:
            raise
        except RivaStreamError:
            return None  # it does not support part numbers


def _in_parts(size: int, part: int) -> tuple[int, ...]:
    """``size`` bytes in parts of ``part``, the last of which may be smaller."""
    return tuple(min(part, size - at) for at in range(0, size, part))


def _usual_parts(size: int, count: int) -> tuple[int, ...] | None:
    """The only common part size with which ``size`` bytes make ``count`` parts; None if there is none, or several."""
    if count == 1:
        return (size,)
    least, most = max(FEW_BYTES, _ceil_div(size, count)), _ceil_div(size, count - 1) - 1
    usual = [part for part in _COMMON_PART_SIZES if least <= part <= most]
    fits = usual or range(_ceil_div(least, MIB) * MIB, most + 1, MIB)
    return _in_parts(size, fits[0]) if len(fits) == 1 else None


def _ceil_div(size: int, unit: int) -> int:
    """How many times ``unit`` goes into ``size``, rounded up."""
    return -(-size // unit)
