"""`retention`: our lifecycle rules come, change and go; those of others stay as they are, to the letter."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from riva_stream import (
    AccessDeniedError,
    ConfigurationError,
    RivaStreamError,
    StoreSettings,
    stage,
)
from riva_stream.cli.commands import COMMANDS
from riva_stream.inspection.retention import Policy, RetentionReport, retention
from riva_stream.layout import DEPLOYMENTS
from riva_stream.sizes import MIB
from tests.cli_processes import run
from tests.staging import Place, put_credentials
from tests.support.faultproxy import FaultProxy, Rule
from tests.support.faults import Refuse
from tests.support.servers import GatewayServer, MotoServer

THEIRS = [
    {"ID": "logs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 7}},
    {
        "ID": "cold",
        "Status": "Disabled",
        "Filter": {"And": {"Prefix": "raw/", "Tags": [{"Key": "a", "Value": "b"}]}},
        "Transitions": [{"Days": 30, "StorageClass": "GLACIER"}, {"Days": 9, "StorageClass": "STANDARD_IA"}],
    },
]
OURS = ["expire:dev", "bintarball:dev", "expire:staging", "bintarball:staging"]
ABORTS = ["abort:prod", "abort:staging", "abort:dev"]


@pytest.fixture
def place(moto: MotoServer, moto_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    put_credentials(moto, monkeypatch)
    return Place(moto, moto_bucket)


def policy(*named: str, **options: Any) -> Policy:
    expire, clean = (named, named) if named else (("dev", "staging"), ("prod", "staging", "dev"))
    return Policy(expire=expire, clean=clean, **options)


async def planned(place: Place, wanted: Policy, url: str = "", **options: Any) -> RetentionReport:
    settings = StoreSettings(region=place.server.region, endpoint_url=url or place.server.endpoint_url)
    return await retention(settings, place.bucket, wanted, **options)


async def set_rules(place: Place, wanted: Policy, **options: Any) -> RetentionReport:
    """As a user does: the document is put by the AWS command line, whose library is asked here."""
    report = await planned(place, wanted, **options)
    document = json.loads(report.model_dump_json())["document"]
    if document["Rules"]:
        place.client.put_bucket_lifecycle_configuration(Bucket=place.bucket, LifecycleConfiguration=document)
    else:
        place.client.delete_bucket_lifecycle(Bucket=place.bucket)
    return report


def rules_there(place: Place) -> list[dict[str, Any]]:
    try:
        return list(place.client.get_bucket_lifecycle_configuration(Bucket=place.bucket)["Rules"])
    except place.client.exceptions.ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchLifecycleConfiguration":
            raise
        return []


def put_theirs(place: Place) -> list[dict[str, Any]]:
    configuration = {"Rules": THEIRS}
    place.client.put_bucket_lifecycle_configuration(Bucket=place.bucket, LifecycleConfiguration=configuration)
    return rules_there(place)


def ids(place: Place) -> list[str]:
    return [rule["ID"].removeprefix("riva-stream-") for rule in rules_there(place)]


# --- what it shows and sets


async def test_it_shows_and_writes_nothing(place: Place) -> None:
    theirs = put_theirs(place)
    report = await planned(place, policy())
    assert rules_there(place) == theirs
    assert report.before == theirs
    assert report.document["Rules"][:2] == theirs
    assert [change.id.removeprefix("riva-stream-") for change in report.changes] == [*OURS, *ABORTS]
    assert [line[0] for line in report.diff] == [" ", " ", *("+" * 7)]


async def test_put_as_it_is_printed_nothing_is_left_to_change(place: Place) -> None:
    theirs = put_theirs(place)
    await set_rules(place, policy())
    assert rules_there(place)[:2] == theirs
    assert ids(place) == ["logs", "cold", *OURS, *ABORTS]
    again = await planned(place, policy())
    assert (again.changes, {line[0] for line in again.diff}) == ([], {" "})


async def test_on_aws_the_marker_goes_before_what_it_vouches_for(place: Place) -> None:
    report = await planned(place, policy("dev", days=30, abort_days=5), by_size=True)
    rules = {rule["ID"]: rule for rule in report.document["Rules"]}
    small = rules["riva-stream-expire:dev:documents"]
    assert small["Filter"] == {"And": {"Prefix": "dev/", "ObjectSizeLessThan": 128 << 10}}
    assert small["Expiration"] == {"Days": 30}
    rest = rules["riva-stream-expire:dev"]
    # an upload can be open for 5 days, and its object is as old as the upload
    assert (rest["Filter"], rest["Expiration"]) == ({"Prefix": "dev/"}, {"Days": 36})
    abort = rules["riva-stream-abort:dev"]["AbortIncompleteMultipartUpload"]
    assert abort == {"DaysAfterInitiation": 5}
    assert not report.warnings


async def test_elsewhere_no_rule_means_more_where_a_store_drops_its_size(place: Place) -> None:
    """Ceph does: a rule for what is small would then expire archives."""
    await set_rules(place, policy("dev"), by_size=True)
    report = await set_rules(place, policy("dev", days=30, by_tag=True))
    assert "ObjectSize" not in json.dumps(report.document)
    report = await planned(place, policy("dev", days=30))
    assert "ObjectSize" not in json.dumps(report.document)
    expiring = {rule["Expiration"]["Days"] for rule in report.document["Rules"] if "Expiration" in rule}
    assert (expiring, report.days_of_bytes) == ({30}, 30)
    assert report.warnings[-1].code == "sizes"


async def test_prod_never_expires_unless_it_is_named(place: Place) -> None:
    await set_rules(place, policy())
    expiring = [rule for rule in rules_there(place) if "Expiration" in rule]
    assert len(expiring) == len(OURS)
    assert not [rule for rule in expiring if "prod" in json.dumps(rule)]
    # none of them reaches what lies below prod/ or its references
    prefixes = [str(rule["Filter"].get("And", rule["Filter"])["Prefix"]) for rule in expiring]
    for key in ("prod/m/v1/staging_complete.txt", f"{DEPLOYMENTS}prod/m/v1/deployment_ready.txt"):
        assert not [prefix for prefix in prefixes if key.startswith(prefix)]
    await set_rules(place, policy("prod", days=365))
    assert {"expire:prod", "bintarball:prod"} < set(ids(place))
    assert set(OURS) < set(ids(place))  # the others stay


async def test_changed_days_change_the_rule_where_it_stands(place: Place) -> None:
    await set_rules(place, policy("dev"))
    put_after = {"Rules": [*rules_there(place), THEIRS[0]]}
    place.client.put_bucket_lifecycle_configuration(Bucket=place.bucket, LifecycleConfiguration=put_after)
    before = ids(place)
    report = await set_rules(place, policy("dev", days=10, noncurrent_days=3))
    assert ids(place) == before
    assert {change.change for change in report.changes} == {"changed"}
    assert [rule["NoncurrentVersionExpiration"] for rule in rules_there(place)[:2]] == [
        {"NoncurrentDays": 3},
        {"NoncurrentDays": 3},
    ]


async def test_by_tag_takes_the_place_of_the_rules_for_all(place: Place) -> None:
    await set_rules(place, policy("dev"))
    await set_rules(place, policy("dev", by_tag=True, days=30))
    await set_rules(place, policy("dev", by_tag=True, days=60))
    tagged = [name for days in (30, 60) for name in (f"expire:dev:tag:{days}", f"bintarball:dev:tag:{days}")]
    assert sorted(ids(place)) == sorted(["abort:dev", *tagged])
    tags = [rule["Filter"]["And"]["Tags"] for rule in rules_there(place) if "Expiration" in rule]
    assert {tag["Value"] for (tag,) in tags} == {"30", "60"}
    await set_rules(place, policy("dev"))
    assert sorted(ids(place)) == ["abort:dev", "bintarball:dev", "expire:dev"]


@pytest.mark.parametrize("other", ["dev-documents", "dev-tag-7", "dev-tag-qa"])
async def test_an_environment_with_a_similar_name_keeps_its_rules(place: Place, other: str) -> None:
    wanted = policy("dev", days=30)
    await set_rules(place, policy(other, days=365), by_size=True)
    theirs = rules_there(place)
    for change in (wanted, policy("dev", days=7, by_tag=True), policy("dev", remove=True), wanted):
        await set_rules(place, change, by_size=True)
        assert rules_there(place)[: len(theirs)] == theirs
    await set_rules(place, policy("dev", other, days=60), by_size=True)
    assert len(ids(place)) == 8


@pytest.mark.parametrize("other", ["dev-documents", "dev-tag-7"])
async def test_rules_with_the_ids_of_version_0_2_are_replaced_by_their_prefix(
    place: Place, other: str
) -> None:
    for env in (other, "dev"):
        await set_rules(place, policy(env, days=365), by_size=True)
    new = rules_there(place)
    # an ID that both environments had is that of the one that was set last
    old = {rule["ID"].replace(":", "-"): rule | {"ID": rule["ID"].replace(":", "-")} for rule in new}
    foreign = new[0] | {"ID": "riva-stream-expire-x", "Filter": {"Prefix": "logs/"}}
    put = {"Rules": [*old.values(), foreign]}
    place.client.put_bucket_lifecycle_configuration(Bucket=place.bucket, LifecycleConfiguration=put)
    before = rules_there(place)
    report = await set_rules(place, policy("dev", days=30), by_size=True)
    kept = [rule for rule in before if f"{other}/" in json.dumps(rule) or rule["ID"].endswith("-x")]
    there = rules_there(place)
    assert [rule for rule in there if rule in before] == kept
    assert sorted(rule["ID"] for rule in there if rule not in before) == sorted(
        rule["ID"] for rule in new if '"dev/' in json.dumps(rule) or "/dev/" in json.dumps(rule)
    )
    assert {change.change for change in report.changes} == {"added", "removed"}
    await set_rules(place, policy("dev", other, remove=True), by_size=True)
    assert [rule["ID"] for rule in rules_there(place)] == ["riva-stream-expire-x"]


async def test_ours_can_be_taken_away_again(place: Place) -> None:
    theirs = put_theirs(place)
    await set_rules(place, policy())
    await set_rules(place, policy(remove=True))
    assert rules_there(place) == theirs
    place.client.delete_bucket_lifecycle(Bucket=place.bucket)
    await set_rules(place, policy("dev"))
    await set_rules(place, policy("dev", remove=True))
    assert rules_there(place) == []


async def test_without_an_environment_all_of_ours_are_taken_away_as_the_help_says(place: Place) -> None:
    await set_rules(place, policy("prod"))
    await set_rules(place, policy("dev"))
    await set_rules(place, policy(remove=True))
    assert rules_there(place) == []
    assert "without our rules for dev, staging and prod" in COMMANDS["retention"].HELP.examples


async def test_it_says_what_the_rules_apply_to_now(place: Place) -> None:
    ours = (
        "staging_complete.txt",
        "artifact.json",
        "deployment.json",
        "deployment_ready.txt",
        "models/a.riva",
    )
    for name in ours:
        place.put(f"dev/m/v1/{name}", b"x" * 10)
    place.put("dev/m/v1/source/big.tar.gz", b"x" * (200 << 10))
    place.put("dev/notes/from-somebody.txt", b"x")
    later = datetime.now(UTC) + timedelta(days=91)
    settings = StoreSettings(region=place.server.region, endpoint_url=place.server.endpoint_url)
    report = await retention(settings, place.bucket, policy("dev"), by_size=True, clock=lambda: later)
    extent, references = report.extent
    assert (references.prefix, references.objects) == (f"{DEPLOYMENTS}dev/", 0)
    assert (extent.objects, extent.stagings, extent.foreign) == (7, 1, 1)
    assert extent.foreign_keys == ["dev/notes/from-somebody.txt"]
    assert extent.due == 6  # all but the archive, which stays for 98 days


async def test_bintarball_references_expire_with_their_environment(place: Place) -> None:
    place.source(MIB, members=1)
    place.put("images/speech.tar.gz", b"an image")
    for env in ("dev", "prod"):
        request = place.request(
            env=env, bintarball_reference=True, server_path="images/speech.tar.gz", tag=True
        )
        await stage(request)
    place.put(f"{DEPLOYMENTS}dev/notes.txt", b"x")
    place.put(f"{DEPLOYMENTS}dev/m/v1/artifact.json", b"x")  # such a thing is no part of a reference
    theirs = put_theirs(place)
    later = datetime.now(UTC) + timedelta(days=31)
    wanted = policy("dev", days=30, abort_days=5)
    report = await set_rules(place, wanted, clock=lambda: later)
    assert rules_there(place)[:2] == theirs
    (rule,) = [rule for rule in rules_there(place) if rule["ID"] == "riva-stream-bintarball:dev"]
    assert (rule["Filter"], rule["Expiration"]) == ({"Prefix": f"{DEPLOYMENTS}dev/"}, {"Days": 30})
    _, references = report.extent
    assert (references.environment, references.stagings, references.objects) == ("dev", 1, 4)
    assert (references.due, references.foreign) == (4, 2)
    keys = [entry["Key"] for entry in place.client.list_objects_v2(Bucket=place.bucket)["Contents"]]
    reached = [key for key in keys if key.startswith(rule["Filter"]["Prefix"])]
    assert len(reached) == 4
    # by tag: those that were tagged, of which no other is one
    await set_rules(place, policy("dev", by_tag=True))
    (rule,) = [rule for rule in rules_there(place) if "bintarball" in rule["ID"]]
    tags = place.client.get_object_tagging(
        Bucket=place.bucket, Key=f"{DEPLOYMENTS}dev/parakeet-rnnt-en-us/v2025.09/deployment.json"
    )["TagSet"]
    assert rule["Filter"]["And"]["Tags"][0] in tags
    await set_rules(place, policy("dev", remove=True))
    assert rules_there(place) == theirs


# --- what must not happen

KNOWN = """<Rule><Status>Enabled</Status><ID>theirs</ID><Filter><And><Prefix>x/</Prefix>
<Tag><Key>a</Key><Value>b</Value></Tag><Tag><Key>c</Key><Value>d</Value></Tag></And></Filter>
<Expiration><Date>2031-01-01T00:00:00.000Z</Date></Expiration>
<NoncurrentVersionTransition><NoncurrentDays>9</NoncurrentDays><StorageClass>GLACIER</StorageClass>
</NoncurrentVersionTransition></Rule><Rule><Prefix></Prefix><Status>Disabled</Status></Rule>"""


class StrangeStore(BaseHTTPRequestHandler):
    """A store with rules as they were given."""

    body = ""

    def do_GET(self) -> None:
        if "lifecycle" not in self.path:
            return self.answer("<Error><Code>AccessDenied</Code></Error>", status=403)
        return self.answer(self.body)

    def answer(self, body: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("x-amz-transition-default-minimum-object-size", "varies_by_storage_class")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def strange(place: Place) -> Iterator[tuple[type[StrangeStore], str]]:
    class Kind(StrangeStore):
        pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Kind) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield Kind, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def document(rules: str) -> str:
    space = "http://s3.amazonaws.com/doc/2006-03-01/"
    return f'<LifecycleConfiguration xmlns="{space}">{rules}</LifecycleConfiguration>'


async def test_rules_of_others_keep_every_field(
    place: Place, strange: tuple[type[StrangeStore], str]
) -> None:
    kind, url = strange
    for kind.body in (document(KNOWN), f"<LifecycleConfiguration>{KNOWN}</LifecycleConfiguration>"):
        report = await planned(place, policy("dev"), url)
        tags = [{"Key": "a", "Value": "b"}, {"Key": "c", "Value": "d"}]
        assert report.document["Rules"][:2] == [
            {
                "ID": "theirs",
                "Status": "Enabled",
                "Filter": {"And": {"Prefix": "x/", "Tags": tags}},
                "Expiration": {"Date": "2031-01-01T00:00:00+00:00"},
                "NoncurrentVersionTransitions": [{"NoncurrentDays": 9, "StorageClass": "GLACIER"}],
            },
            {"Prefix": "", "Status": "Disabled"},
        ]
        # a PUT without it would reset the bucket's setting
        assert report.transition_minimum == "varies_by_storage_class"
        assert not report.extent  # this store lists nothing
        assert report.warnings[0].code == "list"
        assert "s3:ListBucket" in report.warnings[0].message
    report = await planned(place, policy("dev"), url, by_size=True)
    assert report.warnings[-1].code == "old-form"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("</ID>", "</ID><FromTheFuture><Depth>3</Depth></FromTheFuture>"), "Rule/FromTheFuture/Depth"),
        (("<Prefix>x/", '<v:Odd xmlns:v="urn:v">2</v:Odd><Prefix>x/'), "Rule/Filter/And/Odd"),
        (("<Date>", "<Hours>5</Hours><Date>"), "Rule/Expiration/Hours"),
    ],
)
async def test_a_document_that_would_lose_a_field_is_not_made(
    place: Place, strange: tuple[type[StrangeStore], str], change: tuple[str, str], named: str
) -> None:
    kind, url = strange
    kind.body = document(KNOWN.replace(*change))
    with pytest.raises(ConfigurationError, match=named):
        await planned(place, policy("dev"), url)


async def test_what_is_no_document_of_rules_is_not_taken_for_none(
    place: Place, strange: tuple[type[StrangeStore], str]
) -> None:
    kind, url = strange
    for kind.body in ("<html/>", "not XML"):
        with pytest.raises(RivaStreamError):
            await planned(place, policy("dev"), url)


async def test_a_missing_right_is_named(place: Place) -> None:
    rule = Rule("GetBucketLifecycleConfiguration", fault=Refuse("AccessDenied"))
    async with FaultProxy(place.server, [rule]) as proxy:
        with pytest.raises(AccessDeniedError) as caught:
            await planned(place, policy(), proxy.endpoint_url)
    assert "s3:GetLifecycleConfiguration" in caught.value.hint


async def test_credentials_that_expire_meanwhile_are_renewed(place: Place) -> None:
    rule = Rule("GetBucketLifecycleConfiguration", occurrence=1, fault=Refuse("ExpiredToken"))
    async with FaultProxy(place.server, [rule]) as proxy:
        report = await planned(place, policy("dev"), proxy.endpoint_url)
    assert report.changes


# --- the command line


def call(*argv: str, place: Place) -> subprocess.CompletedProcess[str]:
    return run("riva_stream", "retention", *argv, timeout=60)


async def test_the_command_line_prints_the_document_alone(place: Place) -> None:
    theirs = put_theirs(place)
    done = await asyncio.to_thread(call, f"s3://{place.bucket}", "--days", "30", place=place)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert [rule["ID"] for rule in printed["Rules"][:3]] == ["logs", "cold", "riva-stream-expire:dev"]
    assert "7 added" in done.stderr
    assert f"{DEPLOYMENTS}dev/  0 references, 0 objects" in done.stderr
    assert f"retention s3://{place.bucket} --days 30 > lifecycle.json" in done.stderr
    assert "aws s3api put-bucket-lifecycle-configuration" in done.stderr
    assert rules_there(place) == theirs
    place.client.put_bucket_lifecycle_configuration(Bucket=place.bucket, LifecycleConfiguration=printed)
    done = await asyncio.to_thread(call, f"s3://{place.bucket}", "--days", "30", "--json", place=place)
    assert (json.loads(done.stdout)["changes"], json.loads(done.stdout)["document"]) == ([], printed)


def test_no_document_is_printed_with_a_rule_blacked_out(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = [
        {"ID": "old", "Status": "Enabled", "Filter": {"Prefix": "old-archives/"}, "Expiration": {"Days": 9}}
    ]
    place.client.put_bucket_lifecycle_configuration(
        Bucket=place.bucket, LifecycleConfiguration={"Rules": rules}
    )
    monkeypatch.setenv("FTP_PASSWORD", "old-archives")
    done = call(f"s3://{place.bucket}", place=place)
    assert (done.returncode, done.stdout) == (78, "")
    assert "secret" in done.stderr


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["s3://bucket/prod/"], 78, "belong to a whole one"),
        (["bucket"], 78, "for example: s3://"),
        (["s3://bucket", "--env", "a/b"], 78, "--env"),
        (["s3://bucket", "--env", "bintarball"], 78, "of all environments, prod among them"),
        (["s3://bucket", "--days", "0"], 2, "1 to 36500"),
        (["s3://bucket", "--days", "soon"], 2, "number of days"),
    ],
)
def test_what_is_malformed_is_said(argv: list[str], code: int, said: str, place: Place) -> None:
    done = call(*argv, place=place)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr


def test_a_store_without_lifecycle_rules_says_so(
    gateway: GatewayServer, gateway_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_credentials(gateway, monkeypatch)
    done = call(f"s3://{gateway_bucket}", place=Place(gateway, gateway_bucket))
    assert done.returncode == 78, done.stderr
    assert "no lifecycle rules" in done.stderr
    assert "gc" in done.stderr
