"""The drop-in for RIVA-130, called as its users call it: a process, whatever its folder and environment."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli_processes import run
from tests.drop_in import NAME, ROOT, copy_of_the_repository, script_of, with_this_interpreter
from tests.staging import SOURCE_KEY, Place
from tests.support.faultproxy import FaultProxy
from tests.support.iam import Enforce
from tests.support.servers import MotoServer

FLAGS = (
    *("--reference-only", "--full-download", "--bintarball-reference", "--force", "--no-checksum"),
    *("--retention-days=N", "--timeout=N", "--dry-run", "--trace", "--docs", "--help"),
)

# Stands where the interpreter would: says what it was called with, and obeys.
DOUBLE = """\
#!/bin/sh
for word in "$@"; do echo "arg=$word"; done
echo "root=$RIVA_STREAM_ROOT"
echo "as=$RIVA_STREAM_CALLED_AS"
[ -z "$WAIT" ] || exec sleep 60
exit "${CODE:-0}"
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with a blank in its path, and an environment that is up to date but only pretends."""
    root = copy_of_the_repository(tmp_path / "my repository")
    python = root / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(DOUBLE)
    python.chmod(0o755)
    both = (root / "pyproject.toml").read_bytes() + (root / "scripts/constraints.txt").read_bytes()
    stamp = subprocess.run(["sha256sum"], input=both, capture_output=True, check=True).stdout
    (root / ".venv/.installed").write_bytes(stamp)
    return root


def call(script: Path, *flags: str, **options: Any) -> subprocess.CompletedProcess[str]:
    given: dict[str, Any] = {"timeout": 60, "env": {}} | options
    return subprocess.run([str(script), *flags], capture_output=True, text=True, check=False, **given)


def words(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line.removeprefix("arg=") for line in done.stdout.splitlines() if line.startswith("arg=")]


@pytest.mark.parametrize("flags", [["--help"], ["-h"], ["--force", "--help", "--bogus"]])
def test_help_needs_no_environment(repository: Path, flags: list[str]) -> None:
    shutil.rmtree(repository / ".venv")
    done = call(script_of(repository), *flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(flag in done.stdout for flag in FLAGS)
    assert not (repository / ".venv").exists()


@pytest.mark.parametrize(
    ("flag", "guess"),
    [
        ("--bogus", ""),
        ("--bogus=1", ""),
        ("-x", ""),
        ("--referenceonly", "--reference-only"),
        ("--dry", "--dry-run"),
        ("--forse", "--force"),
        ("--retention_days=7", "--retention-days"),
    ],
)
def test_an_unknown_option_is_a_usage_error_at_once(repository: Path, flag: str, guess: str) -> None:
    shutil.rmtree(repository / ".venv")
    done = call(script_of(repository), "--force", flag)
    assert (done.returncode, done.stdout) == (2, "")
    assert flag in done.stderr
    assert (f"did you mean {guess}? See {NAME} --help" if guess else f"see {NAME} --help") in done.stderr
    assert not (repository / ".venv").exists()


def test_an_unknown_option_is_one_document_where_that_is_wanted(repository: Path) -> None:
    done = call(script_of(repository), '--for"c\\\te', "--json")
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert (error["type"], error["exit_code"]) == ("UsageError", 2)
    assert '--for"c\\\te' in error["message"]
    assert error["hint"].startswith("did you mean --force?")


def test_flags_are_passed_on_as_they_are(repository: Path) -> None:
    flags = [
        "--reference-only",
        "--force",
        "--no-checksum",
        "--retention-days=30",
        "--timeout",
        "600",
        "--json",
    ]
    done = call(
        script_of(repository), *flags, "--description", "two words; $HOME *", "--bintarball-reference"
    )
    assert words(done) == [
        *(
            "-P",
            "-m",
            "riva_stream",
            "stage",
            *flags,
            "--description",
            "two words; $HOME *",
            "--bintarball-reference",
        ),
    ]
    assert words(call(script_of(repository))) == ["-P", "-m", "riva_stream", "stage"]
    assert words(call(script_of(repository), "--force", "--docs")) == [
        "-P",
        "-m",
        "riva_stream",
        "docs",
        "riva-130",
    ]


@pytest.mark.parametrize("code", [0, 65, 66, 73, 75, 77, 78])
def test_the_exit_code_is_passed_on(repository: Path, code: int) -> None:
    assert call(script_of(repository), env={"CODE": str(code)}).returncode == code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -15), (signal.SIGINT, -2)])
def test_a_signal_reaches_the_program_itself(repository: Path, number: int, code: int) -> None:
    """No shell is left in between that would die of it and leave the program behind."""
    process = subprocess.Popen(
        [str(script_of(repository))], env={"WAIT": "1"}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        while not process.stdout.readline().startswith("as="):
            pass
        while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n":
            os.sched_yield()
        process.send_signal(number)
        assert process.wait(30) == code


def test_it_finds_its_repository_from_anywhere(repository: Path, tmp_path: Path) -> None:
    link = tmp_path / "riva 130"
    link.symlink_to(script_of(repository))
    chain = tmp_path / "link"
    chain.symlink_to(link.name)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for script in (script_of(repository), link, chain, Path("../link")):
        done = call(script, cwd=elsewhere)
        assert f"root={repository}\n" in done.stdout
        assert f"as={script}\n" in done.stdout


def test_tracing_shows_no_value(repository: Path) -> None:
    flags = ("--endpoint-url", "http://user:hunter2@localhost:9000", "--description=hunter2")
    traced = call(script_of(repository), *flags, "--trace")
    assert words(traced)[-1] == "--debug"
    assert "+ ensure_environment" in traced.stderr
    assert "hunter2" not in traced.stderr
    assert call(script_of(repository), env={"TRACE": "Yes"}).stderr
    for value in ("", "0", "no"):
        assert call(script_of(repository), env={"TRACE": value}).stderr == ""


def test_an_environment_with_extras_is_good_enough(repository: Path) -> None:
    (repository / ".venv/.installed").rename(repository / ".venv/.installed-test")
    assert call(script_of(repository)).stderr == ""


# --- with the program behind it


def test_the_scripts_docs_are_this_page(repository: Path) -> None:
    page = (ROOT / "docs" / "from-riva-130.md").read_text()
    done = call(with_this_interpreter(repository), "--docs", env={**os.environ, "PAGER": ""})
    assert done.returncode == 0, done.stderr
    assert page.startswith("# From RIVA-130\n")
    assert done.stdout.lstrip().startswith("From RIVA-130")
    assert "`" not in done.stdout.partition("Changing over")[0]
    raw = run("riva_stream", "docs", "riva-130", "--raw")
    assert (raw.returncode, raw.stdout) == (0, page)


def test_without_settings_all_that_is_missing_is_said(repository: Path, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MODEL_VERSION=v1\n")  # the caller's folder's, which is none of ours
    done = call(with_this_interpreter(repository), "--quiet", cwd=tmp_path)
    assert done.returncode == 78
    assert "--model-version or MODEL_VERSION is not set" in done.stderr
    assert not (tmp_path / "state").exists()


def test_it_stages_with_the_settings_of_its_repository(
    repository: Path, tmp_path: Path, moto: MotoServer, moto_bucket: str
) -> None:
    script, client = with_this_interpreter(repository), moto.client()
    client.put_object(Bucket=moto_bucket, Key="in/model_v8.1.tar.gz", Body=b"an archive")
    client.put_object(Bucket=moto_bucket, Key="in/riva.tar.gz", Body=b"an image")
    settings = {
        "RIVA_MODEL_PATH": "in/model_v8.1.tar.gz",
        "NVIDIA_DRIVERS_S3_BUCKET": moto_bucket,
        "RIVA_MODEL_SELECTED": "model_v8.1.tar.gz",
        "ENV": "dev",
        "RIVA_SERVER_PATH": "in/riva.tar.gz",
        **moto.environment(),
    }
    (repository / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = call(script, "--reference-only", "--bintarball-reference", "--json", cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["mode"], report["outcome"]) == ("bintarball_reference", "staged")
    prefix = "bintarball/deployment-metadata/dev/model_v8.1/v8.1/"
    assert report["destination"] == f"s3://{moto_bucket}/{prefix}"
    listed = client.list_objects_v2(Bucket=moto_bucket, Prefix=prefix)["Contents"]
    assert [entry["Key"].removeprefix(prefix) for entry in listed] == [
        "deployment.json",
        "deployment_ready.txt",
    ]
    assert (repository / "state/runs" / report["run_id"] / "report.json").is_file()
    assert not list(elsewhere.iterdir())

    client.put_object(Bucket=moto_bucket, Key="in/riva.tar.gz", Body=b"another image")
    refused = call(script, "--bintarball-reference", "--quiet", cwd=elsewhere)
    assert refused.returncode == 73
    assert f"'{script}' --bintarball-reference --quiet --force\n" in refused.stderr  # to be pasted as it is


@pytest.mark.parametrize(("flags", "code"), [(["--quiet"], 78), (["--docs"], 0)])
def test_modules_in_the_callers_folder_are_none_of_ours(
    repository: Path, tmp_path: Path, flags: list[str], code: int
) -> None:
    for name in ("json.py", "argparse.py", "riva_stream.py"):
        (tmp_path / name).write_text("raise SystemExit('this is not yours')\n")
    done = call(with_this_interpreter(repository), *flags, cwd=tmp_path, env=_importing())
    assert done.returncode == code, done.stderr


def test_a_denied_access_names_a_command_that_prints_the_policy(
    repository: Path, tmp_path: Path, moto: MotoServer, moto_bucket: str
) -> None:
    """Any command but the script's own: to be pasted as it is, wherever one stands."""
    script, place = with_this_interpreter(repository), Place(moto, moto_bucket)
    place.source()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with FaultProxy(moto, [Enforce(policy={"Statement": []})]).in_thread() as proxy:
        settings = {
            "RIVA_ASR_MODEL_S3_URI": f"s3://{moto_bucket}/{SOURCE_KEY}",
            "NVIDIA_DRIVERS_S3_BUCKET": moto_bucket,
            "ENV": "dev",
            "RIVA_ASR_MODEL_NAME": "m",
            "MODEL_VERSION": "v1",
            **moto.environment(),
            "AWS_ENDPOINT_URL": proxy.endpoint_url,
        }
        (repository / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        done = call(script, "--force", "--quiet", cwd=elsewhere, env=_importing())
    assert done.returncode == 77, done.stderr
    command = done.stderr.split("all that a run needs is printed by:\n")[1].splitlines()[0].strip()
    shown = subprocess.run(
        ["sh", "-c", command], cwd=elsewhere, env=_importing(), capture_output=True, text=True, check=True
    )
    statements = {statement["Sid"]: statement for statement in json.loads(shown.stdout)["Statement"]}
    assert statements["WriteStaging"]["Resource"] == f"arn:aws:s3:::{moto_bucket}/dev/m/v1/*"


def _importing() -> dict[str, str]:
    """Nothing of the environment but what finds the package where the tests do."""
    return {name: value for name, value in os.environ.items() if name == "PYTHONPATH"}
