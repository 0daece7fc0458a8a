"""Find out what a store verifies, by sending it something wrong.

An echoed header proves nothing: some stores take every checksum header, keep it or drop it, and check none. So a
part with a wrong checksum goes to a scratch upload that is then aborted; what the store refuses, it checks.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Literal, Protocol

import anyio

from riva_stream.errors import AccessDeniedError, ConfigurationError, RivaStreamError
from riva_stream.s3.port import PartBody, Reader, Writer

__all__ = ["enforced_check"]

EnforcedCheck = Literal["crc64nvme", "sha256", "md5", "etag", "none"]


class Attempt(Protocol):
    """A retrier: tries one request again when the transport fails."""

    async def __call__(self, operation: str, attempt_once: Callable[[], Awaitable[Any]]) -> Any:
        """Await ``attempt_once()``, again if need be."""


MISSING_UPLOAD = "none"
"""An UploadId that no store has given."""
_BYTES = b"riva_stream probes whether this store verifies what it is sent\n"
_CLEANUP_SECONDS = 10.0

# In the order of preference: CRC64NVME costs a tenth of SHA-256, which costs half of MD5 on CPUs that have SHA
# instructions (docs/performance.md).
_WRONG: dict[EnforcedCheck, PartBody] = {
    "crc64nvme": PartBody((_BYTES,), len(_BYTES), crc64nvme=base64.b64encode(bytes(8)).decode()),
    "sha256": PartBody((_BYTES,), len(_BYTES), sha256="0" * 64),
    "md5": PartBody((_BYTES,), len(_BYTES), md5=base64.b64encode(bytes(16)).decode()),
}


async def enforced_check(
    reader: Reader, store: Writer, bucket: str, key: str, wanted: str, attempt: Attempt
) -> EnforcedCheck:
    """The checksum that parts shall go with.

    Args:
        reader: the store that the parts will go to.
        store: the same, for the scratch upload.
        bucket: its bucket.
        key: key of the scratch upload; nothing ever becomes visible there.
        wanted: ``auto``, or the one that the user asked for.
        attempt: tries one request again when the transport fails.

    Raises:
        ConfigurationError: the store does not verify the one that was asked for.
        RivaStreamError: the scratch upload cannot be made, which the real one could not either.
    """
    if wanted == "none":
        return "none"
    if wanted == "auto" and reader.is_aws:
        return "crc64nvme"  # documented by AWS, and enforced there
    await try_aborting(store, bucket, key, attempt)
    tried = {name: body for name, body in _WRONG.items() if wanted in {"auto", name}}
    if "crc64nvme" in tried:
        # Declared when the upload is created; some stores then take no other checksum, and some refuse to declare.
        with suppress(ConfigurationError):
            if await _tried(store, bucket, key, {"crc64nvme": tried["crc64nvme"]}, attempt, declare=True):
                return "crc64nvme"
        del tried["crc64nvme"]
    if tried and (found := await _tried(store, bucket, key, tried, attempt, declare=False)):
        return found
    if wanted == "auto":
        return await _tells_md5(store, bucket, key, attempt)
    raise ConfigurationError(
        f"the store does not verify {wanted}: it took a part with a wrong one",
        hint="use --upload-check auto, which takes what the store does verify",
    )


async def try_aborting(store: Writer, bucket: str, key: str, attempt: Attempt) -> None:
    """Make sure that what is created at a key could be aborted, by aborting an upload that is missing.

    S3 looks at the right first, so nothing has to be made to find out that it would stay.

    Raises:
        AccessDeniedError: it could not.
    """
    try:
        await attempt("AbortMultipartUpload", partial(store.abort_upload, bucket, key, MISSING_UPLOAD))
    except AccessDeniedError:
        raise
    except RivaStreamError:
        return  # stores find different words for what is not there


async def _tried(
    store: Writer,
    bucket: str,
    key: str,
    tried: Mapping[EnforcedCheck, PartBody],
    attempt: Attempt,
    *,
    declare: bool,
) -> EnforcedCheck | None:
    """The first of ``tried`` that the store refuses."""
    async with _scratch(store, bucket, key, attempt, declare=declare) as upload_id:
        for name, body in tried.items():
            if await attempt("UploadPart", partial(_refuses, store, bucket, key, upload_id, body)):
                return name
    return None


async def _tells_md5(store: Writer, bucket: str, key: str, attempt: Attempt) -> EnforcedCheck:
    """``etag`` when the store answers with the MD5 of what it got, so that we can compare; else ``none``."""
    body = PartBody((_BYTES,), len(_BYTES))
    async with _scratch(store, bucket, key, attempt, declare=False) as upload_id:
        etag = await attempt("UploadPart", partial(store.upload_part, bucket, key, upload_id, 1, body))
    return "etag" if etag == hashlib.md5(_BYTES, usedforsecurity=False).hexdigest() else "none"


@asynccontextmanager
async def _scratch(
    store: Writer, bucket: str, key: str, attempt: Attempt, *, declare: bool
) -> AsyncIterator[str]:
    create = partial(
        store.create_upload,
        bucket,
        key,
        content_type="application/octet-stream",
        metadata={},
        crc64nvme=declare,
    )
    upload_id = await attempt("CreateMultipartUpload", create)
    try:
        yield upload_id
    finally:
        with anyio.move_on_after(_CLEANUP_SECONDS, shield=True), suppress(RivaStreamError):
            await attempt("AbortMultipartUpload", partial(store.abort_upload, bucket, key, upload_id))


async def _refuses(store: Writer, bucket: str, key: str, upload_id: str, body: PartBody) -> bool:
    try:
        await store.upload_part(bucket, key, upload_id, 1, body)
    except RivaStreamError as error:
        # Only a word about the checksum is a verdict about the checksum.
        if any(word in error.where.code for word in ("Digest", "Checksum", "SHA256Mismatch")):
            return True
        raise
    return False
