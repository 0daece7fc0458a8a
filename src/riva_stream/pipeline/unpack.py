"""The branch that opens the archive: gunzip, tar, and one upload with its digest per member."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from riva_stream import clock
from riva_stream.archive import (
    ArchiveSummary,
    Event,
    Extractor,
    InsideReport,
    Member,
    MemberData,
    MemberEnd,
    MemberStart,
    Snapshot,
    show,
)
from riva_stream.errors import ConfigurationError
from riva_stream.flow.buffers import Channel, Chunk, Credits, Piece
from riva_stream.flow.digest import Digest, HashLane
from riva_stream.flow.lanes import Lane
from riva_stream.flow.memory import BLOCK, MemoryPlan, least_memory
from riva_stream.flow.tee import Branch, tee
from riva_stream.naming import option
from riva_stream.pipeline.checkpoint import (
    Checkpointer,
    FinishedDigest,
    ObjectProgress,
    ResumePoint,
    forget_before,
)
from riva_stream.pipeline.traced import TracedDigest, TracedRanges
from riva_stream.sink import Upload
from riva_stream.sizes import MIB, MOST_PARTS, human_size

__all__ = ["StagedMember", "Unpacker"]

_TRIES = 8
"""Ends of parts without a restart point of the extractor after which the checkpoint is postponed: within one long zstd
frame there is none."""


@dataclass(eq=False, slots=True)
class StagedMember:
    """A member that is being written to its object."""

    member: Member
    upload: Upload
    outlet: Branch
    """Takes its bytes, besides the digest."""
    digest: TracedDigest | FinishedDigest
    ranges: TracedRanges | None
    """Digests to compare with its copy, if the store makes one."""
    inside: InsideReport | None = None


@dataclass(eq=False)
class Unpacker:
    """Takes the archive's chunks in order and uploads its members.

    Inflating never runs ahead: the credits for a part are acquired before its first byte is kept, and one block at a
    time is expanded.
    """

    extractor: Extractor
    memory: MemoryPlan
    part_size: Callable[[int], int]
    """Bytes of a part, given those of the member."""
    open_upload: Callable[[Member], Awaitable[tuple[Upload, Branch, TracedRanges | None]]]
    """Also returns where the member's bytes go besides the digest: to be sent, or to be compared with its copy."""
    hashes: HashLane
    lane: Lane
    expanded: Callable[[int], None]
    """Called with the number of bytes that came out of inflate."""
    checkpointer: Checkpointer
    most_parts: int = MOST_PARTS
    """Parts that the store allows in an upload."""
    members: list[StagedMember] = field(default_factory=list, init=False)
    summary: ArchiveSummary | None = field(default=None, init=False)
    credits: Credits = field(init=False)
    """The write share, from which the parts of members are paid."""
    _pieces: list[Piece] = field(default_factory=list, init=False)
    """Pieces of the part being filled, whose credits are acquired already; empty between parts."""
    _have: int = field(default=0, init=False)
    """Bytes in those pieces."""
    _sent: int = field(default=0, init=False)
    """Bytes of the open member that were shipped in parts."""
    _part: int = field(default=0, init=False)
    """Bytes of a part of the open member; 0 between members."""
    _window: int = field(default=0, init=False)
    """Bytes of the write share that the inflater's window takes."""
    _skipped: int = field(default=0, init=False)
    """Bytes at the start of the coming chunks that an earlier run has unpacked."""
    _checkpoint_from: int | None = field(default=None, init=False)
    """Byte of the archive at which the extractor was asked for a restart point; None: it was not."""
    _tries: int = field(default=0, init=False)
    _dropped: int = field(default=0, init=False)
    """Members, from the first on, of whose digests only the results are left."""
    _queue: Channel[Chunk] = field(default_factory=Channel, init=False)

    def __post_init__(self) -> None:
        self.credits = Credits(self.memory.write_share)

    async def resume(self, earlier: ResumePoint) -> None:
        """Resume where an earlier run stopped; call this before :meth:`run`.

        Raises:
            ConfigurationError: its member needs larger parts than the memory has room for.
        """
        if earlier.snapshot is None:
            return
        self._skipped = earlier.snapshot.offset - earlier.offset
        for resumed in earlier.members:
            upload, outlet, ranges = await self.open_upload(resumed.member)
            if not upload.is_copied:
                upload.skip(resumed.parts)
            elif ranges is not None and resumed.compared is not None:
                resumed.compared.resume(ranges)
            self.members.append(
                StagedMember(resumed.member, upload, outlet, resumed.digest, ranges, resumed.inside)
            )
        if earlier.snapshot.member is not None:
            self._part = self._part_of(earlier.snapshot.member)  # the earlier run may have had more memory
            self._sent = earlier.snapshot.handed_over

    def send(self, chunk: Chunk) -> None:
        """Queue the next chunk, of which this branch holds a share."""
        self._queue.send(chunk)

    def close(self) -> None:
        """Declare that no more chunks will come; :meth:`run` ends after the last."""
        self._queue.close()

    async def run(self) -> None:
        """Extract until the archive ends.

        Raises:
            ArchiveError: it is damaged, truncated, refused, or contains nothing that was asked for.
            ConfigurationError: a member needs larger parts, or zstd a larger window, than the memory has room for.
        """
        async for chunk in self._queue:
            await self._unpack(deque(self._new_of(chunk.pieces)), chunk.offset)
            self.lane.bytes += chunk.size
            chunk.release()
        self.summary = await clock.in_thread(self.extractor.finish)
        self.credits.release(self._window)

    def _new_of(self, pieces: Sequence[Piece]) -> Iterator[Piece]:
        """The pieces without the bytes that an earlier run has unpacked."""
        for piece in pieces:
            old = min(self._skipped, len(piece))
            self._skipped -= old
            if old < len(piece):
                yield memoryview(piece)[old:] if old else piece

    async def _unpack(self, pieces: deque[Piece], at: int) -> None:
        while pieces or not self.extractor.needs_input:
            before = self.extractor.expanded
            until, handed = self._stop_for_checkpoint(at)
            with self.lane.busy():
                events = await clock.in_thread(_step, self.extractor, pieces, until, handed)
            self.expanded(self.extractor.expanded - before)
            await self._pay_for_window()
            for event in events:
                match event:
                    case MemberStart(member):
                        await self._begin(member)
                    case MemberData(data):
                        await self._keep(data)
                    case MemberEnd(_, inside):
                        self.members[-1].inside = inside
                        self._part = 0
                        self._drop_digests()
            if self._checkpoint_from is not None and not self._pieces:
                await self._take_checkpoint(at, self._checkpoint_from)

    def _stop_for_checkpoint(self, at: int) -> tuple[int, int]:
        """Byte of the open member after which the next step must stop (0: none), and the bytes that it has by now."""
        if self._checkpoint_from is None:
            if not self.checkpointer.is_due(at):
                return 0, 0
            self.extractor.mark()
            self._checkpoint_from, self._tries = at, 0
        if not self._part:
            return 0, 0
        return self._sent + self._size, self._sent + self._have

    async def _take_checkpoint(self, at: int, marked: int) -> None:
        """Take the pending checkpoint, at the end of a part; without a restart point yet, wait for the next end."""
        with self.lane.busy():
            snapshot = await clock.in_thread(self.extractor.snapshot)
        self._tries += 1
        if snapshot is not None and snapshot.offset >= marked:
            self.checkpointer.take(snapshot, self._progress_of(snapshot), at)
        elif self._tries < _TRIES:
            return
        else:
            self.checkpointer.postpone(at)
        self._checkpoint_from = None

    def _progress_of(self, snapshot: Snapshot) -> list[ObjectProgress]:
        sizes = [staged.member.size for staged in self.members]
        if snapshot.member is not None:
            sizes[-1] = snapshot.handed_over
        return [
            ObjectProgress(staged.upload, staged.digest, size, staged.ranges)
            for staged, size in zip(self.members, sizes, strict=True)
        ]

    async def _begin(self, member: Member) -> None:
        self._part = self._part_of(member)
        with self.lane.waiting():
            upload, outlet, ranges = await self.open_upload(member)
        digest = TracedDigest(Digest(), kept=not self.checkpointer.is_over)
        self.members.append(StagedMember(member, upload, outlet, digest, ranges))
        self._sent = 0
        if member.size == 0:  # S3 has no upload without parts: one empty part is sent for it
            self._enqueue_part()

    def _drop_digests(self) -> None:
        """Keep only the results of digests that are complete: the state of one takes several KiB."""
        while self._dropped < len(self.members):
            staged = self.members[self._dropped]
            digest = staged.digest
            if isinstance(digest, TracedDigest):
                if digest.hashed < staged.member.size:
                    return  # the lane hashes them in order
                record = digest.record()
                staged.digest = FinishedDigest(size=record.size, sha256=record.sha256, blake3=record.blake3)
            self._dropped += 1

    def _part_of(self, member: Member) -> int:
        part = min(self.part_size(member.size), member.size)
        self._require_room(part, f"member {show(member.name)} of {human_size(member.size)}")
        return part

    async def _pay_for_window(self) -> None:
        """Acquire credits from the write share for zstd's window; the inflater keeps it, so they are not released."""
        more = self.extractor.window - self._window
        if more > 0:
            self._window += more
            self._require_room(self._part, "the archive")
            with self.lane.waiting():
                await self.credits.acquire(more)

    def _require_room(self, part: int, who: str) -> None:
        """Refuse what would wait forever: the window and one part have to fit into the write share together.

        Raises:
            ConfigurationError: they do not; the message names the least memory for which they do.
        """
        needed = self._window + part
        if needed <= self.credits.limit:
            return
        window = f"a zstd window of {human_size(self._window)}" if self._window else ""
        parts = f"parts of {human_size(part)} (the store takes {self.most_parts:,} of them)" if part else ""
        # Between members the size of the next parts is unknown; mostly they are as large as the source's.
        least = least_memory(self.memory.part_size, self._window + (part or self.memory.part_size)) // MIB
        raise ConfigurationError(
            f"{who} needs {' and '.join(filter(None, (window, parts)))}; with {option('memory')} {self.memory.ceiling // MIB}MiB there is "
            f"room for {human_size(self.credits.limit)}: the minimum is {least} MiB",
            hint=f"pass {option('memory')} {least}MiB or more",
        )

    async def _keep(self, data: Piece) -> None:
        """Put the next bytes of the member into parts."""
        view = memoryview(data)
        while view:
            if not self._pieces:
                with self.lane.waiting():
                    await self.credits.acquire(self._size)
            take = view[: self._size - self._have]
            view = view[len(take) :]
            self._have += len(take)
            # A slice keeps its whole block alive, but is paid for by its own length.
            self._pieces.append(take if len(take) == len(take.obj) else bytes(take))  # type: ignore[arg-type]
            if self._have == self._size:
                self._enqueue_part()

    @property
    def _size(self) -> int:
        """Bytes of the part being filled, or of the next one."""
        return min(self._part, self.members[-1].member.size - self._sent)

    def _enqueue_part(self) -> None:
        staged, size = self.members[-1], self._size
        if isinstance(staged.digest, FinishedDigest):
            raise ValueError("a member that is over has no more parts")  # noqa: TRY004 - it is no caller's mistake
        chunk = Chunk(self._sent, size, self._pieces, self.credits, size)
        self._pieces, self._have = [], 0
        self._sent += size
        if not self.checkpointer.is_waiting:
            forget_before(self._sent, staged.digest, staged.ranges)
        tee(chunk, (partial(self.hashes.send, staged.digest), staged.outlet))


def _step(extractor: Extractor, pieces: deque[Piece], until: int, handed: int) -> list[Event]:
    """Expand one to two blocks; runs in a worker thread, and a hop into one costs some 0.1 ms.

    It stops early after ``until`` bytes of the open member (0: never), of which ``handed`` were handed over.

    A whole block is requested each time: requesting only its rest would cut the output into ever smaller slices.
    """
    events: list[Event] = []
    stop = extractor.expanded + BLOCK
    while extractor.expanded < stop:
        if extractor.needs_input:
            if not pieces:
                break
            extractor.push(pieces.popleft())
        pulled = extractor.pull(BLOCK, until=until)
        events += pulled
        if until:
            handed += sum(len(event.data) for event in pulled if isinstance(event, MemberData))
            if handed >= until:
                break
    return events
