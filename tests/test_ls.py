"""`ls`: what is staged is found by its place, and nothing else is taken for it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from riva_stream import StoreSettings, stage
from riva_stream.cli import main
from riva_stream.inspection.ls import list_stagings
from riva_stream.inspection.reports import ListReport
from riva_stream.layout import DEPLOYMENTS, JOURNAL
from riva_stream.report import json_schema
from riva_stream.s3 import S3Store
from riva_stream.sizes import MIB
from tests.cli_processes import run
from tests.staging import PREFIX, SOURCE_KEY, Place, put_credentials
from tests.support.faultproxy import FaultProxy
from tests.support.iam import Enforce
from tests.support.servers import S3Server


@pytest.fixture
def place(s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    put_credentials(s3_server, monkeypatch)
    return Place(s3_server, bucket)


@pytest.fixture
def moto_place(moto: S3Server, moto_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    put_credentials(moto, monkeypatch)
    return Place(moto, moto_bucket)


async def run_ls(place: Place, prefix: str = "", *, endpoint: str = "") -> ListReport:
    settings = StoreSettings(region=place.server.region, endpoint_url=endpoint or place.server.endpoint_url)
    return await list_stagings(settings, place.bucket, prefix)


def journal(**fields: Any) -> bytes:
    """One as a run of another host writes it."""
    process = {"host": "elsewhere", "boot": "b", "pid": 7, "started": "1"}
    identity: dict[str, Any] = {
        "source": "s3://m/a.tar.gz",
        "etag": "e",
        "version_id": None,
        "size": 1 << 30,
        "include": [],
    }
    identity |= {"part_size": 8 << 20, "check": "md5", "options": []}
    given = {"format": 1, "run_id": "130-other", "token": "t", "process": process, "lease": 30.0, "beat": 4}
    given |= {"started_at": "2026-01-01T00:00:00Z", "identity": identity, "uploads": []}
    return json.dumps(given | fields).encode()


async def test_each_state_is_told(place: Place) -> None:
    archive, data = place.source(MIB, members=2)
    made = await stage(place.request())
    await stage(place.request(model_version="v2025.10", reference_only=True))
    await stage(place.request(env="dev", model_version="v9", reference_only=True))
    await stage(place.request(env="dev", model_version="v10", reference_only=True))
    place.put("dev/parakeet-rnnt-en-us/v10/artifact.json", b"{}")
    place.put(f"dev/parakeet-rnnt-en-us/v11/{JOURNAL}", journal())
    place.put(f"dev/parakeet-rnnt-en-us/v12/{JOURNAL}", journal(stopped=True))
    place.put(f"dev/parakeet-rnnt-en-us/v9/{JOURNAL}", journal())
    place.put("dev/parakeet-rnnt-en-us/v13/artifact.json", b"{}")
    # what is not a staging
    place.put("bintarball/deployment-metadata/prod/parakeet-rnnt-en-us/v1/notes.txt", b"{}")
    place.put("bintarball/deployment-metadata/prod/deployment.json", b"{}")
    place.put("logs/2026/01/02/file", b"x")
    place.put("prod/readme.txt", b"x")
    place.put("prod/parakeet-rnnt-en-us/notes/models/x.riva", b"x")
    place.put("staging_complete.txt", b"x")
    place.put("with space/a/b/artifact.json", b"{}")
    report = await run_ls(place)
    rows = {(s.env, s.version): s for s in report.stagings}
    assert [(s.env, s.version, s.state) for s in report.stagings] == [
        ("dev", "v9", "staged"),
        ("dev", "v10", "damaged"),
        ("dev", "v11", "in_flight"),
        ("dev", "v12", "incomplete"),
        ("dev", "v13", "incomplete"),
        ("prod", "v2025.09", "staged"),
        ("prod", "v2025.10", "staged"),
    ]
    full = rows["prod", "v2025.09"]
    assert (full.mode, full.models, full.run_id, full.size_bytes) == ("full", 2, made.run_id, len(data))
    assert full.stored_bytes == len(data) + sum(member.size for member in archive.rivas)
    assert full.destination == f"s3://{place.bucket}/{PREFIX}"
    assert full.staged_at is not None
    reference = rows["prod", "v2025.10"]
    assert (reference.mode, reference.models, reference.stored_bytes) == ("reference_only", 0, 0)
    assert rows["dev", "v9"].restaged_by == "130-other"
    assert "marker was written for" in rows["dev", "v10"].note
    assert (rows["dev", "v11"].run_id, rows["dev", "v11"].size_bytes) == ("130-other", 1 << 30)
    assert "it has stopped" in rows["dev", "v12"].note
    jsonschema.validate(json.loads(report.model_dump_json()), json_schema(ListReport))
    below = await run_ls(place, "dev/parakeet-rnnt-en-us/")
    assert [s.version for s in below.stagings] == ["v9", "v10", "v11", "v12", "v13"]
    one = await run_ls(place, PREFIX)
    assert [s.version for s in one.stagings] == ["v2025.09"]
    assert (await run_ls(place, "nowhere/")).stagings == []


async def test_a_journal_is_dead_when_it_is_older_than_its_lease_by_the_stores_clock(
    moto_place: Place,
) -> None:
    place = moto_place
    place.put(f"{PREFIX}{JOURNAL}", journal(lease=-10.0))  # as if it had been written that long ago
    (staging,) = (await run_ls(place)).stagings
    assert staging.state == "incomplete"
    assert "no heartbeat since" in staging.note


async def test_a_wide_bucket_is_listed_page_by_page(
    moto_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = moto_place
    place.source(MIB, members=1)
    await stage(place.request(model_name="wide", model_version="v4", reference_only=True))
    for number in range(9):  # before and after it, what is no staging
        place.put(f"prod/wide/v{number}/x", b"")
    for number in range(5):  # and beside its documents, so that the marker comes late
        place.put(f"prod/wide/v4/a{number}", b"")
    whole = await run_ls(place, "prod/")
    # the environment, the model, and the references of the environment, of which there are none
    assert whole.folders == 3
    # pages of two instead of a thousand
    monkeypatch.setattr(S3Store.list_folder, "__kwdefaults__", {"limit": 2, "token": ""})
    report = await run_ls(place, "prod/")
    assert [(s.model, s.version, s.state) for s in report.stagings] == [("wide", "v4", "staged")]
    assert report.stagings == whole.stagings
    assert report.folders == 7  # the model in five pages


async def test_objects_are_not_listed_one_by_one(moto_place: Place) -> None:
    place = moto_place
    place.source(MIB, members=3)
    await stage(place.request())
    async with FaultProxy(place.server) as proxy:
        report = await run_ls(place, endpoint=proxy.endpoint_url)
        listings = proxy.count("ListObjectsV2")
    # the bucket; bintarball and prod; the model; and the staging itself
    assert (len(report.stagings), report.folders, listings) == (1, 4, 5)
    assert proxy.mutations == 0


# --- bintarball references


IMAGE = "bintarball/riva-speech-2.19.0.tar.gz"


async def refer(place: Place, **fields: Any) -> str:
    """Write a bintarball reference, and give its run id."""
    request = place.request(bintarball_reference=True, server_path=IMAGE, **fields)
    return (await stage(request)).run_id


async def test_a_bintarball_reference_is_listed_with_its_environment(place: Place) -> None:
    _, data = place.source(MIB, members=1)
    place.put(IMAGE, b"an image")
    run_id = await refer(place)
    await stage(place.request(reference_only=True))
    await refer(place, env="dev", model_version="v9")
    for version, name in (("v10", "deployment.json"), ("v11", "deployment_ready.txt")):
        await refer(place, env="dev", model_version=version)
        place.client.delete_object(
            Bucket=place.bucket, Key=f"{DEPLOYMENTS}dev/parakeet-rnnt-en-us/{version}/{name}"
        )
    report = await run_ls(place)
    assert [(s.env, s.version, s.mode, s.state) for s in report.stagings] == [
        ("dev", "v9", "bintarball_reference", "staged"),
        ("dev", "v10", "bintarball_reference", "damaged"),
        ("dev", "v11", "bintarball_reference", "incomplete"),
        ("prod", "v2025.09", "bintarball_reference", "staged"),
        ("prod", "v2025.09", "reference_only", "staged"),
    ]
    whole = report.stagings[3]
    assert whole.destination == f"s3://{place.bucket}/{DEPLOYMENTS}{PREFIX}"
    assert (whole.source, whole.size_bytes) == (f"s3://{place.bucket}/{SOURCE_KEY}", len(data))
    assert (whole.run_id, whole.models, whole.stored_bytes) == (run_id, 0, 0)
    assert whole.staged_at is not None
    assert "no deployment.json" in report.stagings[1].note
    assert "no deployment_ready.txt" in report.stagings[2].note
    jsonschema.validate(json.loads(report.model_dump_json()), json_schema(ListReport))
    for prefix, rows in {
        "prod/": report.stagings[3:],
        "bintarball/": [row for row in report.stagings if row.destination.count(DEPLOYMENTS)],
        DEPLOYMENTS: [row for row in report.stagings if row.destination.count(DEPLOYMENTS)],
        f"{DEPLOYMENTS}prod/": [whole],
        f"{DEPLOYMENTS}{PREFIX}": [whole],
        PREFIX: report.stagings[3:],
    }.items():
        assert (await run_ls(place, prefix)).stagings == rows, prefix


async def test_who_may_not_look_for_references_is_told_so(place: Place) -> None:
    place.source(MIB, members=1)
    place.put(IMAGE, b"an image")
    await stage(place.request(reference_only=True))
    await refer(place)

    def granted(*folders: str) -> Enforce:
        bucket, prefixes = f"arn:aws:s3:::{place.bucket}", [f"{folder}*" for folder in folders]
        reading = [
            {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": f"{bucket}/{prefix}"}
            for prefix in prefixes
        ]
        listing = {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": bucket}
        condition = {"StringLikeIfExists": {"s3:prefix": prefixes}}
        return Enforce(policy={"Statement": [*reading, {**listing, "Condition": condition}]})

    async with FaultProxy(place.server, [granted("prod/")]) as proxy:
        report = await run_ls(place, "prod/", endpoint=proxy.endpoint_url)
    assert [s.mode for s in report.stagings] == ["reference_only"]
    (note,) = report.notes
    assert note.code == "may-not-list"
    assert "s3:ListBucket" in note.message
    async with FaultProxy(place.server, [granted("prod/", f"{DEPLOYMENTS}prod/")]) as proxy:
        report = await run_ls(place, "prod/", endpoint=proxy.endpoint_url)
    assert (len(report.stagings), report.notes) == (2, [])


async def test_the_command_line_shows_a_table(moto_place: Place, tmp_path: Path) -> None:
    place = moto_place
    place.source(MIB, members=1)
    await stage(place.request(reference_only=True))
    env = place.server.environment()

    async def call(*argv: str, **more: str) -> Any:
        return await asyncio.to_thread(run, "riva_stream", "ls", *argv, cwd=tmp_path, env=env | more)

    table = await call(f"s3://{place.bucket}")
    assert table.returncode == 0, table.stderr
    head, row = table.stdout.splitlines()[:2]
    assert head.split()[:5] == ["ENV", "MODEL", "VERSION", "STATE", "MODE"]
    assert row.split()[:5] == ["prod", "parakeet-rnnt-en-us", "v2025.09", "staged", "reference"]
    place.put(IMAGE, b"an image")
    await refer(place, model_version="v2025.08")
    table = await call(f"s3://{place.bucket}/{DEPLOYMENTS}prod/")
    assert table.stdout.splitlines()[1].split()[2:5] == ["v2025.08", "staged", "bintarball"]
    place.client.delete_object(
        Bucket=place.bucket,
        Key=f"{DEPLOYMENTS}prod/parakeet-rnnt-en-us/v2025.08/deployment_ready.txt",
    )
    table = await call(f"s3://{place.bucket}/prod")
    assert table.stdout.splitlines()[1].split()[2:5] == ["v2025.08", "incomplete", "bintarball"]
    assert "1 staged, 1 not, below" in table.stdout
    as_json = await call("--json", NVIDIA_DRIVERS_S3_BUCKET=place.bucket)
    assert json.loads(as_json.stdout)["stagings"][-1]["source"] == f"s3://{place.bucket}/{SOURCE_KEY}"
    nothing = await call(f"s3://{place.bucket}/dev")
    assert (nothing.returncode, nothing.stdout) == (
        0,
        f"nothing is staged below s3://{place.bucket}/dev/\n",
    )
    wrong = await call("s3://no-such-bucket-of-ours")
    assert (wrong.returncode, "no bucket no-such-bucket-of-ours" in wrong.stderr) == (78, True)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["s3://b/a/b/c/d"], "deeper than a staging"),
        ([f"s3://b/{DEPLOYMENTS}a/b/c/d"], "deeper than a staging"),
        ([], "no bucket is named"),
    ],
)
def test_a_place_that_is_none_is_refused(
    argv: list[str],
    said: str,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["ls", *argv, "--region", "us-east-1"]) == 78
    assert said in capfd.readouterr().err
