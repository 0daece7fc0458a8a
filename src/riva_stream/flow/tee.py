"""One chunk to N branches, by reference.

Each branch takes its share of a chunk and releases it when it is done; the chunk's credits go back after the last.
A branch queues without a bound of its own, for the credits bound them all: the slowest branch holds the chunks, so
the source waits for it. A branch that fails ends the whole run through the task group it runs in, so the tee needs
no word about failures; when a branch is done for good its queue refuses, and that is a bug, not a condition.
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
