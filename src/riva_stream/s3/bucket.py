"""One bucket: the store that it is in, its name, and what tries a request again. ``await bucket.head(key)``.

Each operation of the port is here once, with its name for errors and events; what it takes and gives is said there.
What looks, decides and changes within one attempt of its own asks :attr:`Bucket.once`, and is itself what is tried
again: a change that is sent once more is then decided once more.

What a refusal may mean is said here as well. Without s3:ListBucket S3 answers 403 for a key that does not exist, so as
not to tell (S3 API, HeadObject and GetObject). Whoever only wants to read takes that for missing (:meth:`Bucket.get_or_none`);
whoever would change something has to know that there may be an object (:meth:`Bucket.head_or_unseen`, :data:`UNSEEN`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar

from riva_stream import clock
from riva_stream.errors import EXPIRED, AccessDeniedError, HeldError, RivaStreamError
from riva_stream.s3.listings import listing_is_stuck
from riva_stream.s3.port import (
    REQUEST_EXPIRED,
    Document,
    Folders,
    ObjectInfo,
    OpenUpload,
    Reader,
    Store,
    Window,
    Writer,
)

__all__ = [
    "LOOKS",
    "UNSEEN",
    "Attempt",
    "Bucket",
    "Guard",
    "WritableBucket",
    "ask_until_found",
    "confirm_refusal",
    "pause_after",
]

P = ParamSpec("P")
T = TypeVar("T")

UNSEEN = ObjectInfo(key="", size=-1, etag="")
"""In place of what may not be looked at, if there is anything. No object is like it."""
LOOKS = 3
"""Refusals in a row that are believed where something was expected; one may pass."""


async def pause_after(refusals: int) -> None:
    """Wait before the same is asked again: 0.2 seconds after the first refusal, then twice as long each time."""
    await clock.sleep(0.2 * 2 ** (refusals - 1))


async def confirm_refusal(ask: Callable[[], Awaitable[T]]) -> T:
    """What ``ask`` gives; a refusal, which may pass, is not believed before it has come :data:`LOOKS` times.

    Raises:
        AccessDeniedError: it has.
    """
    for refusals in range(1, LOOKS):
        try:
            return await ask()
        except AccessDeniedError:
            await pause_after(refusals)
    return await ask()


async def ask_until_found(
    ask: Callable[[], Awaitable[T | None]], last: Callable[[], Awaitable[T | None]] | None = None
) -> T | None:
    """What ``ask`` gives; None is not believed before it has come :data:`LOOKS` times. The last time ``last`` asks, if given."""
    for looks in range(1, LOOKS):
        if (found := await ask()) is not None:
            return found
        await pause_after(looks)
    return await (last or ask)()


class Attempt(Protocol):
    """What tries a request: a :class:`~riva_stream.retry.Retrier`, again when the transport fails."""

    async def __call__(self, operation: str, attempt_once: Callable[[], Awaitable[T]], /) -> T:
        """Await ``attempt_once()``, again if need be."""


class Guard(Protocol):
    """Who knows whether the prefix is still ours: a :class:`~riva_stream.lease.Lease`."""

    async def check(self, *, settled: bool = True) -> Window | None:
        """Raise where it is not; else give the window within which one change may take effect."""

    def expire(self) -> None:
        """A window was over."""


async def _once(_: str, attempt_once: Callable[[], Awaitable[T]], /) -> T:
    return await attempt_once()


class _Operation(Generic[P, T]):
    """A method of the port as one of a bucket: without the bucket's name, and tried again."""

    def __init__(self, name: str, method: Callable[Concatenate[Any, str, P], Awaitable[T]]) -> None:
        self._name = name
        self._method = method.__name__

    def __get__(self, bucket: Bucket, _: type[Bucket]) -> Callable[P, Awaitable[T]]:
        def ask(*args: P.args, **options: P.kwargs) -> Awaitable[T]:
            send = partial(getattr(bucket.store, self._method), bucket.name, *args, **options)
            return bucket.retrier(self._name, send)

        return ask


@dataclass(frozen=True, eq=False)
class Bucket:
    """One bucket, to be read."""

    store: Reader
    name: str
    retrier: Attempt

    head = _Operation("HeadObject", Reader.head)
    head_part = _Operation("HeadObject", Reader.head_part)
    get = _Operation("GetObject", Reader.get)
    list_objects = _Operation("ListObjectsV2", Reader.list_objects)
    list_folder = _Operation("ListObjectsV2", Reader.list_folder)
    list_parts = _Operation("ListParts", Reader.list_parts)
    list_uploads = _Operation("ListMultipartUploads", Reader.list_uploads)
    get_tags = _Operation("GetObjectTagging", Reader.get_tags)
    get_lifecycle = _Operation("GetBucketLifecycleConfiguration", Reader.get_lifecycle)

    @property
    def once(self) -> Self:
        """The same bucket, each request tried once: for what is itself an attempt."""
        return replace(self, retrier=_once)

    @property
    def is_aws(self) -> bool:
        """See :class:`~riva_stream.s3.port.Reader`."""
        return self.store.is_aws

    def named(self, name: str) -> Self:
        """Another bucket of the same store."""
        return replace(self, name=name)

    async def get_or_none(self, key: str, *, limit: int) -> Document | None:
        """GET of a small object that may be missing; None also where a refusal is all that would be said of that.

        Raises:
            AccessDeniedError: there is something that may not be read.
        """
        return await self._unless_hidden(partial(self.get, key, limit=limit), None)

    async def get_confirming_refusal(self, key: str, *, limit: int, listed: bool = False) -> Document | None:
        """GET where something may well be: one refusal may pass, and is not believed before it has come again.

        Args:
            key: of the object.
            limit: bytes that it may have.
            listed: the prefix could be listed, so that a refusal hides nothing.

        Raises:
            AccessDeniedError: there is something that may not be read.
        """
        for look in range(1, LOOKS):
            try:
                return await self.get(key, limit=limit)
            except AccessDeniedError as error:
                if not error.hides_absence:
                    raise
                await pause_after(look)
        return await (self.get if listed else self.get_or_none)(key, limit=limit)

    async def get_confirming_absence(self, key: str, *, limit: int, listed: bool = True) -> Document | None:
        """GET where something should be: that it is gone, too, is not believed before it was said again.

        Args:
            key: of the object.
            limit: bytes that it may have.
            listed: a listing has shown it, so that a refusal hides nothing.

        Raises:
            AccessDeniedError: there is something that may not be read.
        """
        return await self._ask_until_found(partial(self.get, key, limit=limit), None, listed=listed)

    async def head_or_unseen(self, key: str) -> ObjectInfo | None:
        """HEAD of what may be missing; :data:`UNSEEN` where the store may not tell whether it is.

        Raises:
            AccessDeniedError: there is something that may not be looked at.
        """
        return await self._unless_hidden(partial(self.head, key), UNSEEN)

    async def head_confirming_absence(self, key: str, *, listed: bool = False) -> ObjectInfo | None:
        """HEAD where something should be: neither one refusal nor one absence is believed before it has come again.

        Args:
            key: of the object.
            listed: a listing has shown it, so that a refusal hides nothing.

        Raises:
            AccessDeniedError: there is something that may not be looked at.
        """
        return await self._ask_until_found(partial(self.head, key), UNSEEN, listed=listed)

    async def open_uploads(self, prefix: str) -> Sequence[OpenUpload] | None:
        """Uploads below ``prefix``; None where they may not be listed, for one refusal may pass."""

        async def ask() -> Sequence[OpenUpload] | None:
            try:
                return await self.list_uploads(prefix)
            except AccessDeniedError:
                return None

        return await ask_until_found(ask)

    async def _ask_until_found(
        self, ask: Callable[[], Awaitable[T | None]], hidden: T | None, *, listed: bool
    ) -> T | None:
        last = ask if listed else partial(self._unless_hidden, ask, hidden)
        return await ask_until_found(partial(self._unless_hidden, ask, None), last)

    async def _unless_hidden(self, ask: Callable[[], Awaitable[T]], hidden: T) -> T:
        """What ``ask`` gives; ``hidden`` where it is refused in the way that hides what is not there."""
        try:
            return await ask()
        except AccessDeniedError as error:
            if not error.hides_absence:
                raise
        return hidden

    async def objects(self, prefix: str) -> AsyncGenerator[ObjectInfo]:
        """Every object below ``prefix``, by key, a page at a time.

        Raises:
            ConfigurationError: the store's pages do not advance.
        """
        after = ""
        while True:
            page = await self.list_objects(prefix, after=after)
            for entry in page.objects:
                yield entry
            if not page.truncated:
                return
            if not page.objects or page.objects[-1].key <= after:
                raise listing_is_stuck("ListObjectsV2", self.name, prefix)
            after = page.objects[-1].key

    async def folders(self, prefix: str) -> AsyncGenerator[Folders]:
        """What lies directly below ``prefix``, page by page.

        Raises:
            ConfigurationError: the store's pages do not advance.
        """
        token = ""
        while True:
            page = await self.list_folder(prefix, token=token)
            yield page
            if not page.token:
                return
            if page.token == token:
                raise listing_is_stuck("ListObjectsV2", self.name, prefix)
            token = page.token


@dataclass(frozen=True, eq=False)
class WritableBucket(Bucket):
    """One bucket, to be changed. Handed to what may do that, and to nothing else; see :class:`~riva_stream.s3.Writer`."""

    store: Store
    guard: Guard | None = None
    """Of the prefix that uploads are created for; None: nobody else can be there."""

    put = _Operation("PutObject", Writer.put)
    delete = _Operation("DeleteObject", Writer.delete)
    create_upload = _Operation("CreateMultipartUpload", Writer.create_upload)
    upload_part = _Operation("UploadPart", Writer.upload_part)
    copy_part = _Operation("UploadPartCopy", Writer.copy_part)
    complete_upload = _Operation("CompleteMultipartUpload", Writer.complete_upload)
    abort_upload = _Operation("AbortMultipartUpload", Writer.abort_upload)
    put_tags = _Operation("PutObjectTagging", Writer.put_tags)

    async def look(self) -> Window | None:
        """Before each attempt to create an upload, or what else readers do not see: the window within which it may be.

        Raises:
            HeldError: another run has taken over.
        """
        # Nobody else is touched by an upload of ours.
        return None if self.guard is None else await self.guard.check(settled=False)

    async def require_no_holder_but_us(self) -> None:
        """After a listing: what was open by then, and no journal names, is no live run's.

        For whoever creates an upload holds the prefix; once nobody does, what is left there is nobody's. (``check`` and a
        dry run probe without it; one whose upload goes is told to run again.)

        Raises:
            HeldError: another run holds the prefix.
        """
        try:
            await self.retrier("HeadObject", self.look)
        except HeldError as error:
            if not error.has_ended:
                raise

    async def create_within(self, window: Window | None, key: str, **given: Any) -> str:
        """One attempt to create an upload, within the window."""
        return await self.within(window, lambda window: self.once.create_upload(key, window=window, **given))

    async def within(
        self,
        window: Window | None,
        send: Callable[[Window | None], Awaitable[T]],
        look: Callable[[], Awaitable[object]] | None = None,
    ) -> T:
        """One attempt at what the store refuses once the lease is over: nobody would look for what it leaves then.

        Where such a signature is what is refused it goes without, after another look (:meth:`look`, if no other is
        given): it is no object's bytes either way.
        """
        try:
            return await send(window)
        except RivaStreamError as error:
            code = error.where.code
            if code == REQUEST_EXPIRED and self.guard is not None:
                self.guard.expire()  # the next attempt renews the lease, and is signed anew
            # That somebody else was there is no word on signatures.
            if window is None or error.retryable or code in EXPIRED or isinstance(error, HeldError):
                raise
        await (look or self.look)()
        return await send(None)
