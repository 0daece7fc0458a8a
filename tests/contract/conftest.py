"""Every contract test runs against every store, through one client each; every test has a bucket of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aioboto3
import anyio
import anyio.to_thread
import pytest
import pytest_asyncio

from riva_stream.s3 import StoreSettings, open_store
from tests.contract.ground import Ground, MemoryServer, Server
from tests.support.servers import S3Server


@pytest.fixture(
    scope="session",
    params=[
        "memory",
        "moto",
        pytest.param("gateway", marks=pytest.mark.gateway),
        pytest.param("localstack", marks=pytest.mark.localstack),
    ],
)
def each_server(request: pytest.FixtureRequest) -> Server:
    """The store in memory, moto, the gateway and LocalStack, one after the other."""
    if request.param == "memory":
        return MemoryServer()
    server = request.getfixturevalue(request.param)
    assert isinstance(server, S3Server)
    return server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def opened(each_server: Server) -> AsyncIterator[Ground]:
    """The store, open for all tests; its bucket is nobody's."""
    if isinstance(each_server, MemoryServer):
        yield Ground(each_server, each_server.store, "no-such-bucket-of-ours")
        return
    assert isinstance(each_server, S3Server)
    keys = {
        "aws_access_key_id": each_server.access_key,
        "aws_secret_access_key": each_server.secret_key,
    }
    settings = StoreSettings(region=each_server.region, endpoint_url=each_server.endpoint_url)
    async with open_store(settings, session=aioboto3.Session(**keys), warn=pytest.fail) as store:
        yield Ground(each_server, store, "no-such-bucket-of-ours")


@pytest_asyncio.fixture(loop_scope="session")
async def ground(opened: Ground) -> AsyncIterator[Ground]:
    """A new bucket, through the port."""
    bucket = await anyio.to_thread.run_sync(opened.server.new_bucket)
    yield Ground(opened.server, opened.store, bucket)
    # Listed whole before any is aborted: LocalStack refuses a marker that is gone by the time of the next page.
    left = list(await opened.store.list_uploads(bucket, ""))

    async def abort() -> None:
        while left:
            upload = left.pop()
            await opened.store.abort_upload(bucket, upload.key, upload.upload_id)

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(abort)
    await anyio.to_thread.run_sync(opened.server.remove_bucket, bucket)
