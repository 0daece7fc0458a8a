"""Remove what old runs have left on the local disk, so that neither ``runs/`` nor the logs grow without end.

Only files that this tool writes go, out of folders that it has named; a folder in which anybody else has put something
stays, with that. No link is followed. A run of the last day stays in any case, and so does one that is still running.
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

from riva_stream.deployment import DOCUMENTS

__all__ = ["BUNDLE", "EVENTS", "remove_old_runs"]

EVENTS = "events.jsonl"
BUNDLE = "diagnostics.tar.gz"
"""What the command line adds to the folder of a run."""

_RUN_ID = re.compile(r"130-\d{8}-\d{6}-[0-9a-f]{8}(-\d+)?")
"""As they are generated here: they sort by time. One that a caller has chosen is the caller's to remove."""
_WRITTEN = {*DOCUMENTS, EVENTS, BUNDLE, "request.json", "plan.json", "journal.json", "report.json"}
_PARTIAL = re.compile(r"\.(.+)\.\d+(?:-[0-9a-f]{8})?\.partial")
_QUIET = 86400.0
"""Seconds. Whatever was written to since may be of a live run, on this host or another."""
_MOST = 100
"""Runs that are removed at a time: a run must not end late because of the thousands before it."""


def remove_old_runs(state: Path, logs: Path, *, keep: int, spared: Collection[str]) -> int:
    """Remove the folders and the logs of all but the newest runs; give how many. Blocks.

    Args:
        state: the state directory.
        logs: where the logs of its runs are.
        keep: runs that stay, the newest by their ids.
        spared: ids of runs that stay whatever their age.

    Raises:
        OSError: something could not be removed; everything else was.
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
        if folder.name in spared or not _is_folder(folder):
            continue
        try:
            removed += _remove(folder, logs / f"{folder.name}.log" if _is_folder(logs) else None)
        except OSError as error:
            problem = problem or OSError(error.errno, f"{error.strerror}: {error.filename}", str(folder))
    if problem is not None:
        raise problem
    return removed


def _remove(folder: Path, log: Path | None) -> bool:
    """Whether the run has gone."""
    found = list(folder.iterdir())
    written = [path for path in found if _is_written(path.name) and _written_at(path) is not None]
    if found and not written:
        return False  # all that is left is somebody else's
    times = [folder.stat().st_mtime, *map(_written_at, written), _written_at(log) if log else None]
    if any(written_at is not None and written_at > time.time() - _QUIET for written_at in times):
        return False
    if folder / EVENTS in written and _is_held(folder / EVENTS):
        return False
    if log is not None and _written_at(log) is not None:
        log.unlink(missing_ok=True)  # before the folder, without which nobody would come back for it
    for path in written:
        path.unlink(missing_ok=True)  # another run may be clearing away, too
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
    """When a plain file was written to last; None for anything else, and for what is not there."""
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
    except OSError as error:  # otherwise it has gone; or files cannot be locked there: the last day has to do
        return isinstance(error, BlockingIOError)
    return False
