"""Upload a run's log and related small files to a bucket. Best effort, and given up soon."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anyio

from riva_stream import clock
from riva_stream.config import Request
from riva_stream.errors import StalledError
from riva_stream.files import read_end
from riva_stream.log_place import LogPlace
from riva_stream.retry import Retrier, RetryPolicy
from riva_stream.s3 import PartBody, StoreSettings, WritableBucket, WriteOptions, open_store
from riva_stream.s3.scratch import discard_message
from riva_stream.sink import body_of

__all__ = ["deliver", "log_store"]

_READ_SECONDS = 15.0
_LARGEST = 64 << 20
"""Bytes of a file that are sent; of a longer file the end, since a log ends with the outcome."""
_TYPES = {".log": "text/plain; charset=utf-8", ".gz": "application/gzip"}


def log_store(request: Request) -> StoreSettings:
    """Settings of the store that takes the logs: as for the destination, without the options for staged objects."""
    return StoreSettings(
        region=request.region,
        endpoint_url=request.endpoint_url,
        profile=request.profile,
        ca_bundle=request.ca_bundle,
        addressing=request.addressing,
        options=WriteOptions(request_payer=request.request_payer),
        read_timeout=min(_READ_SECONDS, request.timeout),
        credentials_timeout=min(_READ_SECONDS, request.timeout),
    )


async def deliver(
    request: Request, target: LogPlace, files: Sequence[Path], *, run_id: str, seconds: float
) -> None:
    """Upload all files, one after the other.

    Args:
        request: how to reach the store.
        target: where they go.
        files: a log, and what belongs to it.
        run_id: of the run that they are about; stored in the objects' metadata.
        seconds: time limit for all of them.

    Raises:
        RivaStreamError: the store refuses it.
        StalledError: it took too long.
        OSError: a file cannot be read.
    """
    try:
        with anyio.fail_after(seconds):
            async with open_store(log_store(request), warn=discard_message) as store:
                there = WritableBucket(store, target.bucket, Retrier(RetryPolicy(retries=2)))
                for path in files:
                    body = await clock.in_thread(_body, path, "crc64nvme" if store.is_aws else "md5")
                    await there.put(
                        target.key(run_id, path.name),
                        body,
                        content_type=_TYPES[path.suffix],
                        metadata={"artifact-type": "log", "run-id": run_id},
                    )
    except TimeoutError as error:
        raise StalledError(f"it took longer than {seconds:.0f} s") from error


def _body(path: Path, check: str) -> PartBody:
    return body_of(read_end(path, _LARGEST), check)
