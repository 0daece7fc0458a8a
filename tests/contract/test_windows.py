"""Requests with a window on every store; which of them checks it stands in the table of `tests.contract.writes`."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable
from datetime import timedelta

import aioboto3
import anyio
import pytest

from riva_stream.errors import HeldError, RivaStreamError, TransientError
from riva_stream.s3 import CompletedPart, StoreSettings, Window, open_store
from tests.contract.enforcement import ANSWERS
from tests.contract.ground import SMALL, TAKEN, Ground, body, crc64nvme
from tests.contract.writes import window
from tests.support.faultproxy import FaultProxy
from tests.support.faults import Refuse, Reset, Rule
from tests.support.servers import S3Server

pytestmark = pytest.mark.asyncio(loop_scope="session")

SECRETS = ("X-Amz-Signature", "X-Amz-Credential", "X-Amz-SignedHeaders")


def checks_windows(ground: Ground) -> bool:
    return ANSWERS[ground.server.name]["PUT, after its window"] != TAKEN


async def create(ground: Ground, key: str, *, window: Window | None) -> str:
    return await ground.store.create_upload(
        ground.bucket,
        key,
        content_type="text/plain; charset=utf-8",
        metadata={"run-id": "130-20260101-000000-deadbeef"},
        crc64nvme=True,
        tags={"a": "b c"},
        window=window,
    )


async def refused(act: Awaitable[object]) -> None:
    with pytest.raises(TransientError) as caught:
        await act
    where = caught.value.where
    assert (where.code, caught.value.exit_code, caught.value.retryable) == ("RequestExpired", 75, True)
    assert (where.operation != "", where.bucket != "", where.key != "") == (True, True, True)


async def test_what_comes_after_its_window_changes_nothing(ground: Ground) -> None:
    if not checks_windows(ground):
        pytest.skip("this store does not look at the window")
    past, key = await window(ground, past=True), ground.key()
    etag = await ground.put(key, body(b"old"))
    await refused(ground.put(key, body(b"new"), window=past))
    await refused(ground.store.delete(ground.bucket, key, window=past))
    await refused(create(ground, key, window=past))
    assert not await ground.store.list_uploads(ground.bucket, key)
    _, upload_id, parts = await ground.upload(SMALL, key=key)
    late = ground.store.complete_upload(
        ground.bucket, key, upload_id, parts, crc64nvme=None, if_match=etag, window=past
    )
    await refused(late)
    assert await ground.data(key) == b"old"
    assert await ground.store.list_parts(ground.bucket, key, upload_id) == parts
    await ground.store.complete_upload(
        ground.bucket, key, upload_id, parts, crc64nvme=None, window=await window(ground)
    )
    assert await ground.data(key) == SMALL


@pytest.mark.parametrize("check", ["none", "crc64nvme", "md5", "sha256"])
async def test_a_put_within_its_window_is_what_it_would_be_without(ground: Ground, check: str) -> None:
    key, sent = "p/ä ö/x+y%20z&~", body(check=check)
    metadata = {"run-id": "130-20260101-000000-deadbeef"}
    stored = await ground.store.put(
        ground.bucket,
        key,
        sent,
        content_type="text/plain; charset=utf-8",
        metadata=metadata,
        window=await window(ground),
    )
    info = await ground.store.head(ground.bucket, key, window=await window(ground))
    assert info is not None
    assert (info.etag, info.size, info.content_type) == (stored.etag, len(SMALL), "text/plain; charset=utf-8")
    assert dict(info.metadata) == metadata
    assert await ground.data(key) == SMALL
    assert (stored.now is None, info.now is None) == (False, False)


async def test_an_upload_created_within_a_window_is_what_it_would_be_without(ground: Ground) -> None:
    key, found = "p/ä ö/x+y%20z&~", []
    for given in (await window(ground), None):
        upload_id = await create(ground, key, window=given)
        etag, value = await ground.part(key, upload_id, 1, body(check="crc64nvme")), crc64nvme(SMALL)
        await ground.complete(key, upload_id, [CompletedPart(1, etag, len(SMALL), value)], value)
        info = await ground.store.head(ground.bucket, key)
        assert info is not None
        tags = dict(await ground.store.get_tags(ground.bucket, key))
        found.append(
            (info.etag, info.size, info.content_type, dict(info.metadata), dict(info.checksums), tags)
        )
    assert found[0] == found[1]
    assert found[0][3] == {"run-id": "130-20260101-000000-deadbeef"}


@pytest.mark.parametrize("check", ["crc64nvme", "md5"])
async def test_checksums_are_checked_within_a_window_as_without(ground: Ground, check: str) -> None:
    row = {"crc64nvme": "PUT, wrong CRC64NVME", "md5": "PUT, wrong Content-MD5"}[check]
    wrong, given, key = body(check=check, wrong=True), await window(ground), ground.key()
    if ANSWERS[ground.server.name][row] == TAKEN:
        await ground.put(key, wrong, window=given)
        return
    with pytest.raises(TransientError) as caught:
        await ground.put(key, wrong, window=given)
    assert caught.value.where.code == ANSWERS[ground.server.name][row]
    assert await ground.store.head(ground.bucket, key) is None


async def test_conditions_are_checked_within_a_window_as_without(ground: Ground) -> None:
    key, given = ground.key(), await window(ground)
    await ground.put(key, body(b"old"))
    acts: dict[str, Callable[[], Awaitable[object]]] = {
        "PUT, If-Match, another ETag": lambda: ground.put(key, if_match="0" * 32, window=given),
        "PUT, If-None-Match: *, the key is there": lambda: ground.put(key, if_absent=True, window=given),
        "DELETE, If-Match, another ETag": lambda: ground.store.delete(
            ground.bucket, key, if_match="0" * 32, window=given
        ),
    }
    for row, act in acts.items():
        if ANSWERS[ground.server.name][row] == "PreconditionFailed":
            with pytest.raises(HeldError):
                await act()
            assert await ground.data(key) == b"old"


async def test_requests_at_once_have_each_their_own_window(ground: Ground) -> None:
    past, now, key = await window(ground, past=True), await window(ground), ground.key()
    await ground.put(key)
    outcomes: list[tuple[Window | None, str]] = []

    async def ask(given: Window | None) -> None:
        try:
            await ground.store.head(ground.bucket, key, window=given)
        except TransientError as error:
            outcomes.append((given, error.where.code))
        else:
            outcomes.append((given, TAKEN))

    async with anyio.create_task_group() as tasks:
        for given in [past, now, None] * 8:
            tasks.start_soon(ask, given)
    late = "RequestExpired" if checks_windows(ground) else TAKEN
    assert len(outcomes) == 24
    assert all(told == (late if given is past else TAKEN) for given, told in outcomes)


async def test_a_window_that_is_over_before_the_request_is_not_sent(ground: Ground) -> None:
    given = await window(ground)
    key = ground.key()
    await refused(ground.put(key, window=Window(given.since, 0)))
    assert await ground.store.head(ground.bucket, key) is None


@pytest.mark.parametrize(
    "fault",
    [Reset("request"), Reset("response"), Refuse("SignatureDoesNotMatch", 403), Refuse("InternalError")],
    ids=["reset", "lost answer", "refused", "failed"],
)
async def test_no_signed_url_gets_into_an_error_or_a_log(
    ground: Ground, fault: Reset | Refuse, caplog: pytest.LogCaptureFixture
) -> None:
    server, given = ground.server, await window(ground)
    if not isinstance(server, S3Server):
        pytest.skip("there is no URL")
    session = aioboto3.Session(aws_access_key_id=server.access_key, aws_secret_access_key=server.secret_key)
    rules = [Rule(name, fault=fault) for name in ("HeadObject", "PutObject", "DeleteObject")]
    texts: list[str] = []
    with caplog.at_level(logging.INFO):
        async with FaultProxy(server, rules) as proxy:
            settings = StoreSettings(region=server.region, endpoint_url=proxy.endpoint_url)
            async with open_store(settings, session=session, warn=pytest.fail) as store:
                through, key = Ground(server, store, ground.bucket), ground.key()
                for act in (
                    through.put(key, window=given),
                    store.head(ground.bucket, key, window=given),
                    store.delete(ground.bucket, key, window=given),
                ):
                    with pytest.raises(RivaStreamError) as caught:
                        await act
                    texts += [str(caught.value), repr(caught.value), *told_by(caught.value)]
            assert all("X-Amz-Signature=" in record.request.target for record in proxy.log)
    assert not [text for text in (*texts, caplog.text) for secret in SECRETS if secret in text]


def told_by(error: BaseException) -> list[str]:
    """The traceback, and every error that this one came from, shown or not."""
    texts, seen = ["".join(traceback.format_exception(error))], error
    todo = [error.__cause__, error.__context__]
    while todo:
        inner = todo.pop()
        if inner is not None and inner is not seen:
            texts += [str(inner), repr(inner), repr(getattr(inner, "kwargs", ""))]
            todo += [inner.__cause__, inner.__context__]
    return texts


async def test_the_window_counts_from_its_own_time(ground: Ground) -> None:
    """Not from when it was signed: what is left of a lease shrinks while a request waits for its turn."""
    if not checks_windows(ground):
        pytest.skip("this store does not look at the window")
    now = (await window(ground)).since
    assert await ground.store.head(ground.bucket, "k", window=Window(now - timedelta(seconds=50), 60)) is None
    await refused(ground.store.head(ground.bucket, "k", window=Window(now - timedelta(seconds=60), 50)))
