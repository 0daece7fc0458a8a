"""The copy of a run's log in S3: after the run, best effort, and never beside what was staged."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from riva_stream.cli.loop import run
from riva_stream.cli.signals import Interrupted, SignalWatch
from riva_stream.config import StageRequest
from riva_stream.errors import RivaStreamError
from riva_stream.operations.log_place import LogPlace

__all__ = ["upload_log"]

_SECONDS = 15.0
_TYPES = {".log": "text/plain; charset=utf-8", ".gz": "application/gzip"}


def upload_log(
    request: StageRequest | None, target: LogPlace, run_id: str, files: list[Path], watch: SignalWatch
) -> str:
    """Put the files below the target, in 15 seconds at most.

    Args:
        request: how to reach the store, and what must not be written to; None when it never came to that.
        target: where to.
        run_id: of the run.
        files: the log, and the diagnostics if there are any.
        watch: a signal stops it.

    Returns:
        Why it could not be done, or "".
    """
    keys = {path: target.key(run_id, path.name) for path in files}
    if request is None:
        return "the settings that say how to reach S3 are not right"
    if refusal := target.refusal(request):
        return refusal

    from riva_stream.operations.deliver import Parcel, deliver, log_store  # noqa: PLC0415 - the AWS libraries

    parcels = [Parcel(path, key, _TYPES[path.suffix]) for path, key in keys.items()]
    work = partial(deliver, log_store(request), target.bucket, parcels, run_id=run_id, seconds=_SECONDS)
    try:
        run(work, watch=watch, on_signal=lambda _: None)
    except Interrupted as error:  # now, or the run before; then its own reason counts
        return str(error.__cause__ or "it was interrupted")
    except (RivaStreamError, OSError) as error:
        return str(error)
    return ""
