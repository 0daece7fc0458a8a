"""A credential helper (``credential_process``) that does not outlive the wait for it."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio

__all__ = ["Helper", "start_helper"]


class Helper:
    """A running helper, as the SDK uses one: ``communicate()``, then ``returncode``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def returncode(self) -> int | None:
        """As for any process."""
        return self._process.returncode

    async def communicate(self) -> tuple[bytes, bytes]:
        """Wait for its end; if cancelled, kill it with all its descendants."""
        try:
            return await self._process.communicate()
        except BaseException:
            for pid in _with_children(self._process.pid):
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            # Its pipes may be held by a process that has left the family.
            self._process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 - there is no other way
            with anyio.move_on_after(1.0, shield=True):
                await self._process.wait()
            raise


async def start_helper(*argv: str, **options: Any) -> Helper:
    """Replace ``asyncio.create_subprocess_exec`` in the SDK."""
    return Helper(await asyncio.create_subprocess_exec(*argv, **options))


def _with_children(pid: int) -> list[int]:
    """A process and its descendants, parents first.

    It has no process group of its own: a helper that asks for a code at the terminal could not read it then.
    """
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
            parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    family = [pid]
    for parent in family:
        family += parents.get(parent, [])
    return family
