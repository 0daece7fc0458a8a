"""A caller's own store that fails in a way of its own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from riva_stream import RivaStreamError, stage
from riva_stream.s3.errors import refusal
from tests.copying import Watched, asked, made


async def test_a_clean_up_that_fails_does_not_hide_the_cancellation() -> None:
    """docs/semantics.md, "Cancelling": the first error is the one you see."""

    class Closed(Watched):
        closed = False
        streaming = asyncio.Event()

        async def put(self, *args: Any, **given: Any) -> Any:
            if self.closed:
                raise RuntimeError("Session is closed")  # as aiohttp says
            return await super().put(*args, **given)

        async def upload_part(self, bucket: str, key: str, *args: Any) -> Any:
            if "/models/" in key or "/source/" in key:
                self.streaming.set()
                await asyncio.sleep(60)
            return await super().upload_part(bucket, key, *args)

    store, model = Closed(), made("tar.gz")
    await store.put_source(model.key, model.data)
    task = asyncio.ensure_future(stage(asked(model, source_copy="send", lease=30.0), store=store))
    await store.streaming.wait()
    store.closed = True
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_clean_up_that_fails_is_told() -> None:
    class Closed(Watched):
        closed = False

        async def put(self, *args: Any, **given: Any) -> Any:
            if self.closed:
                raise RuntimeError("Session is closed")
            return await super().put(*args, **given)

        async def upload_part(self, bucket: str, key: str, *args: Any) -> Any:
            if "/models/" in key or "/source/" in key:
                self.closed = True
                raise refusal("UploadPart", bucket, key, "InternalError", 500)
            return await super().upload_part(bucket, key, *args)

    store, model = Closed(), made("tar.gz")
    await store.put_source(model.key, model.data)
    with pytest.raises(RivaStreamError) as caught:
        await stage(asked(model, source_copy="send", lease=30.0, retries=0), store=store)
    assert any("clean-up" in note for note in caught.value.__notes__)
