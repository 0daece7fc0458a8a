"""Files of this host that hold, or are, something else than they should: nothing waits without end, nothing is a bug."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from riva_stream import handover
from riva_stream.cli import main
from riva_stream.cli.settings.env_file import read_env_file
from riva_stream.errors import ConfigurationError
from riva_stream.files import open_regular, read_given, read_regular
from riva_stream.inspection.last_run import last_run_of
from tests.cli_processes import run
from tests.test_next import ARTIFACT, CHECKSUMS, VALUES

RUN_ID = "130-20250923-101500-0a1b2c3d"
REQUEST = {
    "bucket": "b",
    "env": "prod",
    "model_name": "parakeet",
    "model_version": "v1",
    "region": "us-east-1",
    "endpoint_url": "http://127.0.0.1:9",
}
ARGV = (
    *("stage", "--source", "s3://models/a.tar.gz", "--bucket", "deploy", "--env", "dev", "--model-name", "n"),
    *("--model-version", "v1", "--region", "us-east-1", "--endpoint-url", "http://127.0.0.1:9"),
    *("--timeout", "2s", "--retries", "0"),
)
DEEP = '{"a":' * 50_000


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The state directory of a run that has staged."""
    folder = tmp_path / "state"
    ending = handover.Ending(RUN_ID, 0, 1, "", "riva-stream stage", datetime(2025, 9, 23, tzinfo=UTC))
    handover.finish(folder, ending, VALUES, json.dumps(ARTIFACT).encode(), CHECKSUMS)
    run = folder / "runs" / RUN_ID
    run.mkdir(parents=True)
    (run / "request.json").write_text(json.dumps(REQUEST))
    (run / "report.json").write_text(json.dumps({"outcome": "staged"}))
    (run / "journal.json").write_text("{}")
    return folder


def called(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own, which a test can give up."""
    keys = {"AWS_ACCESS_KEY_ID": "AKIDTHATISRIGHT", "AWS_SECRET_ACCESS_KEY": "a-secret-that-is-right"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return run("riva_stream", *words, env=kept | (environment or keys), timeout=20)


def words_of(command: str, state: Path) -> list[str]:
    if command == "next":
        return ["next", "--state-dir", str(state)]
    return ["status", str(state), "--no-wait", "--quiet", "--endpoint-url", "http://127.0.0.1:9"]


# --- what files hold

ODD = {
    "too deep": DEEP,
    "a list": "[1]",
    "text for tables": '{"model": "x", "deployment": "x", "build_info": [1], "status": [], "bucket": {}, "outcome": []}',
    "tables for text": json.dumps(
        {name: {"a": 1} for name in (*REQUEST, "outcome", "ca_bundle", "addressing")}
    ),
    "no UTF-8": "\udcff",
    "a number of many digits": '{"a": ' + "9" * 10_000 + "}",
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(
    "name", ["130.json", "last_artifact_metadata.json", "request.json", "report.json", "journal.json"]
)
def test_json_that_is_something_else_is_no_bug(name: str, odd: str, state: Path) -> None:
    (path,) = state.rglob(name)
    path.write_bytes(ODD[odd].encode(errors="surrogateescape"))
    assert main(words_of("next", state)) in {0, 65, 66, 75, 78}
    try:
        found = last_run_of(state)
    except ConfigurationError:  # of what `status` cannot do without
        assert name == "request.json"
    else:
        assert all(value is None or isinstance(value, str) for value in found.endpoint.values())


@pytest.mark.parametrize("line", ["exit_code=" + "9" * 5000, "exit_code=²", "exit_code=-1"])
def test_an_exit_code_that_is_none_is_no_bug(line: str, state: Path) -> None:
    (state / handover.STATUS).write_text(f"status=failure\nrun_id={RUN_ID}\n{line}\n")
    assert main(words_of("next", state)) == 75


@pytest.mark.parametrize("text", ["LOG_DIR=a\0b\n", "RIVA_STATE_DIR=a\0b\n", "AWS_PROFILE=a\0b\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
def test_a_nul_in_the_settings_is_told(
    text: str,
    encoding: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_bytes(text.encode(encoding))
    assert main([*ARGV, "--quiet"]) == 78
    assert ".env cannot be read: it is not a UTF-8 text, or holds a NUL" in capfd.readouterr().err


# --- what files are


@pytest.mark.parametrize("command", ["next", "status"])
@pytest.mark.parametrize(
    "name",
    [
        *("s3_staging_uri", "130.status", "130.json", "last_artifact_metadata.json", "last_checksums.sha256"),
        "report.json",
    ],
)
def test_a_pipe_in_the_state_directory_is_not_waited_for(name: str, command: str, state: Path) -> None:
    (path,) = state.rglob(name)
    path.unlink()
    os.mkfifo(path)
    done = called(*words_of(command, state))
    assert done.returncode == 78
    assert "it is not a regular file" in done.stderr


@pytest.mark.parametrize("name", [".130.lock", "logs/R1.log", "runs/R1/events.jsonl"])
def test_a_run_does_not_wait_for_a_pipe(name: str, tmp_path: Path) -> None:
    path = tmp_path / "state" / name
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    done = called(*ARGV, "--state-dir", str(tmp_path / "state"), "--run-id", "R1")
    assert "it is not a regular file" in done.stderr
    # the lock guards what the next step reads; a log is worth a warning and no more
    assert done.returncode == (78 if name == ".130.lock" else 75)


def test_a_log_that_is_a_pipe_with_a_reader_is_written_and_never_read(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "R1.log"
    log.parent.mkdir()
    os.mkfifo(log)
    with subprocess.Popen(["cat", log], stdout=subprocess.PIPE, text=True) as reader:
        done = called(*ARGV, f"--state-dir={tmp_path / 'state'}", "--run-id=R1", f"--log-dir={log.parent}")
        assert done.returncode == 75
        assert "stage --source" in reader.communicate(timeout=20)[0]
    assert "exit_code=75" in (tmp_path / "state" / handover.STATUS).read_text()
    with tarfile.open(tmp_path / "state/runs/R1/diagnostics.tar.gz") as bundle:
        text = bundle.extractfile("R1/run.log")
        assert text is not None
        assert b"it is not a regular file" in text.read()


@pytest.mark.parametrize(
    "environment",
    [
        {"AWS_WEB_IDENTITY_TOKEN_FILE": "token", "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/x"},
        {
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "token",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:9/",
        },
        {"AWS_CONFIG_FILE": "config", "AWS_PROFILE": "other"},
    ],
    ids=["web identity", "container", "profile"],
)
def test_a_token_file_that_is_a_pipe_is_refused_at_once(environment: dict[str, str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "token")
    role = "role_arn = arn:aws:iam::123456789012:role/x"
    (tmp_path / "config").write_text(
        f"[profile mine]\n{role}\nweb_identity_token_file = {tmp_path / 'token'}\n"
        f"[profile other]\n{role}\nsource_profile = mine\n"
    )
    paths = {
        name: str(tmp_path / value) if value in {"token", "config"} else value
        for name, value in environment.items()
    }
    done = called(*ARGV, "--state-dir", str(tmp_path / "state"), "--quiet", **paths)
    assert done.returncode == 78
    assert f"{tmp_path / 'token'}: it is not a regular file" in done.stderr


def test_a_configuration_that_is_a_pipe_is_passed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config")
    # as the SDK does, so that there are no credentials
    paths = {"AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_EC2_METADATA_DISABLED": "true"}
    done = called("ls", "s3://b/", "--endpoint-url", "http://127.0.0.1:9", "--quiet", **paths)
    assert done.returncode == 78
    assert "there are no usable credentials" in done.stderr


def test_certificates_that_are_a_pipe_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ca.pem")
    (tmp_path / "config").write_text(f"[default]\nca_bundle = {tmp_path / 'ca.pem'}\n")
    paths = {
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_ACCESS_KEY_ID": "AKIDTHATISRIGHT",
        "AWS_SECRET_ACCESS_KEY": "a-secret-that-is-right",
    }
    done = called("ls", "s3://b/", "--endpoint-url", "https://127.0.0.1:9", "--quiet", **paths)
    assert done.returncode == 78
    assert f"the CA bundle {tmp_path / 'ca.pem'} is not a regular file" in done.stderr


def test_a_file_of_settings_without_an_end_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*ARGV, "--quiet", "--env-file", "/dev/zero"]) == 78
    assert "it has more than 1048576 bytes" in capfd.readouterr().err


def test_a_catalogue_without_an_end_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("riva_stream.catalogue.load._MAX_BYTES", 1 << 20)
    assert main(["stage-all", "/dev/zero", "--quiet"]) == 78
    assert "it has more than 1048576 bytes" in capfd.readouterr().err


@pytest.mark.parametrize("is_written", [False, True])
def test_a_catalogue_that_is_a_silent_pipe_is_given_up(
    is_written: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("riva_stream.catalogue.load._PIPE_SECONDS", 0.3)
    os.mkfifo("c.toml")
    writer = os.open("c.toml", os.O_RDWR) if is_written else None
    try:
        assert main(["stage-all", "c.toml", "--quiet"]) == 78
    finally:
        if writer is not None:
            os.close(writer)
    assert "it is a pipe that received no data" in capfd.readouterr().err


def test_a_pipe_that_is_given_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    data = bytes(300_000)

    def write() -> None:
        time.sleep(0.2)
        with path.open("wb") as file:
            file.write(data[:100_000])
            file.flush()
            time.sleep(0.3)
            file.write(data[100_000:])

    writer = threading.Thread(target=write)
    writer.start()
    assert read_given(path, 1 << 20, patience=10, silence=10) == data
    writer.join()


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"12345")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file"):
            read_regular(path, 10)
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(tmp_path / "pipe", os.O_WRONLY)
    assert read_regular(tmp_path / "file", 5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_regular(tmp_path / "file", 4)


def test_no_settings_are_read_from_nothing() -> None:
    assert dict(read_env_file(Path(os.devnull)).values) == {}


def test_a_state_directory_that_is_refused_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*ARGV, "--quiet", "--state-dir=new\udcff/state", "--log-dir=logs"]) == 78
    assert [path.name for path in tmp_path.iterdir()] == ["logs"], "what may be any bytes is"
    said = capfd.readouterr().err
    assert "--state-dir" in said
    (log,) = (tmp_path / "logs").iterdir()
    assert "this run leaves no state" in log.read_text()
