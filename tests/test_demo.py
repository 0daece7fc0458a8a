"""The demo does what it says, wherever it runs, and says so when something is wrong."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.servers import MotoServer

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "scripts" / "demo.py"


def start(*argv: str, folder: Path, **environment: str) -> subprocess.Popen[str]:
    """Start the demo with a folder of its own for temporary files."""
    return subprocess.Popen(
        [sys.executable, str(DEMO), *argv],
        env={**os.environ, "TMPDIR": str(folder), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


ELSEWHERE = "http://127.0.0.1:9"
HOSTILE = {
    "AWS_PROFILE": "no-such-profile",
    "AWS_ACCESS_KEY_ID": "somebody",
    "AWS_ENDPOINT_URL": ELSEWHERE,
    "AWS_REGION": "mars-north-1",
    "HTTP_PROXY": ELSEWHERE,
    "http_proxy": ELSEWHERE,
    "RIVA_ASR_MODEL_SHA256": "0" * 64,
    "ENV": "..",
}
"""Settings of the caller, which do not matter."""


def test_it_stages_looks_and_stages_again(tmp_path: Path) -> None:
    with start("--size", "12", folder=tmp_path, **HOSTILE) as demo:
        out, err = demo.communicate(timeout=120)
    assert demo.returncode == 0, out + err
    assert err == ""
    for words in (
        "Staged (in full)",
        "deployment.staging_mode",
        "SHA-256 of artifact.json",
        "Already staged",
    ):
        assert words in out
    assert len(re.findall(r"^    (?:source|models)/\S+: OK$", out, re.MULTILINE)) == 4
    tour = (ROOT / "docs" / "tour.md").read_text().rpartition("\nChecked\n")[2]
    assert checks(out) == checks(tour), "the tour shows what it prints"
    assert "\x1b" not in out, "colours are for terminals"
    assert max(map(len, out.splitlines())) <= 80
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def checks(text: str) -> list[str]:
    """The beginning of each line on what a staging checked."""
    return re.findall(r"^  (\[[x ]\](?: [^ ]+){3})", text, re.MULTILINE)


@pytest.mark.long
def test_a_terminal_that_knows_no_unicode_is_no_reason_to_fail(tmp_path: Path) -> None:
    with start("--size", "1", folder=tmp_path, PYTHONIOENCODING="ascii") as demo:
        out, err = demo.communicate(timeout=120)
    assert demo.returncode == 0, out + err


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.long), (signal.SIGTERM, 143)]
)
def test_a_signal_ends_it_and_what_it_started(tmp_path: Path, number: signal.Signals, code: int) -> None:
    with start("--size", "48", folder=tmp_path) as demo:
        assert demo.stdout is not None
        assert any(line.startswith("$ python -m riva_stream stage") for line in demo.stdout)
        child = children(demo.pid)
        demo.send_signal(number)
        _, err = demo.communicate(timeout=60)
    assert demo.returncode == code, err
    assert "Traceback" not in err
    assert child
    assert not [pid for pid in child if Path(f"/proc/{pid}").exists()]
    assert not list(tmp_path.iterdir())


def children(pid: int) -> list[int]:
    """Process ids that *pid* has started, as soon as there is one."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        found = [
            int(number)
            for path in Path(f"/proc/{pid}/task").glob("*/children")
            for number in path.read_text().split()
        ]
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError("it started nothing")


def test_a_size_out_of_range_is_refused(tmp_path: Path) -> None:
    with start("--size", "0", folder=tmp_path) as demo:
        _, err = demo.communicate(timeout=60)
    assert demo.returncode == 2
    assert "from 1 to 4096" in err


def test_the_scripts_can_be_run() -> None:
    for name in ("demo", "test"):
        script = ROOT / "scripts" / name
        assert os.access(script, os.X_OK)
        subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.fixture
def demo() -> ModuleType:
    """The demo as a module."""
    spec = importlib.util.spec_from_file_location("riva_stream_demo", DEMO)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def staged(demo: ModuleType, moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A bucket with one model and a line about it."""
    bucket, client = moto.new_bucket(), moto.client()
    monkeypatch.setattr(demo, "TO", bucket)
    line = f"{hashlib.sha256(b'weights').hexdigest()}  models/a.riva\n"
    client.put_object(Bucket=bucket, Key=demo.PREFIX + "models/a.riva", Body=b"weights")
    client.put_object(Bucket=bucket, Key=demo.PREFIX + "checksums.sha256", Body=line.encode())
    return client


def test_the_checksums_are_really_compared(
    demo: ModuleType, staged: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    right = hashlib.sha256(b"weights").hexdigest()
    demo.check_checksums(staged, {"a.riva": right})
    with pytest.raises(demo.DemoError, match=r"b\.riva is not what went into"):
        demo.check_checksums(staged, {"a.riva": right, "b.riva": right})
    staged.put_object(Bucket=demo.TO, Key=demo.PREFIX + "models/a.riva", Body=b"weightz")
    with pytest.raises(demo.DemoError, match=r"models/a\.riva are not those"):
        demo.check_checksums(staged, {"a.riva": right})
