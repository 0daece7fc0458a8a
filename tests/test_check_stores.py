"""`check` on stores that are not AWS: it asks for the right answer too, says what it met, and leaves nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from riva_stream import StageRequest
from riva_stream.errors import RivaStreamError, TransientError
from riva_stream.preflight.check_runner import CheckRunner
from riva_stream.preflight.destination import check_writing
from riva_stream.preflight.report import NOT_TRIED, CheckRecord, report_of
from riva_stream.retry import Retrier, RetryPolicy
from riva_stream.s3 import RangeReply, Stored
from riva_stream.s3.errors import refusal
from riva_stream.s3.memory import MemoryStore
from riva_stream.s3.memory_reader import Conditions

BUCKET = "staging"


class OddStore(MemoryStore):
    """Not AWS, and wrong in one way that a test chooses."""

    def __init__(self, **options: Any) -> None:
        super().__init__(BUCKET, **{"is_aws": False, **options})
        self.requests: list[str] = []

    async def create_upload(self, bucket: str, key: str, **options: Any) -> str:
        self.requests.append("CreateMultipartUpload")
        return await super().create_upload(bucket, key, **options)

    async def put(self, bucket: str, key: str, body: Any, **options: Any) -> Stored:
        self.requests.append("PutObject")
        return await super().put(bucket, key, body, **options)


class RefusesTheRightEtag(OddStore):
    """As Ceph 16 does: 412 to an If-Match that holds."""

    async def put(self, bucket: str, key: str, body: Any, **options: Any) -> Stored:
        if options.get("if_match"):
            raise refusal("PutObject", bucket, key, "PreconditionFailed", 412)
        return await super().put(bucket, key, body, **options)


class RefusesTheRightAbsence(OddStore):
    """412 to an If-None-Match of a key that is not there."""

    async def put(self, bucket: str, key: str, body: Any, **options: Any) -> Stored:
        if options.get("if_absent"):
            raise refusal("PutObject", bucket, key, "PreconditionFailed", 412)
        return await super().put(bucket, key, body, **options)


class IgnoresRanges(OddStore):
    """As rclone does: 200 with the whole object."""

    @asynccontextmanager
    async def get_range(self, bucket: str, key: str, **options: Any) -> AsyncIterator[RangeReply]:
        async with super().get_range(bucket, key, **options) as reply:
            yield RangeReply(200, "", reply.content_length, reply.etag, reply.pieces)


class CannotAbort(OddStore):
    """As s3rver: there is no such request."""

    def __init__(self, code: str, status: int) -> None:
        super().__init__()
        self.refused = refusal("AbortMultipartUpload", BUCKET, "", code, status)

    async def abort_upload(self, bucket: str, key: str, upload_id: str) -> None:
        raise self.refused


class OddComplete(OddStore):
    """Answers a Complete in its own way."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.times = how, 0

    async def complete_upload(self, bucket: str, key: str, *args: Any, **options: Any) -> Stored:
        self.times += 1
        if self.how == "refuses":
            raise refusal("CompleteMultipartUpload", bucket, key, "InvalidRequest", 400)
        if self.how == "no condition" and options.get("if_absent"):
            raise refusal("CompleteMultipartUpload", bucket, key, "NotImplemented", 501)
        if self.how == "wrong condition" and options.get("if_absent"):
            raise refusal("CompleteMultipartUpload", bucket, key, "PreconditionFailed", 412)
        stored = await super().complete_upload(bucket, key, *args, **options)
        if self.how == "lost answer" and self.times == 1:
            raise TransientError("reset")
        if self.how == "no ETag":
            return Stored("", stored.version_id, stored.now)
        return Stored("f" * 32, stored.version_id, stored.now) if self.how == "another ETag" else stored


def request(**fields: Any) -> StageRequest:
    given: dict[str, Any] = {
        "source": "s3://models/model.tar.gz",
        "bucket": BUCKET,
        "env": "prod",
        "model_name": "m",
        "model_version": "v1",
        "endpoint_url": "http://127.0.0.1:1",
    }
    return StageRequest.model_validate(given | fields)


async def checked(store: MemoryStore, **fields: Any) -> dict[str, CheckRecord]:
    """The records about a destination; nothing is left there."""

    async def no_wait(_: float) -> None:
        pass

    runner = CheckRunner(request(**fields), 10.0, Retrier(RetryPolicy(retries=2), sleep=no_wait))
    await check_writing(runner, store)
    assert store.keys(BUCKET) == []
    assert store.open_uploads(BUCKET) == []
    report = report_of(runner.request, "", runner.records.values(), 0.0)
    assert all(record.code for record in report.records)
    return {record.component: record for record in report.records}


# ---- conditions


@pytest.mark.parametrize(
    ("store", "code", "if_none_match", "if_match"),
    [
        (OddStore(), "ok", "honoured", "honoured"),
        (OddStore(conditions="ignored"), "ignored", "ignored", "ignored"),
        (OddStore(conditions="refused"), "refused", "refused", "refused"),
        (RefusesTheRightEtag(), "mixed", "honoured", "wrong"),
        (RefusesTheRightAbsence(), "mixed", "wrong", "honoured"),
    ],
    ids=["honoured", "ignored", "refused", "right ETag refused", "right absence refused"],
)
async def test_a_condition_is_relied_on_only_when_it_is_right_both_ways(
    store: OddStore, code: str, if_none_match: str, if_match: str
) -> None:
    found = await checked(store)
    record = found["conditional-writes"]
    assert (record.code, record.status) == (code, "pass" if code == "ok" else "warn")
    assert (record.details["if_none_match"], record.details["if_match"]) == (if_none_match, if_match)
    assert not [record for record in found.values() if record.status == "fail"]


@pytest.mark.parametrize("conditions", ["ignored", "refused"])
async def test_by_reference_such_a_store_will_do_as_well(conditions: Conditions) -> None:
    found = await checked(OddStore(conditions=conditions), reference_only=True)
    assert found["destination"].status == "pass"
    assert found["conditional-writes"].code == conditions
    assert "checksums" not in found


# ---- uploads


@pytest.mark.parametrize("how", ["", "no condition", "wrong condition", "lost answer", "no ETag"])
async def test_a_small_upload_is_completed_and_removed(how: str) -> None:
    store = OddComplete(how)
    found = await checked(store)
    assert (found["destination"].status, found["destination"].details["completed"]) == ("pass", True)
    assert store.times > 0


@pytest.mark.parametrize(
    ("how", "exit_code", "code"), [("refuses", 78, "InvalidRequest"), ("another ETag", 65, "etag-differs")]
)
async def test_an_upload_that_cannot_be_completed_as_a_run_needs_it_fails(
    how: str, exit_code: int, code: str
) -> None:
    record = (await checked(OddComplete(how)))["destination"]
    assert (record.status, record.details["exit_code"], record.code) == ("fail", exit_code, code)


async def test_where_nothing_can_be_removed_nothing_is_completed() -> None:
    class Kept(OddComplete):
        async def delete(self, bucket: str, key: str, **options: Any) -> str | None:
            raise refusal("DeleteObject", bucket, key, "AccessDenied", 403)

    store = Kept("")
    found = await checked(store)
    assert (found["destination"].status, found["destination"].details["completed"]) == ("pass", False)
    assert store.times == 0
    assert "PutObject" not in store.requests
    assert found["store"].code == NOT_TRIED


@pytest.mark.parametrize(
    ("code", "status"), [("MethodNotAllowed", 405), ("NotImplemented", 501), ("405", 405), ("501", 501)]
)
async def test_what_could_not_be_aborted_is_not_begun(code: str, status: int) -> None:
    store = CannotAbort(code, status)
    record = (await checked(store))["destination"]
    assert (record.status, record.details["exit_code"]) == ("fail", 78)
    assert "CreateMultipartUpload" not in store.requests


@pytest.mark.parametrize(
    "error",
    [refusal("AbortMultipartUpload", BUCKET, "", code, 404) for code in ("NoSuchUpload", "NoSuchKey", "404")],
)
async def test_an_upload_that_is_not_there_is_told_in_many_words(error: RivaStreamError) -> None:
    class Words(OddStore):
        async def abort_upload(self, bucket: str, key: str, upload_id: str) -> None:
            if upload_id == "none":
                raise error
            await super().abort_upload(bucket, key, upload_id)

    assert (await checked(Words()))["destination"].status == "pass"


# ---- ranges


async def test_a_range_is_answered_as_one() -> None:
    found = await checked(OddStore())
    assert (found["head"].code, found["head"].status) == ("ok", "pass")
    assert "ranges" in found["store"].details["enforces"]
    found = await checked(IgnoresRanges())
    assert (found["head"].code, found["head"].status) == ("RangesIgnored", "warn")
    assert "no-ranges" in found["store"].details["weaker"]


@pytest.mark.parametrize(
    "content_range", ["bytes 0-40/41", "bytes 0-5/41", ""], ids=["the whole", "another one", "none"]
)
async def test_a_store_that_tells_another_range_again_and_again_does_not_have_ranges(
    content_range: str,
) -> None:
    class Other(OddStore):
        @asynccontextmanager
        async def get_range(self, bucket: str, key: str, **options: Any) -> AsyncIterator[RangeReply]:
            async with super().get_range(bucket, key, **options) as reply:
                yield RangeReply(206, content_range, reply.content_length, reply.etag, reply.pieces)

    assert (await checked(Other()))["head"].code == "RangesIgnored"


@pytest.mark.parametrize(
    "change",
    [
        {"content_length": 3},
        {"etag": "e" * 32},
        {"status": 204},
    ],
    ids=["another length", "another ETag", "another status"],
)
async def test_an_answer_that_is_not_the_range_is_not_believed(change: dict[str, Any]) -> None:
    class Lies(OddStore):
        @asynccontextmanager
        async def get_range(self, bucket: str, key: str, **options: Any) -> AsyncIterator[RangeReply]:
            async with super().get_range(bucket, key, **options) as reply:
                fields = {name: getattr(reply, name) for name in RangeReply.__slots__}
                yield RangeReply(**(fields | change))

    assert (await checked(Lies()))["head"].status == "fail"


# ---- which store it is


@pytest.mark.parametrize(
    ("options", "code", "status", "weaker"),
    [
        ({}, "full", "pass", []),
        ({"conditions": "ignored"}, "weaker", "pass", ["no-conditions"]),
        ({"conditions": "refused"}, "weaker", "pass", ["no-conditions"]),
        ({"windows": False}, "weaker", "pass", ["no-request-expiry"]),
        ({"windows": False, "conditions": "ignored"}, "weak", "warn", ["no-conditions", "no-request-expiry"]),
    ],
)
async def test_one_line_says_which_kind_of_store_it_is(
    options: dict[str, Any], code: str, status: str, weaker: list[str]
) -> None:
    record = (await checked(OddStore(**options)))["store"]
    assert (record.code, record.status, record.details.get("weaker", [])) == (code, status, weaker)
    assert "\n" not in record.message
    assert "crc64nvme" in record.details["enforces"]
    assert record.details["most_parts"] == 10_000
    assert ("request-expiry" in record.details["enforces"]) == options.get("windows", True)
    assert ("if-match" in record.details["enforces"]) == ("conditions" not in options)
    names = {"ignored": "ignores", "refused": "lacks"}
    for conditions, field in names.items():
        told = {"if-match", "if-none-match"} <= set(record.details.get(field, []))
        assert told == (options.get("conditions") == conditions)


async def test_the_parts_that_a_store_takes_are_told_and_planned_with() -> None:
    class FewParts(OddStore):
        async def upload_part(self, bucket: str, key: str, upload_id: str, number: int, body: Any) -> str:
            if number > 1000:
                raise refusal("UploadPart", bucket, key, "InvalidArgument", 400, part=number)
            return await super().upload_part(bucket, key, upload_id, number, body)

    found = await checked(FewParts())
    assert found["store"].details["most_parts"] == 1000
    assert found["checksums"].details["most_parts"] == 1000
