"""`verify`: every kind of damage is found, all of it is told, and what is whole is said to be whole."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import aioboto3
import jsonschema
import pytest

from riva_stream import (
    AccessDeniedError,
    ConfigurationError,
    HeldError,
    SourceNotFoundError,
    StoreSettings,
    stage,
)
from riva_stream.cli import main
from riva_stream.events import Event, ObjectVerified, Progress, RetryScheduled
from riva_stream.flow.memory import least_memory
from riva_stream.inspection.reports import NOT_STAGED, VerifyReport
from riva_stream.inspection.verify import verify
from riva_stream.layout import JOURNAL
from riva_stream.report import json_schema
from riva_stream.sizes import MIB
from tests.cli_processes import run
from tests.staging import PREFIX, SOURCE_KEY, Place, put_credentials
from tests.support.faultproxy import FaultProxy, Rule
from tests.support.faults import FlipBit, Gate, Refuse, ShortBody, Stall
from tests.support.process import run as run_process
from tests.support.servers import GatewayServer, S3Server

ARCHIVE = f"{PREFIX}source/{SOURCE_KEY.rpartition('/')[2]}"
MODEL = f"{PREFIX}models/model-1.riva"


@pytest.fixture
def place(s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    put_credentials(s3_server, monkeypatch)
    return Place(s3_server, bucket)


@pytest.fixture
def moto_place(moto: S3Server, moto_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    put_credentials(moto, monkeypatch)
    return Place(moto, moto_bucket)


async def staged(place: Place, size: int = MIB, **fields: Any) -> None:
    place.source(size, members=2)
    await stage(place.request(**fields))


async def run_verify(
    place: Place, *, endpoint: str = "", prefix: str = PREFIX, **options: Any
) -> VerifyReport:
    settings = StoreSettings(
        region=place.server.region, endpoint_url=endpoint or place.server.endpoint_url, connections=32
    )
    return await verify(settings, place.bucket, prefix, **options)


def replace(place: Place, key: str, change: Callable[[bytes], bytes]) -> None:
    """Change the bytes of an object, and nothing of its metadata; what is put back has its old ETag again."""
    write(place, key, place.head(key), change(place.read(key)))


def write(place: Place, key: str, head: Mapping[str, Any], data: bytes) -> None:
    where = {"Bucket": place.bucket, "Key": key}
    made = place.client.create_multipart_upload(
        **where, Metadata=head["Metadata"], ContentType=head["ContentType"]
    )
    where["UploadId"] = made["UploadId"]
    part = place.client.upload_part(**where, PartNumber=1, Body=data)
    listed = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    place.client.complete_multipart_upload(**where, MultipartUpload=listed)


def edited(*path: str | int, value: Any) -> Callable[[bytes], bytes]:
    """Change one value of a JSON document."""

    def change(data: bytes) -> bytes:
        document = json.loads(data)
        inner = document
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = value(inner[path[-1]]) if callable(value) else value
        return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()

    return change


def flipped(data: bytes) -> bytes:
    return data[:1000] + bytes([data[1000] ^ 1]) + data[1001:]


async def test_what_is_whole_is_said_to_be(place: Place) -> None:
    await staged(place)
    report = await run_verify(place)
    assert report.ok, [entry for entry in report.objects if not entry.ok]
    assert [entry.key.removeprefix(PREFIX) for entry in report.objects] == [
        f"source/{SOURCE_KEY.rpartition('/')[2]}",
        "models/model-0.riva",
        "models/model-1.riva",
        "checksums.sha256",
        "artifact.json",
        "upload_manifest.json",
        "staging_complete.txt",
    ]
    by = {entry.key.removeprefix(PREFIX): set(entry.by) for entry in report.objects}
    assert {"size", "etag", "run-id"} <= by["models/model-0.riva"]
    assert {"content", "lines", "size", "etag", "run-id"} <= by["checksums.sha256"]
    assert (report.extra, report.notes, report.read, report.mode) == ([], [], None, "full")
    jsonschema.validate(json.loads(report.model_dump_json()), json_schema(VerifyReport))


async def test_deep_reads_every_byte_within_its_memory(place: Place) -> None:
    archive, data = place.source(12 * MIB, members=2)
    await stage(place.request())
    seen: list[Event] = []
    async with FaultProxy(place.server) as proxy:
        # the least that plan_memory allows: four ranges in flight for three objects
        report = await run_verify(
            place, endpoint=proxy.endpoint_url, deep=True, memory=least_memory(8 * MIB), observer=seen.append
        )
    assert report.ok
    assert report.read is not None
    total = len(data) + sum(member.size for member in archive.rivas)
    assert (report.read.objects, report.read.bytes) == (3, total)
    assert report.read.mib_per_second > 0
    for entry in report.objects[:3]:
        assert "sha256" in entry.by
        assert ("blake3" in entry.by) is ("/models/" in entry.key)
    last = [event for event in seen if isinstance(event, Progress)][-1]
    assert (last.fetched, last.hashed, last.source_size) == (total, total, total)
    assert last.counts == ("fetched", "hashed")
    assert [(e.difference, e.codes) for e in seen if isinstance(e, ObjectVerified)] == [("", ())] * 3
    assert proxy.mutations == 0


@pytest.mark.gateway
@pytest.mark.parametrize(
    "memory",
    [least_memory(8 * MIB) // MIB, pytest.param(256, marks=pytest.mark.long)],
    ids=["least", "default"],
)
def test_deep_keeps_within_its_memory(
    gateway: GatewayServer, gateway_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int
) -> None:
    """In a process of its own, reading several times of what it may hold."""
    put_credentials(gateway, monkeypatch)
    place = Place(gateway, gateway_bucket)
    place.source(128 * MIB, members=3, seed="deep")
    asyncio.run(stage(place.request()))
    argv = ["verify", f"s3://{place.bucket}/{PREFIX}", "--deep", "--json", f"--memory={memory}MiB"]
    process = run_process(
        [sys.executable, "-m", "riva_stream", *argv], folder=tmp_path, env=gateway.environment()
    )
    assert process.exit_code == 0, process.stderr
    assert json.loads(process.stdout)["read"]["bytes"] > 2 * 120 * MIB
    assert process.peak_rss <= memory * MIB, f"{process.peak_rss / MIB:.0f} MiB of {memory} MiB"
    assert not process.files  # nothing of it is on the disk either


def codes_of(report: VerifyReport) -> dict[str, list[str]]:
    """In what each object differs that does."""
    return {
        entry.key: [found.code for found in entry.differences] for entry in report.objects if not entry.ok
    }


DAMAGE: list[tuple[str, Callable[[bytes], bytes] | None, str, str]] = [
    (MODEL, flipped, "etag", ""),
    (ARCHIVE, lambda data: data[:-1], "size", ""),
    (MODEL, None, "gone", ""),
    (f"{PREFIX}checksums.sha256", None, "gone", ""),
    (f"{PREFIX}upload_manifest.json", None, "gone", ""),
    (f"{PREFIX}artifact.json", None, "gone", ""),
    (
        f"{PREFIX}checksums.sha256",
        lambda data: b"0" * 64 + data[64:],
        "lines",
        "source/",
    ),
    (
        f"{PREFIX}checksums.sha256",
        lambda data: b"".join(data.splitlines(keepends=True)[:-1]),
        "lines",
        "models/model-1.riva",
    ),
    (
        f"{PREFIX}checksums.sha256",
        lambda data: data + b"what is this\n",
        "lines",
        "what is this",
    ),
    (f"{PREFIX}artifact.json", edited("model", "language_code", value="de-DE"), "content", ""),
    (f"{PREFIX}artifact.json", lambda _: b"{", "malformed", ""),
    (
        f"{PREFIX}upload_manifest.json",
        edited("files", "models", 0, "size_bytes", value=lambda size: size + 1),
        "artifact.json",
        "models/model-0.riva",
    ),
    (
        f"{PREFIX}upload_manifest.json",
        edited("files", "models", value=lambda models: models[:1]),
        "artifact.json",
        "models/model-1.riva",
    ),
    (f"{PREFIX}upload_manifest.json", edited("upload_id", value="130-x"), "run-id", "130-x"),
    (
        f"{PREFIX}upload_manifest.json",
        edited("files", "models", 0, "s3_key", value="elsewhere/models/x.riva"),
        "outside",
        "elsewhere/models/x.riva",
    ),
    (
        f"{PREFIX}upload_manifest.json",
        edited("s3_base", value="s3://deployments/prod/other/v1/"),
        "place",
        "s3://deployments/prod/other/v1/",
    ),
    (
        f"{PREFIX}staging_complete.txt",
        lambda text: text.replace(b"Run ID: 130", b"Run ID: 131"),
        "run-id",
        "131",
    ),
    (f"{PREFIX}staging_complete.txt", lambda text: text + b"and more\n", "content", ""),
    (f"{PREFIX}staging_complete.txt", lambda _: b"done\n", "malformed", ""),
    (f"{PREFIX}staging_complete.txt", lambda _: b"", "malformed", ""),
]
"""Key, what is done to it (None: it is deleted), the code of the difference, and what its message names."""


async def test_each_kind_of_damage_is_found(moto_place: Place) -> None:
    place = moto_place
    await staged(place)
    session = aioboto3.Session()  # one, as making it takes longer than verifying
    for key, damage, code, named in DAMAGE:
        head, data = place.head(key), place.read(key)
        if damage is None:
            place.client.delete_object(Bucket=place.bucket, Key=key)
        else:
            replace(place, key, damage)
        report = await run_verify(place, session=session)
        wrong = {entry.key: entry.differences for entry in report.objects if not entry.ok}
        told = [found.message for found in wrong.get(key, ()) if found.code == code]
        assert any(named in message for message in told), (key, code, wrong)
        assert "manifest-unvouched" not in {note.code for note in report.notes}  # no version 0.1 staged it
        write(place, key, head, data)
    assert (await run_verify(place, session=session)).ok


async def test_all_damage_is_told_at_once_on_each_store(place: Place) -> None:
    await staged(place)
    replace(place, MODEL, flipped)
    place.client.delete_object(Bucket=place.bucket, Key=f"{PREFIX}models/model-0.riva")
    place.put(f"{PREFIX}models/stale.riva", b"x")
    place.put(f"{PREFIX}source/readme.txt", b"x")
    place.put(f"{PREFIX}checksums.sha256", place.read(f"{PREFIX}checksums.sha256"))
    report = await run_verify(place)
    wrong = {name.removeprefix(PREFIX): codes for name, codes in codes_of(report).items()}
    assert "no-run-id" in wrong.pop("checksums.sha256")
    assert wrong == {
        "models/model-1.riva": ["etag"],
        "models/model-0.riva": ["gone"],
        "models/stale.riva": [NOT_STAGED],
    }
    assert report.extra == [f"{PREFIX}source/readme.txt"]


async def test_deep_finds_a_byte_that_size_and_etag_do_not_tell(place: Place) -> None:
    """A store whose disk lies: what it says of the object is right, what it sends is not."""
    await staged(place)
    rule = Rule("GetObject", key="*/model-1.riva", fault=FlipBit("response", offset=1000))
    async with FaultProxy(place.server, [rule]) as proxy:
        assert (await run_verify(place, endpoint=proxy.endpoint_url)).ok
        report = await run_verify(place, endpoint=proxy.endpoint_url, deep=True)
    wrong = [entry for entry in report.objects if not entry.ok]
    assert [entry.key for entry in wrong] == [MODEL]
    assert [found.code for found in wrong[0].differences] == ["sha256", "blake3"]
    assert {"size", "etag"} <= set(wrong[0].by)


async def test_a_body_that_breaks_is_read_on(place: Place) -> None:
    await staged(place, 3 * MIB)
    seen: list[Event] = []
    rule = Rule("GetObject", key="*/model-1.riva", occurrence=1, fault=ShortBody(missing=1000))
    async with FaultProxy(place.server, [rule]) as proxy:
        report = await run_verify(place, endpoint=proxy.endpoint_url, deep=True, observer=seen.append)
    assert report.ok
    assert any(isinstance(event, RetryScheduled) for event in seen)


async def test_an_object_that_is_replaced_while_it_is_read_is_told(moto_place: Place) -> None:
    place = moto_place
    await staged(place, 20 * MIB)
    gate = Gate()
    rule = Rule("GetObject", key="*/source/*", occurrence=2, fault=Stall("request", gate=gate))
    async with FaultProxy(place.server, [rule]) as proxy:
        job = asyncio.create_task(
            run_verify(
                place, endpoint=proxy.endpoint_url, deep=True, connections=1, memory=least_memory(8 * MIB)
            )
        )
        await gate.reached()
        replace(place, ARCHIVE, flipped)
        gate.release()
        report = await job
    wrong = [entry for entry in report.objects if not entry.ok]
    assert [entry.key for entry in wrong] == [ARCHIVE]
    assert [found.code for found in wrong[0].differences] == ["replaced"]


async def test_a_staging_that_is_replaced_meanwhile_is_not_judged(moto_place: Place) -> None:
    place = moto_place
    await staged(place)
    gate = Gate()
    rule = Rule("HeadObject", key="*/model-1.riva", occurrence=1, fault=Stall("request", gate=gate))
    async with FaultProxy(place.server, [rule]) as proxy:
        job = asyncio.create_task(run_verify(place, endpoint=proxy.endpoint_url))
        await gate.reached()
        await stage(place.request(force=True))
        gate.release()
        with pytest.raises(HeldError, match="replaced") as caught:
            await job
    assert caught.value.exit_code == 75


async def test_a_staging_by_reference_is_compared_with_its_source(place: Place) -> None:
    await staged(place, reference_only=True)
    uri = f"s3://{place.bucket}/{SOURCE_KEY}"
    report = await run_verify(place, deep=True)
    assert report.ok
    assert report.mode == "reference_only"
    entry = report.objects[-1]
    assert (entry.key, entry.by) == (uri, ["size", "etag", "version-id", "md5-etag"])
    place.put(f"{PREFIX}models/stale.riva", b"x")
    place.source(2 * MIB, seed="another")
    report = await run_verify(place, deep=True)
    wrong = codes_of(report)
    assert set(wrong) == {uri, f"{PREFIX}models/stale.riva"}
    assert "etag" in wrong[uri]
    place.client.delete_object(Bucket=place.bucket, Key=SOURCE_KEY)
    assert codes_of(await run_verify(place))[uri] == ["gone"]


async def test_a_version_that_was_written_again_is_told(moto_place: Place) -> None:
    place = moto_place
    place.client.put_bucket_versioning(Bucket=place.bucket, VersioningConfiguration={"Status": "Enabled"})
    await staged(place)
    assert "version-id" in (await run_verify(place)).objects[0].by
    replace(place, f"{PREFIX}checksums.sha256", lambda data: data)
    wrong = [entry for entry in (await run_verify(place)).objects if not entry.ok]
    assert [entry.key for entry in wrong] == [f"{PREFIX}checksums.sha256"]
    assert [found.code for found in wrong[0].differences] == ["version-id"]


async def test_a_bare_model_is_whole(moto_place: Place) -> None:
    place = moto_place
    place.put("m/parakeet.riva", b"model" * 1000)
    await stage(place.request(source=f"s3://{place.bucket}/m/parakeet.riva"))
    report = await run_verify(place, deep=True)
    assert report.ok, [entry for entry in report.objects if not entry.ok]
    assert report.objects[0].key == f"{PREFIX}models/parakeet.riva"
    assert {"sha256", "blake3"} <= set(report.objects[0].by)


async def test_a_run_that_was_gone_on_with_is_whole(moto_place: Place) -> None:
    """The archive carries the run id of the run that began it, not of the one that put the marker."""
    place = moto_place
    place.source(12 * MIB, members=2)
    gate = Gate()
    rule = Rule("UploadPart", key="*/source/*", occurrence=2, fault=Stall("request", gate=gate))
    async with FaultProxy(place.server, [rule]) as proxy:
        run = asyncio.create_task(
            stage(place.request(part_size=5 * MIB, connections=2, endpoint_url=proxy.endpoint_url))
        )
        await gate.reached()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        gate.release()
    await stage(place.request(part_size=5 * MIB))
    report = await run_verify(place)
    assert report.ok, [entry for entry in report.objects if not entry.ok]


async def test_nothing_staged_says_what_there_is(place: Place) -> None:
    await staged(place)
    with pytest.raises(SourceNotFoundError) as caught:
        await run_verify(place, prefix="dev/parakeet-rnnt-en-us/v2025.09/")
    assert caught.value.hint == f"see what there is: riva-stream ls s3://{place.bucket}"
    for above in ("prod/", "prod/parakeet-rnnt-en-us/"):
        with pytest.raises(SourceNotFoundError, match="does not name a staging: a staging is at") as caught:
            await run_verify(place, prefix=above)
        assert caught.value.hint == f"see what there is: riva-stream ls s3://{place.bucket}/{above}"
    place.client.delete_object(Bucket=place.bucket, Key=f"{PREFIX}staging_complete.txt")
    with pytest.raises(SourceNotFoundError, match="objects without a marker"):
        await run_verify(place)
    place.put(PREFIX + JOURNAL, b"a journal of another version")
    with pytest.raises(SourceNotFoundError, match="an unknown run is staging it, or was") as caught:
        await run_verify(place)
    assert "riva-stream status" in caught.value.hint


async def test_a_right_that_is_missing_is_named(moto_place: Place) -> None:
    place = moto_place
    await staged(place)
    listing = Rule("ListObjectsV2", fault=Refuse("AccessDenied"))
    async with FaultProxy(place.server, [listing]) as proxy:
        report = await run_verify(place, endpoint=proxy.endpoint_url)
    assert report.ok
    assert [note.code for note in report.notes] == ["may-not-list"]
    assert "s3:ListBucket" in report.notes[0].message
    reading = Rule("GetObject", fault=Refuse("AccessDenied"))
    async with FaultProxy(place.server, [reading]) as proxy:
        with pytest.raises(AccessDeniedError) as caught:
            await run_verify(place, endpoint=proxy.endpoint_url)
    assert "s3:GetObject" in caught.value.hint


async def test_the_command_line_tells_it(moto_place: Place, tmp_path: Path) -> None:
    place = moto_place
    await staged(place)
    uri = f"s3://{place.bucket}/{PREFIX}"
    env = place.server.environment()

    async def call(*argv: str) -> Any:
        return await asyncio.to_thread(run, "riva_stream", "verify", *argv, cwd=tmp_path, env=env)

    named = {
        "NVIDIA_DRIVERS_S3_BUCKET": place.bucket,
        "ENV": "prod",
        "RIVA_ASR_MODEL_NAME": "parakeet-rnnt-en-us",
        "MODEL_VERSION": "v2025.09",
    }
    command = [sys.executable, "-m", "riva_stream", "verify", "--quiet", "--deep"]
    good = await asyncio.to_thread(run_process, command, folder=tmp_path / "good", env=env | named)
    assert good.exit_code == 0, good.stderr
    assert good.stdout.startswith("Verified: every object matches the manifest (in full, deep)")
    assert "MiB/s" in good.stdout
    assert good.stderr == ""
    assert good.files == ()  # nothing of it touches the disk
    replace(place, MODEL, flipped)
    bad = await call(uri.rstrip("/"))
    assert bad.returncode == 65
    assert "DIFFERS: 1 of 7 objects" in bad.stdout
    assert f"stage --source s3://{place.bucket}/{SOURCE_KEY} --bucket {place.bucket} --env prod" in bad.stdout
    assert f"differs: {MODEL}" in bad.stderr
    as_json = await call(f"{uri}staging_complete.txt", "--json", "--quiet")
    assert as_json.returncode == 65
    document = json.loads(as_json.stdout)
    assert [entry["key"] for entry in document["objects"] if not entry["ok"]] == [MODEL]
    absent = await call(f"s3://{place.bucket}/prod/x/y/", "--json")
    assert absent.returncode == 66
    assert json.loads(absent.stdout)["error"]["exit_code"] == 66


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["s3://deployments"], "names a bucket, not a staging"),
        (["prod/x/y"], "is not an S3 URI"),
        ([], "no staging is named"),
        (["s3://b/e/m/v/", "--connections", "0"], "pass 1 to 256"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    argv: list[str],
    said: str,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["verify", *argv, "--region", "us-east-1"]) == 78
    assert said in capfd.readouterr().err


async def test_too_little_memory_is_refused_with_the_minimum(moto_place: Place) -> None:
    await staged(moto_place, reference_only=True)
    with pytest.raises(ConfigurationError, match="the minimum is") as caught:
        await run_verify(moto_place, deep=True, memory=10 * MIB)
    assert caught.value.hint == f"pass memory {least_memory(8 * MIB) // MIB}MiB or more"


@pytest.mark.parametrize("name", ["models/sub/old.riva", "source/a/b/old.riva", "models//old.riva"])
async def test_another_model_is_found_at_any_depth(name: str, moto_place: Place) -> None:
    await staged(moto_place)
    moto_place.put(PREFIX + name, b"another model")
    report = await run_verify(moto_place)
    assert codes_of(report) == {PREFIX + name: [NOT_STAGED]}
    assert not report.ok


async def test_what_only_stands_for_a_folder_is_nothing_beside(moto_place: Place) -> None:
    await staged(moto_place)
    for name, data in (
        ("models/", b""),
        ("models/sub/", b""),
        ("notes/", b"not so empty"),
        ("a/old.riva", b"x"),
    ):
        moto_place.put(PREFIX + name, data)
    report = await run_verify(moto_place)
    assert report.ok
    assert sorted(report.extra) == [f"{PREFIX}a/old.riva", f"{PREFIX}notes/"]
