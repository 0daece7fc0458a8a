"""Remove what old runs have left on the local disk, so that neither ``runs/`` nor the logs grow without end.

Only files that this tool writes go, out of folders that it has named; a folder in which anybody else has put something
stays, with that. No link is followed. A run of the last day stays in any case, and so does one that is still at it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from riva_stream.deployment import DOCUMENTS

__all__ = ["BUNDLE", "EVENTS", "remove_old_runs"]

EVENTS = "events.jsonl"
BUNDLE = "diagnostics.tar.gz"
"""What the command line adds to the folder of a run."""

_RUN_ID = re.compile(r"130-\d{8}-\d{6}-[0-9a-f]{8}")
"""As they are made up here: they sort by time. One that a caller has chosen is the caller's to remove."""
_WRITTEN = {*DOCUMENTS, EVENTS, BUNDLE, "request.json", "plan.json", "journal.json", "report.json"}
_PARTIAL = re.compile(r"\.(.+)\.\d+\.partial")
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
    with _folder(state / "runs") as runs, _folder(logs) as beside:
        if runs is None:
            return 0
        named = sorted(name for name in _names(runs) if _RUN_ID.fullmatch(name))
        for name in named[: max(0, len(named) - keep)]:
            if removed == _MOST:
                break
            if name in spared:
                continue
            try:
                removed += _remove(name, runs, beside)
            except OSError as error:
                where = str(state / "runs" / name)
                problem = problem or OSError(error.errno, f"{error.strerror}: {error.filename}", where)
    if problem is not None:
        raise problem
    return removed


def _remove(name: str, runs: int, logs: int | None) -> bool:
    """Whether the run ``name`` has gone."""
    before = time.time() - _QUIET
    log = f"{name}.log"
    with _folder(name, runs) as folder:
        if folder is None:
            return False
        found = _names(folder)
        written = [file for file in found if _is_written(file) and _age(file, folder) is not None]
        if found and not written:
            return False  # all that is left is somebody else's
        times = [_age(file, folder) for file in written] + [os.fstat(folder).st_mtime]
        times += [None if logs is None else _age(log, logs)]
        if any(written_at is not None and written_at > before for written_at in times):
            return False
        if EVENTS in written and _is_held(folder):
            return False
        if logs is not None and _age(log, logs) is not None:
            _unlink(log, logs)  # before the folder, without which nobody would come back for it
        for file in written:
            _unlink(file, folder)
    try:
        os.rmdir(name, dir_fd=runs)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT}:
            raise
    return True


def _names(folder: int) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def _is_written(name: str) -> bool:
    """Whether this tool writes files of this name in the folder of a run."""
    partial = _PARTIAL.fullmatch(name)
    return (partial[1] if partial else name) in _WRITTEN


def _age(name: str, folder: int) -> float | None:
    """When a plain file was written to last; None for anything else, and for what is not there."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return found.st_mtime if stat.S_ISREG(found.st_mode) else None


def _is_held(folder: int) -> bool:
    """Whether the events of a run are still being written; see :class:`~riva_stream.cli.log_file.LogFile`."""
    try:
        file = os.open(EVENTS, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # where files cannot be locked, the last day has to do
        return False
    finally:
        os.close(file)
    return False


def _unlink(name: str, folder: int) -> None:
    with contextlib.suppress(FileNotFoundError):  # another run is clearing away, too
        os.unlink(name, dir_fd=folder)


@contextlib.contextmanager
def _folder(path: Path | str, above: int | None = None) -> Iterator[int | None]:
    """A folder by a descriptor, so that nobody puts a link in its place meanwhile; None where there is none."""
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
            raise
        yield None
        return
    try:
        yield folder
    finally:
        os.close(folder)
