"""Ranges of a pinned source, and the checks on each answer to a request for one.

A store's word alone decides neither way. An answer is accepted only if it is exactly the requested one, and a refusal
of If-Match only if another request shows a different object: some stores answer every If-Match with 412, and weak ETags
never match (RFC 9110, section 13.1.1). The reply's own ETag is compared in any case.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from riva_stream.errors import (
    ConfigurationError,
    RivaStreamError,
    SourceChangedError,
    TransientError,
    Where,
)
from riva_stream.events import Observer, Warned
from riva_stream.s3 import ObjectInfo, RangeReply, Reader
from riva_stream.s3.bucket import ask_until_found, confirm_refusal
from riva_stream.source.pin import PinnedSource

__all__ = ["FEW", "RANGES_IGNORED", "PinnedRanges", "is_unchanged"]

FEW = 2
"""Bytes with which reading is tested. Not the first alone, which no run requests: some stores take that range for the
whole object.
"""

RANGES_IGNORED = "RangesIgnored"
"""Our own code for a store that repeatedly answers a range with the whole object, or another part of it."""

_PARTIAL_CONTENT = 206
_WHOLE = 200
_CONDITION_FAILED = 412
_NOT_FOUND = 404


async def is_unchanged(source: PinnedSource, head: Callable[[str], Awaitable[ObjectInfo | None]]) -> bool:
    """Check whether the source is still the one that was pinned.

    Args:
        source: as found.
        head: sends HEAD for a key of its bucket.

    Raises:
        TransientError: this cannot be checked at the moment.
    """
    try:
        info = await ask_until_found(partial(confirm_refusal, partial(head, source.key)))
    except TransientError:
        raise
    except RivaStreamError:
        return False  # it was readable a moment ago: something has changed
    return info is not None and (info.etag, info.version_id) == (source.etag, source.version_id)


@dataclass(eq=False)
class PinnedRanges:
    """Requests ranges of one object, each as often as the caller's retrier wants."""

    store: Reader
    source: PinnedSource
    observer: Observer
    _conditional: bool = field(default=True, init=False)
    _odd: dict[int, str] = field(default_factory=dict, init=False)
    """Wrong answers, keyed by the last byte of the range; a range that is continued keeps its last byte."""

    _missing: set[int] = field(default_factory=set, init=False)
    """Last bytes of ranges for which the store once said that there is no such object."""

    @asynccontextmanager
    async def open(self, first: int, last: int, version_id: str | None) -> AsyncIterator[RangeReply]:
        """Bytes ``first`` to ``last`` (inclusive): an answer that was checked before any of them is passed on.

        Raises:
            SourceChangedError: the source has been replaced.
            ConfigurationError: the store has answered this range wrongly in the same way for a second time.
            TransientError: the answer is not the requested one.
        """
        async with AsyncExitStack() as stack:
            etag = self.source.etag if self._conditional else ""
            try:
                reply = await stack.enter_async_context(self._ask(first, last, version_id, etag))
            except SourceChangedError as error:
                if error.where.status == _NOT_FOUND and (
                    last not in self._missing or await self._is_unchanged()
                ):
                    self._missing.add(last)
                    raise TransientError(
                        "the store said that the source is not there", where=error.where
                    ) from error
                if not etag or not await self._condition_is_at_fault(error):
                    raise
                reply = await stack.enter_async_context(self._ask(first, last, version_id, ""))
            self._validate_reply(reply, first, last)
            yield reply

    async def first(self, count: int, version_id: str | None = None) -> bytes:
        """The first ``count`` bytes, or all of a shorter object: one attempt.

        Raises:
            TransientError: the body has the wrong length.
        """
        count = min(count, self.source.size)
        async with self.open(0, count - 1, version_id) as reply:
            data = b"".join([piece async for piece in reply.pieces])
        if len(data) != count:
            raise TransientError(f"the store was asked for {count} bytes and sent {len(data)}")
        return data

    def _ask(
        self, first: int, last: int, version_id: str | None, etag: str
    ) -> AbstractAsyncContextManager[RangeReply]:
        return self.store.get_range(
            self.source.bucket,
            self.source.key,
            first=first,
            last=last,
            etag=etag,
            version_id=version_id,
        )

    async def _condition_is_at_fault(self, error: SourceChangedError) -> bool:
        """Check whether the source is still the one that was pinned; if so, omit If-Match from here on.

        Raises:
            TransientError: this cannot be checked at the moment.
        """
        if error.where.status != _CONDITION_FAILED:
            return False
        if not self._conditional:
            return True  # another range has found out meanwhile
        if not await self._is_unchanged():
            return False
        if self._conditional:  # several may have checked at once
            self._conditional = False
            self.observer(
                Warned(
                    code="source-condition",
                    message="the source's store refuses If-Match though the source is unchanged: ranges are asked for "
                    "without it, and the ETag of each answer is compared here",
                )
            )
        return True

    async def _is_unchanged(self) -> bool:
        return await is_unchanged(self.source, partial(self.store.head, self.source.bucket))

    def _validate_reply(self, reply: RangeReply, first: int, last: int) -> None:
        """Reject an answer that is not exactly the requested one.

        RFC 9110, section 15.3.7: a 206 to a single range states it in Content-Range; a server may ignore Range and send
        the whole object with a 200.
        """
        expected = f"bytes {first}-{last}/{self.source.size}"
        where = Where("GetObject", self.source.bucket, self.source.key, byte_range=(first, last))
        if reply.status == _WHOLE:
            raise self._wrong_reply(last, "the whole object, with HTTP 200", replace(where, status=_WHOLE))
        if reply.status != _PARTIAL_CONTENT:
            raise TransientError(
                f"the store answered HTTP {reply.status} to a range, in place of 206", where=where
            )
        if not reply.etag:
            raise TransientError("the store answered a range without its ETag", where=where)
        if reply.etag != self.source.etag:
            raise SourceChangedError(
                f"the source was replaced while it was read: its ETag is {reply.etag}, it was {self.source.etag}",
                where=where,
                hint="run again to stage what is there now",
            )
        if reply.content_range != expected:
            found = f"Content-Range {reply.content_range or 'missing'!r}, in place of {expected!r}"
            raise self._wrong_reply(last, found, where)
        self._odd.pop(last, None)
        if reply.content_length is not None and reply.content_length != last - first + 1:
            raise TransientError(
                f"the store promised {reply.content_length} bytes, in place of {last - first + 1}",
                where=where,
            )

    def _wrong_reply(self, last: int, found: str, where: Where) -> RivaStreamError:
        """The error for a wrong answer: taken for a passing fault at first, then for the store's behaviour."""
        if self._odd.get(last) != found:
            self._odd[last] = found
            return TransientError(f"the store answered a range with {found}", where=where)
        return ConfigurationError(
            f"the store does not honour Range: it answers with {found}",
            where=replace(where, code=RANGES_IGNORED),
            hint="the source can only be read from a store that supports ranges: check --source-endpoint-url, "
            "and any proxy in front of the store",
        )
