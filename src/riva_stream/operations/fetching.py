"""The chunks of one pinned object, in order, while several connections fetch them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import anyio

from riva_stream.buffers import Chunk
from riva_stream.errors import first_of
from riva_stream.sizes import MIB
from riva_stream.source import SourceReader

__all__ = ["RANGE", "fetching"]

RANGE = 8 * MIB
"""Bytes of one ranged GET."""


@asynccontextmanager
async def fetching(reader: SourceReader, connections: int) -> AsyncIterator[AsyncIterator[Chunk]]:
    """Fetch within the block, and give the chunks; whoever takes one releases it.

    The block may be left at any time; what is still being fetched then is given up. An error that the block raises
    leaves it as it is, never in a group.

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
