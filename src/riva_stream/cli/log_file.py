"""A file that lines are appended to, by a thread that may be held up by it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["LogFile"]


class LogFile:
    """Takes text for as long as the disk does.

    Args:
        path: its folder is made when it is not there; a file that is there already is appended to.
        failed: is told, once, why nothing more is written.
    """

    def __init__(self, path: Path, failed: Callable[[str], None]) -> None:
        self.path = path
        self._failed = failed
        self._descriptor: int | None = None

    def open(self) -> bool:
        """Whether there is such a file now."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Not for everybody: it tells of buckets and hosts. Each write goes to the end, whoever else has it open.
            self._descriptor = os.open(
                self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640
            )
        except OSError as error:
            self._give_up(error)
            return False
        # It tells that the run is at it still, for as long as the process lives, and is in nobody's way.
        with contextlib.suppress(OSError):
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True

    def write(self, text: str) -> None:
        """Append; what cannot be written is lost, and said to be once."""
        if self._descriptor is None:
            return
        view = memoryview(text.encode(errors="backslashreplace"))
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            self.close()
            self._give_up(error)

    def close(self) -> None:
        """Write no more."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _give_up(self, error: OSError) -> None:
        self._failed(f"{self.path} cannot be written: {error.strerror or error}")
