"""A field per server for the whole session, and retries that do not wait."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from riva_stream.retry import RetryPolicy
from riva_stream.s3 import StoreSettings, open_store
from tests.faults.cells import Field
from tests.staging import put_credentials
from tests.support.servers import S3Server

FieldOf = Callable[[S3Server], Awaitable[Field]]


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once: what is tested is what a run does, not how long it waits."""
    monkeypatch.setattr(RetryPolicy, "delay", lambda policy, attempt, draw: 0.001)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """moto takes parts of any size: a cell is about requests, not about their bytes."""
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def field_of() -> AsyncIterator[FieldOf]:
    """The field of a server: the sources in place, and a client for the runs without a fault; made once for each.

    Not a fixture with the server as its parameter: pytest makes such a one anew for each cell, with another run to
    count requests in.
    """
    fields: dict[str, Field] = {}
    async with AsyncExitStack() as stack:

        async def field(server: S3Server) -> Field:
            if server.name not in fields:
                with pytest.MonkeyPatch.context() as patch:
                    put_credentials(server, patch)
                    settings = StoreSettings(region=server.region, endpoint_url=server.endpoint_url)
                    store = await stack.enter_async_context(open_store(settings, warn=pytest.fail))
                    fields[server.name] = Field(server, store)
            return fields[server.name]

        yield field


@pytest.fixture
def struck_server(request: pytest.FixtureRequest) -> S3Server:
    """The server in front of which the faults happen."""
    server = request.getfixturevalue(request.node.callspec.params["server_name"])
    assert isinstance(server, S3Server)
    return server


@pytest_asyncio.fixture(loop_scope="session")
async def plot(field_of: FieldOf, struck_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Field:
    """The field, with the server's credentials where the SDK looks for them."""
    put_credentials(struck_server, monkeypatch)
    # A third of the cells' lease: no run comes to its first heartbeat, so that each makes the same requests.
    monkeypatch.setattr("riva_stream.lease.lease._FIRST", 3.0)
    return await field_of(struck_server)
