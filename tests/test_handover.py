"""The files that the next step reads: which are there after what, and that none of them misleads."""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from riva_stream import handover
from riva_stream.cli import main
from riva_stream.errors import unwritable_state
from riva_stream.handover import COPIES, RECORD, STATUS, VALUES, Ending
from riva_stream.layout import JOURNAL
from riva_stream.sizes import MIB
from tests.cli_processes import double, run, start, wait_for
from tests.staging import PREFIX, SOURCE_KEY, Place, put_credentials
from tests.support.servers import MotoServer


@pytest.fixture
def place(moto: MotoServer, moto_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    put_credentials(moto, monkeypatch)
    return Place(moto, moto_bucket)


def settings_of(place: Place) -> tuple[str, ...]:
    return (
        *("stage", f"--source=s3://{place.bucket}/{SOURCE_KEY}", f"--bucket={place.bucket}", "--env=prod"),
        *("--model-name=parakeet-rnnt-en-us", "--model-version=v2025.09", "--retries=1"),
    )


def stage(place: Place, folder: Path, *flags: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return run("riva_stream", *settings_of(place), *flags, cwd=folder, timeout=60, **options)


def files_of(state: Path) -> set[str]:
    return {path.name for path in state.iterdir() if path.is_file() and not path.name.startswith(".")}


def value(state: Path, name: str) -> str:
    """As a shell script reads it."""
    done = subprocess.run(
        ["sh", "-c", 'printf %s "$(cat "$1")"', "sh", state / name],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def status_of(state: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in (state / STATUS).read_text().splitlines())


@dataclass(frozen=True, slots=True)
class Life:
    """What one state directory went through, each time as it was afterwards."""

    place: Place
    full: Path
    again_elsewhere: Path
    reference: Path
    dry: Path
    failed: Path
    failure: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def life(moto: MotoServer, tmp_path_factory: pytest.TempPathFactory) -> Life:
    folder = tmp_path_factory.mktemp("life")
    place = Place(moto, moto.new_bucket())
    place.source(12 * MIB)

    def call(*flags: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = stage(place, folder, *flags, env={**os.environ, **moto.environment()})
        assert done.returncode == code, done.stderr
        return done

    def snapshot(name: str) -> Path:
        return Path(shutil.copytree(folder / "state", folder / name))

    call()
    full = snapshot("full")
    assert json.loads(call("--json", "--state-dir=b").stdout)["outcome"] == "already_staged"
    call("--reference-only", "--model-version=v2")
    reference = snapshot("reference")
    call("--dry-run", "--model-version=v3")
    call("--dry-run", f"--source=s3://{place.bucket}/bintarball/nothing.tar.gz", code=66)
    dry = snapshot("dry")
    failure = call(f"--source=s3://{place.bucket}/bintarball/nothing.tar.gz", "--json", code=66)
    return Life(place, full, folder / "b", reference, dry, snapshot("failed"), failure)


def test_a_full_staging_leaves_what_the_next_step_reads(life: Life) -> None:
    place, state = life.place, life.full
    absent = {"container_s3_uri", "bintarball_manifest"}
    assert (
        files_of(state)
        == {*VALUES, STATUS, RECORD, "last_artifact_metadata.json", "last_checksums.sha256"} - absent
    )
    artifact = place.read(PREFIX + "artifact.json")
    staged = json.loads(artifact)
    run_id = staged["build_info"]["run_id"]
    model = staged["primary_model"]["relative_path"]
    assert value(state, "s3_staging_uri") == f"s3://{place.bucket}/{PREFIX}".rstrip("/")
    assert value(state, "source_model_s3_uri") == f"s3://{place.bucket}/{SOURCE_KEY}"
    assert value(state, "source_model_size") == str(staged["source"]["size_bytes"])
    assert value(state, "upload_timestamp") == staged["created_at"][:19] + "Z"
    assert value(state, "primary_riva_file") == f"s3://{place.bucket}/{PREFIX}{model}"
    # the copies are the documents byte for byte, so that the marker's digest and sha256sum agree with them
    folder = life.full.parent / "state" / "runs" / run_id
    assert Path(value(state, "artifact_metadata")) == folder / "artifact.json"
    assert Path(value(state, "checksum_file")) == folder / "checksums.sha256"
    assert (state / "last_artifact_metadata.json").read_bytes() == artifact
    assert (state / "last_checksums.sha256").read_bytes() == place.read(PREFIX + "checksums.sha256")
    for name in ("artifact.json", "checksums.sha256", "upload_manifest.json", "staging_complete.txt"):
        assert (folder / name).read_bytes() == place.read(PREFIX + name)
    status = status_of(state)
    assert (status["status"], status["schema"], status["run_id"]) == ("success", "1", run_id)
    assert "exit_code" not in status
    assert int(status["duration_ms"]) > 0
    assert run_id in Path(status["log"]).read_text()
    record = json.loads((state / RECORD).read_text())
    assert (record["script_id"], record["run_id"], record["log_file"]) == ("130", run_id, status["log"])
    assert record["schema"] == 1


def test_each_run_has_a_folder_for_debugging(life: Life) -> None:
    folder = life.full / "runs" / status_of(life.full)["run_id"]
    assert {"plan.json", "events.jsonl", "request.json", "report.json", "journal.json"} <= files_of(folder)
    assert json.loads((folder / "plan.json").read_text())["would"] == "stage"
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert {event["run_id"] for event in events} == {folder.name}
    assert events[-1]["event"] == "stage_finished"
    # invariant 1 with everything that is kept now: no byte of the archive of 12 MiB is on the disk
    assert sum(path.stat().st_size for path in life.full.rglob("*") if path.is_file()) < MIB // 8


def test_already_staged_hands_over_the_same_on_another_host(life: Life) -> None:
    first, second = life.full, life.again_elsewhere
    assert files_of(first) == files_of(second)
    for name in ("s3_staging_uri", "upload_timestamp", "source_model_size", "primary_riva_file"):
        assert value(first, name) == value(second, name)
    for name in ("checksum_file", "artifact_metadata"):
        assert Path(value(first, name)).read_bytes() == Path(value(second, name)).read_bytes()
        assert Path(value(first, name)) != Path(value(second, name))


def test_a_reference_leaves_no_value_of_the_full_staging_before_it(life: Life) -> None:
    state = life.reference
    assert value(state, "s3_staging_uri").endswith("/v2")
    assert not files_of(state) & {"checksum_file", "primary_riva_file"}
    assert Path(value(state, "artifact_metadata")).is_file()


def test_a_dry_run_changes_nothing_be_it_right_or_wrong(life: Life) -> None:
    assert files_of(life.dry) == files_of(life.reference)
    for name in files_of(life.dry):
        assert (life.dry / name).read_bytes() == (life.reference / name).read_bytes()


def test_a_failure_takes_the_old_values_away(life: Life) -> None:
    assert files_of(life.failed) == {STATUS, RECORD}
    status = status_of(life.failed)
    assert (status["status"], status["exit_code"]) == ("failure", "66")
    assert status["run_id"] == json.loads(life.failure.stdout)["run_id"]
    assert Path(status["log"]).is_file()


def test_a_promotion_replaces_the_values_only_if_it_succeeds(place: Place, tmp_path: Path) -> None:
    place.source(MIB)
    assert stage(place, tmp_path).returncode == 0
    state, uri = tmp_path / "state", f"s3://{place.bucket}/"
    before = {name: (state / name).read_bytes() for name in files_of(state)}

    def call(*argv: str) -> subprocess.CompletedProcess[str]:
        return run("riva_stream", *argv, cwd=tmp_path, timeout=60)

    assert call("promote", f"{uri}dev/none/v1/", "--env", "prod", "--run-id", "p").returncode == 66
    assert call("promote", "nonsense").returncode == 78
    assert {name: (state / name).read_bytes() for name in files_of(state)} == before
    assert call("next").returncode == 0
    assert status_of(state)["run_id"] in call("status", "state").stdout
    two = ("--to", f"{uri}dev/a/v1/", "--to", f"{uri}dev/b/v1/")
    assert call("promote", uri + PREFIX, *two, "--run-id", "p").returncode == 0
    assert value(state, "s3_staging_uri") == f"{uri}dev/a/v1"
    assert (state / "runs" / status_of(state)["run_id"] / "artifact.json").is_file()
    assert f"S3_STAGING_URI={uri}dev/a/v1\n" in call("next").stdout
    assert f"Staged\n\n{uri}dev/a/v1/\n" in call("status", "state").stdout


# --- one run id for several runs, as that of a scheduler's job is


def call(folder: Path, *argv: str, code: int = 0) -> dict[str, Any]:
    """A command's document."""
    done = run("riva_stream", *argv, "--json", cwd=folder, timeout=60)
    assert done.returncode == code, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_a_run_id_that_is_used_again_hands_over_no_document_of_the_run_before(
    place: Place, tmp_path: Path
) -> None:
    place.source(MIB)
    for key in ("other.tar.gz", "image.tar.gz"):
        place.put(f"bintarball/{key}", b"some bytes")
    folder = tmp_path / "state" / "runs" / "job-7"

    def staged(*flags: str, code: int = 0) -> None:
        done = stage(place, tmp_path, "--run-id=job-7", *flags)
        assert done.returncode == code, done.stderr

    staged()
    assert call(tmp_path, "next")["environment"]["STAGING_MODE"] == "full"
    staged(
        "--bintarball-reference",
        f"--server-path=s3://{place.bucket}/bintarball/image.tar.gz",
        f"--source=s3://{place.bucket}/bintarball/other.tar.gz",
        "--model-version=v9",
    )
    found = call(tmp_path, "next")
    assert (found["checksum_file"], found["artifact_metadata"]) == (None, None)
    environment = found["environment"]
    assert (environment["MODEL_VERSION"], environment["STAGING_MODE"]) == ("v9", "bintarball_reference")
    assert "artifact.json" not in files_of(folder)
    staged("--reference-only", "--model-version=v2")
    found = call(tmp_path, "next")
    assert (found["checksum_file"], found["bintarball_manifest"]) == (None, None)
    assert found["environment"]["MODEL_VERSION"] == "v2"
    assert json.loads(Path(found["artifact_metadata"]).read_text())["model"]["version"] == "v2"
    # nor is a run taken for one that has succeeded
    staged(f"--source=s3://{place.bucket}/bintarball/nothing.tar.gz", "--model-version=v3", code=66)
    last = call(tmp_path, "status", "state")["last_run"]
    assert (last["status"], last["exit_code"], last["outcome"]) == ("failure", 66, None)
    # what was there before is found again, and its documents with it
    staged()
    found = call(tmp_path, "next")
    assert json.loads((folder / "report.json").read_text())["outcome"] == "already_staged"
    for name in ("checksums.sha256", "artifact.json", "upload_manifest.json", "staging_complete.txt"):
        assert (folder / name).read_bytes() == place.read(PREFIX + name)
    assert Path(found["checksum_file"]) == folder / "checksums.sha256"
    assert Path(found["artifact_metadata"]) == folder / "artifact.json"
    assert not files_of(folder) & {"plan.json", "deployment.json"}
    # the records of all five are kept
    assert (tmp_path / "state/logs/job-7.log").read_text().count("riva_stream stage --source") == 5
    assert (folder / "events.jsonl").read_text().count('"event": "stage_finished"') == 4
    assert (folder / "diagnostics.tar.gz").is_file()


def test_documents_of_the_run_before_that_cannot_be_removed_are_not_handed_over(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def refuse(root: Path, *_: object) -> None:
        raise unwritable_state(root, OSError(errno.EIO, "Input/output error"))

    def staged(version: str, *flags: str) -> dict[str, Any]:
        """What `next` has after it."""
        assert main([*settings_of(place), "--run-id=job-7", f"--model-version={version}", *flags]) == 0
        capfd.readouterr()
        found = call(tmp_path, "next")
        assert found["environment"]["MODEL_VERSION"] == version
        return found

    place.source(MIB)
    for key in ("other.tar.gz", "image.tar.gz"):
        place.put(f"bintarball/{key}", b"some bytes")
    monkeypatch.chdir(tmp_path)
    state, folder = tmp_path / "state", tmp_path / "state/runs/job-7"
    assert Path(staged("v1")["checksum_file"]).parent == folder
    stale = {
        name: (folder / name).read_bytes() for name in ("artifact.json", "checksums.sha256", "report.json")
    }
    monkeypatch.setattr("riva_stream.run.clear_state", refuse)
    other = f"--source=s3://{place.bucket}/bintarball/other.tar.gz"

    found = staged("v2", "--include=model-0.riva")
    for name, document in (("artifact_metadata", "artifact.json"), ("checksum_file", "checksums.sha256")):
        assert found[name] == value(state, name)
        assert Path(found[name]).read_bytes() == place.read(PREFIX.replace("v2025.09", "v2") + document)

    found = staged("v3", other, "--reference-only")
    assert found["checksum_file"] is None
    assert json.loads(Path(found["artifact_metadata"]).read_text())["model"]["version"] == "v3"

    image = f"--server-path=s3://{place.bucket}/bintarball/image.tar.gz"
    assert main([*settings_of(place), "--run-id=job-7", other, image, "--bintarball-reference"]) == 0
    assert not files_of(state) & {
        "checksum_file",
        "artifact_metadata",
        *(last for _, last in COPIES.values()),
    }
    assert call(tmp_path, "next", code=65)["error"]["code"] == "inconsistent"
    assert {name: (folder / name).read_bytes() for name in stale} == stale


def test_a_dry_run_with_the_same_run_id_leaves_the_documents(place: Place, tmp_path: Path) -> None:
    place.source(MIB)
    assert stage(place, tmp_path, "--run-id=job-7").returncode == 0
    before = call(tmp_path, "next")
    assert stage(place, tmp_path, "--run-id=job-7", "--dry-run", "--model-version=v3").returncode == 0
    assert call(tmp_path, "next") == before
    assert Path(before["checksum_file"]).read_bytes() == place.read(PREFIX + "checksums.sha256")


def test_a_promotion_with_the_run_id_of_the_staging_leaves_its_documents_until_it_succeeds(
    place: Place, tmp_path: Path
) -> None:
    place.source(MIB)
    uri = f"s3://{place.bucket}/"
    runs = tmp_path / "state" / "runs"
    assert stage(place, tmp_path, "--run-id=job-7").returncode == 0

    def promoted(*places: str, code: int = 0) -> None:
        targets = [word for place in places for word in ("--to", place)]
        call(tmp_path, "promote", "--run-id=job-7", uri + PREFIX, *targets, code=code)

    def documents() -> dict[str, bytes]:
        found = call(tmp_path, "next")
        assert Path(found["artifact_metadata"]).parent == runs / found["run_id"]
        return {name: Path(found[name]).read_bytes() for name in ("checksum_file", "artifact_metadata")}

    for version in ("v1", "v2", "v3"):
        before, handed_over = call(tmp_path, "next"), documents()
        promoted("s3://no-such-bucket-here/dev/a/v1/", code=78)
        promoted(f"{uri}test/a/{version}/", "s3://no-such-bucket-here/dev/a/v1/", code=78)
        assert call(tmp_path, "next") == before
        assert documents() == handed_over
        promoted(*(f"{uri}{env}/a/{version}/" for env in ("dev", "qa")[: 1 if version == "v2" else 2]))
        assert json.loads(documents()["artifact_metadata"])["deployment"]["environment"] == "dev"
        assert call(tmp_path, "next")["s3_staging_uri"] == f"{uri}dev/a/{version}"
        assert call(tmp_path, "status", "state")["last_run"]["destination"] == f"{uri}dev/a/{version}/"


@pytest.mark.parametrize(
    ("scenario", "flags", "code"),
    [
        ("good", ["--connections=0"], "78"),
        ("good", ["--env-file=none"], "78"),
        ("bug", [], "1"),
    ],
)
def test_every_kind_of_failure_is_told(scenario: str, flags: list[str], code: str, tmp_path: Path) -> None:
    done = double(scenario, *flags, cwd=tmp_path)
    assert done.returncode == int(code)
    status = status_of(tmp_path / "state")
    assert (status["status"], status["exit_code"]) == ("failure", code)
    assert json.loads((tmp_path / "state" / RECORD).read_text())["status"] == "failure"
    assert files_of(tmp_path / "state") == {STATUS, RECORD}


def test_while_a_run_is_under_way_there_is_no_status_and_after_a_signal_there_is(tmp_path: Path) -> None:
    state = tmp_path / "state"
    double("good", cwd=tmp_path)
    assert status_of(state)["status"] == "success"
    with start("sleep", f"--state-dir={state}") as process:
        wait_for("READY", process)
        assert not (state / STATUS).exists()
        assert json.loads((state / RECORD).read_text())["status"] == "running"
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == 143
    assert status_of(state)["exit_code"] == "143"


def test_a_state_directory_that_cannot_be_written_is_found_out_before_anything_moves(
    place: Place, tmp_path: Path
) -> None:
    place.source()
    (tmp_path / "file").write_text("")
    for state in ("file", "file/state"):
        done = stage(place, tmp_path, f"--state-dir={state}")
        assert done.returncode == 78
        assert f"the state directory {state} cannot be written: Not a directory" in done.stderr
        assert "--state-dir DIR" in done.stderr
        assert "Traceback" not in done.stderr
        place.assert_nothing_left()
    assert PREFIX + JOURNAL not in place.names("")


def test_a_staging_stays_one_when_its_state_cannot_be_written(place: Place, tmp_path: Path) -> None:
    place.source()
    # a folder in the place of a file: what a run cannot replace
    (tmp_path / "state/source_model_size/full").mkdir(parents=True)
    done = stage(place, tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    assert any("state for the next step" in told["message"] for told in json.loads(done.stdout)["warnings"])
    assert not (tmp_path / "state" / STATUS).exists()
    assert "staging_complete.txt" in place.names()


@pytest.mark.parametrize("code", [0, 78])
def test_a_run_whose_end_cannot_be_written_leaves_no_older_status(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a promotion that has committed, nor a run that its settings refused, has removed it at its start."""
    handover.finish(tmp_path, ending("a"), {"s3_staging_uri": "s3://b/p"}, None)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        handover.finish(tmp_path, replace(ending("b"), exit_code=code), {"s3_staging_uri": "s3://b/q"}, None)
    assert not (tmp_path / STATUS).exists()
    assert not list(tmp_path.glob(".*.partial"))


def test_what_cannot_be_saved_in_the_folder_of_the_run_is_handed_over_nevertheless(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def refuse(root: Path, *_: object) -> None:
        raise unwritable_state(root, OSError(errno.ENOSPC, "No space left on device"))

    place.source(MIB)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("riva_stream.run.write_state", refuse)
    for outcome in ("staged", "already_staged"):
        assert main([*settings_of(place), "--json"]) == 0
        assert json.loads(capfd.readouterr().out)["outcome"] == outcome
        found = call(tmp_path, "next")
        for name, document in (("artifact_metadata", "artifact.json"), ("checksum_file", "checksums.sha256")):
            assert Path(found[name]) == tmp_path / "state" / COPIES[name][1]
            assert Path(found[name]).read_bytes() == place.read(PREFIX + document)


def test_the_environment_names_the_state_directory(tmp_path: Path) -> None:
    double("good", cwd=tmp_path, env={"RIVA_STATE_DIR": "elsewhere"})
    assert status_of(tmp_path / "elsewhere")["status"] == "success"
    (tmp_path / ".env").write_text("RIVA_STATE_DIR=from-the-file\n")
    double("good", cwd=tmp_path)
    assert status_of(tmp_path / "from-the-file")["status"] == "success"
    assert not (tmp_path / "state").exists()


# --- two at once


def ending(name: str) -> Ending:
    return Ending(
        run_id=name, exit_code=0, duration_ms=1, log_file="", command="", ended_at=datetime.now(UTC)
    )


def test_two_runs_with_one_directory_never_mix_their_files(tmp_path: Path) -> None:
    stop = threading.Event()

    def write(name: str) -> None:
        for number in itertools.count():
            run_id = f"{name}{number}"
            values = {file: f"{run_id}-{file}" for file in VALUES[: 5 if name == "a" else 9]}
            handover.finish(tmp_path, ending(run_id), values, json.dumps({"of": run_id}).encode())
            # a pause, as real runs have: two writers without one leave no moment to read
            if stop.wait(0.02):
                return

    threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    seen: set[str] = set()
    try:
        while len(seen) < 8 or len({run_id[0] for run_id in seen}) < 2:
            try:
                found = handover.read(tmp_path)
            except OSError:
                continue  # it may give up, but never lies
            if found.status:
                run_id = found.status["run_id"]
                seen.add(run_id)
                assert found.artifact == {"of": run_id}
                assert {text.partition("-")[0] for text in found.values.values()} == {run_id}
                assert len(found.values) == (5 if run_id.startswith("a") else 9)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not list(tmp_path.glob(".*.partial"))


def test_a_status_outlives_a_power_cut_only_with_all_that_it_vouches_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one, a file has the bytes that were synced, and a folder the names."""
    sync, synced = os.fsync, set[int]()
    names: list[dict[str, int]] = []
    """Of the state directory, with their inodes, whenever it was synced."""

    def watched(descriptor: int) -> None:
        sync(descriptor)
        found = os.fstat(descriptor)
        synced.add(found.st_ino)
        if found.st_ino == tmp_path.stat().st_ino:
            there = (path for path in tmp_path.iterdir() if path.is_file() and path.suffix != ".partial")
            names.append({path.name: path.stat().st_ino for path in there})

    own = tmp_path / "runs" / "a1"
    own.mkdir(parents=True)
    copies = {"checksum_file": own / "checksums.sha256", "artifact_metadata": own / "artifact.json"}
    for path in (*copies.values(), own / "report.json"):
        path.write_text("{}")
    handover.finish(tmp_path, ending("a0"), dict.fromkeys(VALUES, "old"), b"{}")
    old = {path.name: path.stat().st_ino for path in tmp_path.iterdir() if path.is_file()}
    monkeypatch.setattr(os, "fsync", watched)
    values = dict.fromkeys(VALUES, "new") | {name: str(path) for name, path in copies.items()}
    handover.finish(tmp_path, ending("a1"), values, b"{}")
    before, complete, after = names
    assert before == {name: inode for name, inode in old.items() if name != STATUS}
    assert complete == {name: inode for name, inode in after.items() if name != STATUS}
    vouched = {*after.values()} - {(tmp_path / ".130.lock").stat().st_ino}
    vouched |= {path.stat().st_ino for path in (*own.iterdir(), own, own.parent)}
    assert vouched <= synced
    names.clear()
    handover.begin(tmp_path, "a2", log_file="", command="")
    assert STATUS not in names[-1]
    assert names[-1][RECORD] in synced


def test_what_takes_long_to_reach_the_disk_keeps_no_other_run_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = list[str]()

    def watched(descriptor: int) -> None:
        with (tmp_path / ".130.lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")

    monkeypatch.setattr(os, "fsync", watched)
    handover.finish(tmp_path, ending("a"), dict.fromkeys(VALUES, "new"), b"{}")
    assert held == ["folder"] * 3


def test_a_file_system_that_cannot_sync_is_good_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(_: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", unsupported)
    handover.begin(tmp_path, "a", log_file="", command="")
    handover.finish(tmp_path, ending("a"), {"s3_staging_uri": "s3://b/p"}, None)
    assert handover.read(tmp_path).status["status"] == "success"


def test_a_lock_that_nobody_gives_back_does_not_stop_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "_PATIENCE", 0.05)
    code = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'ab'); fcntl.flock(f, fcntl.LOCK_EX); "
        "print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / ".130.lock")], stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        handover.finish(tmp_path, ending("a"), {"s3_staging_uri": "s3://b/p"}, None)
        other.kill()
    assert handover.read(tmp_path).values == {"s3_staging_uri": "s3://b/p"}


def test_a_value_with_a_line_break_stays_one_value(tmp_path: Path) -> None:
    odd = Ending(run_id="a", exit_code=0, duration_ms=1, log_file="/with\nbreak/x.log", command="")
    handover.finish(tmp_path, odd, {"source_model_s3_uri": "s3://b/two\nlines"}, None)
    found = handover.read(tmp_path)
    assert found.status["log"] == "/with break/x.log"
    assert found.status["run_id"] == "a"
    assert found.values["source_model_s3_uri"] == "s3://b/two\nlines"
    assert value(tmp_path, "source_model_s3_uri") == "s3://b/two\nlines"
