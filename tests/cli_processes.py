"""Start the command line in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.cli_double import ARGUMENTS
from tests.support.forked import Forks

ROOT = Path(__file__).parent.parent
_FORKS = Forks()


def run(
    *argv: str,
    cwd: Path | str | None = None,
    env: Mapping[str, str] | None = None,
    input: str = "",  # noqa: A002 - as subprocess names it
    timeout: float = 30,
    fresh: bool = False,
) -> subprocess.CompletedProcess[str]:
    """``python -m argv...``, with its standard input in a file. ``fresh``: by a new interpreter."""
    folder = str(cwd or Path.cwd())
    environment = dict(os.environ if env is None else env)
    if fresh or not _FORKS.fits(environment):
        return subprocess.run(
            [sys.executable, "-m", *argv],
            cwd=folder,
            env=environment,
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    return _FORKS.run(
        [os.fsdecode(word) for word in argv],
        cwd=folder,
        env=environment,
        stdin=input.encode(),
        timeout=timeout,
    )


def on_a_full_disk(*argv: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """``python -m riva_stream argv...`` with a standard output that takes nothing."""
    with Path("/dev/full").open("w") as full:
        return subprocess.run(
            [sys.executable, "-m", "riva_stream", *argv],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
            check=False,
        )


def double(scenario: str, *more: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | options.pop("env", {})
    return run("tests.cli_double", scenario, *ARGUMENTS, *more, env=environment, **options)


def start(scenario: str, *more: str, **options: Any) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "tests.cli_double", scenario, *ARGUMENTS, *more]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(argv, cwd=ROOT, **pipes | options)


def wait_for(text: str, process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    seen = ""
    for line in process.stderr:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"{text!r} never came: {seen}")
