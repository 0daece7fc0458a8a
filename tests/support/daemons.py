"""Start and stop a server process: its own process group, a log file, readiness by polling its port.

A server that does not come up shows the tail of its log in the error; a server that does not go down is killed
with everything it started. Both by process id, never by name.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Daemon", "ServerStartError", "binary", "free_port", "minimal_environment", "ram_or_disk_folder"]

LOOPBACK = "127.0.0.1"


_ROOM_IN_RAM = 4 << 30
"""/dev/shm is 64 MiB in a container by default: of use only with this many bytes free."""


class ServerStartError(Exception):
    """A server did not start; the message ends with the tail of its log."""


def free_port() -> int:
    """A loopback port that nobody listens on at this moment.

    Another process may take it before the server binds it, so whoever uses this tries again on another port.
    """
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def binary(name: str) -> str:
    """The program *name* of the running interpreter's environment, which need not be on PATH."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise ServerStartError(f"{name} is not in {path.parent}: install the project's [test] extra")
    return str(path)


def minimal_environment(home: Path) -> dict[str, str]:
    """An environment with nothing of the caller's in it but PATH, so that no profile or proxy leaks in."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "TMPDIR": str(home),
        "LC_ALL": "C.UTF-8",
    }


def ram_or_disk_folder(prefix: str) -> Path:
    """A new temporary folder, in memory where there is room, so that the disk drops out of what is measured."""
    shm = Path("/dev/shm")
    in_ram = shm.is_dir() and os.access(shm, os.W_OK) and shutil.disk_usage(shm).free >= _ROOM_IN_RAM
    return Path(tempfile.mkdtemp(prefix=prefix, dir=shm if in_ram else None))


class Daemon:
    """One server process. *ready* is asked again and again until it holds or *deadline* seconds have passed."""

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path) -> None:
        self.argv = list(argv)
        self.log = log
        with log.open("ab") as sink:
            # A session of its own makes it a process group leader: stop() then reaches its children as well.
            self._process = subprocess.Popen(
                self.argv,
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        # Whatever way the interpreter ends (short of SIGKILL), no server outlives it.
        atexit.register(self.stop)

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self, ready: Callable[[], bool], *, deadline: float = 60.0) -> None:
        """Return once *ready* holds.

        Raises:
            ServerStartError: the process ended, or the deadline passed; the process is stopped by then.
        """
        give_up = time.monotonic() + deadline
        while True:
            code = self._process.poll()
            if code is not None:
                raise ServerStartError(f"{self.argv[0]} ended with {code} while starting\n{self.log_tail()}")
            if ready():
                return
            if time.monotonic() > give_up:
                self.stop()
                raise ServerStartError(f"{self.argv[0]} not ready in {deadline:g} s\n{self.log_tail()}")
            time.sleep(0.02)

    def log_tail(self, lines: int = 40) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:]) or "(its log is empty)"

    def stop(self, *, grace: float = 10.0) -> None:
        """SIGTERM to the whole group, SIGKILL to what is left after *grace* seconds. Safe to call twice."""
        atexit.unregister(self.stop)
        if self._process.poll() is None:
            self._signal_group(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace)
        # The leader may be gone while a child of it is not.
        self._signal_group(signal.SIGKILL)
        self._process.wait()

    def _signal_group(self, number: signal.Signals) -> None:
        # The group id is the leader's pid, and cannot be given to another process while a member of it lives.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)
