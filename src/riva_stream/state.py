"""Run ids, and a run's files in the state directory. Nothing of the archive is ever written here."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC
from pathlib import Path

import aiofiles
import aiofiles.os

from riva_stream import clock
from riva_stream.errors import unwritable_state

__all__ = ["clear_state", "new_run_id", "write_state"]


def new_run_id() -> str:
    """``130-YYYYMMDD-HHMMSS-xxxxxxxx``, in UTC: sorts by time, and names the step as the pipeline does."""
    return f"130-{clock.now().astimezone(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"


async def write_state(root: Path | None, run_id: str, name: str, data: bytes) -> None:
    """Write ``<state>/runs/<run id>/<name>`` atomically: readers see the old one or the new one, never half of it.

    Without a directory nothing is written at all.

    Raises:
        ConfigurationError: the state directory cannot be written.
    """
    if root is None:
        return
    path = root / "runs" / run_id / name
    partial = path.with_name(f".{name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        await aiofiles.os.makedirs(path.parent, exist_ok=True)
        async with aiofiles.open(partial, "wb") as file:
            await file.write(data)
        await aiofiles.os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            await aiofiles.os.remove(partial)
        raise unwritable_state(root, error) from error


async def clear_state(root: Path | None, run_id: str, names: Iterable[str]) -> None:
    """Remove these files of an earlier run with the same id from ``<state>/runs/<run id>/``.

    Raises:
        ConfigurationError: the state directory cannot be written.
    """
    if root is None:
        return
    try:
        for name in names:
            with suppress(FileNotFoundError):
                await aiofiles.os.remove(root / "runs" / run_id / name)
    except OSError as error:
        raise unwritable_state(root, error) from error
