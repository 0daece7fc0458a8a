"""`check`: what it says of each thing that can be wrong, the code it ends with, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from riva_stream import stage
from riva_stream.errors import ConfigurationError
from riva_stream.log_place import LogPlace
from riva_stream.preflight.check import check
from riva_stream.preflight.host import check_files, check_memory, check_state, free_memory
from riva_stream.preflight.policy import policy_of
from riva_stream.preflight.report import CheckRecord, CheckReport, passed
from riva_stream.sizes import GIB, MIB
from tests.cli_processes import run
from tests.staging import PREFIX, SOURCE_KEY, Place, put_credentials
from tests.support.faultproxy import FaultProxy, Rule
from tests.support.faults import Fault, Gate, IgnoreRange, Refuse, Reset, Rewrite, Stall
from tests.support.iam import Enforce
from tests.support.servers import GatewayServer, MotoServer, S3Server, random_bucket_name

SETTLED = passed("settings", "")
UPLOADS = {"list-uploads", "list-parts", "checksums"}


@pytest.fixture
def place(gateway: GatewayServer, gateway_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """On the gateway, and clean again afterwards: whatever a test does to `check`."""
    put_credentials(gateway, monkeypatch)
    place = Place(gateway, gateway_bucket)
    yield place
    place.assert_nothing_left()


def flags(place: Place, *more: str) -> list[str]:
    return [
        *("--source", f"s3://{place.bucket}/{SOURCE_KEY}", "--bucket", place.bucket, "--env", "prod"),
        *("--model-name", "parakeet-rnnt-en-us", "--model-version", "v2025.09", *more),
    ]


async def checked(place: Place, *rules: Rule, limit: float = 10.0, **fields: Any) -> CheckReport:
    async with FaultProxy(place.server, rules) as proxy:
        request = place.request(endpoint_url=proxy.endpoint_url, **fields)
        report = await check(request, SETTLED, limit=limit)
        if rules and not any(isinstance(fault, Stall) for rule in rules for fault in rule.faults):
            assert any(record.faults for record in proxy.log), "the fault was a dud"
        return report


def of(report: CheckReport, component: str) -> CheckRecord:
    return {record.component: record for record in report.records}[component]


def failures(report: CheckReport) -> set[str]:
    return {record.component for record in report.records if record.status == "fail"}


def every(operation: str | tuple[str, ...], fault: Fault, key: str = "*") -> Rule:
    return Rule(operation, key=key, occurrence="every", fault=fault)


# --- all is well


def test_the_command_line_shows_a_table_and_leaves_nothing(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put_credentials(s3_server, monkeypatch)
    place = Place(s3_server, bucket)
    place.source()
    done = run("riva_stream", "check", *flags(place), cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "FAIL" not in done.stdout
    assert "pass  source  " in done.stdout
    assert f"Next: python -m riva_stream stage --source s3://{bucket}" in done.stdout
    assert s3_server.secret_key not in done.stdout + done.stderr
    place.assert_nothing_left()
    assert list(tmp_path.iterdir()) == []


def test_json_is_one_document(place: Place, tmp_path: Path) -> None:
    place.source()
    done = run("riva_stream", "check", *flags(place), "--json", "--limit", "9s", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    document = json.loads(done.stdout)
    assert (document["exit_code"], document["policy"]) == (0, None)
    assert document["overall"] in {"pass", "warn"}
    for record in document["records"]:
        assert record["status"] in {"pass", "warn", "fail"}
        assert record["message"]
    components = [record["component"] for record in document["records"]]
    assert components[0] == "settings"
    assert {"credentials", "identity", "clock", "source", "destination", "memory", "versions"} <= set(
        components
    )
    details = {record["component"]: record["details"] for record in document["records"]}
    assert details["credentials"]["method"] == "env"
    assert details["versions"]["riva_stream"]
    assert details["source"]["vouched_for_by"] == ["md5-etag"]


async def test_each_store_is_seen_as_it_is(moto: MotoServer, place: Place, moto_bucket: str) -> None:
    place.source()
    report = await checked(place)
    assert of(report, "conditional-writes").status == "warn"  # the gateway takes the headers and ignores them
    assert of(report, "checksums").details["used"] == "sha256"
    other = Place(moto, moto_bucket)
    other.source()
    report = await checked(other)
    assert of(report, "conditional-writes").status == "pass"
    assert of(report, "checksums").details["used"] == "etag"


async def test_a_bucket_with_versions_keeps_none(moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    put_credentials(moto, monkeypatch)
    place = Place(moto, moto.new_bucket())
    place.client.put_bucket_versioning(Bucket=place.bucket, VersioningConfiguration={"Status": "Enabled"})
    place.source()
    report = await checked(place)
    assert report.exit_code == 0
    assert of(report, "source").details["version_id"]
    answer = place.client.list_object_versions(Bucket=place.bucket, Prefix=PREFIX)
    assert not answer.get("Versions")
    assert not answer.get("DeleteMarkers")


@pytest.mark.parametrize("reference", [False, True])
async def test_a_bucket_that_locks_its_objects_gets_a_checksum_with_everything(
    reference: bool, moto: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_credentials(moto, monkeypatch)
    sources, place = Place(moto, moto.new_bucket()), Place(moto, random_bucket_name())
    sources.source()
    fields: dict[str, Any] = {"source": sources.request().source, "reference_only": reference}
    place.client.create_bucket(Bucket=place.bucket, ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}
    place.client.put_object_lock_configuration(
        Bucket=place.bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
    )
    report = await checked(place, **fields)
    assert (failures(report), report.exit_code) == (set(), 0)
    await stage(place.request(**fields))
    again = await stage(place.request(**fields, force=True, upload_check="none"))
    assert again.outcome == "staged"


async def test_what_was_not_put_is_not_said_of_everything(place: Place) -> None:
    place.source()
    report = await checked(place, every("PutObject", Refuse("InvalidRequest", 400)))
    assert of(report, "destination").status == "pass"
    said = {of(report, name).message for name in ("head", "store")}
    assert said == {"not tried: the scratch object could not be put"}


async def test_by_reference_asks_for_less(place: Place) -> None:
    place.source()
    report = await checked(place, reference_only=True)
    assert report.exit_code == 0
    assert not UPLOADS & {record.component for record in report.records}
    assert of(report, "destination").status == "pass"


async def test_a_bintarball_reference_asks_for_as_little(place: Place) -> None:
    place.source()
    place.put("images/speech.tar.gz", b"an image")
    fields: dict[str, Any] = {"bintarball_reference": True, "server_path": "images/speech.tar.gz"}
    report = await checked(place, **fields)
    assert report.exit_code == 0
    assert not UPLOADS & {record.component for record in report.records}
    assert of(report, "destination").status == "pass"
    archived = every("GetObject", Refuse("InvalidObjectState"), SOURCE_KEY)
    report = await checked(place, archived, **fields)
    assert (report.exit_code, of(report, "source").status) == (0, "warn")


async def test_by_reference_no_version_is_read(moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what `policy` prints for it, which is all that such a run needs."""
    put_credentials(moto, monkeypatch)
    place = Place(moto, moto.new_bucket())
    place.client.put_bucket_versioning(Bucket=place.bucket, VersioningConfiguration={"Status": "Enabled"})
    place.source()
    policy = policy_of(place.request(reference_only=True)).model_dump()
    async with FaultProxy(moto, [Enforce(policy=policy)]) as proxy:
        report = await check(place.request(endpoint_url=proxy.endpoint_url, reference_only=True), SETTLED)
    assert (report.exit_code, of(report, "source").status) == (0, "pass")


# --- the container image


@pytest.mark.parametrize("elsewhere", [True, False])
async def test_the_container_image_is_looked_for(place: Place, elsewhere: bool) -> None:
    place.source()
    bucket = place.server.new_bucket("images") if elsewhere else place.bucket
    start = f"s3://{bucket}/" if elsewhere else ""
    for key, data in (("images/speech.tar.gz", b"an image"), ("images/empty.tar.gz", b"")):
        place.client.put_object(Bucket=bucket, Key=key, Body=data)
    report = await checked(place, server_path=f"{start}images/speech.tar.gz")
    assert (report.exit_code, of(report, "container").status) == (0, "pass")
    report = await checked(place, server_path=f"{start}images/speech.tgz", reference_only=True)
    assert (report.exit_code, failures(report)) == (66, {"container"})
    fix = of(report, "container").details["fix"]
    assert f"server_path s3://{bucket}/images/speech.tar.gz" in fix
    empty: dict[str, Any] = {"server_path": f"{start}images/empty.tar.gz", "bintarball_reference": True}
    report = await checked(place, **empty)
    assert (report.exit_code, failures(report)) == (65, {"container"})
    denied = every("HeadObject", Refuse("AccessDenied"), "images/*")
    report = await checked(place, denied, server_path=f"{start}images/speech.tar.gz")
    assert (report.exit_code, failures(report)) == (77, {"container"})
    assert report.policy is not None
    assert "ReadContainer" in [grant.Sid for grant in report.policy.Statement]
    if elsewhere:
        place.server.remove_bucket(bucket)
    report = await checked(place, server_path="images/speech.tar.gz", bucket="no-such-bucket-here")
    assert of(report, "container").message == "not tried: destination-region failed"


# --- the source


async def test_a_missing_source_names_the_nearest(place: Place) -> None:
    place.source()
    report = await checked(place, source=f"s3://{place.bucket}/bintarball/parakeet_v8.1.tar.gz")
    assert report.exit_code == 66
    assert failures(report) == {"source"}
    assert SOURCE_KEY in of(report, "source").message
    assert f"source s3://{place.bucket}/{SOURCE_KEY}" in of(report, "source").details["fix"]
    assert of(report, "destination").status == "pass"  # the rest is looked at all the same


async def test_missing_buckets_are_told_apart(place: Place) -> None:
    place.source()
    report = await checked(place, source="s3://no-such-bucket-here/model.tar.gz")
    assert (report.exit_code, failures(report)) == (66, {"source-region"})
    report = await checked(place, bucket="no-such-bucket-here")
    assert (report.exit_code, failures(report)) == (78, {"destination-region"})
    assert of(report, "checksums").message == "not tried: destination-region failed"


async def test_an_archived_source_says_how_to_restore_it(place: Place) -> None:
    place.source()
    archived = every("GetObject", Refuse("InvalidObjectState"), SOURCE_KEY)
    head = every(
        "HeadObject",
        Rewrite(headers={"x-amz-storage-class": "DEEP_ARCHIVE", "x-amz-restore": 'ongoing-request="true"'}),
        SOURCE_KEY,
    )
    report = await checked(place, archived)
    assert report.exit_code == 66
    assert "aws s3api restore-object" in of(report, "source").details["fix"]
    report = await checked(place, archived, head)
    assert "(DEEP_ARCHIVE) and is being restored" in of(report, "source").message
    report = await checked(place, archived, reference_only=True)
    assert (report.exit_code, of(report, "source").status) == (0, "warn")


@pytest.mark.parametrize(("odd", "code"), [(Rewrite(shift_range=1), 78), (IgnoreRange(), 78)])
async def test_an_answer_that_a_run_would_not_believe_fails(
    place: Place, odd: Rewrite | IgnoreRange, code: int
) -> None:
    place.source()
    report = await checked(place, every("GetObject", odd, SOURCE_KEY))
    assert (report.exit_code, failures(report)) == (code, {"source"})


# --- rights


@pytest.mark.parametrize(
    ("operation", "component", "status", "action"),
    [
        ("HeadObject", "head", "fail", "s3:GetObject"),
        ("CreateMultipartUpload", "destination", "fail", "s3:PutObject"),
        ("UploadPart", "destination", "fail", "s3:PutObject"),
        ("AbortMultipartUpload", "destination", "fail", "s3:AbortMultipartUpload"),
        ("DeleteObject", "delete", "warn", "s3:DeleteObject"),
        ("GetObject", "head", "fail", "s3:GetObject"),
    ],
)
async def test_a_missing_right_is_named_and_leaves_nothing(
    place: Place, operation: str, component: str, status: str, action: str
) -> None:
    place.source()
    key = f"{PREFIX}*" if operation in {"HeadObject", "GetObject", "DeleteObject"} else "*"
    report = await checked(place, every(operation, Refuse("AccessDenied"), key))
    record = of(report, component)
    assert record.status == status
    assert report.exit_code == (77 if status == "fail" else 0)
    granted = {name for grant in record.details["policy"] for name in grant["Action"]}
    assert action in granted
    assert report.policy is not None
    assert record.details["fix"]


async def test_rights_that_a_run_can_do_without_only_warn(place: Place) -> None:
    place.source()
    names = {
        "ListParts": ("list-parts", "s3:ListMultipartUploadParts"),
        "ListObjectsV2": ("list", "s3:ListBucket"),
        "ListMultipartUploads": ("list-uploads", "s3:ListBucketMultipartUploads"),
    }
    report = await checked(place, every(tuple(names), Refuse("AccessDenied")))
    assert (report.exit_code, report.overall) == (0, "warn")
    for component, action in names.values():
        record = of(report, component)
        assert record.status == "warn"
        assert [grant["Action"] for grant in record.details["policy"]] == [[action]]


async def test_a_source_that_may_not_be_read(place: Place) -> None:
    place.source()
    report = await checked(place, every("HeadObject", Refuse("AccessDenied"), SOURCE_KEY))
    assert (report.exit_code, failures(report)) == (77, {"source"})
    assert report.policy is not None
    assert [grant.Sid for grant in report.policy.Statement] == ["ReadSource", "FindSource"]


async def test_what_the_store_names_is_what_is_granted(place: Place) -> None:
    place.source()
    key = "arn:aws:kms:us-east-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    message = (
        "User: arn:aws:sts::111122223333:assumed-role/r/s is not authorized to perform: kms:GenerateDataKey "
        f"on resource: {key} because no identity-based policy allows the kms:GenerateDataKey action"
    )
    denied = every("CreateMultipartUpload", Refuse("AccessDenied", message=message))
    grants = of(await checked(place, denied), "destination").details["policy"]
    assert [(grant["Action"], grant["Resource"]) for grant in grants] == [
        (["kms:GenerateDataKey", "kms:Decrypt"], key)
    ]


async def test_an_explicit_deny_is_mended_by_no_grant(place: Place) -> None:
    place.source()
    message = "not authorized to perform: s3:PutObject with an explicit deny in a service control policy"
    denied = every("CreateMultipartUpload", Refuse("AccessDenied", message=message))
    report = await checked(place, denied)
    assert report.policy is None
    assert "a service control policy" in of(report, "destination").details["fix"]


async def test_a_forced_run_needs_the_right_to_delete(place: Place) -> None:
    place.source()
    report = await checked(place, every("DeleteObject", Refuse("AccessDenied")), force=True)
    assert (report.exit_code, failures(report)) == (77, {"delete"})


SOURCE_READ = {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": f"arn:aws:s3:::*/{SOURCE_KEY}"}
READ = ["s3:GetObject", "s3:ListBucket"]


def allowing(*actions: str) -> dict[str, Any]:
    everywhere = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
    return {"Version": "2012-10-17", "Statement": [SOURCE_READ, everywhere]}


def granted(report: CheckReport) -> set[str]:
    assert report.policy is not None
    return {action for grant in report.policy.Statement for action in grant.Action}


async def test_a_destination_that_may_only_be_read_names_all_that_is_missing(
    moto: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_credentials(moto, monkeypatch)
    place = Place(moto, moto.new_bucket())
    archive, data = place.source()
    rule = Enforce(policy=allowing(*READ))
    async with FaultProxy(moto, [rule]) as proxy:
        request = place.request(endpoint_url=proxy.endpoint_url)
        report = await check(request, SETTLED)
        record = of(report, "destination")
        assert (report.exit_code, failures(report)) == (77, {"destination"})
        assert record.message == "nothing may be written: s3:PutObject and s3:AbortMultipartUpload are denied"
        assert record.details["fix"].startswith(
            "grant s3:PutObject, s3:AbortMultipartUpload on arn:aws:s3:::"
        )
        needed = {
            action
            for grant in policy_of(request).Statement
            if grant.Sid not in {"ReadSource", "FindSource"}
            for action in grant.Action
        }
        assert granted(report) == needed - set(READ)
        assert of(report, "head").status == "pass"
        place.assert_nothing_left()
        rule.policy["Statement"].extend(report.policy.model_dump()["Statement"] if report.policy else ())
        again = await check(request, SETTLED)
        assert (again.exit_code, again.policy) == (0, None)
        assert (await stage(request)).outcome == "staged"
    place.assert_staged(archive, data)


@pytest.mark.parametrize("mode", ["full", "reference_only"])
@pytest.mark.parametrize(
    "given",
    [
        [],
        READ,
        ["s3:PutObject", *READ],
        ["s3:PutObject", "s3:GetObject"],
        ["s3:DeleteObject", "s3:ListBucket"],
        ["s3:AbortMultipartUpload", "s3:DeleteObject", *READ],
        ["s3:PutObject", "s3:ListMultipartUploadParts", "s3:ListBucket"],
    ],
    ids=lambda given: "+".join(name.removeprefix("s3:") for name in given) or "nothing",
)
async def test_what_is_missing_is_all_said_by_one_check(place: Place, given: list[str], mode: str) -> None:
    place.source()
    rule = Enforce(policy=allowing(*given))
    async with FaultProxy(place.server, [rule]) as proxy:
        request = place.request(endpoint_url=proxy.endpoint_url, reference_only=mode == "reference_only")
        report = await check(request, SETTLED)
        assert report.exit_code == 77 if "s3:PutObject" not in given else report.overall != "pass"
        rule.policy["Statement"].extend(report.policy.model_dump()["Statement"] if report.policy else ())
        again = await check(request, SETTLED)
    assert (again.exit_code, again.policy) == (0, None)
    assert not granted(report) & set(given)


async def test_of_several_failures_the_one_that_comes_first_is_the_code(place: Place) -> None:
    missing: dict[str, Any] = {"source": f"s3://{place.bucket}/none.tar.gz"}
    denied = every("CreateMultipartUpload", Refuse("AccessDenied"))
    assert (await checked(place, denied, **missing)).exit_code == 77
    skewed = _dated(timedelta(hours=2))
    assert (await checked(place, denied, skewed, **missing)).exit_code == 78
    busy = every("CreateMultipartUpload", Refuse("InternalError"))
    assert (await checked(place, busy, **missing)).exit_code == 66


# --- region, clock, identity


async def test_a_wrong_region_names_the_right_one(place: Place) -> None:
    place.source()
    there = {"x-amz-bucket-region": "eu-west-1"}
    report = await checked(place, every("HeadBucket", Refuse("PermanentRedirect", headers=there)))
    assert report.exit_code == 78
    assert failures(report) == {"source-region", "destination-region"}
    assert of(report, "destination-region").details["fix"] == "pass --region eu-west-1"
    assert of(report, "source-region").details["fix"] == "pass --source-region eu-west-1"
    report = await checked(place, every("HeadBucket", Rewrite(headers=there)))
    assert (report.exit_code, of(report, "destination-region").status) == (0, "warn")


def _dated(offset: timedelta) -> Rule:
    date = format_datetime(datetime.now(UTC) + offset, usegmt=True)
    return every("HeadBucket", Rewrite(headers={"Date": date}))


@pytest.mark.parametrize(
    ("offset", "status", "code"),
    [(timedelta(), "pass", 0), (timedelta(minutes=-5), "warn", 0), (timedelta(hours=1), "fail", 78)],
)
async def test_the_clock_is_compared_with_the_stores(
    place: Place, offset: timedelta, status: str, code: int
) -> None:
    place.source()
    report = await checked(place, _dated(offset))
    record = of(report, "clock")
    assert (record.status, report.exit_code) == (status, code)
    assert abs(record.details["offset_seconds"] + offset.total_seconds()) < 60


async def test_who_we_are_is_shown(moto: MotoServer, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.source()
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto.endpoint_url)
    record = of(await checked(place), "identity")
    assert record.status == "pass"
    assert record.details["account"] == "123456789012"
    assert record.details["arn"].startswith("arn:aws:")


async def test_sts_only_ever_warns(moto: MotoServer, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.source()
    async with FaultProxy(moto, [every("*", Stall())]) as sts:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.endpoint_url)
        report = await checked(place)
        assert sts.log
    assert (report.exit_code, of(report, "identity").status) == (0, "warn")
    async with FaultProxy(moto, [every("*", Refuse("AccessDenied"))]) as sts:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.endpoint_url)
        report = await checked(place)
    assert (report.exit_code, of(report, "identity").status) == (0, "warn")


# --- settings and credentials


def test_wrong_settings_are_all_said(tmp_path: Path) -> None:
    done = run("riva_stream", "check", "--env", "a/b", "--memory", "1M", "--json", cwd=tmp_path)
    assert done.returncode == 78
    records = {record["component"]: record for record in json.loads(done.stdout)["records"]}
    problems = records["settings"]["details"]["problems"]
    assert [problem["setting"] for problem in problems] == [
        *("source", "bucket", "env", "model_name", "model_version", "region", "memory")
    ]
    assert records["versions"]["status"] == "pass"
    shown = run("riva_stream", "check", cwd=tmp_path)
    assert shown.returncode == 78
    assert "--bucket or NVIDIA_DRIVERS_S3_BUCKET is not set, for example: --bucket" in shown.stdout


async def test_without_credentials_that_is_all_it_says(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    report = await checked(place)
    assert (report.exit_code, failures(report)) == (78, {"credentials"})
    assert of(report, "source").message == "not tried: credentials failed"


async def test_credentials_that_the_store_does_not_know(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody-else")
    report = await checked(place)
    assert (report.exit_code, failures(report)) == (78, {"credentials"})
    assert report.policy is None


def test_an_unknown_profile_is_said_where_there_are_no_keys_either(tmp_path: Path) -> None:
    env = {**os.environ, "AWS_PROFILE": "nosuch"}
    argv = ["--source", "s3://models/m_v1.tar.gz", "--bucket", "deployments", "--env", "prod"]
    argv += ["--model-name", "m", "--model-version", "v1", "--region", "us-east-1"]
    checked = run("riva_stream", "check", *argv, cwd=tmp_path, env=env)
    staged = run("riva_stream", "stage", *argv, cwd=tmp_path, env=env)
    assert (checked.returncode, staged.returncode) == (78, 78)
    for said in ("there are no usable credentials", "AWS_PROFILE names 'nosuch', which is in no AWS"):
        assert said in checked.stdout
        assert said in staged.stderr


async def test_an_unknown_profile_is_said_where_the_keys_are_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody-else")
    monkeypatch.setenv("AWS_PROFILE", "nosuch")
    report = await checked(place)
    assert (report.exit_code, failures(report)) == (78, {"credentials"})
    assert "AWS_PROFILE names 'nosuch'" in of(report, "credentials").message


async def test_a_public_source_needs_no_credentials(
    moto: MotoServer, moto_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_credentials(moto, monkeypatch)
    place = Place(moto, moto_bucket)
    place.source()
    request = place.request(no_sign_request=True)
    denied = await check(request, SETTLED)  # moto lets nobody read what is not public, when nobody is named
    place.client.put_object_acl(Bucket=moto_bucket, Key=SOURCE_KEY, ACL="public-read")
    allowed = await check(request, SETTLED)
    assert (failures(denied), failures(allowed)) == ({"source"}, set())
    assert of(allowed, "source-credentials").details["method"] == "unsigned"
    assert (await stage(request)).outcome == "staged"


async def test_a_profile_that_does_not_exist(place: Place) -> None:
    report = await checked(place, profile="nobody")
    assert (report.exit_code, failures(report)) == (78, {"credentials"})
    assert "nobody" in of(report, "credentials").message


# --- nothing answers


async def test_nothing_listens(place: Place) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        report = await check(place.request(endpoint_url=url), SETTLED)
    assert (report.exit_code, failures(report)) == (75, {"source-region", "destination-region"})


async def test_a_name_without_an_address(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    report = await check(place.request(endpoint_url="http://store.invalid"), SETTLED)
    assert (report.exit_code, failures(report)) == (75, {"endpoint"})
    assert "store.invalid has no address" in of(report, "endpoint").message


async def test_a_resolver_that_does_not_answer(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: gate.wait_reached())
    report = await check(place.request(endpoint_url="http://store.invalid"), SETTLED, limit=0.2)
    gate._reached.set_result(None)
    assert (report.exit_code, failures(report)) == (75, {"endpoint"})


@pytest.mark.parametrize("operation", ["HeadBucket", "CreateMultipartUpload", "PutObject"])
async def test_a_store_that_falls_silent_is_left_in_time(place: Place, operation: str) -> None:
    place.source()
    key = "*" if operation == "HeadBucket" else f"{PREFIX}*"
    report = await checked(place, every(operation, Stall(), key), limit=0.5)
    assert report.exit_code == 75
    assert any("no answer within 0.5 s" in record.message for record in report.records)


@pytest.mark.parametrize("side", ["", "source-"])
async def test_an_unknown_region_is_told_with_its_fix(
    place: Place, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    wrong: dict[str, Any] = {"source_region": "us-esat-1"} if side else {"region": "us-esat-1"}
    report = await check(place.request(endpoint_url=None, **wrong), SETTLED)
    record = of(report, f"{side}endpoint")
    assert (report.exit_code, record.details["exit_code"]) == (78, 78)
    assert "unknown region us-esat-1" in record.message
    assert "--region (AWS_REGION)" in record.details["fix"]
    if side:  # the destination's region is a region: that its name has no address may pass
        assert of(report, "endpoint").details["exit_code"] == 75


# --- the copy of the log


def test_where_the_log_goes_is_tried_and_left_as_it_was(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put_credentials(s3_server, monkeypatch)
    place = Place(s3_server, bucket)
    place.source()
    done = run("riva_stream", "check", *flags(place), f"--log-to-s3=s3://{bucket}/logs/", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert f"pass  log                 a copy can be put below s3://{bucket}/logs\n" in done.stdout
    assert place.names("") == [SOURCE_KEY]
    variables = {"LOG_TO_S3": "1", "LOG_S3_BUCKET": bucket, "LOG_S3_PREFIX": PREFIX, "LOG_LEVEL": "loud"}
    shown = run("riva_stream", "check", *flags(place), "--json", cwd=tmp_path, env=os.environ | variables)
    records = {record["component"]: record for record in json.loads(shown.stdout)["records"]}
    assert shown.returncode == 0
    assert records["log"]["status"] == "warn"
    assert "is inside the staging, which must hold only staged objects" in records["log"]["message"]
    assert "LOG_LEVEL is not one of" in records["settings"]["message"]
    assert place.names("") == [SOURCE_KEY]


async def test_a_right_that_the_log_lacks_is_granted_by_the_policy(place: Place) -> None:
    place.source()
    logs = place.server.new_bucket("logs")
    target = LogPlace(logs, "riva")
    request = place.request()
    rule = Enforce(policy=policy_of(request).model_dump())
    async with FaultProxy(place.server, [rule]) as proxy:
        there = request.model_copy(update={"endpoint_url": proxy.endpoint_url})
        report = await check(there, SETTLED, log=target)
        record = of(report, "log")
        assert (report.exit_code, record.status) == (0, "warn")
        less = "the log would stay on this host alone"
        assert record.message == f"nothing may be written: s3:PutObject is denied: {less}"
        assert report.policy is not None
        assert report.policy.Statement == policy_of(request, log=target).Statement[-2:-1]
        # that is all it takes, and what could not be removed is not put
        rule.policy["Statement"].extend(report.policy.model_dump()["Statement"])
        report = await check(there, SETTLED, log=target)
        assert (of(report, "log").status, report.policy) == ("pass", None)
        assert proxy.count("PutObject", "riva/*") == 0
    assert not place.server.client().list_objects_v2(Bucket=logs).get("Contents")
    place.server.remove_bucket(logs)


async def test_a_log_that_cannot_be_copied_only_warns(place: Place) -> None:
    place.source()
    report = await check(place.request(), SETTLED, log=LogPlace("no-such-bucket-here", ""))
    assert (report.exit_code, of(report, "log").status) == (0, "warn")
    assert "there is no bucket no-such-bucket-here" in of(report, "log").message
    assert "--log-to-s3" in of(report, "log").details["fix"]
    report = await check(
        place.request(bucket="no-such-bucket-here"), SETTLED, log=LogPlace(place.bucket, "logs")
    )
    assert (failures(report), of(report, "log").status) == ({"destination-region"}, "pass")


async def test_an_object_for_the_log_that_cannot_be_removed_is_named(place: Place) -> None:
    place.source()
    rule = Rule("DeleteObject", key="logs/*", occurrence=range(2, 99), fault=Refuse("InternalError"))
    async with FaultProxy(place.server, [rule]) as proxy:
        request = place.request(endpoint_url=proxy.endpoint_url)
        report = await check(request, SETTLED, log=LogPlace(place.bucket, "logs"))
    (key,) = place.names("logs/")
    assert of(report, "log").status == "warn"
    assert f"s3://{place.bucket}/logs/{key}" in of(report, "log").message
    place.client.delete_object(Bucket=place.bucket, Key=f"logs/{key}")


# --- and nothing stays


@pytest.mark.parametrize(
    ("operation", "fault"),
    [
        ("CreateMultipartUpload", Reset("response")),
        ("UploadPart", Reset("response")),
        ("PutObject", Reset("response")),
        ("AbortMultipartUpload", Reset("response")),
        ("CreateMultipartUpload", Refuse("InternalError", executed=True)),
        ("PutObject", Refuse("InternalError", executed=True)),
    ],
)
async def test_lost_answers_leave_nothing(place: Place, operation: str, fault: Fault) -> None:
    place.source()
    await checked(place, Rule(operation, key=f"{PREFIX}*", occurrence="first", fault=fault))
    place.assert_nothing_left()


@pytest.mark.parametrize("operation", ["UploadPart", "PutObject", "HeadObject"])
async def test_cancelled_it_leaves_nothing(place: Place, operation: str) -> None:
    place.source()
    gate = Gate()
    rule = Rule(operation, key=f"{PREFIX}*", occurrence="first", fault=Stall("response", gate=gate))
    async with FaultProxy(place.server, [rule]) as proxy:
        running = asyncio.create_task(
            check(place.request(endpoint_url=proxy.endpoint_url), SETTLED, limit=1.0)
        )
        await gate.reached()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        gate.release()
    place.assert_nothing_left()


async def test_what_cannot_be_removed_is_said(place: Place) -> None:
    place.source()
    denied = Rule("DeleteObject", key=f"{PREFIX}*", occurrence=range(2, 99), fault=Refuse("InternalError"))
    report = await checked(place, denied)
    record = of(report, "delete")
    assert record.status == "warn"
    assert record.details["left"]
    for name in place.names():
        assert name in record.message
        place.client.delete_object(Bucket=place.bucket, Key=PREFIX + name)


# --- this host


async def test_too_few_open_files_are_not_blamed_on_the_bundle(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(**_: Any) -> Any:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(ssl, "create_default_context", refuse)
    report = await checked(place, ca_bundle=tmp_path / "ca.pem")
    told = of(report, "credentials")
    assert (told.status, report.exit_code) == ("fail", 78)
    assert "Too many open files" in told.message
    assert "ulimit -n" in str(told.details["fix"])


async def test_a_store_that_cannot_be_opened_midway_fails_the_check(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def refuse(*_: Any, **__: Any) -> AsyncIterator[Any]:
        raise ConfigurationError("this host has too few resources")
        yield

    monkeypatch.setattr("riva_stream.preflight.check.open_store", refuse)
    report = await checked(place)
    assert report.exit_code == 78
    assert of(report, "credentials").status == "fail"
    assert of(report, "open-files")


def group(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": f"MemTotal: 99 kB\nMemAvailable:   {8 * GIB // 1024} kB\n"}


def test_memory_is_that_of_the_host(tmp_path: Path) -> None:
    root = group(tmp_path, MEMINFO)
    assert check_memory(256 * MIB, 8 * MIB, root).status == "pass"
    assert check_memory(9 * GIB, 8 * MIB, root).status == "warn"
    assert check_memory(16 * MIB, 8 * MIB, root).status == "fail"


def test_a_container_s_limit_counts(tmp_path: Path) -> None:
    v2 = {
        "proc/self/cgroup": "0::/kubepods/pod1\n",
        "sys/fs/cgroup/kubepods/memory.max": "max\n",
        "sys/fs/cgroup/kubepods/pod1/memory.max": f"{512 * MIB}\n",
        "sys/fs/cgroup/kubepods/pod1/memory.current": f"{400 * MIB}\n",
        "sys/fs/cgroup/kubepods/pod1/memory.stat": f"anon 1\ninactive_file {100 * MIB}\n",
    }
    root = group(tmp_path / "v2", MEMINFO | v2)
    free = free_memory(root)
    assert free is not None
    assert (free.available, free.limit) == (212 * MIB, 512 * MIB)
    assert check_memory(256 * MIB, 8 * MIB, root).status == "warn"
    record = check_memory(GIB, 8 * MIB, root)
    assert record.status == "fail"
    assert "--memory 460MiB" in record.details["fix"]
    v1 = {
        "proc/self/cgroup": "9:cpu:/x\n5:memory:/docker/abc\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{512 * MIB}\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{10 * MIB}\n",
        "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 0\n",
    }
    free = free_memory(group(tmp_path / "v1", MEMINFO | v1))
    assert free is not None
    assert (free.available, free.limit) == (502 * MIB, 512 * MIB)


def test_open_files_and_the_state_directory(tmp_path: Path) -> None:
    assert check_files(8).status == "pass"
    assert check_files(10**7).status == "fail"
    assert check_state(tmp_path / "not" / "yet").status == "pass"
    (tmp_path / "file").write_text("")
    record = check_state(tmp_path / "file" / "state")
    assert record.status == "fail"
    assert "--state-dir" in record.details["fix"]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
