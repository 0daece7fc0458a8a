"""Run ids, and what a run leaves in the state directory. Nothing of the archive is ever written here."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from datetime import UTC
from pathlib import Path

import aiofiles
import aiofiles.os

from riva_stream import clock
from riva_stream.errors import ConfigurationError

__all__ = ["StateDirectory", "new_run_id"]


def new_run_id() -> str:
    """``130-YYYYMMDD-HHMMSS-xxxxxxxx``, in UTC: sorts by time, and names the step as the pipeline does."""
    return f"130-{clock.now().astimezone(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"


class StateDirectory:
    """``<state>/runs/<run id>/``. Without a directory nothing is written at all."""

    def __init__(self, root: Path | None, run_id: str) -> None:
        self._folder = None if root is None else root / "runs" / run_id

    async def write(self, name: str, data: bytes) -> Path | None:
        """Write one file atomically: readers see the old one or the new one, never half of it.

        Raises:
            ConfigurationError: the state directory cannot be written.
        """
        if self._folder is None:
            return None
        path = self._folder / name
        partial = path.with_name(f".{name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
        try:
            await aiofiles.os.makedirs(self._folder, exist_ok=True)
            async with aiofiles.open(partial, "wb") as file:
                await file.write(data)
            await aiofiles.os.replace(partial, path)
        except OSError as error:
            with suppress(OSError):
                await aiofiles.os.remove(partial)
            raise ConfigurationError(
                f"the state directory cannot be written: {error}",
                hint="pass --state-dir DIR with a folder you may write to",
            ) from error
        return path
