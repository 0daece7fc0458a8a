"""The lease, by which one run at a time holds a prefix; it is kept by rewriting the journal.

A run that finds a journal watches it by its own clock. If it does not change for one lease, its holder is dead (or cut
off, which is the same to everybody else) and the watcher takes over: it replaces exactly the journal that it watched. A
holder whose journal is gone or replaced by another run's has lost the lease; it never creates a new one.

A takeover is a compare-and-swap (If-Match, If-None-Match) where the store supports that. Elsewhere it is Fischer's
algorithm (Lamport, "A Fast Mutual Exclusion Algorithm", 1987): write, wait longer than a write by a run that looked
earlier may take, and look again.

Each change that readers can see carries the lease in its signature (:class:`~riva_stream.s3.Window`): the store refuses
a request that arrives when another run may have taken over. Whether the store does so is probed, never assumed.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import anyio

from riva_stream import clock
from riva_stream.errors import AccessDeniedError, HeldError, RivaStreamError, TransientError, Where
from riva_stream.events import Observer, Watching, ignore
from riva_stream.layout import Layout
from riva_stream.lease.journal import LEASE, Identity, Journal, JournaledCheckpoint, JournaledUpload, Process
from riva_stream.naming import option
from riva_stream.retry import EXPIRED
from riva_stream.s3 import (
    REQUEST_EXPIRED,
    Bucket,
    Document,
    ObjectInfo,
    PartBody,
    Stored,
    Window,
    WritableBucket,
)
from riva_stream.s3.bucket import LOOKS, ask_until_found, confirm_refusal, pause_after
from riva_stream.tasks import await_shielded

__all__ = ["Found", "JournalContent", "Lease", "read_journal"]

T = TypeVar("T")

_LIMIT = 64 << 20
_HEARTBEATS_PER_LEASE = 3
"""Heartbeats per lease: two may be lost before another run takes over."""
_FIRST = 1.0
"""Seconds before the first heartbeat, at least."""
_FIRST_DIVISOR = 30
"""Divides the lease: the first heartbeat comes after that time, if it is longer."""
_FINAL_SECONDS = 3.0
_MARGIN = 0.1
"""Fraction of a lease by which our requests must be over before another run may act: clocks drift."""
_POLL_SECONDS = 1.0
"""Seconds of one sleep, at most, while waiting for a lease."""
_FRESH = 0.5
"""Fraction of a lease that must be left when a change is sent; otherwise the lease is renewed first."""
_LEAST_WINDOWED = 4.0
"""Seconds; a shorter lease cannot be expressed in a signature, which counts whole seconds."""
_LONGEST_WINDOW = 30
"""Seconds; the longest window, however long the lease is: a run that cannot know of a lease waits this long."""
_NO_ETAG = "0" * 32
_SETTLING = 1.5
"""Seconds for which a takeover without conditions is not trusted: longer than the window of a write, one second."""
_SETTLING_PART = 0.05
"""Fraction of a lease that limits that time where there are no windows."""


@dataclass(frozen=True, slots=True)
class Found:
    """A journal as read."""

    info: ObjectInfo
    journal: Journal | None
    """None: the journal exists, but cannot be parsed."""
    problem: str = ""

    @property
    def etag(self) -> str:
        """The ETag of the journal."""
        return self.info.etag


@dataclass(frozen=True, slots=True)
class JournalContent:
    """A journal's record of the work of a run, without its holder."""

    identity: Identity | None
    uploads: Sequence[JournaledUpload]
    committing: bool
    stale: Sequence[str] = ()
    checkpoints: Sequence[JournaledCheckpoint] = ()


async def read_journal(bucket: Bucket, key: str, *, listed: bool = False) -> Found | None:
    """The journal at ``key``, or None if there is none.

    Args:
        bucket: where it is.
        key: its key.
        listed: a listing has shown it, so a refusal cannot mean that it does not exist.

    Raises:
        AccessDeniedError: it may not be read.
    """
    get = bucket.get_confirming_absence if listed else bucket.get_confirming_refusal
    return _found(await get(key, limit=_LIMIT))


def _found(document: Document | None) -> Found | None:
    if document is None:
        return None
    try:
        return Found(document.info, Journal.parse(document.data))
    except ValueError as error:
        return Found(document.info, None, str(error))


async def _get_parsable(get: Callable[[], Awaitable[Document | None]]) -> Document | None:
    """The journal; asked for once more if it cannot be parsed: perhaps a bit flipped in transit."""
    document = await get()
    found = _found(document)
    return document if found is None or found.journal is not None else await get()


@dataclass(eq=False)
class Lease:
    """This process's hold on one prefix.

    Args:
        bucket: writes the journal, and nothing else. Its retrier is separate from that of the work: a heartbeat is no
            progress, and must not queue behind parts.
        layout: the layout of the prefix.
        seconds: without a heartbeat, after which another run may take over.
        run_id: for people; only the token decides ownership.
        started_at: for people.
        process: this process, so that another on the same host can tell whether it is alive.
        content: returns the current content of the journal.
        warn: called with each warning.
        save_copy: saves a copy of each journal in the state directory.
        waiting: called periodically while another run's journal is watched, or ours is not yet trusted.
        observer: notified when watching begins.
        lists: whether the prefix could be listed, so that a listing tells what a refusal means.
    """

    bucket: WritableBucket
    layout: Layout
    seconds: float
    run_id: str
    started_at: datetime
    process: Process
    content: Callable[[], JournalContent]
    warn: Callable[[str], None]
    save_copy: Callable[[bytes], Awaitable[None]]
    waiting: Callable[[], None]
    observer: Observer = ignore
    lists: bool = False
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    """Unique to this hold: two processes may have the same run id, but never the same token."""
    predecessor: Journal | None = field(default=None, init=False)
    """The journal that ours replaced."""
    named: frozenset[str] = field(default=frozenset(), init=False)
    """UploadIds in our last confirmed journal: no other may be completed."""
    sent: set[str] = field(default_factory=set, init=False)
    """UploadIds in any journal of ours that may have arrived: whoever takes over may adopt these."""
    committing: bool = field(default=False, init=False)
    """Whether a confirmed journal says that the run is committing."""
    conditional: bool = field(default=True, init=False)
    """Whether the store honours conditions on PUT."""
    windowed: bool = field(default=False, init=False)
    """Whether the store refuses a request that arrives after its window."""
    is_held: bool = field(default=False, init=False)
    """Whether a journal of ours has been confirmed."""
    _etag: str | None = field(default=None, init=False)
    """ETag of the last known journal: ours, or before that the one that ours replaces."""
    _beat: int = field(default=0, init=False)
    _confirmed: float = field(default=float("-inf"), init=False)
    """When the last confirmed journal was sent, by our clock."""
    _since: datetime | None = field(default=None, init=False)
    """The same moment (or a little earlier) by the store's clock."""
    _since_at: float = field(default=0.0, init=False)
    """The moment of ``_since`` by our clock; the same as ``_confirmed`` unless :meth:`expire` was called."""
    _visible: bool = field(default=False, init=False)
    """Whether an existing journal has been seen, so that a refusal may mean that it is gone."""
    _settled: float = field(default=float("-inf"), init=False)
    """The time from which our journal is trusted."""
    was_late: bool = field(default=False, init=False)
    """Whether our first journal took so long that another run may have held the prefix unseen meanwhile."""
    _looked: float = field(default=float("-inf"), init=False)
    """When the last request to look at the journal was sent."""
    _acquire_seconds: float = field(default=0.0, init=False)
    """Seconds between the look that found the prefix free and the answer to our first journal."""
    _data: bytes = field(default=b"", init=False)
    """Our last journal, as sent."""
    _writing: anyio.Lock = field(default_factory=anyio.Lock, init=False)

    @property
    def key(self) -> str:
        """The ETag of the journal."""
        return self.layout.journal

    @property
    def ends(self) -> float:
        """When the lease, and with it every request that carries it, expires by our clock if it is not renewed."""
        return self._confirmed + self.seconds

    # ── acquiring ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def acquire(self, *, wait: bool, listed: bool = False) -> None:
        """Acquire the prefix.

        Args:
            wait: wait for a live holder instead of giving up.
            listed: a listing has just shown a journal.

        Raises:
            HeldError: a live run holds it; the message says which.
        """
        try:
            await self._acquire(wait=wait, listed=listed)
        except BaseException:
            if self.is_held:  # only a journal names what the previous run left
                await (self.release() if self.predecessor is None else self.stop())
            raise

    async def _acquire(self, *, wait: bool, listed: bool) -> None:
        while True:
            self._looked = clock.monotonic()
            found = await self._find(listed=listed)
            listed = False  # a listed journal has been read, or waited for
            if found is not None:
                self._visible = True
                found = await self._wait_until_free(found, wait=wait)
                if found is None:
                    continue  # it was deleted, or its holder is alive: look again
            self._etag = found.etag if found else None
            self.predecessor = found.journal if found else None
            if found is not None:
                await self._try_windows(found.info.now)
            try:
                await await_shielded(self.write, grace=_FINAL_SECONDS)
            except HeldError:
                if not wait:
                    raise
                continue  # another run was faster
            if found is not None and found.journal is None:
                self.warn(
                    f"the journal at s3://{self.layout.bucket}/{self.key} is set aside: {found.problem}"
                )
            if found is None:
                await self._try_windows(self._since)
            await self._try_conditions()
            return

    async def _find(self, *, listed: bool) -> Found | None:
        get = partial(self.bucket.retrier, "GetObject", self._get)
        if listed:
            get = partial(self.bucket.get_confirming_absence, self.key, limit=_LIMIT)
        elif self._visible or not self.lists:
            get = partial(ask_until_found, get)
        return _found(await _get_parsable(get))

    async def _try_windows(self, since: datetime | None) -> None:
        """Find out whether the store enforces windows, by requests for the journal."""
        if self.seconds >= _LEAST_WINDOWED and since is not None:
            whole, over = Window(since, int(self.seconds)), Window(since - timedelta(hours=1), 1)
            answered = await ask_until_found(partial(self._accepts_window, whole))
            # If AWS says that the time is over, this request took that long: it enforces windows all the same.
            self.windowed = answered is not None if self.bucket.is_aws else bool(answered)
            # Twice: a single refusal may have another reason than the time.
            for _ in range(0 if self.bucket.is_aws else 2):
                ask, last = (
                    partial(self._accepts_window, over, shown=True),
                    partial(self._accepts_window, over),
                )
                self.windowed = self.windowed and not await ask_until_found(ask, last)

    async def try_window(self) -> None:
        """Find out whether a policy forbids signatures in the query for writes, by putting our journal once more.

        Only where conditions guard the journal: elsewhere a write without a window is not a probe but a danger.

        Raises:
            HeldError: another run has taken over.
        """
        if not self.conditional:
            return
        await self.write()  # so that the window is as long as possible
        is_refused = partial(self._is_refused, AccessDeniedError)
        async with self._writing:
            # Refused, then accepted without a window, then refused again: a temporary refusal is not a policy.
            self.windowed = not (
                await is_refused() and not await is_refused(windowed=False) and await is_refused()
            )

    async def _try_conditions(self) -> None:
        """Put the same journal under conditions that do not hold: a store that accepts it ignores conditions."""
        if not self.conditional:
            # Again: only now is it known whether the store enforces windows.
            self._distrust_journal(self._acquire_seconds)
        if self.bucket.is_aws or not self.conditional:
            return
        async with self._writing:
            for condition in ({"if_absent": True}, {"if_match": _NO_ETAG}):
                refused = await self._is_refused(HeldError, **condition)
                if not refused:  # or the question outlasted the lease: the answer is unknown
                    self._without_conditions()
                if refused is False:
                    return

    async def _is_refused(
        self, kind: type[RivaStreamError], *, windowed: bool = True, **condition: Any
    ) -> bool | None:
        """Whether our journal, put once more, is refused with this error; None: unknown, since its window had expired.

        Args:
            kind: the error of the refusal.
            windowed: whether the request carries a window.
            condition: of the request; by default, that the journal is unchanged.
        """

        async def put() -> bool | None:
            await self._look()
            window = self._window() if windowed else None
            try:
                stored = await self._send(self._data, window, **(condition or {"if_match": self._etag}))
            except kind:
                return True
            except RivaStreamError as error:
                if error.where.code != REQUEST_EXPIRED:
                    raise
                return None
            self._etag = stored.etag
            return False

        return await self.bucket.retrier("PutObject", put)

    async def _accepts_window(self, window: Window, *, shown: bool = False) -> bool | None:
        """Whether the store answers a request with this window; None: it refuses the request, or this form of it.

        With ``shown``, that there is no journal is no answer either: a single 404 may be wrong.
        """

        async def ask() -> bool | None:
            try:
                info = await self.bucket.once.head(self.key, window=window)
            except RivaStreamError as error:
                if error.where.code == REQUEST_EXPIRED:
                    return False
                if error.where.code in EXPIRED or error.retryable:
                    raise
                return None  # whatever the error: policies can forbid signatures in the query altogether
            return None if shown and info is None else True

        return await self.bucket.retrier("HeadObject", ask)

    def _without_conditions(self) -> None:
        self.conditional = False
        self._distrust_journal(self._acquire_seconds)

    def _distrust_journal(self, took: float = 0.0) -> None:
        """Distrust our journal for a while: a run that looked earlier may overwrite it.

        Args:
            took: seconds between the look that found the prefix free and the answer to our journal. A run that took the
                prefix in between changes nothing before such a pause is over; if our journal took longer than the
                pause, changes of another run may be in flight until its lease, or the longest window, has expired.
        """
        pause = _SETTLING if self.windowed else min(_SETTLING, _SETTLING_PART * self.seconds)
        if took > pause:
            self.was_late = True
            # Its lease is not known, but the longest possible window is.
            pause = max(self.seconds, _LONGEST_WINDOW + 1.0) if self.windowed else self.seconds
        self._settled = clock.monotonic() + pause

    async def heartbeat(self) -> None:
        """Write the journal periodically; run it beside the work, and cancel it.

        The first heartbeats come early, and each pause is twice the one before: if a run is killed before its journal
        names any part, the next one has nothing to resume.

        Raises:
            HeldError: another run has taken over.
        """
        pause = max(_FIRST, self.seconds / _FIRST_DIVISOR)
        while True:
            await clock.sleep(min(pause, self.seconds / _HEARTBEATS_PER_LEASE))
            try:
                await self.write()
            except AccessDeniedError:  # a refusal may be temporary, and there is time for another heartbeat
                if self.ends - clock.monotonic() < self.seconds / _HEARTBEATS_PER_LEASE:
                    raise
            pause *= 2

    @property
    def is_settled(self) -> bool:
        """Whether no run that looked before us can overwrite our journal any more."""
        return self._settled <= clock.monotonic()

    async def check(self, *, settled: bool = True) -> Window | None:
        """Check, by one request, that the prefix is ours. For one attempt of one change: a retry checks again.

        Args:
            settled: wait until that can be trusted; False only for a change that cannot affect another run.

        Returns:
            The window within which the change may take effect; None: the store does not enforce windows.

        Raises:
            HeldError: another run has taken over.
        """
        while True:
            if self._is_stale:
                await self.write(if_stale=True)
            if not settled or (pause := self._settled - clock.monotonic()) <= 0:
                break
            self.waiting()
            await clock.sleep(min(_POLL_SECONDS, pause))
        etag = self._etag
        info = await self._head()
        if info is None or info.etag != etag:
            async with self._writing:
                await self._reconcile()
        return self._window()

    def expire(self) -> None:
        """Treat the lease as expired: a window was, perhaps since a clock stood still. The next check renews it."""
        self._confirmed = float("-inf")

    # ── releasing ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def settle(self) -> None:
        """Wait until no write of ours is in flight: a cancelled one may arrive after the journal is deleted."""
        with anyio.move_on_after(_FINAL_SECONDS):
            await self._writing.acquire()
            self._writing.release()

    async def stop(self) -> HeldError | None:
        """Release the prefix, but leave the journal for a run that resumes; takes a few seconds at most.

        Returns:
            The error to raise instead, if it turns out that another run has taken over.
        """
        with anyio.move_on_after(_FINAL_SECONDS, shield=True):
            try:
                await self.write(stopped=True)
            except HeldError as error:
                return error
            except RivaStreamError:
                pass  # the first error is the one to report; without this write the next run waits one lease
        return None

    async def release(self) -> bool:
        """Release the prefix for good: delete the journal if it is ours; return whether it was deleted."""
        in_doubt = True
        with anyio.move_on_after(2 * _FINAL_SECONDS, shield=True):
            try:
                while not await self.bucket.retrier("DeleteObject", self._delete):
                    await self.write()  # the deletion expires with the lease, which nothing else renews
            except HeldError:
                return False  # it is another run's
            except RivaStreamError as error:
                in_doubt = isinstance(error, TransientError)
                self.warn(f"the journal s3://{self.layout.bucket}/{self.key} could not be removed: {error}")
            else:
                return True
        # Nobody needs to wait for us, except for a deletion that may still arrive: it would delete the next journal.
        empty = JournalContent(None, (), committing=in_doubt)
        self.content = lambda: empty
        await self.stop()
        return False

    async def current(self) -> Journal | None:
        """The current journal, whoever wrote it; None: there is none.

        Raises:
            AccessDeniedError: it may not be read.
            TransientError: it cannot be parsed, or the store cannot be asked.
        """
        get = partial(self.bucket.retrier, "GetObject", self._get)
        found = _found(await _get_parsable(partial(ask_until_found, get)))
        if found is not None and found.journal is None:
            raise TransientError(f"the journal of {self.layout.uri} cannot be parsed: {found.problem}")
        return found.journal if found else None

    # ── internals ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _window(self) -> Window | None:
        """The rest of the lease, less a margin, counted from when our last confirmed journal was sent."""
        if not self.windowed or self._since is None:
            return None
        whole = max(1, int(self.seconds * (1 - _MARGIN)))
        if whole <= _LONGEST_WINDOW:
            return Window(self._since, whole)
        passed = min(int(clock.monotonic() - self._since_at), whole - 1)
        return Window(self._since + timedelta(seconds=passed), min(whole - passed, _LONGEST_WINDOW))

    async def _send(self, data: bytes, window: Window | None, **condition: Any) -> Stored:
        """Send a journal by one PUT."""
        body = PartBody.with_md5(data)
        return await self.bucket.once.put(
            self.key, body, content_type="application/json", metadata={}, window=window, **condition
        )

    @property
    def _is_stale(self) -> bool:
        """Whether too little of the lease is left for a change."""
        return clock.monotonic() - self._confirmed > (1 - _FRESH) * self.seconds

    async def write(self, *, stopped: bool = False, if_stale: bool = False) -> None:
        """Write the journal with its current content.

        Args:
            stopped: for the last time.
            if_stale: unless another task has renewed the lease while this one waited to write.

        Raises:
            HeldError: another run holds the prefix.
        """
        async with self._writing:
            if if_stale and not self._is_stale:
                return
            self._beat += 1
            content = self.content()
            journal = Journal(
                run_id=self.run_id,
                token=self.token,
                process=self.process,
                started_at=self.started_at,
                lease=self.seconds,
                beat=self._beat,
                stopped=stopped,
                committing=content.committing,
                conditional=self.conditional and self.is_held,
                identity=content.identity,
                uploads=list(content.uploads),
                stale=list(content.stale),
                checkpoints=list(content.checkpoints),
            )
            self.sent |= {upload.upload_id for upload in journal.uploads}
            self._data = data = journal.to_bytes()
            # A watcher may see it from the first attempt on, even if the answer is lost.
            sent, looked, attempts = clock.monotonic(), self._looked, 0

            async def once() -> Stored:
                nonlocal attempts
                attempts += 1
                must_look = attempts > 1 or not self.conditional
                return await self._put_once(data, await self._look() if must_look else None)

            stored = await self.bucket.retrier("PutObject", once)
            self._etag, now = stored.etag, stored.now
            if not self.is_held:
                self._acquire_seconds = clock.monotonic() - looked
                if not self.conditional:
                    self._distrust_journal(self._acquire_seconds)
            self._confirmed = sent
            if now is not None:  # errs early: ``now`` is the time of the store's answer
                self._since = now - timedelta(seconds=clock.monotonic() - sent)
            elif self._since is not None:
                # an answer without a date (RFC 9110, 6.6.1): add the time that has passed by our clock
                self._since += timedelta(seconds=sent - self._since_at)
            self._since_at = sent
            self.named = frozenset(upload.upload_id for upload in journal.uploads)
            self.committing = bool(journal.committing)
            self.is_held = True
            await self.save_copy(data)

    async def _put_once(self, data: bytes, looked: ObjectInfo | None, refusals: int = 1) -> Stored:
        """Make one attempt; ``looked`` is the journal as just seen."""
        condition = (
            {} if not self.conditional else {"if_match": self._etag} if self._etag else {"if_absent": True}
        )
        try:
            window = None if self.conditional else self._write_window(looked)
            return await self._send(data, window, **condition)
        except HeldError as error:
            # Refused: another run's journal is there, or ours, by an attempt whose answer was lost; or the store errs.
            there = await self._conflicting_journal(error)
            if there is not None and there.data == data:
                return Stored(there.info.etag, now=there.info.now)
            holds = self._etag == (there.info.etag if there is not None else None)
            if self.conditional and (holds or there is None) and refusals < LOOKS:
                # Either may be wrong, or be about a journal deleted meanwhile.
                await pause_after(refusals)
                return await self._put_once(data, None, refusals + 1)
            if self.conditional and holds:
                return await self._put_plain(data)
            found = _found(there)
            if found is not None and found.journal is not None and found.journal.token == self.token:
                # A cancelled write of ours has arrived in between; the next attempt replaces it.
                self._etag = found.etag
                return await self._put_once(data, found.info)
            raise self._takeover_error(found) from error
        except RivaStreamError as error:
            if not self.conditional or error.where.code != "NotImplemented":
                raise
            return await self._put_plain(data)

    async def _conflicting_journal(self, refused: HeldError) -> Document | None:
        """The journal that conflicts with ours; None: there is none.

        Raises:
            AccessDeniedError: there is one, and it may not be read.
        """
        try:
            return await _get_parsable(partial(self.bucket.once.get, self.key, limit=_LIMIT))
        except AccessDeniedError as error:
            if error.hides_absence and refused.where.code in {"NoSuchKey", "404"}:
                return None
            raise

    async def _put_plain(self, data: bytes) -> Stored:
        """Write on a store that refuses conditions, even those that hold: it is used like one that ignores them."""
        self._without_conditions()
        return await self._put_once(data, await self._look())

    def _write_window(self, looked: ObjectInfo | None) -> Window | None:
        """The window of a write without conditions: arriving late, it must not overwrite the journal of a successor."""
        if clock.monotonic() - self._confirmed < self.seconds * (1 - _MARGIN):
            return self._window()
        self._distrust_journal()  # a takeover, or a lease that had expired already
        if looked is None or looked.now is None or not self.windowed:
            return None
        return Window(looked.now, 1)

    async def _look(self) -> ObjectInfo | None:
        """Make one attempt to check that the journal is still the last known one: ours, or the one that we replace."""
        info = await self._head()
        if (info.etag if info is not None else None) != self._etag:
            await self._reconcile()
        return info

    async def _head(self) -> ObjectInfo | None:
        return await self._seen(partial(self.bucket.once.head, self.key))

    async def _get(self) -> Document | None:
        return await self._seen(partial(self.bucket.once.get, self.key, limit=_LIMIT))

    async def _seen(self, ask: Callable[[], Awaitable[T | None]]) -> T | None:
        """Look at the journal; None: there is none.

        Raises:
            AccessDeniedError: it may not be read, as repeated refusals show, and that does not mean that there is none.
        """

        async def once() -> T | None:
            self._looked = clock.monotonic()
            try:
                return await ask()
            except AccessDeniedError as error:
                if not await self._is_missing(error):
                    raise
                return None

        found = await (confirm_refusal(once) if self.lists or self.is_held else once())
        self._visible |= found is not None
        return found

    async def _is_missing(self, refused: AccessDeniedError) -> bool:
        """Whether the journal was refused because there is none, which S3 hides without s3:ListBucket.

        Once it is ours, a refusal does not show that: only a listing does, or a write on condition that it is there.
        """
        if self.lists:  # s3:ListBucket may have a condition that no HEAD or GET meets
            page = await self.bucket.once.list_objects(self.key, limit=1)
            return all(entry.key != self.key for entry in page.objects)
        return refused.action == "s3:ListBucket" or (refused.hides_absence and not self.is_held)

    async def _reconcile(self) -> None:
        """Find out whose the journal is now: ours, by a write whose answer was lost, or another run's."""
        found = _found(await _get_parsable(partial(ask_until_found, self._get)))
        if found is None or found.journal is None or found.journal.token != self.token:
            raise self._takeover_error(found)
        self._etag = found.etag

    async def _delete(self) -> bool:
        """Make one attempt; False: its window had expired."""
        info = await ask_until_found(self._head)
        if info is None:
            return True
        if info.etag != self._etag:
            await self._reconcile()
        condition = self._etag if self.conditional else None
        delete = partial(self.bucket.once.delete, self.key, window=self._window())
        try:
            await delete(if_match=condition)
        except RivaStreamError as error:
            if error.where.code == REQUEST_EXPIRED:
                return False
            if not isinstance(error, HeldError) and error.where.code != "NotImplemented":
                raise
            await self._look()
            # Refused although the journal is unchanged: the store does not support the condition.
            await delete(if_match=None if condition in {None, self._etag} else self._etag)
        return True

    def _takeover_error(self, found: Found | None) -> HeldError:
        theirs = found.journal if found is not None else None
        who = theirs.holder() if theirs and theirs.token != self.token else "another run"
        error = HeldError(
            f"{who} has taken over {self.layout.uri}" + ("" if found else " and ended"),
            where=Where(bucket=self.layout.bucket, key=self.key),
            hint="run the same command again when it is done: it then says whether the staging is there",
        )
        error.has_ended = found is None
        return error

    async def _wait_until_free(self, found: Found, *, wait: bool) -> Found | None:
        """Wait until a journal may be replaced; None if it has changed or was deleted meanwhile.

        Raises:
            HeldError: its holder is alive, and ``wait`` is False.
        """
        held = found.journal
        ended = held is not None and (held.stopped or held.process.is_dead(self.process))
        # Where no condition guards the journal, requests of the dead run in flight could overwrite or delete ours, even
        # those that only acquire or release the prefix: its lease must have expired.
        if held is not None and ended and not held.has_begun and (held.stopped or held.conditional):
            return found
        lease = max(self.seconds, held.lease if held else LEASE)
        if ended:
            # It sends nothing more, but its requests may be in flight: its lease must have expired.
            lease -= _age(found.info)
        # An answer describes a moment no earlier than its request, however long it took.
        since = unchanged = clock.monotonic()
        if lease > 0:
            who = held.holder() if held else "an unknown run"
            self.observer(Watching(who=who, seconds=lease))
        while (watched := unchanged - since) < lease:
            self.waiting()
            await clock.sleep(min(_POLL_SECONDS, self.seconds / 10, lease - watched))
            now = await ask_until_found(partial(self.bucket.retrier, "HeadObject", self._head))
            if now is not None and now.etag == found.etag:
                found = replace(found, info=now)  # with the current time of the store
                unchanged = self._looked
                continue
            if now is not None and not wait and not ended:
                who = held.holder() if held else "another run"
                raise HeldError(
                    f"{who} holds {self.layout.uri} and is alive",
                    where=Where(bucket=self.layout.bucket, key=self.key),
                    hint=f"run the same command again when it is done, or pass {option('wait')}",
                )
            return None  # it is gone, or its holder is alive: start over with the current journal
        return found


def _age(info: ObjectInfo) -> float:
    """Seconds since an object was written, by the store's clock alone; errs low."""
    if info.now is None or info.last_modified is None:
        return 0.0
    return max(0.0, (info.now - info.last_modified).total_seconds() - 1.0)
