"""One chunk to N branches, by reference.

Each branch takes its share of a chunk and releases it when it is done; the chunk's credits are released after the last.
A branch's queue has no bound of its own, as the credits bound them all: the slowest branch holds the chunks, so the
source waits for it. A branch that fails ends the whole run through its task group, so the tee needs no error handling;
a branch that has finished refuses chunks, and sending it one is a bug, not a condition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from riva_stream.flow.buffers import Chunk

__all__ = ["Branch", "tee"]

Branch = Callable[[Chunk], None]
"""Takes a chunk, of which it now holds a share, and returns at once."""


def tee(chunk: Chunk, branches: Sequence[Branch]) -> None:
    """Give ``chunk``, of which the caller holds one share, to every branch; the caller's share is used up."""
    chunk.share(len(branches))
    for branch in branches:
        branch(chunk)
    chunk.release()
