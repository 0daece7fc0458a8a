"""One bucket: its store, its name, and the retrier of its requests. ``await bucket.head(key)``.

Each operation of the port is here once, with its name for errors and events; the port documents its arguments and
results. Code that looks, decides and changes within one attempt uses :attr:`Bucket.once`, and is itself retried as a
whole: a repeated change is then decided anew.

The meaning of a refusal is settled here, too. Without s3:ListBucket S3 answers 403 for a missing key, to hide that (S3
API, HeadObject and GetObject). Code that only reads takes that for missing (:meth:`Bucket.get_or_none`); code that
makes changes must know that an object may exist (:meth:`Bucket.head_or_unseen`, :data:`UNSEEN`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
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
"""Stands for an object that may not be read, if there is one. No real object equals it."""
LOOKS = 3
"""Refusals in a row after which they are believed where something was expected; a single one may be temporary."""


_PAUSE = 0.2


async def pause_after(refusals: int) -> None:
    """Wait before the next attempt: 0.2 seconds after the first refusal, then twice as long each time."""
    await clock.sleep(_PAUSE * 2 ** (refusals - 1))


async def confirm_refusal(ask: Callable[[], Awaitable[T]]) -> T:
    """Return the result of ``ask``; a refusal may be temporary, and is believed only after :data:`LOOKS` times.

    Raises:
        AccessDeniedError: it was refused that often.
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
    """Return the result of ``ask``; None is believed after :data:`LOOKS` times. ``last`` asks last, if given."""
    for looks in range(1, LOOKS):
        if (found := await ask()) is not None:
            return found
        await pause_after(looks)
    return await (last or ask)()


class Attempt(Protocol):
    """The retrier of requests, such as a :class:`~riva_stream.retry.Retrier`: retries if the transport fails."""

    async def __call__(self, operation: str, attempt_once: Callable[[], Awaitable[T]], /) -> T:
        """Await ``attempt_once()``, repeatedly if need be."""


class Guard(Protocol):
    """Knows whether the prefix is still ours: a :class:`~riva_stream.lease.Lease`."""

    async def check(self, *, settled: bool = True) -> Window | None:
        """Raise if it is not; otherwise return the window within which one change may take effect."""

    def expire(self) -> None:
        """Note that a window has expired."""


@dataclass(frozen=True, slots=True)
class LeftUpload:
    """An upload that only served to find something out, and may still be open."""

    bucket: str
    key: str
    upload_id: str | None
    """None: its Create was not answered, so there may be none."""

    def __str__(self) -> str:
        perhaps = "" if self.upload_id else "perhaps "
        return f"{perhaps}an open upload of s3://{self.bucket}/{self.key}"


def _ignore(_: LeftUpload) -> None:
    pass


async def _once(_: str, attempt_once: Callable[[], Awaitable[T]], /) -> T:
    return await attempt_once()


class _Operation(Generic[P, T]):
    """A method of the port as one of a bucket: without the bucket's name, and retried."""

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
    """One bucket, for reading."""

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
        """The same bucket without retries: for code that is itself one attempt."""
        return replace(self, retrier=_once)

    @property
    def is_aws(self) -> bool:
        """See :class:`~riva_stream.s3.port.Reader`."""
        return self.store.is_aws

    def named(self, name: str) -> Self:
        """Another bucket in the same store."""
        return replace(self, name=name)

    async def get_or_none(self, key: str, *, limit: int) -> Document | None:
        """GET a small object that may be missing; None also if a refusal may just hide that it is missing.

        Raises:
            AccessDeniedError: there is an object, and it may not be read.
        """
        return await self._unless_hidden(partial(self.get, key, limit=limit), None)

    async def get_confirming_refusal(self, key: str, *, limit: int, listed: bool = False) -> Document | None:
        """GET where an object may well exist: a single refusal may be temporary, and is believed only if repeated.

        Args:
            key: of the object.
            limit: its size in bytes, at most.
            listed: the prefix could be listed, so a refusal does not hide a missing object.

        Raises:
            AccessDeniedError: there is an object, and it may not be read.
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
        """GET where an object should exist: that it is gone is believed only if repeated, too.

        Args:
            key: of the object.
            limit: its size in bytes, at most.
            listed: a listing has shown it, so a refusal does not hide a missing object.

        Raises:
            AccessDeniedError: there is an object, and it may not be read.
        """
        return await self._ask_until_found(partial(self.get, key, limit=limit), None, listed=listed)

    async def head_or_unseen(self, key: str) -> ObjectInfo | None:
        """HEAD of an object that may be missing; :data:`UNSEEN` if the store may not tell whether it is.

        Raises:
            AccessDeniedError: there is an object, and it may not be read.
        """
        return await self._unless_hidden(partial(self.head, key), UNSEEN)

    async def head_confirming_absence(self, key: str, *, listed: bool = False) -> ObjectInfo | None:
        """HEAD where an object should exist: neither a refusal nor an absence is believed unless repeated.

        Args:
            key: of the object.
            listed: a listing has shown it, so a refusal does not hide a missing object.

        Raises:
            AccessDeniedError: there is an object, and it may not be read.
        """
        return await self._ask_until_found(partial(self.head, key), UNSEEN, listed=listed)

    async def open_uploads(self, prefix: str) -> Sequence[OpenUpload] | None:
        """Open uploads below ``prefix``; None if they may not be listed, as repeated refusals show."""
        try:
            return await confirm_refusal(partial(self.list_uploads, prefix))
        except AccessDeniedError:
            return None

    async def _ask_until_found(
        self, ask: Callable[[], Awaitable[T | None]], hidden: T | None, *, listed: bool
    ) -> T | None:
        last = ask if listed else partial(self._unless_hidden, ask, hidden)
        return await ask_until_found(partial(self._unless_hidden, ask, None), last)

    async def _unless_hidden(self, ask: Callable[[], Awaitable[T]], hidden: T) -> T:
        """Return the result of ``ask``; ``hidden`` if it is refused in the way that hides a missing object."""
        try:
            return await ask()
        except AccessDeniedError as error:
            if not error.hides_absence:
                raise
        return hidden

    async def now(self, prefix: str) -> datetime | None:
        """The store's clock, by a short listing of ``prefix``; None if the store does not tell it."""
        return (await self.list_folder(prefix, limit=1)).now

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
        """The direct contents of ``prefix``, page by page.

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
    """One bucket, for changes. Passed only to code that may make them; see :class:`~riva_stream.s3.Writer`."""

    store: Store
    guard: Guard | None = None
    """Guard of the prefix for which uploads are created; None: no other run can be there."""
    left: Callable[[LeftUpload], object] = _ignore
    """Called with each scratch upload that could not be aborted."""

    put = _Operation("PutObject", Writer.put)
    delete = _Operation("DeleteObject", Writer.delete)
    create_upload = _Operation("CreateMultipartUpload", Writer.create_upload)
    upload_part = _Operation("UploadPart", Writer.upload_part)
    copy_part = _Operation("UploadPartCopy", Writer.copy_part)
    complete_upload = _Operation("CompleteMultipartUpload", Writer.complete_upload)
    abort_upload = _Operation("AbortMultipartUpload", Writer.abort_upload)
    put_tags = _Operation("PutObjectTagging", Writer.put_tags)

    async def look(self) -> Window | None:
        """Check the prefix before an attempt at what readers do not see, such as an upload; return the window.

        Raises:
            HeldError: another run has taken over.
        """
        # An upload of ours affects nobody else.
        return None if self.guard is None else await self.guard.check(settled=False)

    async def require_no_holder_but_us(self) -> None:
        """Check after a listing that uploads which were open then, and no journal names, belong to no live run.

        A run that creates an upload holds the prefix; once no run does, the uploads left there are orphans. (``check``
        and a dry run probe without it; one whose upload is aborted is told to run again.)

        Raises:
            HeldError: another run holds the prefix.
        """
        try:
            await self.retrier("HeadObject", self.look)
        except HeldError as error:
            if not error.has_ended:
                raise

    async def create_within(self, window: Window | None, key: str, **given: Any) -> str:
        """Make one attempt to create an upload, within the window."""
        return await self.send_within(
            window, lambda window: self.once.create_upload(key, window=window, **given)
        )

    async def send_within(
        self,
        window: Window | None,
        send: Callable[[Window | None], Awaitable[T]],
        look: Callable[[], Awaitable[object]] | None = None,
    ) -> T:
        """Make one attempt, which the store refuses once the lease is over: its result would be orphaned then.

        If a signature in the query is what was refused, the request is sent without a window, after another check
        (:meth:`look`, unless another is given): in either case it carries no object's bytes.
        """
        try:
            return await send(window)
        except RivaStreamError as error:
            code = error.where.code
            if code == REQUEST_EXPIRED and self.guard is not None:
                self.guard.expire()  # the next attempt renews the lease, and is signed anew
            # A conflict with another run says nothing about signatures.
            if window is None or error.retryable or code in EXPIRED or isinstance(error, HeldError):
                raise
        await (look or self.look)()
        return await send(None)
