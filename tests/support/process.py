"""Run a command in a process of its own, in private folders, and measure it exactly.

::

    report = run([sys.executable, "-m", "riva_stream", ...], folder=tmp_path, env=server.environment())
    assert report.exit_code == 0 and report.peak_rss < 280 << 20 and report.files == ()

or, to do something to it while it runs::

    with start(argv, folder=tmp_path, env=...) as process:
        process.send_signal(signal.SIGSTOP)
        ...
        report = process.wait(timeout=60)

How the figures are taken, and why so, stands in `tests.support._launcher`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["ProcessIO", "ProcessReport", "RunningProcess", "SignalTrigger", "run", "start"]

_LAUNCHER: Final = Path(__file__).with_name("_launcher.py")


@dataclass(frozen=True, slots=True)
class ProcessIO:
    """``/proc/PID/io`` when the process had ended, all threads and reaped children included. Bytes.

    ``rchar`` and ``wchar`` count read() and write() on anything, pipes and terminals too; send() and recv() on
    sockets are not in them, nor is what was mapped. ``write_bytes`` is what a disk had to take: nothing for a
    tmpfs, which is why a test should look at ``wchar`` as well.
    """

    rchar: int
    wchar: int
    read_bytes: int
    write_bytes: int


@dataclass(frozen=True, slots=True)
class ProcessReport:
    """How a command ended and what it took."""

    argv: tuple[str, ...]
    exit_code: int
    """Minus the signal's number when a signal ended it, as in subprocess."""
    stdout: str
    stderr: str
    peak_rss: int
    """Bytes. The most the process itself had resident at one time; children it started have their own."""
    io: ProcessIO
    cpu_user: float
    cpu_system: float
    """CPU seconds."""
    wall: float
    """Seconds from start to end."""
    home: Path
    tmpdir: Path
    cwd: Path
    files: tuple[Path, ...]
    """Every regular file left in its home, temporary and working folder."""

    @property
    def cpu(self) -> float:
        return self.cpu_user + self.cpu_system


class RunningProcess:
    """A command under way. Closing it kills whatever is left of its process group."""

    def __init__(
        self, argv: Sequence[str], *, folder: Path, env: Mapping[str, str], stdin: bytes = b""
    ) -> None:
        self.argv = tuple(argv)
        self.home, self.tmpdir, self.cwd = (folder / name for name in ("home", "tmp", "work"))
        for private in (self.home, self.tmpdir, self.cwd):
            private.mkdir(parents=True, exist_ok=True)
        self._stdout, self._stderr = folder / "stdout", folder / "stderr"
        self._final: ProcessReport | None = None
        self._reading = threading.Lock()
        environment = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "LC_ALL": "C.UTF-8",
            "AWS_EC2_METADATA_DISABLED": "true",
            # Byte code that Python would write next to the sources is not what a test looks for.
            "PYTHONDONTWRITEBYTECODE": "1",
            **env,
            "HOME": str(self.home),
            "TMPDIR": str(self.tmpdir),
        }
        program = shutil.which(argv[0], path=environment["PATH"]) or argv[0]
        (folder / "stdin").write_bytes(stdin)
        control_read, self._control = os.pipe()
        report_read, report_write = os.pipe()
        self._report: IO[bytes] = os.fdopen(report_read, "rb")
        # Files and not pipes for its output: nobody has to read them for the command to go on.
        with (
            (folder / "stdin").open("rb") as source,
            self._stdout.open("wb") as out,
            self._stderr.open("wb") as err,
        ):
            launch = [sys.executable, "-I", "-S", str(_LAUNCHER), str(control_read), str(report_write)]
            self._launcher = subprocess.Popen(
                [*launch, program, *argv[1:]],
                env=environment,
                cwd=self.cwd,
                stdin=source,
                stdout=out,
                stderr=err,
                pass_fds=(control_read, report_write),
                # Ctrl-C in the terminal is for the test run; it kills the command by closing this object.
                start_new_session=True,
            )
        os.close(control_read)
        os.close(report_write)
        first = self._line()
        if "error" in first:
            self.close()
            raise FileNotFoundError(f"{argv[0]}: {first['error']}")
        self.pid: int = first["pid"]

    def _line(self) -> dict[str, Any]:
        text = self._report.readline()
        if not text:
            raise ChildProcessError(f"the launcher ended without a report: {self.stderr_so_far()}")
        line: dict[str, Any] = json.loads(text)
        return line

    def send_signal(self, number: signal.Signals) -> None:
        """Signal the process, and not its children. Nothing happens when it has ended."""
        if self._final is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def stderr_so_far(self) -> str:
        return self._stderr.read_text(errors="replace")

    def stdout_so_far(self) -> str:
        return self._stdout.read_text(errors="replace")

    def wait(self, timeout: float | None = None) -> ProcessReport:
        """Wait for its end. After *timeout* seconds it is killed.

        Raises:
            TimeoutError: it was killed; the message ends with the tail of its stderr.
        """
        with self._reading:
            if self._final is not None:
                return self._final
            killer = None if timeout is None else threading.Timer(timeout, self._hang_up)
            if killer is not None:
                killer.daemon = True
                killer.start()
            try:
                figures = self._line()
            finally:
                if killer is not None:
                    killer.cancel()
            self._final = self._finish(figures)
        if self._control < 0:
            raise TimeoutError(f"{self.argv} still ran after {timeout} s\n{self._final.stderr[-4000:]}")
        return self._final

    async def wait_async(self, timeout: float | None = None) -> ProcessReport:  # noqa: ASYNC109 - see `wait`
        """`wait` without blocking the event loop, in which a proxy may be serving the process."""
        return await asyncio.to_thread(self.wait, timeout)

    def _finish(self, figures: dict[str, Any]) -> ProcessReport:
        self._launcher.wait()
        io = figures["io"]
        folders = (self.home, self.tmpdir, self.cwd)
        return ProcessReport(
            argv=self.argv,
            exit_code=figures["exit_code"],
            stdout=self.stdout_so_far(),
            stderr=self.stderr_so_far(),
            peak_rss=figures["peak_rss"],
            io=ProcessIO(io["rchar"], io["wchar"], io["read_bytes"], io["write_bytes"]),
            cpu_user=figures["cpu_user"],
            cpu_system=figures["cpu_system"],
            wall=figures["wall"],
            home=self.home,
            tmpdir=self.tmpdir,
            cwd=self.cwd,
            files=tuple(sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())),
        )

    def _hang_up(self) -> None:
        control, self._control = self._control, -1
        if control >= 0:
            os.close(control)

    def close(self) -> None:
        """Kill it when it still runs, with its process group. Safe to call twice."""
        self._hang_up()
        self._launcher.wait()
        self._report.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start(argv: Sequence[str], *, folder: Path, env: Mapping[str, str], stdin: bytes = b"") -> RunningProcess:
    """Start *argv* with HOME, TMPDIR and working folder inside *folder*, and no environment but *env* and PATH."""
    return RunningProcess(argv, folder=folder, env=env, stdin=stdin)


def run(
    argv: Sequence[str],
    *,
    folder: Path,
    env: Mapping[str, str],
    stdin: bytes = b"",
    timeout: float | None = 300,
) -> ProcessReport:
    """Start *argv* as `start` does, wait for its end, and report."""
    with start(argv, folder=folder, env=env, stdin=stdin) as process:
        return process.wait(timeout)


class SignalTrigger:
    """A callback that sends *number* to a process, for a proxy's hook.

    The hook must be in the proxy before the process starts, and the process exists only afterwards: so the
    trigger waits, in the proxy's worker thread, until `arm` has told it whom to signal.
    """

    def __init__(self, number: signal.Signals = signal.SIGKILL) -> None:
        self.number = number
        self.fired = threading.Event()
        self._armed = threading.Event()
        self._process: RunningProcess | None = None

    def arm(self, process: RunningProcess) -> None:
        self._process = process
        self._armed.set()

    def __call__(self, *_: object) -> None:
        if not self._armed.wait(60) or self._process is None:
            raise RuntimeError("SignalTrigger.arm() was never called")
        self._process.send_signal(self.number)
        self.fired.set()
