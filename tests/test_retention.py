"""`retention`: our lifecycle rules come, change and go; those of others stay as they are, to the letter."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from riva_stream import (
    AccessDeniedError,
    ConfigurationError,
    HeldError,
    StoreSettings,
    TransientError,
    stage,
)
from riva_stream.layout import DEPLOYMENTS
from riva_stream.operations.lifecycle import id_of, merged, parsed, rules_of, structure, to_xml
from riva_stream.operations.retention import Policy, RetentionReport, retention
from riva_stream.sizes import MIB
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
OURS = [
    *("expire-dev-documents", "expire-dev", "bintarball-dev"),
    *("expire-staging-documents", "expire-staging", "bintarball-staging"),
]
ABORTS = ["abort-prod", "abort-staging", "abort-dev"]


@pytest.fixture
def place(moto: MotoServer, moto_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    put_credentials(moto, monkeypatch)
    return Place(moto, moto_bucket)


def policy(*named: str, **options: Any) -> Policy:
    expire, clean = (named, named) if named else (("dev", "staging"), ("prod", "staging", "dev"))
    return Policy(expire=expire, clean=clean, **options)


async def set_rules(place: Place, wanted: Policy, *, apply: bool = True, url: str = "") -> RetentionReport:
    settings = StoreSettings(region=place.server.region, endpoint_url=url or place.server.endpoint_url)
    return await retention(settings, place.bucket, wanted, apply=apply)


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


async def test_it_shows_first_and_writes_on_request(place: Place) -> None:
    theirs = put_theirs(place)
    report = await set_rules(place, policy(), apply=False)
    assert not report.applied
    assert rules_there(place) == theirs
    assert [change.id.removeprefix("riva-stream-") for change in report.changes] == [*OURS, *ABORTS]
    assert "+ rule riva-stream-expire-dev" in report.diff
    assert "  rule logs" in report.diff
    report = await set_rules(place, policy())
    assert report.applied
    assert rules_there(place)[:2] == theirs
    assert ids(place) == ["logs", "cold", *OURS, *ABORTS]
    again = await set_rules(place, policy())
    assert (again.changes, again.applied) == ([], False)


async def test_the_marker_goes_before_what_it_vouches_for(
    place: Place, strange: tuple[type[StrangeStore], str]
) -> None:
    kind, url = strange
    report = await set_rules(place, policy("dev", days=30, abort_days=5), url=url)
    assert not report.extent  # this store lists nothing
    rules = {id_of(rule): structure(rule) for rule in rules_of(parsed(kind.xml))}
    small = rules["riva-stream-expire-dev-documents"]
    assert small["Filter"] == {"And": {"Prefix": "dev/", "ObjectSizeLessThan": str(128 << 10)}}
    assert small["Expiration"] == {"Days": "30"}
    rest = rules["riva-stream-expire-dev"]
    # an upload can be open for 5 days, and its object is as old as the upload
    assert (rest["Filter"], rest["Expiration"]) == ({"Prefix": "dev/"}, {"Days": "36"})
    abort = rules["riva-stream-abort-dev"]["AbortIncompleteMultipartUpload"]
    assert abort == {"DaysAfterInitiation": "5"}
    assert not [warning for warning in report.warnings if "size" in warning]


async def test_a_store_without_sizes_in_rules_is_a_warning(place: Place) -> None:
    """moto is one."""
    for _ in range(2):
        report = await set_rules(place, policy("dev"))
        assert "keeps no size" in report.warnings[-1]
    assert report.changes == []


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
    assert {"expire-prod", "bintarball-prod"} < set(ids(place))
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
    tagged = [
        name
        for days in (30, 60)
        for name in (
            f"expire-dev-tag-{days}-documents",
            f"expire-dev-tag-{days}",
            f"bintarball-dev-tag-{days}",
        )
    ]
    assert sorted(ids(place)) == sorted(["abort-dev", *tagged])
    tags = [rule["Filter"]["And"]["Tags"] for rule in rules_there(place) if "Expiration" in rule]
    assert {tag["Value"] for (tag,) in tags} == {"30", "60"}
    await set_rules(place, policy("dev"))
    assert sorted(ids(place)) == ["abort-dev", "bintarball-dev", "expire-dev", "expire-dev-documents"]


async def test_ours_can_be_taken_away_again(place: Place) -> None:
    theirs = put_theirs(place)
    await set_rules(place, policy())
    await set_rules(place, policy(remove=True))
    assert rules_there(place) == theirs
    place.client.delete_bucket_lifecycle(Bucket=place.bucket)
    await set_rules(place, policy("dev"))
    await set_rules(place, policy("dev", remove=True))
    assert rules_there(place) == []


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
    report = await retention(settings, place.bucket, policy("dev"), apply=False, clock=lambda: later)
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
    settings = StoreSettings(region=place.server.region, endpoint_url=place.server.endpoint_url)
    later = datetime.now(UTC) + timedelta(days=31)
    wanted = policy("dev", days=30, abort_days=5)
    report = await retention(settings, place.bucket, wanted, apply=True, clock=lambda: later)
    assert f"+   Filter.Prefix: {DEPLOYMENTS}dev/" in report.diff
    assert rules_there(place)[:2] == theirs
    (rule,) = [rule for rule in rules_there(place) if rule["ID"] == "riva-stream-bintarball-dev"]
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

STRANGE = b"""<?xml version="1.0" encoding="UTF-8"?>
<LifecycleConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Rule><Status>Enabled</Status>
<ID>theirs</ID><Filter><Prefix>x/</Prefix><Vendor:Odd xmlns:Vendor="urn:v" a="1">2</Vendor:Odd></Filter>
<FromTheFuture><Depth>3</Depth><Depth>1</Depth></FromTheFuture><Expiration><Days>5</Days></Expiration></Rule>
<UpdatedAt>2026-01-01</UpdatedAt></LifecycleConfiguration>"""


class StrangeStore(BaseHTTPRequestHandler):
    """A store with fields in its rules that no SDK knows."""

    xml = STRANGE
    headers_seen: dict[str, str]
    change_after = 0
    """Requests after which somebody else changes the rules."""
    asked = 0

    def do_GET(self) -> None:
        if "lifecycle" not in self.path:
            return self.answer(b"<Error><Code>AccessDenied</Code></Error>", {}, status=403)
        kind = type(self)
        kind.asked += 1
        if kind.change_after and kind.asked > kind.change_after:
            kind.xml = kind.xml.replace(b"<Days>5</Days>", b"<Days>6</Days>")
        return self.answer(
            kind.xml, {"x-amz-transition-default-minimum-object-size": "varies_by_storage_class"}
        )

    def do_PUT(self) -> None:
        kind = type(self)
        kind.headers_seen = {name.lower(): value for name, value in self.headers.items()}
        kind.xml = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(b"", {})

    def answer(self, body: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

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


async def test_fields_that_no_sdk_knows_are_carried_as_they_are(
    place: Place, strange: tuple[type[StrangeStore], str]
) -> None:
    kind, url = strange
    report = await set_rules(place, policy("dev", by_tag=True), url=url)
    assert report.applied
    was, now = ET.fromstring(STRANGE), ET.fromstring(kind.xml)
    assert ET.canonicalize(ET.tostring(now[0])) == ET.canonicalize(ET.tostring(was[0]))
    assert ET.canonicalize(ET.tostring(now[1])) == ET.canonicalize(ET.tostring(was[1]))
    assert len(now) == len(was) + 4
    # a PUT without it would reset the bucket's setting
    assert kind.headers_seen["x-amz-transition-default-minimum-object-size"] == "varies_by_storage_class"
    assert "content-md5" in kind.headers_seen
    assert b"ns0:" not in kind.xml.replace(b"ns0:Odd", b"").replace(b"xmlns:ns0", b"")


@pytest.mark.parametrize(("requests", "kind_of_error"), [(1, HeldError), (2, TransientError)])
async def test_a_change_of_somebody_else_is_noticed(
    place: Place, strange: tuple[type[StrangeStore], str], requests: int, kind_of_error: type[Exception]
) -> None:
    """Between looking and writing nothing is written; just after it, it is said."""
    kind, url = strange
    kind.change_after = requests
    with pytest.raises(kind_of_error, match="somebody else") as caught:
        await set_rules(place, policy("dev", by_tag=True), url=url)
    assert getattr(caught.value, "exit_code", None) == 75
    assert (b"riva-stream-" in kind.xml) is (requests > 1)


def test_a_document_without_a_namespace_and_one_that_is_none() -> None:
    root = parsed(b"<LifecycleConfiguration><Rule><ID>a</ID></Rule></LifecycleConfiguration>")
    after = merged(root, policy("dev").rules(), ())
    assert next(structure(rule)["ID"] for rule in parsed(to_xml(after))) == "a"
    for bad in (b"<html/>", b"not XML", b""):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            parsed(bad)


@pytest.mark.parametrize(
    ("operation", "right"),
    [
        ("GetBucketLifecycleConfiguration", "s3:GetLifecycleConfiguration"),
        ("PutBucketLifecycleConfiguration", "s3:PutLifecycleConfiguration"),
    ],
)
async def test_a_missing_right_is_named(place: Place, operation: str, right: str) -> None:
    async with FaultProxy(place.server, [Rule(operation, fault=Refuse("AccessDenied"))]) as proxy:
        with pytest.raises(AccessDeniedError) as caught:
            await set_rules(place, policy(), url=proxy.endpoint_url)
    assert right in caught.value.hint


async def test_without_listing_the_rules_are_set_all_the_same(place: Place) -> None:
    async with FaultProxy(place.server, [Rule("ListObjectsV2", fault=Refuse("AccessDenied"))]) as proxy:
        report = await set_rules(place, policy(), url=proxy.endpoint_url)
    assert report.applied
    assert "s3:ListBucket" in report.warnings[0]


# --- the command line


def call(*argv: str, place: Place) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "riva_stream", "retention", *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


async def test_the_command_line_shows_and_sets(place: Place) -> None:
    put_theirs(place)
    done = await asyncio.to_thread(call, f"s3://{place.bucket}", "--days", "30", place=place)
    assert done.returncode == 0, done.stderr
    assert "+ rule riva-stream-expire-dev-documents" in done.stdout
    assert "9 added" in done.stdout
    assert f"{DEPLOYMENTS}dev/  0 references, 0 objects" in done.stdout
    assert f"retention s3://{place.bucket} --days 30 --apply" in done.stdout
    done = await asyncio.to_thread(call, f"s3://{place.bucket}", "--apply", "--json", place=place)
    assert json.loads(done.stdout)["applied"] is True
    assert ids(place) == ["logs", "cold", *OURS, *ABORTS]


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
    done = call(f"s3://{gateway_bucket}", "--apply", place=Place(gateway, gateway_bucket))
    assert done.returncode == 78, done.stderr
    assert "no lifecycle rules" in done.stderr
    assert "gc" in done.stderr
