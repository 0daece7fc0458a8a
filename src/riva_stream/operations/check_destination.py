"""``check`` at the destination: everything that a run does there is done once, and undone.

What it tries with lies under ``.riva-stream/check-.../`` below the prefix, where readers and other runs ignore it. The
right to remove is tried before anything is made, so that nothing is made that would have to stay. The clean-up is
shielded from cancellation and has a time limit of its own.
"""

from __future__ import annotations

import secrets
from contextlib import AbstractContextManager, suppress
from functools import partial

import anyio

from riva_stream.errors import AccessDeniedError, ConfigurationError, HeldError, RivaStreamError
from riva_stream.operations.check_report import CheckRecord, failed, failed_with, not_tried, passed, warned
from riva_stream.operations.examiner import Examiner
from riva_stream.s3 import OpenUpload, PartBody, Store
from riva_stream.s3.probe import enforced_check

__all__ = ["DestinationCheck"]

_BODY = b"riva_stream check: this is removed again\n"
_WRONG_ETAG = "0" * 32
_CLEANUP_SECONDS = 5.0
_STATE = ".riva-stream/"
_FORCED = "a forced staging, or an upgrade of one by reference, cannot remove what it replaces"
_KEPT = "the journal of a run stays beside its staging"


class DestinationCheck:
    """Tries the destination. ``tidy`` must be called at the end, whatever happened."""

    def __init__(self, examiner: Examiner, store: Store) -> None:
        self._examiner = examiner
        self._store = store
        self._bucket = examiner.request.bucket
        self._folder = f"{examiner.request.prefix}{_STATE}check-{secrets.token_hex(6)}/"
        self._key = self._folder + "object"
        self._unsure: set[str] = set()
        """Keys of uploads that may be open though we do not know their ids: the answer never came."""
        self._opened: list[OpenUpload] = []
        self._written = False
        self._versions: list[str] = []
        """What a bucket with versions keeps of the scratch object, oldest first."""

    async def try_object(self) -> None:
        """A scratch object: removed, put on conditions, looked at, removed."""
        deletable = await self._examiner.examine("delete", self._deletes, degraded=f"{_KEPT}; {_FORCED}")
        if deletable.status != "pass":
            # A run that was asked to replace something ends at its first DELETE.
            if self._examiner.request.force and "policy" in deletable.details:
                self._examiner.records["delete"] = deletable.model_copy(
                    update={"status": "fail", "details": deletable.details | {"exit_code": 77}}
                )
            reason = "what it would write could not be removed"
            self._examiner.skip(reason, "conditional-writes", "head")
            if self._examiner.request.mode != "full":
                self._examiner.skip(reason, "destination")
            return
        record = await self._examiner.examine("conditional-writes", self._writes_on_condition)
        if self._examiner.request.mode != "full":
            self._examiner.keep(
                record.model_copy(update={"component": "destination"})
                if record.status == "fail"
                else passed("destination", f"{self._examiner.request.destination} can be written")
            )
        if record.status == "fail" and "policy" in record.details:
            # That is about writing at all, and "destination" says it.
            reason = "nothing may be written"
            self._examiner.records["conditional-writes"] = not_tried("conditional-writes", reason)
        if record.status == "fail" or not self._written:
            self._examiner.skip("nothing could be written", "head")
        else:
            await self._examiner.examine("head", self._looks)

    async def try_upload(self) -> None:
        """A scratch upload: created, one part sent, listed, aborted; then those that find out about checksums."""
        listed: list[CheckRecord] = []
        found = await self._examiner.examine("destination", partial(self._uploads, listed))
        for record in listed:
            self._examiner.keep(record)
        if found.status == "fail":  # perhaps what is created cannot be aborted
            self._examiner.skip("destination failed", "list-parts", "checksums")
        else:
            await self._examiner.examine("checksums", self._verifies)

    async def try_listing(self) -> None:
        """The keys below the prefix."""
        less = "what older runs left there stays unseen, and a missing key looks like a forbidden one"
        await self._examiner.examine("list", self._lists, degraded=less)

    async def try_listing_uploads(self) -> None:
        """The open uploads below the prefix."""
        less = (
            "less keeps two runs apart, and what dead runs left open stays until a lifecycle rule aborts it"
        )
        await self._examiner.examine("list-uploads", self._lists_uploads, degraded=less)

    async def tidy(self) -> list[str]:
        """Remove whatever is left of the above; gives what could not be removed."""
        retrier, store, bucket = self._examiner.retrier, self._store, self._bucket
        left: list[str] = []
        with anyio.move_on_after(_CLEANUP_SECONDS, shield=True):
            left += await self._remove_object()
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
        return [*left, f"perhaps something below s3://{bucket}/{self._folder}"]

    async def _remove_object(self) -> list[str]:
        retrier, delete = self._examiner.retrier, partial(self._store.delete, self._bucket, self._key)
        try:
            if self._written:
                self._keep_version(await retrier("DeleteObject", delete))
                self._written = False
            for version in reversed(self._versions):
                await retrier("DeleteObject", partial(delete, version_id=version))
        except AccessDeniedError:
            # Removing a version is a right of its own, which no run needs.
            return [f"old versions of s3://{self._bucket}/{self._key}, of {len(_BODY)} bytes each"]
        except RivaStreamError:
            return [f"s3://{self._bucket}/{self._key}"]
        return []

    async def _sweep(self) -> None:
        find = partial(self._store.list_uploads, self._bucket, self._folder)
        for upload in await self._examiner.retrier("ListMultipartUploads", find):
            abort = partial(self._store.abort_upload, self._bucket, upload.key, upload.upload_id)
            await self._examiner.retrier("AbortMultipartUpload", abort)

    def _keep_version(self, version: str | None) -> None:
        if version is not None:
            self._versions.append(version)

    def _unbroken(self) -> AbstractContextManager[object]:
        """What makes something is waited for even when cancelled: it might take effect after the clean-up otherwise."""
        return anyio.fail_after(self._examiner.limit, shield=True)

    def _settled(self, key: str) -> None:
        """Every upload that was created there is known; unless an attempt had to be made again."""
        if not self._examiner.retrier.spent:
            self._unsure.discard(key)

    # ---- the scratch object

    async def _deletes(self) -> CheckRecord:
        """Deleting what is not there does no harm and takes the same right."""
        delete = partial(self._store.delete, self._bucket, self._key)
        self._keep_version(await self._examiner.retrier("DeleteObject", delete))
        return passed("delete", "objects can be removed")

    async def _put(self, *, if_absent: bool = False, if_match: str | None = None) -> None:
        self._written = True  # also when the answer does not come
        with self._unbroken():
            stored = await self._store.put(
                self._bucket,
                self._key,
                PartBody((_BODY,), len(_BODY)),
                content_type="text/plain",
                metadata={},
                if_absent=if_absent,
                if_match=if_match,
            )
        self._keep_version(stored.version_id)

    async def _writes_on_condition(self) -> CheckRecord:
        retrier = self._examiner.retrier
        try:
            await retrier("PutObject", partial(self._put, if_absent=True))
        except HeldError:
            pass  # the first of two attempts was executed and its answer lost: that, too, says that it works
        except (AccessDeniedError, ConfigurationError):
            self._written = False
            raise
        kept = []
        for condition, arguments in (
            ("If-None-Match", {"if_absent": True}),
            ("If-Match", {"if_match": _WRONG_ETAG}),
        ):
            try:
                await retrier("PutObject", partial(self._put, **arguments))
            except HeldError:
                kept.append(condition)
        if len(kept) == 2:  # noqa: PLR2004 - both
            return passed("conditional-writes", "If-None-Match and If-Match are honoured", honoured=kept)
        return warned(
            "conditional-writes",
            "the store takes the headers and ignores them"
            if not kept
            else f"of If-None-Match and If-Match it honours {kept[0]} only",
            fix='nothing needs to be done; what remains between two runs: docs/semantics.md, "Where writes are not '
            'conditional"',
            honoured=kept,
        )

    async def _looks(self) -> CheckRecord:
        info = await self._examiner.retrier("HeadObject", partial(self._store.head, self._bucket, self._key))
        data = await self._examiner.retrier(
            "GetObject", partial(self._store.get, self._bucket, self._key, limit=1 << 16)
        )
        if info is None or data != _BODY or info.size != len(_BODY):
            return failed(
                "head",
                "what was just written is not what is read back",
                exit_code=65,
                fix="check the endpoint and what stands in front of it: a cache?",
            )
        return passed("head", "what is written can be read back", encryption=info.encryption)

    # ---- the scratch upload

    async def _uploads(self, listed: list[CheckRecord]) -> CheckRecord:
        store, bucket, key, retrier = (
            self._store,
            self._bucket,
            self._folder + "upload",
            self._examiner.retrier,
        )
        # Aborting an upload that does not exist takes the same right. Stores find different words for the rest.
        with suppress(ConfigurationError):
            await retrier("AbortMultipartUpload", partial(store.abort_upload, bucket, key, "none"))
        create = partial(
            store.create_upload, bucket, key, content_type="text/plain", metadata={}, crc64nvme=False
        )
        self._unsure.add(key)
        try:
            with self._unbroken():
                upload_id = await retrier("CreateMultipartUpload", create)
        except (AccessDeniedError, ConfigurationError):
            self._settled(key)
            raise
        self._opened.append(OpenUpload(key, upload_id))
        self._settled(key)
        send = partial(store.upload_part, bucket, key, upload_id, 1, PartBody((_BODY,), len(_BODY)))
        await retrier("UploadPart", send)
        listed.append(await self._lists_parts(key, upload_id))
        await retrier("AbortMultipartUpload", partial(store.abort_upload, bucket, key, upload_id))
        self._opened.clear()
        return passed(
            "destination", f"{self._examiner.request.destination} can be written, in parts", bucket=bucket
        )

    async def _lists_parts(self, key: str, upload_id: str) -> CheckRecord:
        request = self._examiner.request
        try:
            parts = await self._examiner.retrier(
                "ListParts", partial(self._store.list_parts, self._bucket, key, upload_id)
            )
        except AccessDeniedError as error:
            less = "a run that stopped half-way cannot be gone on with: the next one ends there"
            return failed_with("list-parts", error, request, degraded=less)
        except RivaStreamError as error:
            return failed_with("list-parts", error, request)
        if parts is None or [part.size for part in parts] != [len(_BODY)]:
            return warned("list-parts", "the store does not list the part that it just took")
        return passed("list-parts", "the parts of an upload can be listed")

    # ---- listings and checksums

    async def _lists(self) -> CheckRecord:
        prefix = self._examiner.request.prefix
        page = await self._examiner.retrier(
            "ListObjectsV2", partial(self._store.list_objects, self._bucket, prefix)
        )
        # The scratch object of this very check may be among them.
        keys = [entry.key for entry in page.objects if not entry.key.startswith(self._folder)]
        count = f"{len(keys)}{'+' if page.truncated else ''}"
        return passed("list", f"keys can be listed; {count} below the prefix now", keys=len(keys))

    async def _lists_uploads(self) -> CheckRecord:
        prefix = self._examiner.request.prefix
        found = await self._examiner.retrier(
            "ListMultipartUploads", partial(self._store.list_uploads, self._bucket, prefix)
        )
        theirs = [upload for upload in found if not upload.key.startswith(prefix + _STATE)]
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
            with self._unbroken():
                check = await enforced_check(self._store, self._bucket, key, wanted, self._examiner.retrier)
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
