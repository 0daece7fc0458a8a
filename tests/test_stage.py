"""`stage` through its public door, on a real gateway and on moto."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from typing import Any

import jsonschema
import pytest

from riva_stream import (
    ArchiveError,
    DestinationConflictError,
    DigestMismatchError,
    SourceNotFoundError,
    StageReport,
    stage,
)
from riva_stream.cli.commands.stage import summary_text
from riva_stream.events import Event, MemberFound, ObjectCompleted, Progress, StageFinished, StageStarted
from riva_stream.layout import JOURNAL
from riva_stream.manifest import Marker, Validation
from riva_stream.report import SCHEMAS, json_schema
from riva_stream.sizes import MIB
from tests.staging import PREFIX, SOURCE_KEY, Place, put_credentials, tar_gz
from tests.support.archives import riva_bytes
from tests.support.faultproxy import FaultProxy
from tests.support.servers import S3Server


@pytest.fixture
def place(s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    put_credentials(s3_server, monkeypatch)
    return Place(s3_server, bucket)


async def test_a_full_staging_holds_exactly_the_archive_and_its_models(place: Place) -> None:
    archive, data = place.source(20 * MIB, members=2)
    report = await stage(place.request(part_size=5 * MIB))
    place.assert_staged(archive, data)
    assert report.outcome == "staged"
    assert report.mode == "full"
    assert report.destination == f"s3://{place.bucket}/{PREFIX}"
    assert {check.key.removeprefix(PREFIX) for check in report.objects} == set(place.names())
    assert all(check.by for check in report.objects)


async def test_artifact_json_says_what_was_staged(place: Place) -> None:
    archive, data = place.source(members=2)
    await stage(place.request(run_id="130-20260101-000000-deadbeef", description="a test"))
    artifact = json.loads(place.read(PREFIX + "artifact.json"))
    jsonschema.validate(artifact, json_schema(SCHEMAS["artifact"]))
    assert artifact["artifact_id"] == "parakeet-rnnt-en-us-v2025.09"
    assert artifact["model"] == {
        "name": "parakeet-rnnt-en-us",
        "version": "v2025.09",
        "type": "speech_recognition",
        "language_code": "en-US",
        "architecture": "rnnt",
        "description": "a test",
    }
    source = artifact["source"]
    assert source["uri"] == f"s3://{place.bucket}/{SOURCE_KEY}"
    assert source["size_bytes"] == len(data)
    assert source["sha256"] == hashlib.sha256(data).hexdigest()
    assert source["etag"] == place.head(SOURCE_KEY)["ETag"].strip('"')
    assert source["status"] == "staged"
    assert {model["filename"]: model["sha256"] for model in artifact["models"]} == {
        member.basename: member.sha256 for member in archive.rivas
    }
    largest = max(archive.rivas, key=lambda member: member.size)
    assert artifact["primary_model"]["filename"] == largest.basename
    assert artifact["deployment"]["staging_mode"] == "full"
    assert artifact["deployment"]["retention_days"] == 90
    assert artifact["build_info"]["run_id"] == "130-20260101-000000-deadbeef"
    assert artifact["build_info"]["cpu_seconds_per_gib"] > 0
    assert set(artifact["build_info"]["lanes"]) == {
        "source",
        "hash",
        "extract",
        "member-hash",
        "upload",
        "copy",
    }
    validation = artifact["validation"]
    assert validation["archive_complete"]
    assert "gzip-crc32" in validation["source_integrity"]
    assert validation["checksums_computed"]
    assert not validation["checksums_verified"]
    assert validation["objects_verified"]


async def test_the_manifest_names_every_file_with_its_checksum(place: Place) -> None:
    place.source(members=2)
    report = await stage(place.request())
    manifest = json.loads(place.read(PREFIX + "upload_manifest.json"))
    jsonschema.validate(manifest, json_schema(SCHEMAS["manifest"]))
    assert manifest["upload_id"] == report.run_id
    files = manifest["files"]
    listed = [files["source_archive"], *files["models"], files["checksums"], files["metadata"]]
    for file in listed:
        data = place.read(file["s3_key"])
        head = place.head(file["s3_key"])
        assert file["size_bytes"] == len(data)
        assert file["checksum"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
        assert file["etag"] == head["ETag"].strip('"')
        assert file["content_type"] == head["ContentType"]


async def test_objects_carry_their_metadata_and_content_type(place: Place) -> None:
    place.source()
    report = await stage(place.request())
    types = {
        "source/": ("model-archive", "application/gzip"),
        "models/": ("riva-model", "application/octet-stream"),
        "checksums": ("checksums", "text/plain; charset=utf-8"),
        "artifact": ("artifact-metadata", "application/json"),
        "upload_": ("upload-manifest", "application/json"),
        "staging": ("staging-marker", "text/plain; charset=utf-8"),
    }
    for key in place.names():
        head = place.head(PREFIX + key)
        artifact_type, content_type = next(v for k, v in types.items() if key.startswith(k))
        assert head["ContentType"] == content_type
        assert head["Metadata"]["artifact-type"] == artifact_type
        assert head["Metadata"]["model-name"] == "parakeet-rnnt-en-us"
        assert head["Metadata"]["model-version"] == "v2025.09"
        assert head["Metadata"]["run-id"] == report.run_id
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", head["Metadata"]["upload-timestamp"])


async def test_the_marker_is_the_last_word(place: Place) -> None:
    place.source()
    report = await stage(place.request())
    marker = Marker.parse(place.read(PREFIX + "staging_complete.txt").decode())
    artifact = place.read(PREFIX + "artifact.json")
    assert marker.artifact_sha256 == hashlib.sha256(artifact).hexdigest()
    manifest = place.read(PREFIX + "upload_manifest.json")
    assert marker.manifest_sha256 == hashlib.sha256(manifest).hexdigest()
    assert marker.token
    assert marker.run_id == report.run_id
    assert marker.mode == "full"
    newest = max(place.names(), key=lambda key: place.head(PREFIX + key)["LastModified"])
    assert (
        place.head(PREFIX + "staging_complete.txt")["LastModified"]
        == place.head(PREFIX + newest)["LastModified"]
    )


async def test_events_tell_the_run_and_counters_never_go_back(place: Place) -> None:
    archive, data = place.source(12 * MIB, members=2)
    events: list[Event] = []
    await stage(place.request(part_size=5 * MIB), observer=events.append)
    started = next(event for event in events if isinstance(event, StageStarted))
    assert started.source_size == len(data)
    found = [event for event in events if isinstance(event, MemberFound)]
    assert [event.name for event in found] == [member.name for member in archive.rivas]
    assert len([event for event in events if isinstance(event, ObjectCompleted)]) == 1 + len(archive.rivas)
    assert isinstance(events[-1], StageFinished)
    progress = [event for event in events if isinstance(event, Progress)]
    for name in ("fetched", "hashed", "extracted", "expanded", "durable", "durable_source"):
        values = [getattr(event, name) for event in progress]
        assert values == sorted(values), name
    last = progress[-1]
    assert (last.fetched, last.hashed, last.extracted, last.durable_source) == (len(data),) * 4
    assert last.expanded == archive.tar_size
    assert last.durable == len(data) + sum(member.size for member in archive.rivas)


async def test_a_right_expected_sha256_is_verified(place: Place) -> None:
    _, data = place.source()
    report = await stage(place.request(expect_sha256=hashlib.sha256(data).hexdigest().upper()))
    assert report.artifact is not None
    assert report.artifact.validation.checksums_verified
    assert "sha256-expected" in report.artifact.validation.source_integrity


async def test_a_wrong_expected_sha256_leaves_nothing(place: Place) -> None:
    place.source()
    with pytest.raises(DigestMismatchError, match="not the expected"):
        await stage(place.request(expect_sha256="0" * 64))
    place.assert_nothing_left()


async def test_without_the_comparison_the_digests_are_computed_all_the_same(place: Place) -> None:
    archive, data = place.source()
    wrong = "0" * 64
    report = await stage(place.request(expect_sha256=wrong, no_checksum=True))
    place.assert_staged(archive, data)
    assert report.artifact is not None
    assert report.artifact.source.sha256 == hashlib.sha256(data).hexdigest()
    validation = report.artifact.validation
    assert (validation.checksums_computed, validation.checksums_verified) == (True, False)
    assert validation.source_integrity == "md5-etag+gzip-crc32"
    assert "no-checksum" in [warning.code for warning in report.warnings]
    assert validation.warnings == report.warnings
    written = json.loads(place.read(PREFIX + "artifact.json"))["validation"]
    # version 0.1 reads sentences here
    assert written["warnings"] == [warning.message for warning in report.warnings]
    assert written["warning_codes"] == [warning.code for warning in report.warnings]
    assert Validation.model_validate(written) == validation
    del written["warning_codes"]
    assert {warning.code for warning in Validation.model_validate(written).warnings} == {""}
    assert (
        "the SHA-256 of the archive was not compared with the expected one (--no-checksum)"
        in summary_text(report)
    )
    again = await stage(place.request(expect_sha256=wrong, no_checksum=True))
    assert again.outcome == "already_staged"
    with pytest.raises(DigestMismatchError):
        await stage(place.request(expect_sha256=wrong))


async def test_an_archive_without_a_match_tells_what_it_holds(place: Place) -> None:
    place.put(SOURCE_KEY, tar_gz([("a/readme.md", b"hello"), ("b.bin", b"x" * 5000)]))
    with pytest.raises(ArchiveError, match=r"(?s)a/readme\.md.*b\.bin"):
        await stage(place.request())
    place.assert_nothing_left()


@pytest.mark.parametrize("damage", ["cut", "crc", "garbage", "empty", "not gzip"])
async def test_a_damaged_archive_leaves_nothing(place: Place, damage: str) -> None:
    data = tar_gz([("m.riva", riva_bytes(2 * MIB))])
    place.put(
        SOURCE_KEY,
        {
            "cut": data[:-20_000],
            "crc": data[:-8] + bytes([data[-8] ^ 1]) + data[-7:],
            "garbage": data + b"garbage",
            "empty": b"",
            "not gzip": b"<html>" + b"sorry " * 1000,
        }[damage],
    )
    with pytest.raises(ArchiveError):
        await stage(place.request())
    place.assert_nothing_left()


async def test_include_chooses_the_members(place: Place) -> None:
    members = [("a.riva", riva_bytes(70_000, 1)), ("b.nemo", b"nemo" * 9000), ("c/d.txt", b"text")]
    place.put(SOURCE_KEY, tar_gz(members))
    await stage(place.request(include=("*.nemo", "*.txt")))
    assert [key for key in place.names() if key.startswith("models/")] == ["models/b.nemo", "models/d.txt"]
    assert place.read(PREFIX + "models/b.nemo") == members[1][1]


async def test_many_small_members_and_one_over_several_parts(place: Place) -> None:
    members = [(f"m/{index:03}.riva", riva_bytes(9_000 + 513 * index, index)) for index in range(60)]
    members.insert(30, ("big.riva", riva_bytes(11 * MIB + 17, "big")))
    data = tar_gz(members)
    place.put(SOURCE_KEY, data)
    await stage(place.request(part_size=5 * MIB))
    for name, content in members:
        assert place.read(f"{PREFIX}models/{name.rpartition('/')[2]}") == content
    assert place.open_uploads() == []


async def test_a_bare_model_is_staged_as_itself(place: Place) -> None:
    model = riva_bytes(6 * MIB)
    place.put("in/solo.riva", model)
    report = await stage(place.request(source=f"s3://{place.bucket}/in/solo.riva", part_size=5 * MIB))
    assert place.names() == [
        "artifact.json",
        "checksums.sha256",
        "models/solo.riva",
        "staging_complete.txt",
        "upload_manifest.json",
    ]
    assert place.read(PREFIX + "models/solo.riva") == model
    assert report.artifact is not None
    assert report.artifact.primary_model is not None
    assert report.artifact.primary_model.sha256 == hashlib.sha256(model).hexdigest()


@pytest.mark.parametrize(
    "pattern", ["bintarball/", "bintarball/*.tar.gz", "bintarball/parakeet-*_v8.?.tar.gz"]
)
async def test_a_folder_or_a_glob_takes_the_only_archive(place: Place, pattern: str) -> None:
    archive, data = place.source()
    place.put("bintarball/notes.txt", b"notes")
    report = await stage(place.request(source=f"s3://{place.bucket}/{pattern}"))
    assert report.artifact is not None
    assert report.artifact.source.uri == f"s3://{place.bucket}/{SOURCE_KEY}"
    place.assert_staged(archive, data)


async def test_two_archives_that_fit_are_listed(place: Place) -> None:
    place.source()
    place.source(key="bintarball/other_v8.2.tar.gz")
    with pytest.raises(SourceNotFoundError, match=r"(?s)other_v8\.2.*parakeet") as caught:
        await stage(place.request(source=f"s3://{place.bucket}/bintarball/*.tar.gz"))
    assert caught.value.exit_code == 66
    place.assert_nothing_left()


async def test_a_missing_key_names_the_nearest(place: Place) -> None:
    place.source()
    wrong = SOURCE_KEY.replace("v8.1", "v8.2")
    with pytest.raises(SourceNotFoundError, match=re.escape(SOURCE_KEY)) as caught:
        await stage(place.request(source=f"s3://{place.bucket}/{wrong}"))
    assert SOURCE_KEY in caught.value.hint
    place.assert_nothing_left()


async def test_a_missing_source_bucket_is_a_missing_source(place: Place) -> None:
    with pytest.raises(SourceNotFoundError):
        await stage(place.request(source="s3://no-such-bucket-anywhere/a.tar.gz"))


async def test_by_reference_nothing_is_read_and_little_is_asked(place: Place) -> None:
    _, data = place.source()
    async with FaultProxy(place.server) as proxy:
        report = await stage(place.request(reference_only=True, lease=0.6, endpoint_url=proxy.endpoint_url))
    assert [record.operation for record in proxy.select("*", SOURCE_KEY)] == ["HeadObject"] * 3
    assert len([record for record in proxy.log if not record.key.endswith(JOURNAL)]) < 40
    assert place.names() == ["artifact.json", "staging_complete.txt"]
    artifact: dict[str, Any] = json.loads(place.read(PREFIX + "artifact.json"))
    jsonschema.validate(artifact, json_schema(SCHEMAS["artifact"]))
    assert artifact["deployment"]["reference_mode"] is True
    assert artifact["deployment"]["staging_mode"] == "reference_only"
    assert artifact["source"]["sha256"] is None
    assert artifact["source"]["etag"] == place.head(SOURCE_KEY)["ETag"].strip('"')
    assert artifact["source"]["size_bytes"] == len(data)
    assert artifact["models"] == []
    assert not artifact["validation"]["checksums_computed"]
    assert report.outcome == "staged"


async def test_dry_run_writes_nothing_and_plans_all(place: Place) -> None:
    _, data = place.source(12 * MIB)
    report = await stage(place.request(dry_run=True, part_size=5 * MIB))
    assert report.outcome == "planned"
    assert report.plan is not None
    kinds = [planned.kind for planned in report.plan.objects]
    assert kinds == ["archive", "models", "checksums", "metadata", "manifest", "marker"]
    assert report.plan.objects[0].parts == -(-len(data) // (5 * MIB))
    place.assert_nothing_left()


async def test_a_second_run_moves_no_bytes(place: Place) -> None:
    archive, data = place.source()
    first = await stage(place.request())
    before = {key: place.head(PREFIX + key)["LastModified"] for key in place.names()}
    second = await stage(place.request())
    assert second.outcome == "already_staged"
    assert second.run_id != first.run_id
    assert {check.key for check in second.objects} <= {PREFIX + key for key in place.names()}
    assert len(second.objects) >= 4
    assert {key: place.head(PREFIX + key)["LastModified"] for key in place.names()} == before
    place.assert_staged(archive, data)


async def test_a_staged_object_that_was_changed_is_noticed(place: Place) -> None:
    archive, _ = place.source()
    await stage(place.request())
    place.put(f"{PREFIX}models/{archive.rivas[0].basename}", b"something else")
    with pytest.raises(Exception, match="no longer matches its manifest") as caught:
        await stage(place.request())
    assert getattr(caught.value, "exit_code", None) == 65


async def test_another_source_is_refused_and_forced_in(place: Place) -> None:
    place.source(members=3)
    await stage(place.request())
    old = place.names()
    archive, data = place.source(2 * MIB, members=1, seed="another")
    with pytest.raises(DestinationConflictError) as caught:
        await stage(place.request())
    assert caught.value.exit_code == 73
    assert place.names() == old
    report = await stage(place.request(force=True))
    assert report.outcome == "staged"
    place.assert_staged(archive, data)  # exact keys: no model of the old staging is left


async def test_a_forced_run_that_fails_leaves_the_old_staging_whole(place: Place) -> None:
    archive, data = place.source(members=2)
    await stage(place.request())
    before = {key: place.head(PREFIX + key)["ETag"] for key in place.names()}
    place.put(SOURCE_KEY, tar_gz([("m.riva", riva_bytes(MIB))])[:-30])
    with pytest.raises(ArchiveError):
        await stage(place.request(force=True))
    assert {key: place.head(PREFIX + key)["ETag"] for key in place.names()} == before
    assert place.read(f"{PREFIX}source/{SOURCE_KEY.rpartition('/')[2]}") == data
    place.assert_staged(archive, data)


async def test_a_staging_by_reference_is_upgraded_without_force(place: Place) -> None:
    archive, data = place.source()
    await stage(place.request(reference_only=True))
    report = await stage(place.request())
    assert report.outcome == "upgraded"
    place.assert_staged(archive, data)


async def test_a_full_staging_answers_a_request_by_reference(place: Place) -> None:
    archive, data = place.source()
    await stage(place.request())
    report = await stage(place.request(reference_only=True))
    assert report.outcome == "already_staged"
    place.assert_staged(archive, data)


async def test_other_includes_are_another_staging(place: Place) -> None:
    place.source()
    await stage(place.request())
    with pytest.raises(DestinationConflictError, match="include"):
        await stage(place.request(include=("*.riva", "*.md")))


async def test_another_expected_sha256_than_what_is_staged_is_65(place: Place) -> None:
    place.source()
    await stage(place.request())
    with pytest.raises(DigestMismatchError) as caught:
        await stage(place.request(expect_sha256="1" * 64))
    assert caught.value.exit_code == 65


async def test_leftovers_of_a_run_that_died_in_its_commit_are_replaced(place: Place) -> None:
    place.source(members=3, seed="first")
    await stage(place.request())
    place.client.delete_object(Bucket=place.bucket, Key=PREFIX + "staging_complete.txt")
    archive, data = place.source(members=1, seed="second")
    await stage(place.request())
    place.assert_staged(archive, data)


async def test_files_of_others_below_the_prefix_stay(place: Place) -> None:
    place.source()
    place.put(PREFIX + "models/by-hand.txt", b"mine")
    await stage(place.request())
    assert place.read(PREFIX + "models/by-hand.txt") == b"mine"


async def test_a_plain_tar_warns_that_nothing_vouches_for_it(place: Place) -> None:

    model = riva_bytes(7 * MIB)
    raw = gzip.decompress(tar_gz([("m.riva", model)]))
    upload = place.client.create_multipart_upload(Bucket=place.bucket, Key="in/m.tar")
    part = place.client.upload_part(
        Bucket=place.bucket, Key="in/m.tar", UploadId=upload["UploadId"], PartNumber=1, Body=raw
    )
    place.client.complete_multipart_upload(
        Bucket=place.bucket,
        Key="in/m.tar",
        UploadId=upload["UploadId"],
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
    )
    report: StageReport = await stage(place.request(source=f"s3://{place.bucket}/in/m.tar"))
    assert report.artifact is not None
    assert report.artifact.validation.source_integrity == "none"
    assert "source-integrity" in [warning.code for warning in report.warnings]
    assert place.read(PREFIX + "models/m.riva") == model


async def test_a_single_part_etag_vouches_for_the_source(place: Place) -> None:
    place.source()
    report = await stage(place.request())
    assert report.artifact is not None
    assert report.artifact.validation.source_integrity == "md5-etag+gzip-crc32"
