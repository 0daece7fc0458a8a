"""With fewer rights than a run would like: what still works, and what the first message says."""

from __future__ import annotations

import pytest

from riva_stream import AccessDeniedError, ConfigurationError, stage
from riva_stream.sizes import MIB
from tests.staging import PREFIX, SOURCE_KEY, Place, put_credentials
from tests.support.faultproxy import FaultProxy, Rule
from tests.support.faults import Refuse
from tests.support.servers import GatewayServer


@pytest.fixture
def place(gateway: GatewayServer, gateway_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    put_credentials(gateway, monkeypatch)
    return Place(gateway, gateway_bucket)


def denied(operation: str, key: str = "*") -> Rule:
    return Rule(operation, key=key, occurrence="every", fault=Refuse("AccessDenied"))


UNLISTED = [
    denied("ListObjectsV2"),
    denied("ListMultipartUploads"),
    # without s3:ListBucket S3 answers 403 for what is not there
    Rule("GetObject", key=f"{PREFIX}staging_complete.txt", occurrence="first", fault=Refuse("AccessDenied")),
]


async def test_without_listing_a_staging_still_works_and_says_so(place: Place) -> None:
    archive, data = place.source()
    async with FaultProxy(place.server, UNLISTED) as proxy:
        report = await stage(place.request(endpoint_url=proxy.endpoint_url))
    assert report.outcome == "staged"
    assert any("may not be listed" in warning for warning in report.warnings)
    assert any("s3:ListBucketMultipartUploads" in warning for warning in report.warnings)
    place.assert_staged(archive, data)


async def test_without_listing_a_forced_staging_leaves_no_stale_model(place: Place) -> None:
    place.source(members=3)
    await stage(place.request())
    archive, data = place.source(2 * MIB, members=1, seed="newer")
    async with FaultProxy(place.server, UNLISTED[:2]) as proxy:
        await stage(place.request(force=True, endpoint_url=proxy.endpoint_url))
    place.assert_staged(archive, data)


@pytest.mark.parametrize(
    ("rule", "right"),
    [
        (denied("CreateMultipartUpload"), "s3:PutObject"),
        (denied("UploadPart", "*/source/*"), "s3:PutObject"),
        (denied("GetObject", SOURCE_KEY), "s3:GetObject"),
        (denied("HeadObject", SOURCE_KEY), "s3:GetObject"),
    ],
    ids=["create", "part", "read", "head"],
)
async def test_a_missing_right_is_named(place: Place, rule: Rule, right: str) -> None:
    place.source()
    async with FaultProxy(place.server, [rule]) as proxy:
        with pytest.raises(AccessDeniedError) as caught:
            await stage(place.request(endpoint_url=proxy.endpoint_url))
    assert caught.value.exit_code == 77
    assert right in caught.value.hint
    assert not [name for name in place.names() if not name.startswith(".riva-stream/")]


async def test_a_dry_run_tries_the_rights(place: Place) -> None:
    place.source()
    async with FaultProxy(place.server, [denied("CreateMultipartUpload")]) as proxy:
        with pytest.raises(AccessDeniedError):
            await stage(place.request(dry_run=True, endpoint_url=proxy.endpoint_url))
    place.assert_nothing_left()


async def test_rights_are_tried_before_bytes_are_moved(place: Place) -> None:
    place.source()
    async with FaultProxy(place.server, [denied("CreateMultipartUpload", "*/source/*")]) as proxy:
        with pytest.raises(AccessDeniedError):
            await stage(place.request(endpoint_url=proxy.endpoint_url))
        assert proxy.count("GetObject", SOURCE_KEY) == 0


async def test_the_right_region_is_named(place: Place) -> None:
    place.source()
    wrong = Refuse("PermanentRedirect", headers={"x-amz-bucket-region": "eu-west-1"})
    rule = Rule("HeadObject", key=SOURCE_KEY, occurrence="every", fault=wrong)
    async with FaultProxy(place.server, [rule]) as proxy:
        with pytest.raises(ConfigurationError, match="eu-west-1") as caught:
            await stage(place.request(endpoint_url=proxy.endpoint_url))
    assert caught.value.exit_code == 78
    assert "--region eu-west-1" in caught.value.hint


async def test_a_token_that_expires_half_way_is_read_anew(place: Place) -> None:
    archive, data = place.source(12 * MIB)
    rule = Rule("UploadPart", key="*/source/*", occurrence=2, fault=Refuse("ExpiredToken"))
    async with FaultProxy(place.server, [rule]) as proxy:
        report = await stage(place.request(part_size=5 * MIB, endpoint_url=proxy.endpoint_url))
        assert any(record.faults for record in proxy.log)
    assert report.outcome == "staged"
    place.assert_staged(archive, data)


async def test_by_reference_six_requests_suffice_and_none_reads_the_source(place: Place) -> None:
    place.source()
    async with FaultProxy(place.server) as proxy:
        await stage(place.request(reference_only=True, endpoint_url=proxy.endpoint_url))
        operations = [record.operation for record in proxy.log]
        assert len(operations) <= 6, operations
        assert proxy.count("GetObject", SOURCE_KEY) == 0


@pytest.mark.parametrize("variable", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
async def test_wrong_credentials_are_told_from_missing_rights(
    place: Place, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """The very first answer is one to a HEAD, which has no body to say so."""
    place.source()
    monkeypatch.setenv(variable, "not-the-right-one")
    with pytest.raises(ConfigurationError, match="does not accept the credentials"):
        await stage(place.request())
