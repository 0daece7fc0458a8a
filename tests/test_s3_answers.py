"""Answers of stores that mean something else than they say, or say nothing: what the adapter makes of them."""

from __future__ import annotations

from typing import Any

import pytest

from riva_stream.errors import ConfigurationError, HeldError, RivaStreamError, SourceChangedError
from riva_stream.retry import Retrier
from riva_stream.s3 import PartBody
from riva_stream.s3.errors import translated
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
