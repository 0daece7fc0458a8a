"""Delete what old runs left on the local disk, so that neither ``runs/`` nor the logs grow indefinitely.

Only files that this tool writes are deleted, from folders that it has named; a folder that holds anything else stays,
with its content. No link is followed. A run of the last day is always kept, and so is one that is still running.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Collection
from pathlib import Path

from riva_stream.deployment import SAVED

__all__ = ["BUNDLE", "EVENTS", "remove_old_runs"]

EVENTS = "events.jsonl"
BUNDLE = "diagnostics.tar.gz"
"""What the command line adds to the folder of a run."""

_RUN_ID = re.compile(r"130-\d{8}-\d{6}-[0-9a-f]{8}(-\d+)?")
"""As generated here: they sort by time. A run with an id chosen by the caller is the caller's to delete."""
_WRITTEN = {*SAVED, EVENTS, BUNDLE, "request.json"}
_PARTIAL = re.compile(r"\.(.+)\.\d+(?:-[0-9a-f]{8})?\.partial")
_QUIET = 86400.0
"""Seconds. Anything written to since then may belong to a live run, on this host or another."""
_MOST = 100
"""Maximum number of runs deleted at a time: a run must not end late because of thousands before it."""


def remove_old_runs(state: Path, logs: Path, *, keep: int, kept_ids: Collection[str]) -> int:
    """Delete the folders and the logs of all but the newest runs; return how many. Blocks.

    Args:
        state: the state directory.
        logs: where the logs of its runs are.
        keep: number of runs to keep, the newest by their ids.
        kept_ids: ids of runs to keep whatever their age.

    Raises:
        OSError: something could not be deleted; everything else was.
    """
    removed = 0
    problem: OSError | None = None
    runs = state / "runs"
    if not _is_folder(runs):
        return 0
    named = sorted(path for path in runs.iterdir() if _RUN_ID.fullmatch(path.name))
    for folder in named[: max(0, len(named) - keep)]:
        if removed == _MOST:
            break
        if folder.name in kept_ids or not _is_folder(folder):
            continue
        try:
            removed += _remove(folder, logs / f"{folder.name}.log" if _is_folder(logs) else None)
        except OSError as error:
            problem = problem or OSError(error.errno, f"{error.strerror}: {error.filename}", str(folder))
    if problem is not None:
        raise problem
    return removed


def _remove(folder: Path, log: Path | None) -> bool:
    """Delete one run; return whether it is gone."""
    found = list(folder.iterdir())
    written = [path for path in found if _is_written(path.name) and _written_at(path) is not None]
    if found and not written:
        return False  # everything left belongs to others
    times = [folder.stat().st_mtime, *map(_written_at, written), _written_at(log) if log else None]
    if any(written_at is not None and written_at > time.time() - _QUIET for written_at in times):
        return False
    if folder / EVENTS in written and _is_held(folder / EVENTS):
        return False
    if log is not None and _written_at(log) is not None:
        log.unlink(missing_ok=True)  # before the folder, without which it would never be found again
    for path in written:
        path.unlink(missing_ok=True)  # another run may be cleaning up, too
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT}:
            raise
    return True


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_written(name: str) -> bool:
    """Whether this tool writes files of this name in the folder of a run."""
    partial = _PARTIAL.fullmatch(name)
    return (partial[1] if partial else name) in _WRITTEN


def _written_at(path: Path) -> float | None:
    """When a plain file was last written to; None for anything else, and for a missing file."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_mtime if stat.S_ISREG(found.st_mode) else None


def _is_held(events: Path) -> bool:
    """Whether the events of a run are still being written; see :class:`~riva_stream.cli.logs.LogFile`."""
    try:
        with os.fdopen(
            os.open(events, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "wb"
        ) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # other errors: it is gone, or locking is unsupported; the age limit must do
        return isinstance(error, BlockingIOError)
    return False
