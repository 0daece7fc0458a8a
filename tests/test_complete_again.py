"""A Complete of the bytes that are there already, whose answer is lost, or tells nothing: it is known again by its run id."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from riva_stream import stage
from riva_stream.errors import TransientError
from riva_stream.retry import RetryPolicy
from riva_stream.s3.errors import refusal
from tests.copying import Watched, asked, assert_staged, made

HOW = {"InternalError": 500, "MethodNotAllowed": 405, "InvalidPart": 400, "NoSuchUpload": 404}


@pytest.mark.parametrize("conditions", ["honoured", "ignored", "refused"])
@pytest.mark.parametrize("code", HOW)
async def test_a_lost_answer_whatever_the_second_attempt_is_told(
    code: str, conditions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RetryPolicy, "delay", lambda policy, attempt, draw: 0.0)

    gone: set[str] = set()

    class Odd(Watched):
        lose = False

        async def complete_upload(
            self, bucket: str, key: str, upload_id: str, *args: Any, **given: Any
        ) -> Any:
            if upload_id in gone:
                raise refusal("CompleteMultipartUpload", bucket, key, code, HOW[code])
            stored = await super().complete_upload(bucket, key, upload_id, *args, **given)
            gone.add(upload_id)
            if self.lose and "/source/" in key:
                self.lose = False
                raise TransientError("the connection failed")
            return stored

    store, model = Odd(is_aws=False, conditions=conditions), made("tar.gz")
    await store.put_source(model.key, model.data)
    await stage(asked(model, source_copy="send", lease=1.0), store=store)
    store.lose = True
    report = await stage(asked(model, source_copy="send", force=True, lease=1.0), store=store)
    assert report.outcome == "staged"
    assert_staged(store, model)


@pytest.mark.parametrize("forced", [True, False], ids=["--force", "a rerun of a commit that died"])
@pytest.mark.parametrize("is_aws", [True, False])
async def test_a_lost_answer_without_retries(is_aws: bool, forced: bool) -> None:
    """Every store: the object that is there has our own run id, which no earlier run had."""

    class Odd(Watched):
        lose = False
        dies = False

        async def complete_upload(
            self, bucket: str, key: str, upload_id: str, *args: Any, **given: Any
        ) -> Any:
            if self.dies and key.endswith("checksums.sha256"):
                raise refusal("CompleteMultipartUpload", bucket, key, "InternalError", 500)
            stored = await super().complete_upload(bucket, key, upload_id, *args, **given)
            if self.lose and "/source/" in key:
                self.lose = False
                raise TransientError("the connection failed")
            return stored

    store, model = Odd(is_aws=is_aws), made("tar.gz")
    await store.put_source(model.key, model.data)
    given = {"source_copy": "send", "retries": 0}
    if forced:
        await stage(asked(model, **given), store=store)
    else:
        store.dies = True
        with pytest.raises(TransientError):
            await stage(asked(model, **given), store=store)
        store.dies = False
    store.lose = True
    report = await stage(asked(model, force=forced, **given), store=store)
    assert report.outcome == "staged"
    assert_staged(store, model)


class WithoutETags(Watched):
    """Complete tells none, and those that it keeps are of the bytes in a way of its own."""

    def _keep(self, there: Any, key: str, data: bytes, etag: str, *args: Any, **more: Any) -> Any:
        return super()._keep(there, key, data, hashlib.sha256(data).hexdigest()[:40], *args, **more)

    def _info(self, found: Any) -> Any:
        return replace(super()._info(found), checksums={})

    async def complete_upload(self, *args: Any, **given: Any) -> Any:
        return replace(await super().complete_upload(*args, **given), etag="")


@pytest.mark.parametrize("force", [False, True])
async def test_an_answer_without_an_etag(force: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RetryPolicy, "delay", lambda policy, attempt, draw: 0.0)
    store, model = WithoutETags(is_aws=False), made("tar.gz")
    await store.put_source(model.key, model.data)
    given = {"source_copy": "send", "upload_check": "md5"}
    assert (await stage(asked(model, **given), store=store)).outcome == "staged"
    if force:
        assert (await stage(asked(model, force=True, **given), store=store)).outcome == "staged"
    assert_staged(store, model)
