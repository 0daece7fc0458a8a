"""``check`` at the destination, all of it at the same time, and what could not be cleaned up afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import anyio

from riva_stream.preflight.destination import DestinationCheck
from riva_stream.preflight.examiner import Examiner
from riva_stream.preflight.report import warned
from riva_stream.preflight.scratch import Left, scratch_folder
from riva_stream.preflight.source import container_record
from riva_stream.preflight.store import store_record
from riva_stream.preflight.uploads import UploadsCheck
from riva_stream.s3 import Store, WritableBucket

__all__ = ["check_writing"]


async def check_writing(examiner: Examiner, store: Store) -> None:
    """Try everything that a run does there. What is made is removed again, also when this is cancelled."""
    request = examiner.request
    folder = scratch_folder(request)
    bucket = WritableBucket(store, request.bucket, examiner.retrier)
    objects, uploads = DestinationCheck(examiner, bucket, folder), UploadsCheck(examiner, bucket, folder)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(objects.try_listing)
            if request.server_path is not None and request.server_bucket == request.bucket:
                container = partial(container_record, examiner, store)
                tasks.start_soon(examiner.examine, "container", container)
            if request.mode == "full":
                tasks.start_soon(uploads.try_listing)
            removable = await objects.try_removing()
            tasks.start_soon(partial(objects.try_object, removable=removable))
            if request.mode == "full":
                tasks.start_soon(partial(uploads.try_upload, removable=removable))
    finally:
        left = [*await objects.tidy(), *await uploads.tidy()]
    examiner.keep(store_record(examiner.store))
    if left:
        _left_behind(examiner, left)


def _left_behind(examiner: Examiner, left: Sequence[Left]) -> None:
    """Say what could not be removed."""
    record, names = examiner.records.get("delete"), [str(item) for item in left]
    details = {} if record is None else record.details
    if record is not None and record.status == "pass" and all(item.only_versions for item in left):
        examiner.records["delete"] = record.model_copy(
            update={
                "message": f"{record.message} (left: {', '.join(names)})",
                "details": details | {"left": names},
            }
        )
        return
    examiner.records["delete"] = warned(
        "delete",
        f"this check could not remove: {', '.join(names)}",
        code="left-behind",
        fix=f"riva-stream gc {examiner.request.destination} --older-than 1h, or remove it by hand",
        left=names,
    )
