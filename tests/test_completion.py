"""`completion`: bash really completes by the script; every shell's knows every command, flag and file."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from riva_stream.cli.app import build_parser, main
from tests.cli_processes import run


@pytest.fixture(scope="module")
def script() -> str:
    done = run("riva_stream", "completion", "bash")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def complete(script: str, line: str, folder: Path) -> list[str]:
    """What bash offers at the end of *line*."""
    quoted = " ".join(f"'{word}'" for word in line.split(" "))
    code = f"""{script}
COMP_WORDS=({quoted}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
$(complete -p riva-stream | sed -n 's/.*-F \\([^ ]*\\) .*/\\1/p')
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    bash = ["bash", "--norc", "--noprofile", "-c", code]
    done = subprocess.run(bash, capture_output=True, text=True, cwd=folder, timeout=20, check=True)
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1] if done.stdout.strip() else []


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("riva-stream st", ["stage", "stage-all", "status"]),
        ("riva-stream stage --ref", ["--reference-only"]),
        ("riva-stream stage --sse a", ["aws:kms", "aws:kms:dsse"]),
        ("riva-stream stage --bucket ", []),  # nobody can guess it; and no file names
        ("riva-stream stage --bucket x --env-file set", ["settings.env", "settings two.env"]),
        ("riva-stream stage --state-dir ", ["state folder"]),
        ("riva-stream schema ma", ["manifest"]),
        ("riva-stream --ver", ["--version"]),
        ("riva-stream gc --reference", []),
        ("riva-stream docs sem", ["semantics"]),
        ("riva-stream retention s3://b --by", ["--by-tag"]),
    ],
)
def test_bash_completes(script: str, line: str, offered: list[str], tmp_path: Path) -> None:
    for name in ("settings.env", "settings two.env", "other"):
        (tmp_path / name).touch()
    (tmp_path / "state folder").mkdir()
    assert sorted(complete(script, line, tmp_path)) == sorted(offered)


def test_bash_completes_every_command_and_every_flag(script: str, tmp_path: Path) -> None:
    commands = build_parser("riva-stream").commands
    assert set(complete(script, "riva-stream ", tmp_path)) == set(commands)
    for name, parser in commands.items():
        assert set(complete(script, f"riva-stream {name} -", tmp_path)) == set(parser.flags()), name


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_and_flag_is_in_the_script(shell: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capfd.readouterr().out
    for name, parser in build_parser("riva-stream").commands.items():
        assert re.search(rf"\b{name}\b", text), name
        for flag in parser.flags():
            assert flag.lstrip("-") in text, (name, flag)


def test_an_unknown_shell_is_a_usage_error() -> None:
    assert run("riva_stream", "completion", "bsh").returncode == 2


def test_nobody_reading_is_no_error() -> None:
    command = f"{sys.executable} -m riva_stream completion zsh | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("0\n", "")
