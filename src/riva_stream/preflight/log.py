"""``check`` for the copy of the log: can an object be put there? A run can do without, so it only warns."""

from __future__ import annotations

import secrets

from riva_stream.errors import AccessDeniedError, ConfigurationError
from riva_stream.log_place import LogPlace
from riva_stream.preflight.check_runner import CheckRunner
from riva_stream.preflight.report import CheckRecord, as_warning, nothing_written, passed, warned, with_left
from riva_stream.preflight.scratch import ScratchObject, may_put
from riva_stream.s3 import Store, WritableBucket

__all__ = ["check_log"]

_LESS = "the log would stay on this host alone"
_FIX = "check --log-to-s3 (LOG_S3_BUCKET, LOG_S3_PREFIX)"


async def check_log(runner: CheckRunner, store: Store, place: LogPlace) -> None:
    """Put an object there and remove it again.

    Where it could not be removed none is put: the right is tried on a missing upload instead. Credentials that may
    only add logs are a good set-up.
    """
    if refusal := place.refusal(runner.request):
        runner.add(warned("log", f"{refusal}: {_LESS}", fix=f"{_FIX} for a place beside it"))
        return
    key = place.key(f"check-{secrets.token_hex(6)}", "object")
    bucket = WritableBucket(store, place.bucket, runner.retrier)
    scratch = ScratchObject(bucket, key, limit=runner.limit)

    async def record() -> CheckRecord:
        try:
            return await _record(bucket, place, scratch)
        except AccessDeniedError as error:
            return nothing_written("log", [error], runner.request, place)
        except ConfigurationError as error:
            error.hint = "; ".join(filter(None, (_FIX, error.hint)))
            raise

    try:
        await runner.run("log", record)
    finally:
        left = await scratch.tidy()
    found = as_warning(runner.records["log"], _LESS)
    if left:
        # Removing versions takes a separate permission, which no run needs: leftover versions are not worth a warning.
        status = found.status if all(item.only_versions for item in left) else "warn"
        found = with_left(found, [item.what for item in left]).model_copy(update={"status": status})
    runner.records["log"] = found


async def _record(bucket: WritableBucket, place: LogPlace, scratch: ScratchObject) -> CheckRecord:
    try:
        await scratch.try_removing()
    except AccessDeniedError:
        if await may_put(bucket, scratch.key):
            return passed("log", f"a copy may be put below {place}; none was, since it could not be removed")
        return warned(
            "log", f"whether a copy may be put below {place} was not tried: it could not be removed"
        )
    await scratch.put()
    return passed("log", f"a copy can be put below {place}")
