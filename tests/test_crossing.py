"""Stagings that are made from one another, or lie where another one does."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from pydantic import ValidationError

from riva_stream import PromoteRequest, RivaStreamError, StageRequest, promote, stage
from riva_stream.errors import DestinationConflictError, TransientError
from riva_stream.inspection.status import status
from riva_stream.manifest import to_json
from riva_stream.retry import Retrier
from riva_stream.s3 import Bucket, StoreSettings
from riva_stream.s3.errors import refusal
from riva_stream.s3.memory import MemoryStore
from tests.contract.ground import body
from tests.copying import PREFIX, Model, Watched, asked, made

IMAGE = "s3://models/images/riva.tar.gz"
PAIR = {"deployment.json", "deployment_ready.txt"}
FIRST, SECOND = "prod/parakeet/v1/", "prod/parakeet/v2/"
JOURNAL = f"{SECOND}.riva-stream/journal.json"


def at(store: Watched, prefix: str) -> dict[str, bytes]:
    found = {key: store.look("staging", key) for key in store.keys("staging", prefix)}
    return {key.removeprefix(prefix): it.data for key, it in found.items() if it is not None}


async def two_stagings(store: Watched) -> None:
    """Each of its own archive; the originals are gone, so that they are all there is."""
    for seed, version in (("a", "v1"), ("b", "v2")):
        model = made("tar.gz", seed=seed)
        key = f"in/{seed}.tar.gz"
        await store.put_source(key, model.data)
        request = asked(model, model_version=version).model_copy(update={"source": f"s3://models/{key}"})
        await stage(request, store=store)
        await store.delete("models", key)


async def at_once(*runs: Callable[[], Awaitable[Any]]) -> list[int]:
    """The exit code of each."""
    codes = [0] * len(runs)

    async def one(number: int, run: Callable[[], Awaitable[Any]]) -> None:
        try:
            result = await run()
            codes[number] = getattr(result, "exit_code", 0)
        except RivaStreamError as error:
            codes[number] = error.exit_code

    async with anyio.create_task_group() as tasks:
        for number, run in enumerate(runs):
            tasks.start_soon(one, number, run)
    return codes


def by_reference(source: str, version: str) -> StageRequest:
    model = made("tar.gz")
    return asked(model, model_version=version, reference_only=True, force=True).model_copy(
        update={"source": source}
    )


async def test_two_that_would_refer_to_each_other_leave_the_bytes_of_one_at_least() -> None:
    """Each deletes the archive that the other one refers to."""
    store = Watched()
    await two_stagings(store)
    before = {prefix: at(store, prefix) for prefix in (FIRST, SECOND)}
    archives = [f"{FIRST}source/a.tar.gz", f"{SECOND}source/b.tar.gz"]
    requests = [
        by_reference(f"s3://staging/{archives[1]}", "v1"),
        by_reference(f"s3://staging/{archives[0]}", "v2"),
    ]
    codes = await at_once(*(lambda one=one: stage(one, store=store) for one in requests))
    assert 75 in codes
    assert [key for key in archives if store.look("staging", key)]
    assert store.open_uploads("staging") == []
    if codes == [75, 75]:
        assert {prefix: at(store, prefix) for prefix in (FIRST, SECOND)} == before
        assert (await stage(requests[0], store=store)).outcome == "staged"


async def test_two_that_are_promoted_onto_each_other_leave_two_markers() -> None:
    store = Watched()
    await two_stagings(store)
    ways = [(FIRST, SECOND), (SECOND, FIRST)]
    requests = [
        PromoteRequest(source=f"s3://staging/{one}", to=(f"s3://staging/{other}",), force=True, lease=1.0)
        for one, other in ways
    ]
    codes = await at_once(*(lambda one=one: promote(one, store=store) for one in requests))
    assert 75 in codes
    for prefix in (FIRST, SECOND):
        assert "staging_complete.txt" in at(store, prefix)
    assert (await promote(requests[0], store=store)).exit_code == 0  # whichever came first
    archives = [
        {name: data for name, data in at(store, prefix).items() if name.startswith("source/")}
        for prefix in (FIRST, SECOND)
    ]
    assert archives[0] == archives[1]


def journal(beat: int = 1) -> bytes:
    """Of a run on another host."""
    return (
        b'{"format":1,"run_id":"130-20260101-000000-00000000","token":"0000000000000000","process":{"host":"b",'
        b'"boot":"b","pid":1,"started":"1"},"started_at":"2026-01-01T00:00:00Z","lease":1.0,"beat":%d}' % beat
    )


class Held(Watched):
    """The journal of the second staging is written again whenever somebody has looked at it."""

    refusals = 0
    """So many of the next times that it is read are refused,"""
    head_refusals = 0
    """and of the next looks at it."""
    is_live = False
    beat = 1

    async def beats(self) -> None:
        self.is_live = True
        self.beat += 1
        await self.put("staging", JOURNAL, body(journal(self.beat)), content_type="a/b", metadata={})

    async def get(self, bucket: str, key: str, **given: Any) -> Any:
        if key == JOURNAL and self.refusals:
            self.refusals -= 1
            raise refusal("GetObject", bucket, key, "AccessDenied", 403)
        return await super().get(bucket, key, **given)

    async def head(self, bucket: str, key: str, **given: Any) -> Any:
        if key == JOURNAL and self.head_refusals:
            self.head_refusals -= 1
            raise refusal("HeadObject", bucket, key, "403", 403)
        if key == JOURNAL and self.is_live:
            await self.beats()
        return await super().head(bucket, key, **given)


@pytest.mark.parametrize(("refusals", "head_refusals"), [(0, 0), (1, 0), (0, 1)])
@pytest.mark.parametrize("is_promoted", [False, True])
async def test_what_a_live_run_holds_nothing_is_replaced_from(
    refusals: int, head_refusals: int, is_promoted: bool
) -> None:
    store = Held()
    await two_stagings(store)
    await store.beats()
    before = at(store, FIRST)
    store.refusals, store.head_refusals = refusals, head_refusals
    if is_promoted:
        request = PromoteRequest(source=f"s3://staging/{SECOND}", to=(f"s3://staging/{FIRST}",), force=True)
        assert (await promote(request, store=store)).exit_code == 75
    else:
        with pytest.raises(TransientError):
            await stage(by_reference(f"s3://staging/{SECOND}source/b.tar.gz", "v1"), store=store)
    assert at(store, FIRST) == before
    assert store.open_uploads("staging") == []


async def test_where_nobody_may_tell_who_holds_it_the_run_says_so() -> None:
    store = Held()
    await two_stagings(store)
    await store.beats()
    store.refusals = 1_000
    report = await stage(by_reference(f"s3://staging/{SECOND}source/b.tar.gz", "v1"), store=store)
    assert report.outcome == "staged"
    assert "base" in {warning.code for warning in report.warnings}


async def test_what_was_begun_is_kept_while_it_waits_for_another_run() -> None:
    """The uploads of an interrupted run are resumed after it, and not sent again."""
    store = Held()
    await two_stagings(store)
    model = made("tar.gz", seed="b")
    archive = f"s3://staging/{SECOND}source/b.tar.gz"
    request = asked(model, force=True, source_copy="send", checkpoint=0).model_copy(
        update={"source": archive}
    )
    sent = 0

    async def upload_part(bucket: str, key: str, *args: Any) -> str:
        nonlocal sent
        if "/models/" in key or "/source/" in key:
            sent += 1
            if sent > 4:
                scope.cancel()
        return await MemoryStore.upload_part(store, bucket, key, *args)

    store.upload_part = upload_part  # type: ignore[assignment,method-assign]
    with anyio.CancelScope() as scope:
        await stage(request, store=store)
    del store.upload_part
    uploads = {upload.upload_id for upload in store.open_uploads("staging")}
    assert uploads
    await store.beats()
    with pytest.raises(TransientError):
        await stage(request, store=store)
    assert uploads & {upload.upload_id for upload in store.open_uploads("staging")}
    store.is_live = False
    await store.delete("staging", JOURNAL)
    report = await stage(request, store=store)
    assert report.outcome == "staged"
    assert any(warning.code == "resume" for warning in report.warnings)


async def test_an_image_is_added_whoever_holds_what_the_staging_was_made_from() -> None:
    store = Held()
    await two_stagings(store)
    await store.put("models", "images/riva.tar.gz", body(b"an image"), content_type="a/b", metadata={})
    request = by_reference(f"s3://staging/{SECOND}source/b.tar.gz", "v3")
    await stage(request, store=store)
    await store.beats()
    report = await stage(request.model_copy(update={"force": False, "server_path": IMAGE}), store=store)
    assert report.outcome == "deployment_added"


async def test_what_is_replaced_may_be_made_from_a_staging_whose_run_is_dead() -> None:
    """Its journal stays, and does not change any more."""
    store = Watched()
    await two_stagings(store)
    await store.put("staging", JOURNAL, body(journal()), content_type="a/b", metadata={})
    request = PromoteRequest(
        source=f"s3://staging/{SECOND}", to=(f"s3://staging/{FIRST}",), force=True, lease=1.0
    )
    assert (await promote(request, store=store)).exit_code == 0


def test_no_replica_takes_the_place_of_the_source() -> None:
    model = made("tar.gz")
    with pytest.raises(ValidationError) as caught:
        StageRequest(
            **asked(model).model_dump(include={"bucket", "env", "model_name", "model_version"}),
            source=f"s3://staging/{SECOND}source/b.tar.gz",
            replicate_to=(f"s3://staging/{SECOND}",),
        )
    (problem,) = caught.value.errors()
    assert [one.field for one in problem["ctx"]["contradictions"]] == ["replicate_to"]


async def test_no_staging_is_promoted_to_the_place_of_its_source() -> None:
    store = Watched()
    await two_stagings(store)
    reference = by_reference(f"s3://staging/{SECOND}source/b.tar.gz", "v3")
    await stage(reference, store=store)
    before = at(store, SECOND)
    request = PromoteRequest(source="s3://staging/prod/parakeet/v3/", to=(f"s3://staging/{SECOND}",))
    assert (await promote(request, store=store)).exit_code == 78
    assert at(store, SECOND) == before


@pytest.mark.parametrize("version", ["dev", "v1"])
def test_no_staging_lies_above_bintarball_references(version: str) -> None:
    fields = {"env": "bintarball", "model_name": "deployment-metadata", "model_version": version}
    with pytest.raises(ValidationError) as caught:
        asked(made("tar.gz"), **fields)
    (problem,) = caught.value.errors()
    assert [one.field for one in problem["ctx"]["contradictions"]] == ["model_name"]
    asked(made("tar.gz"), **fields, bintarball_reference=True, server_path=IMAGE)


# ── the deployment documents of what stands ──────────────────────────────────────────────────────────────────────────


async def with_image() -> tuple[Watched, Model]:
    store, model = Watched(), made("tar.gz")
    await store.put_source(model.key, model.data)
    await store.put("models", "images/riva.tar.gz", body(b"an image"), content_type="a/b", metadata={})
    return store, model


async def test_an_upgrade_keeps_or_renews_what_was_handed_over() -> None:
    store, model = await with_image()
    await stage(asked(model, reference_only=True, server_path=IMAGE), store=store)
    before = at(store, PREFIX)
    assert before.keys() >= PAIR
    with pytest.raises(DestinationConflictError):
        await stage(asked(model), store=store)
    assert at(store, PREFIX) == before
    report = await stage(asked(model, server_path=IMAGE), store=store)
    assert report.outcome == "upgraded"
    assert at(store, PREFIX).keys() >= PAIR | model.objects.keys()


async def test_an_upgrade_loses_what_was_handed_over_by_force_alone() -> None:
    store, model = await with_image()
    await stage(asked(model, reference_only=True, server_path=IMAGE), store=store)
    report = await stage(asked(model, force=True), store=store)
    assert report.outcome == "staged"
    assert not at(store, PREFIX).keys() & PAIR


async def test_a_promotion_keeps_what_was_handed_over() -> None:
    store, model = await with_image()
    await stage(asked(model, reference_only=True, server_path=IMAGE, model_version="v2"), store=store)
    await stage(asked(model), store=store)
    before = at(store, SECOND)
    request = PromoteRequest(source=f"s3://staging/{FIRST}", to=(f"s3://staging/{SECOND}",))
    assert (await promote(request, store=store)).exit_code == 73
    assert at(store, SECOND) == before


@pytest.mark.parametrize("name", sorted(PAIR))
async def test_an_upgrade_keeps_what_a_later_version_has_handed_over(name: str) -> None:
    store, model = await with_image()
    await stage(asked(model, reference_only=True, server_path=IMAGE), store=store)
    later = b"of a later version"
    await store.put("staging", PREFIX + name, body(later), content_type="a/b", metadata={})
    if name == "deployment.json":
        ready = at(store, PREFIX)["deployment_ready.txt"].splitlines(keepends=True)
        ready[-1] = f"SHA-256 of deployment.json: {hashlib.sha256(later).hexdigest()}\n".encode()
        await store.put(
            "staging", f"{PREFIX}deployment_ready.txt", body(b"".join(ready)), content_type="a/b", metadata={}
        )
    before = at(store, PREFIX)
    with pytest.raises(DestinationConflictError):
        await stage(asked(model), store=store)
    assert at(store, PREFIX) == before


async def test_a_pair_that_is_of_no_use_does_not_keep_an_upgrade_from_being_made() -> None:
    store, model = await with_image()
    await stage(asked(model, reference_only=True, server_path=IMAGE), store=store)
    await store.delete("staging", f"{PREFIX}deployment_ready.txt")
    report = await stage(asked(model), store=store)
    assert report.outcome == "upgraded"
    assert not at(store, PREFIX).keys() & PAIR


async def test_a_pair_of_a_later_version_that_the_manifest_names_is_replaced_by_force_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It ended with a bug, for what a marker vouches for was to be changed under it; an upload and a journal stayed."""
    store, model = await with_image()
    request = asked(model, server_path=IMAGE)

    def later(document: Any) -> bytes:
        data = to_json(document)
        return data.replace(b'"bintarball_references"', b'"later_references"')

    with monkeypatch.context() as patch:
        patch.setattr("riva_stream.pipeline.commit.to_json", later)
        await stage(request, store=store)
    before = at(store, PREFIX)
    with pytest.raises(DestinationConflictError):
        await stage(request, store=store)
    assert at(store, PREFIX) == before
    assert store.open_uploads("staging") == []
    report = await stage(request.model_copy(update={"force": True}), store=store)
    assert report.outcome == "staged"
    assert (await stage(request, store=store)).outcome == "already_staged"


@pytest.mark.parametrize("name", sorted(PAIR))
@pytest.mark.parametrize("data", [None, b"{}", b"of a later version"])
async def test_a_pair_that_the_manifest_names_is_replaced_by_force_alone(
    name: str, data: bytes | None
) -> None:
    store, model = await with_image()
    request = asked(model, server_path=IMAGE)
    await stage(request, store=store)
    key = PREFIX + name
    if data is None:
        await store.delete("staging", key)
    else:
        await store.put("staging", key, body(data), content_type="a/b", metadata={})
    before = at(store, PREFIX)
    with pytest.raises(RivaStreamError) as caught:
        await stage(request, store=store)
    assert caught.value.exit_code in {65, 73}
    assert at(store, PREFIX) == before
    assert store.open_uploads("staging") == []
    report = await stage(request.model_copy(update={"force": True}), store=store)
    assert report.outcome == "staged"
    assert (await stage(request, store=store)).outcome == "already_staged"


class MarkerRefused(Watched):
    """Whoever has read the marker once is refused it from then on, in the way that hides what is not there."""

    reads = 0
    lists = True

    async def get(self, bucket: str, key: str, *, limit: int) -> Any:
        if key.endswith("/staging_complete.txt"):
            self.reads += 1
            if self.reads > 1:
                raise refusal("GetObject", bucket, key, "AccessDenied", 403)
        return await super().get(bucket, key, limit=limit)

    async def list_objects(self, bucket: str, prefix: str, **options: Any) -> Any:
        if not self.lists:
            raise refusal("ListObjectsV2", bucket, prefix, "AccessDenied", 403)
        return await super().list_objects(bucket, prefix, **options)


@pytest.mark.parametrize(("lists", "code"), [(True, 77), (False, 75)])
async def test_a_marker_that_may_not_be_read_again_is_gone_only_where_that_may_be_hidden(
    lists: bool, code: int
) -> None:
    store, model = MarkerRefused(), made("tar.gz")
    await store.put_source("in/a.tar.gz", model.data)
    request = asked(model).model_copy(update={"source": "s3://models/in/a.tar.gz"})
    await stage(request, store=store)
    store.reads, store.lists = 0, lists
    with pytest.raises(RivaStreamError) as caught:
        await stage(request, store=store)
    assert caught.value.exit_code == code
    assert store.reads > 2


async def test_one_refusal_does_not_hide_a_live_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """`status` said that nothing is there, and to stage it from the beginning."""
    store = Held()
    await store.beats()
    store.refusals = 1

    @asynccontextmanager
    async def opened(*_: object, **__: object) -> AsyncIterator[Bucket]:
        yield Bucket(store, "staging", Retrier())

    monkeypatch.setattr("riva_stream.inspection.status.open_bucket", opened)
    assert (await status(StoreSettings(), "staging", SECOND)).state == "in_flight"
    assert not store.refusals
