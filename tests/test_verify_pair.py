"""`verify` and `status` of what is handed over: ``deployment.json``, its marker, and the image that it pins."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from riva_stream import AccessDeniedError, DestinationConflictError, StageRequest, stage
from riva_stream.cli.settings.load import load_endpoint
from riva_stream.inspection.last_run import last_run_of
from riva_stream.inspection.reports import VerifyReport
from riva_stream.inspection.status import status
from riva_stream.inspection.verify import verify
from riva_stream.layout import DEPLOYMENT_DOCUMENTS
from riva_stream.manifest import json_bytes
from riva_stream.s3 import StoreSettings
from tests.staging import PREFIX, Place, put_credentials
from tests.support.faultproxy import FaultProxy, Rule
from tests.support.faults import Refuse
from tests.support.servers import S3Server

IMAGE = "images/speech.tar.gz"
REFERENCE = f"bintarball/deployment-metadata/{PREFIX}"
MODES = ("full", "reference_only", "bintarball_reference")


@pytest.fixture
def place(moto: S3Server, moto_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    put_credentials(moto, monkeypatch)
    made = Place(moto, moto_bucket)
    made.source()
    made.put(IMAGE, b"a container image")
    return made


def asked(place: Place, mode: str) -> StageRequest:
    return place.request(server_path=IMAGE, **({} if mode == "full" else {mode: True}))


def settings_of(place: Place) -> StoreSettings:
    return StoreSettings(region=place.server.region, endpoint_url=place.server.endpoint_url)


async def verified(place: Place, prefix: str) -> VerifyReport:
    return await verify(settings_of(place), place.bucket, prefix)


def wrong(report: VerifyReport) -> dict[str, set[str]]:
    """By name the codes of what differs."""
    return {
        entry.key.rpartition("/")[2]: {found.code for found in entry.differences}
        for entry in report.objects
        if not entry.ok
    }


@pytest.mark.parametrize("mode", MODES)
async def test_what_is_handed_over_is_compared(place: Place, mode: str) -> None:
    request = asked(place, mode)
    made = await stage(request)
    report = await verified(place, request.prefix)
    assert (report.ok, wrong(report), report.extra, report.mode) == (True, {}, [], mode)
    assert (report.run_id, report.container) == (made.run_id, f"s3://{place.bucket}/{IMAGE}")
    keys = {entry.key.rpartition("/")[2] for entry in report.objects}
    assert {"deployment.json", "deployment_ready.txt", "speech.tar.gz"} <= keys


async def test_a_pair_that_was_added_later_is_compared(place: Place) -> None:
    await stage(place.request())
    await stage(asked(place, "full"))
    report = await verified(place, PREFIX)
    assert (report.ok, wrong(report), report.extra) == (True, {}, [])


@pytest.mark.parametrize("mode", MODES)
async def test_a_changed_document_or_image_is_told(place: Place, mode: str) -> None:
    request = asked(place, mode)
    await stage(request)
    key = request.prefix + "deployment.json"
    text = place.read(key)
    place.put(key, text.replace(b"speech.tar.gz", b"other-.tar.gz"))
    assert "content" in wrong(await verified(place, request.prefix))["deployment.json"]
    place.put(key, text)
    place.put(IMAGE, b"another image")
    assert "etag" in wrong(await verified(place, request.prefix))["speech.tar.gz"]


@pytest.mark.parametrize("mode", MODES)
async def test_without_the_right_to_see_the_image_it_is_named(place: Place, mode: str) -> None:
    request = asked(place, mode)
    await stage(request)
    denied = Rule("HeadObject", key=IMAGE, fault=Refuse("AccessDenied"))
    async with FaultProxy(place.server, [denied]) as proxy:
        settings = StoreSettings(region=place.server.region, endpoint_url=proxy.endpoint_url)
        with pytest.raises(AccessDeniedError) as caught:
            await verify(settings, place.bucket, request.prefix)
    assert caught.value.exit_code == 77
    assert "s3:GetObject" in caught.value.hint
    assert caught.value.where.key == IMAGE


async def test_a_pair_of_another_staging_is_told(place: Place) -> None:
    await stage(asked(place, "reference_only"))
    old = {name: place.read(PREFIX + name) for name in ("deployment.json", "deployment_ready.txt")}
    await stage(place.request(reference_only=True, force=True))
    for name, text in old.items():
        place.put(PREFIX + name, text)
    assert "artifact.json" in wrong(await verified(place, PREFIX))["deployment.json"]


def rewrite(place: Place, prefix: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change ``deployment.json``, and write its marker for what it is then."""
    document, mark = (prefix + name for name in DEPLOYMENT_DOCUMENTS)
    before, ready = place.read(document), place.read(mark)
    changed = json.loads(before)
    change(changed)
    after = json_bytes(changed)
    for value_of in (lambda data: hashlib.sha256(data).hexdigest(), archive_uri):
        ready = ready.replace(value_of(before).encode(), value_of(after).encode())
    for key, data in ((document, after), (mark, ready)):
        put(place, key, data, place.head(key)["Metadata"])


def put(place: Place, key: str, data: bytes, metadata: Mapping[str, str]) -> None:
    place.client.put_object(Bucket=place.bucket, Key=key, Body=data, Metadata=metadata)


def archive_uri(data: bytes) -> str:
    return str(json.loads(data)["bintarball_references"]["model_archive"]["s3_uri"])


def setting(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = value(document[path[-1]]) if callable(value) else value

    return change


ARCHIVE = ("bintarball_references", "model_archive")
CONTRADICTIONS = [
    (setting(*ARCHIVE, "s3_uri", value=lambda uri: uri.replace("s3://", "s3://x-")), "model-archive"),
    (setting(*ARCHIVE, "s3_uri", value=lambda uri: uri.replace("/prod/", "/dev/")), "malformed"),
    (setting(*ARCHIVE, "path", value="a/other.tar.gz"), "malformed"),
    (setting(*ARCHIVE, "etag", value="0" * 32), "model-archive"),
    (setting(*ARCHIVE, "version_id", value="another"), "model-archive"),
    (setting(*ARCHIVE, "size_bytes", value=1), "model-archive"),
    (setting("bintarball_references", "container_image", "path", value="other"), "malformed"),
    (setting("model", "name", value="canary"), "place"),
    (setting("model", "version", value="v0"), "place"),
    (setting("deployment", "environment", value="dev"), "place"),
    (setting("deployment", "s3_bucket", value="elsewhere"), "place"),
    (setting("deployment", "s3_prefix", value=f"s3://elsewhere/{PREFIX}"), "place"),
    (setting("deployment", "ready_for_deployment", value=False), "malformed"),
    (setting("schema_version", value="99.0"), "malformed"),
    (setting("deployment_type", value="reference_only"), "mode"),
]


async def test_a_pair_that_contradicts_its_staging_is_told_and_replaced(place: Place) -> None:
    """Its own marker vouches for it, as for one of another program or of a mistaken one."""
    await stage(place.request())
    await stage(asked(place, "full"))
    kept = {name: place.read(PREFIX + name) for name in DEPLOYMENT_DOCUMENTS}
    metadata = {name: place.head(PREFIX + name)["Metadata"] for name in DEPLOYMENT_DOCUMENTS}
    for change, code in CONTRADICTIONS:
        rewrite(place, PREFIX, change)
        found = wrong(await verified(place, PREFIX))
        assert code in found["deployment.json"], (code, found)
        for name, text in kept.items():
            put(place, PREFIX + name, text, metadata[name])
    assert (await verified(place, PREFIX)).ok
    rewrite(place, PREFIX, CONTRADICTIONS[0][0])
    assert (await stage(asked(place, "full"))).outcome == "deployment_added"
    assert (await verified(place, PREFIX)).ok


@pytest.mark.parametrize("mode", MODES)
async def test_a_pair_of_another_environment_is_told_in_each_mode(place: Place, mode: str) -> None:
    request = asked(place, mode)
    await stage(request)
    rewrite(place, request.prefix, setting("deployment", "environment", value="dev"))
    assert "place" in wrong(await verified(place, request.prefix))["deployment.json"]
    if mode == "reference_only":  # only their own marker vouches for them
        assert (await stage(request)).outcome == "deployment_added"
    else:
        with pytest.raises(DestinationConflictError, match=r"it was written for s3://.*, as .*dev/"):
            await stage(request)


async def test_a_pair_that_was_written_through_an_access_point_is_the_same(place: Place) -> None:
    await stage(place.request())
    await stage(asked(place, "full"))
    point = "arn:aws:s3:us-east-1:111122223333:accesspoint/deployments"

    def name_it(document: dict[str, Any]) -> None:
        document["deployment"]["s3_bucket"] = point
        for part, field in (
            (document["deployment"], "s3_prefix"),
            (document[ARCHIVE[0]][ARCHIVE[1]], "s3_uri"),
        ):
            part[field] = part[field].replace(f"s3://{place.bucket}/", f"s3://{point}/")

    rewrite(place, PREFIX, name_it)
    assert wrong(await verified(place, PREFIX)) == {}


async def test_status_and_the_state_directory_find_a_bintarball_reference(
    place: Place, tmp_path: Path
) -> None:
    request = asked(place, "bintarball_reference").model_copy(update={"state_dir": tmp_path})
    made = await stage(request)
    found = last_run_of(tmp_path)
    assert (found.bucket, found.prefix) == (place.bucket, REFERENCE)
    report = await status(settings_of(place), found.bucket, found.prefix)
    assert report.staged is not None
    assert (report.state, report.staged.run_id, report.staged.problem) == ("staged", made.run_id, "")
    assert report.staged.source == request.source


async def test_status_says_that_a_container_would_add_the_pair(place: Place) -> None:
    await stage(place.request(reference_only=True))
    rerun = (await status(settings_of(place), place.bucket, PREFIX)).rerun
    assert (rerun.code, rerun.adds_deployment) == ("already_staged", True)
    assert "RIVA_SERVER_PATH" in rerun.message
    await stage(asked(place, "reference_only"))
    rerun = (await status(settings_of(place), place.bucket, PREFIX)).rerun
    assert (rerun.code, rerun.adds_deployment) == ("already_staged", False)


def test_a_dry_run_is_not_the_last_run(tmp_path: Path) -> None:
    request = {"bucket": "b", "env": "prod", "model_name": "m", "model_version": "v1"}
    for name, dry in (("130-1", False), ("130-2", True)):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "request.json").write_text(json.dumps(request | {"dry_run": dry}))
    assert last_run_of(tmp_path).run.run_id == "130-1"


def test_the_settings_name_the_place_that_stage_writes_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    values = {
        "AWS_REGION": "us-east-2",
        "RIVA_MODELS_S3_BUCKET": "models",
        "ENV": "prod",
        "RIVA_MODEL_SELECTED": "parakeet_v8.1.tar.gz",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    reach = load_endpoint({})
    assert (reach.bucket, reach.prefix) == ("models", "prod/parakeet_v8.1/v8.1/")
    monkeypatch.setenv("BINTARBALL_REFERENCE", "1")
    assert load_endpoint({}).prefix == "bintarball/deployment-metadata/prod/parakeet_v8.1/v8.1/"
