"""``check`` at the destination, all of it at the same time, and what could not be cleaned up afterwards."""

from __future__ import annotations

from functools import partial

import anyio

from riva_stream.operations.check_destination import DestinationCheck
from riva_stream.operations.check_report import warned
from riva_stream.operations.check_source import container_record
from riva_stream.operations.check_uploads import UploadsCheck
from riva_stream.operations.examiner import Examiner
from riva_stream.operations.scratch import scratch_folder
from riva_stream.s3 import Store

__all__ = ["check_writing"]


async def check_writing(examiner: Examiner, store: Store) -> None:
    """Try everything that a run does there. What is made is removed again, also when this is cancelled."""
    request = examiner.request
    folder = scratch_folder(request)
    objects, uploads = DestinationCheck(examiner, store, folder), UploadsCheck(examiner, store, folder)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(objects.try_object)
            tasks.start_soon(objects.try_listing)
            if request.server_path is not None and request.server_bucket == request.bucket:
                container = partial(container_record, examiner, store)
                tasks.start_soon(examiner.examine, "container", container)
            if request.mode == "full":
                tasks.start_soon(uploads.try_upload)
                tasks.start_soon(uploads.try_listing)
    finally:
        left = [*await objects.tidy(), *await uploads.tidy()]
    if left:
        _left_behind(examiner, left)


def _left_behind(examiner: Examiner, left: list[str]) -> None:
    """Say what could not be removed."""
    record = examiner.records.get("delete")
    details = {} if record is None else record.details
    only_versions = all(text.startswith("old versions") for text in left)
    if record is not None and only_versions and record.status == "pass":
        examiner.records["delete"] = record.model_copy(
            update={
                "message": f"{record.message} (left: {', '.join(left)})",
                "details": details | {"left": left},
            }
        )
        return
    examiner.records["delete"] = warned(
        "delete",
        f"this check could not remove: {', '.join(left)}",
        fix=f"riva-stream gc {examiner.request.destination} --older-than 1h, or remove it by hand",
        left=left,
    )
