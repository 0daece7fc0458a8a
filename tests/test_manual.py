"""`docs`: the pages that the package ships, found and shown, on a terminal and without one."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import riva_stream
from riva_stream.cli.app import main
from tests.cli_processes import ROOT, on_a_full_disk, run

PAGES = {
    path.stem.lower().removeprefix("from-"): path for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]
}


def test_the_topics_are_all_pages_the_readme_first() -> None:
    done = run("riva_stream", "docs")
    assert done.returncode == 0
    listed = [line.split()[0] for line in done.stdout.split("\n\n")[0].splitlines()]
    assert listed[0] == "readme"
    assert set(listed) == set(PAGES)


def test_the_wheel_is_told_to_ship_what_the_checkout_shows() -> None:
    """The build back end copies these; what it is told is complete if it covers every page."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included == {"docs": "riva_stream/manual", "README.md": "riva_stream/manual/README.md"}


def test_an_installed_package_reads_its_own_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "site-packages" / "riva_stream"
    (package / "manual").mkdir(parents=True)
    monkeypatch.setattr(riva_stream, "__file__", str(package / "__init__.py"))
    assert main(["docs"]) == 2
    assert "not installed" in capfd.readouterr().err
    (package / "manual" / "README.md").write_text("# It\n\nDoes this.\n")
    (package / "manual" / "from-riva-130.md").write_text("# From RIVA-130\n")
    main(["docs"])
    assert [line.split() for line in capfd.readouterr().out.splitlines()[:2]] == [
        ["readme", "It"],
        ["riva-130", "From", "RIVA-130"],
    ]
    for name in ("riva-130", "from-riva-130", "docs/from-riva-130.md", "RIVA_130", "riva-130#a-heading"):
        assert main(["docs", name, "--raw"]) == 0, name
        assert capfd.readouterr().out == "# From RIVA-130\n"


@pytest.mark.parametrize("width", [60, 100])
def test_every_page_is_shown_as_plain_text_that_fits(
    width: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for topic, path in PAGES.items():
        assert main(["docs", topic]) == 0
        shown = capfd.readouterr().out
        assert "\x1b" not in shown
        assert max(map(len, shown.splitlines())) <= width, topic
        # a table that does not fit is folded, not cut
        assert shown.count("…") <= path.read_text().count("…"), topic


def test_an_unknown_topic_is_told_with_the_topics() -> None:
    done = run("riva_stream", "docs", "semantik")
    assert (done.returncode, done.stdout) == (2, "")
    assert "semantics" in done.stderr
    done = run("riva_stream", "docs", "zzz", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["exit_code"] == 2


def test_raw_and_json() -> None:
    text = (ROOT / "docs" / "memory.md").read_text()
    assert run("riva_stream", "docs", "memory", "--raw").stdout == text
    assert json.loads(run("riva_stream", "docs", "memory", "--json").stdout)["text"] == text
    listed = json.loads(run("riva_stream", "docs", "--json").stdout)["topics"]
    assert {entry["topic"] for entry in listed} == set(PAGES)


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m riva_stream docs readme --raw | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("0\n", "")


def on_a_terminal(*argv: str, **environment: str) -> str:
    """What a terminal of 70 columns gets to see."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "COLUMNS": "70", "TERM": "xterm"} | environment
    command = [sys.executable, "-m", "riva_stream", "docs", *argv]
    with subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, env=environment
    ) as process:
        os.close(follower)
        seen = b""
        while True:
            try:
                piece = os.read(leader, 1 << 16)
            except OSError:  # Linux's word for the end of a terminal
                break
            if not piece:
                break
            seen += piece
        assert process.wait(timeout=30) == 0
    os.close(leader)
    return seen.decode().replace("\r\n", "\n")


def test_a_terminal_gets_colours() -> None:
    assert "\x1b[1" in on_a_terminal("memory", PAGER="cat")
    assert "\x1b[3" not in on_a_terminal("memory", PAGER="cat", NO_COLOR="1")


@pytest.mark.parametrize("pager", ["nosuchpager -x", "/etc/passwd", "false"])
def test_without_a_pager_that_works_the_page_is_shown_all_the_same(pager: str) -> None:
    assert "Memory" in on_a_terminal("memory", PAGER=pager)


@pytest.mark.parametrize("forced", [{}, {"FORCE_COLOR": "1"}], ids=repr)
def test_a_page_that_cannot_be_written_is_told(forced: dict[str, str]) -> None:
    done = on_a_full_disk("docs", "tour", env=os.environ | forced)
    assert done.returncode == 1
    assert done.stderr == (
        "riva_stream: the result could not be written to standard output: No space left on device\n"
    )


def test_the_pager_is_used_on_a_terminal_alone(tmp_path: Path) -> None:
    pager = tmp_path / "pager"
    pager.write_text(f"#!/bin/sh\necho paged with $LESS\nhead -n 1 > {tmp_path}/first\n")
    pager.chmod(0o755)
    told = on_a_terminal("reliability", PAGER=str(pager))  # and left before the end
    assert told == "paged with FRX\n"
    assert (tmp_path / "first").read_text().strip()
    assert "paged" not in run("riva_stream", "docs", "memory", env={**os.environ, "PAGER": str(pager)}).stdout
