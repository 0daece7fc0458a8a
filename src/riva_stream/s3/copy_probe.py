"""Find out how far a store's copies can be trusted, by having it copy into scratch uploads.

A copy with a wrong If-Match has to be refused, and one with the right ETag accepted: otherwise nothing pins what is
copied. A checksum returned for a copy has to be right, and a wrong one of the whole has to be refused at Complete:
otherwise it may be anything. On AWS all of this is documented (Amazon S3 API Reference, "UploadPartCopy"; Amazon S3
User Guide, "Checking object integrity"), and not probed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import anyio

from riva_stream.errors import RivaStreamError, SourceChangedError
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
        refused = told and await _refuses_wrong_checksum(upload, right, len(data))
        return CopyAbility(crc64nvme=bool(declare and refused), md5=md5)


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


async def _refuses_wrong_checksum(upload: ScratchUpload, part: CopiedPart, size: int) -> bool:
    """Whether a Complete with a checksum other than that of the object is refused."""
    complete = partial(
        upload.bucket.once.complete_upload,
        upload.key,
        upload.upload_id,
        [CompletedPart(1, part.etag, size, part.crc64nvme)],
        crc64nvme=base64_crc(crc64nvme_of((b"none of these bytes",))),
    )

    async def ask() -> bool:
        try:
            await complete()
        except RivaStreamError as error:
            if is_refusal(error):
                return True
            raise
        return False

    refused = False
    try:
        refused = await upload.bucket.retrier("CompleteMultipartUpload", ask)
    finally:
        if not refused:  # it was accepted, or may have been
            with anyio.move_on_after(CLEANUP_SECONDS, shield=True):
                await upload.bucket.delete(upload.key)
    return refused
