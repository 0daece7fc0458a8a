"""``check`` at the destination: multipart uploads. By reference there are none.

A scratch upload is created below the same prefix as the scratch object, under the same rules: the permission to abort
is tried before one is created, and the clean-up has its own time limit.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from riva_stream.errors import AccessDeniedError, RivaStreamError
from riva_stream.layout import OWN_FOLDER
from riva_stream.preflight.check_runner import CheckRunner
from riva_stream.preflight.report import (
    CheckRecord,
    failed,
    failed_with,
    not_tried,
    nothing_written,
    other_bytes,
    passed,
    warned,
)
from riva_stream.preflight.scratch import (
    BODY,
    ScratchObject,
    Unremoved,
    may_list_parts,
    may_put,
)
from riva_stream.s3 import CompletedPart, LeftUpload, PartBody, WritableBucket
from riva_stream.s3.probe import probe_uploads, try_aborting
from riva_stream.s3.scratch import ScratchUpload, scratch_upload

__all__ = ["UploadsCheck"]

_NOT_RESUMED = "an interrupted run cannot be resumed; the next run will fail here"


class UploadsCheck:
    """Tries uploads. ``tidy`` must be called at the end, whatever happened."""

    def __init__(self, runner: CheckRunner, bucket: WritableBucket, folder: str) -> None:
        self._runner = runner
        self._left: list[LeftUpload] = []
        self._bucket = replace(bucket, left=self._left.append)
        self._folder = folder
        self._key = folder + "upload"
        self._completed = ScratchObject(bucket, self._key, limit=runner.limit)

    async def try_upload(self, *, removable: bool) -> None:
        """Try a scratch upload: create it, send and list one part, complete and remove it, or abort it; then the probe.

        Args:
            removable: whether an object can be removed; otherwise nothing is completed.
        """
        runner, listed = self._runner, list[CheckRecord]()
        found = await runner.run("destination", partial(self._uploads, listed, removable=removable))
        for record in listed:
            runner.add(record)
        if found.status != "fail":
            await runner.run("checksums", self._verifies)
            return
        if found.details["exit_code"] == AccessDeniedError.exit_code and not listed:
            await runner.run("list-parts", self._may_list_parts, degraded=_NOT_RESUMED)
        # What is created can perhaps not be aborted.
        runner.skip("destination", "list-parts", "checksums")

    async def tidy(self) -> list[Unremoved]:
        """Remove what was completed; return what could not be removed or aborted."""
        return [*await self._completed.tidy(), *(Unremoved(str(upload)) for upload in self._left)]

    async def _uploads(self, listed: list[CheckRecord], *, removable: bool) -> CheckRecord:
        bucket, key = self._bucket, self._key
        try:
            await try_aborting(bucket, key)
        except AccessDeniedError as error:
            return await self._not_abortable(error)
        # A bucket with Object Lock takes no part without a checksum, and a run sends none only if told so.
        unchecked = self._runner.request.upload_check == "none"
        body = PartBody((BODY,), len(BODY)) if unchecked else PartBody.with_md5(BODY)
        async with scratch_upload(bucket, key, limit=self._runner.limit) as upload:
            etag = await bucket.upload_part(upload.key, upload.upload_id, 1, body)
            listed.append(await self._lists_parts(upload))
            if removable:
                self._completed.appeared()
                stored = await upload.complete(CompletedPart(1, etag, len(BODY)))
                self._completed.appeared(stored.version_id)
            else:
                await upload.abort()
        destination = self._runner.request.destination
        if not removable:
            return passed(
                "destination",
                f"{destination} can be written, in parts; none was completed, since it could not be removed",
                bucket=bucket.name,
                completed=False,
            )
        info = await self._completed.read_back()
        if info is None:
            return other_bytes("destination", "a completed upload is read back with other bytes")
        if stored.etag and stored.etag != info.etag:
            return failed(
                "destination",
                f"the store answers a completed upload with the ETag {stored.etag}, and a HEAD of it with {info.etag}: "
                "no run can tell whether an object is its own",
                code="etag-differs",
                exit_code=65,
                fix="stage to another store",
            )
        return passed(
            "destination", f"{destination} can be written, in parts", bucket=bucket.name, completed=True
        )

    async def _not_abortable(self, error: AccessDeniedError) -> CheckRecord:
        """The record when nothing can be aborted; creating is tried too, to report all missing permissions at once."""
        request = self._runner.request
        try:
            await may_put(self._bucket, self._key)
        except AccessDeniedError as first:
            return nothing_written("destination", [first, error], request)
        return failed_with("destination", error, request)

    async def _lists_parts(self, upload: ScratchUpload) -> CheckRecord:
        try:
            parts = await self._bucket.list_parts(upload.key, upload.upload_id)
        except RivaStreamError as error:
            return failed_with("list-parts", error, self._runner.request, degraded=_NOT_RESUMED)
        if parts is None or [part.size for part in parts] != [len(BODY)]:
            return warned(
                "list-parts", "the store does not list the part that it just accepted", code="unlisted"
            )
        return passed("list-parts", "the parts of an upload can be listed")

    async def _may_list_parts(self) -> CheckRecord:
        """Check the right to list parts, where there is no scratch upload."""
        if await may_list_parts(self._bucket, self._key):
            return passed("list-parts", "the parts of an upload may be listed")
        return not_tried("list-parts", "destination")

    async def lists(self) -> CheckRecord:
        """List the open uploads below the prefix."""
        prefix = self._runner.request.prefix
        found = await self._bucket.list_uploads(prefix)
        theirs = [upload for upload in found if not upload.key.startswith(prefix + OWN_FOLDER)]
        return passed(
            "list-uploads",
            f"open uploads can be listed; {len(theirs)} below the prefix now",
            uploads=len(theirs),
        )

    async def _verifies(self) -> CheckRecord:
        wanted = self._runner.request.upload_check
        probed = await probe_uploads(self._bucket, self._folder + "probe", wanted)
        check, self._runner.store.check = probed.check, probed.check
        self._runner.store.most_parts = probed.most_parts
        facts: dict[str, Any] = {"asked_for": wanted, "used": check, "most_parts": probed.most_parts}
        if check == "none":
            return warned(
                "checksums",
                "nothing verifies the parts on their way"
                + ("" if wanted == "none" else ": the store verifies no checksum and returns no MD5"),
                code="unverified",
                fix="leave --upload-check at auto" if wanted == "none" else "",
                **facts,
            )
        if check == "etag":
            return warned(
                "checksums",
                "the store verifies none; the MD5 that it answers with is compared here",
                code="compared-here",
                **facts,
            )
        known = " (documented by AWS, not tried)" if self._bucket.is_aws and wanted == "auto" else ""
        return passed("checksums", f"parts are verified by {check.upper()}{known}", **facts)
