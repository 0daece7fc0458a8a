"""Run a module as ``python -m`` does, in a process that is forked off one that has read the code already.

An interpreter takes half a second of CPU to read what a command needs; a fork of one that has takes a tenth of that. All else
is as with any process: arguments, environment, folder, streams, exit code. What is about reading the code, or about what
an interpreter does before it comes to ours, needs a new one (:func:`tests.cli_processes.run`, ``fresh=True``).

The server (``python -m tests.support.forked``) forks a waiter for each run, and that one the run: a process's exit code is told
to its parent alone.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

__all__ = ["Forks", "is_measured"]

_ROOT: Final = Path(__file__).parent.parent.parent
_MOST_BYTES: Final = 1 << 17
_OPTIONAL: Final = "riva_stream.catalogue.ray_engine"
_START_SECONDS: Final = 60.0
"""Within which a run has begun: the server may have to read the code first, on a busy machine."""
_OF_INTERPRETERS: Final = ("PYTHON", "LC_", "LANG", "COV")
"""What begins the names of variables that an interpreter reads before it comes to ours, and those of what measures it."""


def is_measured() -> bool:
    """Whether coverage comes along in every process: it loads code of its own, and handles SIGTERM."""
    return any(name.startswith("COV") for name in os.environ)


class Forks:
    """The server, and whoever asks it: one a process, started when it is first asked, and again when it has died."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket
        self._lock = threading.Lock()
        self._environment = _of_interpreters(os.environ)

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Whether a new interpreter would come to our code as the server's has."""
        ours = self._environment
        return _of_interpreters(environment) == ours and not is_measured()

    def run(
        self, argv: Sequence[str], *, cwd: str, env: Mapping[str, str], stdin: bytes, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run ``python -m argv...`` and wait for it.

        Raises:
            subprocess.TimeoutExpired: it took longer than ``timeout`` seconds from its start, and was killed.
        """
        asked = json.dumps({"argv": argv, "cwd": cwd, "env": dict(env)}).encode()
        assert len(asked) < _MOST_BYTES
        answers, answering = os.pipe()
        with (
            tempfile.TemporaryFile() as given,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
            os.fdopen(answers, "rb") as answer,
        ):
            given.write(stdin)
            given.seek(0)
            try:
                files = [given.fileno(), out.fileno(), err.fileno(), answering]
                socket.send_fds(self._connected(), [asked], files)
            finally:
                os.close(answering)
            command = [sys.executable, "-m", *argv]
            # Of a server that has died the end of the pipe is read, in place of a number.
            pid = int(answer.readline() if select.select([answer], [], [], _START_SECONDS)[0] else "")
            if not select.select([answer], [], [], timeout)[0]:
                os.kill(pid, signal.SIGKILL)
                answer.readline()
                raise subprocess.TimeoutExpired(command, timeout, _text(out), _text(err))
            code = os.waitstatus_to_exitcode(int(answer.readline()))
            return subprocess.CompletedProcess(command, code, _text(out), _text(err))

    def _connected(self) -> socket.socket:
        with self._lock:
            if self._server is not None and self._server.poll() is not None:
                self.stop()
            if self._server is None:
                self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with theirs:
                    self._server = subprocess.Popen(
                        [sys.executable, "-m", "tests.support.forked", str(theirs.fileno())],
                        cwd=_ROOT,
                        pass_fds=[theirs.fileno()],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                    )
                atexit.register(self.stop)
            return self._socket

    def stop(self) -> None:
        """End the server, if there is one."""
        if self._server is not None:
            self._socket.close()
            self._server.wait()
            self._server = None
            atexit.unregister(self.stop)


def _of_interpreters(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(_OF_INTERPRETERS) and name != "PYTHONPATH"
    }


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode().replace("\r\n", "\n")


def _read_the_code() -> None:
    import aioboto3  # noqa: F401, PLC0415

    import riva_stream  # noqa: PLC0415

    for module in pkgutil.walk_packages(riva_stream.__path__, "riva_stream."):
        if module.name not in {_OPTIONAL, "riva_stream.__main__"}:
            importlib.import_module(module.name)


def _serve(asking: socket.socket) -> None:
    """Until nobody asks any more; returns in each run, too, once that has ended."""
    _read_the_code()
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the waiters
    while True:
        data, files, _, _ = socket.recv_fds(asking, _MOST_BYTES, 4)
        if not data:
            return
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            asking.close()
            _wait_for_run(json.loads(data), files)
            return
        for file in files:
            os.close(file)


def _wait_for_run(asked: dict[str, Any], files: list[int]) -> None:
    *streams, answering = files
    pid = os.fork()
    if pid == 0:
        for number, file in enumerate(streams):
            os.dup2(file, number)
        for file in files:
            os.close(file)
        _be(**asked)
        return
    os.write(answering, b"%d\n" % pid)
    _, status = os.waitpid(pid, 0)
    os.write(answering, b"%d\n" % status)
    os._exit(0)


def _be(argv: list[str], cwd: str, env: dict[str, str]) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    sys.argv = argv
    sys.path[0] = cwd
    runpy.run_module(argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
