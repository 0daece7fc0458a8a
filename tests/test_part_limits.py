"""Stores that take fewer parts of an upload than AWS: found out before bytes are moved, and kept to."""

from __future__ import annotations

import re
from typing import Any

import pytest

from riva_stream import ConfigurationError, HeldError, StageRequest, stage
from riva_stream.retry import Retrier
from riva_stream.s3 import PartBody, WritableBucket
from riva_stream.s3.errors import refusal
from riva_stream.s3.memory import MemoryStore
from riva_stream.s3.probe import probe_uploads
from riva_stream.sizes import GIB, MIB
from tests.support.archives import archive_bytes

pytestmark = pytest.mark.usefixtures("flags_in_hints")

BUCKET = "staging"
PREFIX = "prod/m/v1/"
SCRATCH = PREFIX + ".riva-stream/"


class FewParts(MemoryStore):
    """Takes so many parts of an upload, and says so in its own words; counts what it is asked."""

    def __init__(
        self, limit: int, *, code: str = "InvalidArgument", status: int = 400, hides_it: bool = False
    ) -> None:
        super().__init__(BUCKET, is_aws=False)
        self.limit, self.code, self.status, self.hides_it = limit, code, status, hides_it
        self.asked: list[tuple[str, int]] = []

    async def upload_part(self, bucket: str, key: str, upload_id: str, number: int, body: PartBody) -> str:
        self.asked.append((key, number))
        if number > self.limit and not (self.hides_it and key.startswith(SCRATCH)):
            raise refusal("UploadPart", bucket, key, self.code, self.status, part=number)
        return await super().upload_part(bucket, key, upload_id, number, body)

    def payload_parts(self) -> list[int]:
        """Numbers of the parts that were sent of anything but the probe's scratch."""
        return [number for key, number in self.asked if key.startswith(f"{PREFIX}source/")]


def request(**fields: Any) -> StageRequest:
    given: dict[str, Any] = {
        "source": f"s3://{BUCKET}/in/model.tar.gz",
        "bucket": BUCKET,
        "env": "prod",
        "model_name": "m",
        "model_version": "v1",
        "endpoint_url": "http://127.0.0.1:1",
        "part_size": 5 * MIB,
        "source_copy": "send",
    }
    return StageRequest.model_validate(given | fields)


async def with_source(store: MemoryStore, size: int = 16 * MIB) -> bytes:
    data, _ = archive_bytes(size)
    await store.put(BUCKET, "in/model.tar.gz", PartBody((data,), len(data)), content_type="a/b", metadata={})
    return data


async def most_parts(store: MemoryStore, wanted: str = "auto") -> int:
    probed = await probe_uploads(WritableBucket(store, BUCKET, Retrier()), SCRATCH + "probe", wanted)
    assert not store.open_uploads(BUCKET)
    return probed.most_parts


@pytest.mark.parametrize("limit", [1, 2, 999, 1000, 1001, 4321, 9_999, 10_000])
async def test_the_probe_finds_the_limit(limit: int) -> None:
    store = FewParts(limit)
    assert await most_parts(store) == limit
    assert len(store.asked) <= 20


@pytest.mark.parametrize("wanted", ["auto", "crc64nvme", "md5", "sha256", "none"])
async def test_it_is_found_whatever_the_parts_go_with(wanted: str) -> None:
    assert await most_parts(FewParts(1000), wanted) == 1000


@pytest.mark.parametrize(
    ("code", "status"),
    [("InvalidArgument", 400), ("InvalidPart", 400), ("InvalidPartNumber", 400), ("TooManyParts", 413)],
)
async def test_it_is_found_in_whatever_words(code: str, status: int) -> None:
    assert await most_parts(FewParts(20, code=code, status=status)) == 20


async def test_the_usual_limit_costs_one_request_and_that_of_swift_four() -> None:
    usual, swift = FewParts(10_000), FewParts(1000)
    await most_parts(usual, "none")
    await most_parts(swift, "none")
    assert [number for _, number in usual.asked] == [1, 10_000]
    assert [number for _, number in swift.asked] == [1, 10_000, 1, 1000, 1001]


@pytest.mark.parametrize("limit", [2, 3])
@pytest.mark.parametrize("upload_check", ["auto", "none"])
async def test_parts_are_made_larger_so_that_they_fit(limit: int, upload_check: str) -> None:
    store = FewParts(limit)
    data = await with_source(store)
    report = await stage(request(upload_check=upload_check), store=store)
    assert report.outcome == "staged"
    assert sorted(store.payload_parts()) == list(range(1, limit + 1))
    staged = store.look(BUCKET, PREFIX + "source/model.tar.gz")
    assert staged is not None
    assert staged.data == data


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("upload_check", ["auto", "md5", "none"])
async def test_what_does_not_fit_the_memory_is_told_before_bytes_are_moved(
    dry_run: bool, upload_check: str
) -> None:
    store = FewParts(1)
    size = len(await with_source(store, 64 * MIB))
    with pytest.raises(ConfigurationError) as caught:
        await stage(request(dry_run=dry_run, upload_check=upload_check), store=store)
    assert caught.value.exit_code == 78
    part, figure = map(int, re.findall(r"--part-size (\d+)MiB --memory (\d+)MiB", caught.value.hint)[0])
    assert part == -(-size // MIB)
    assert store.payload_parts() == []
    assert store.keys(BUCKET, PREFIX) == []
    assert not store.open_uploads(BUCKET)
    # what it says works
    fits = request(part_size=part * MIB, memory=figure * MIB, upload_check=upload_check)
    assert (await stage(fits, store=store)).outcome == "staged"


async def test_a_dry_run_plans_with_the_parts_that_a_run_would_send() -> None:
    store = FewParts(2)
    size = len(await with_source(store))
    planned = await stage(request(dry_run=True), store=store)
    assert planned.plan is not None
    (archive, *_) = planned.plan.objects
    assert (archive.parts, archive.part_size) == (2, -(-size // (2 * MIB)) * MIB)


@pytest.mark.parametrize("code", ["InvalidArgument", "InvalidPart", "InvalidRequest"])
async def test_a_store_that_hides_its_limit_is_told_of_with_the_size_that_fits(code: str) -> None:
    store = FewParts(2, code=code, hides_it=True)
    data = await with_source(store, 16 * MIB)
    with pytest.raises(ConfigurationError) as caught:
        await stage(request(connections=1), store=store)
    assert "--part-size " in caught.value.hint
    figure = int(caught.value.hint.rpartition("--part-size ")[2].removesuffix("MiB"))
    assert 2 * figure * MIB >= len(data)
    assert (await stage(request(part_size=figure * MIB, memory=512 * MIB), store=store)).outcome == "staged"


async def test_a_part_that_is_refused_because_the_upload_is_gone_is_another_runs() -> None:
    class Fenced(FewParts):
        async def upload_part(self, bucket: str, key: str, upload_id: str, number: int, body: Any) -> str:
            if number == 2 and key.startswith(f"{PREFIX}source/"):
                raise refusal("UploadPart", bucket, key, "NoSuchUpload", 404, part=number)
            return await super().upload_part(bucket, key, upload_id, number, body)

    store = Fenced(10_000)
    await with_source(store)
    with pytest.raises(HeldError):
        await stage(request(connections=1), store=store)


def test_a_plan_says_who_made_the_parts_so_large() -> None:
    with pytest.raises(ConfigurationError) as caught:
        request().plan_for(400 * GIB)  # S3's own limit
    assert "10,000" in caught.value.what
    assert "--part-size 41MiB --memory" in caught.value.hint
    with pytest.raises(ConfigurationError) as caught:
        request().with_valid({"memory": 100 * MIB}).plan_for(GIB)  # nothing but the memory is too small
    assert "--part-size" not in caught.value.hint
