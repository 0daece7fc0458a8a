"""A process under observation: the figures are its own, the folders private, and it never outlives its owner."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.process import SignalTrigger, run, start

if TYPE_CHECKING:
    from pathlib import Path

PAUSE = [sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()"]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_peak_memory_is_the_childs_and_not_ours(tmp_path: Path) -> None:
    ours = bytearray(300 << 20)
    ours[::4096] = b"x" * len(range(0, len(ours), 4096))
    small = run(python("pass"), folder=tmp_path / "small", env={})
    large = run(python("x = bytearray(100 << 20); del x"), folder=tmp_path / "large", env={})
    assert small.peak_rss < 40 << 20
    assert 100 << 20 < large.peak_rss < 140 << 20


def test_bytes_written_are_counted_and_files_found(tmp_path: Path) -> None:
    report = run(python("open('out', 'wb').write(bytes(3_000_000))"), folder=tmp_path, env={})
    assert report.exit_code == 0
    assert 3_000_000 <= report.io.wchar < 3_010_000
    assert report.files == (tmp_path / "work" / "out",)


def test_bytes_sent_over_sockets_are_not_counted_as_written(tmp_path: Path) -> None:
    code = "import socket; a, b = socket.socketpair(); a.sendall(bytes(100_000)); print(len(b.recv(100_000)))"
    report = run(python(code), folder=tmp_path, env={})
    assert report.stdout == "100000\n"
    assert report.io.wchar < 10_000


def test_home_temporary_and_working_folder_are_private(tmp_path: Path) -> None:
    code = "import os, tempfile; print(os.path.expanduser('~'), tempfile.gettempdir(), os.getcwd(), os.environ['X'])"
    report = run(python(code), folder=tmp_path, env={"X": "given"})
    assert report.stdout.split() == [str(report.home), str(report.tmpdir), str(report.cwd), "given"]


def test_standard_input_output_and_exit_code(tmp_path: Path) -> None:
    code = "import sys; print(sys.stdin.read()); print('err', file=sys.stderr); sys.exit(75)"
    report = run(python(code), folder=tmp_path, env={}, stdin=b"words")
    assert (report.stdout, report.stderr, report.exit_code) == ("words\n", "err\n", 75)


def test_a_signal_is_its_exit_code(tmp_path: Path) -> None:
    with start(PAUSE, folder=tmp_path, env={}) as process:
        process.send_signal(signal.SIGKILL)
        assert process.wait(60).exit_code == -signal.SIGKILL
        process.send_signal(signal.SIGKILL)  # it has ended: nothing happens
        assert process.wait().exit_code == -signal.SIGKILL


def test_a_stopped_process_goes_on(tmp_path: Path) -> None:
    with start(python("input()"), folder=tmp_path, env={}, stdin=b"\n") as process:
        process.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGCONT)
        assert process.wait(60).exit_code == 0


def test_what_runs_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    """A pipe ends when all that hold it are dead, reaped or not: a killed orphan can stay a zombie for a while."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    children = f"subprocess.Popen(['sh', '-c', 'echo up; sleep 1000'], stdout=open({str(pipe)!r}, 'w'))"
    code = f"import subprocess, signal; p = {children}; signal.pause()"
    with start(python(code), folder=tmp_path, env={}) as process, pipe.open() as told:
        assert told.readline() == "up\n"
        with pytest.raises(TimeoutError, match="still ran"):
            process.wait(0)
        assert told.read() == ""


def test_closing_it_kills_it(tmp_path: Path) -> None:
    with start(PAUSE, folder=tmp_path, env={}) as process:
        pid = process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_it_can_be_awaited(tmp_path: Path) -> None:
    with start(python("print('done')"), folder=tmp_path, env={}) as process:
        assert (await process.wait_async(60)).stdout == "done\n"


def test_a_program_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        start(["no-such-program"], folder=tmp_path, env={})


def test_a_trigger_signals_the_process_it_was_armed_with(tmp_path: Path) -> None:
    trigger = SignalTrigger(signal.SIGTERM)
    with start(PAUSE, folder=tmp_path, env={}) as process:
        trigger.arm(process)
        trigger("whatever the hook hands over")
        assert trigger.fired.is_set()
        assert process.wait(60).exit_code == -signal.SIGTERM
