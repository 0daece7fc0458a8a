"""Byte credits and the chunks that carry them: what bounds the memory of a run.

A *chunk* is a sequence of immutable pieces, just as they came from the socket or out of inflate; they are never joined,
so no byte is copied for hashing or sending. A chunk holds *credits* for its bytes from before they are read until its
last holder has released it. Queues therefore need no bound of their own: whatever waits in them is paid for.

Reading and writing have separate credits, so neither can starve the other. Each chunk's credits are acquired at once,
before its first byte: a chunk that was begun can always be filled, whatever else waits.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Generic, Self, TypeVar

import anyio

from riva_stream.arguments import require_whole

__all__ = ["Channel", "Chunk", "Credits", "Piece"]

T = TypeVar("T")

Piece = bytes | memoryview


@dataclass(eq=False, slots=True)
class Credits:
    """A budget of bytes, granted first come, first served: a large request is never overtaken forever."""

    limit: int
    in_use: int = field(default=0, init=False)
    peak: int = field(default=0, init=False)
    """The most that was ever in use."""
    _waiters: deque[tuple[int, anyio.Event]] = field(default_factory=deque, init=False)

    def __post_init__(self) -> None:
        require_whole("the bytes of a memory budget", self.limit)

    async def acquire(self, amount: int) -> None:
        """Wait until ``amount`` bytes are free and take them.

        Raises:
            ValueError: the amount exceeds the whole budget; it would wait forever.
        """
        if amount > self.limit:
            raise ValueError(f"{amount} bytes asked of a budget of {self.limit}")
        if not self._waiters and self.in_use + amount <= self.limit:
            self._take(amount)
            return
        granted = anyio.Event()
        waiter = (amount, granted)
        self._waiters.append(waiter)
        try:
            await granted.wait()
        except BaseException:
            if granted.is_set():
                self.release(amount)
            else:
                self._waiters.remove(waiter)
                self._grant()  # those queued behind a large request may fit now
            raise

    def release(self, amount: int) -> None:
        """Give back ``amount`` bytes."""
        self.in_use -= amount
        self._grant()

    def _take(self, amount: int) -> None:
        self.in_use += amount
        self.peak = max(self.peak, self.in_use)

    def _grant(self) -> None:
        while self._waiters and self.in_use + self._waiters[0][0] <= self.limit:
            amount, granted = self._waiters.popleft()
            self._take(amount)
            granted.set()


@dataclass(eq=False, slots=True)
class Chunk:
    """``size`` bytes at ``offset`` of their object, shared by reference between its holders.

    The credits for ``paid`` bytes, and the pieces, are released with the last holder.
    """

    offset: int
    size: int
    pieces: list[Piece]
    credits: Credits
    paid: int
    _holders: int = field(default=1, init=False)

    def share(self, more: int) -> None:
        """Register ``more`` holders in addition to the present ones."""
        self._holders += more

    def release(self) -> None:
        """Release one holder's share."""
        self._holders -= 1
        if self._holders == 0:
            # Emptied in place: a variable still bound to the list, in a task that waits for its next chunk, would
            # otherwise keep bytes alive that no credits pay for.
            self.pieces.clear()
            self.credits.release(self.paid)
        elif self._holders < 0:
            raise ValueError("a chunk was released more often than it was held")


class Channel(Generic[T]):
    """A queue from one task to others, in order. Any number of tasks may iterate it; each item goes to one.

    It has no bound of its own: its items hold credits, and those are bounded. Sending never waits.
    """

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._closed = False
        self._waiting: deque[anyio.Event] = deque()

    def send(self, item: T) -> None:
        """Queue an item.

        Raises:
            ValueError: the channel is closed.
        """
        if self._closed:
            raise ValueError("the channel is closed")
        self._items.append(item)
        self._wake()

    def close(self) -> None:
        """Declare that nothing more will come: iteration ends after the last item."""
        self._closed = True
        while self._waiting:
            self._waiting.popleft().set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while not self._items:
            if self._closed:
                raise StopAsyncIteration
            arrived = anyio.Event()
            self._waiting.append(arrived)
            try:
                await arrived.wait()
            except BaseException:
                if arrived.is_set():
                    self._wake()  # cancelled after the wake-up: it belongs to the item, not to this task
                else:
                    self._waiting.remove(arrived)
                raise
        return self._items.popleft()

    def _wake(self) -> None:
        """Wake one task, if there is an item for it."""
        if self._items and self._waiting:
            self._waiting.popleft().set()
