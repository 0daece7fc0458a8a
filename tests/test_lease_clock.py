"""By what a run signs its changes: the store's clock as its last heartbeat told it, whatever comes in between."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest

from riva_stream import stage
from riva_stream.layout import Layout
from riva_stream.lease import Lease, Process
from riva_stream.lease.lease import JournalContent
from riva_stream.retry import Retrier, RetryPolicy
from riva_stream.s3 import WritableBucket
from riva_stream.s3.errors import refusal
from riva_stream.s3.port import REQUEST_EXPIRED
from tests.copying import Watched, asked, assert_staged, made


@pytest.mark.parametrize("is_aws", [True, False])
async def test_answers_may_lack_their_dates(is_aws: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 9110, 6.6.1: a server without a clock sends none."""
    monkeypatch.setattr(RetryPolicy, "delay", lambda policy, attempt, draw: 0.05)

    class Undated(Watched):
        undated = False

        async def put(self, *args: Any, **given: Any) -> Any:
            stored = await super().put(*args, **given)
            return replace(stored, now=None) if self.undated else stored

        async def upload_part(self, bucket: str, key: str, *args: Any) -> Any:
            if "/models/" in key and not self.undated:
                self.undated = True
                await anyio.sleep(4.5)  # the archive takes longer than a window
            return await super().upload_part(bucket, key, *args)

    store, model = Undated(is_aws=is_aws), made("tar.gz")
    await store.put_source(model.key, model.data)
    report = await stage(asked(model, lease=4.0, source_copy="send", retries=4), store=store)
    assert report.outcome == "staged"
    assert_staged(store, model)


@pytest.mark.parametrize("lease", [30.0, 60.0])
@pytest.mark.parametrize("operation", ["create", "complete"])
async def test_one_of_several_requests_at_once_may_come_too_late(
    lease: float, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RetryPolicy, "delay", lambda policy, attempt, draw: 0.1)

    class Late(Watched):
        refused = False
        looks = 0

        async def head(self, bucket: str, key: str, **given: Any) -> Any:
            info = await super().head(bucket, key, **given)
            if key.endswith("journal.json"):
                self.looks += 1
                await anyio.sleep(0.01 * (1 + self.looks % 4))  # looks take a little, and not all as long
            return info

        async def create_upload(self, bucket: str, key: str, **given: Any) -> str:
            if operation == "create" and key.endswith((".sha256", ".json", ".txt")) and not self.refused:
                self.refused = True
                raise refusal("CreateMultipartUpload", bucket, key, REQUEST_EXPIRED, 403)
            return await super().create_upload(bucket, key, **given)

        async def complete_upload(self, bucket: str, key: str, *args: Any, **given: Any) -> Any:
            if operation == "complete" and "/source/" in key and not self.refused:
                self.refused = True
                raise refusal("CompleteMultipartUpload", bucket, key, REQUEST_EXPIRED, 403)
            return await super().complete_upload(bucket, key, *args, **given)

    store, model = Late(), made("tar.gz", sizes=(9_000, 3_500, 3_000, 2_900))
    await store.put_source(model.key, model.data)
    report = await stage(asked(model, lease=lease, source_copy="send"), store=store)
    assert store.refused
    assert report.outcome == "staged"
    assert_staged(store, model)


async def test_changes_at_once_that_find_the_lease_half_over_renew_it_once() -> None:
    """Each of them wrote a journal."""
    store = Watched()
    lease = Lease(
        WritableBucket(store, "staging", Retrier()),
        Layout("staging", "prod/m/v1/"),
        30.0,
        "130-test",
        datetime.now(UTC),
        Process.this(),
        lambda: JournalContent(None, (), committing=False),
        pytest.fail,
        _keep_nothing,
        lambda: None,
    )
    await lease.acquire(wait=False)
    beat = (await lease.current()).beat  # type: ignore[union-attr]
    lease.expire()
    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(lease.check)
    assert (await lease.current()).beat == beat + 1  # type: ignore[union-attr]
    await lease.release()


async def _keep_nothing(_: bytes) -> None:
    pass
