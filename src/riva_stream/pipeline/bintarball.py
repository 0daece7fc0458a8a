"""A bintarball reference: archive and container image stay where they lie, and one document pins both.

Two files below ``bintarball/deployment-metadata/``, of which ``deployment_ready.txt`` is the marker. Nothing is held:
``deployment.json`` is put on condition that it is still what was looked at, the marker on condition that there is none,
and the former is read once more after it, so of two runs at the same time at most one ends well. Where a store ignores
such conditions the last one wins, with both files.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from riva_stream.deployment import DEPLOYMENT_JSON, DEPLOYMENT_READY, DeploymentReady
from riva_stream.errors import AccessDeniedError, DestinationConflictError, HeldError, IntegrityError, Where
from riva_stream.events import PhaseChanged
from riva_stream.manifest import to_json
from riva_stream.pipeline.commit import Committed
from riva_stream.pipeline.handover import deployment_of, ready_of
from riva_stream.pipeline.pair import Pair, another_container, read_pair, reference_to
from riva_stream.pipeline.run import Run
from riva_stream.pipeline.stale import delete, take_back
from riva_stream.pipeline.standing import Decision
from riva_stream.pipeline.writer import Writer
from riva_stream.report import ObjectCheck
from riva_stream.source import PinnedSource

__all__ = ["commit_reference", "confirmed", "decide_reference", "inspect_reference"]


async def inspect_reference(run: Run, source: PinnedSource, container: PinnedSource) -> Pair:
    """Look at what is to be referred to, and at what is written already.

    Raises:
        IntegrityError: archive or image is empty.
    """
    for pinned in (source, container):
        if pinned.size == 0:
            raise IntegrityError(
                f"{pinned.uri} is empty",
                where=Where("HeadObject", pinned.bucket, pinned.key),
                hint="upload it again; nothing was written",
            )
    key = run.request.prefix + DEPLOYMENT_JSON
    # First of all, so that what another run writes from here on is noticed when ours is put.
    try:
        info = await run.retrier("HeadObject", partial(run.destination.head, run.request.bucket, key))
    except AccessDeniedError:
        info = None  # without s3:ListBucket that is S3's answer for what is not there
    return replace(await read_pair(run), etag=info.etag if info else None)


def decide_reference(run: Run, source: PinnedSource, container: PinnedSource, pair: Pair) -> Decision:
    """What to do, from what is asked for and what is there.

    Raises:
        DestinationConflictError: there is a reference to something else, and ``force`` was not given.
    """
    request = run.request
    if not pair.marked:
        return Decision.STAGE
    if request.force:
        return Decision.REPLACE
    difference = pair.broken
    if pair.document is not None:
        there, asked = pair.document.bintarball_references.model_archive, reference_to(source)
        if not there.is_same(asked):
            difference = f"it is for the archive {there.text()}; asked for is {asked.text()}"
        else:
            difference = another_container(pair.document, container)
        if not difference:
            return Decision.ALREADY_STAGED
    raise DestinationConflictError(
        f"{request.destination} holds another reference: {difference}",
        where=Where(bucket=request.bucket, key=request.prefix + DEPLOYMENT_READY),
        hint="write it under another --model-version, or replace what is there with --force",
    )


async def commit_reference(
    run: Run, source: PinnedSource, container: PinnedSource, pair: Pair, check: str
) -> Committed:
    """Write ``deployment.json``, verify it, and put the marker.

    Raises:
        HeldError: another run writes the same reference.
    """
    run.observer(PhaseChanged(phase="commit"))
    if pair.marked:
        await delete(run, run.request.prefix + DEPLOYMENT_READY)
    writer = Writer(run, check)
    document = deployment_of(run, source, reference_to(source), container)
    data = to_json(document)
    await writer.verify(
        await writer.put(DEPLOYMENT_JSON, data, if_absent=pair.etag is None, if_match=pair.etag)
    )
    await writer.mark(DEPLOYMENT_READY, ready_of(run, document, data), partial(_is_of, run.run_id))
    # Between the HEAD and the marker another run may have put its own beside it.
    if (await read_pair(run)).text != data:
        await take_back(run, None, writer.written[::-1])
        raise HeldError(
            "another run has written this reference at the same time",
            where=Where("GetObject", run.request.bucket, run.request.prefix + DEPLOYMENT_JSON),
            hint="run the same command again",
        )
    return Committed(None, writer.checks, document)


def confirmed(run: Run, pair: Pair) -> Committed:
    """What is written already, as it was read just now."""
    sizes = {DEPLOYMENT_JSON: len(pair.text), DEPLOYMENT_READY: len(pair.ready)}
    checks = [
        ObjectCheck(key=run.request.prefix + name, size_bytes=size, by=["content"])
        for name, size in sizes.items()
    ]
    return Committed(None, checks, pair.document)


def _is_of(run_id: str, text: bytes) -> bool:
    """Whether a marker is this run's, however garbled it may have come."""
    try:
        return DeploymentReady.parse(text.decode()).run_id == run_id
    except ValueError:
        return True
