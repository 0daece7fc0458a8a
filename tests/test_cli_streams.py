"""The command line as a process: signals, and streams that are gone, full or closed."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.cli_double import ARGUMENTS
from tests.cli_processes import ROOT, double, on_a_full_disk, start, wait_for
from tests.support.forked import is_measured

# --- signals


STOPS = [
    (signal.SIGINT, 130),
    (signal.SIGTERM, 143),
    (signal.SIGHUP, 129),
    (signal.SIGUSR1, 128 + signal.SIGUSR1),
    (signal.SIGUSR2, 128 + signal.SIGUSR2),
    (signal.SIGXCPU, 128 + signal.SIGXCPU),
]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(("number", "code"), STOPS)
def test_a_signal_cancels_the_run(loop: str, number: signal.Signals, code: int) -> None:
    with start("sleep", "--json", "--loop", loop) as process:
        wait_for("READY", process)
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert json.loads(out)["error"]["type"] == "Interrupted"
    assert "stopping cleanly" in err
    assert "run the same command again" in err


def test_an_error_of_the_clean_up_does_not_hide_the_interruption() -> None:
    with start("unclean") as process:
        wait_for("READY", process)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 143
    assert "also:  the clean-up failed too" in err


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_second_signal_ends_the_process_even_when_its_loop_is_stuck(loop: str) -> None:
    with start("stuck", "--loop", loop) as process:
        wait_for("READY", process)
        process.send_signal(signal.SIGINT)
        wait_for("stopping cleanly", process)
        while process.poll() is None:  # what comes within a second of the first counts as the same request
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
    assert process.returncode == 130


@pytest.mark.parametrize(
    "burst",
    [
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGINT, signal.SIGTERM),
        (signal.SIGTERM, signal.SIGHUP, signal.SIGINT),
        (signal.SIGUSR1, signal.SIGTERM),
    ],
)
def test_one_request_that_comes_as_several_signals_stops_cleanly(burst: tuple[signal.Signals, ...]) -> None:
    with start("linger", "--json") as process:
        wait_for("READY", process)
        process.send_signal(burst[0])
        wait_for(
            "stopping cleanly", process
        )  # the watch is back at its post: the others are not merged with it
        for number in burst[1:]:
            process.send_signal(number)
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 128 + burst[0]
    assert json.loads(out)["error"]["also"] == [{"code": "transient", "message": "the clean-up ended"}]


def test_timeout_of_gnu_stops_a_run_cleanly() -> None:
    argv = ["timeout", "60", sys.executable, "-m", "tests.cli_double", "linger", *ARGUMENTS, "--json"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(argv, cwd=ROOT, **pipes) as process:
        wait_for("READY", process)
        process.send_signal(signal.SIGTERM)  # it hands that on twice, as when the time is up
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 143
    assert json.loads(out)["error"]["also"] == [{"code": "transient", "message": "the clean-up ended"}]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_the_run_begins(number: signal.Signals, code: int, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "settings")  # nobody will write into it
    with start("good", "--json", "--env-file", str(tmp_path / "settings")) as process:
        writer = os.open(tmp_path / "settings", os.O_WRONLY)  # returns as soon as the process reads
        process.send_signal(number)
        time.sleep(0.2)
        os.close(writer)
        out, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert json.loads(out)["error"]["exit_code"] == code
    assert "interrupted by" in err


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("scenario", ["close", "copy"])
def test_a_signal_after_the_result_changes_nothing(scenario: str, loop: str, tmp_path: Path) -> None:
    """``close``: while the event loop closes, which waits for a thread that hangs, though not to its end."""
    began = time.monotonic()
    with start(scenario, "--json", "--loop", loop, "--state-dir", str(tmp_path)) as process:
        assert process.stdout is not None
        document = process.stdout.readline() + "".join(iter(process.stdout.readline, "}\n")) + "}"
        assert time.monotonic() - began < 12
        process.kill() if scenario == "close" else process.wait()
        assert process.stderr is not None
        assert "stopping cleanly" not in process.stderr.read()
    assert json.loads(document)["outcome"] == "staged"
    assert "status=success" in (tmp_path / "130.status").read_text()
    assert scenario == "close" or process.returncode == 0


@pytest.mark.parametrize("number", [number for number, _ in STOPS])
def test_a_signal_that_the_caller_ignores_stays_ignored(number: signal.Signals) -> None:
    if number == signal.SIGTERM and is_measured():
        pytest.skip("coverage has a handler for it")
    argv = [sys.executable, "-m", "tests.cli_double", "short", *ARGUMENTS]
    shell = f"trap '' {number.name.removeprefix('SIG')}; exec \"$@\""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(["sh", "-c", shell, "sh", *argv], cwd=ROOT, **pipes) as process:
        wait_for("READY", process)
        process.send_signal(number)
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out.startswith("Staged")


# --- streams that are gone, full or closed


def test_nobody_reads_stdout() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with start("good", stdout=writer) as process:
        os.close(writer)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 0  # the staging is done, whoever looks
    assert "riva_stream: standard output" in err
    assert "Traceback" not in err
    assert "Exception ignored" not in err


def test_a_result_that_is_lost_is_a_failure() -> None:
    with Path("/dev/full").open("w") as full, start("good", "--json", stdout=full) as process:
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "No space left" in err


def test_with_json_lines_the_message_about_a_lost_result_is_one() -> None:
    flags = ("--json", "--log-format=json")
    with Path("/dev/full").open("w") as full, start("good", *flags, stdout=full) as process:
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    last = [json.loads(line) for line in err.splitlines()][-1]
    assert last["event"] == "message"
    assert "No space left" in last["message"]
    assert last["run_id"]


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["stage", "--help"]])
def test_an_answer_that_is_lost_is_a_failure(argv: list[str]) -> None:
    done = on_a_full_disk(*argv)
    assert done.returncode == 1
    assert "No space left" in done.stderr


def test_nobody_reads_stderr() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with start("flood", stderr=writer) as process:
        os.close(writer)
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out.startswith("Staged")


@pytest.mark.parametrize("scenario", ["flood", "transient"])
def test_a_full_stderr_stalls_nothing(scenario: str) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    while select.select([], [writer], [], 0)[1]:
        os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    began = time.monotonic()
    with start(scenario, stderr=writer) as process:
        os.close(writer)
        out, _ = process.communicate(timeout=30)
    os.close(reader)
    assert process.returncode == (0 if scenario == "flood" else 75)
    assert out.startswith("Staged") == (scenario == "flood")
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("argv", ["--help", "stage --help", "--version", "schema", "--nonsense --json"])
def test_help_and_its_kin_need_no_reader_but_an_open_output(argv: str) -> None:
    command = f"{sys.executable} -m riva_stream {argv}"
    for shell, code in (
        (f"{{ {command}; echo code $? >&2; }} | true", 0),
        (f"{command} >&-; echo code $? >&2", 1),
    ):
        done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
        assert f"code {2 if 'nonsense' in argv else code}" in done.stderr


@pytest.mark.parametrize("closing", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("scenario", "code"), [("good", 0), ("denied", 77)])
def test_closed_standard_streams(closing: str, scenario: str, code: int) -> None:
    argv = [sys.executable, "-m", "tests.cli_double", scenario, *ARGUMENTS]
    shell = f'exec "$@" {closing}'
    done = subprocess.run(
        ["sh", "-c", shell, "sh", *argv], capture_output=True, text=True, cwd=ROOT, check=False
    )
    lost = scenario == "good" and ">&-" in closing.replace("2>&-", "")
    assert done.returncode == (1 if lost else code)
    assert ("could not be written to standard output: it is closed" in done.stderr) == (
        closing == ">&-" and lost
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_flood_of_events_is_a_few_lines() -> None:
    done = double("flood")
    assert done.returncode == 0
    assert len(done.stderr.splitlines()) < 80
