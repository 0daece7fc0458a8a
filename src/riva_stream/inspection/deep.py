"""Read staged objects whole, several at once, and hash what was read: nothing is kept or reassembled.

Each object has its own reader with several connections, and one worker thread per algorithm, so SHA-256 and
BLAKE3 of one chunk are computed in parallel. All objects share one budget of bytes in flight, whatever their
sizes; within each object the lowest range always gets its memory first, so none can starve another.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import anyio

from riva_stream.errors import ConfigurationError, SourceChangedError, first_of
from riva_stream.events import Observer
from riva_stream.flow.buffers import Chunk, Credits
from riva_stream.flow.digest import Hash, HashLane
from riva_stream.flow.lanes import Lane, Lanes
from riva_stream.flow.memory import least_memory, plan_memory
from riva_stream.flow.tee import Branch, tee
from riva_stream.inspection.reports import DeepRead
from riva_stream.naming import option
from riva_stream.run import Meter, gather_bounded
from riva_stream.s3 import Bucket
from riva_stream.sizes import MIB
from riva_stream.source import PinnedSource, SourceReader

__all__ = ["RANGE", "DeepReader", "Target", "fetching"]

_AT_ONCE = 3
"""Objects read at once."""


@dataclass(frozen=True, slots=True)
class Target:
    """One object to read."""

    bucket: Bucket
    pinned: PinnedSource
    sha256: str | None = None
    """The expected digest; None: unknown."""
    blake3: str | None = None
    use_store_checksums: bool = False
    """Whether the checksums that its own store keeps are to be computed, too."""

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The algorithms that it is hashed with."""
        further = self.pinned.checksums.to_compute if self.use_store_checksums else ()
        return ("sha256", *(("blake3",) if self.blake3 else ()), *further)


class _Account(Credits):
    """One object's share of the common budget. What it still holds is released as soon as the object is given up."""

    def __init__(self, budget: Credits) -> None:
        super().__init__(budget.limit)
        self._budget = budget
        self._closed = False

    async def acquire(self, amount: int) -> None:
        await self._budget.acquire(amount)
        self._take(amount)

    def release(self, amount: int) -> None:
        if not self._closed:
            self.in_use -= amount
            self._budget.release(amount)

    def close(self) -> None:
        """Release what is still held; nothing more will be acquired."""
        self._closed = True
        self._budget.release(self.in_use)


class DeepReader:
    """Reads objects.

    Args:
        observer: is told of progress.
        connections: ranges of one object that are requested at once.
        memory: bytes that the whole process may use, as in docs/memory.md.
        done: is called with each target and its result.

    Raises:
        ConfigurationError: ``memory`` is too small.
    """

    def __init__(
        self,
        observer: Observer,
        *,
        connections: int,
        memory: int,
        done: Callable[[Target, dict[str, str] | str], None],
    ) -> None:
        try:
            plan = plan_memory(memory, RANGE)
        except ConfigurationError as error:
            # The size of a range cannot be chosen here.
            error.hint = f"pass {option('memory')} {least_memory(RANGE) // MIB}MiB or more"
            raise
        self._budget = Credits(plan.read_share + plan.write_share)
        self._observer = observer
        self._connections = connections
        self._done = done
        self._lanes = Lanes()
        self._meter = Meter(observer, self._lanes, counts=("fetched", "hashed"))

    async def run(self, targets: Sequence[Target]) -> DeepRead:
        """Read each target to its end.

        ``done`` gets the digests by algorithm, or how the object differs from the one that was pinned.

        Raises:
            RivaStreamError: an object cannot be read.
        """
        began = time.perf_counter()
        self._meter.source_size = sum(target.pinned.size for target in targets)

        async def read(target: Target) -> None:
            self._done(target, await self._read(target))

        # The largest first: otherwise it would be read alone at the end.
        largest_first = sorted(targets, key=lambda target: target.pinned.size, reverse=True)
        await gather_bounded(largest_first, read, at_once=_AT_ONCE)
        self._meter.tell()
        seconds = time.perf_counter() - began
        done = self._lanes.hash.bytes
        return DeepRead(
            objects=len(targets),
            bytes=done,
            seconds=round(seconds, 3),
            mib_per_second=round(done / MIB / seconds, 1) if seconds > 0 else 0.0,
        )

    async def _read(self, target: Target) -> dict[str, str] | str:
        account = _Account(self._budget)
        hashes = [Hash(algorithm) for algorithm in target.algorithms]
        try:
            await self._stream(target, account, hashes)
        except SourceChangedError as error:
            return f"it was replaced or removed while it was read ({error.what})"
        finally:
            account.close()
        return {hashed.algorithm: hashed.text() for hashed in hashes}

    async def _stream(self, target: Target, account: Credits, hashes: Sequence[Hash]) -> None:
        reader = SourceReader(
            target.bucket,
            target.pinned,
            RANGE,
            account,
            self._lanes.source,
            lambda count: self._meter.add(fetched=count),
            self._observer,
        )
        # The first lane's clock is the one that counts: the others see the same bytes.
        lanes = [HashLane(self._lanes.hash if not i else Lane("also")) for i in range(len(hashes))]
        branches: list[Branch] = [
            partial(lane.send, hashed) for lane, hashed in zip(lanes, hashes, strict=True)
        ]
        try:
            async with fetching(reader, self._connections) as chunks, anyio.create_task_group() as tasks:
                for lane in lanes:
                    tasks.start_soon(lane.run)
                async for chunk in chunks:
                    tee(chunk, branches)
                for lane in lanes:
                    lane.close()
        except BaseExceptionGroup as group:
            raise first_of(group) from None


RANGE = 8 * MIB
"""Bytes of one ranged GET."""


@asynccontextmanager
async def fetching(reader: SourceReader, connections: int) -> AsyncIterator[AsyncIterator[Chunk]]:
    """Fetch within the block, and yield the chunks; the consumer of a chunk releases it.

    The block may be left at any time; fetches still in progress are then cancelled. An error that the block raises
    leaves it unchanged, never in a group.

    Raises:
        RivaStreamError: a range cannot be read.
    """
    raised: Exception | None = None
    try:
        async with anyio.create_task_group() as tasks, aclosing(reader.chunks()) as chunks:
            for _ in range(connections):
                tasks.start_soon(reader.fetch)
            try:
                yield chunks
            except Exception as error:  # noqa: BLE001 - raised again below, outside of the group
                raised = error
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise first_of(group) from None
    if raised is not None:
        raise raised
