"""What a run must not replace: its own source, and what another run has committed meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from riva_stream import stage
from riva_stream.config import StageRequest
from riva_stream.s3.errors import refusal
from riva_stream.s3.memory import MemoryStore
from riva_stream.s3.port import PartBody, Stored
from tests.sim.breaks import Break
from tests.sim.network import Request
from tests.sim.scenarios import BUCKET, asked
from tests.sim.sources import source
from tests.sim.test_moments import JOURNAL, MARKER, PREFIX, Overtaken, Told, a_world, is_one
from tests.sim.world import simulated

ARCHIVE = PREFIX + "source/one.tar.gz"
HOW = {
    "glob": f"s3://{BUCKET}/prod/parakeet/*/source/*.tar.gz",
    "folder above": f"s3://{BUCKET}/prod/parakeet/*.tar.gz",
    "another name of the bucket": f"s3://alias/{ARCHIVE}",
}


@pytest.mark.parametrize("how", HOW)
def test_a_source_inside_the_destination_is_not_deleted(how: str) -> None:
    """``--force --reference-only``: what an older staging left beside the new one is deleted, and here that is the source."""
    world = a_world("aws", "already staged", Told())
    world.store._buckets["alias"] = world.store._buckets[BUCKET]
    fields = {"source": HOW[how], "force": True, "reference_only": True, "part_size": 8 << 20}
    wanted = type(asked()).model_validate(asked().model_dump() | fields)
    with simulated(world, 0):
        first = world.run(asked(force=True), factory=lambda _, store: stage(wanted, store=store))
        again = world.run(asked(force=True), factory=lambda _, store: stage(wanted, store=store))
        assert world.store.look(BUCKET, ARCHIVE) is not None, (first.outcome, first.problem, again.outcome)


def test_a_run_that_was_taken_over_does_not_tag_what_another_one_has_committed() -> None:
    """Tags are set afterwards here (the store refuses x-amz-tagging). Frozen before the first; it goes on when the other has ended."""

    def freezes(request: Request) -> bool:
        return request.operation == "PutObjectTagging"

    def thaws(request: Request) -> bool:
        return is_one(request, 2, "DeleteObject", JOURNAL)

    schedule = Overtaken((0.01, 0.01), freezes=freezes, thaws=thaws)
    world = schedule.world = a_world("aws", "fresh", schedule)
    create = world.store.create_upload

    async def without_tags(*args: Any, tags: Any = None, **rest: Any) -> str:
        if tags:
            raise refusal("CreateMultipartUpload", args[0], args[1], "InvalidArgument", 400)
        return await create(*args, **rest)

    world.store.create_upload = without_tags  # type: ignore[method-assign]
    short = asked().model_copy(update={"tag": True, "retention_days": 1})
    long = asked().model_copy(update={"tag": True, "retention_days": 3650})
    with simulated(world, 0):
        world.start(short)
        world.start_in(20.0, long, machine="b")
        world.wait()
        world.pass_time(100)
        assert world.processes[1].outcome == "staged"
        assert world.store.look(BUCKET, MARKER) is not None
        tags = {
            key: seen.tags["retention-days"]
            for key in (ARCHIVE, PREFIX + "models/a.riva")
            if (seen := world.store.look(BUCKET, key))
        }
        assert set(tags.values()) == {"3650"}, (tags, world.processes[0].outcome)


async def test_a_replica_is_of_the_staging_that_was_asked_for() -> None:
    store = MemoryStore("sources", "staging", "replica")
    for name in ("one", "two"):
        data = source(name).data
        await store.put(
            "sources", f"{name}.tar.gz", PartBody((data,), len(data)), content_type="a/b", metadata={}
        )
    place: dict[str, Any] = {"bucket": "staging", "env": "prod", "model_name": "m", "model_version": "v1"}
    ours = StageRequest(source="s3://sources/one.tar.gz", replicate_to=("s3://replica/prod/m/v1/",), **place)
    theirs = StageRequest(source="s3://sources/two.tar.gz", force=True, **place)
    begun: list[bool] = []
    delete = store.delete

    async def delete_and_then(bucket: str, key: str, **options: Any) -> Any:
        done = await delete(bucket, key, **options)
        if key == "prod/m/v1/.riva-stream/journal.json" and not begun:  # ours has let go
            begun.append(True)
            await stage(theirs, store=store)
        return done

    store.delete = delete_and_then  # type: ignore[method-assign]
    report = await stage(ours, store=store)
    assert begun
    assert report.artifact is not None
    [replica] = report.replicas
    if replica.exit_code == 0:
        assert replica.report is not None
        assert replica.report.artifact is not None
        assert replica.report.artifact.source.uri == report.artifact.source.uri


@pytest.mark.parametrize("kind", ["aws", "exact", "ignores"])
@pytest.mark.parametrize("name", ["models/a.riva", "artifact.json", "staging_complete.txt"])
def test_a_complete_that_is_answered_with_nothing_is_sent_again(kind: str, name: str) -> None:
    """200 with an empty body, as of a proxy whose upstream went away: nothing was carried out."""
    struck: list[Request] = []

    def otherwise(request: Request) -> None:
        if not struck and is_one(request, 1, "CompleteMultipartUpload", PREFIX + name):
            struck.append(request)
            request.carry_out = lambda _: Stored("")

    world = a_world(kind, "fresh", Told(otherwise=otherwise))
    with simulated(world, 0):
        run = world.run(asked())
        assert struck
        assert run.outcome in {"staged", "75"}, (run.outcome, run.problem)


def test_a_checksum_of_a_copied_part_that_is_none_is_no_bug() -> None:
    world = a_world("aws", "fresh", Told())
    copy = world.store.copy_part

    async def odd(*args: Any, **rest: Any) -> Any:
        return replace(await copy(*args, **rest), crc64nvme="0x1b2c3")

    world.store.copy_part = odd  # type: ignore[method-assign]
    with simulated(world, 0):
        run = world.run(asked(copy="auto"))
        assert run.outcome != "1", run.problem


@pytest.mark.parametrize("kind", ["aws", "ignores", "refuses"])
def test_the_end_of_a_run_aborts_nothing_of_one_that_has_taken_over(kind: str) -> None:
    """A Create was not answered, nor was the listing after it; the run has ended well, and is frozen before it lists once more."""
    creates: list[Request] = []
    thawed: list[Request] = []
    aborted: list[Request] = []

    def thaw() -> None:
        world.network.thaw(world.processes[0], clock_stood_still=True)

    def how(request: Request) -> Break | None:
        is_committed = world.store.look(BUCKET, MARKER) is not None
        if is_one(request, 1, "CreateMultipartUpload", ARCHIVE):
            creates.append(request)
            return Break.LOST if len(creates) == 1 else None
        if is_one(request, 1, "ListMultipartUploads", ARCHIVE) and not thawed:
            # What it lists in the end is what is open when it goes on.
            return Break.FREEZE_BEFORE if is_committed else Break.ERROR_BEFORE
        if is_one(request, 2, "UploadPart", ARCHIVE) and not thawed:
            thawed.append(request)
            world.loop.call_at(world.loop.now + 0.02, thaw, context=world.network.context)
        if thawed and request.process.pid == 1 and request.operation == "AbortMultipartUpload":
            aborted.append(request)
        return None

    schedule = Overtaken(how=how)
    schedule.strike = how  # type: ignore[method-assign]
    world = schedule.world = a_world(kind, "fresh", schedule)
    with simulated(world, 0):
        world.start(asked())
        world.start_in(30.0, asked(force=True), machine="b")
        world.wait()
        assert thawed
        assert not aborted


async def test_a_store_that_tells_no_etag_at_complete_and_has_ones_of_its_own() -> None:
    class Opaque(MemoryStore):
        async def complete_upload(self, bucket: str, key: str, *args: Any, **options: Any) -> Stored:
            told = await super().complete_upload(bucket, key, *args, **options)
            kept = self._buckets[bucket].versions[key]
            kept[-1] = replace(kept[-1], etag="opaque" + kept[-1].etag[:26])
            return Stored("", told.version_id, told.now)

    store = Opaque("sources", "staging", is_aws=False)
    data = source("one").data
    await store.put("sources", "one.tar.gz", PartBody((data,), len(data)), content_type="a/b", metadata={})
    place: dict[str, Any] = {"bucket": "staging", "env": "prod", "model_name": "m", "model_version": "v1"}
    request = StageRequest(source="s3://sources/one.tar.gz", upload_check="md5", source_copy="send", **place)
    assert (await stage(request, store=store)).outcome == "staged"


async def test_a_source_in_another_store_lies_elsewhere_be_its_bucket_of_the_same_name() -> None:
    here, there = MemoryStore("staging"), MemoryStore("staging")
    data = source("one").data
    await there.put("staging", ARCHIVE, PartBody((data,), len(data)), content_type="a/b", metadata={})
    place: dict[str, Any] = {
        "bucket": "staging",
        "env": "prod",
        "model_name": "parakeet",
        "model_version": "v1",
    }
    request = StageRequest(source="s3://staging/prod/parakeet/v?/source/*.tar.gz", **place)
    assert (await stage(request, store=here, source_store=there)).outcome == "staged"
