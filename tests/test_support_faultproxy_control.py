"""How a test steers the fault proxy: gates, hooks, occurrences, scripts, signals, and both ways to run it."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import aioboto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError

from tests.support.faultproxy import FaultProxy, Hook, Rule
from tests.support.faults import FlipBit, Gate, Occurrence, Refuse, Reset, Stall, load_script
from tests.support.http1 import Head
from tests.support.process import SignalTrigger, start
from tests.support.s3ops import S3Request, recognise

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.faultlog import Record
    from tests.support.servers import S3Server

DATA = bytes(range(256)) * 1000


@pytest.fixture
def stored(moto: S3Server, moto_bucket: str) -> str:
    moto.client().put_object(Bucket=moto_bucket, Key="key", Body=DATA)
    return moto_bucket


def keys(server: S3Server, bucket: str) -> list[str]:
    return [entry["Key"] for entry in server.client().list_objects_v2(Bucket=bucket).get("Contents", ())]


@pytest.mark.parametrize("stage", ["request", "response", "response-body"])
async def test_a_stalled_request_goes_on_when_its_gate_opens(moto: S3Server, stored: str, stage: str) -> None:
    gate = Gate()
    stall = Stall(stage, after=1000, gate=gate)  # type: ignore[arg-type]
    async with FaultProxy(moto, [Rule("GetObject", fault=stall)]) as proxy:

        def get() -> bytes:
            body: bytes = moto.client(proxy.endpoint_url).get_object(Bucket=stored, Key="key")["Body"].read()
            return body

        getting = asyncio.create_task(asyncio.to_thread(get))
        await gate.reached()
        record = proxy.log[0]
        assert record.outcome == "open"
        assert (record.upstream_status, record.status, record.sent) == {
            "request": (None, None, 0),
            "response": (200, None, 0),
            "response-body": (200, 200, 1000),
        }[stage]
        assert not getting.done()
        gate.release()
        assert await getting == DATA
    assert proxy.log[0].outcome == "answered"


def test_a_stall_that_nobody_ends_ends_with_the_proxy(moto: S3Server, stored: str) -> None:
    stall = Stall()
    failed: list[type[BaseException]] = []
    with FaultProxy(moto, [Rule("GetObject", fault=stall)]).in_thread() as proxy:
        client = moto.client(proxy.endpoint_url)

        def get() -> None:
            try:
                client.get_object(Bucket=stored, Key="key")
            except ConnectionClosedError as error:
                failed.append(type(error))

        thread = threading.Thread(target=get)
        thread.start()
        stall.gate.wait_reached()
        assert stall.gate.is_reached
    thread.join(60)
    assert failed == [ConnectionClosedError]


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("when", ["request", "response"])
def test_hooks_stand_before_and_after_the_nth_mutation(
    moto: S3Server, moto_bucket: str, when: str, drop: bool
) -> None:
    seen: list[tuple[Record, list[str]]] = []

    def look(record: Record) -> None:
        seen.append((record, keys(moto, moto_bucket)))

    hook = Hook(look, when, mutation=2, drop=drop)  # type: ignore[arg-type]
    with FaultProxy(moto, hooks=[hook]).in_thread() as proxy:
        client = moto.client(proxy.endpoint_url)
        client.put_object(Bucket=moto_bucket, Key="one", Body=b"")
        client.head_bucket(Bucket=moto_bucket)
        if drop:
            with pytest.raises(ConnectionClosedError):
                client.put_object(Bucket=moto_bucket, Key="two", Body=b"")
        else:
            client.put_object(Bucket=moto_bucket, Key="two", Body=b"")
    [(record, there)] = seen
    assert (record.key, record.mutation, record.number) == ("two", 2, 3)
    assert there == (["one"] if when == "request" else ["one", "two"])
    assert keys(moto, moto_bucket) == (["one"] if drop and when == "request" else ["one", "two"])


async def test_a_hook_can_be_a_coroutine_function(moto: S3Server, moto_bucket: str) -> None:
    seen = []

    async def look(record: Record) -> None:
        await asyncio.sleep(0)
        seen.append(record.operation)

    async with FaultProxy(moto, hooks=[Hook(look, operation="PutObject")]) as proxy:
        client = moto.client(proxy.endpoint_url)
        await asyncio.to_thread(client.put_object, Bucket=moto_bucket, Key="key", Body=b"")
        await asyncio.to_thread(client.delete_object, Bucket=moto_bucket, Key="key")
    assert seen == ["PutObject"]


def test_an_error_in_a_hook_fails_the_test(moto: S3Server, moto_bucket: str) -> None:
    def wrong(_: Record) -> None:
        raise ZeroDivisionError

    proxy = FaultProxy(moto, hooks=[Hook(wrong)])

    def put_through() -> None:
        with proxy.in_thread(), pytest.raises(ConnectionClosedError):
            moto.client(proxy.endpoint_url).put_object(Bucket=moto_bucket, Key="key", Body=b"")

    with pytest.raises(BaseExceptionGroup, match="the fault proxy failed") as group:
        put_through()
    assert [type(error) for error in group.value.exceptions] == [ZeroDivisionError]


CLIENT = """
import boto3
from botocore.config import Config
client = boto3.client("s3", config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}))
for number in range(1, 4):
    client.put_object(Bucket="BUCKET", Key=f"key-{number}", Body=b"")
"""


@pytest.mark.parametrize(("when", "left"), [("request", ["key-1"]), ("response", ["key-1", "key-2"])])
def test_a_process_is_killed_before_and_after_its_nth_mutation(
    moto: S3Server, moto_bucket: str, tmp_path: Path, when: str, left: list[str]
) -> None:
    trigger = SignalTrigger(signal.SIGKILL)
    hook = Hook(trigger, when, mutation=2, drop=True)  # type: ignore[arg-type]
    argv = [sys.executable, "-c", CLIENT.replace("BUCKET", moto_bucket)]
    with FaultProxy(moto, hooks=[hook]).in_thread() as proxy:
        with start(argv, folder=tmp_path, env=moto.environment(proxy.endpoint_url)) as process:
            trigger.arm(process)
            report = process.wait(120)
        assert report.exit_code == -signal.SIGKILL, report.stderr
    assert keys(moto, moto_bucket) == left


@pytest.mark.parametrize(
    ("occurrence", "struck"),
    [
        ("every", [1, 2, 3, 4, 5]),
        ("first", [1]),
        ("last", [5]),
        (3, [3]),
        ({1, 4}, [1, 4]),
        (range(2, 4), [2, 3]),
        ([5], [5]),
        (0.0, []),
        (1.0, [1, 2, 3, 4, 5]),
    ],
)
def test_occurrences(occurrence: Occurrence, struck: list[int]) -> None:
    rule = Rule("GetObject", occurrence=occurrence, total=5, fault=Reset())
    assert [count for count in range(1, 6) if rule.strikes(count, random.Random(0))] == struck


def test_last_needs_a_total() -> None:
    with pytest.raises(ValueError, match="dry run"):
        Rule("GetObject", occurrence="last", fault=Reset())


def test_a_probability_is_the_same_for_the_same_seed(moto: S3Server, stored: str) -> None:
    def outcomes(seed: int) -> list[str]:
        with FaultProxy(
            moto, [Rule(occurrence=0.5, fault=Refuse("SlowDown"))], seed=seed
        ).in_thread() as proxy:
            client = moto.client(proxy.endpoint_url)
            for _ in range(12):
                try:
                    client.get_object(Bucket=stored, Key="key", Range="bytes=0-0")["Body"].read()
                except ClientError:
                    continue
        return [record.outcome for record in proxy.log]

    first = outcomes(1)
    assert first == outcomes(1) != outcomes(2)
    assert set(first) == {"answered", "refused"}


def test_rules_pick_by_operation_key_and_part() -> None:
    put = S3Request("UploadPart", "PUT", "/", "bucket", "a/models/x.riva", part=3)
    get = S3Request("GetObject", "GET", "/", "bucket", "a/source")
    assert Rule("UploadPart", key="*/models/*", part=3, fault=Reset()).fits(put)
    assert not Rule("UploadPart", part=4, fault=Reset()).fits(put)
    assert not Rule("UploadPart", key="*/source", fault=Reset()).fits(put)
    assert Rule("mutating", fault=Reset()).fits(put)
    assert not Rule("mutating", fault=Reset()).fits(get)
    assert Rule({"GetObject", "HeadObject"}, fault=Reset()).fits(get)
    assert not Rule("*", fault=Reset()).fits(S3Request("Connect", "", "", "", ""))


def test_scripts_are_rules_as_json(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    entries: list[dict[str, Any]] = [
        {"operation": "GetObject", "occurrence": [1, 3], "fault": {"kind": "Refuse", "code": "SlowDown"}},
        {"key": "*/x", "fault": [{"kind": "FlipBit", "where": "request", "offset": 7}, {"kind": "Reset"}]},
    ]
    script.write_text(json.dumps(entries))
    assert (
        load_script(script)
        == load_script(entries)
        == [
            Rule("GetObject", occurrence=[1, 3], fault=(Refuse("SlowDown"),)),
            Rule(key="*/x", fault=(FlipBit("request", 7), Reset())),
        ]
    )


@pytest.mark.parametrize(
    ("line", "operation"),
    [
        ("GET /", "ListBuckets"),
        ("PUT /b", "CreateBucket"),
        ("DELETE /b/", "DeleteBucket"),
        ("GET /b?prefix=x", "ListObjects"),
        ("GET /b?versions", "ListObjectVersions"),
        ("GET /b?location", "GetBucketLocation"),
        ("PUT /b?versioning", "PutBucketVersioning"),
        ("GET /b?lifecycle", "GetBucketLifecycleConfiguration"),
        ("GET /b/k?tagging", "GetObjectTagging"),
        ("PUT /b/k?tagging", "PutObjectTagging"),
        ("PATCH /b/k", "Unknown"),
        ("POST /", "Unknown"),
    ],
)
def test_operations_that_no_other_test_sends(line: str, operation: str) -> None:
    assert recognise(Head(f"{line} HTTP/1.1")).operation == operation


def test_a_copy_is_told_by_its_header() -> None:
    head = Head("PUT /b/a%20folder/k HTTP/1.1", [("X-Amz-Copy-Source", "/b/source")])
    request = recognise(head)
    assert (request.operation, request.key) == ("CopyObject", "a folder/k")


async def test_many_requests_at_once_in_the_tests_own_loop(s3_server: S3Server, bucket: str) -> None:
    config = Config(
        s3={"addressing_style": "path", "payload_signing_enabled": False},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"total_max_attempts": 1},
    )
    size, target = 5 << 20, {"Bucket": bucket, "Key": "key"}
    bodies = [bytes([number]) * size for number in range(1, 7)]
    rules = [Rule("UploadPart", part=4, occurrence="first", fault=Refuse("SlowDown"))]
    async with (
        FaultProxy(s3_server, rules) as proxy,
        aioboto3.Session().client(
            "s3",
            endpoint_url=proxy.endpoint_url,
            region_name=s3_server.region,
            aws_access_key_id=s3_server.access_key,
            aws_secret_access_key=s3_server.secret_key,
            config=config,
        ) as client,
    ):
        upload = target | {"UploadId": (await client.create_multipart_upload(**target))["UploadId"]}

        async def put(number: int) -> dict[str, Any]:
            answer = await client.upload_part(**upload, PartNumber=number, Body=bodies[number - 1])
            return {"PartNumber": number, "ETag": answer["ETag"]}

        async def get(number: int) -> bytes:
            span = f"bytes={number * size}-{(number + 1) * size - 1}"
            answer = await client.get_object(**target, Range=span)
            body: bytes = await answer["Body"].read()
            return body

        done = await asyncio.gather(*map(put, range(1, 7)), return_exceptions=True)
        assert [isinstance(result, ClientError) for result in done].index(True) == 3
        parts = [result if isinstance(result, dict) else await put(4) for result in done]
        await client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
        assert await asyncio.gather(*map(get, range(6))) == bodies
    sent = {record.part: record.forwarded for record in proxy.select("UploadPart") if record.forwarded}
    assert sent == dict.fromkeys(range(1, 7), size)
    assert {record.range for record in proxy.select("GetObject")} == {
        (number * size, (number + 1) * size - 1) for number in range(6)
    }


def test_an_error_code_without_a_known_status_needs_one() -> None:
    with pytest.raises(ValueError, match="no error code we know"):
        Refuse("KMS.DisabledException")
    assert Refuse("KMS.DisabledException", status=400).http_status == 400
