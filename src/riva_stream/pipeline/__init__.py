"""``stage()``: the whole job, top to bottom."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from riva_stream import clock
from riva_stream.config import StageRequest
from riva_stream.errors import first_of
from riva_stream.events import Observer, PhaseChanged, ignore
from riva_stream.flow.buffers import Credits
from riva_stream.pipeline.begin import deadline, open_run, reserve_memory
from riva_stream.pipeline.from_archive import FromArchive
from riva_stream.pipeline.promotion import promote, replicated
from riva_stream.pipeline.protocol import carry_out
from riva_stream.pipeline.stores import open_stores, require_arguments
from riva_stream.report import StageReport
from riva_stream.s3 import Store
from riva_stream.state import new_run_id
from riva_stream.tasks import in_child_task

__all__ = ["promote", "stage"]


@in_child_task
async def stage(
    request: StageRequest,
    *,
    observer: Observer = ignore,
    session: Any = None,
    source_session: Any = None,
    store: Store | None = None,
    source_store: Store | None = None,
    budget: Credits | None = None,
) -> StageReport:
    """Stage one model: find it, stream it, verify it, commit it.

    Cancel it at any time: nothing becomes visible, and running it again, on this host or another, resumes from what the
    store has already.

    Args:
        request: what to stage, from where, to where.
        observer: receives events; called on the event loop.
        session: an ``aioboto3.Session`` for the destination; None creates one from the request and the environment.
        source_session: the same for the source; None: the destination's, unless the request names another profile.
        store: an open store (see :func:`riva_stream.open_store`) to share one client between several calls.
        source_store: the same for the source.
        budget: byte credits that several calls in one process share; each takes ``request.memory`` of them.

    Returns:
        What was done, what was verified and how, and the artifact as stored in the bucket.

    Raises:
        RivaStreamError: see :mod:`riva_stream.errors` for the tree, its exit codes and what may be retried.
        TypeError: an argument is of the wrong kind.
    """
    require_arguments(
        StageRequest,
        request,
        observer,
        budget,
        {"session": session, "source_session": source_session},
        {"store": store, "source_store": source_store},
    )
    began = clock.monotonic()
    async with AsyncExitStack() as stack:
        try:
            async with deadline(request.deadline):
                await stack.enter_async_context(reserve_memory(budget, request.memory))
                async with open_run(request, request.run_id or new_run_id(), observer) as run:
                    stores = await stack.enter_async_context(
                        open_stores(
                            request,
                            partial(run.warn, "profile"),
                            session=session,
                            source_session=source_session,
                            store=store,
                            source_store=source_store,
                        )
                    )
                    bucket = stores.attach(run)
                    observer(PhaseChanged(phase="prepare"))
                    report = await carry_out(run, bucket, await FromArchive.find(run))
        except BaseExceptionGroup as group:
            raise first_of(group) from None
        # Each replica has its own stall timeout, and the rest of the deadline: the staging stays, whatever the outcome.
        if request.replicate_to and not request.dry_run:
            report = await replicated(report, request, observer, stores, since=began)
    return report
