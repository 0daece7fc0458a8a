"""One run at a time holds a prefix: the lease, kept by writing the journal again and again.

Whoever finds a journal watches it with its own clock. If it does not change for one lease, its holder is dead (or
cut off, which is the same to everybody else) and the watcher takes over by putting its own journal in its place. On
stores with conditional writes (If-Match, If-None-Match) only one of several can. Elsewhere the last to write wins,
and everybody looks again after writing, at every beat, and before each step that others can see; what slips through
is fenced by the uploads, which the one who takes over aborts before it writes anything.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

import anyio

from riva_stream import clock
from riva_stream.errors import AccessDeniedError, HeldError, RivaStreamError, Where
from riva_stream.retry import Retrier
from riva_stream.s3 import Document, PartBody, Store
from riva_stream.state.journal import JOURNAL, Journal

__all__ = ["Found", "Lease", "read_journal"]

_LIMIT = 64 << 20
_BEATS = 3
"""Journal writes per lease: two may be lost before anybody takes over."""
_FIRST = 1.0
"""Seconds before the first of them at least,"""
_FIRST_OF = 30
"""and the part of a lease that it comes after, where that is longer."""
_FINAL_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Found:
    """A journal as it was read."""

    etag: str
    journal: Journal | None
    """None: it is there, but cannot be understood."""
    problem: str = ""


async def read_journal(store: Store, retrier: Retrier, bucket: str, key: str) -> Found | None:
    """The journal at ``key``, or None when there is none."""
    try:
        document = await retrier("GetObject", partial(store.get, bucket, key, limit=_LIMIT))
    except AccessDeniedError:
        return None  # without s3:ListBucket that is S3's answer for what is not there
    return _found(document)


def _found(document: Document | None) -> Found | None:
    if document is None:
        return None
    try:
        return Found(document.info.etag, Journal.parse(document.data))
    except ValueError as error:
        return Found(document.info.etag, None, str(error))


@dataclass(eq=False)
class Lease:
    """This run's hold on one prefix.

    Args:
        draw: gives the journal with the beat that is passed, as things stand now, and whether the run has stopped.
        warn: is told what was set aside.
        keep: keeps a copy of each journal in the state directory.
        waiting: is called now and then while another run's journal is watched.
        unfenced: whether an upload of ours that any run in our place would have aborted is open still; None: there
            is none to go by. It is the better witness: a journal can be overwritten, or deleted, by a request that
            comes late, of a dead run or of our own.
    """

    store: Store
    retrier: Retrier
    bucket: str
    prefix: str
    seconds: float
    draw: Callable[[int, bool], Journal]
    warn: Callable[[str], None]
    keep: Callable[[bytes], Awaitable[None]]
    waiting: Callable[[], None]
    unfenced: Callable[[], Awaitable[bool | None]]
    clock: Callable[[], float] = clock.monotonic
    predecessor: Journal | None = field(default=None, init=False)
    """The journal of the run that was there before; set when it is found, before ours takes its place."""
    fenced: bool = field(default=False, init=False)
    """Set once nothing that the predecessor still sends can take effect; a journal of its own is overwritten then."""
    _etag: str | None = field(default=None, init=False)
    _beat: int = field(default=0, init=False)
    _writing: anyio.Lock = field(default_factory=anyio.Lock, init=False)

    @property
    def key(self) -> str:
        """Where the journal lies."""
        return self.prefix + JOURNAL

    async def acquire(self, *, wait: bool) -> None:
        """Hold the prefix from now on.

        Args:
            wait: wait for a live holder instead of giving up.

        Raises:
            HeldError: a live run holds it; the message says which.
        """
        while True:
            found = await read_journal(self.store, self.retrier, self.bucket, self.key)
            if found is not None:
                found = await self._wait_until_free(found, wait=wait)
                if found is None:
                    continue  # it went away meanwhile: look again at what is there
            self._etag = found.etag if found else None
            self.predecessor = found.journal if found else None
            try:
                await self.write()
            except HeldError:
                if not wait:
                    raise
                continue  # somebody else was quicker
            if found is not None and found.journal is None:
                self.warn(f"the journal at s3://{self.bucket}/{self.key} is set aside: {found.problem}")
            return

    async def beat(self) -> None:
        """Write the journal again and again; run it beside the work, and cancel it.

        The first ones come soon, each after twice the pause of the one before: of a run that is killed before its
        journal names any part, the next one has nothing to go on with.

        Raises:
            HeldError: another run has taken over.
        """
        pause = max(_FIRST, self.seconds / _FIRST_OF)
        while True:
            await clock.sleep(min(pause, self.seconds / _BEATS))
            await self.write()
            pause *= 2

    async def write(self, *, stopped: bool = False) -> None:
        """Write the journal as things stand now.

        Raises:
            HeldError: another run holds the prefix.
        """
        async with self._writing:
            await self._check()
            self._beat += 1
            data = self.draw(self._beat, stopped).to_bytes()
            await self.keep(data)
            digest = hashlib.md5(data, usedforsecurity=False).digest()
            body = PartBody((data,), len(data), md5=base64.b64encode(digest).decode())
            attempts = 0

            async def put() -> str:
                nonlocal attempts
                attempts += 1
                if attempts > 1 and self._etag is not None:
                    await self._look()  # while the first attempt hung, another run may have come
                try:
                    stored = await self.store.put(
                        self.bucket,
                        self.key,
                        body,
                        content_type="application/json",
                        metadata={},
                        if_absent=self._etag is None,
                        if_match=self._etag,
                    )
                except HeldError:
                    # Refused: another run's is there, or ours is, by an attempt whose answer was lost.
                    there = await self.store.get(self.bucket, self.key, limit=_LIMIT)
                    if there is None or there.data != data:
                        raise
                    return there.info.etag
                return stored.etag

            try:
                self._etag = await self.retrier("PutObject", put)
            except HeldError as error:
                found = await read_journal(self.store, self.retrier, self.bucket, self.key)
                raise self._taken(found) from error
            # A store that ignores the condition lets the last one win. Are we, and did nobody come before us?
            await self._check(fence=True)

    async def check(self) -> None:
        """Make sure that the prefix is still ours; called before each step that others can see.

        Raises:
            HeldError: it is not.
        """
        async with self._writing:
            await self._check(fence=True)

    async def settle(self) -> None:
        """Wait until no write of ours is under way: one that is cut off may still come, after the journal is deleted."""
        with anyio.move_on_after(_FINAL_SECONDS):
            await self._writing.acquire()
            self._writing.release()

    async def leave(self) -> HeldError | None:
        """Let go, but leave the journal for whoever goes on; takes a few seconds at most.

        Returns:
            The error to tell instead, when it turns out that another run has taken over.
        """
        with anyio.move_on_after(_FINAL_SECONDS, shield=True):
            try:
                await self.write(stopped=True)
            except HeldError as error:
                return error
            except RivaStreamError:
                return None  # the first error is the one to tell; without this the next run waits one lease
        return None

    async def remove(self) -> None:
        """Let go for good: delete the journal if it is ours."""

        async def once() -> None:
            info = await self.store.head(self.bucket, self.key)
            if info is None:
                return
            found = await self._read() if info.etag != self._etag else None
            if found is None or (found.journal is not None and found.journal.token == self._token):
                await self.store.delete(self.bucket, self.key)

        with anyio.move_on_after(2 * _FINAL_SECONDS, shield=True):
            try:
                await self.retrier("DeleteObject", once)
            except RivaStreamError as error:
                self.warn(f"the journal s3://{self.bucket}/{self.key} could not be removed: {error}")

    async def current(self) -> Journal | None:
        """The journal that lies there now, whosesoever it is."""
        found = await read_journal(self.store, self.retrier, self.bucket, self.key)
        return found.journal if found else None

    async def _check(self, *, fence: bool = False) -> None:
        if self._etag is not None:
            await self.retrier("HeadObject", partial(self._look, fence=fence))

    async def _look(self, *, fence: bool = False) -> None:
        """One attempt to see whether the journal is still ours, and with ``fence`` our uploads as well."""
        info = await self.store.head(self.bucket, self.key)
        if info is not None and info.etag == self._etag:
            # It may be ours because a write of ours came late, over that of a run that has taken over.
            if fence and await self.unfenced() is False:
                raise self._taken(None)
            return
        found = await self._read()
        token = found.journal.token if found is not None and found.journal is not None else ""
        late = self.fenced and self.predecessor is not None and token == self.predecessor.token
        open_still = await self.unfenced()
        if open_still is False or not (token == self._token or late or open_still):
            raise self._taken(found)
        # Our own, by a write that was cut off before its answer came; or the last word of a run whose place we have
        # taken; or something came late to the journal alone. Ours will replace it.
        self._etag = found.etag if found is not None else None

    async def _read(self) -> Found | None:
        return _found(await self.store.get(self.bucket, self.key, limit=_LIMIT))

    @property
    def _token(self) -> str:
        return self.draw(self._beat, False).token

    def _taken(self, found: Found | None) -> HeldError:
        theirs = found.journal if found is not None else None
        who = theirs.holder() if theirs and theirs.token != self._token else "another run"
        return HeldError(
            f"{who} has taken over s3://{self.bucket}/{self.prefix}" + ("" if found else " and ended"),
            where=Where(bucket=self.bucket, key=self.key),
            hint="run the same command again when it is done: it then says whether the staging is there",
        )

    async def _wait_until_free(self, found: Found, *, wait: bool) -> Found | None:
        """Watch a journal until its holder lets go or has not moved for one lease; None when it went away.

        Raises:
            HeldError: it moved, and ``wait`` is False.
        """
        ours = self.draw(0, False)
        held = found.journal
        if held is not None and (
            held.stopped or held.run_id == ours.run_id or held.process.is_dead(ours.process)
        ):
            return found
        lease = max(self.seconds, held.lease if held else 0.0)
        since = self.clock()
        while self.clock() - since < lease:
            self.waiting()
            await clock.sleep(min(1.0, lease / 10))
            now = await self.retrier("HeadObject", partial(self.store.head, self.bucket, self.key))
            if now is None:
                return None
            if now.etag == found.etag:
                continue
            if not wait:
                who = held.holder() if held else "another run"
                raise HeldError(
                    f"{who} holds s3://{self.bucket}/{self.prefix} and is alive",
                    where=Where(bucket=self.bucket, key=self.key),
                    hint="run the same command again when it is done, or pass --wait",
                )
            return None  # it lives: begin again with what it has written now
        return found
