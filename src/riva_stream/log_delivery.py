"""Upload a run's log and related small files to a bucket. Best effort, and given up soon."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from riva_stream import clock
from riva_stream.config import Request
from riva_stream.errors import StalledError
from riva_stream.retry import Retrier, RetryPolicy
from riva_stream.s3 import PartBody, StoreSettings, WritableBucket, WriteOptions, open_store
from riva_stream.s3.scratch import discard_message
from riva_stream.sink import body_of

__all__ = ["LogUpload", "deliver", "log_store"]

_RETRIES = 2
_READ_SECONDS = 15.0
_LARGEST = 64 << 20
"""Bytes of a file that are sent; of a longer file the end, since a log ends with the outcome."""


@dataclass(frozen=True, slots=True)
class LogUpload:
    """One file and where it goes."""

    path: Path
    key: str
    content_type: str


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
    settings: StoreSettings,
    bucket: str,
    uploads: Sequence[LogUpload],
    *,
    run_id: str,
    seconds: float,
) -> None:
    """Upload all files, one after the other.

    Args:
        settings: the store.
        bucket: its bucket.
        uploads: the files.
        run_id: of the run that they are about; stored in the objects' metadata.
        seconds: time limit for all of them.

    Raises:
        RivaStreamError: the store refuses it.
        StalledError: it took too long.
        OSError: a file cannot be read.
    """
    try:
        with anyio.fail_after(seconds):
            async with open_store(settings, warn=discard_message) as store:
                there = WritableBucket(store, bucket, Retrier(RetryPolicy(retries=_RETRIES)))
                for upload in uploads:
                    body = await clock.in_thread(_body, upload.path, "crc64nvme" if store.is_aws else "md5")
                    await there.put(
                        upload.key,
                        body,
                        content_type=upload.content_type,
                        metadata={"artifact-type": "log", "run-id": run_id},
                    )
    except TimeoutError as error:
        raise StalledError(f"it took longer than {seconds:.0f} s") from error


def _body(path: Path, check: str) -> PartBody:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LARGEST))
        return body_of(file.read(_LARGEST), check)
