"""A staging that is made up, for engines: what it does is the model's name. ``python -m tests.catalogue_double COMMAND ...``

``stage`` is made up; ``stage-all`` is the real one, whose children and whose tasks on a cluster are made up.

``description`` is a folder where each attempt leaves its process id, and a run that was stopped leaves a word.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
from pathlib import Path
from types import ModuleType

from riva_stream.config import StageRequest
from riva_stream.errors import AccessDeniedError, ArchiveError, ConfigurationError, TransientError
from riva_stream.events import Observer, StageStarted
from riva_stream.report import StageReport
from tests.cli_double import progress, report

DOUBLE = (sys.executable, "-m", "tests.catalogue_double")
FAILURES = {
    "archive": ArchiveError("the gzip CRC is wrong", hint="upload it again"),
    "denied": AccessDeniedError("not allowed"),
    "settings": ConfigurationError("no such profile"),
    "busy": TransientError("the connection broke"),
    "bug": RuntimeError("kaboom"),
}


def attempts(folder: Path, name: str) -> list[int]:
    """Process ids of the attempts at a staging."""
    path = folder / name
    return [int(line) for line in path.read_text().split()] if path.exists() else []


async def run(request: StageRequest, observer: Observer) -> StageReport:
    name, folder = request.model_name, Path(request.description)
    before = len(attempts(folder, name))
    with (folder / name).open("a") as file:
        file.write(f"{os.getpid()}\n")
    run_id = request.run_id or "130-test"
    observer(
        StageStarted(
            run_id=run_id,
            mode="full",
            source_uri=request.source,
            source_size=100 << 20,
            destination=request.destination,
            upload_check="crc64nvme",
        )
    )
    observer(progress(10 << 20))
    kind, _, times = name.partition("-")
    if kind == "hangs":
        try:
            await asyncio.sleep(600)
        finally:
            (folder / f"{name}.stopped").touch()
    if kind == "stays":
        while True:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                (folder / f"{name}.stopped").touch()
    if not times or before < int(times):
        if kind == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind in FAILURES:
            raise FAILURES[kind]
    return report(run_id, destination=request.destination)


def main() -> int:
    if sys.argv[1] == "stage-all":
        from riva_stream.catalogue import local, ray_engine  # noqa: PLC0415

        local._PROGRAM = DOUBLE
        ray_engine._stage = importlib.import_module(
            "tests.catalogue_double"
        ).run  # nodes find it by this name
    else:
        _make_up_the_pipeline()
    from riva_stream.cli import main as command_line  # noqa: PLC0415

    return command_line(sys.argv[1:])


def _make_up_the_pipeline() -> None:
    async def stage(request: StageRequest, *, observer: Observer) -> StageReport:
        return await run(request, observer)

    module = ModuleType("riva_stream.pipeline")
    module.stage = stage  # type: ignore[attr-defined]
    sys.modules["riva_stream.pipeline"] = module


if __name__ == "__main__":
    sys.exit(main())
