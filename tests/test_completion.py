"""`completion`: bash, zsh and fish really complete by the script, which knows every command and flag."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from riva_stream.cli.app import build_parser, main
from riva_stream.cli.shells import Words, words_of
from tests.cli_processes import run

SHELLS = ("bash", "zsh", "fish")


@pytest.fixture(scope="module")
def script() -> str:
    done = run("riva_stream", "completion", "bash")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture(scope="module")
def words() -> Words:
    return words_of(build_parser("riva-stream"))


def complete(script: str, line: str, folder: Path) -> list[str]:
    """What bash offers at the end of *line*. It splits words at '=' as readline does."""
    typed = [word for part in line.split(" ") for word in re.split(r"(=)", part) if word or part == ""]
    quoted = " ".join(f"'{word}'" for word in typed)
    code = f"""{script}
COMP_WORDS=({quoted}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
$(complete -p riva-stream | sed -n 's/.*-F \\([^ ]*\\) .*/\\1/p')
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    bash = ["bash", "--norc", "--noprofile", "-u", "-c", code]
    # An empty PATH but for sed: the script must not run any program.
    done = subprocess.run(bash, capture_output=True, text=True, cwd=folder, timeout=20, check=True)
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1] if done.stdout.strip() else []


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("riva-stream st", ["stage", "status"]),
        ("riva-stream stage --ref", ["--reference-only"]),
        ("riva-stream stage --sse a", ["aws:kms", "aws:kms:dsse"]),
        ("riva-stream stage --sse=AE", ["AES256"]),
        ("riva-stream stage --loop=", ["auto", "asyncio", "uvloop"]),
        ("riva-stream stage --bucket ", []),  # nobody can guess it; and no file names
        ("riva-stream stage --bucket x --env-file set", ["settings.env", "settings two.env"]),
        ("riva-stream stage --state-dir ", ["state folder"]),
        ("riva-stream schema ma", ["manifest"]),
        ("riva-stream --ver", ["--version"]),
        ("riva-stream gc --ye", ["--yes"]),
        ("riva-stream gc --reference", []),
        ("riva-stream completion z", ["zsh"]),
        ("riva-stream docs sem", ["semantics"]),
        ("riva-stream retention s3://b --by", ["--by-tag"]),
    ],
)
def test_bash_completes(script: str, line: str, offered: list[str], tmp_path: Path) -> None:
    for name in ("settings.env", "settings two.env", "other"):
        (tmp_path / name).touch()
    (tmp_path / "state folder").mkdir()
    assert sorted(complete(script, line, tmp_path)) == sorted(offered)


def test_an_empty_word_offers_every_command(script: str, words: Words, tmp_path: Path) -> None:
    assert sorted(complete(script, "riva-stream ", tmp_path)) == sorted(words.commands)


def test_bash_completes_every_flag_of_every_command(script: str, words: Words, tmp_path: Path) -> None:
    for name, (_, arguments) in words.commands.items():
        flags = {flag for argument in arguments for flag in argument.flags}
        assert set(complete(script, f"riva-stream {name} -", tmp_path)) == flags, name


@pytest.mark.skipif(not shutil.which("fish"), reason="there is no fish")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("riva-stream st", {"stage", "status"}),
        ("riva-stream stage --refe", {"--reference-only"}),
        ("riva-stream stage --loop ", {"auto", "asyncio", "uvloop"}),
        ("riva-stream schema ma", {"manifest"}),
        ("riva-stream gc --refe", set()),
        ("riva-stream stage --env-file set", {"settings.env"}),
        ("riva-stream stage --bucket ", set()),
    ],
)
def test_fish_completes(line: str, offered: set[str], tmp_path: Path) -> None:
    (tmp_path / "settings.env").touch()
    file = tmp_path / "script"
    file.write_text(run("riva_stream", "completion", "fish").stdout)
    argv = ["fish", "--no-config", "-c", f"source '{file}'; complete -C '{line}'"]
    # Its own files go where nobody looks for them; a program of this name need not be there.
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=20, check=True)
    assert done.stderr == ""
    assert {line.partition("\t")[0] for line in done.stdout.splitlines()} == offered


_ZSHRC = """
PS1=; unsetopt beep zle_bracketed_paste
fpath=($ZDOTDIR $fpath)
autoload -Uz compinit && compinit -u -D
tell() { print -rn -- "$BUFFER" > $ZDOTDIR/became; exit }
zle -N tell
bindkey '^X' tell
"""


@pytest.mark.skipif(not shutil.which("zsh"), reason="there is no zsh")
@pytest.mark.parametrize(
    ("line", "became"),
    [
        ("riva-stream stag", "riva-stream stage "),
        ("riva-stream stage --refe", "riva-stream stage --reference-only "),
        ("riva-stream stage --loop uv", "riva-stream stage --loop uvloop "),
        ("riva-stream completion z", "riva-stream completion zsh "),
        ("riva-stream stage --env-file set", "riva-stream stage --env-file settings.env "),
        ("riva-stream gc --refe", "riva-stream gc --refe"),
    ],
)
def test_zsh_completes(line: str, became: str, tmp_path: Path) -> None:
    """On a terminal: the line and a tab are typed, then a key whose widget writes down what the line has become."""
    (tmp_path / "settings.env").touch()
    (tmp_path / "_riva-stream").write_text(run("riva_stream", "completion", "zsh").stdout)
    (tmp_path / ".zshrc").write_text(_ZSHRC)
    env = {"HOME": str(tmp_path), "ZDOTDIR": str(tmp_path), "PATH": os.environ["PATH"], "TERM": "dumb"}
    keyboard, terminal = os.openpty()
    try:
        with subprocess.Popen(
            ["zsh", "-d", "-i"],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            cwd=tmp_path,
            env=env,
            start_new_session=True,
        ) as shell:
            os.write(keyboard, f"{line}\t\x18".encode())
            assert shell.wait(20) == 0
    finally:
        os.close(keyboard)
        os.close(terminal)
    assert (tmp_path / "became").read_text() == became


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_flag_and_choice_is_in_the_script(
    shell: str, words: Words, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    text = capfd.readouterr().out
    for name, (_, arguments) in words.commands.items():
        assert re.search(rf"\b{name}\b", text), name
        for argument in arguments:
            for flag in argument.flags:
                typed = (
                    flag
                    if shell != "fish"
                    else ("-l " if flag.startswith("--") else "-s ") + flag.lstrip("-")
                )
                assert typed in text, (name, flag)
            for choice in argument.choices:
                assert choice in text, (name, choice)


@pytest.mark.parametrize("shell", SHELLS)
def test_quotes_and_brackets_balance(shell: str, capfd: pytest.CaptureFixture[str]) -> None:
    """What a help text may hold (an apostrophe, a colon, a bracket) must not end a quoted word."""
    main(["completion", shell])
    text = capfd.readouterr().out
    plain = re.sub(r"\\.", "", text.replace("'\\''", ""))
    for line in plain.splitlines():
        if not line.lstrip().startswith("#"):
            assert line.count("'") % 2 == 0, line
    if shell == "zsh":
        for spec in re.findall(r"'\*?(-[^']*)'", plain):
            assert (spec.count("["), spec.count("]")) == (1, 1), spec


@pytest.mark.parametrize("shell", [name for name in SHELLS if shutil.which(name)])
def test_the_shell_itself_takes_the_script(shell: str, tmp_path: Path) -> None:
    file = tmp_path / "script"
    file.write_text(run("riva_stream", "completion", shell).stdout)
    done = subprocess.run([shell, "-n", str(file)], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_unknown_shell_is_a_usage_error() -> None:
    done = run("riva_stream", "completion", "bsh")
    assert done.returncode == 2
    assert "did you mean bash?" in done.stderr


def test_nobody_reading_is_no_error() -> None:
    command = f"{sys.executable} -m riva_stream completion zsh | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("0\n", "")
