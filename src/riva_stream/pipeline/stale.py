"""Delete what must not lie beside a new staging, or must not stay after a failed one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from riva_stream.deployment import DEPLOYMENT_READY, OF_FULL, PAIR
from riva_stream.errors import AccessDeniedError, RivaStreamError, leaves_of
from riva_stream.manifest import MARKER
from riva_stream.pipeline.run import FOLDERS, Run, each
from riva_stream.pipeline.standing import Standing
from riva_stream.state import Lease

__all__ = ["delete", "remove_ready", "remove_stale", "take_back"]

_OURS = (*FOLDERS, *OF_FULL, *PAIR)


async def remove_stale(run: Run, standing: Standing, written: Sequence[str]) -> None:
    """Delete what older stagings left: keys of their manifest, and unmarked keys that carry our metadata.

    Args:
        run: the run.
        standing: what was there when it began.
        written: the keys that this run has written.

    Raises:
        AccessDeniedError: it may not be deleted, and must not lie beside the new staging.
    """
    prefix = run.request.prefix
    manifest = standing.manifest
    named = {file.s3_key for file in manifest.files.all()} if manifest else set()
    if standing.is_complete:
        named |= {prefix + name for name in OF_FULL}
    kept = {*written, prefix + MARKER}
    # Deleting what is not there does no harm, so where nothing may be listed all that was named goes.
    stale = [key for key in sorted(named - kept) if key in standing.keys or not standing.listed]
    # A staging by reference has no manifest that would name its pair.
    unseen = [] if standing.listed else [prefix + name for name in PAIR]
    unnamed = [
        key
        for key in [*standing.keys, *unseen]
        if key not in named | kept and key.removeprefix(prefix).startswith(_OURS)
    ]
    stale += [key for key in unnamed if await _is_ours(run, key)]
    try:
        await each(stale, partial(delete, run))
    except* AccessDeniedError as errors:
        first = leaves_of(errors)[0]
        raise AccessDeniedError(
            f"a file of an older staging may not be deleted, and must not lie beside the new one: {first}",
            where=first.where if isinstance(first, AccessDeniedError) else None,
            hint="grant s3:DeleteObject, or stage under another --model-version",
        ) from first


async def remove_ready(run: Run, standing: Standing) -> None:
    """Delete an old ``deployment_ready.txt``: from here on nothing that it stands for is whole."""
    key = run.request.prefix + DEPLOYMENT_READY
    if (key in standing.keys or not standing.listed) and await _is_ours(run, key):
        await delete(run, key)


async def take_back(run: Run, lease: Lease | None, keys: Sequence[str]) -> None:
    """Delete what this run has completed, and nothing else: never what another run has put there since."""
    with suppress(RivaStreamError):
        if lease is not None:
            await lease.check()
        for key in keys:
            info = await run.retrier("HeadObject", partial(run.destination.head, run.request.bucket, key))
            if info is not None and info.metadata.get("run-id") == run.run_id:
                await delete(run, key)


async def delete(run: Run, key: str) -> None:
    """Delete one object."""
    await run.retrier("DeleteObject", partial(run.destination.delete, run.request.bucket, key))


async def _is_ours(run: Run, key: str) -> bool:
    """Whether this tool has written what is there; False where nothing is, or that may not be known."""
    try:
        info = await run.retrier("HeadObject", partial(run.destination.head, run.request.bucket, key))
    except AccessDeniedError:
        return False  # without s3:ListBucket that is S3's answer for what is not there
    return info is not None and "run-id" in info.metadata and "artifact-type" in info.metadata
