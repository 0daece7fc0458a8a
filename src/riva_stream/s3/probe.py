"""Find out what a store verifies, by sending it wrong checksums, and how many parts an upload may have.

An echoed header proves nothing: some stores accept every checksum header, keep it or drop it, and check none. So a part
with a wrong checksum goes to a scratch upload that is then aborted; if it is refused, the store checks. Stores use
various codes for that (``BadDigest``, ``InvalidArgument``, for a wrong payload hash even ``SignatureDoesNotMatch`` or
``AccessDenied``): with other codes, the same part with the right checksum has to be accepted, and the wrong one refused
once more. If the right one is refused too, the store does not support this checksum, and the next is tried.

A part may have a number from 1 to 10,000 on AWS; elsewhere the last number is tried, and if it is refused, the largest
accepted one is searched for: 1,000 on OpenStack Swift by default.
"""

from __future__ import annotations

import base64
import hashlib
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from riva_stream.errors import (
    EXPIRED,
    AccessDeniedError,
    ConfigurationError,
    HeldError,
    RivaStreamError,
    ThrottledError,
)
from riva_stream.flow.digest import md5_of
from riva_stream.naming import option
from riva_stream.s3.bucket import WritableBucket
from riva_stream.s3.port import PartBody
from riva_stream.s3.scratch import ScratchUpload, scratch_upload
from riva_stream.sizes import MOST_PARTS

__all__ = ["Probed", "is_refusal", "probe_uploads", "try_aborting"]

EnforcedCheck = Literal["crc64nvme", "sha256", "md5", "etag", "none"]


@dataclass(frozen=True, slots=True)
class Probed:
    """The result of the probe."""

    check: EnforcedCheck
    """The checksum with which parts are to be sent."""
    most_parts: int = MOST_PARTS
    """Parts that an upload may have."""


MISSING_UPLOAD = "none"
"""An UploadId that no store has issued."""
_BYTES = b"riva_stream probes whether this store verifies what it is sent\n"
_VERDICT = ("Digest", "Checksum", "SHA256Mismatch")
"""Parts of codes that refer to the checksum."""
_NOT_ABOUT_IT = {"RequestTimeout", "RequestTimeTooSkewed", "OperationAborted", "IncompleteBody", "408"}
_CLIENT_ERRORS = range(400, 500)
_LACKING = frozenset({"MethodNotAllowed", "NotImplemented", "UnsupportedOperation", "XNotImplemented"})
_LACKING_STATUS = frozenset({405, 501})
"""Codes and statuses by which a store says that it does not support a request."""
_LIKELY_LIMIT = 1_000
"""The most likely limit on parts other than 10,000: OpenStack Swift's ``max_upload_part_num``."""

# In order of preference: CRC64NVME costs a tenth of SHA-256, which costs half of MD5 on CPUs that have SHA instructions
# (docs/performance.md).
_WRONG: dict[EnforcedCheck, PartBody] = {
    "crc64nvme": PartBody((_BYTES,), len(_BYTES), crc64nvme=base64.b64encode(bytes(8)).decode()),
    "sha256": PartBody((_BYTES,), len(_BYTES), sha256="0" * 64),
    "md5": PartBody((_BYTES,), len(_BYTES), md5=base64.b64encode(bytes(16)).decode()),
}


_RIGHT: dict[EnforcedCheck, PartBody] = {
    "crc64nvme": PartBody((_BYTES,), len(_BYTES), crc64nvme="yM1+UoKlBIY="),
    "sha256": PartBody((_BYTES,), len(_BYTES), sha256=hashlib.sha256(_BYTES).hexdigest()),
    "md5": PartBody.with_md5(_BYTES),
}


async def probe_uploads(bucket: WritableBucket, key: str, wanted: str) -> Probed:
    """The checksum with which parts are to be sent, and how many there may be.

    Args:
        bucket: where the parts, and the scratch uploads, will be sent.
        key: of the scratch uploads; nothing ever becomes visible there.
        wanted: ``auto``, or the one that the user requested.

    Raises:
        ConfigurationError: the store does not verify the one that was requested.
        RivaStreamError: the scratch upload cannot be created, so the real one could not be either.
    """
    if bucket.is_aws and wanted in {"auto", "none"}:
        return Probed("crc64nvme" if wanted == "auto" else "none")  # documented by AWS, and enforced there
    await try_aborting(bucket, key)
    probe = _Probe(bucket, key)
    if wanted == "none":
        return replace(await probe.without_checks(), check="none")
    tried = [name for name in _WRONG if wanted in {"auto", name}]
    if "crc64nvme" in tried:
        # Declared when the upload is created; some stores then accept no other checksum, and some refuse to declare. If
        # the refusal has another reason, what follows is refused too.
        with suppress(AccessDeniedError, ConfigurationError):
            if found := await probe.first_enforced(["crc64nvme"], declare=True):
                return found
        tried.remove("crc64nvme")
    if tried and (found := await probe.first_enforced(tried, declare=False)):
        return found
    told = await probe.without_checks()  # raises the error if a part without any checksum is refused
    if wanted == "auto":
        return told
    raise ConfigurationError(
        f"the store does not verify {wanted}: it accepted a part with a wrong one, or accepts none with it",
        hint=f"use {option('upload_check')} auto, which takes what the store does verify",
    )


async def try_aborting(bucket: WritableBucket, key: str) -> None:
    """Make sure that an upload created at a key could be aborted, by aborting one that does not exist.

    S3 checks the permission first, so nothing needs to be created to find out that it would stay.

    Raises:
        AccessDeniedError: it could not.
        ConfigurationError: the store does not support the request at all.
    """
    try:
        await bucket.abort_upload(key, MISSING_UPLOAD)
    except AccessDeniedError:
        raise
    except RivaStreamError as error:  # stores use various codes for a missing upload
        if error.where.code in _LACKING or error.where.status in _LACKING_STATUS:
            raise ConfigurationError(
                f"the store cannot abort uploads, so none is created: {error.what}",
                where=error.where,
                hint="stage to another store: see riva-stream docs reliability for what one has to support",
            ) from error


@dataclass(eq=False)
class _Probe:
    bucket: WritableBucket
    key: str

    async def first_enforced(self, names: list[EnforcedCheck], *, declare: bool) -> Probed | None:
        """The first of these that the store verifies."""
        async with scratch_upload(self.bucket, self.key, declare=declare) as upload:
            for name in names:
                if await self._is_enforced(upload, name):
                    return Probed(name, await self._most_parts(upload, _RIGHT[name]))
        return None

    async def without_checks(self) -> Probed:
        """``etag`` if the store answers with the MD5 of what it received, so that we can compare; else ``none``."""
        body = PartBody((_BYTES,), len(_BYTES))
        async with scratch_upload(self.bucket, self.key) as upload:
            etag = await self.bucket.upload_part(upload.key, upload.upload_id, 1, body)
            most = await self._most_parts(upload, body)
        return Probed("etag" if etag == md5_of((_BYTES,)).hex() else "none", most)

    async def _most_parts(self, upload: ScratchUpload, body: PartBody) -> int:
        """The largest number that a part may have: two requests on most stores, 14 at most."""
        if self.bucket.is_aws:
            return MOST_PARTS
        try:
            if await self._refusal(upload, body, MOST_PARTS) is None or await self._refusal(upload, body):
                return MOST_PARTS  # accepted, or refused for another reason than its number
        except HeldError:
            return MOST_PARTS  # some stores drop an upload whose only part was refused (rclone)
        taken, refused = 1, MOST_PARTS
        number = _LIKELY_LIMIT
        while refused - taken > 1:
            if await self._refusal(upload, body, number) is None:
                taken = number
            else:
                refused = number
            # The default limit is confirmed by its neighbour.
            number = (
                number + 1 if taken == _LIKELY_LIMIT and refused == MOST_PARTS else (taken + refused) // 2
            )
        return taken

    async def _is_enforced(self, upload: ScratchUpload, name: EnforcedCheck) -> bool:
        code = await self._refusal(upload, _WRONG[name])
        if code is None or any(word in code for word in _VERDICT):
            return code is not None
        return (
            await self._refusal(upload, _RIGHT[name]) is None
            and await self._refusal(upload, _WRONG[name]) is not None
        )

    async def _refusal(self, upload: ScratchUpload, body: PartBody, number: int = 1) -> str | None:
        """The code with which a part is refused; None: it is accepted."""

        async def ask() -> str | None:
            try:
                await self.bucket.once.upload_part(upload.key, upload.upload_id, number, body)
            except RivaStreamError as error:
                # InvalidPart may refer to the number; for the only part of an upload it means something else.
                if not is_refusal(error) and not (number > 1 and error.where.code == "InvalidPart"):
                    raise
                return error.where.code or str(error.where.status)
            return None

        return await self.bucket.retrier("UploadPart", ask)


def is_refusal(error: RivaStreamError) -> bool:
    """Whether the store examined the part and rejected it; else the request failed, or its upload is gone."""
    where = error.where
    return (
        where.status in _CLIENT_ERRORS
        and not isinstance(error, HeldError | ThrottledError)
        and where.code not in _NOT_ABOUT_IT | EXPIRED
    )
