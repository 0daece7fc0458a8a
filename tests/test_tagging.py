"""`stage --tag`: every object has its tags, or a warning says why not; the staging succeeds either way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from riva_stream import AccessDeniedError, StageReport, TransientError, stage
from riva_stream.errors import Where
from riva_stream.s3 import S3Store
from riva_stream.s3.errors import refusal
from riva_stream.s3.port import NO_TAGS
from riva_stream.sizes import MIB
from tests.copying import Watched, asked, made
from tests.staging import PREFIX, Place, put_credentials
from tests.support.faultproxy import FaultProxy, Rule
from tests.support.faults import Gate, Refuse, Stall
from tests.support.s3ops import S3Request
from tests.support.servers import S3Server

TAGS = {"retention-days": "30", "model-name": "parakeet-rnnt-en-us"}


@pytest.fixture
def place(s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    put_credentials(s3_server, monkeypatch)
    return Place(s3_server, bucket)


def tags_of(place: Place) -> dict[str, dict[str, str]]:
    found = {}
    for name in place.names():
        answer = place.client.get_object_tagging(Bucket=place.bucket, Key=PREFIX + name)
        found[name] = {tag["Key"]: tag["Value"] for tag in answer["TagSet"]}
    return found


async def staged(place: Place, rules: Iterable[Rule] = (), **fields: object) -> tuple[StageReport, list[str]]:
    """Stage with tags through a proxy; the report, and the operations that it took."""
    asked = {"tag": True, "retention_days": 30} | fields
    async with FaultProxy(place.server, list(rules)) as proxy:
        report = await stage(place.request(endpoint_url=proxy.endpoint_url, **asked))
        return report, [record.operation for record in proxy.log]


@pytest.mark.parametrize("by_reference", [False, True])
async def test_every_object_has_the_tags_and_artifact_json_names_them(
    place: Place, by_reference: bool
) -> None:
    place.source()
    report, _ = await staged(place, reference_only=by_reference)
    found = tags_of(place)
    assert len(found) == (2 if by_reference else 5 + len(report.artifact.models if report.artifact else []))
    assert set(map(tuple, (sorted(tags.items()) for tags in found.values()))) == {tuple(sorted(TAGS.items()))}
    assert report.artifact is not None
    assert report.artifact.deployment.tags == TAGS
    assert not [warning for warning in report.warnings if warning.code == "tags"]


async def test_nothing_is_tagged_unless_asked_for(place: Place) -> None:
    place.source()
    report, operations = await staged(place, tag=False)
    assert not any(tags_of(place).values())
    assert report.artifact is not None
    assert report.artifact.deployment.tags == {}
    assert not {"PutObjectTagging", "GetObjectTagging"} & set(operations)


@dataclass(frozen=True, kw_only=True)
class Tagged(Rule):
    """Strikes only requests that carry tags: a refusal of the first one may be taken for one of its signature."""

    def fits(self, request: S3Request) -> bool:
        return super().fits(request) and request.tagged


DENIED = [
    # S3 refuses the whole request when it carries tags and s3:PutObjectTagging is missing
    Rule("PutObjectTagging", occurrence="every", fault=Refuse("AccessDenied")),
    Rule("GetObjectTagging", occurrence="every", fault=Refuse("AccessDenied")),
]


@pytest.mark.parametrize("by_reference", [False, True])
async def test_a_refused_right_is_one_warning_and_the_staging_succeeds(
    place: Place, by_reference: bool
) -> None:
    archive, data = place.source()
    first = "*/artifact.json" if by_reference else "*/source/*"
    denied = [
        *DENIED,
        Tagged(operation="CreateMultipartUpload", key=first, fault=Refuse("AccessDenied")),
    ]
    report, operations = await staged(place, denied, reference_only=by_reference)
    (warning,) = [warning for warning in report.warnings if warning.code == "tags"]
    assert "s3:PutObjectTagging" in warning.message
    assert report.artifact is not None
    assert report.artifact.deployment.tags == {}
    assert b'"tags": {}' in place.read(PREFIX + "artifact.json")
    assert "PutObjectTagging" not in operations
    if not by_reference:
        place.assert_staged(archive, data)


async def test_a_missing_right_to_put_is_not_taken_for_one_to_tag(place: Place) -> None:
    place.source()
    rule = Rule("CreateMultipartUpload", key="*/source/*", occurrence="every", fault=Refuse("AccessDenied"))
    with pytest.raises(Exception, match="access denied") as caught:
        await staged(place, [rule])
    assert getattr(caught.value, "exit_code", None) == 77
    assert "s3:PutObject" in getattr(caught.value, "hint", "")


async def test_a_store_that_cannot_take_tags_along_is_tagged_afterwards(place: Place) -> None:
    place.source()
    rules = [Tagged(operation="CreateMultipartUpload", fault=Refuse("NotImplemented"))]
    report, operations = await staged(place, rules)
    assert report.artifact is not None
    assert report.artifact.deployment.tags == TAGS
    assert all(tags == TAGS for tags in tags_of(place).values())
    assert "PutObjectTagging" in operations


async def test_a_store_without_tags_is_one_warning(place: Place) -> None:
    archive, data = place.source()
    rules = [
        Tagged(operation="CreateMultipartUpload", fault=Refuse("NotImplemented")),
        Rule("PutObjectTagging", occurrence="every", fault=Refuse("NotImplemented")),
    ]
    report, _ = await staged(place, rules)
    (warning,) = [warning for warning in report.warnings if warning.code == "tags"]
    assert "does not support" in warning.message
    assert report.artifact is not None
    assert report.artifact.deployment.tags == {}
    place.assert_staged(archive, data)


async def test_a_dry_run_finds_out_that_the_right_is_missing(place: Place) -> None:
    place.source()
    rule = Rule("CreateMultipartUpload", occurrence=range(1, 4), fault=Refuse("AccessDenied"))
    report, _ = await staged(place, [rule], dry_run=True)
    assert "tags" in [warning.code for warning in report.warnings]
    place.assert_nothing_left()


async def stopped(place: Place, **fields: object) -> None:
    """Leave a run that was cancelled with parts in the store."""
    gate = Gate()
    rule = Rule("UploadPart", key="*/source/*", occurrence=2, fault=Stall("request", gate=gate))
    async with FaultProxy(place.server, [rule]) as proxy:
        asked = {"part_size": 5 * MIB, "connections": 1, "endpoint_url": proxy.endpoint_url} | fields
        run = asyncio.create_task(stage(place.request(**asked)))
        await gate.reached()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        gate.release()


async def test_parts_of_a_run_without_tags_do_not_make_an_untagged_object(place: Place) -> None:
    archive, data = place.source(12 * MIB)
    await stopped(place)
    await staged(place, part_size=5 * MIB)
    assert all(tags == TAGS for tags in tags_of(place).values())
    place.assert_staged(archive, data)


async def test_what_was_opened_while_the_right_was_missing_is_tagged_by_the_run_that_goes_on(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On AWS the tags that went along are believed without a look, so here only the journal can tell.
    monkeypatch.setattr(S3Store, "is_aws", property(lambda _: True))
    place.source(12 * MIB)
    gate = Gate()
    rules = [
        # the documents come first; after one refusal the archive's upload is created without tags
        Rule(
            "CreateMultipartUpload", key="*/artifact.json", occurrence="first", fault=Refuse("AccessDenied")
        ),
        Rule("UploadPart", key="*/source/*", occurrence=2, fault=Stall("request", gate=gate)),
    ]
    async with FaultProxy(place.server, rules) as proxy:
        asked = {"part_size": 5 * MIB, "connections": 1, "upload_check": "none"}
        asked |= {"tag": True, "retention_days": 30}
        run = asyncio.create_task(stage(place.request(endpoint_url=proxy.endpoint_url, **asked)))
        await gate.reached()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        gate.release()
    report, operations = await staged(place, part_size=5 * MIB, upload_check="none")
    assert "GetObjectTagging" not in operations
    assert "resume" in [warning.code for warning in report.warnings]
    assert all(tags == TAGS for tags in tags_of(place).values())


async def test_a_staging_without_the_tags_says_so_when_it_is_found(place: Place) -> None:
    place.source()
    await staged(place, tag=False)
    report, _ = await staged(place)
    assert report.outcome == "already_staged"
    assert [
        warning for warning in report.warnings if warning.code == "differs" and "tag force" in warning.message
    ]
    report, _ = await staged(place, force=True)
    assert all(tags == TAGS for tags in tags_of(place).values())


async def test_an_upload_of_an_earlier_run_with_the_same_id_is_tagged_too() -> None:
    class Store(Watched):
        may = False

        async def create_upload(self, bucket: str, key: str, *, tags: Any = NO_TAGS, **options: Any) -> str:
            if tags and not self.may:
                raise AccessDeniedError("denied", where=Where(status=403, code="AccessDenied"))
            return await super().create_upload(bucket, key, tags=tags, **options)

        async def upload_part(self, bucket: str, key: str, *args: Any) -> str:
            if not self.may and "/models/" in key:
                raise TransientError("failed", where=Where(status=500, code="InternalError"))
            return await super().upload_part(bucket, key, *args)

    store, model = Store(), made("tar.gz")
    await store.put_source(model.key, model.data)
    request = asked(model, tag=True, run_id="job-7", source_copy="send", retries=0)
    with pytest.raises(TransientError):
        await stage(request, store=store)
    store.may = True
    report = await stage(request, store=store)
    assert report.artifact is not None
    assert "resume" in {warning.code for warning in report.warnings}
    for name in ("source/a.tar.gz", *(f"models/{model.filename}" for model in report.artifact.models)):
        found = store.look(
            "staging", report.artifact.deployment.s3_prefix.removeprefix("s3://staging/") + name
        )
        assert found is not None
        assert found.tags == report.artifact.deployment.tags


async def test_one_refusal_does_not_cost_the_tags() -> None:
    """They were given up for all objects, with the warning that the right is missing."""

    class Refusing(Watched):
        refused = False

        async def create_upload(self, bucket: str, key: str, **given: Any) -> str:
            if given["tags"] and not self.refused:
                self.refused = True
                raise refusal("CreateMultipartUpload", bucket, key, "AccessDenied", 403)
            return await super().create_upload(bucket, key, **given)

    store, model = Refusing(), made("tar.gz")
    await store.put_source(model.key, model.data)
    report = await stage(asked(model).model_copy(update={"tag": True}), store=store)
    assert store.refused
    assert "tags" not in {warning.code for warning in report.warnings}
    for key in store.keys("staging", "prod/"):
        assert await store.get_tags("staging", key)
