"""``stage-all`` as a process: what it prints, the code it ends with, and what becomes of its children."""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from riva_stream.catalogue import EntryEnded, EntryEvent, EntryReport, EntryStarted, Planned
from riva_stream.cli.overview import LiveOverview, PlainOverview
from tests.catalogue_double import DOUBLE, attempts
from tests.cli_double import progress
from tests.cli_processes import run as run_module

ROOT = Path(__file__).parent.parent
MIB = 1 << 20


def written(folder: Path, names: Iterable[str], **fields: Any) -> Path:
    """A catalogue of made-up stagings."""
    path = folder / "c.json"
    defaults = {"bucket": "deployments", "env": "dev", "region": "us-1", "description": str(folder)}
    entries = [
        {"source": f"s3://models/{name}.tar.gz", "model_name": name, "model_version": "v1"} for name in names
    ]
    path.write_text(json.dumps({"defaults": defaults | fields, "staging": entries}))
    return path


def command(path: Path, *more: str) -> dict[str, Any]:
    return {
        "args": [*DOUBLE, "stage-all", str(path), "--state-dir", str(path.parent / "state"), *more],
        "env": {**os.environ, "PYTHONPATH": str(ROOT)},
        "cwd": path.parent,
        "text": True,
    }


def run(path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    asked = command(path, *more)
    return run_module(*asked["args"][2:], cwd=asked["cwd"], env=asked["env"], timeout=120)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_file_of_settings_that_is_a_pipe_is_read_once(tmp_path: Path) -> None:
    words = shlex.join([*DOUBLE, "stage-all", str(written(tmp_path, ["a"]))])
    done = subprocess.run(
        ["bash", "-c", f"{words} --env-file <(echo RIVA_STATE_DIR=there)"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "there" / "catalogue").is_dir()


def test_json_is_a_line_for_each_and_one_for_all(tmp_path: Path) -> None:
    done = run(written(tmp_path, ["a", "b", "denied", "dies-1"]), "--json")
    assert done.returncode == 77
    *entries, last = lines(done.stdout)
    told = {entry["destination"].split("/")[4]: (entry["outcome"], entry["exit_code"]) for entry in entries}
    assert told == {
        "a": ("staged", 0),
        "b": ("staged", 0),
        "denied": ("failed", 77),
        "dies-1": ("staged", 0),
    }
    assert (last["entries"], last["exit_code"]) == (4, 77)
    assert len(attempts(tmp_path, "dies-1")) == 2


def test_a_wrong_catalogue_starts_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, ["a", "a"])
    done = run(path, "--json")
    assert done.returncode == 78
    (last,) = lines(done.stdout)
    assert [problem["setting"] for problem in last["error"]["problems"]] == ["staging[1]"]
    assert attempts(tmp_path, "a") == []


def test_a_pattern_that_matches_nothing_is_a_line_of_json(tmp_path: Path) -> None:
    done = run(written(tmp_path, ["a"]), "--only", "zz*", "--json")
    (last,) = lines(done.stdout)
    assert last["error"]["exit_code"] == done.returncode == 78


def test_a_state_directory_that_cannot_be_written_starts_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, ["a", "b"])
    (tmp_path / "state").write_text("")
    done = run(path)
    assert (done.returncode, done.stdout) == (78, "")
    assert "state cannot be written: Not a directory" in done.stderr
    assert attempts(tmp_path, "a") == attempts(tmp_path, "b") == []
    assert run(path, "--dry-run").returncode == 0


def test_fail_fast_stops_the_children_that_run(tmp_path: Path) -> None:
    done = run(written(tmp_path, ["hangs", "archive"]), "--fail-fast", "--at-once", "2", "--json")
    assert done.returncode == 65
    assert lines(done.stdout)[-1]["exit_code"] == 65
    assert not is_alive(attempts(tmp_path, "hangs"))


def test_json_has_a_line_for_what_was_stopped_and_for_what_never_began(tmp_path: Path) -> None:
    """docs/json.md: ``stopped`` and ``not_started`` are outcomes of lines; only what ends by itself has one."""
    done = subprocess.run(
        **command(
            written(tmp_path, ["hangs", "archive", "a", "b"]), "--fail-fast", "--at-once", "2", "--json"
        ),
        capture_output=True,
        timeout=60,
        check=False,
    )
    *entries, last = lines(done.stdout)
    told = {one["destination"].split("/")[4]: one["outcome"] for one in entries}
    assert last["entries"] == 4
    assert told == {"hangs": "stopped", "archive": "failed", "a": "not_started", "b": "not_started"}


def is_alive(pids: list[int]) -> bool:
    return any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_children_cleanly(number: signal.Signals, code: int, tmp_path: Path) -> None:
    path = written(tmp_path, ["hangs", "a"])
    options = command(path, "--at-once", "2", "--json")
    with subprocess.Popen(**options, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        while not attempts(tmp_path, "hangs"):
            assert process.poll() is None
        assert json.loads(process.stdout.readline())["outcome"] == "staged"
        process.send_signal(number)
        (last,) = lines(process.stdout.read())
        assert last["error"]["exit_code"] == code
        assert process.wait(60) == code
    assert (tmp_path / "hangs.stopped").exists()
    assert not is_alive(attempts(tmp_path, "hangs"))


@contextmanager
def closing_with(call: Callable[[], None]) -> Iterator[None]:
    """However the test goes: a process that hangs must not be waited for."""
    try:
        yield
    finally:
        call()


def test_a_signal_reaches_the_children_while_nobody_reads_the_output(tmp_path: Path) -> None:
    path = written(tmp_path, ["hangs", "a", "b"])
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):  # until it is full
        while True:
            os.write(writing, b"\n")
    os.set_blocking(writing, True)
    options = command(path, "--at-once", "2", "--json")
    with (
        subprocess.Popen(**options, stdout=writing, stderr=subprocess.DEVNULL) as process,
        closing_with(process.kill),
    ):
        os.close(writing)
        while not (
            attempts(tmp_path, "hangs") and attempts(tmp_path, "b")
        ):  # whose turn comes after a's line
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        while not (tmp_path / "hangs.stopped").exists():
            assert process.poll() is None
        with open(reading) as shown:  # noqa: PTH123 - a pipe
            *entries, last = lines(shown.read().strip())
        assert process.wait(60) == last["error"]["exit_code"] == 143
    assert {entry["outcome"] for entry in entries} == {"staged"}
    assert not is_alive(attempts(tmp_path, "hangs"))


def test_a_second_signal_leaves_no_child(tmp_path: Path) -> None:
    path = written(tmp_path, ["stays"])
    options = command(path, "--json")
    with (
        subprocess.Popen(**options, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process,
        closing_with(process.kill),
    ):
        while not attempts(tmp_path, "stays"):
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        while not (tmp_path / "stays.stopped").exists():
            assert process.poll() is None
        while process.poll() is None:  # those that belong to the first one's request do not count
            process.send_signal(signal.SIGTERM)
        assert process.returncode == 143
    (child,) = attempts(tmp_path, "stays")
    while is_running(child):
        pass


def is_running(pid: int) -> bool:
    """Whether it is there, and no zombie that nobody has asked for yet."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


@pytest.mark.parametrize(
    "given", [[], ["--only", "dev/*"], ["--only=dev/*"], ["--only", "x", "--only", "dev/*"]]
)
def test_the_command_for_what_failed_names_that_alone(given: list[str], tmp_path: Path) -> None:
    path = written(tmp_path, ["a", "denied"])
    done = run(path, "--quiet", *given)
    assert done.returncode == 77
    (line,) = (line for line in done.stdout.splitlines() if "dev/denied/v1" in line and " stage-all " in line)
    words = shlex.split(line.partition(" stage-all ")[2])
    assert [word for word in words if word.startswith("--only")] == ["--only"]
    again = run(Path(words[0]), *words[1:], "--json")
    assert again.returncode == 77
    assert [one["destination"] for one in lines(again.stdout)[:-1]] == ["s3://deployments/dev/denied/v1/"]


@pytest.mark.parametrize(
    "words", [["--at-once", "0"], ["--fail-fast", "--keep-going"], ["--engine", "x"], ["--nope"], []]
)
def test_usage_errors(words: list[str], tmp_path: Path) -> None:
    path = [str(written(tmp_path, ["a"]))] if words else []
    done = run_module("riva_stream", "stage-all", *path, *words)
    assert done.returncode == 2
    assert "0" not in words or "argument --at-once: '0' must be 1 or greater" in done.stderr
    done = run_module("riva_stream", "stage-all", *path, *words, "--json")
    (last,) = lines(done.stdout)
    assert last["error"]["exit_code"] == done.returncode == 2


def test_a_region_is_needed_only_where_the_catalogue_has_none(tmp_path: Path) -> None:
    path = written(tmp_path, ["a"])
    document = json.loads(path.read_text())
    del document["defaults"]["region"]
    path.write_text(json.dumps(document))
    assert run(path).returncode == 78
    assert run(path, "--region", "us-2").returncode == 0
    document["environments"] = {"dev": {"region": "us-1"}}
    path.write_text(json.dumps(document))
    assert run(path).returncode == 0


# --- the overview


DESTINATION = "s3://deployments/dev/a/v1/"


def ended(outcome: Any = "staged", size: int = 0, code: int = 0) -> EntryEnded:
    return EntryEnded(
        report=EntryReport(
            destination=DESTINATION, source="s3://m/a", outcome=outcome, exit_code=code, size_bytes=size
        )
    )


def test_the_table_has_a_row_for_each_that_runs_and_a_total() -> None:
    now = [0.0]
    console = Console(file=io.StringIO(), force_terminal=True, width=140)
    live = LiveOverview(lambda: now[0], console)
    live.observe(Planned(entries=4, jobs=4, at_once=2))
    live.observe(EntryStarted(destination=DESTINATION, source="s3://m/a"))
    now[0] = 10.0
    live.observe(EntryEvent(destination=DESTINATION, event=progress(50 * MIB, elapsed=10.0)))

    def shown() -> str:
        with console.capture() as captured:
            console.print(live.drawn())
        return captured.get()

    table = shown()
    assert "deployments/dev/a/v1/" in table
    assert "50.00 MiB of 100.00 MiB" in table
    assert "0 of 4 done, 1 running, 50.00 MiB, 5.0 MiB/s" in table
    # four of 100 MiB, of which 50 are through, at 5 MiB/s
    assert live.left == 70
    live.observe(ended(size=100 * MIB))
    assert "MiB of" not in shown()
    assert (live.done, live.ended) == (100 * MIB, 1)


def test_what_was_there_already_counts_for_no_rate() -> None:
    live = PlainOverview(lambda text: None, lambda: 0.0)
    live.observe(Planned(entries=2, jobs=2, at_once=2))
    live.observe(EntryStarted(destination=DESTINATION, source="s3://m/a"))
    live.observe(ended("already_staged", 100 * MIB))
    assert (live.done, live.left) == (0, None)


def test_without_a_terminal_each_end_is_a_line_and_the_total_comes_now_and_then() -> None:
    now = [0.0]
    said: list[str] = []
    plain = PlainOverview(said.append, lambda: now[0])
    plain.observe(Planned(entries=2, jobs=2, at_once=2))
    for second in range(21):
        now[0] = float(second)
        plain.observe(EntryStarted(destination=DESTINATION, source="s3://m/a"))
    assert len(said) == 2
    plain.observe(ended("failed", code=65))
    assert len(said) == 3
    assert "exit" not in said[1]
