"""`policy`: with what it prints every run succeeds, with less none does, and a refusal names what is missing."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from riva_stream import AccessDeniedError, StageRequest, StoreSettings, stage
from riva_stream.inspection.gc import collect
from riva_stream.inspection.retention import Policy, retention
from riva_stream.preflight.check import check
from riva_stream.preflight.policy import granting, policy_of
from riva_stream.preflight.report import passed
from riva_stream.rights import RIGHTS
from riva_stream.sizes import MIB
from tests.cli_processes import run
from tests.staging import PREFIX, SOURCE_KEY, Place, put_credentials
from tests.support.archives import archive_bytes
from tests.support.faultproxy import FaultProxy, Rule
from tests.support.faults import Gate, Stall
from tests.support.iam import Enforce, action_of, without
from tests.support.servers import GatewayServer, MotoServer

WHAT = ["--bucket", "deployments", "--env", "prod", "--model-name", "m", "--model-version", "v1"]
SOURCE = ["--source", "s3://models/riva/m_v1.tar.gz"]
SETTLED = passed("settings", "")


@pytest.fixture
def place(gateway: GatewayServer, gateway_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    put_credentials(gateway, monkeypatch)
    return Place(gateway, gateway_bucket)


def printed(*flags: str, **options: Any) -> dict[str, Any]:
    done = run("riva_stream", "policy", *flags, **options)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def flags_of(request: StageRequest) -> list[str]:
    names = ("source", "bucket", "env", "model_name", "model_version")
    return [
        word for name in names for word in (f"--{name.replace('_', '-')}", str(getattr(request, name)))
    ] + (["--reference-only"] if request.reference_only else [])


def actions(policy: dict[str, Any]) -> set[str]:
    return {action for statement in policy["Statement"] for action in statement["Action"]}


# --- what is printed is enough, and no more than that


async def test_every_kind_of_run_needs_just_what_is_printed(
    moto: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_credentials(moto, monkeypatch)
    place, models = Place(moto, moto.new_bucket()), moto.new_bucket()
    place.client.put_bucket_versioning(Bucket=models, VersioningConfiguration={"Status": "Enabled"})

    def put(size: int, **options: Any) -> None:
        place.client.put_object(Bucket=models, Key=SOURCE_KEY, Body=archive_bytes(size, **options)[0])

    source = f"s3://{models}/{SOURCE_KEY}"
    policy = await asyncio.to_thread(printed, *flags_of(place.request(source=source)))
    async with FaultProxy(moto, [Enforce(policy=policy)]) as proxy:

        def request(**fields: Any) -> StageRequest:
            given = {"source": source, "part_size": 5 * MIB, "endpoint_url": proxy.endpoint_url}
            return place.request(**given | fields)

        put(MIB, members=2)
        assert (await stage(request(reference_only=True))).outcome == "staged"
        assert (await stage(request())).outcome == "upgraded"
        assert (await stage(request())).outcome == "already_staged"
        put(11 * MIB, members=1, seed="newer")
        gate = Gate()
        # the store has the first part, whoever is answered first: what it has already is listed by the next run
        held = Stall("response", gate=gate)
        proxy.rules.append(Rule("UploadPart", key="*/source/*", occurrence="first", fault=held))
        stopped = asyncio.create_task(stage(request(force=True)))
        await gate.reached()
        stopped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopped
        gate.release()
        resumed = await stage(request(force=True))
        assert "resume" in [warning.code for warning in resumed.warnings]
        settings = StoreSettings(region="us-east-1", endpoint_url=proxy.endpoint_url)
        await collect(settings, place.bucket, PREFIX, older_than=0.0, lease=0.3, apply=True)
        assert not [record for record in proxy.log if record.faults == ("Refuse",)]
        used = {action_of(record.request) for record in proxy.log}
    assert used == actions(policy)


async def test_by_reference_takes_just_what_is_printed(place: Place) -> None:
    place.source()
    policy = await asyncio.to_thread(printed, *flags_of(place.request(reference_only=True)))
    async with FaultProxy(place.server, [Enforce(policy=policy)]) as proxy:
        request = place.request(reference_only=True, endpoint_url=proxy.endpoint_url)
        assert (await stage(request)).outcome == "staged"
        assert (await stage(request)).outcome == "already_staged"
        place.client.create_multipart_upload(Bucket=place.bucket, Key=f"{PREFIX}models/left.riva")
        assert (await stage(request.model_copy(update={"force": True}))).outcome == "staged"
        used = {action_of(record.request) for record in proxy.log}
        assert not [record for record in proxy.log if record.faults]
    assert used == actions(policy)


@pytest.mark.parametrize("mode", ["--full-download", "--reference-only", "--bintarball-reference"])
async def test_a_container_image_may_be_looked_at_where_it_lies(place: Place, mode: str) -> None:
    images = place.server.new_bucket("images")
    place.source()
    place.client.put_object(Bucket=images, Key="riva/speech.tar.gz", Body=b"an image")
    fields = {
        "server_path": f"s3://{images}/riva/speech.tar.gz",
        "reference_only": mode == "--reference-only",
        "bintarball_reference": mode == "--bintarball-reference",
    }
    flags = [*flags_of(place.request()), mode, "--server-path", str(fields["server_path"])]
    policy = await asyncio.to_thread(printed, *flags)
    async with FaultProxy(place.server, [Enforce(policy=policy)]) as proxy:
        request = place.request(endpoint_url=proxy.endpoint_url, **fields)
        assert (await stage(request)).outcome == "staged"
        assert (await stage(request)).outcome == "already_staged"
        assert (await stage(request.model_copy(update={"force": True}))).outcome == "staged"
        assert not [record for record in proxy.log if record.faults]
    read = [statement for statement in policy["Statement"] if statement["Sid"] == "ReadContainer"]
    assert [statement["Resource"] for statement in read] == [f"arn:aws:s3:::{images}/riva/speech.tar.gz"]
    place.server.remove_bucket(images)


async def test_the_journal_of_a_staging_that_is_read_may_be_looked_at(place: Place) -> None:
    source, image = "prod/other/v1/source/one.tar.gz", "prod/speech/v1/source/image.tar.gz"
    place.source(key=source)
    place.put(image, b"an image")
    at = f"s3://{place.bucket}/"
    request = place.request(source=at + source, server_path=at + image)
    flags = [*flags_of(request), "--server-path", str(request.server_path)]
    policy = await asyncio.to_thread(printed, *flags)
    async with FaultProxy(place.server, [Enforce(policy=policy)]) as proxy:
        request = request.model_copy(update={"endpoint_url": proxy.endpoint_url})
        for force in (False, True):
            report = await stage(request.model_copy(update={"force": force}))
            assert report.outcome == "staged"
            assert "base" not in [warning.code for warning in report.warnings]
        assert not [record for record in proxy.log if record.faults]
    journals = [grant["Resource"] for grant in policy["Statement"] if grant["Sid"].endswith("Journal")]
    start = f"arn:aws:s3:::{place.bucket}/prod"
    assert journals == [f"{start}/{name}/.riva-stream/journal.json" for name in ("other/v1", "speech/v1")]


@pytest.mark.parametrize(
    "source", ["prod/other/v1/source/", "prod/other/v1/source/m_*.tar.gz", "prod/other/v1/models/m.riva"]
)
def test_wherever_in_a_staging_the_source_lies(source: str) -> None:
    fields = {"bucket": "deployments", "env": "prod", "model_name": "m", "model_version": "v1"}
    request = StageRequest.model_validate({**fields, "source": f"s3://models/{source}"})
    journals = [grant.Resource for grant in policy_of(request).Statement if grant.Sid.endswith("Journal")]
    assert journals == ["arn:aws:s3:::models/prod/other/v1/.riva-stream/journal.json"]
    elsewhere = StageRequest.model_validate({**fields, "source": "s3://models/riva/asr/v1/archives/m.tar.gz"})
    assert not [grant for grant in policy_of(elsewhere).Statement if grant.Sid.endswith("Journal")]


def test_what_a_flag_of_stage_needs_is_in_it(tmp_path: Path) -> None:
    assert "s3:PutObjectTagging" in actions(printed(*SOURCE, *WHAT, "--tag", cwd=tmp_path))
    assert "s3:PutObjectTagging" not in actions(printed(*SOURCE, *WHAT, cwd=tmp_path))


def test_the_copy_of_the_log_may_be_put_where_it_goes(tmp_path: Path) -> None:
    """And every flag of `stage` is one of `policy`: its command line is passed on as it is."""
    of_the_log = [
        "--log-dir",
        "logs",
        "--log-level",
        "debug",
        "--log-file-format",
        "json",
        "--log-redact",
        "x",
    ]
    policy = printed(*SOURCE, *WHAT, *of_the_log, "--log-to-s3", "s3://logs/a/b/", cwd=tmp_path)
    by_sid = {statement["Sid"]: statement for statement in policy["Statement"]}
    assert by_sid["WriteLog"]["Action"] == ["s3:PutObject"]
    assert by_sid["WriteLog"]["Resource"] == "arn:aws:s3:::logs/a/b/130/*/*"
    (tmp_path / ".env").write_text("LOG_TO_S3=1\nLOG_S3_BUCKET=others\n")
    done = run("riva_stream", "policy", *SOURCE, *WHAT, cwd=tmp_path)
    assert "arn:aws:s3:::others/riva-logs/130/*/*" in done.stdout
    assert not list(tmp_path.glob("logs"))


@pytest.mark.parametrize(
    "flags", [["--scope", "env"], ["--scope", "env", "--format", "table"], ["--format", "table"]]
)
def test_the_settings_may_come_through_a_pipe(flags: list[str], tmp_path: Path) -> None:
    names = ["NVIDIA_DRIVERS_S3_BUCKET=b1x", "ENV=prod", f"RIVA_ASR_MODEL_S3_URI={SOURCE[1]}", "AWS_REGION=r"]
    if flags[0] != "--scope":
        names += ["RIVA_ASR_MODEL_NAME=m", "MODEL_VERSION=v1"]
    argv = ["policy", "--env-file", "/dev/stdin", *flags]
    done = run("riva_stream", *argv, input="\n".join(names), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("request" if "table" in flags else "{")


@pytest.mark.parametrize(
    ("path", "resource", "listed"),
    [
        ("s3://images/riva/", "images/riva/*", ["riva/*"]),
        ("riva/speech-[ab]*.tar.gz", "deployments/riva/speech-*", ["riva/*"]),
        ("riva/x*/speech.tar.gz", "deployments/riva/x*/speech.tar.gz", ["riva/*"]),
    ],
)
def test_the_container_image_is_named_as_the_source_is(
    path: str, resource: str, listed: list[str], tmp_path: Path
) -> None:
    policy = printed(*SOURCE, *WHAT, "--server-path", path, cwd=tmp_path)
    by_sid = {statement["Sid"]: statement for statement in policy["Statement"]}
    assert by_sid["ReadContainer"]["Resource"] == f"arn:aws:s3:::{resource}"
    assert by_sid["FindContainer"]["Condition"] == {"StringLikeIfExists": {"s3:prefix": listed}}


_WITHOUT_IT_IT_ENDS = ("s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload")
_WITH_LESS = (
    *("s3:ListBucket", "s3:ListBucketMultipartUploads"),
    *("s3:ListMultipartUploadParts", "s3:DeleteObject"),
)


@pytest.mark.parametrize("action", _WITHOUT_IT_IT_ENDS)
async def test_a_refusal_brings_the_statement_that_mends_it(place: Place, action: str) -> None:
    archive, data = place.source()
    policy = policy_of(place.request()).model_dump()
    rule = Enforce(policy=without(policy, action))
    async with FaultProxy(place.server, [rule]) as proxy:
        request = place.request(lease=0.3, endpoint_url=proxy.endpoint_url)
        for _ in range(3):  # the source's and the destination's statement, one after the other
            with pytest.raises(AccessDeniedError) as caught, granting(request):
                await stage(request)
            assert action in {name for grant in caught.value.grants for name in grant["Action"]}
            rule.policy["Statement"].extend(caught.value.grants)
            if action != "s3:GetObject" or len(actions_on(rule.policy, action)) == 2:
                break
        assert (await stage(request)).outcome == "staged"
    whole = {(s["Sid"], s["Resource"]) for s in policy["Statement"]}
    assert {(s["Sid"], s["Resource"]) for s in rule.policy["Statement"]} <= whole
    place.assert_staged(archive, data)


def actions_on(policy: Any, action: str) -> set[str]:
    return {s["Resource"] for s in policy["Statement"] if action in s["Action"]}


@pytest.mark.parametrize("action", _WITH_LESS)
async def test_a_run_goes_on_with_less(place: Place, action: str) -> None:
    archive, data = place.source()
    policy = without(policy_of(place.request()).model_dump(), action)
    async with FaultProxy(place.server, [Enforce(policy=policy)]) as proxy:
        assert (await stage(place.request(endpoint_url=proxy.endpoint_url))).outcome == "staged"
    if action != "s3:DeleteObject":
        place.assert_staged(archive, data)


async def test_from_nothing_check_leads_to_what_is_enough(place: Place) -> None:
    archive, data = place.source()
    rule = Enforce(policy={"Statement": []})
    async with FaultProxy(place.server, [rule]) as proxy:
        request = place.request(endpoint_url=proxy.endpoint_url)
        for _ in range(5):
            report = await check(request, SETTLED)
            if report.policy is None:
                break
            assert report.overall != "pass"
            rule.policy["Statement"].extend(report.policy.model_dump()["Statement"])
        assert report.exit_code == 0
        assert (await stage(request)).outcome == "staged"
    place.assert_staged(archive, data)
    assert actions(dict(rule.policy)) <= actions(policy_of(request).model_dump())


async def test_retention_takes_just_what_is_printed_for_it(
    moto: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_credentials(moto, monkeypatch)
    place = Place(moto, moto.new_bucket())
    flags = flags_of(place.request())
    with_it = await asyncio.to_thread(printed, *flags, "--with", "retention")
    without_it = await asyncio.to_thread(printed, *flags)
    more = {
        "Version": with_it["Version"],
        "Statement": [s for s in with_it["Statement"] if s not in without_it["Statement"]],
    }
    async with FaultProxy(moto, [Enforce(policy=more)]) as proxy:
        store = StoreSettings(region=place.server.region, endpoint_url=proxy.endpoint_url)
        report = await retention(store, place.bucket, Policy(("prod",), ("prod",)), by_size=True)
        assert (len(report.changes), report.warnings) == (4, [])
        assert not [record for record in proxy.log if record.faults]
        used = {action_of(record.request) for record in proxy.log}
    assert used == {"s3:GetLifecycleConfiguration", "s3:ListBucket"}
    listed = next(s for s in more["Statement"] if s["Sid"] == "ListEnvironment")
    prefixes = ["prod/*", "bintarball/deployment-metadata/prod/*"]
    assert listed["Condition"] == {"StringLikeIfExists": {"s3:prefix": prefixes}}
    # without that statement only the preview is missing
    more["Statement"].remove(listed)
    async with FaultProxy(moto, [Enforce(policy=more)]) as proxy:
        store = StoreSettings(region=place.server.region, endpoint_url=proxy.endpoint_url)
        report = await retention(store, place.bucket, Policy(("prod",), ("prod",)))
    assert (len(report.changes), report.extent) == (3, [])
    assert "s3:ListBucket" in report.warnings[0].message


# --- the document


def test_it_is_a_policy_as_iam_takes_it(tmp_path: Path) -> None:
    policy = printed(*SOURCE, *WHAT, cwd=tmp_path)
    assert policy["Version"] == "2012-10-17"
    assert list(policy) == ["Version", "Statement"]
    sids = [statement["Sid"] for statement in policy["Statement"]]
    assert len(set(sids)) == len(sids)
    assert all(sid.isalnum() and sid.isascii() for sid in sids)
    for statement in policy["Statement"]:
        assert set(statement) - {"Condition"} == {"Sid", "Effect", "Action", "Resource"}
        assert None not in statement.values()
        bucket_level = "/" not in statement["Resource"]
        on = {
            right.on for rights in RIGHTS.values() for right in rights if right.action in statement["Action"]
        }
        assert on == {"bucket" if bucket_level else "object"}


@pytest.mark.parametrize(
    ("region", "start"),
    [
        ("us-east-2", "arn:aws:s3:::"),
        ("cn-north-1", "arn:aws-cn:s3:::"),
        ("us-gov-west-1", "arn:aws-us-gov:s3:::"),
    ],
)
def test_arns_are_of_the_region_s_partition(region: str, start: str, tmp_path: Path) -> None:
    policy = printed(*SOURCE, *WHAT, "--region", region, cwd=tmp_path)
    assert {s["Resource"].partition(":::")[0] + ":::" for s in policy["Statement"]} == {start}


@pytest.mark.parametrize(
    ("scope", "reaches"),
    [("version", "prod/m/v1/*"), ("model", "prod/m/*"), ("env", "prod/*"), ("bucket", "*")],
)
def test_the_scope_widens_it(scope: str, reaches: str, tmp_path: Path) -> None:
    given = {"version": WHAT, "model": WHAT[:6], "env": WHAT[:4], "bucket": WHAT[:2]}[scope]
    policy = printed(*SOURCE, *given, "--scope", scope, cwd=tmp_path)
    named = {statement["Sid"]: statement for statement in policy["Statement"]}
    assert named["WriteStaging"]["Resource"] == f"arn:aws:s3:::deployments/{reaches}"
    if scope == "bucket":
        assert "Condition" not in named["ListStaging"]
    else:
        assert named["ListStaging"]["Condition"] == {"StringLikeIfExists": {"s3:prefix": [reaches]}}


@pytest.mark.parametrize(
    ("source", "resource", "listed"),
    [
        ("s3://models/a/b/m_v1.tar.gz", "a/b/m_v1.tar.gz", ["a/b/*"]),
        ("s3://models/a/b/", "a/b/*", ["a/b/*"]),
        ("s3://models/a/m-*.tar.gz", "a/m-*.tar.gz", ["a/*"]),
        ("s3://models/a/m-[ab].tar.gz", "a/m-*", ["a/*"]),
        ("s3://models/a/${x}.tar.gz", "a/${$}{x}.tar.gz", ["a/*"]),
        ("s3://models/m.tar.gz", "m.tar.gz", None),
    ],
)
def test_the_source_is_named_as_iam_can(
    source: str, resource: str, listed: list[str] | None, tmp_path: Path
) -> None:
    policy = printed("--source", source, *WHAT, cwd=tmp_path)
    read, find = policy["Statement"][:2]
    assert read["Resource"] == f"arn:aws:s3:::models/{resource}"
    condition = find.get("Condition", {}).get("StringLikeIfExists", {}).get("s3:prefix")
    assert condition == listed


@pytest.mark.parametrize(
    ("key", "resource", "alias"),
    [
        ("1234abcd-12ab-34cd-56ef-1234567890ab", "arn:aws:kms:us-east-2:*:key/1234abcd-12ab-34cd-56ef-1234567890ab", None),
        ("arn:aws:kms:us-east-2:111122223333:key/k", "arn:aws:kms:us-east-2:111122223333:key/k", None),
        ("alias/staging", "arn:aws:kms:us-east-2:*:key/*", "alias/staging"),
        ("arn:aws:kms:us-east-2:1:alias/staging", "arn:aws:kms:us-east-2:1:key/*", "alias/staging"),
    ],
)  # fmt: skip
def test_a_key_may_be_used_through_s3_alone(
    key: str, resource: str, alias: str | None, tmp_path: Path
) -> None:
    flags = [*SOURCE, *WHAT, "--region", "us-east-2", "--sse", "aws:kms", "--kms-key-id", key]
    statement = printed(*flags, cwd=tmp_path)["Statement"][-1]
    assert statement["Action"] == ["kms:GenerateDataKey", "kms:Decrypt"]
    assert statement["Resource"] == resource
    assert statement["Condition"]["StringLike"] == {"kms:ViaService": "s3.us-east-2.amazonaws.com"}
    named = statement["Condition"].get("ForAnyValue:StringEquals", {}).get("kms:ResourceAliases")
    assert named == alias


def test_other_commands_add_theirs(tmp_path: Path) -> None:
    flags = ["--bintarball-reference", "--server-path", "images/speech.tar.gz"]
    plain = actions(printed(*SOURCE, *WHAT, *flags, cwd=tmp_path))
    extras = ["--with", "gc", "--with", "tag", "--with", "retention", "--source-kms-key", "alias/m"]
    more = actions(printed(*SOURCE, *WHAT, *flags, *extras, cwd=tmp_path))
    assert more - plain == {
        *("s3:ListMultipartUploadParts", "s3:PutObjectTagging", "kms:Decrypt"),
        "s3:GetLifecycleConfiguration",
    }


def test_the_table_tells_what_each_request_needs(tmp_path: Path) -> None:
    done = run("riva_stream", "policy", *SOURCE, *WHAT, "--format", "table", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [line.split(maxsplit=2) for line in done.stdout.splitlines()[1:]]
    assert ["ListParts", "destination", "s3:ListMultipartUploadParts"] in rows
    assert {row[1] for row in rows} == {"source", "destination"}


def test_missing_settings_are_named(tmp_path: Path) -> None:
    done = run("riva_stream", "policy", "--bucket", "deployments", "--json", cwd=tmp_path)
    assert done.returncode == 78
    problems = json.loads(done.stdout)["error"]["problems"]
    assert [problem["setting"] for problem in problems] == ["source", "env", "model_name", "model_version"]


def test_it_loads_none_of_the_aws_libraries(tmp_path: Path) -> None:
    argv = ["policy", *SOURCE, *WHAT]
    code = (
        "import sys, riva_stream.cli\n"
        f"code = riva_stream.cli.main({argv!r})\n"
        "heavy = {'aioboto3', 'botocore', 'aiohttp', 'anyio', 'uvloop', 'isal'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)), 'code:', code, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path, timeout=60
    )
    assert "heavy: [] code: 0" in done.stderr


# --- what `stage` says


def test_stage_prints_what_grants_it_and_the_command_for_the_rest(place: Place, tmp_path: Path) -> None:
    place.source()
    request = place.request()
    policy = without(policy_of(request).model_dump(), "s3:PutObject")
    with FaultProxy(place.server, [Enforce(policy=policy)]).in_thread() as proxy:
        flags = [*flags_of(request), "--endpoint-url", proxy.endpoint_url, "--quiet"]
        done = run("riva_stream", "stage", *flags, "--json", cwd=tmp_path)
    assert done.returncode == 77
    error = json.loads(done.stdout)["error"]
    assert error["policy"]["Statement"] == [
        {
            "Sid": "WriteStaging",
            "Effect": "Allow",
            "Action": ["s3:PutObject"],
            "Resource": f"arn:aws:s3:::{place.bucket}/{PREFIX}*",
        }
    ]
    assert "s3:PutObject" in error["hint"]
    assert '"Resource": "arn:aws:s3:::' in done.stderr
    next_command = done.stderr.split("all that a run needs is printed by:\n")[1].splitlines()[0].strip()
    assert next_command.startswith("python -m riva_stream policy --source s3://")
    assert "s3:PutObject" in actions(printed(*next_command.split()[4:], cwd=tmp_path))


def test_a_replica_may_be_written_as_the_staging_may() -> None:
    fields = {"source": "s3://models/a.tar.gz", "bucket": "deployments", "env": "prod", "region": "us-1"}
    plain = StageRequest.model_validate({**fields, "model_name": "parakeet", "model_version": "v1"})
    request = plain.model_copy(update={"replicate_to": ("s3://in-europe/live/parakeet/v2/",)})
    mine = {grant.Sid: grant for grant in policy_of(plain).Statement}
    statements = {grant.Sid: grant for grant in policy_of(request).Statement}
    assert {sid: statements[sid] for sid in mine} == mine
    assert {"WriteStaging1", "ListStaging1"} <= statements.keys() - mine.keys()
    assert statements["WriteStaging1"].Action == mine["WriteStaging"].Action
    assert statements["WriteStaging1"].Resource == "arn:aws:s3:::in-europe/live/parakeet/v2/*"
    assert statements["ListStaging1"].Resource == "arn:aws:s3:::in-europe"
