"""A bucket tries each request again, pages through listings to their end, and knows what a refusal may hide."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest

from riva_stream.errors import (
    AccessDeniedError,
    ConfigurationError,
    HeldError,
    RivaStreamError,
    TransientError,
)
from riva_stream.events import Event, RetryScheduled
from riva_stream.retry import Retrier, RetryPolicy
from riva_stream.s3 import UNSEEN, Folders, Listing, ObjectInfo, PartBody, Window, WritableBucket
from riva_stream.s3.listings import STUCK
from riva_stream.s3.memory import MemoryStore

BODY = PartBody((b"bytes",), 5)


class OddStore(MemoryStore):
    """Raises what it is told to, once each, and gives the pages that it is told to."""

    def __init__(self, *raises: RivaStreamError) -> None:
        super().__init__("b", "other", page=2)
        self.raises = list(raises)
        self.asked: list[tuple[str, str]] = []
        self.pages: list[Listing] = []
        self.folder_pages: list[Folders] = []

    def _ask(self, bucket: str, key: str) -> None:
        self.asked.append((bucket, key))
        if self.raises:
            raise self.raises.pop(0)

    async def head(self, bucket: str, key: str, **options: Any) -> ObjectInfo | None:
        self._ask(bucket, key)
        return await super().head(bucket, key, **options)

    async def get(self, bucket: str, key: str, **options: Any) -> Any:
        self._ask(bucket, key)
        return await super().get(bucket, key, **options)

    async def put(self, bucket: str, key: str, body: PartBody, **options: Any) -> Any:
        self._ask(bucket, key)
        return await super().put(bucket, key, body, **options)

    async def list_objects(self, bucket: str, prefix: str, **options: Any) -> Listing:
        return self.pages.pop(0) if self.pages else await super().list_objects(bucket, prefix, **options)

    async def list_folder(self, bucket: str, prefix: str, **options: Any) -> Folders:
        if self.folder_pages:
            return self.folder_pages.pop(0)
        return await super().list_folder(bucket, prefix, **options)


async def no_wait(_: float) -> None:
    await anyio.lowlevel.checkpoint()


def bucket_of(store: OddStore, told: Callable[[Event], None] = lambda _: None) -> WritableBucket:
    return WritableBucket(store, "b", Retrier(RetryPolicy(retries=2), told, sleep=no_wait))


def refused(action: str = "") -> AccessDeniedError:
    return AccessDeniedError("access denied", action=action)


async def filled(*keys: str) -> OddStore:
    store = OddStore()
    for key in keys:
        await store.put("b", key, BODY, content_type="", metadata={})
    return store


async def collected(entries: AsyncIterator[ObjectInfo]) -> list[str]:
    return [entry.key async for entry in entries]


async def test_a_request_is_tried_again_under_its_own_name() -> None:
    events: list[Event] = []
    store = OddStore(TransientError("broken"), TransientError("broken"))
    bucket = bucket_of(store, events.append)
    await bucket.put("k", BODY, content_type="text/plain", metadata={"a": "b"})
    assert store.asked == [("b", "k")] * 3
    assert [event.operation for event in events if isinstance(event, RetryScheduled)] == ["PutObject"] * 2
    found = await bucket.head("k")
    assert found is not None
    assert (found.content_type, found.metadata) == ("text/plain", {"a": "b"})


async def test_the_last_error_says_which_request_failed_and_how_often() -> None:
    bucket = bucket_of(OddStore(*(TransientError("broken") for _ in range(3))))
    with pytest.raises(TransientError) as caught:
        await bucket.head("k")
    assert (caught.value.where.operation, caught.value.where.attempt) == ("HeadObject", 3)


async def test_once_leaves_the_trying_to_what_it_is_part_of() -> None:
    store = OddStore(TransientError("broken"))
    bucket = bucket_of(store)
    attempts = 0

    async def attempt() -> ObjectInfo | None:
        nonlocal attempts
        attempts += 1
        return await bucket.once.head("k")

    with pytest.raises(TransientError):
        await bucket.once.head("k")
    store.raises.append(TransientError("broken"))
    assert await bucket.retrier("DeleteObject", attempt) is None
    assert (attempts, len(store.asked)) == (2, 3)


async def test_another_bucket_of_the_same_store_is_asked_by_its_own_name() -> None:
    store = OddStore()
    await bucket_of(store).named("other").head("k")
    assert store.asked == [("other", "k")]


Look = Callable[[WritableBucket], Awaitable[object]]


@pytest.mark.parametrize(
    ("look", "hidden"),
    [
        (lambda bucket: bucket.head_or_unseen("k"), UNSEEN),
        (lambda bucket: bucket.get_or_none("k", limit=9), None),
    ],
    ids=["peek", "find"],
)
@pytest.mark.parametrize("action", ["", "s3:ListBucket"])
async def test_a_refusal_that_may_hide_absence_is_told_apart(look: Look, hidden: object, action: str) -> None:
    assert await look(bucket_of(OddStore(refused(action)))) is hidden


@pytest.mark.parametrize(
    "look",
    [lambda bucket: bucket.head_or_unseen("k"), lambda bucket: bucket.get_or_none("k", limit=9)],
    ids=["head", "get"],
)
async def test_a_refusal_that_names_another_right_says_that_there_is_something(look: Look) -> None:
    with pytest.raises(AccessDeniedError):
        await look(bucket_of(OddStore(refused("s3:GetObject"))))


@pytest.mark.parametrize("look", [lambda bucket: bucket.head("k"), lambda bucket: bucket.get("k", limit=9)])
async def test_what_should_be_there_is_never_missing_by_a_refusal(look: Look) -> None:
    with pytest.raises(AccessDeniedError):
        await look(bucket_of(OddStore(refused())))


async def test_all_pages_of_a_listing_are_given_in_order() -> None:
    bucket = bucket_of(await filled(*(f"p/{name}" for name in "abcde"), "q"))
    assert await collected(bucket.objects("p/")) == [f"p/{name}" for name in "abcde"]


async def test_all_pages_of_a_folder_are_given() -> None:
    bucket = bucket_of(await filled("p/a/1", "p/b/1", "p/c/1", "p/d", "p/e"))
    pages = [page async for page in bucket.folders("p/")]
    assert [name for page in pages for name in page.names] == ["p/a/", "p/b/", "p/c/"]
    assert [entry.key for page in pages for entry in page.objects] == ["p/d", "p/e"]
    assert len(pages) > 1


def entries(*keys: str) -> list[ObjectInfo]:
    return [ObjectInfo(key, 1, "e") for key in keys]


@pytest.mark.parametrize(
    "pages",
    [
        [Listing([], truncated=True)],
        [Listing(entries("a", "b"), truncated=True)] * 2,
        [Listing(entries("a", "d"), truncated=True), Listing(entries("b", "c"), truncated=True)],
    ],
    ids=["empty", "the same again", "backwards"],
)
async def test_a_listing_that_does_not_advance_ends_in_an_error(pages: list[Listing]) -> None:
    store = OddStore()
    store.pages = [*pages, Listing([], truncated=False)]
    with pytest.raises(ConfigurationError) as caught:
        await collected(bucket_of(store).objects("p/"))
    where = caught.value.where
    assert (where.code, where.operation, where.bucket, where.key) == (STUCK, "ListObjectsV2", "b", "p/")
    assert len(store.pages) == 1


async def test_a_folder_that_does_not_advance_ends_in_an_error() -> None:
    store = OddStore()
    store.folder_pages = [Folders((), (), "token")] * 2 + [Folders((), (), "")]
    with pytest.raises(ConfigurationError) as caught:
        async for _ in bucket_of(store).folders("p/"):
            pass
    assert (caught.value.where.code, len(store.folder_pages)) == (STUCK, 1)


@pytest.mark.parametrize(
    ("error", "sent"), [(HeldError("412"), [True]), (AccessDeniedError("no such signature"), [True, False])]
)
async def test_what_is_somebody_elses_is_not_sent_once_more_without_a_window(
    error: RivaStreamError, sent: list[bool]
) -> None:
    """A refused signature is done without, after a look; that another run was there says nothing of signatures."""
    windows: list[bool] = []
    looks: list[str] = []

    async def send(window: Window | None) -> str:
        windows.append(window is not None)
        if window is not None:
            raise error
        return "done"

    async def look() -> None:
        looks.append("look")

    bucket = bucket_of(OddStore())
    window = Window(datetime(2026, 1, 1, tzinfo=UTC), 30)
    if len(sent) == 1:
        with pytest.raises(HeldError):
            await bucket.send_within(window, send, look)
    else:
        assert await bucket.send_within(window, send, look) == "done"
    assert (windows, len(looks)) == (sent, len(sent) - 1)
