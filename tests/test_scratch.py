"""Scratch uploads never stay, and what a probe makes of a store's refusals. The store in memory, made to misbehave."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from riva_stream.errors import (
    AccessDeniedError,
    ConfigurationError,
    RivaStreamError,
    TransientError,
    Where,
)
from riva_stream.retry import Retrier, RetryPolicy
from riva_stream.s3 import LeftUpload, PartBody, WritableBucket
from riva_stream.s3.errors import refusal
from riva_stream.s3.memory import MemoryStore
from riva_stream.s3.probe import _BYTES, _RIGHT, probe_uploads
from riva_stream.s3.scratch import scratch_upload
from tests.contract.ground import crc64nvme

KEY = "p/.riva-stream/probe"


async def no_wait(_: float) -> None:
    await anyio.lowlevel.checkpoint()


def retrier(retries: int = 3) -> Retrier:
    return Retrier(RetryPolicy(retries=retries), sleep=no_wait)


class OddStore(MemoryStore):
    """Loses answers, waits, and refuses parts as it is told to."""

    def __init__(self) -> None:
        super().__init__("b")
        self.created = 0
        self.before_create: Callable[[], Awaitable[None]] = no_op
        self.after_create: Callable[[], Awaitable[None]] = no_op
        self.refuse_abort: list[RivaStreamError] = []
        self.judge: Callable[[PartBody], RivaStreamError | None] | None = None

    @property
    def is_aws(self) -> bool:
        return False

    async def create_upload(self, bucket: str, key: str, **options: Any) -> str:
        await self.before_create()
        # what it takes is for `judge` alone to say
        upload_id = await super().create_upload(bucket, key, **options | {"crc64nvme": False})
        self.created += 1
        await self.after_create()
        return upload_id

    async def abort_upload(self, bucket: str, key: str, upload_id: str) -> None:
        if self.refuse_abort and upload_id != "none":
            raise self.refuse_abort.pop(0)
        await super().abort_upload(bucket, key, upload_id)

    async def upload_part(self, bucket: str, key: str, upload_id: str, number: int, body: PartBody) -> str:
        if self.judge is None:
            return await super().upload_part(bucket, key, upload_id, number, body)
        if error := self.judge(body):
            raise error
        return await super().upload_part(bucket, key, upload_id, number, PartBody(body.pieces, body.size))


async def no_op() -> None:
    pass


async def is_clean(store: OddStore) -> bool:
    return not await store.list_uploads("b", "") and not (await store.list_objects("b", "")).objects


async def test_it_is_open_for_as_long_as_the_block_lasts() -> None:
    store = OddStore()
    async with scratch_upload(WritableBucket(store, "b", retrier()), KEY) as upload:
        (found,) = await store.list_uploads("b", "p/")
        assert (found.key, found.upload_id) == (upload.key, upload.upload_id)
        assert found.key == KEY
    assert await is_clean(store)


async def test_of_two_at_once_each_aborts_its_own() -> None:
    store = OddStore()
    async with scratch_upload(WritableBucket(store, "b", retrier()), KEY) as one:
        async with scratch_upload(WritableBucket(store, "b", retrier()), KEY) as two:
            assert one.upload_id != two.upload_id
        assert [upload.upload_id for upload in await store.list_uploads("b", "")] == [one.upload_id]
    assert await is_clean(store)


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_cancelled_in_the_moment_of_its_create_it_does_not_stay(moment: str) -> None:
    store, reached = OddStore(), anyio.Event()

    async def pause() -> None:
        reached.set()
        await anyio.sleep(0.02)

    setattr(store, f"{moment}_create", pause)

    async def use() -> None:
        async with scratch_upload(WritableBucket(store, "b", retrier()), KEY):
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(use)
        await reached.wait()
        tasks.cancel_scope.cancel()
    assert store.created == 1
    assert await is_clean(store)


async def test_a_create_whose_answer_is_lost_is_looked_for() -> None:
    store = OddStore()

    async def lose() -> None:
        if store.created < 3:
            raise TransientError("reset")

    store.after_create = lose
    async with scratch_upload(WritableBucket(store, "b", retrier()), KEY):
        assert store.created == 3
    assert await is_clean(store)


async def test_a_create_that_never_answers_ends_in_time_and_is_looked_for() -> None:
    store = OddStore()
    store.after_create = anyio.sleep_forever
    with pytest.raises(TransientError), anyio.fail_after(5):
        async with scratch_upload(WritableBucket(store, "b", retrier(1)), KEY, limit=0.02):
            pass
    assert store.created == 2
    assert await is_clean(store)


async def test_uploads_of_another_key_are_left_alone() -> None:
    store = OddStore()
    other = await MemoryStore.create_upload(
        store, "b", KEY + "-other", content_type="a/b", metadata={}, crc64nvme=False
    )

    async def lose() -> None:
        if store.created == 2:
            raise TransientError("reset")

    store.after_create = lose
    store.created = 1
    async with scratch_upload(WritableBucket(store, "b", retrier()), KEY):
        pass
    assert [upload.upload_id for upload in await store.list_uploads("b", "")] == [other]


async def test_an_abort_that_fails_is_made_again_and_the_last_failure_is_told() -> None:
    store, left = OddStore(), list[LeftUpload]()
    bucket = WritableBucket(store, "b", retrier(), left=left.append)
    for passing in ([TransientError("broken")] * 2, [AccessDeniedError("no")] * 2):
        store.refuse_abort = list[RivaStreamError](passing)
        async with scratch_upload(bucket, KEY):
            pass
        assert (left, await is_clean(store)) == ([], True)
    store.refuse_abort = [AccessDeniedError("no")] * 3
    async with scratch_upload(bucket, KEY) as upload:
        pass
    assert left == [LeftUpload("b", KEY, upload.upload_id)]


async def test_what_cannot_be_cleaned_up_does_not_hide_why_it_ended() -> None:
    store = OddStore()
    store.refuse_abort = [AccessDeniedError("no")] * 3
    with pytest.raises(KeyError):
        async with scratch_upload(WritableBucket(store, "b", retrier()), KEY):
            raise KeyError


# ---- verdicts


def test_the_right_checksum_is_right() -> None:
    assert _RIGHT["crc64nvme"].crc64nvme == crc64nvme(_BYTES)


def wrong(body: PartBody) -> str:
    """Which checksum of a part is a wrong one; "" for none."""
    zeros = {"crc64nvme": "AAAAAAAAAAA=", "sha256": "0" * 64, "md5": "AAAAAAAAAAAAAAAAAAAAAA=="}
    return next((name for name, value in zeros.items() if getattr(body, name) == value), "")


def check_of(body: PartBody) -> str:
    return next((name for name in ("crc64nvme", "sha256", "md5") if getattr(body, name)), "")


def no(code: str, status: int) -> RivaStreamError:
    return refusal("UploadPart", "b", KEY, code, status)


async def probed(store: OddStore, wanted: str = "auto") -> str:
    try:
        return (await probe_uploads(WritableBucket(store, "b", retrier()), KEY, wanted)).check
    finally:
        assert await is_clean(store)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("BadDigest", 400),
        ("XAmzContentSHA256Mismatch", 400),
        ("SignatureDoesNotMatch", 403),
        ("InvalidArgument", 400),
        ("AccessDenied", 403),
        ("InvalidRequest", 400),
    ],
)
@pytest.mark.parametrize("check", ["crc64nvme", "sha256", "md5"])
async def test_a_wrong_checksum_that_is_refused_is_checked_in_whatever_words(
    check: str, code: str, status: int
) -> None:
    store = OddStore()
    store.judge = lambda body: no(code, status) if wrong(body) == check else None
    assert await probed(store) == check
    assert await probed(store, check) == check


@pytest.mark.parametrize("code", ["SignatureDoesNotMatch", "AccessDenied", "InvalidArgument"])
async def test_a_checksum_that_is_refused_right_or_wrong_is_left_for_the_next(code: str) -> None:
    store = OddStore()

    def judge(body: PartBody) -> RivaStreamError | None:
        if check_of(body) in {"crc64nvme", "sha256"}:
            return no(code, 403)
        return no("BadDigest", 400) if wrong(body) == "md5" else None

    store.judge = judge
    assert await probed(store) == "md5"
    with pytest.raises(ConfigurationError) as caught:
        await probed(store, "sha256")
    assert caught.value.where.code == ""  # it is the choice that is wrong, not the credentials


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("AccessDenied", 403, AccessDeniedError),
        ("InvalidAccessKeyId", 403, ConfigurationError),
        ("SignatureDoesNotMatch", 403, ConfigurationError),
    ],
)
@pytest.mark.parametrize("wanted", ["auto", "sha256"])
async def test_a_part_that_is_refused_whatever_goes_with_it_is_told_as_that(
    wanted: str, code: str, status: int, kind: type[RivaStreamError]
) -> None:
    store = OddStore()
    store.judge = lambda _: no(code, status)
    with pytest.raises(kind) as caught:
        await probed(store, wanted)
    assert caught.value.where.code == code


async def test_one_odd_refusal_is_no_verdict() -> None:
    store, count = OddStore(), 0

    def judge(body: PartBody) -> RivaStreamError | None:
        nonlocal count
        count += bool(wrong(body))
        return no("AccessDenied", 403) if wrong(body) and count == 1 else None

    store.judge = judge
    assert await probed(store) == "etag"


async def test_a_request_that_fails_is_no_refusal() -> None:
    store, told = OddStore(), [no("InternalError", 500), no("RequestTimeout", 400), no("SlowDown", 503)]
    store.judge = lambda _: told.pop() if told else None
    assert await probed(store) == "etag"
    assert told == []


async def test_a_store_that_cannot_declare_a_checksum_is_asked_for_the_others() -> None:
    store = OddStore()

    async def create(bucket: str, key: str, **options: Any) -> str:
        if options.get("crc64nvme"):
            raise ConfigurationError("unknown", where=Where(code="InvalidArgument", status=400))
        return await OddStore.create_upload(store, bucket, key, **options)

    store.create_upload = create  # type: ignore[method-assign]
    store.judge = lambda body: no("BadDigest", 400) if wrong(body) == "md5" else None
    assert await probed(store) == "md5"
