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
from riva_stream.cli import manual
from riva_stream.cli.app import main
from riva_stream.cli.page import rendered
from tests.cli_processes import ROOT, run

PAGES = {path.stem.lower() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The manual as a wheel has it: a folder in the package."""
    package = tmp_path / "site-packages" / "riva_stream"
    (package / "manual").mkdir(parents=True)
    monkeypatch.setattr(riva_stream, "__file__", str(package / "__init__.py"))
    return package / "manual"


def test_the_topics_are_all_pages_the_readme_first() -> None:
    done = run("riva_stream", "docs")
    assert done.returncode == 0
    listed = [line.split()[0] for line in done.stdout.split("\n\n")[0].splitlines()]
    assert listed[0] == "readme"
    assert set(listed) == PAGES
    assert all(len(line) <= 100 for line in done.stdout.splitlines())


def test_the_wheel_is_told_to_ship_what_the_checkout_shows() -> None:
    """The build back end copies these; what it is told is complete if it covers every page."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included == {"docs": "riva_stream/manual", "README.md": "riva_stream/manual/README.md"}
    for page in manual.topics():
        relative = page.path.relative_to(ROOT)
        assert str(relative) in included or str(relative.parent) in included


def test_an_installed_package_reads_its_own_pages(installed: Path) -> None:
    (installed / "README.md").write_text("# It\n\nDoes *this*. And that.\n")
    (installed / "other.md").write_text("no heading\n")
    assert [(page.topic, page.title) for page in manual.topics()] == [("readme", "It"), ("other", "other")]
    assert manual.topics()[0].summary == "Does *this*"
    assert manual.find("OTHER.md") == "no heading\n"


def test_a_page_is_found_by_its_other_names(installed: Path) -> None:
    (installed / "from-riva-130.md").write_text("# From RIVA-130\n")
    (installed / "README.md").write_text("# It\n")
    for name in ("riva-130", "from-riva-130", "from-riva-130.md", "docs/from-riva-130.md", "RIVA_130"):
        assert manual.find(name) == "# From RIVA-130\n", name
    assert manual.find("tour") == "# It\n"


def test_a_section_is_found_by_its_heading(installed: Path) -> None:
    (installed / "a.md").write_text(
        "# A\n\n## Exit codes\n\n```\n# no heading\n```\n\n### Deep\n\nx\n\n## Next\n\ny\n"
    )
    (installed / "b.md").write_text("# B\n\n## Exit codes\n\nof b\n")
    assert manual.find("exit-codes") == "## Exit codes\n\n```\n# no heading\n```\n\n### Deep\n\nx\n"
    assert manual.find("Exit codes") == manual.find("exit-codes")
    assert manual.find("b#exit-codes") == "## Exit codes\n\nof b\n"
    assert manual.find("no-heading") is None
    assert manual.find("b#nothing") is None


def test_without_pages_it_says_what_is_wrong(installed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    installed.rmdir()
    for argv in (["docs"], ["docs", "readme"]):
        assert main(argv) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert "not installed" in err


@pytest.mark.parametrize("topic", sorted(PAGES))
def test_every_page_is_shown_as_plain_text_that_fits(topic: str) -> None:
    text = manual.find(topic)
    assert text is not None
    for width in (60, 100):
        shown = rendered(text, "riva-stream", colour=False, width=width)
        assert "\x1b" not in shown
        assert max(map(len, shown.splitlines())) <= width
        assert "…" in text or "…" not in shown  # a table that does not fit is folded, not cut


def test_links_to_other_pages_become_commands() -> None:
    shown = rendered("See [it](docs/memory.md#a-b), [here](#x), [web](https://x.y).", "PROG", colour=False)
    assert shown == "See it (PROG docs memory#a-b), here, web (https://x.y).\n"


def test_an_unknown_topic_names_the_nearest() -> None:
    done = run("riva_stream", "docs", "semantik")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean semantics" in done.stderr
    done = run("riva_stream", "docs", "zzz", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["exit_code"] == 2


def test_raw_and_json() -> None:
    text = (ROOT / "docs" / "memory.md").read_text()
    assert run("riva_stream", "docs", "memory", "--raw").stdout == text
    assert json.loads(run("riva_stream", "docs", "memory", "--json").stdout)["text"] == text
    listed = json.loads(run("riva_stream", "docs", "--json").stdout)["topics"]
    assert {entry["topic"] for entry in listed} == PAGES


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


def test_a_terminal_gets_colours_at_its_width() -> None:
    seen = on_a_terminal("memory", PAGER="")
    assert "\x1b[1" in seen
    assert "\x1b" not in on_a_terminal("memory", PAGER="", NO_COLOR="1")


def test_the_pager_is_used_on_a_terminal_alone(tmp_path: Path) -> None:
    pager = tmp_path / "pager"
    pager.write_text(f"#!/bin/sh\necho paged with $LESS\nhead -n 1 > {tmp_path}/first\n")
    pager.chmod(0o755)
    assert on_a_terminal("reliability", PAGER=str(pager)) == "paged with FRX\n"  # and left before the end
    assert (tmp_path / "first").read_text().strip()
    assert "paged" not in run("riva_stream", "docs", "memory", env={**os.environ, "PAGER": str(pager)}).stdout
    # one that cannot be started is not missed
    assert "Memory" in on_a_terminal("memory", PAGER="/no/such/pager")
    assert "Memory" in on_a_terminal("memory", PAGER="'unbalanced")
