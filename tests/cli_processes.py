"""Start the command line in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.cli_double import ARGUMENTS

ROOT = Path(__file__).parent.parent


def run(*argv: str, timeout: float = 30, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *argv], capture_output=True, text=True, timeout=timeout, check=False, **options
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
