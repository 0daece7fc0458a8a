"""Answers of stores that mean something else than they say, or say nothing: what the adapter makes of them."""

from __future__ import annotations

from typing import Any

import pytest

from riva_stream.errors import ConfigurationError
from riva_stream.retry import Retrier
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
