"""Run a command with everything it starts, and say what it took: wall, CPU, memory, and the server's CPU meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

__all__ = ["Usage", "measure", "tree_cpu"]

_LAUNCHER = Path(__file__).with_name("_launcher.py")
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_LOOK_EVERY = 0.1


@dataclass(frozen=True, slots=True)
class Usage:
    """What one run took. Seconds and bytes."""

    exit_code: int
    wall: float
    """Until the last process it started had ended."""
    cpu_user: float
    cpu_system: float
    peak_rss: int
    """Of its largest process."""
    peak_rss_sum: int
    """The most that all its processes had resident together, looked at ten times a second: pages that they share
    count for each of them."""
    server_cpu: float
    """What the server used meanwhile; 0 when it is not ours to look at."""
    foreign_cpu: float
    """CPU seconds that the machine spent on neither of the two: somebody else's work, which falsifies the wall."""
    stdout: str
    stderr: str

    @property
    def cpu(self) -> float:
        """Of the whole process tree."""
        return self.cpu_user + self.cpu_system


def measure(
    argv: Sequence[str],
    *,
    folder: Path,
    env: Mapping[str, str],
    server_pid: int | None = None,
    timeout: float = 1800,
) -> Usage:
    """Run ``argv`` in ``folder``, with no environment but ``env``.

    Raises:
        TimeoutError: it was killed after ``timeout`` seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    out, err = folder / "stdout", folder / "stderr"
    control_read, control = os.pipe()
    report_read, report_write = os.pipe()
    before = 0.0 if server_pid is None else tree_cpu(server_pid)
    machine_before = _machine_cpu()
    process = subprocess.Popen(
        [
            sys.executable,
            "-I",
            "-S",
            str(_LAUNCHER),
            str(control_read),
            str(report_write),
            str(out),
            str(err),
            *argv,
        ],
        env=dict(env),
        cwd=folder,
        pass_fds=(control_read, report_write),
    )
    os.close(control_read)
    os.close(report_write)
    expired = threading.Event()

    def hang_up() -> None:
        expired.set()
        os.close(control)

    killer = threading.Timer(timeout, hang_up)
    killer.daemon = True
    killer.start()
    try:
        with os.fdopen(report_read, "rb") as report:
            _line(report, err)
            with _Watch(process.pid) as watch:
                figures = _line(report, err)
    finally:
        killer.cancel()
        if not expired.is_set():
            os.close(control)
        process.wait()
    if expired.is_set():
        raise TimeoutError(f"{argv[0]} still ran after {timeout:.0f} s")
    server_cpu = 0.0 if server_pid is None else tree_cpu(server_pid) - before
    own = figures["cpu_user"] + figures["cpu_system"] + server_cpu
    return Usage(
        **figures,
        peak_rss_sum=max(watch.peak, figures["peak_rss"]),
        server_cpu=server_cpu,
        foreign_cpu=max(0.0, _machine_cpu() - machine_before - own),
        stdout=out.read_text(errors="replace"),
        stderr=err.read_text(errors="replace"),
    )


def _line(report: IO[bytes], err: Path) -> dict[str, Any]:
    text = report.readline()
    if not text:
        raise ChildProcessError(
            f"the launcher ended without a report: {err.read_text(errors='replace')[-2000:]}"
        )
    line: dict[str, Any] = json.loads(text)
    return line


class _Watch:
    """Looks at the resident memory of a process tree, its root (the launcher) left out, until it is closed."""

    def __init__(self, root: int) -> None:
        self.peak = 0
        self._root = root
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(_LOOK_EVERY):
            resident = sum(_each(_tree(self._root)[1:], _resident))
            self.peak = max(self.peak, int(resident))


def tree_cpu(pid: int) -> float:
    """CPU seconds of a process and its descendants so far, those it has reaped included."""
    return sum(_each(_tree(pid), _cpu))


def _machine_cpu() -> float:
    """CPU seconds of all cores since the machine started, idling and waiting left out, stolen ones not."""
    ticks = list(map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]))
    return (sum(ticks) - ticks[3] - ticks[4]) / _TICK


def _tree(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        try:
            threads = list(Path(f"/proc/{parent}/task").iterdir())
            for thread in threads:
                found += map(int, (thread / "children").read_text().split())
        except OSError:
            continue
    return found


def _each(pids: Sequence[int], figure: Callable[[int], float]) -> list[float]:
    figures = []
    for pid in pids:
        try:
            figures.append(figure(pid))
        except OSError:  # it has ended meanwhile
            continue
    return figures


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICK


def _resident(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
