"""The fault proxy does what its faults say, byte for byte, and nothing when it has no rules."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, ResponseStreamingError

from tests.support.faultproxy import FaultProxy, Rule
from tests.support.faults import (
    Drip,
    Fault,
    FlipBit,
    IgnoreRange,
    Latency,
    Refuse,
    Reset,
    Rewrite,
    ShortBody,
    cut,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from tests.support.servers import S3Server

DATA = os.urandom(600_000)
KEY = "folder/source.bin"
PART = 5 << 20


@pytest.fixture
def stored(s3_server: S3Server, bucket: str) -> str:
    """A bucket with `DATA` under `KEY`."""
    s3_server.client().put_object(Bucket=bucket, Key=KEY, Body=DATA)
    return bucket


@pytest.fixture
def moto_stored(moto: S3Server) -> str:
    bucket = moto.new_bucket()
    moto.client().put_object(Bucket=bucket, Key=KEY, Body=DATA)
    return bucket


def faulty(
    server: S3Server, operation: str, *faults: Fault, **when: Any
) -> AbstractContextManager[FaultProxy]:
    return FaultProxy(server, [Rule(operation, fault=faults, **when)]).in_thread()


@pytest.fixture
def whole_run(s3_server: S3Server, stored: str) -> Iterator[FaultProxy]:
    """A proxy without rules through which one of each operation went."""
    with FaultProxy(s3_server).in_thread() as proxy:
        client = s3_server.client(proxy.endpoint_url)
        body, target = os.urandom(PART), {"Bucket": stored, "Key": "target"}
        upload = target | {"UploadId": client.create_multipart_upload(**target)["UploadId"]}
        etags = [client.upload_part(**upload, PartNumber=1, Body=body)["ETag"]]
        source = {"CopySource": {"Bucket": stored, "Key": KEY}, "CopySourceRange": "bytes=10-109"}
        etags.append(client.upload_part_copy(**upload, PartNumber=2, **source)["CopyPartResult"]["ETag"])
        assert len(client.list_parts(**upload)["Parts"]) == 2
        client.list_multipart_uploads(Bucket=stored)
        parts = [{"PartNumber": n, "ETag": etag} for n, etag in enumerate(etags, 1)]
        client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
        assert client.get_object(**target)["Body"].read() == body + DATA[10:110]
        client.abort_multipart_upload(**target, UploadId=client.create_multipart_upload(**target)["UploadId"])
        client.put_object(Bucket=stored, Key="an empty key/+&=ü", Body=b"")
        listed = client.list_objects_v2(Bucket=stored)["Contents"]
        assert {entry["Key"] for entry in listed} == {KEY, "target", "an empty key/+&=ü"}
        assert client.head_object(**target)["ContentLength"] == PART + 100
        client.head_bucket(Bucket=stored)
        # The gateway insists on Content-MD5 here, which botocore no longer sends: refused, but recognised.
        with contextlib.suppress(ClientError):
            client.delete_objects(Bucket=stored, Delete={"Objects": [{"Key": "an empty key/+&=ü"}]})
        client.delete_object(**target)
        yield proxy


def test_without_rules_everything_passes_and_is_recognised(whole_run: FaultProxy) -> None:
    assert [(record.number, record.mutation, record.operation) for record in whole_run.log] == [
        (1, 1, "CreateMultipartUpload"),
        (2, 2, "UploadPart"),
        (3, 3, "UploadPartCopy"),
        (4, None, "ListParts"),
        (5, None, "ListMultipartUploads"),
        (6, 4, "CompleteMultipartUpload"),
        (7, None, "GetObject"),
        (8, 5, "CreateMultipartUpload"),
        (9, 6, "AbortMultipartUpload"),
        (10, 7, "PutObject"),
        (11, None, "ListObjectsV2"),
        (12, None, "HeadObject"),
        (13, None, "HeadBucket"),
        (14, 8, "DeleteObjects"),
        (15, 9, "DeleteObject"),
    ]
    assert {record.outcome for record in whole_run.log} == {"answered"}
    part, copy = whole_run.select("UploadPart")[0], whole_run.select("UploadPartCopy")[0]
    assert (part.part, part.received, part.forwarded, part.key) == (1, PART, PART, "target")
    assert (copy.part, copy.range) == (2, (10, 109))
    assert whole_run.select("PutObject")[0].key == "an empty key/+&=ü"
    assert whole_run.traffic["GetObject"].sent == PART + 100
    assert whole_run.count("mutating") == whole_run.mutations == 9
    assert whole_run.connections == 1  # kept alive all along


def test_a_refusal_before_forwarding_leaves_the_store_alone(s3_server: S3Server, bucket: str) -> None:
    with faulty(s3_server, "PutObject", Refuse("SlowDown"), occurrence="first") as proxy:
        client = s3_server.client(proxy.endpoint_url)
        with pytest.raises(ClientError) as refused:
            client.put_object(Bucket=bucket, Key="key", Body=b"bytes")
        assert refused.value.response["Error"]["Code"] == "SlowDown"
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
        assert "Contents" not in s3_server.client().list_objects_v2(Bucket=bucket)
        client.put_object(Bucket=bucket, Key="key", Body=b"bytes")
    first, second = proxy.log
    assert (first.outcome, first.upstream_status, first.forwarded) == ("refused", None, 0)
    assert (second.outcome, second.upstream_status, second.faults) == ("answered", 200, ())


@pytest.mark.parametrize(
    "lost", [Refuse("InternalError", executed=True), Reset("response"), Reset("response", rst=False)]
)
def test_a_lost_answer_comes_after_the_store_has_done_it(
    s3_server: S3Server, bucket: str, lost: Fault
) -> None:
    with faulty(s3_server, "PutObject", lost) as proxy:
        with pytest.raises((ClientError, ConnectionClosedError)):
            s3_server.client(proxy.endpoint_url).put_object(Bucket=bucket, Key="key", Body=b"bytes")
        stored = s3_server.client().get_object(Bucket=bucket, Key="key")["Body"].read()
    assert stored == b"bytes"
    assert proxy.log[0].upstream_status == 200
    assert proxy.log[0].faults == (type(lost).__name__,)


@pytest.mark.parametrize("executed", [False, True])
def test_complete_can_fail_inside_a_200(s3_server: S3Server, bucket: str, executed: bool) -> None:
    target = {"Bucket": bucket, "Key": "key"}
    fault = Refuse("InternalError", status=200, executed=executed)
    with faulty(s3_server, "CompleteMultipartUpload", fault) as proxy:
        client = s3_server.client(proxy.endpoint_url)
        upload = target | {"UploadId": client.create_multipart_upload(**target)["UploadId"]}
        etag = client.upload_part(**upload, PartNumber=1, Body=b"bytes")["ETag"]
        with pytest.raises(ClientError, match="InternalError"):
            client.complete_multipart_upload(
                **upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]}
            )
    assert proxy.log[-1].status == 200
    assert ("Contents" in s3_server.client().list_objects_v2(Bucket=bucket)) is executed


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("AccessDenied", 403),
        ("BadDigest", 400),
        ("ConditionalRequestConflict", 409),
        ("ExpiredToken", 400),
        ("NoSuchUpload", 404),
        ("PreconditionFailed", 412),
        ("RequestTimeTooSkewed", 403),
    ],
)
def test_every_error_code_has_its_status(moto: S3Server, moto_stored: str, code: str, status: int) -> None:
    with faulty(moto, "GetObject", Refuse(code)) as proxy, pytest.raises(ClientError) as refused:
        moto.client(proxy.endpoint_url).get_object(Bucket=moto_stored, Key=KEY)
    assert refused.value.response["Error"]["Code"] == code
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == status


def test_the_wrong_region_is_named_in_a_header(moto: S3Server, moto_stored: str) -> None:
    fault = Refuse("PermanentRedirect", headers={"x-amz-bucket-region": "eu-west-1"})
    with faulty(moto, "HeadBucket", fault) as proxy, pytest.raises(ClientError) as refused:
        moto.client(proxy.endpoint_url).head_bucket(Bucket=moto_stored)
    answer = refused.value.response["ResponseMetadata"]
    assert (answer["HTTPStatusCode"], answer["HTTPHeaders"]["x-amz-bucket-region"]) == (301, "eu-west-1")


@pytest.mark.parametrize("after", [0, 1, 70_000, len(DATA) - 1])
def test_a_cut_lets_exactly_so_many_bytes_pass(s3_server: S3Server, stored: str, after: int) -> None:
    with faulty(s3_server, "GetObject", cut(after)) as proxy:
        answer = s3_server.client(proxy.endpoint_url).get_object(Bucket=stored, Key=KEY)
        with pytest.raises(ResponseStreamingError, match=rf"IncompleteRead\({after} bytes read"):
            answer["Body"].read()
    assert (proxy.log[0].sent, proxy.log[0].outcome) == (after, "cut")


def test_a_cut_beyond_the_end_does_not_happen_and_the_log_says_so(moto: S3Server, moto_stored: str) -> None:
    with faulty(moto, "GetObject", cut(len(DATA))) as proxy:
        assert moto.client(proxy.endpoint_url).get_object(Bucket=moto_stored, Key=KEY)["Body"].read() == DATA
    assert (proxy.log[0].faults, proxy.log[0].outcome) == ((), "answered")


def test_ranges_are_logged_as_asked(moto: S3Server, moto_stored: str) -> None:
    with FaultProxy(moto).in_thread() as proxy:
        client = moto.client(proxy.endpoint_url)
        for span in ("bytes=5-9", "bytes=599990-", "bytes=-7"):
            client.get_object(Bucket=moto_stored, Key=KEY, Range=span)["Body"].read()
    assert [(r.range, r.sent) for r in proxy.log] == [((5, 9), 5), ((599_990, None), 10), ((None, 7), 7)]


def test_a_200_in_place_of_206(moto: S3Server, moto_stored: str) -> None:
    with faulty(moto, "GetObject", Rewrite(status=200, remove=["content-range"])) as proxy:
        answer = moto.client(proxy.endpoint_url).get_object(Bucket=moto_stored, Key=KEY, Range="bytes=5-9")
        assert answer["Body"].read() == DATA[5:10]
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert "ContentRange" not in answer


def test_a_store_that_ignores_range_sends_everything(s3_server: S3Server, stored: str) -> None:
    with faulty(s3_server, "GetObject", IgnoreRange()) as proxy:
        etag = s3_server.client().head_object(Bucket=stored, Key=KEY)["ETag"]
        client = s3_server.client(proxy.endpoint_url)
        answer = client.get_object(Bucket=stored, Key=KEY, Range="bytes=5-9", IfMatch=etag)
        assert answer["Body"].read() == DATA
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200


def test_a_wrong_content_range(moto: S3Server, moto_stored: str) -> None:
    with faulty(moto, "GetObject", Rewrite(shift_range=3)) as proxy:
        answer = moto.client(proxy.endpoint_url).get_object(Bucket=moto_stored, Key=KEY, Range="bytes=5-9")
        assert answer["Body"].read() == DATA[5:10]
    assert answer["ContentRange"] == f"bytes 8-12/{len(DATA)}"


def test_an_etag_that_flips(moto: S3Server, moto_stored: str) -> None:
    with faulty(moto, "GetObject", Rewrite(headers={"ETag": '"other"'}), occurrence=2) as proxy:
        client = moto.client(proxy.endpoint_url)
        etags = [client.get_object(Bucket=moto_stored, Key=KEY)["ETag"] for _ in range(3)]
    assert etags[0] == etags[2] != etags[1] == '"other"'


def test_a_short_body_with_the_right_headers(s3_server: S3Server, stored: str) -> None:
    with faulty(s3_server, "GetObject", ShortBody(missing=10)) as proxy:
        answer = s3_server.client(proxy.endpoint_url).get_object(Bucket=stored, Key=KEY)
        assert answer["ContentLength"] == len(DATA)
        with pytest.raises(ResponseStreamingError):
            answer["Body"].read()
    assert (proxy.log[0].sent, proxy.log[0].outcome) == (len(DATA) - 10, "cut")


def test_a_body_that_is_consistently_short(s3_server: S3Server, stored: str) -> None:
    with faulty(s3_server, "GetObject", ShortBody(missing=10, honest=True)) as proxy:
        client = s3_server.client(proxy.endpoint_url)
        for _ in range(2):
            answer = client.get_object(Bucket=stored, Key=KEY, Range="bytes=0-99")
            assert (answer["ContentLength"], answer["ContentRange"]) == (90, f"bytes 0-99/{len(DATA)}")
            assert answer["Body"].read() == DATA[:90]
    assert proxy.connections == 1
    assert proxy.log[0].faults == ("ShortBody",)


@pytest.mark.parametrize("offset", [0, 300_000, len(DATA) - 1])
def test_a_flipped_bit_from_the_store(s3_server: S3Server, stored: str, offset: int) -> None:
    with faulty(s3_server, "GetObject", FlipBit("response", offset, mask=0x10)) as proxy:
        got = s3_server.client(proxy.endpoint_url).get_object(Bucket=stored, Key=KEY)["Body"].read()
    assert [i for i, (a, b) in enumerate(zip(got, DATA, strict=True)) if a != b] == [offset]
    assert got[offset] == DATA[offset] ^ 0x10
    assert proxy.log[0].faults == ("FlipBit",)


def test_a_flipped_bit_to_the_store(moto: S3Server, moto_bucket: str) -> None:
    with faulty(moto, "PutObject", FlipBit("request", 3)) as proxy:
        moto.client(proxy.endpoint_url).put_object(Bucket=moto_bucket, Key="key", Body=b"bytes")
    assert moto.client().get_object(Bucket=moto_bucket, Key="key")["Body"].read() == b"bytds"
    assert proxy.log[0].faults == ("FlipBit",)


@pytest.mark.gateway
def test_the_gateway_finds_a_flipped_bit_by_the_signature(gateway: S3Server, gateway_bucket: str) -> None:
    with faulty(gateway, "PutObject", FlipBit("request", 3)) as proxy, pytest.raises(ClientError):
        gateway.client(proxy.endpoint_url).put_object(Bucket=gateway_bucket, Key="key", Body=b"bytes")
    assert proxy.log[0].upstream_status == 400


def test_faults_add_up_and_slow_ones_change_no_byte(moto: S3Server, moto_stored: str) -> None:
    slow = (Latency(0), Latency(0, "response"), Drip(piece=100_000, pause=0))
    with faulty(moto, "GetObject", *slow) as proxy:
        assert moto.client(proxy.endpoint_url).get_object(Bucket=moto_stored, Key=KEY)["Body"].read() == DATA
    assert proxy.log[0].faults == ("Latency", "Latency", "Drip")


def test_the_last_occurrence_is_found_by_a_dry_run(moto: S3Server, moto_bucket: str) -> None:
    def three_puts(proxy: FaultProxy) -> None:
        for number in range(3):
            moto.client(proxy.endpoint_url).put_object(Bucket=moto_bucket, Key=f"key-{number}", Body=b"")

    with FaultProxy(moto).in_thread() as dry:
        three_puts(dry)
    total = dry.count("PutObject", "key-*")
    rule = Rule("PutObject", key="key-*", occurrence="last", total=total, fault=Refuse("SlowDown"))
    with FaultProxy(moto, [rule]).in_thread() as proxy, pytest.raises(ClientError):
        three_puts(proxy)
    assert [record.outcome for record in proxy.log] == ["answered", "answered", "refused"]
