"""A field per server for the whole session, and retries that do not wait."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from riva_stream.retry import RetryPolicy
from riva_stream.s3 import StoreSettings, open_store
from tests.faults.cells import Field
from tests.staging import put_credentials
from tests.support.servers import S3Server


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once: what is tested is what a run does, not how long it waits."""
    monkeypatch.setattr(RetryPolicy, "delay", lambda policy, attempt, draw: 0.001)


@pytest.fixture(scope="session")
def struck_server(request: pytest.FixtureRequest) -> Iterator[S3Server]:
    """The server in front of which the faults happen."""
    server = request.getfixturevalue(request.param)
    assert isinstance(server, S3Server)
    with pytest.MonkeyPatch.context() as patch:
        put_credentials(server, patch)
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def opened(struck_server: S3Server) -> AsyncIterator[Field]:
    """The sources in place, and a client for the runs without a fault."""
    with pytest.MonkeyPatch.context() as patch:
        put_credentials(struck_server, patch)
        settings = StoreSettings(region=struck_server.region, endpoint_url=struck_server.endpoint_url)
        async with open_store(settings, warn=pytest.fail) as store:
            yield Field(struck_server, store)


@pytest.fixture
def plot(opened: Field, monkeypatch: pytest.MonkeyPatch) -> Field:
    """The field, with the server's credentials where the SDK looks for them."""
    put_credentials(opened.server, monkeypatch)
    return opened
