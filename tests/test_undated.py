"""Answers without a Date, which they may lack (RFC 9110, 6.6.1): windows go by the one before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import pytest

from riva_stream import stage
from riva_stream.retry import RetryPolicy
from tests.copying import Watched, asked, assert_staged, made


@pytest.mark.parametrize("is_aws", [True, False])
async def test_it_is_staged_all_the_same(is_aws: bool, monkeypatch: pytest.MonkeyPatch) -> None:
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
