"""Bintarball references, and the two files that every mode hands over when a container image is named."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from riva_stream import (
    AccessDeniedError,
    DestinationConflictError,
    HeldError,
    IntegrityError,
    SourceNotFoundError,
    StageRequest,
    stage,
)
from riva_stream.layout import JOURNAL
from riva_stream.report import SCHEMAS, json_schema
from tests.cli_processes import run
from tests.staging import PREFIX, SOURCE_KEY, Place, put_credentials
from tests.support.faultproxy import FaultProxy, Rule
from tests.support.faults import Gate, Refuse, Stall
from tests.support.servers import MotoServer, S3Server

REFERENCE = f"bintarball/deployment-metadata/{PREFIX}"
SERVER_KEY = "bintarball/riva-containers/riva-speech-2.15.0.tar.gz"
PAIR = ["deployment.json", "deployment_ready.txt"]


@pytest.fixture
def place(s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    put_credentials(s3_server, monkeypatch)
    place = Place(s3_server, bucket)
    place.put(SERVER_KEY, b"a container image")
    return place


@pytest.fixture
def quick(moto: MotoServer, moto_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    """For what no store can make a difference to."""
    put_credentials(moto, monkeypatch)
    place = Place(moto, moto_bucket)
    place.put(SERVER_KEY, b"a container image")
    place.put(SOURCE_KEY, b"an archive")
    return place


def referring(place: Place, **fields: Any) -> StageRequest:
    return place.request(**{"bintarball_reference": True, "server_path": SERVER_KEY} | fields)


def serving(place: Place, **fields: Any) -> StageRequest:
    return place.request(**{"server_path": f"s3://{place.bucket}/{SERVER_KEY}"} | fields)


def pair_of(place: Place, prefix: str = PREFIX) -> dict[str, Any]:
    """The document, once all that the next step relies on was seen to hold."""
    text = place.read(prefix + "deployment.json")
    document: dict[str, Any] = json.loads(text)
    jsonschema.validate(document, json_schema(SCHEMAS["deployment"]))
    ready = place.read(prefix + "deployment_ready.txt").decode()
    assert ready.splitlines()[-1] == f"SHA-256 of deployment.json: {hashlib.sha256(text).hexdigest()}"
    for reference in document["bintarball_references"].values():
        assert reference["s3_uri"] == f"s3://{place.bucket}/{reference['path']}"
        head = place.head(reference["path"])
        assert (reference["size_bytes"], reference["etag"]) == (
            head["ContentLength"],
            head["ETag"].strip('"'),
        )
    assert document["deployment"]["ready_for_deployment"] is True
    return document


async def test_a_reference_writes_two_files_that_pin_both(place: Place) -> None:
    archive_etag = place.put(SOURCE_KEY, b"an archive")
    report = await stage(referring(place, run_id="130-20260101-000000-deadbeef"))
    assert place.names(REFERENCE) == PAIR
    assert place.names() == []
    document = pair_of(place, REFERENCE)
    assert document["deployment_type"] == "bintarball_reference"
    assert document["artifact_id"] == "parakeet-rnnt-en-us-v2025.09"
    assert document["model"]["language_code"] == "en-US"
    references = document["bintarball_references"]
    assert references["model_archive"]["path"] == SOURCE_KEY
    assert references["model_archive"]["etag"] == archive_etag.strip('"')
    assert references["container_image"]["path"] == SERVER_KEY
    assert document["deployment"]["no_duplication"] is True
    assert document["build_info"]["run_id"] == "130-20260101-000000-deadbeef"
    assert place.head(REFERENCE + PAIR[0])["Metadata"]["run-id"] == "130-20260101-000000-deadbeef"
    assert (report.outcome, report.mode, report.artifact) == ("staged", "bintarball_reference", None)
    assert report.marker == f"s3://{place.bucket}/{REFERENCE}deployment_ready.txt"
    assert report.deployment is not None
    assert report.deployment.model_dump(mode="json") == document
    assert {check.key.removeprefix(REFERENCE) for check in report.objects} == set(PAIR)
    assert place.open_uploads() == []


async def test_referring_again_writes_nothing(place: Place) -> None:
    place.put(SOURCE_KEY, b"an archive")
    first = await stage(referring(place))
    before = [place.read(REFERENCE + name) for name in PAIR]
    again = await stage(referring(place))
    assert (again.outcome, again.deployment) == ("already_staged", first.deployment)
    assert [place.read(REFERENCE + name) for name in PAIR] == before


@pytest.mark.parametrize("changed", [SOURCE_KEY, SERVER_KEY])
async def test_another_archive_or_image_is_refused_and_forced_in(quick: Place, changed: str) -> None:
    await stage(referring(quick))
    before = [quick.read(REFERENCE + name) for name in PAIR]
    quick.put(changed, b"another one")
    with pytest.raises(DestinationConflictError, match=changed) as caught:
        await stage(referring(quick))
    assert caught.value.exit_code == 73
    assert [quick.read(REFERENCE + name) for name in PAIR] == before
    report = await stage(referring(quick, force=True))
    assert report.outcome == "staged"
    pair_of(quick, REFERENCE)


@pytest.mark.parametrize("damage", ["missing", "garbage", "another"])
async def test_a_marker_without_its_document_is_no_reference(quick: Place, damage: str) -> None:
    await stage(referring(quick))
    if damage == "missing":
        quick.client.delete_object(Bucket=quick.bucket, Key=REFERENCE + PAIR[0])
    else:
        text = quick.read(REFERENCE + PAIR[0])
        quick.put(REFERENCE + PAIR[0], b"{" if damage == "garbage" else text.replace(b"rnnt", b"rntt"))
    with pytest.raises(DestinationConflictError):
        await stage(referring(quick))
    await stage(referring(quick, force=True))
    pair_of(quick, REFERENCE)


async def test_without_the_marker_nothing_counts(quick: Place) -> None:
    await stage(referring(quick))
    quick.client.delete_object(Bucket=quick.bucket, Key=REFERENCE + PAIR[1])
    quick.put(SOURCE_KEY, b"another one")
    assert (await stage(referring(quick))).outcome == "staged"
    pair_of(quick, REFERENCE)


async def test_what_is_missing_is_named_with_the_nearest(quick: Place) -> None:
    with pytest.raises(SourceNotFoundError, match=r"riva-speech-2\.15\.0") as caught:
        await stage(referring(quick, server_path=SERVER_KEY.replace("2.15", "2.16")))
    assert caught.value.exit_code == 66
    assert caught.value.hint == f"did you mean server_path s3://{quick.bucket}/{SERVER_KEY} ?"
    with pytest.raises(SourceNotFoundError, match="deployable_v8"):
        await stage(referring(quick, source=f"s3://{quick.bucket}/{SOURCE_KEY}x"))
    assert quick.names(REFERENCE) == []


async def test_a_missing_image_is_told_before_any_byte_is_moved(quick: Place) -> None:
    with pytest.raises(SourceNotFoundError, match="nearest keys"):
        await stage(serving(quick, server_path="bintarball/riva-containers/none.tar.gz"))
    quick.assert_nothing_left()


@pytest.mark.parametrize("key", [SOURCE_KEY, SERVER_KEY])
async def test_what_is_empty_cannot_be_deployed(quick: Place, key: str) -> None:
    quick.put(key, b"")
    with pytest.raises(IntegrityError, match="is empty"):
        await stage(referring(quick))
    assert quick.names(REFERENCE) == []


async def test_a_dry_run_plans_and_leaves_nothing(quick: Place) -> None:
    report = await stage(referring(quick, dry_run=True))
    assert report.plan is not None
    assert [item.kind for item in report.plan.objects] == ["deployment", "deployment-ready"]
    assert report.plan.mode == "bintarball_reference"
    assert report.plan.container_image is not None
    assert report.plan.container_image.path == SERVER_KEY
    assert [(tried.of, tried.operations) for tried in report.plan.rights] == [
        ("source", ["HeadObject"]),
        ("container_image", ["HeadObject"]),
        ("destination", ["GetObject"]),
    ]
    assert (quick.names(REFERENCE), quick.open_uploads()) == ([], [])


async def test_of_two_references_at_once_none_is_mixed(quick: Place) -> None:
    """The first is stopped between its document and its marker, and is alive: the second changes nothing."""
    gate = Gate()
    rule = Rule("CompleteMultipartUpload", key="*/deployment_ready.txt", fault=Stall("request", gate=gate))
    async with FaultProxy(quick.server, [rule]) as proxy:
        first = asyncio.create_task(stage(referring(quick, endpoint_url=proxy.endpoint_url, lease=1.0)))
        await gate.reached()
        with pytest.raises(HeldError):
            await stage(referring(quick, language="de-DE", lease=1.0))
        gate.release()
        report = await first
    assert pair_of(quick, REFERENCE)["build_info"]["run_id"] == report.run_id
    assert (quick.names(REFERENCE), quick.open_uploads()) == (PAIR, [])


async def test_a_reference_that_comes_second_takes_nothing_from_the_first(quick: Place) -> None:
    """It had looked before the first one wrote anything, and takes the prefix when the first one is done."""
    gate = Gate()
    rule = Rule("PutObject", key=f"*{JOURNAL}", occurrence="first", fault=Stall("request", gate=gate))
    async with FaultProxy(quick.server, [rule]) as proxy:
        late = asyncio.create_task(
            stage(referring(quick, language="de-DE", endpoint_url=proxy.endpoint_url, lease=1.0))
        )
        await gate.reached()
        first = await stage(referring(quick))
        gate.release()
        assert (await late).outcome == "already_staged"
    assert pair_of(quick, REFERENCE)["build_info"]["run_id"] == first.run_id
    assert (quick.names(REFERENCE), quick.open_uploads()) == (PAIR, [])


async def test_a_reference_whose_place_was_taken_changes_nothing(quick: Place) -> None:
    """The same with another archive: what it finds once it holds the prefix is refused, not replaced."""
    gate = Gate()
    rule = Rule("PutObject", key=f"*{JOURNAL}", occurrence="first", fault=Stall("request", gate=gate))
    quick.put(SOURCE_KEY + ".old.tar.gz", b"an older archive")
    async with FaultProxy(quick.server, [rule]) as proxy:
        older = f"s3://{quick.bucket}/{SOURCE_KEY}.old.tar.gz"
        late = asyncio.create_task(
            stage(referring(quick, source=older, endpoint_url=proxy.endpoint_url, lease=1.0))
        )
        await gate.reached()
        first = await stage(referring(quick))
        gate.release()
        with pytest.raises(DestinationConflictError):
            await late
    assert pair_of(quick, REFERENCE)["build_info"]["run_id"] == first.run_id
    assert (quick.names(REFERENCE), quick.open_uploads()) == (PAIR, [])


# --- the pair beside a staging


async def test_a_full_staging_hands_over_its_own_archive(place: Place) -> None:
    _, data = place.source(members=2)
    report = await stage(serving(place))
    document = pair_of(place)
    archive = document["bintarball_references"]["model_archive"]
    assert archive["path"] == f"{PREFIX}source/{SOURCE_KEY.rpartition('/')[2]}"
    assert archive["sha256"] == hashlib.sha256(data).hexdigest()
    assert document["deployment_type"] == "full"
    assert document["deployment"]["no_duplication"] is False
    artifact = place.read(PREFIX + "artifact.json")
    assert document["deployment"]["artifact_sha256"] == hashlib.sha256(artifact).hexdigest()
    assert {check.key.removeprefix(PREFIX) for check in report.objects} == set(place.names())
    manifest = json.loads(place.read(PREFIX + "upload_manifest.json"))
    jsonschema.validate(manifest, json_schema(SCHEMAS["manifest"]))
    for name, field in zip(PAIR, ("deployment", "deployment_ready"), strict=True):
        text = place.read(PREFIX + name)
        assert manifest["files"][field]["checksum"] == f"sha256:{hashlib.sha256(text).hexdigest()}"
        assert place.head(PREFIX + name)["Metadata"]["run-id"] == report.run_id
    assert place.open_uploads() == []
    again = await stage(serving(place))
    assert again.outcome == "already_staged"
    assert again.deployment == report.deployment
    assert {check.key.removeprefix(PREFIX) for check in again.objects} >= set(PAIR)


async def test_by_reference_the_source_itself_is_handed_over(place: Place) -> None:
    place.put(SOURCE_KEY, b"an archive")
    await stage(serving(place, reference_only=True))
    assert place.names() == ["artifact.json", *PAIR, "staging_complete.txt"]
    document = pair_of(place)
    assert document["bintarball_references"]["model_archive"]["path"] == SOURCE_KEY
    assert document["deployment_type"] == "reference_only"
    assert document["deployment"]["no_duplication"] is True
    assert (await stage(serving(place, reference_only=True))).outcome == "already_staged"


@pytest.mark.parametrize("reference_only", [False, True])
async def test_the_pair_is_added_to_what_is_staged_without_moving_a_byte(
    quick: Place, reference_only: bool
) -> None:
    quick.source()
    await stage(quick.request(reference_only=reference_only))
    before = {name: quick.head(PREFIX + name)["ETag"] for name in quick.names()}
    assert not set(PAIR) & set(before)
    report = await stage(serving(quick, reference_only=reference_only))
    assert report.outcome == "deployment_added"
    pair_of(quick)
    after = {name: quick.head(PREFIX + name)["ETag"] for name in quick.names()}
    assert after == before | {name: after[name] for name in PAIR}
    assert (await stage(serving(quick, reference_only=reference_only))).outcome == "already_staged"
    assert quick.open_uploads() == []


async def test_a_full_staging_asked_for_by_reference_hands_over_its_own_archive(quick: Place) -> None:
    quick.source()
    await stage(quick.request())
    assert (await stage(serving(quick, reference_only=True))).mode == "full"
    document = pair_of(quick)
    assert document["deployment_type"] == "full"
    assert document["bintarball_references"]["model_archive"]["path"].startswith(PREFIX + "source/")


async def test_another_image_is_another_staging(quick: Place) -> None:
    quick.source()
    await stage(serving(quick))
    quick.put(SERVER_KEY, b"another image")
    with pytest.raises(DestinationConflictError, match="container image"):
        await stage(serving(quick))
    await stage(serving(quick, force=True))
    pair_of(quick)


@pytest.mark.parametrize("how", ["force", "forced upgrade", "force by reference"])
async def test_no_old_pair_lies_beside_a_new_staging(place: Place, how: str) -> None:
    place.source(seed="first")
    await stage(serving(place, reference_only=how == "forced upgrade"))
    if how != "forced upgrade":
        place.source(seed="second")
    await stage(place.request(force=True, reference_only=how == "force by reference"))
    assert not set(PAIR) & set(place.names())
    assert "staging_complete.txt" in place.names()


async def test_a_pair_that_somebody_else_wrote_stays(quick: Place) -> None:
    quick.source()
    quick.put(PREFIX + PAIR[0], b"mine")
    quick.put(PREFIX + PAIR[1], b"mine")
    await stage(quick.request())
    assert [quick.read(PREFIX + name) for name in PAIR] == [b"mine", b"mine"]


@pytest.mark.parametrize("forced", [False, True])
async def test_while_a_staging_is_replaced_nothing_is_ready(quick: Place, forced: bool) -> None:
    """Stopped at its first Complete: the old marker of readiness is gone by then, with or without a staging's."""
    quick.source(seed="first")
    await stage(serving(quick))
    if not forced:
        quick.client.delete_object(Bucket=quick.bucket, Key=PREFIX + "staging_complete.txt")
    quick.source(seed="second")
    gate = Gate()
    rule = Rule("CompleteMultipartUpload", fault=Stall("request", gate=gate))
    async with FaultProxy(quick.server, [rule]) as proxy:
        run = asyncio.create_task(stage(serving(quick, force=forced, endpoint_url=proxy.endpoint_url)))
        await gate.reached()
        assert not {PAIR[1], "staging_complete.txt"} & set(quick.names())
        gate.release()
        await run
    pair_of(quick)


async def test_nothing_is_ready_before_the_archive_is_verified(quick: Place) -> None:
    """At the very HEAD of the archive there is no pair yet; at the marker's Complete there is all of it."""
    quick.source()
    looked, marked = Gate(), Gate()
    rules = [
        Rule("HeadObject", key=f"{PREFIX}source/*", fault=Stall("request", gate=looked)),
        Rule("CompleteMultipartUpload", key="*/staging_complete.txt", fault=Stall("request", gate=marked)),
    ]
    async with FaultProxy(quick.server, rules) as proxy:
        run = asyncio.create_task(stage(serving(quick, endpoint_url=proxy.endpoint_url)))
        await looked.reached()
        assert not set(PAIR) & set(quick.names())
        looked.release()
        await marked.reached()
        assert set(PAIR) <= set(quick.names())
        assert "staging_complete.txt" not in quick.names()
        marked.release()
        await run


async def test_a_refused_marker_takes_the_pair_back(quick: Place) -> None:
    """The store loses upload_manifest.json after the pair was written: no object and no pair may stay."""
    quick.source()
    rule = Rule("HeadObject", key="*/upload_manifest.json", fault=Refuse("NoSuchKey"))
    async with FaultProxy(quick.server, [rule]) as proxy:
        with pytest.raises(IntegrityError):
            await stage(serving(quick, endpoint_url=proxy.endpoint_url, retries=1))
    assert not {*PAIR, "staging_complete.txt"} & set(quick.names())


async def test_a_reference_with_an_image_is_held_like_any_other_staging(quick: Place) -> None:
    """Two of them, or one and a full staging, would write the same documents."""
    quick.source()
    gate = Gate()
    rule = Rule("CompleteMultipartUpload", key="*/artifact.json", fault=Stall("request", gate=gate))
    async with FaultProxy(quick.server, [rule]) as proxy:
        request = serving(quick, reference_only=True, endpoint_url=proxy.endpoint_url, lease=1.0)
        first = asyncio.create_task(stage(request))
        await gate.reached()
        with pytest.raises(HeldError):
            await stage(serving(quick, lease=1.0))
        gate.release()
        assert (await first).outcome == "staged"
    assert pair_of(quick)["deployment_type"] == "reference_only"
    assert quick.open_uploads() == []


async def test_what_was_ready_is_taken_back_when_the_staging_fails(quick: Place) -> None:
    quick.source(members=2)
    await stage(quick.request())
    rules = [
        Rule("UploadPart", key="*/staging_complete.txt", occurrence="every", fault=Refuse("AccessDenied")),
    ]
    async with FaultProxy(quick.server, rules) as proxy:
        with pytest.raises(AccessDeniedError):
            await stage(serving(quick, reference_only=True, force=True, endpoint_url=proxy.endpoint_url))
    assert not {*PAIR, "staging_complete.txt"} & set(quick.names())


async def test_nothing_is_ready_while_something_stale_may_not_be_deleted(quick: Place) -> None:
    quick.source(members=2)
    await stage(quick.request())
    rule = Rule("DeleteObject", key="*/models/*", occurrence="every", fault=Refuse("AccessDenied"))
    async with FaultProxy(quick.server, [rule]) as proxy:
        with pytest.raises(AccessDeniedError):
            await stage(serving(quick, reference_only=True, force=True, endpoint_url=proxy.endpoint_url))
    assert not {*PAIR, "staging_complete.txt"} & set(quick.names())


async def test_without_the_right_to_list_no_old_pair_stays(quick: Place) -> None:
    """A pair that a run left which died before its marker, as far as can be known without a listing."""
    quick.source()
    await stage(serving(quick, reference_only=True))
    quick.client.delete_object(Bucket=quick.bucket, Key=PREFIX + "staging_complete.txt")
    unlisted = [
        Rule(operation, occurrence="every", fault=Refuse("AccessDenied"))
        for operation in ("ListObjectsV2", "ListMultipartUploads")
    ]
    async with FaultProxy(quick.server, unlisted) as proxy:
        await stage(quick.request(reference_only=True, endpoint_url=proxy.endpoint_url))
    assert not set(PAIR) & set(quick.names())


def test_the_command_line_shows_what_is_referred_to(quick: Place, tmp_path: Path) -> None:
    flags = ("--source", f"s3://{quick.bucket}/{SOURCE_KEY}", "--bucket", quick.bucket, "--env", "prod")
    names = ("--model-name", "parakeet-rnnt-en-us", "--model-version", "v2025.09", "--quiet")
    argv = ("stage", *flags, *names, "--bintarball-reference", "--server-path", SERVER_KEY)

    def call(*more: str) -> subprocess.CompletedProcess[str]:
        return run("riva_stream", *argv, *more, cwd=tmp_path, timeout=60)

    planned = call("--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "Dry run, nothing was written (by bintarball reference)" in planned.stdout
    assert SERVER_KEY in planned.stdout
    done = call()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Staged (by bintarball reference)")
    assert f"s3://{quick.bucket}/{SERVER_KEY}" in done.stdout
    again = call("--json")
    document = json.loads(again.stdout)
    assert (document["outcome"], document["mode"]) == ("already_staged", "bintarball_reference")
    jsonschema.validate(document, json_schema(SCHEMAS["report"]))
