"""``check`` at the source: does it exist, and may and can it be read; and all archives that a prefix or glob matches."""

from __future__ import annotations

import shlex
from functools import partial
from typing import Any

from riva_stream.config import StageRequest
from riva_stream.errors import AccessDeniedError, IntegrityError, RivaStreamError, SourceNotFoundError
from riva_stream.events import Observer, ignore, warning
from riva_stream.pipeline.stores import source_settings
from riva_stream.preflight.check_runner import CheckRunner
from riva_stream.preflight.report import CheckRecord, failed, failed_with, passed, warned
from riva_stream.retry import Retrier, RetryPolicy
from riva_stream.s3 import Bucket, Reader, open_store
from riva_stream.sizes import human_size
from riva_stream.source import FEW, PinnedRanges, PinnedSource, find_archives, find_source

__all__ = ["container_record", "list_archives", "source_record"]


async def list_archives(request: StageRequest, *, observer: Observer = ignore) -> list[str]:
    """Keys of all archives that match ``request.source``, a prefix that ends in ``/`` or a glob.

    Args:
        request: only its source and how to reach it matter.
        observer: is told of retries, and of what an operating system has left beside archives.

    Raises:
        RivaStreamError: the bucket cannot be listed.
    """
    async with open_store(source_settings(request), warn=warning(observer, "profile")) as store:
        retrier = Retrier(RetryPolicy(retries=request.retries), observer, renew=store.renew)
        bucket = Bucket(store, request.source_bucket, retrier)
        return [entry.key for entry in await find_archives(bucket, request.source_key, observer)]


async def source_record(runner: CheckRunner, store: Reader) -> CheckRecord:
    """Try one HEAD, and two bytes with If-Match, as a run requests them. The size is kept, even if it cannot be read.

    Raises:
        RivaStreamError: it does not exist, or may not be read.
    """
    request, retrier = runner.request, runner.retrier
    source = await find_source(store, request.source_bucket, request.source_key, retrier)
    runner.source_size = source.size
    facts: dict[str, Any] = {
        "uri": source.uri,
        "size": source.size,
        "etag": source.etag,
        "version_id": source.version_id,
        "vouched_for_by": ["md5-etag" if name == "md5" else name for name in source.checksums.values],
    }
    if not source.size:
        return failed(
            "source",
            f"{source.uri} is empty",
            exit_code=IntegrityError.exit_code,
            fix="upload it again",
            **facts,
        )
    said = f"{source.uri}, {human_size(source.size)}"
    # By reference a run reads nothing, so it needs no permission to read a version.
    version_id = source.version_id if request.mode == "full" else None
    ranges = PinnedRanges(store, source, retrier.observer)
    try:
        await retrier("GetObject", partial(ranges.first, FEW, version_id))
    except SourceNotFoundError as error:
        return await _archived_record(runner, store, source, error)
    except AccessDeniedError as error:
        if version_id is None:
            raise
        await retrier("GetObject", partial(ranges.first, FEW))
        less = "it would be pinned by its ETag alone, not by its version"
        record = failed_with("source", error, request, degraded=less)
        return record.model_copy(update={"message": f"{said}; {less}", "details": record.details | facts})
    return passed("source", f"{said}, can be read", **facts)


async def _archived_record(
    runner: CheckRunner, store: Reader, source: PinnedSource, error: RivaStreamError
) -> CheckRecord:
    """The record of an archived object: a run by reference can point at it, but its readers will fail."""
    info = await runner.retrier("HeadObject", partial(store.head, source.bucket, source.key))
    kind = info.storage_class if info else ""
    under_way = info is not None and 'ongoing-request="true"' in info.restore
    message = f"{source.uri} is archived" + (f" ({kind})" if kind else "")
    fix = (
        "it is being restored: check again when that is done"
        if under_way
        else f"aws s3api restore-object --bucket {source.bucket} --key {shlex.quote(source.key)} "
        "--restore-request Days=3 (takes minutes to hours), then check again"
    )
    facts: dict[str, Any] = {"uri": source.uri, "storage_class": kind, "where": str(error.where)}
    if runner.request.mode != "full":
        return warned("source", message + ": users of the reference cannot read it", fix=fix, **facts)
    return failed(
        "source",
        message + (" and is being restored" if under_way else " and cannot be read"),
        exit_code=error.exit_code,
        fix=fix,
        **facts,
    )


async def container_record(runner: CheckRunner, store: Reader) -> CheckRecord:
    """Try one HEAD of the container image, as a run pins it; nothing here reads it.

    Raises:
        RivaStreamError: it does not exist, or may not be inspected.
    """
    request = runner.request
    image = await find_source(
        store,
        request.server_bucket,
        request.server_key,
        runner.retrier,
        field="server_path",
    )
    facts: dict[str, Any] = {
        "uri": image.uri,
        "size": image.size,
        "etag": image.etag,
        "version_id": image.version_id,
    }
    if image.size:
        return passed("container", f"{image.uri}, {human_size(image.size)}", **facts)
    message, fix = f"{image.uri} is empty", "upload the image again"
    if request.mode == "bintarball_reference":
        return failed("container", message, exit_code=IntegrityError.exit_code, fix=fix, **facts)
    return warned("container", message, fix=fix, **facts)
