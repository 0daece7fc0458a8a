"""Find out how far a store's copies can be trusted, by having it copy into scratch uploads.

A copy with a wrong If-Match has to be refused, and one with the right ETag accepted: otherwise nothing pins what is
copied. A checksum returned for a copy has to be right, and of the whole a wrong one has to be refused at Complete, the
right one accepted: otherwise it may be anything. On AWS all of this is documented (Amazon S3 API Reference,
"UploadPartCopy"; Amazon S3 User Guide, "Checking object integrity"), and not probed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import anyio

from riva_stream.errors import RivaStreamError, SourceChangedError, TransientError
from riva_stream.flow.digest import base64_crc, crc64nvme_of, md5_of
from riva_stream.s3.bucket import WritableBucket
from riva_stream.s3.port import CompletedPart, CopiedPart, CopySource
from riva_stream.s3.probe import is_refusal, try_aborting
from riva_stream.s3.scratch import CLEANUP_SECONDS, ScratchUpload, scratch_upload

__all__ = ["CopyAbility", "probe_copies"]

_OTHER_ETAG = "0" * 32
_CONDITION_FAILED = 412


@dataclass(frozen=True, slots=True)
class CopyAbility:
    """How far copied parts can be trusted."""

    reason: str = ""
    """Why nothing may be copied; empty if it may."""
    crc64nvme: bool = False
    """Whether the CRC64NVME returned for a part is right, and a wrong one of the whole is refused."""
    md5: bool = False
    """Whether the ETag of a part is its MD5."""


async def probe_copies(
    bucket: WritableBucket,
    key: str,
    source: CopySource,
    data: bytes | None,
    *,
    declare: bool,
) -> CopyAbility:
    """Have a part copied to a scratch upload, and check the answers.

    Args:
        bucket: where the scratch uploads are created.
        key: of the scratch uploads. If a wrong checksum is accepted an object becomes visible there, and is deleted.
        source: what is copied; a few bytes suffice.
        data: the bytes there; None: checksums are not checked.
        declare: declare CRC64NVME when an upload is created.

    Raises:
        SourceChangedError: the source is gone.
        RivaStreamError: the store cannot be asked, or no upload can be created.
    """
    await try_aborting(bucket, key)
    async with scratch_upload(bucket, key, declare=declare) as upload:
        for _ in range(2):  # a single refusal may have another reason
            wrong = await _copy(upload, replace(source, etag=_OTHER_ETAG))
            if not isinstance(wrong, RivaStreamError):
                return CopyAbility("the store ignores the ETag condition on copies")
        right = await _copy(upload, source)
        if isinstance(right, RivaStreamError):
            if isinstance(right, SourceChangedError) and right.where.status != _CONDITION_FAILED:
                raise right
            return CopyAbility(f"the store does not copy the source: {right.what}")
        if data is None:
            return CopyAbility()
        md5 = md5_of((data,)).hex() == right.etag
        told = right.crc64nvme == base64_crc(crc64nvme_of((data,)))
        checked = told and await _checks_whole(upload, right, len(data))
        return CopyAbility(crc64nvme=bool(declare and checked), md5=md5)


async def _copy(upload: ScratchUpload, source: CopySource) -> CopiedPart | RivaStreamError:
    """Make one copy as part 1; return it, or the error with which it was refused.

    Raises:
        RivaStreamError: the store could not be asked.
    """

    async def ask() -> CopiedPart | RivaStreamError:
        try:
            return await upload.bucket.once.copy_part(upload.key, upload.upload_id, 1, source)
        except RivaStreamError as error:
            if is_refusal(error) or error.where.code == "NotImplemented":
                return error
            raise

    return await upload.bucket.retrier("UploadPartCopy", ask)


async def _checks_whole(upload: ScratchUpload, copied: CopiedPart, size: int) -> bool:
    """Whether a Complete with a checksum other than that of the object is refused, and one with the right one accepted."""
    part = CompletedPart(1, copied.etag, size, copied.crc64nvme)
    complete = partial(upload.bucket.once.complete_upload, upload.key, upload.upload_id, [part])

    async def refuses(crc64nvme: str) -> bool:
        try:
            await complete(crc64nvme=crc64nvme)
        except RivaStreamError as error:
            if is_refusal(error):
                return True
            raise
        return False

    left = True
    try:
        wrong = partial(refuses, base64_crc(crc64nvme_of((b"none of these bytes",))))
        for _ in range(2):  # a single refusal may have another reason
            if not await upload.bucket.retrier("CompleteMultipartUpload", wrong):
                return False
        # Otherwise any checksum may be refused, and no copy could ever be completed.
        try:
            await upload.complete(part, crc64nvme=copied.crc64nvme)
        except TransientError:
            raise
        except RivaStreamError:
            left = False
            return False
        return True
    finally:
        if left:  # it was completed, or may have been
            with anyio.move_on_after(CLEANUP_SECONDS, shield=True):
                await upload.bucket.delete(upload.key)
