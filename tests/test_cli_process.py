"""The command line as a process: what it prints and the code it ends with. Only the pipeline is made up."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli_processes import double, run

# --- what needs no run


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["stage", "--help"],
        ["stage-all", "--help"],
        ["verify", "--help"],
        ["status", "--help"],
        ["schema", "--help"],
    ],
)
def test_help_imports_nothing_heavy(argv: list[str]) -> None:
    code = (
        "import sys, riva_stream.cli\n"
        f"code = riva_stream.cli.main({argv!r})\n"
        "heavy = {'pydantic', 'rich', 'aioboto3', 'botocore', 'asyncio', 'uvloop', 'anyio', 'dotenv', 'difflib'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)), 'code:', code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "heavy: [] code: 0" in done.stdout
    assert "examples:" in done.stdout
    assert "riva-stream" in done.stdout


def test_no_command_prints_the_help_and_is_a_usage_error() -> None:
    done = run("riva_stream")
    assert (done.returncode, done.stdout) == (2, "")
    assert "python -m riva_stream [-h]" in done.stderr
    assert "stage" in done.stderr


def test_version() -> None:
    done = run("riva_stream", "--version")
    assert done.returncode == 0
    assert re.fullmatch(r"riva_stream \d+\.\d+\S*\n", done.stdout)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["stagee"], "invalid choice"),
        (["stage", "--buckett", "x"], "did you mean --bucket?"),
        (["stage", "--reference"], "did you mean --reference-only?"),
        (["stage", "--memory", "lots"], "write it like 64MiB"),
        (["stage", "--timeout", "soon"], "write it like 90"),
        (["stage", "--sse", "rot13"], "invalid choice"),
        (["schema", "nothing"], "invalid choice"),
    ],
)
def test_usage_errors_exit_2(argv: list[str], said: str) -> None:
    done = run("riva_stream", *argv)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    done = run("riva_stream", *argv, "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["exit_code"] == 2


@pytest.mark.parametrize(
    "kind",
    ["artifact", "manifest", "deployment", "report", "promotion", "verify", "status", "ls", "catalogue"],
)
def test_schema_prints_one_json_schema(kind: str) -> None:
    done = run("riva_stream", "schema", kind)
    assert done.returncode == 0
    assert json.loads(done.stdout)["$schema"].endswith("2020-12/schema")


def test_the_file_of_settings_has_to_exist_when_named(tmp_path: Path) -> None:
    done = run("riva_stream", "stage", "--env-file", str(tmp_path / "none.env"))
    assert done.returncode == 78
    assert "none.env cannot be read" in done.stderr


def test_all_wrong_settings_are_said_at_once(tmp_path: Path) -> None:
    done = run("riva_stream", "stage", "--json", "--memory", "1M", cwd=tmp_path)
    assert done.returncode == 78
    error = json.loads(done.stdout)["error"]
    assert [p["setting"] for p in error["problems"]] == [
        *("source", "bucket", "env", "model_name", "model_version", "region", "memory"),
    ]
    assert all(p["example"] and p["flag"] for p in error["problems"])
    assert done.stderr.count("for example:") == 7


@pytest.mark.parametrize("argv", [["stage"], ["check"], ["ls", "s3://b/"], ["policy"]])
def test_what_the_file_had_in_vain_is_said_with_what_is_missing(argv: list[str], tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# settings\nAWS_REGION us-east-2\n")
    done = run("riva_stream", *argv, "--json" if argv != ["policy"] else "--debug", cwd=tmp_path)
    assert done.returncode == 78
    assert ".env: line 2 is not NAME=value" in done.stdout + done.stderr


@pytest.mark.parametrize(
    "argv",
    [
        ["ls", b"s3://b/QQ\xff", "--region", "us-east-1"],
        ["verify", b"s3://b/QQ\xff/n/v/", "--region", "us-east-1"],
        ["status", b"s3://b/QQ\xff/n/v/", "--region", "us-east-1"],
        ["gc", b"s3://b/QQ\xff", "--region", "us-east-1"],
        ["stage", "--description", b"QQ\xff"],
        ["check", "--source", b"s3://b/QQ\xff"],
        ["policy", "--env", b"QQ\xff"],
    ],
)
def test_words_that_are_not_utf_8_are_no_bug(argv: list[str], tmp_path: Path) -> None:
    done = run("riva_stream", *argv, cwd=tmp_path)
    assert done.returncode == 78
    assert "QQ" not in done.stdout + done.stderr


@pytest.mark.parametrize("argv", [["stage", "--source", "s3://b/modèle.tar"], ["ls", "s3://b/modèle"]])
def test_a_locale_that_cannot_read_the_command_line_is_named(argv: list[str], tmp_path: Path) -> None:
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "AWS_REGION": "us-east-1"}
    done = run("riva_stream", *argv, cwd=tmp_path, env={**os.environ, **locale}, fresh=True)
    assert done.returncode == 78
    assert "cannot be read in this locale, whose encoding is ascii: set LC_ALL=C.UTF-8" in done.stderr


# --- results


def test_the_summary_is_all_of_stdout() -> None:
    done = double("good")
    assert done.returncode == 0
    assert done.stdout.startswith("Staged (in full)\n")
    assert "warning" in done.stdout.lower()
    assert "found x/a.riva" in done.stderr


@pytest.mark.parametrize("more", [[], ["--quiet"], ["--debug"], ["--log-format", "json"]])
def test_json_is_exactly_one_document(more: list[str]) -> None:
    done = double("good", "--json", *more)
    assert json.loads(done.stdout)["outcome"] == "staged"
    done = double("denied", "--json", *more)
    assert done.returncode == 77
    document = json.loads(done.stdout)
    assert document["error"]["where"] == {"operation": "PutObject", "bucket": "b", "status": 403}
    assert document["run_id"].startswith("130-")
    assert "not allowed" in done.stderr


def test_json_logs_are_one_object_a_line() -> None:
    for scenario in ("good", "denied", "stray"):
        done = double(scenario, "--log-format", "json", "--run-id", "R1")
        lines = [json.loads(line) for line in done.stderr.splitlines()]
        assert {line["run_id"] for line in lines} == {"R1"}
        assert all(line["time"] and line["event"] for line in lines)
        assert lines[0]["event"] == "stage_started"


def test_quiet_keeps_only_the_summary_and_errors() -> None:
    done = double("good", "--quiet")
    assert done.stderr == ""
    assert "Staged" in done.stdout
    done = double("denied", "--quiet")
    assert done.stderr.startswith("riva_stream: not allowed")


@pytest.mark.parametrize(
    ("scenario", "code", "said"),
    [
        ("archive", 65, "the gzip CRC is wrong"),
        ("missing", 66, "nearest keys: parakeet2.tar.gz"),
        ("conflict", 73, "--region us-east-2 --force"),
        ("transient", 75, "run the same command again"),
        ("held", 75, "run 130-x holds the prefix"),
        ("denied", 77, "PutObject, s3://b, HTTP 403"),
        ("bug", 1, "this is a bug in riva_stream"),
        ("ours", 1, "this is a bug in riva_stream"),
        ("group", 65, "the gzip CRC is wrong"),
        ("groups", 65, "also:  the connection broke"),
    ],
)
def test_each_failure_has_its_exit_code_and_next_step(scenario: str, code: int, said: str) -> None:
    done = double(scenario)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert f"exit code {code}, run 130-" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Traceback" in double(scenario, "--debug").stderr


@pytest.mark.parametrize("loop", ["auto", "asyncio", "uvloop"])
def test_each_event_loop_runs(loop: str) -> None:
    assert double("good", "--loop", loop).returncode == 0


# --- what the run finds in its process


@pytest.mark.parametrize(
    ("environment", "flags", "found"),
    [
        ({}, [], {"profile": "file", "AWS_PROFILE": "file", "AWS_ROLE_ARN": "arn"}),
        ({"AWS_PROFILE": "env"}, [], {"profile": "env", "AWS_PROFILE": "env", "AWS_ROLE_ARN": "arn"}),
        ({"AWS_PROFILE": ""}, [], {"profile": "file", "AWS_PROFILE": "file", "AWS_ROLE_ARN": "arn"}),
        ({"AWS_PROFILE": "env"}, ["--profile", "flag"], {"profile": "flag", "AWS_ROLE_ARN": "arn"}),
        (
            {"AWS_PROFILE": "env", "AWS_ACCESS_KEY_ID": "id", "AWS_ROLE_ARN": "mine"},
            [],
            {"profile": None, "AWS_ACCESS_KEY_ID": "id", "AWS_ROLE_ARN": "mine"},
        ),
    ],
)
def test_the_environment_of_a_run(
    environment: dict[str, str], flags: list[str], found: dict[str, str | None], tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("AWS_PROFILE=file\nexport AWS_ROLE_ARN='arn' # a role\n")
    done = double("environment", "--json", *flags, cwd=tmp_path, env=environment)
    assert json.loads(json.loads(done.stdout)["error"]["message"]) == {"state": "state", **found}


def test_an_empty_profile_is_ignored_with_a_warning(tmp_path: Path) -> None:
    done = double("environment", "--json", cwd=tmp_path, env={"AWS_PROFILE": ""})
    assert "AWS_PROFILE is empty and was ignored" in done.stderr
    assert json.loads(json.loads(done.stdout)["error"]["message"]) == {"state": "state", "profile": None}


# --- secrets


@pytest.mark.parametrize("place", ["environment", "file"])
@pytest.mark.parametrize("more", [[], ["--json"], ["--debug"], ["--log-format", "json", "--json", "--debug"]])
def test_no_secret_is_ever_printed(place: str, more: list[str], tmp_path: Path) -> None:
    secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
    token = "FwoGZXIvYXdzEXAMPLE//////TOKEN=="
    values = {
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_SESSION_TOKEN": token,
    }
    (tmp_path / ".env").write_text("".join(f"export {k}='{v}'\n" for k, v in values.items()))
    environment = values if place == "environment" else {}
    for scenario, code in (("good", 0), ("secret", 77)):
        done = double(scenario, *more, cwd=tmp_path, env=environment)
        assert done.returncode == code
        assert secret not in done.stdout + done.stderr
        assert token not in done.stdout + done.stderr
    assert "leaked" in done.stderr
    assert "a library prints" in done.stderr
    assert "***" in done.stderr


def test_a_password_in_an_endpoint_is_not_repeated() -> None:
    done = double("transient", "--endpoint-url", "http://user:hunter2@localhost:9000")
    assert done.returncode == 78
    assert "user name" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr
