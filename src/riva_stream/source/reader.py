"""Pinned ranged GETs, several at once, delivered in order.

Ranges are as large as the parts that are sent, so a range that was read is a part to be sent. Credits for a range are
acquired, in order, before it is requested: the lowest missing range always has its credits, so the ones after it can
never starve it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

import anyio

from riva_stream.errors import AccessDeniedError, SourceChangedError, TransientError, Where
from riva_stream.events import Observer, Warned, ignore
from riva_stream.flow.buffers import Chunk, Credits, Piece
from riva_stream.flow.lanes import Lane
from riva_stream.s3 import Bucket
from riva_stream.s3.speed import min_throughput
from riva_stream.source.pin import PinnedSource
from riva_stream.source.ranges import PinnedRanges

__all__ = ["SourceReader"]


@dataclass(eq=False)
class SourceReader:
    """Reads one pinned object to its end.

    Run :meth:`fetch` in as many tasks as there are to be connections, and iterate :meth:`chunks` in another.
    """

    bucket: Bucket
    source: PinnedSource
    part_size: int
    credits: Credits
    lane: Lane
    fetched: Callable[[int], None]
    """Called with the number of bytes received, as they arrive."""
    observer: Observer = ignore
    start: int = 0
    """Byte to begin at; a multiple of ``part_size``."""
    _next: int = field(init=False)
    _turn: anyio.Lock = field(default_factory=anyio.Lock, init=False)
    _ready: dict[int, Chunk] = field(default_factory=dict, init=False)
    _arrived: anyio.Event = field(default_factory=anyio.Event, init=False)
    _by_version: bool = field(default=True, init=False)
    _ranges: PinnedRanges = field(init=False)

    def __post_init__(self) -> None:
        self._next = self.start
        self._ranges = PinnedRanges(self.bucket.store, self.source, self.observer)

    async def fetch(self) -> None:
        """Fetch ranges until none is left."""
        while True:
            async with self._turn:
                start = self._next
                if start >= self.source.size:
                    return
                size = min(self.part_size, self.source.size - start)
                await self.credits.acquire(size)
                self._next = start + size
            with self.lane.busy():
                pieces = await self._range(start, size)
            self.lane.bytes += size
            self._ready[start] = Chunk(start, size, pieces, self.credits, size)
            self._arrived.set()

    async def chunks(self) -> AsyncGenerator[Chunk]:
        """The ranges in order; the consumer of each holds its one share."""
        start = self.start
        while start < self.source.size:
            while start not in self._ready:
                self._arrived = anyio.Event()
                with self.lane.waiting():
                    await self._arrived.wait()
            chunk = self._ready.pop(start)
            start += chunk.size
            yield chunk

    async def _range(self, start: int, size: int) -> list[Piece]:
        """All bytes of one range. A body that breaks off is continued at its next byte, never restarted."""
        pieces: list[Piece] = []
        have = 0

        async def read_on() -> None:
            nonlocal have
            if have == size:
                return  # it broke off after its last byte: nothing is left to fetch
            first, last = start + have, start + size - 1
            where = Where("GetObject", self.source.bucket, self.source.key, byte_range=(first, last))
            version = self.source.version_id if self._by_version else None
            async with self._ranges.open(first, last, version) as reply:
                with min_throughput(last - first + 1):
                    async for piece in reply.pieces:
                        if have + len(piece) > size:
                            raise SourceChangedError(
                                "the body is longer than its range",
                                where=where,
                                hint="check that --source-endpoint-url is the store itself, then run again",
                            )
                        pieces.append(piece)
                        have += len(piece)
                        self.fetched(len(piece))
            if have < size:
                raise TransientError(
                    f"the body ended after byte {start + have} of {start + size}", where=where
                )

        async def read_on_without_version() -> None:
            try:
                await read_on()
            except AccessDeniedError:
                if not self._by_version or self.source.version_id is None:
                    raise
                # Reading by VersionId needs a permission of its own; If-Match pins the object as well.
                self._by_version = False
                self.observer(
                    Warned(
                        code="source-version",
                        message="the source is read by its ETag alone: "
                        "the credentials lack s3:GetObjectVersion for its VersionId",
                    )
                )
                await read_on()

        await self.bucket.retrier("GetObject", read_on_without_version)
        return pieces
