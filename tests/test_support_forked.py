"""A module that is run in a forked process is run as ``python -m`` runs it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli_processes import run
from tests.support.forked import Forks

SAID = """\
import atexit, os, sys
atexit.register(print, "done")
print(sys.argv[1:], os.getcwd(), os.environ.get("GIVEN"), sys.stdin.read(), __name__, len(os.listdir("/proc/self/fd")))
print("to stderr", file=sys.stderr)
{ending}
"""
ENDINGS = {
    "the end": "",
    "exit 3": "sys.exit(3)",
    "exit with a text": "sys.exit('no')",
    "an exception": "raise KeyError('x')",
    "a signal": "os.kill(os.getpid(), 15)",
}


@pytest.fixture
def forks() -> Iterator[Forks]:
    forks = Forks()
    yield forks
    forks.stop()


@pytest.mark.parametrize("ending", sorted(ENDINGS))
def test_it_ends_and_says_as_a_new_interpreter_does(ending: str, forks: Forks, tmp_path: Path) -> None:
    (tmp_path / "said.py").write_text(SAID.format(ending=ENDINGS[ending]))
    argv, env = ["said", "a b", ""], {**os.environ, "GIVEN": "x"}
    done = forks.run(argv, cwd=str(tmp_path), env=env, stdin=b"given", timeout=30)
    new = run(*argv, cwd=tmp_path, env=env, input="given", fresh=True)
    assert (done.returncode, done.stdout) == (new.returncode, new.stdout)
    assert done.stderr.splitlines()[-1:] == new.stderr.splitlines()[-1:]


def test_one_that_takes_too_long_is_killed(forks: Forks, tmp_path: Path) -> None:
    (tmp_path / "long.py").write_text("import os, signal\nprint(os.getpid(), flush=True)\nsignal.pause()\n")
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        forks.run(["long"], cwd=str(tmp_path), env=os.environ, stdin=b"", timeout=5)
    with pytest.raises(ProcessLookupError):
        os.kill(int(str(caught.value.stdout)), 0)


def test_a_server_that_has_died_is_started_again(forks: Forks) -> None:
    for _ in range(2):
        done = forks.run(["this"], cwd="/", env=os.environ, stdin=b"", timeout=30)
        assert done.returncode == 0
        assert forks._server is not None
        forks._server.send_signal(signal.SIGKILL)
        forks._server.wait()


@pytest.mark.parametrize("name", ["PYTHONUTF8", "LC_ALL", "LANG", "COV_CORE_SOURCE"])
def test_what_an_interpreter_reads_itself_needs_a_new_one(name: str, forks: Forks) -> None:
    assert forks.fits({**os.environ, "GIVEN": "x"}) == (not any(it.startswith("COV") for it in os.environ))
    assert not forks.fits({**os.environ, name: "another"})
