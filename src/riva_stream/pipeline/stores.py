"""Open the stores of a run: one client if source and destination are the same, otherwise two."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from riva_stream.arguments import require
from riva_stream.config import Request
from riva_stream.flow.buffers import Credits
from riva_stream.pipeline.copies import COPIES
from riva_stream.run import Run
from riva_stream.s3 import (
    Reader,
    Store,
    StoreSettings,
    WritableBucket,
    WriteOptions,
    open_store,
    require_session,
    require_store,
)

__all__ = [
    "Stores",
    "destination_settings",
    "is_elsewhere",
    "is_one_principal",
    "open_stores",
    "require_arguments",
    "source_settings",
]


@dataclass(frozen=True, slots=True)
class Stores:
    """The two ends of a run."""

    destination: Store
    source: Reader
    one_principal: bool
    """Whether the source has the destination's credentials and endpoint, so that the store may copy."""

    def attach(self, run: Run) -> WritableBucket:
        """Let a run read from both; return the bucket for its changes."""
        bucket = WritableBucket(self.destination, run.request.bucket, run.retrier)
        run.destination, run.source_store, run.one_principal = bucket, self.source, self.one_principal
        run.retrier.renew = run.renew_sessions
        return bucket


def require_arguments(
    kind: type[Request],
    request: object,
    observer: object,
    budget: object,
    sessions: Mapping[str, object],
    stores: Mapping[str, object],
) -> None:
    """Refuse arguments of the wrong kind; sessions and stores are named, and may be None.

    Raises:
        TypeError: there is one.
    """
    require(isinstance(request, kind), "request", f"a {kind.__name__}", request)
    require(callable(observer), "observer", "callable with one event", observer)
    require(budget is None or isinstance(budget, Credits), "budget", "a MemoryBudget", budget)
    for name, session in sessions.items():
        require_session(name, session)
    for name, store in stores.items():
        if store is not None:
            require_store(name, store)


@asynccontextmanager
async def open_stores(
    request: Request,
    warn: Callable[[str], None],
    *,
    session: Any = None,
    source_session: Any = None,
    store: Store | None = None,
    source_store: Store | None = None,
) -> AsyncIterator[Stores]:
    """Open the stores of a request; at the end those opened here are closed, never the caller's.

    Args:
        request: says how to reach them.
        warn: called with each setting of a profile that is ignored.
        session: the caller's own ``aioboto3.Session`` for the destination.
        source_session: the same for the source.
        store: an open store, instead of a session.
        source_store: the same for the source.
    """
    opened_here = source_store is None and source_session is None
    async with AsyncExitStack() as stack:
        if store is None:
            store = await stack.enter_async_context(
                open_store(destination_settings(request), session=session, warn=warn)
            )
        if source_store is None and (source_session is not None or is_elsewhere(request)):
            source_store = await stack.enter_async_context(
                open_store(
                    source_settings(request),
                    # a profile of its own outranks the destination's session
                    session=source_session or (None if request.source_profile else session),
                    warn=warn,
                )
            )
        source = store if source_store is None else source_store
        one = source is store or (opened_here and is_one_principal(request))
        yield Stores(store, source, one)


def is_elsewhere(request: Request) -> bool:
    """Whether the source needs a client of its own."""
    named = (request.source_region, request.source_endpoint_url, request.source_profile)
    # The owner expected of the destination's bucket is not that of the source's.
    return any(named) or request.no_sign_request or request.expected_bucket_owner is not None


def is_one_principal(request: Request) -> bool:
    """Whether both ends have one endpoint and the same credentials; another AWS region counts as the same endpoint."""
    own_profile = request.source_profile not in {None, request.profile}
    own_endpoint = request.source_endpoint_url not in {None, request.endpoint_url}
    return not (own_profile or own_endpoint or request.no_sign_request)


def destination_settings(request: Request) -> StoreSettings:
    """Settings for reaching the destination, and for what is written there."""
    return StoreSettings(
        region=request.region,
        endpoint_url=request.endpoint_url,
        profile=request.profile,
        ca_bundle=request.ca_bundle,
        addressing=request.addressing,
        connections=2 * request.connections + 4 + COPIES,
        read_timeout=min(60.0, request.timeout),
        credentials_timeout=request.timeout,
        options=WriteOptions(
            sse=request.sse,
            kms_key_id=request.kms_key_id,
            storage_class=request.storage_class,
            expected_bucket_owner=request.expected_bucket_owner,
            acl=request.acl,
            request_payer=request.request_payer,
        ),
    )


def source_settings(request: Request) -> StoreSettings:
    """Settings for reaching the source, if it is elsewhere."""
    return replace(
        destination_settings(request),
        region=request.source_region or request.region,
        endpoint_url=request.source_endpoint_url or request.endpoint_url,
        profile=request.source_profile or request.profile,
        unsigned=request.no_sign_request,
        options=WriteOptions(request_payer=request.request_payer),
        connections=request.connections + 4,
    )
