"""``check`` at the destination: everything that a run does to objects there is done once, and undone.

Its scratch objects are in ``.riva-stream/check-.../`` below the prefix, where readers and other runs ignore them. The
right to delete is tried before anything is created, so that nothing is created that could not be removed; what can then
not be tried for real is requested for a missing object. The clean-up is shielded from cancellation and has its own
time limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import anyio

from riva_stream.errors import AccessDeniedError, ConfigurationError, HeldError, RivaStreamError
from riva_stream.preflight.check_runner import CheckRunner, Condition, store_record
from riva_stream.preflight.report import (
    CheckRecord,
    failed_with,
    not_tried,
    nothing_written,
    other_bytes,
    passed,
    warned,
    with_left,
)
from riva_stream.preflight.scratch import (
    BODY,
    ScratchObject,
    Unremoved,
    may_put,
    may_read,
    scratch_folder,
    tells_missing,
)
from riva_stream.preflight.source import container_record
from riva_stream.preflight.uploads import UploadsCheck
from riva_stream.s3 import REQUEST_EXPIRED, ObjectInfo, Store, Stored, Window, WritableBucket
from riva_stream.source import RANGES_IGNORED, PinnedRanges, PinnedSource, SourceChecksums

__all__ = ["check_writing"]

_WRONG_ETAG = "0" * 32
_UNREMOVED = (
    "the journal of a run stays beside its staging; a forced staging, or an upgrade of one by reference, cannot remove "
    "what it replaces"
)
_UNSEEN = "leftovers of older runs stay unseen, and a missing key looks like a forbidden one"
_UNLISTED = "weaker protection against concurrent runs; uploads of dead runs stay open until a lifecycle rule aborts them"
_UNSURE = "or it only looks so, since without s3:ListBucket a missing key is answered like a forbidden one"
_NOT_REMOVABLE = "what it would write could not be removed"
_NO_SUCH_CONDITION = "NotImplemented"
_SAID: Mapping[Condition, str] = {
    "ignored": "it takes a wrong one",
    "refused": "it does not have it",
    "wrong": "it refuses the right one",
}


class _DestinationCheck:
    """Tries the destination. ``tidy`` must be called at the end, whatever happened."""

    def __init__(self, runner: CheckRunner, bucket: WritableBucket, folder: str) -> None:
        self._runner = runner
        self._bucket = bucket
        self._folder = folder
        self._object = ScratchObject(bucket, folder + "object", limit=runner.limit)

    async def try_removing(self) -> bool:
        """Try whether objects can be deleted, before any is created."""
        runner = self._runner
        deletable = await runner.run("delete", self._deletes, degraded=_UNREMOVED)
        # A run that is to replace something fails at its first DELETE.
        if deletable.status != "pass" and runner.request.force and "policy" in deletable.details:
            runner.records["delete"] = deletable.model_copy(
                update={"status": "fail", "details": deletable.details | {"exit_code": 77}}
            )
        return deletable.status == "pass"

    async def try_object(self, *, removable: bool) -> None:
        """Try a scratch object: put it conditionally, read it back, delete it."""
        runner = self._runner
        if not removable:
            runner.skip("delete", "conditional-writes", reason=_NOT_REMOVABLE)
            if runner.request.mode != "full":
                await runner.run("destination", self._may_be_written)
            await runner.run("head", self._may_be_read)
            return
        record = await runner.run("conditional-writes", self._writes_on_condition)
        if runner.request.mode != "full":
            runner.add(
                record.model_copy(update={"component": "destination"})
                if record.status == "fail"
                else passed("destination", f"{runner.request.destination} can be written")
            )
        if record.status == "fail" and "policy" in record.details:
            # That is about writing at all, and the record "destination" reports it.
            runner.records["conditional-writes"] = not_tried(
                "conditional-writes", "destination", "nothing may be written"
            )
        if record.status != "fail" and self._object.is_there:
            await runner.run("head", self._looks)
        elif record.details.get("exit_code") == AccessDeniedError.exit_code:
            await runner.run("head", self._may_be_read)
        else:
            runner.skip("conditional-writes", "head", reason="the scratch object could not be put")

    async def tidy(self) -> list[Unremoved]:
        """Remove whatever is left of the above; return what could not be removed."""
        return await self._object.tidy()

    async def _deletes(self) -> CheckRecord:
        await self._object.try_removing()
        return passed("delete", "objects can be removed")

    async def _writes_on_condition(self) -> CheckRecord:
        """Try each condition both when it holds and when it does not; a store must be right in both to be relied on."""
        found = self._runner.store.conditions
        found["If-None-Match"], stored = await self._if_none_match()
        found["If-Match"] = await self._if_match(stored)
        facts: dict[str, Any] = {
            "if_none_match": found["If-None-Match"],
            "if_match": found["If-Match"],
            "honoured": [name for name, answer in found.items() if answer == "honoured"],
        }
        wrong = [f"{name}: {_SAID[answer]}" for name, answer in found.items() if answer != "honoured"]
        if not wrong:
            return passed("conditional-writes", "If-None-Match and If-Match are honoured", **facts)
        answers = set(found.values())
        return warned(
            "conditional-writes",
            "the store takes the headers and ignores them" if answers == {"ignored"} else "; ".join(wrong),
            code=answers.pop() if len(answers) == 1 else "mixed",
            fix="nothing needs to be done: a run does without; what remains between two runs: docs/semantics.md, "
            '"Where this is weaker"',
            **facts,
        )

    async def _if_none_match(self) -> tuple[Condition, Stored | None]:
        """How the store treats If-None-Match, and the object that exists afterwards."""
        stored: Stored | None = None
        try:
            stored = await self._object.put(if_absent=True)
        except HeldError:
            # Possibly the first of two attempts succeeded and its response was lost: not wrong. Otherwise it is.
            if await self._bucket.head(self._object.key) is None:
                return "wrong", await self._object.put()
        except ConfigurationError as error:
            if error.where.code != _NO_SUCH_CONDITION:
                raise
            return "refused", await self._object.put()
        try:
            return "ignored", await self._object.put(if_absent=True)
        except HeldError:
            return "honoured", stored

    async def _if_match(self, stored: Stored | None) -> Condition:
        """How the store treats If-Match. ``stored``: the existing object, where known."""
        try:
            await self._object.put(if_match=_WRONG_ETAG)
        except HeldError:
            pass
        except ConfigurationError as error:
            if error.where.code != _NO_SUCH_CONDITION:
                raise
            return "refused"
        else:
            return "ignored"
        etag = stored.etag if stored is not None else ""
        if not etag:
            info = await self._bucket.head(self._object.key)
            etag = info.etag if info is not None else ""
        try:
            await self._object.put(if_match=etag)
        except HeldError:
            return "wrong"
        return "honoured"

    async def _looks(self) -> CheckRecord:
        info = await self._object.read_back()
        if info is None:
            return other_bytes("head", "an object that was just written is read back with other bytes")
        facts = self._runner.store
        facts.expires = await self._expires(info)
        facts.ranges = await self._reads_ranges(info)
        if not facts.ranges:
            return warned(
                "head",
                "objects can be read back, but not in ranges: the store answers with the whole object",
                code=RANGES_IGNORED,
                fix="a source cannot be read from this store, and staged objects not with verify --deep",
                encryption=info.encryption,
            )
        return passed("head", "objects can be read back, also in ranges", encryption=info.encryption)

    async def _reads_ranges(self, info: ObjectInfo) -> bool:
        """Whether a range request gets the right range, as a run requires; tried on bytes at neither end."""
        pinned = PinnedSource(
            self._bucket.name, info.key, info.size, info.etag, info.version_id, None, SourceChecksums()
        )
        ranges = PinnedRanges(self._bucket.store, pinned, self._runner.retrier.observer)
        first, last = 5, 10

        async def read() -> bytes:
            async with ranges.open(first, last, None) as reply:
                return b"".join([piece async for piece in reply.pieces])

        try:
            found = await self._bucket.retrier("GetObject", read)
        except ConfigurationError as error:
            if error.where.code != RANGES_IGNORED:
                raise
            return False
        return found == BODY[first : last + 1]

    async def _expires(self, info: ObjectInfo) -> bool | None:
        """Whether a request is accepted before its signature expires, and refused afterwards."""
        if info.now is None:
            return None
        within, over = Window(info.now, 60), Window(info.now - timedelta(hours=1), 1)
        if not await self._answers(info.key, within):
            return False
        if self._bucket.is_aws:
            return True
        # Twice: a single refusal may have another reason than the time.
        return not await self._answers(info.key, over) and not await self._answers(info.key, over)

    async def _answers(self, key: str, window: Window) -> bool:
        async def ask() -> bool:
            try:
                await self._bucket.once.head(key, window=window)
            except RivaStreamError as error:
                if error.retryable and error.where.code != REQUEST_EXPIRED:
                    raise
                return False
            return True

        return await self._bucket.retrier("HeadObject", ask)

    async def _may_be_written(self) -> CheckRecord:
        """Check the right to write without writing, where nothing could be removed."""
        request = self._runner.request
        try:
            is_told = await may_put(self._bucket, self._folder + "none")
        except AccessDeniedError as error:
            return nothing_written("destination", [error], request)
        if not is_told:
            return not_tried("destination", "delete", _NOT_REMOVABLE)
        return passed(
            "destination", f"{request.destination} may be written; it was not, since {_NOT_REMOVABLE}"
        )

    async def _may_be_read(self) -> CheckRecord:
        """Check the right to read, where nothing was written."""
        request, key = self._runner.request, self._folder + "none"
        try:
            await may_read(self._bucket, key)
        except AccessDeniedError as error:
            unsure = "" if error.action or await tells_missing(self._bucket, key) else _UNSURE
            return failed_with("head", error, request, degraded=unsure)
        return passed("head", "objects can be read (read-back skipped: no object was put)")

    async def lists(self) -> CheckRecord:
        """List the keys below the prefix."""
        page = await self._bucket.list_objects(self._runner.request.prefix)
        # The scratch objects of this very check may be among them.
        keys = [entry.key for entry in page.objects if not entry.key.startswith(self._folder)]
        count = f"{len(keys)}{'+' if page.truncated else ''}"
        return passed("list", f"keys can be listed; {count} below the prefix now", keys=len(keys))


async def check_writing(runner: CheckRunner, store: Store) -> None:
    """Try everything that a run does there. What is created is removed again, even when this is cancelled."""
    request = runner.request
    folder = scratch_folder(request)
    bucket = WritableBucket(store, request.bucket, runner.retrier)
    objects, uploads = _DestinationCheck(runner, bucket, folder), UploadsCheck(runner, bucket, folder)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(runner.run, "list", objects.lists, degraded=_UNSEEN))
            if request.server_path is not None and request.server_bucket == request.bucket:
                tasks.start_soon(runner.run, "container", partial(container_record, runner, store))
            if request.mode == "full":
                tasks.start_soon(partial(runner.run, "list-uploads", uploads.lists, degraded=_UNLISTED))
            removable = await objects.try_removing()
            tasks.start_soon(partial(objects.try_object, removable=removable))
            if request.mode == "full":
                tasks.start_soon(partial(uploads.try_upload, removable=removable))
    finally:
        left = [*await objects.tidy(), *await uploads.tidy()]
    runner.add(store_record(runner.store))
    if left:
        _left_behind(runner, left)


def _left_behind(runner: CheckRunner, left: Sequence[Unremoved]) -> None:
    """Report what could not be removed."""
    record, names = runner.records["delete"], [item.what for item in left]
    if record.status == "pass" and all(item.only_versions for item in left):
        runner.records["delete"] = with_left(record, names)
        return
    runner.records["delete"] = warned(
        "delete",
        f"this check could not remove: {', '.join(names)}",
        code="left-behind",
        fix=f"riva-stream gc {runner.request.destination} --older-than 1h, or remove it by hand",
        left=names,
    )
