"""Pages of listings: they lead on, or the listing ends in an error; a store is played by its answers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from riva_stream.errors import ConfigurationError
from riva_stream.retry import Retrier
from riva_stream.s3.listings import STUCK
from riva_stream.source.find import find_source
from tests.support.fake_client import store_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def part(number: int, etag: str = "e", *, after: int = 0) -> dict[str, Any]:
    return {
        "PartNumber": number,
        "ETag": f'"{etag}"',
        "Size": 1,
        "LastModified": NOW + timedelta(seconds=after),
    }


def upload(key: str, upload_id: str) -> dict[str, Any]:
    return {"Key": key, "UploadId": upload_id}


def entry(key: str) -> dict[str, Any]:
    return {"Key": key, "Size": 1, "ETag": '"e"'}


@pytest.mark.parametrize(
    "page",
    [
        {"IsTruncated": True},
        {"IsTruncated": True, "Parts": [part(1)], "NextPartNumberMarker": 0},
        {"IsTruncated": True, "Parts": [part(1)], "NextPartNumberMarker": 1},
        {"IsTruncated": True, "Parts": [part(1)]},
    ],
    ids=["empty", "marker 0", "the same again", "no marker"],
)
async def test_a_listing_of_parts_that_leads_nowhere_ends(page: dict[str, Any]) -> None:
    store, _ = store_of(lambda _: page)
    with pytest.raises(ConfigurationError) as caught:
        await store.list_parts("b", "k", "u")
    assert (caught.value.where.code, caught.value.where.operation) == (STUCK, "ListParts")


async def test_a_listing_of_parts_without_markers_goes_on_after_its_last() -> None:
    def answer(asked: dict[str, Any]) -> dict[str, Any]:
        first = asked["PartNumberMarker"] + 1
        return {"IsTruncated": first < 5, "Parts": [part(first), part(first + 1)]}

    store, client = store_of(answer)
    parts = await store.list_parts("b", "k", "u")
    assert [found.number for found in parts or ()] == [1, 2, 3, 4, 5, 6]
    assert [asked["PartNumberMarker"] for asked in client.asked] == [0, 2, 4]


async def test_of_parts_with_one_number_the_last_one_sent_is_told() -> None:
    told = [part(2, "other"), part(1, "old"), part(1, "new", after=2), part(1, "older", after=-1)]
    store, _ = store_of(lambda _: {"Parts": told})
    parts = await store.list_parts("b", "k", "u")
    assert [(found.number, found.etag) for found in parts or ()] == [(1, "new"), (2, "other")]


@pytest.mark.parametrize(
    "page",
    [
        {"IsTruncated": True},
        {"IsTruncated": True, "Uploads": [upload("k", "u")]},
        {"IsTruncated": True, "Uploads": [upload("k", "u")], "NextUploadIdMarker": "u"},
        {"IsTruncated": True, "Uploads": [upload("k", "u")], "NextKeyMarker": "k", "NextUploadIdMarker": "u"},
    ],
    ids=["empty", "no marker", "half a marker", "the same again"],
)
async def test_a_listing_of_uploads_that_leads_nowhere_ends(page: dict[str, Any]) -> None:
    store, _ = store_of(lambda _: page)
    with pytest.raises(ConfigurationError) as caught:
        await store.list_uploads("b", "p/")
    assert (caught.value.where.code, caught.value.where.operation) == (STUCK, "ListMultipartUploads")


@pytest.mark.parametrize(
    ("markers", "expected"),
    [
        ({"NextKeyMarker": "k1", "NextUploadIdMarker": "u1"}, {"KeyMarker": "k1", "UploadIdMarker": "u1"}),
        ({"NextUploadIdMarker": "u1"}, {"UploadIdMarker": "u1"}),
        ({"NextKeyMarker": "k1", "NextUploadIdMarker": ""}, {"KeyMarker": "k1"}),
        ({}, {"KeyMarker": "k1", "UploadIdMarker": "u1"}),
    ],
    ids=["both", "SeaweedFS", "the key alone", "none"],
)
async def test_uploads_are_asked_for_after_what_the_store_told(
    markers: dict[str, str], expected: dict[str, str]
) -> None:
    def answer(asked: dict[str, Any]) -> dict[str, Any]:
        if "KeyMarker" in asked or "UploadIdMarker" in asked:
            return {"Uploads": [upload("k2", "u2")]}
        return {"IsTruncated": True, "Uploads": [upload("k0", "u0"), upload("k1", "u1")], **markers}

    store, client = store_of(answer)
    found = await store.list_uploads("b", "p/")
    assert [(one.key, one.upload_id) for one in found] == [("k0", "u0"), ("k1", "u1"), ("k2", "u2")]
    sent = {name: value for name, value in client.asked[1].items() if "Marker" in name}
    assert sent == expected


@pytest.mark.parametrize(
    "page",
    [{"IsTruncated": True}, {"IsTruncated": True, "Contents": [entry("p/a.tar"), entry("p/b")]}],
    ids=["empty", "start-after ignored"],
)
async def test_a_listing_of_objects_that_leads_nowhere_ends(page: dict[str, Any]) -> None:
    store, client = store_of(lambda _: page)
    with pytest.raises(ConfigurationError) as caught:
        await find_source(store, "b", "p/", Retrier())
    assert (caught.value.where.code, caught.value.where.operation) == (STUCK, "ListObjectsV2")
    assert len(client.asked) <= 2


@pytest.mark.parametrize("token", ["", "same"])
async def test_a_listing_of_a_folder_that_leads_nowhere_ends(token: str) -> None:
    page = {"IsTruncated": True, "Contents": [entry("p/a")], "NextContinuationToken": token}
    store, _ = store_of(lambda _: page)
    with pytest.raises(ConfigurationError) as caught:
        await store.list_folder("b", "p/", token="same")
    assert caught.value.where.code == STUCK


async def test_keys_of_uploads_are_asked_for_encoded_as_xml_cannot_hold_each() -> None:
    """An upload of any program at a key with a control character hid all uploads: the answer could not be parsed."""
    answers = iter(
        [
            {
                "EncodingType": "url",
                "IsTruncated": True,
                "Uploads": [upload("a%01b+c%2B%25", "u")],
                "NextKeyMarker": "a%01b+c%2B%25",
                "NextUploadIdMarker": "u",
            },
            {
                "IsTruncated": False,
                "Uploads": [upload("d%2Be+f", "v")],
            },  # a store that does not know the option
        ]
    )
    store, client = store_of(lambda _: next(answers))
    found = await store.list_uploads("b", "")
    assert [it.key for it in found] == ["a\x01b c+%", "d%2Be+f"]
    assert [asked["EncodingType"] for asked in client.asked] == ["url", "url"]
    assert client.asked[1]["KeyMarker"] == "a\x01b c+%"
