"""`status`: staged, in flight, resumable or absent, as runs of the real program leave it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from riva_stream import (
    ConfigurationError,
    DestinationConflictError,
    SourceNotFoundError,
    StageRequest,
    StoreSettings,
    stage,
)
from riva_stream.cli import main
from riva_stream.events import Event, Watching, ignore
from riva_stream.handover import begin
from riva_stream.inspection.last_run import last_run_of
from riva_stream.inspection.reports import StatusReport
from riva_stream.inspection.status import status
from riva_stream.layout import JOURNAL
from riva_stream.lease.journal import Journal, JournaledUpload, Process
from riva_stream.pipeline.begin import open_run
from riva_stream.report import json_schema
from riva_stream.s3.errors import refusal
from riva_stream.s3.port import Document
from riva_stream.sizes import MIB
from tests.cli_processes import run as run_module
from tests.copying import PREFIX as COPIED
from tests.copying import Watched, asked, made
from tests.staging import PREFIX, SOURCE_KEY, Place, put_credentials
from tests.support.faultproxy import FaultProxy, Rule
from tests.support.faults import Gate, Refuse, Stall
from tests.support.process import start
from tests.support.servers import S3Server

PART = 5 * MIB


@pytest.fixture
def place(s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    put_credentials(s3_server, monkeypatch)
    return Place(s3_server, bucket)


@pytest.fixture
def moto_place(moto: S3Server, moto_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    put_credentials(moto, monkeypatch)
    return Place(moto, moto_bucket)


async def run_status(place: Place, *, endpoint: str = "", **options: Any) -> StatusReport:
    settings = StoreSettings(region=place.server.region, endpoint_url=endpoint or place.server.endpoint_url)
    return await status(settings, place.bucket, PREFIX, **options)


def stage_argv(place: Place, endpoint: str, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "riva_stream", "stage", "--quiet", "--region", place.server.region),
        *("--source", f"s3://{place.bucket}/{SOURCE_KEY}", "--bucket", place.bucket, "--env", "prod"),
        *("--model-name", "parakeet-rnnt-en-us", "--model-version", "v2025.09"),
        *("--endpoint-url", endpoint, "--part-size", str(PART), "--connections", "2"),
        *("--source-copy", "send", *more),
    ]


async def test_absent_and_staged(place: Place) -> None:
    report = await run_status(place)
    assert (report.state, report.staged, report.run, report.notes) == ("absent", None, None, [])
    assert report.rerun.code == "stage"
    place.source(MIB, members=2)
    made = await stage(place.request())
    report = await run_status(place)
    assert (report.state, report.run) == ("staged", None)
    assert report.staged is not None
    assert (report.staged.run_id, report.staged.models, report.staged.problem) == (made.run_id, 2, "")
    assert report.rerun.code == "already_staged"
    jsonschema.validate(json.loads(report.model_dump_json()), json_schema(StatusReport))


async def test_a_live_run_is_in_flight_and_a_killed_one_is_resumable(place: Place, tmp_path: Path) -> None:
    _, data = place.source(14 * MIB, members=2)
    gate = Gate()
    rule = Rule("UploadPart", key="*/source/*", part=2, fault=Stall("request", gate=gate))
    env = place.server.environment()
    async with FaultProxy(place.server, [rule]) as proxy:
        argv = stage_argv(place, proxy.endpoint_url, "--lease", "1.5", "--run-id", "130-live")
        with start(argv, folder=tmp_path / "run", env=env) as process:
            await gate.reached()
            seen: list[Event] = []
            report = await run_status(place, observer=seen.append)
            assert (report.state, report.staged) == ("in_flight", None)
            run = report.run
            assert run is not None
            assert (run.alive, run.run_id, run.stopped) == (True, "130-live", False)
            assert run.pid == process.pid
            assert run.beats is not None
            assert run.started_at is not None
            assert [event.seconds for event in seen if isinstance(event, Watching)] == [1.5]
            assert run.source_size == len(data)
            own = [upload for upload in run.uploads if "/source/" in upload.key]
            assert [upload.state for upload in own] == ["open"]
            assert (report.rerun.code, report.rerun.exit_code) == ("held", 75)
            # without watching, the store's own clock has to do
            glance = await run_status(place, wait=False)
            assert (glance.state, glance.watched_seconds) == ("in_flight", 0.0)
            # too short a look cannot tell, and says so
            short = await run_status(place, lease=0.0)
            assert short.run is not None
            assert (short.state, short.run.alive) == ("in_flight", None)
            process.send_signal(signal.SIGKILL)
            await process.wait_async(30)
        gate.release()
    # the process on this very host is dead: nobody has to wait for its lease
    report = await run_status(place, lease=3600.0)
    assert (report.state, report.watched_seconds) == ("resumable", 0.0)
    assert report.run is not None
    assert report.run.alive is False
    assert "on this host has ended" in report.run.why
    assert report.rerun.code in {"resume", "start_over"}
    stored = sum(upload.stored_bytes or 0 for upload in report.run.uploads)
    assert stored > 0
    assert report.run.percent == round(100 * report.run.source_bytes / len(data), 1)
    # verify, which has nothing to look at, knows as much, and names the command as this user can type it
    argv = ["riva_stream", "verify", f"s3://{place.bucket}/{PREFIX}"]
    done = await asyncio.to_thread(run_module, *argv, cwd=tmp_path, env=env)
    assert done.returncode == 66
    assert "has stopped (its process" in done.stderr
    assert f"next:  how far it came: python -m riva_stream status s3://{place.bucket}/{PREFIX}" in done.stderr


async def test_a_journal_that_no_longer_changes_is_resumable_after_its_lease(moto_place: Place) -> None:
    """Of another host: only watching can tell."""
    place = moto_place
    await stopped_run(place)
    journal = json.loads(place.read(PREFIX + JOURNAL))
    journal |= {"stopped": False, "lease": 0.5, "process": journal["process"] | {"host": "elsewhere"}}
    place.put(PREFIX + JOURNAL, json.dumps(journal).encode())
    report = await run_status(place)
    assert report.state == "resumable"
    assert report.run is not None
    assert report.run.why.startswith("no heartbeat for")
    assert report.watched_seconds >= 0.5


async def stopped_run(place: Place, **fields: Any) -> None:
    """Leave the uploads and the journal of a run that was cancelled when its third part was under way."""
    place.source(14 * MIB, members=2)
    gate = Gate()
    rule = Rule("UploadPart", key="*/source/*", part=3, fault=Stall("request", gate=gate))
    async with FaultProxy(place.server, [rule]) as proxy:
        request = place.request(part_size=PART, connections=2, endpoint_url=proxy.endpoint_url, **fields)
        run = asyncio.create_task(stage(request))
        await gate.reached()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        gate.release()


async def test_what_a_stopped_run_has_left_is_what_a_rerun_goes_on_with(place: Place) -> None:
    await stopped_run(place)
    report = await run_status(place)
    assert report.state == "resumable"
    assert report.run is not None
    assert report.run.stopped
    assert report.run.why == "it says that it has stopped"
    stored = sum(upload.stored_parts or 0 for upload in report.run.uploads)
    assert stored >= 1
    assert (report.rerun.code, report.rerun.parts) == ("resume", stored)
    assert report.rerun.size_bytes == sum(upload.stored_bytes or 0 for upload in report.run.uploads)
    listing = Rule("ListParts", fault=Refuse("AccessDenied"))
    async with FaultProxy(place.server, [listing]) as proxy:
        unlisted = await run_status(place, endpoint=proxy.endpoint_url)
    assert unlisted.run is not None
    assert {upload.state for upload in unlisted.run.uploads} == {"unknown"}
    assert unlisted.rerun.code == "resume"
    for upload in place.client.list_multipart_uploads(Bucket=place.bucket)["Uploads"]:
        place.client.abort_multipart_upload(
            Bucket=place.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
        )
    report = await run_status(place)
    assert report.run is not None
    assert {upload.state for upload in report.run.uploads} == {"gone"}
    assert report.rerun.code == "start_over"


async def test_a_journal_that_could_not_be_removed_is_not_taken_for_a_commit(moto_place: Place) -> None:
    place = moto_place
    journal = Journal(
        run_id="130-x",
        token="t",
        process=Process.this(),
        started_at=datetime.now(UTC),
        lease=1.0,
        beat=2,
        stopped=True,
        committing=True,
    )
    place.put(PREFIX + JOURNAL, journal.to_bytes())
    report = await run_status(place, lease=0.1)
    assert (report.state, report.rerun.code, report.notes) == ("resumable", "start_over", [])
    assert "in its commit" not in report.rerun.message
    upload = JournaledUpload(key=f"{PREFIX}artifact.json", upload_id="u", created_by="130-x")
    place.put(PREFIX + JOURNAL, journal.model_copy(update={"uploads": [upload]}).to_bytes())
    report = await run_status(place, lease=0.1)
    assert (report.rerun.code, [note.code for note in report.notes]) == ("start_over", ["in-commit"])


async def test_a_forced_restage_says_both(moto_place: Place) -> None:
    place = moto_place
    place.source(MIB, members=2)
    first = await stage(place.request())
    await stopped_run(place, force=True)
    report = await run_status(place)
    assert report.state == "staged"
    assert report.staged is not None
    assert report.staged.run_id == first.run_id
    assert report.run is not None
    assert report.run.state == "resumable"


async def test_leftovers_and_damage_are_told(moto_place: Place) -> None:
    place = moto_place
    await stopped_run(place)
    place.client.delete_object(Bucket=place.bucket, Key=PREFIX + JOURNAL)
    place.put(f"{PREFIX}models/x.riva", b"x")
    report = await run_status(place)
    assert report.state == "absent"
    assert [note.code for note in report.notes] == ["no-marker", "open-uploads"]
    place.put(PREFIX + JOURNAL, b"what is this")
    unknown = await run_status(place, lease=0.0)
    assert (unknown.state, unknown.run is not None) == ("in_flight", True)
    assert [note.code for note in unknown.notes] == ["journal"]
    place.client.delete_object(Bucket=place.bucket, Key=PREFIX + JOURNAL)
    place.put(f"{PREFIX}staging_complete.txt", b"done\n")
    damaged = await run_status(place)
    assert damaged.state == "staged"
    assert damaged.staged is not None
    assert damaged.staged.problem == "its marker is not one of this tool's"
    assert (damaged.rerun.code, damaged.rerun.exit_code) == ("refused", 73)


@pytest.mark.parametrize(
    ("prefix", "listed"),
    [
        ("prod/", "prod/"),
        ("prod/parakeet-rnnt-en-us/", "prod/parakeet-rnnt-en-us/"),
        (f"{PREFIX}models/", PREFIX),
    ],
)
async def test_where_no_staging_can_be_there_is_no_state(prefix: str, listed: str, moto_place: Place) -> None:
    place = moto_place
    place.put(PREFIX + "models/a.riva", b"model")
    place.client.create_multipart_upload(Bucket=place.bucket, Key=f"{PREFIX}source/x.tar.gz")
    settings = StoreSettings(region=place.server.region, endpoint_url=place.server.endpoint_url)
    with pytest.raises(
        SourceNotFoundError, match="does not name a staging: a staging is at ENV/NAME"
    ) as caught:
        await status(settings, place.bucket, prefix)
    assert caught.value.hint == f"see what there is: riva-stream ls s3://{place.bucket}/{listed}"


async def test_the_command_line_and_the_state_directory(moto_place: Place, tmp_path: Path) -> None:
    place = moto_place
    place.source(MIB, members=1)
    state = tmp_path / "state"
    env = {k: v for k, v in place.server.environment().items() if "ENDPOINT" not in k and "REGION" not in k}

    async def call(*argv: str) -> Any:
        return await asyncio.to_thread(run_module, "riva_stream", *argv, cwd=tmp_path, env=env)

    reach = ("--endpoint-url", place.server.endpoint_url, "--region", place.server.region)
    uri = f"s3://{place.bucket}/{PREFIX}"
    absent = await call("status", uri, *reach)
    assert (absent.returncode, "Absent" in absent.stdout) == (0, True), absent.stderr
    assert (await call("status", uri, *reach, "--exit-code")).returncode == 66
    argv = stage_argv(place, place.server.endpoint_url, "--state-dir", str(state), "--run-id", "130-last")
    staged = await call(*argv[argv.index("stage") :])
    assert staged.returncode == 0, staged.stderr
    # region and endpoint are those that the run had: nothing else names them here
    last = await call("status", str(state), "--json", "--exit-code")
    assert last.returncode == 0, last.stderr
    document = json.loads(last.stdout)
    assert document["state"] == "staged"
    assert document["last_run"]["run_id"] == "130-last"
    assert document["last_run"]["status"] == "success"
    assert document["last_run"]["outcome"] == "staged"
    text = await call("status", str(state))
    assert text.stdout.startswith("Staged\n")
    assert text.stdout.endswith(
        "A rerun would re-check every object and move nothing. "
        "With RIVA_SERVER_PATH it would only add deployment.json.\n"
    )
    assert "130-last: staged, exit code 0" in text.stdout
    # a pipe can be read just once, and here it names both the state directory and the keys
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    settings = "".join(f"{name}={env[name]}\n" for name in names) + f"RIVA_STATE_DIR={state}\n"
    argv = ["riva_stream", "status", "--env-file", "/dev/stdin"]
    bare = {name: value for name, value in os.environ.items() if name not in place.server.environment()}
    piped = await asyncio.to_thread(run_module, *argv, input=settings, cwd=tmp_path, env=bare)
    assert piped.returncode == 0, piped.stderr
    assert piped.stdout == text.stdout
    nothing = await call("status", str(tmp_path / "none"))
    assert nothing.returncode == 78
    assert "no record of a run" in nothing.stderr


def test_the_last_run_is_the_newest_and_its_status_counts(tmp_path: Path) -> None:
    request = {"bucket": "b", "env": "e", "model_name": "m", "model_version": "v", "region": "r"}

    def remember(run_id: str, **files: Any) -> Path:
        folder = tmp_path / "runs" / run_id
        folder.mkdir(parents=True)
        for name, document in ({"request": request} | files).items():
            (folder / f"{name}.json").write_text(json.dumps(document))
        return folder

    with pytest.raises(ConfigurationError, match="no run has left anything"):
        last_run_of(tmp_path)
    (tmp_path / "130.status").write_text("status=failure\nrun_id=130-0\nexit_code=78\nlog=/logs/130-0.log\n")
    with pytest.raises(
        ConfigurationError, match=r"run 130-0 ended with 78 before its destination was known.*/logs/130-0"
    ):
        last_run_of(tmp_path)
    remember("130-b", report={"outcome": "staged"})
    (tmp_path / "130.status").write_text("status=success\nrun_id=130-b\n")
    found = last_run_of(tmp_path)
    assert (found.bucket, found.prefix, found.endpoint["region"]) == ("b", "e/m/v/", "r")
    assert (found.run.run_id, found.run.status, found.run.exit_code) == ("130-b", "success", 0)
    remember("130-a")
    # a copy of the directory, or a clock that was set back, makes any file the newest
    for later, path in enumerate([*(tmp_path / "runs").rglob("*"), tmp_path / "130.status"]):
        os.utime(path, (1e9 - later, 1e9 - later))
        found = last_run_of(tmp_path)
        assert (found.run.run_id, found.run.status, found.run.exit_code) == ("130-b", "success", 0)
    begin(tmp_path, "130-a", log_file="", command="")  # whatever its name says; it has come to no status yet
    found = last_run_of(tmp_path)
    assert (found.run.run_id, found.run.status, found.run.exit_code) == ("130-a", "unknown", None)
    (tmp_path / "130.status").write_text("status=failure\nrun_id=130-a\nexit_code=65\n")
    found = last_run_of(tmp_path)
    assert (found.run.run_id, found.run.status, found.run.exit_code) == ("130-a", "failure", 65)
    # the last run ended before it knew where to stage to, so the place is the one of the run before it
    (tmp_path / "130.status").write_text("status=failure\nrun_id=130-9\nexit_code=78\n")
    found = last_run_of(tmp_path)
    assert (found.run.run_id, found.run.status, found.run.exit_code) == ("130-9", "failure", 78)
    assert (found.run.folder, found.run.outcome) == (str(tmp_path / "runs" / "130-9"), None)
    assert (found.bucket, found.prefix, found.run.destination) == ("b", "e/m/v/", "")
    remember("130-c")
    begin(tmp_path, "130-c", log_file="", command="")
    found = last_run_of(tmp_path)
    assert (found.run.run_id, found.run.destination) == ("130-c", "s3://b/e/m/v/")


@pytest.mark.parametrize("how", ["gone", "another", "no JSON"])
async def test_a_manifest_that_the_marker_was_not_written_for_is_a_problem(
    how: str, moto_place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    moto_place.source(MIB, members=1)
    await stage(moto_place.request())
    key = PREFIX + "upload_manifest.json"
    if how == "gone":
        moto_place.client.delete_object(Bucket=moto_place.bucket, Key=key)
    else:
        moto_place.put(key, b"{}" if how == "another" else b"\xff")
    words = ["status", f"s3://{moto_place.bucket}/{PREFIX}", "--exit-code", "--json", "--quiet"]
    assert await asyncio.to_thread(main, words) == 65
    told = json.loads(capfd.readouterr().out)
    assert "upload_manifest.json" in told["staged"]["problem"]
    assert told["rerun"]["exit_code"] == 73
    with pytest.raises(DestinationConflictError):
        await stage(moto_place.request())


async def test_a_staging_by_reference_is_asked_for_no_manifest(moto_place: Place) -> None:
    moto_place.source(MIB, members=1)
    await stage(moto_place.request(reference_only=True))
    # without the right to list, 403 is the answer for what is not there
    rule = Rule("GetObject", key="*/upload_manifest.json", occurrence="every", fault=Refuse("AccessDenied"))
    async with FaultProxy(moto_place.server, [rule]) as proxy:
        report = await run_status(moto_place, endpoint=proxy.endpoint_url)
    assert report.staged is not None
    assert report.staged.problem == ""


@pytest.mark.parametrize(
    ("secret", "fields"),
    [
        ("seaweedfs", {"endpoint_url": "http://seaweedfs:8333", "bucket": "models"}),
        ("minioadmin", {"endpoint_url": "http://minio:9000", "bucket": "minioadmin-models"}),
    ],
)
async def test_a_password_that_is_a_common_word_does_not_hide_where_the_last_run_has_staged_to(
    secret: str, fields: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    request = StageRequest.model_validate(
        {
            **fields,
            "source": "s3://src/m.tar.gz",
            "env": "prod",
            "model_name": "m",
            "model_version": "v1",
            "region": "us-east-1",
            "state_dir": tmp_path,
        }
    )
    async with open_run(request, "130-20250101-000000-00000000", ignore):
        pass
    found = last_run_of(tmp_path)
    assert (found.bucket, found.endpoint["endpoint_url"]) == (fields["bucket"], fields["endpoint_url"])


async def test_a_manifest_that_may_not_be_read_makes_a_staging_no_worse() -> None:
    class Reader(Watched):
        denies = False

        async def get(self, bucket: str, key: str, *, limit: int) -> Document | None:
            if self.denies and key.endswith("upload_manifest.json"):
                raise refusal("GetObject", bucket, key, "AccessDenied", 403)
            return await super().get(bucket, key, limit=limit)

    store, model = Reader(), made("tar.gz")
    await store.put_source(model.key, model.data)
    await stage(asked(model), store=store)
    store.denies = True
    assert (await status(store, "staging", COPIED)).state == "staged"  # type: ignore[arg-type]
