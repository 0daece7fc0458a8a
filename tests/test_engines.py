"""One contract, two engines: child processes of this host, and a Ray cluster. What is staged is made up."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shlex
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import anyio
import pytest

from riva_stream import Catalogue, LocalEngine, StageReport, StageRequest, stage_all
from riva_stream.catalogue import CatalogueReport, Engine, EntryEvent, RayEngine
from riva_stream.catalogue.local import stage_in_child
from riva_stream.errors import ConfigurationError
from riva_stream.events import Observer, Progress, StageStarted
from tests import catalogue_double
from tests.catalogue_double import DOUBLE, attempts
from tests.test_stage_all_command import lines, run, written

ROOT = Path(__file__).parent.parent
RETRIES = {"local": 1, "ray": 3}

pytestmark = pytest.mark.filterwarnings("default:::ray", "default::ResourceWarning", "default::FutureWarning")


@pytest.fixture(params=["local", "ray"])
def engine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    if request.param == "ray":
        request.getfixturevalue("cluster")
        return RayEngine(cores=0.5, run=catalogue_double.run)
    return LocalEngine(at_once=4, run=partial(stage_in_child, state_dir=tmp_path / "state", program=DOUBLE))


def catalogue(folder: Path, *names: str) -> Catalogue:
    defaults = {"bucket": "deployments", "env": "dev", "region": "us-1", "description": str(folder)}
    entries = [
        {"source": f"s3://models/{name}.tar.gz", "model_name": name, "model_version": "v1"} for name in names
    ]
    return Catalogue.model_validate({"defaults": defaults, "staging": entries})


def outcomes(report: CatalogueReport) -> dict[str, tuple[str, int]]:
    return {entry.destination.split("/")[4]: (entry.outcome, entry.exit_code) for entry in report.entries}


async def test_what_ends_with_75_is_tried_again_and_nothing_else(engine: Engine, tmp_path: Path) -> None:
    names = ("fine", "archive", "denied", "settings", "bug", "busy-1", "dies-1", "busy", "dies")
    report = await stage_all(catalogue(tmp_path, *names), engine=engine)
    assert outcomes(report) == {
        "fine": ("staged", 0),
        "archive": ("failed", 65),
        "denied": ("failed", 77),
        "settings": ("failed", 78),
        "bug": ("failed", 1),
        "busy-1": ("staged", 0),
        "dies-1": ("staged", 0),
        "busy": ("failed", 75),
        "dies": ("failed", 75),
    }
    tries = {name: len(attempts(tmp_path, name)) for name in names}
    most = 1 + RETRIES[engine.name]
    once = dict.fromkeys(("fine", "archive", "denied", "settings", "bug"), 1)
    assert tries == once | {"busy-1": 2, "dies-1": 2, "busy": most, "dies": most}
    told = {entry.destination.split("/")[4]: entry.error for entry in report.entries if entry.error}
    assert {name: error.type for name, error in told.items()} == {
        "archive": "ArchiveError",
        "denied": "AccessDeniedError",
        "settings": "ConfigurationError",
        "bug": "RuntimeError",
        "busy": "TransientError",
        "dies": "WorkerDiedError",
    }
    assert "upload it again" in told["archive"].hint
    assert report.exit_code == 1
    assert os.getpid() not in attempts(tmp_path, "fine")


@pytest.mark.parametrize("name", ["local", "ray"])
def test_one_bad_entry_of_ten(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    arguments = ["--engine", name, "--at-once", "3"]
    if name == "ray":
        arguments += ["--ray-address", request.getfixturevalue("cluster").address]
    good = [f"m{number}" for number in range(9)]
    path = written(tmp_path, [*good[:4], "archive", *good[4:]])
    done = run(path, *arguments)
    assert done.returncode == 65, done.stderr
    summary = done.stdout.splitlines()
    assert summary[0].startswith(f"{path}: 9 of 10 done, engine {name}")
    staged = [line.split()[1] for line in summary if line.startswith("  staged ")]
    assert staged == [f"s3://deployments/dev/{model}/v1/" for model in good]
    (bad,) = (number for number, line in enumerate(summary) if line.startswith("  failed "))
    assert summary[bad].split()[1:3] == ["65", "s3://deployments/dev/archive/v1/"]
    assert [line.strip() for line in summary[bad + 1 : bad + 3]] == [
        "the gzip CRC is wrong",
        "next: upload it again",
    ]
    # What goes on with it alone can be run as it is.
    words = shlex.split(summary[bad + 3])
    assert words[:2] == ["riva-stream", "stage-all"]
    *entries, last = lines(run(Path(words[2]), *words[3:], "--json").stdout)
    assert [(one["destination"], one["exit_code"]) for one in entries] == [
        ("s3://deployments/dev/archive/v1/", 65)
    ]
    assert (last["entries"], last["exit_code"]) == (1, 65)
    assert [len(attempts(tmp_path, model)) for model in ("archive", *good)] == [2, *[1] * 9]


async def test_a_run_tells_what_it_does(engine: Engine, tmp_path: Path) -> None:
    events: list[Any] = []
    await stage_all(catalogue(tmp_path, "fine"), engine=engine, observer=events.append)
    told = [event.event for event in events if isinstance(event, EntryEvent)]
    assert [event.source_size for event in told if isinstance(event, StageStarted)] == [100 << 20]
    assert all(event.fetched == 10 << 20 for event in told if isinstance(event, Progress))
    kinds = [type(event).__name__ for event in events]
    assert (kinds[0], kinds[1], kinds[-1]) == ("Planned", "EntryStarted", "EntryEnded")


async def test_cancelled_it_stops_the_run_and_waits_for_its_clean_up(engine: Engine, tmp_path: Path) -> None:
    async def cancel(scope: anyio.CancelScope) -> None:
        while not attempts(tmp_path, "hangs"):  # noqa: ASYNC110 - another process writes it
            await anyio.sleep(0.01)
        scope.cancel()

    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel, scope)
            await stage_all(catalogue(tmp_path, "hangs"), engine=engine)
    assert scope.cancelled_caught
    assert (tmp_path / "hangs.stopped").exists()
    assert len(attempts(tmp_path, "hangs")) == 1


async def test_fail_fast_stops_the_others(engine: Engine, tmp_path: Path) -> None:
    report = await stage_all(catalogue(tmp_path, "hangs", "archive"), engine=engine, fail_fast=True)
    assert outcomes(report) == {"hangs": ("stopped", 75), "archive": ("failed", 65)}
    assert (tmp_path / "hangs.stopped").exists() or not attempts(tmp_path, "hangs")


class _Elsewhere:
    """Runs stagings, but not on a node: what it is made of is not installed there."""

    def __reduce__(self) -> tuple[Any, ...]:
        return importlib.import_module, ("not_on_a_node",)

    async def __call__(self, request: StageRequest, observer: Observer) -> StageReport:
        raise AssertionError


async def test_a_node_on_which_something_is_missing_is_no_reason_to_try_again(
    cluster: Any, tmp_path: Path
) -> None:
    report = await stage_all(catalogue(tmp_path, "fine"), engine=RayEngine(cores=0.5, run=_Elsewhere()))
    assert outcomes(report) == {"fine": ("failed", 78)}
    assert report.entries[0].error is not None
    assert "No module named 'not_on_a_node'" in report.entries[0].error.message
    assert "every node" in report.entries[0].next_step


class _TaskError(Exception):
    cause = AssertionError()


class _Task:
    """Stands in for the board, too, which has nothing."""

    take = SimpleNamespace(remote=AsyncMock(return_value={}))

    def __await__(self) -> Iterator[None]:
        yield from ()
        raise _TaskError


async def test_an_error_of_ray_without_a_text_is_told_by_its_type(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ray = MagicMock()
    ray.exceptions = SimpleNamespace(RayTaskError=_TaskError, RayError=_TaskError)
    ray.remote.return_value.options.return_value.remote.return_value = _Task()
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.util.scheduling_strategies", MagicMock())
    report = await stage_all(catalogue(tmp_path, "fine"), engine=RayEngine())
    assert outcomes(report) == {"fine": ("failed", 78)}
    assert report.entries[0].error is not None
    assert report.entries[0].error.message.endswith("could not start this staging: AssertionError")
    ray.is_initialized.return_value = False
    ray.init.side_effect = ConnectionError()
    with pytest.raises(ConfigurationError, match=r"cannot be reached: ConnectionError$"):
        RayEngine()


def test_without_ray_its_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigurationError) as caught:
        RayEngine()
    assert "riva-stream[ray]" in caught.value.hint
