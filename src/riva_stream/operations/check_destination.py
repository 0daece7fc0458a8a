"""``check`` at the destination: everything that a run does to objects there is done once, and undone.

What it tries with lies under ``.riva-stream/check-.../`` below the prefix, where readers and other runs ignore it. The
right to remove is tried before anything is made, so that nothing is made that would have to stay; what can then not be
tried in earnest is asked for on what is not there. The clean-up is shielded from cancellation and has a time limit of
its own.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial

import anyio

from riva_stream.errors import AccessDeniedError, HeldError
from riva_stream.operations.asking import may_put, may_read, tells_missing
from riva_stream.operations.check_report import (
    CheckRecord,
    failed,
    failed_with,
    not_tried,
    nothing_written,
    passed,
    warned,
)
from riva_stream.operations.examiner import Examiner
from riva_stream.operations.scratch import BODY, CLEANUP_SECONDS, ScratchObject
from riva_stream.s3 import Store

__all__ = ["DestinationCheck"]

_WRONG_ETAG = "0" * 32
_FORCED = "a forced staging, or an upgrade of one by reference, cannot remove what it replaces"
_KEPT = "the journal of a run stays beside its staging"
_UNSURE = "or it only looks so, since without s3:ListBucket a missing key is answered like a forbidden one"
_NOT_REMOVABLE = "what it would write could not be removed"


class DestinationCheck:
    """Tries the destination. ``tidy`` must be called at the end, whatever happened."""

    def __init__(self, examiner: Examiner, store: Store, folder: str) -> None:
        self._examiner = examiner
        self._store = store
        self._bucket = examiner.request.bucket
        self._folder = folder
        self._object = ScratchObject(
            store, examiner.retrier, self._bucket, folder + "object", limit=examiner.limit
        )

    async def try_object(self) -> None:
        """A scratch object: removed, put on conditions, looked at, removed."""
        examiner = self._examiner
        deletable = await examiner.examine("delete", self._deletes, degraded=f"{_KEPT}; {_FORCED}")
        if deletable.status != "pass":
            # A run that was asked to replace something ends at its first DELETE.
            if examiner.request.force and "policy" in deletable.details:
                examiner.records["delete"] = deletable.model_copy(
                    update={"status": "fail", "details": deletable.details | {"exit_code": 77}}
                )
            examiner.skip(_NOT_REMOVABLE, "conditional-writes")
            if examiner.request.mode != "full":
                await examiner.examine("destination", self._may_be_written)
            await examiner.examine("head", self._may_be_read)
            return
        record = await examiner.examine("conditional-writes", self._writes_on_condition)
        if examiner.request.mode != "full":
            examiner.keep(
                record.model_copy(update={"component": "destination"})
                if record.status == "fail"
                else passed("destination", f"{examiner.request.destination} can be written")
            )
        if record.status == "fail" and "policy" in record.details:
            # That is about writing at all, and "destination" says it.
            reason = "nothing may be written"
            examiner.records["conditional-writes"] = not_tried("conditional-writes", reason)
        if record.status != "fail" and self._object.is_there:
            await examiner.examine("head", self._looks)
        elif record.details.get("exit_code") == AccessDeniedError.exit_code:
            await examiner.examine("head", self._may_be_read)
        else:
            examiner.skip("nothing could be written", "head")

    async def try_listing(self) -> None:
        """The keys below the prefix."""
        less = "what older runs left there stays unseen, and a missing key looks like a forbidden one"
        await self._examiner.examine("list", self._lists, degraded=less)

    async def tidy(self) -> list[str]:
        """Remove whatever is left of the above; gives what could not be removed."""
        with anyio.move_on_after(CLEANUP_SECONDS, shield=True):
            return await self._object.remove()
        return [f"perhaps s3://{self._bucket}/{self._object.key}"]

    async def _deletes(self) -> CheckRecord:
        await self._object.try_removing()
        return passed("delete", "objects can be removed")

    async def _writes_on_condition(self) -> CheckRecord:
        with suppress(
            HeldError
        ):  # the first of two attempts was executed and its answer lost: that says it, too
            await self._object.put(if_absent=True)
        kept = []
        for condition, if_absent, if_match in (
            ("If-None-Match", True, None),
            ("If-Match", False, _WRONG_ETAG),
        ):
            try:
                await self._object.put(if_absent=if_absent, if_match=if_match)
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
        retrier, key = self._examiner.retrier, self._object.key
        info = await retrier("HeadObject", partial(self._store.head, self._bucket, key))
        read = await retrier("GetObject", partial(self._store.get, self._bucket, key, limit=1 << 16))
        if info is None or read is None or read.data != BODY or info.size != len(BODY):
            return failed(
                "head",
                "what was just written is not what is read back",
                exit_code=65,
                fix="check the endpoint and what stands in front of it: a cache?",
            )
        return passed("head", "what is written can be read back", encryption=info.encryption)

    async def _may_be_written(self) -> CheckRecord:
        """In place of writing, where nothing could be removed."""
        destination = self._examiner.request.destination
        try:
            is_told = await may_put(self._store, self._examiner.retrier, self._bucket, self._folder + "none")
        except AccessDeniedError as error:
            return nothing_written("destination", [error], self._examiner.request)
        if not is_told:
            return not_tried("destination", _NOT_REMOVABLE)
        return passed("destination", f"{destination} may be written; it was not, since {_NOT_REMOVABLE}")

    async def _may_be_read(self) -> CheckRecord:
        """In place of reading back, where nothing was written."""
        request, place = self._examiner.request, (self._store, self._examiner.retrier, self._bucket)
        key = self._folder + "none"
        try:
            await may_read(*place, key)
        except AccessDeniedError as error:
            unsure = "" if error.action or await tells_missing(*place, key) else _UNSURE
            return failed_with("head", error, request, degraded=unsure)
        return passed("head", "what lies there may be read; nothing was written to be read back")

    async def _lists(self) -> CheckRecord:
        prefix = self._examiner.request.prefix
        page = await self._examiner.retrier(
            "ListObjectsV2", partial(self._store.list_objects, self._bucket, prefix)
        )
        # The scratch object of this very check may be among them.
        keys = [entry.key for entry in page.objects if not entry.key.startswith(self._folder)]
        count = f"{len(keys)}{'+' if page.truncated else ''}"
        return passed("list", f"keys can be listed; {count} below the prefix now", keys=len(keys))
