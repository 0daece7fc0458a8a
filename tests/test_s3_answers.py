"""Answers of stores that mean something else than they say, or say nothing: what the adapter makes of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Self

import pytest
from botocore.exceptions import ClientError

from riva_stream.errors import (
    ConfigurationError,
    HeldError,
    RivaStreamError,
    SourceChangedError,
    SourceNotFoundError,
    TransientError,
)
from riva_stream.retry import Retrier
from riva_stream.s3 import CopiedPart, CopySource, ObjectPart, PartBody
from riva_stream.s3.client import S3Store
from riva_stream.s3.errors import translated
from riva_stream.s3.options import WriteOptions
from tests.support.fake_client import refusal, store_of


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidToken", "InvalidRequest"])
async def test_a_bare_400_to_a_head_is_asked_about(code: str) -> None:
    """HTTP lets no refusal of a HEAD have a body, so S3's own word for it comes with a GET only."""

    def answer(asked: dict[str, Any]) -> dict[str, Any]:
        raise refusal("400", 400) if asked["operation"] == "head_object" else refusal(code, 400, "why")

    store, client = store_of(answer)
    with pytest.raises(ConfigurationError) as caught:
        await store.head("b", "k")
    assert (caught.value.where.code, caught.value.where.operation) == (code, "HeadObject")
    assert [asked.get("Range") for asked in client.asked] == [None, "bytes=0-0"]


async def test_a_bare_400_for_another_region_needs_no_question() -> None:
    def answer(_: dict[str, Any]) -> dict[str, Any]:
        raise refusal("400", 400, **{"x-amz-bucket-region": "eu-west-3"})

    store, client = store_of(answer)
    with pytest.raises(ConfigurationError):
        await store.head("b", "k")
    assert len(client.asked) == 1


async def test_a_head_with_an_expired_token_is_one_reason_to_renew() -> None:
    renewed: list[bool] = []

    def answer(asked: dict[str, Any]) -> dict[str, Any]:
        if renewed:
            return {"ETag": '"e"', "ContentLength": 1}
        raise refusal("400", 400) if asked["operation"] == "head_object" else refusal("ExpiredToken", 400)

    async def renew() -> bool:
        renewed.append(True)
        return True

    store, _ = store_of(answer)
    info = await Retrier(renew=renew)("HeadObject", lambda: store.head("b", "k"))
    assert info is not None
    assert (info.etag, renewed) == ("e", [True])


@pytest.mark.parametrize(("code", "status"), [("NoSuchUpload", 404), ("NoSuchKey", 404), ("404", 404)])
async def test_an_upload_that_is_gone_is_gone_in_whatever_words(code: str, status: int) -> None:
    def answer(_: dict[str, Any]) -> dict[str, Any]:
        raise refusal(code, status)

    store, _ = store_of(answer)
    assert await store.list_parts("b", "k", "u") is None
    await store.abort_upload("b", "k", "u")
    with pytest.raises(HeldError) as caught:
        await store.upload_part("b", "k", "u", 1, PartBody((b"x",), 1))
    assert caught.value.where.code == code


async def test_no_upload_at_all_is_no_upload_that_is_gone() -> None:
    def answer(_: dict[str, Any]) -> dict[str, Any]:
        raise refusal("NoSuchUpload", 404)

    store, _ = store_of(answer)
    assert await store.list_uploads("b", "p/") == []


async def test_a_bucket_that_is_missing_is_told_of_parts_and_uploads_too() -> None:
    def answer(_: dict[str, Any]) -> dict[str, Any]:
        raise refusal("NoSuchBucket", 404)

    store, _ = store_of(answer)
    for request in (
        store.list_uploads("b", "p/"),
        store.list_parts("b", "k", "u"),
        store.abort_upload("b", "k", "u"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            await request
        assert caught.value.where.code == "NoSuchBucket"


@pytest.mark.parametrize("code", ["PreconditionFailed", "InvalidRequest", "412"])
@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("PutObject", HeldError),
        ("DeleteObject", HeldError),
        ("CompleteMultipartUpload", HeldError),
        ("GetObject", SourceChangedError),
        ("UploadPartCopy", SourceChangedError),
    ],
)
def test_a_status_of_412_is_a_condition_that_does_not_hold(
    operation: str, kind: type[RivaStreamError], code: str
) -> None:
    with pytest.raises(kind) as caught, translated(operation, "b", "k"):
        raise refusal(code, 412)
    assert (caught.value.where.code, caught.value.where.status) == (code, 412)


def test_a_request_that_is_wrong_in_itself_is_no_condition() -> None:
    with pytest.raises(ConfigurationError), translated("PutObject", "b", "k"):
        raise refusal("InvalidRequest", 400)


SOURCE = CopySource("b", "src/k ö", "e-1", "v1", 5, 9)


async def test_a_copied_part_is_asked_for_by_range_etag_and_version() -> None:
    def answer(_: dict[str, Any]) -> dict[str, Any]:
        return {"CopyPartResult": {"ETag": '"p"', "ChecksumCRC64NVME": "crc"}}

    store, client = store_of(answer)
    assert await store.copy_part("b", "k", "u", 3, SOURCE) == CopiedPart("p", "crc")
    await store.copy_part("b", "k", "u", 4, CopySource("b", "whole", "e"))
    ranged, whole = client.asked
    assert ranged["CopySource"] == {"Bucket": "b", "Key": "src/k ö", "VersionId": "v1"}
    assert (ranged["CopySourceIfMatch"], ranged["CopySourceRange"]) == ('"e-1"', "bytes=5-9")
    assert (ranged["UploadId"], ranged["PartNumber"]) == ("u", 3)
    assert whole["CopySource"] == {"Bucket": "b", "Key": "whole"}
    assert "CopySourceRange" not in whole


@pytest.mark.parametrize("told", [{}, {"CopyPartResult": {}}, {"CopyPartResult": {"ETag": '""'}}])
async def test_a_copied_part_without_an_etag_is_asked_for_again(told: dict[str, Any]) -> None:
    """What is cut off behind the 200 with which the answer begins."""
    store, _ = store_of(lambda _: told)
    with pytest.raises(TransientError) as caught:
        await store.copy_part("b", "k", "u", 3, SOURCE)
    where = caught.value.where
    assert (where.operation, where.part, where.byte_range) == ("UploadPartCopy", 3, (5, 9))


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("NoSuchKey", 404, SourceChangedError),
        ("NoSuchVersion", 404, SourceChangedError),
        ("InvalidRange", 416, SourceChangedError),
        ("NoSuchUpload", 404, HeldError),
        ("InternalError", 500, TransientError),
        ("NotImplemented", 501, ConfigurationError),
    ],
)
async def test_a_refusal_of_a_copy_is_the_sources_or_the_uploads(
    code: str, status: int, kind: type[RivaStreamError]
) -> None:
    def answer(_: dict[str, Any]) -> dict[str, Any]:
        raise refusal(code, status)

    store, _ = store_of(answer)
    with pytest.raises(kind) as caught:
        await store.copy_part("b", "k", "u", 3, SOURCE)
    assert not isinstance(caught.value, SourceNotFoundError)
    assert (caught.value.where.code, caught.value.where.part) == (code, 3)


async def test_an_archived_source_is_told_by_a_copy_as_by_a_range() -> None:
    """Restoring it is what helps; the command would name the copy."""

    def answer(_: dict[str, Any]) -> dict[str, Any]:
        raise refusal("InvalidObjectState", 403)

    store, _ = store_of(answer)
    with pytest.raises(SourceNotFoundError) as caught:
        await store.copy_part("b", "the-copy", "u", 3, SOURCE)
    assert "restore-object" in caught.value.hint
    assert "the-copy" not in caught.value.hint


@pytest.mark.parametrize("told", [{"ContentLength": 7}, {"ContentLength": 7, "PartsCount": 0}])
async def test_a_store_that_does_not_know_parts_answers_with_the_whole(told: dict[str, Any]) -> None:
    store, _ = store_of(lambda _: told)
    assert await store.head_part("b", "k", 1) is None


async def test_a_store_tells_of_a_part() -> None:
    store, client = store_of(lambda _: {"ContentLength": 7, "PartsCount": 3})
    assert await store.head_part("b", "k", 2) == ObjectPart(7, 3)
    assert client.asked[0]["PartNumber"] == 2


class _Chunked:
    """An answer to GetObject in chunks, so that it has no Content-Length."""

    exceptions = SimpleNamespace(ClientError=ClientError)
    sent = False

    async def get_object(self, **_: Any) -> dict[str, Any]:
        return {
            "Body": self,
            "ETag": '"x"',
            "ResponseMetadata": {"HTTPHeaders": {"transfer-encoding": "chunked"}},
        }

    async def __aenter__(self) -> Self:
        self.content = self
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def readany(self) -> bytes:
        self.sent, piece = True, b"" if self.sent else b"{}"
        return piece


async def test_a_document_without_a_length_is_read_or_refused_but_is_no_bug_of_ours() -> None:
    store = S3Store(_Chunked(), is_aws=False, options=WriteOptions())
    try:
        found = await store.get("bucket", "key", limit=10)
    except RivaStreamError:
        return
    assert found is not None
    assert found.data == b"{}"
