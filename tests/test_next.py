"""`next`: what a shell gets of a state directory, and how it ends when there is nothing to go on with."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from riva_stream import handover
from riva_stream.cli import main
from riva_stream.handover import Ending

ARTIFACT = {
    "model": {"name": "parakeet", "version": "v1", "language_code": "en-US"},
    "deployment": {"environment": "prod", "s3_bucket": "b", "staging_mode": "full"},
    "build_info": {"run_id": "130-a"},
}
VALUES = {
    "s3_staging_uri": "s3://b/prod/parakeet/v1",
    "upload_timestamp": "2025-09-23T10:15:00Z",
    "source_model_s3_uri": "s3://models/it's $(odd) `name`\n.tar.gz",
    "source_model_size": "12",
    "checksum_file": "/gone/checksums.sha256",
    "artifact_metadata": "/gone/artifact.json",
    "primary_riva_file": "s3://b/prod/parakeet/v1/models/a.riva",
}
IMAGE = {"container_s3_uri": "s3://b/image.tar", "bintarball_manifest": "s3://b/deployment.json"}
CHECKSUMS = b"00  models/a.riva\n"


def ended(
    folder: Path, code: int = 0, values: dict[str, str] | None = None, run_id: str = "130-a", log: str = ""
) -> None:
    ending = Ending(
        run_id=run_id,
        exit_code=code,
        duration_ms=1,
        log_file=log,
        command="riva-stream stage --env prod",
        ended_at=datetime(2025, 9, 23, tzinfo=UTC),
    )
    if code:
        handover.finish(folder, ending, {}, None)
    else:
        artifact = json.dumps(ARTIFACT).encode()
        handover.finish(folder, ending, VALUES if values is None else values, artifact, CHECKSUMS)


def call(folder: Path, *flags: str) -> int:
    return main(["next", "--state-dir", str(folder), *flags])


def evaluated(lines: str, name: str) -> str:
    script = f'eval "$1"; printf %s "${name}"; env | grep -q "^{name}="'
    done = subprocess.run(
        ["sh", "-euc", script, "sh", lines], env={name: "stale"}, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_a_shell_can_evaluate_it_whatever_the_names_hold(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ended(tmp_path)
    assert call(tmp_path) == 0
    lines = capfd.readouterr().out
    for name in ("s3_staging_uri", "source_model_s3_uri", "source_model_size", "upload_timestamp"):
        assert evaluated(lines, name.upper()) == VALUES[name]
    assert evaluated(lines, "RIVA_ASR_MODEL_NAME") == "parakeet"
    assert evaluated(lines, "MODEL_VERSION") == "v1"
    assert evaluated(lines, "ENV") == "prod"
    assert evaluated(lines, "STAGING_RUN_ID") == "130-a"
    # what this staging has no value for must not stay from the one before
    assert evaluated(lines, "BINTARBALL_MANIFEST") == ""
    assert evaluated(lines, "CONTAINER_S3_URI") == ""
    assert len(shlex.split(lines)) == 2 * lines.count("export ")


def test_json_is_one_document(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ended(tmp_path, log="/var/log/x.log")
    assert call(tmp_path, "--json") == 0
    document = json.loads(capfd.readouterr().out)
    assert document["s3_staging_uri"] == VALUES["s3_staging_uri"]
    assert document["container_s3_uri"] is None
    assert (document["run_id"], document["log_file"]) == ("130-a", "/var/log/x.log")
    assert document["environment"]["ENV"] == "prod"


def test_copies_are_found_where_the_directory_is_mounted_now(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ended(tmp_path)
    folder = tmp_path / "runs" / "130-a"
    folder.mkdir(parents=True)
    (folder / "checksums.sha256").write_bytes(CHECKSUMS)
    call(tmp_path, "--json")
    document = json.loads(capfd.readouterr().out)
    assert document["checksum_file"] == str(folder / "checksums.sha256")
    assert document["artifact_metadata"] == str(tmp_path / "last_artifact_metadata.json")


def test_a_copied_directory_hands_over_its_own_copies(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    state, copied = tmp_path / "state", tmp_path / "copied"
    own = state / "runs" / "130-a"
    own.mkdir(parents=True)
    documents = {"checksum_file": own / "checksums.sha256", "artifact_metadata": own / "artifact.json"}
    texts = {"checksum_file": "00  models/a.riva\n", "artifact_metadata": json.dumps(ARTIFACT)}
    for name, path in documents.items():
        path.write_text(texts[name])
    values = VALUES | {name: str(path) for name, path in documents.items()}
    ending = Ending(run_id="130-a", exit_code=0, duration_ms=1, log_file="", command="")
    handover.finish(
        state, ending, values, texts["artifact_metadata"].encode(), texts["checksum_file"].encode()
    )
    shutil.copytree(state, copied)

    def found(folder: Path) -> dict[str, Path]:
        assert call(folder, "--json") == 0
        document = json.loads(capfd.readouterr().out)
        return {name: Path(document[name]) for name in documents}

    assert found(state) == documents
    assert found(copied) == {name: copied / path.relative_to(state) for name, path in documents.items()}
    # another run with that id has replaced them since, as a library call does
    for path in documents.values():
        path.write_text("{}")
    assert found(state) == {name: state / handover.COPIES[name][1] for name in documents}
    shutil.rmtree(copied / "runs")
    for folder in (state, copied):
        assert {name: path.read_text() for name, path in found(folder).items()} == texts


@pytest.mark.parametrize(
    ("failed_with", "code"),
    [
        (65, 65),
        (66, 66),
        (73, 73),
        (75, 75),
        (77, 77),
        (78, 78),
        (1, 1),
        (129, 75),
        (130, 75),
        (138, 75),
        (143, 75),
        (152, 75),
    ],
)
def test_after_a_failure_it_ends_as_the_run_did(
    failed_with: int, code: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ended(tmp_path, run_id="130-good")
    ended(tmp_path, failed_with, log="/logs/130-a.log")
    assert call(tmp_path) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert f"failed with exit code {failed_with}" in err
    assert "/logs/130-a.log" in err
    # by itself the same command would not end in any other way, but for what is worth another run
    assert ("run it again" in err) == (code == 75)
    assert "         riva-stream stage --env prod\n" in err
    assert call(tmp_path, "--json") == code
    document = json.loads(capfd.readouterr().out)
    assert (document["error"]["exit_code"], document["run_id"]) == (code, "130-a")


def test_where_nothing_was_staged(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(tmp_path / "it's none") == 66
    assert "stage --state-dir '" in capfd.readouterr().err


def test_a_file_is_no_state_directory(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert call(tmp_path / "file") == 78
    assert "cannot be read: Not a directory" in capfd.readouterr().err


def test_while_a_run_is_under_way(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ended(tmp_path)
    handover.begin(tmp_path, "130-b", log_file="", command="riva-stream stage --env dev")
    assert call(tmp_path) == 75
    err = capfd.readouterr().err
    assert "run 130-b began at" in err
    assert "riva-stream stage --env dev" in err


@pytest.mark.parametrize("step", ["begin", "finish"])
def test_a_run_that_is_killed_while_it_writes_is_to_be_run_again(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A promotion writes its end without a beginning."""

    class Killed(BaseException):
        pass

    def killing_at(number: int, act: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any, **given: Any) -> None:
            if next(calls) == number:
                raise Killed
            act(*args, **given)

        return call

    codes = list[int]()
    for number in itertools.count():
        folder, calls = tmp_path / str(number), itertools.count()
        ended(folder)
        with monkeypatch.context() as patch:
            for place, name in ((Path, "replace"), (Path, "unlink"), (os, "fsync")):
                patch.setattr(place, name, killing_at(number, getattr(place, name)))
            try:
                if step == "begin":
                    handover.begin(folder, "130-b", log_file="", command="")
                else:
                    ended(folder, run_id="130-b")
            except Killed:
                pass
            else:
                break
        codes.append(call(folder))
    # first with the values of the run before, at last with its own
    assert codes[0] == 0
    assert 75 in codes
    assert {*codes} == {0, 75}


@pytest.mark.parametrize("missing", [*VALUES, *IMAGE])
def test_a_success_without_its_values_is_not_believed(
    missing: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ended(tmp_path, values=VALUES | (IMAGE if missing in IMAGE else {}))
    assert call(tmp_path) == 0
    (tmp_path / missing).unlink()
    capfd.readouterr()
    assert call(tmp_path) == 65
    assert f"lacks {missing}\n" in capfd.readouterr().err


def test_a_staging_by_reference_needs_no_more_than_it_has(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    by_reference = ARTIFACT | {"deployment": ARTIFACT["deployment"] | {"staging_mode": "reference_only"}}
    values = {
        name: text for name, text in VALUES.items() if name not in {"checksum_file", "primary_riva_file"}
    }
    ending = Ending(run_id="130-a", exit_code=0, duration_ms=1, log_file="", command="")
    handover.finish(tmp_path, ending, values, json.dumps(by_reference).encode())
    assert call(tmp_path) == 0
    (tmp_path / "artifact_metadata").unlink()
    assert call(tmp_path) == 65
    assert "lacks artifact_metadata\n" in capfd.readouterr().err


def test_a_path_without_its_file_is_no_value(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ended(tmp_path)
    (tmp_path / "last_checksums.sha256").unlink()
    assert call(tmp_path) == 65
    assert "lacks checksum_file\n" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", 66),
        ("status", 78),
        ("status=", 78),
        ("\x00\xff", 78),
        ("status=success\n", 65),
        ("status=failure\nexit_code=x\n", 75),
    ],
)
def test_a_status_that_was_tampered_with_is_not_believed(
    text: str, code: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "130.status").write_text(text)
    (tmp_path / "130.json").write_text("[")
    (tmp_path / "last_artifact_metadata.json").write_bytes(b"\xff")
    assert call(tmp_path) == code
    assert ("cannot be understood" in capfd.readouterr().err) == (code == 78)


def test_a_directory_that_cannot_be_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "130.status").mkdir()
    assert call(tmp_path) == 78
    assert "cannot be read" in capfd.readouterr().err


@pytest.mark.parametrize("named", ["", "--env-file=mine.env", "RIVA_ENV_FILE"])
def test_the_directory_is_the_one_that_the_settings_name(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ended(tmp_path / "state", run_id="130-old")
    ended(tmp_path / "elsewhere")
    (tmp_path / ("mine.env" if named else ".env")).write_text("RIVA_STATE_DIR=elsewhere\n")
    if named == "RIVA_ENV_FILE":
        monkeypatch.setenv(named, "mine.env")
    assert main(["next", "--json", *([named] if named.startswith("--") else [])]) == 0
    assert json.loads(capfd.readouterr().out)["run_id"] == "130-a"
    monkeypatch.setenv("RIVA_STATE_DIR", "state")  # the environment outranks the file, as everywhere
    assert main(["next", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["run_id"] == "130-old"


def test_a_file_of_settings_that_is_not_there_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["next", "--env-file", "none.env", "--json"]) == 78
    assert "none.env cannot be read" in json.loads(capfd.readouterr().out)["error"]["message"]


def test_it_loads_nothing_heavy(tmp_path: Path) -> None:
    ended(tmp_path)
    code = (
        "import sys, riva_stream.cli\n"
        f"code = riva_stream.cli.main(['next', '--state-dir', {str(tmp_path)!r}])\n"
        "heavy = {'pydantic', 'rich', 'aioboto3', 'botocore', 'asyncio', 'uvloop', 'anyio', 'dotenv'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)), 'code:', code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "heavy: [] code: 0" in done.stdout


def test_a_bintarball_reference_is_named_by_its_own_document(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It has no artifact.json, and yet must not blank the variables that the pipeline goes on with."""
    values = {
        name: text for name, text in VALUES.items() if name not in {"checksum_file", "artifact_metadata"}
    }
    ending = Ending(run_id="130-a", exit_code=0, duration_ms=1, log_file="", command="riva-stream stage")
    handover.finish(tmp_path, ending, values | IMAGE, None)
    assert call(tmp_path) == 65
    assert "report.json" in capfd.readouterr().err
    folder = tmp_path / "runs" / "130-a"
    folder.mkdir(parents=True)
    deployment = {
        "deployment_type": "bintarball_reference",
        "model": ARTIFACT["model"],
        "deployment": {"environment": "prod", "s3_bucket": "b"},
        "build_info": {"run_id": "130-first"},
        "created_at": "2025-09-23T10:15:00.123456Z",
    }
    report = {
        "run_id": "130-a",
        "destination": VALUES["s3_staging_uri"] + "/",
        "deployment": deployment,
    }
    # that of an earlier run with the same id may still be there
    for other in (
        {"run_id": "130-b"},
        {"destination": "s3://b/prod/parakeet/v0/"},
        {"deployment": deployment | {"created_at": "2025-09-22T10:15:00Z"}},
        {"deployment": [deployment]},
    ):
        (folder / "report.json").write_text(json.dumps(report | other))
        assert call(tmp_path) == 65
    (folder / "report.json").write_text(json.dumps(report))
    capfd.readouterr()
    assert call(tmp_path) == 0
    lines = capfd.readouterr().out
    expected = {
        "RIVA_ASR_MODEL_NAME": "parakeet",
        "MODEL_VERSION": "v1",
        "ENV": "prod",
        "NVIDIA_DRIVERS_S3_BUCKET": "b",
        "STAGING_MODE": "bintarball_reference",
        "STAGING_RUN_ID": "130-first",
        "ARTIFACT_METADATA": "",
    }
    assert {name: evaluated(lines, name) for name in expected} == expected
