"""``check`` at the destination: multipart uploads. By reference there are none.

A scratch upload is made below the same prefix as the scratch object, and the same rules are kept: the right to abort
is tried before one is made, and the clean-up has a time limit of its own.
"""

from __future__ import annotations

from functools import partial

import anyio

from riva_stream.errors import AccessDeniedError, ConfigurationError, RivaStreamError
from riva_stream.layout import OWN_FOLDER
from riva_stream.operations.asking import may_list_parts, may_put
from riva_stream.operations.check_report import (
    CheckRecord,
    failed_with,
    not_tried,
    nothing_written,
    passed,
    warned,
)
from riva_stream.operations.examiner import Examiner
from riva_stream.operations.scratch import BODY, CLEANUP_SECONDS, unbroken
from riva_stream.s3 import OpenUpload, PartBody, Store
from riva_stream.s3.probe import enforced_check, try_aborting

__all__ = ["UploadsCheck"]

_UNLISTED = "less keeps two runs apart, and what dead runs left open stays until a lifecycle rule aborts it"
_NOT_RESUMED = "a run that stopped half-way cannot be gone on with: the next one ends there"


class UploadsCheck:
    """Tries uploads. ``tidy`` must be called at the end, whatever happened."""

    def __init__(self, examiner: Examiner, store: Store, folder: str) -> None:
        self._examiner = examiner
        self._store = store
        self._bucket = examiner.request.bucket
        self._folder = folder
        self._key = folder + "upload"
        self._unsure: set[str] = set()
        """Keys of uploads that may be open though we do not know their ids: the answer never came."""
        self._opened: list[OpenUpload] = []

    async def try_upload(self) -> None:
        """A scratch upload: created, one part sent, listed, aborted; then those that find out about checksums."""
        examiner, listed = self._examiner, list[CheckRecord]()
        found = await examiner.examine("destination", partial(self._uploads, listed))
        for record in listed:
            examiner.keep(record)
        if found.status != "fail":
            await examiner.examine("checksums", self._verifies)
            return
        if found.details["exit_code"] == AccessDeniedError.exit_code and not listed:
            await examiner.examine("list-parts", self._may_list_parts, degraded=_NOT_RESUMED)
        examiner.skip(
            "destination failed", "list-parts", "checksums"
        )  # perhaps what is created cannot be aborted

    async def try_listing(self) -> None:
        """The open uploads below the prefix."""
        await self._examiner.examine("list-uploads", self._lists_uploads, degraded=_UNLISTED)

    async def tidy(self) -> list[str]:
        """Abort whatever is left of the above; gives what could not be aborted."""
        retrier, store, bucket = self._examiner.retrier, self._store, self._bucket
        left: list[str] = []
        with anyio.move_on_after(CLEANUP_SECONDS, shield=True):
            for upload in self._opened:
                try:
                    abort = partial(store.abort_upload, bucket, upload.key, upload.upload_id)
                    await retrier("AbortMultipartUpload", abort)
                except RivaStreamError:
                    left.append(f"an open upload of s3://{bucket}/{upload.key}")
            if self._unsure:
                try:
                    await self._sweep()
                except RivaStreamError:
                    left.append(f"perhaps an open upload below s3://{bucket}/{self._folder}")
            return left
        return [*left, f"perhaps an open upload below s3://{bucket}/{self._folder}"]

    async def _sweep(self) -> None:
        find = partial(self._store.list_uploads, self._bucket, self._folder)
        for upload in await self._examiner.retrier("ListMultipartUploads", find):
            abort = partial(self._store.abort_upload, self._bucket, upload.key, upload.upload_id)
            await self._examiner.retrier("AbortMultipartUpload", abort)

    def _settled(self, key: str) -> None:
        """Every upload that was created there is known; unless an attempt had to be made again."""
        if not self._examiner.retrier.spent:
            self._unsure.discard(key)

    async def _uploads(self, listed: list[CheckRecord]) -> CheckRecord:
        store, bucket, key, retrier = self._store, self._bucket, self._key, self._examiner.retrier
        try:
            await try_aborting(store, bucket, key, retrier)
        except AccessDeniedError as error:
            return await self._not_abortable(error)
        create = partial(
            store.create_upload, bucket, key, content_type="text/plain", metadata={}, crc64nvme=False
        )
        self._unsure.add(key)
        try:
            with unbroken(self._examiner.limit):
                upload_id = await retrier("CreateMultipartUpload", create)
        except (AccessDeniedError, ConfigurationError):
            self._settled(key)
            raise
        self._opened.append(OpenUpload(key, upload_id))
        self._settled(key)
        send = partial(store.upload_part, bucket, key, upload_id, 1, PartBody((BODY,), len(BODY)))
        await retrier("UploadPart", send)
        listed.append(await self._lists_parts(key, upload_id))
        await retrier("AbortMultipartUpload", partial(store.abort_upload, bucket, key, upload_id))
        self._opened.clear()
        return passed(
            "destination", f"{self._examiner.request.destination} can be written, in parts", bucket=bucket
        )

    async def _not_abortable(self, error: AccessDeniedError) -> CheckRecord:
        """None is made then. Whether it could be is asked all the same: all that is missing is to be said at once."""
        request = self._examiner.request
        try:
            await may_put(self._store, self._examiner.retrier, self._bucket, self._key)
        except AccessDeniedError as first:
            return nothing_written("destination", [first, error], request)
        return failed_with("destination", error, request)

    async def _lists_parts(self, key: str, upload_id: str) -> CheckRecord:
        request = self._examiner.request
        try:
            parts = await self._examiner.retrier(
                "ListParts", partial(self._store.list_parts, self._bucket, key, upload_id)
            )
        except RivaStreamError as error:
            return failed_with("list-parts", error, request, degraded=_NOT_RESUMED)
        if parts is None or [part.size for part in parts] != [len(BODY)]:
            return warned("list-parts", "the store does not list the part that it just took")
        return passed("list-parts", "the parts of an upload can be listed")

    async def _may_list_parts(self) -> CheckRecord:
        """In place of listing those of a scratch upload, which there is none of."""
        if await may_list_parts(self._store, self._examiner.retrier, self._bucket, self._key):
            return passed("list-parts", "the parts of an upload may be listed")
        return not_tried("list-parts", "destination failed")

    async def _lists_uploads(self) -> CheckRecord:
        prefix = self._examiner.request.prefix
        found = await self._examiner.retrier(
            "ListMultipartUploads", partial(self._store.list_uploads, self._bucket, prefix)
        )
        theirs = [upload for upload in found if not upload.key.startswith(prefix + OWN_FOLDER)]
        return passed(
            "list-uploads",
            f"open uploads can be listed; {len(theirs)} below the prefix now",
            uploads=len(theirs),
        )

    async def _verifies(self) -> CheckRecord:
        wanted = self._examiner.request.upload_check
        key = self._folder + "probe"
        self._unsure.add(key)
        try:
            with unbroken(self._examiner.limit):
                check = await enforced_check(
                    self._store, self._store, self._bucket, key, wanted, self._examiner.retrier
                )
        except (AccessDeniedError, ConfigurationError):
            self._settled(key)
            raise
        self._settled(key)
        facts = {"asked_for": wanted, "used": check}
        if check == "none":
            return warned(
                "checksums",
                "nothing verifies the parts on their way"
                + ("" if wanted == "none" else ": the store checks none, and tells no MD5"),
                fix="leave --upload-check at auto" if wanted == "none" else "",
                **facts,
            )
        if check == "etag":
            return warned(
                "checksums", "the store verifies none; the MD5 that it answers with is compared here", **facts
            )
        known = " (documented by AWS, not tried)" if self._store.is_aws and wanted == "auto" else ""
        return passed("checksums", f"parts are verified by {check.upper()}{known}", **facts)
