"""A staging that becomes another one: what comes of it, by what it is proven, and that nothing else becomes visible."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from riva_stream import (
    AccessDeniedError,
    ConfigurationError,
    IntegrityError,
    MemoryBudget,
    PromoteReport,
    PromoteRequest,
    RivaStreamError,
    SourceNotFoundError,
    StageReport,
    StalledError,
    promote,
    read_staging,
    stage,
)
from riva_stream.cli import main
from riva_stream.config import StageRequest
from riva_stream.errors import Where
from riva_stream.events import Event, Progress, StageStarted
from riva_stream.inspection.verify import verify
from riva_stream.pipeline import copies, from_staging
from riva_stream.retry import RetryPolicy
from riva_stream.s3 import CopiedPart, CopySource, Document, Listing, ObjectInfo
from riva_stream.s3.memory import Copies, MemoryStore
from riva_stream.sizes import MIB
from tests.contract.ground import body
from tests.copying import COPIED, PART, PREFIX, Account, Hook, Model, Watched, asked, do_nothing, made
from tests.support.small_parts import SmallPromoteRequest

SOURCE = f"s3://staging/{PREFIX}"
PLACE = "s3://staging/live/parakeet/v2/"
OTHER = "s3://models/live/parakeet/v3/"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of a few KiB, and retries that do not wait."""
    monkeypatch.setattr(copies, "LEAST_COPY", COPIED)
    monkeypatch.setattr(copies, "FEW_BYTES", 1)
    monkeypatch.setattr(RetryPolicy, "delay", lambda policy, attempt, draw: 0.0)
    monkeypatch.setattr("riva_stream.s3.bucket._PAUSE", 0.001)


def promotion(*to: str, **fields: Any) -> PromoteRequest:
    given: dict[str, Any] = {"source": SOURCE, "to": to or (PLACE,), "connections": 2, "lease": 1.0}
    given |= {"retries": 2, "memory": 192 * MIB}
    return SmallPromoteRequest(**given | {"part_size": PART} | fields)


async def staged(store: Watched, model: Model, **fields: Any) -> StageReport:
    """What is promoted afterwards; the account begins anew."""
    await store.put_source(model.key, model.data)
    report = await stage(asked(model, **fields), store=store)
    store.account = Account()
    return report


async def staged_there(store: Watched, **fields: Any) -> None:
    """Another model's staging; the account begins anew."""
    another = made("tar.gz", seed="another")
    await store.put_source("in/another.tar.gz", another.data)
    request = asked(another, **fields).model_copy(update={"source": "s3://models/in/another.tar.gz"})
    await stage(request, store=store)
    store.account = Account()


def restaged_after_a_copy(store: Watched, model: Model) -> Hook:
    """The source staging is replaced by one of the same bytes, once."""

    async def restage(_: int, __: CopySource) -> None:
        store.after = do_nothing
        await stage(asked(model, force=True, source_copy="send"), store=store)

    return restage


def at(store: MemoryStore, place: str) -> dict[str, bytes]:
    """Name and bytes of everything below a place."""
    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    found = {key.removeprefix(prefix): store.look(bucket, key) for key in store.keys(bucket, prefix)}
    return {name: kept.data for name, kept in found.items() if kept is not None}


def report_of(report: PromoteReport, number: int = 0) -> StageReport:
    place = report.places[number]
    assert place.error is None, place.error
    assert place.report is not None
    return place.report


async def assert_promoted(store: Watched, model: Model, place: str = PLACE) -> None:
    """It is a staging as any other: it verifies, and its checksums are byte for byte those of its source."""
    there, source = at(store, place), at(store, SOURCE)
    assert there.keys() == source.keys()
    assert {name: there[name] for name in model.objects} == model.objects
    assert there["checksums.sha256"] == source["checksums.sha256"]
    artifact, original = (json.loads(where["artifact.json"]) for where in (there, source))
    for same in ("source", "models", "primary_model"):
        assert artifact[same] == original[same]
    digest = hashlib.sha256(source["artifact.json"]).hexdigest()
    run_id = original["build_info"]["run_id"]
    told = {"s3_prefix": SOURCE, "run_id": run_id, "artifact_sha256": digest}
    assert artifact["promoted_from"] == told
    assert artifact["deployment"]["s3_prefix"] == place
    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    verified = await verify(store, bucket, prefix, deep=True)
    assert verified.ok, [entry for entry in verified.objects if not entry.ok]
    for name in ("staging", "models"):
        assert store.open_uploads(name) == []


# ---- nothing comes through here where the store can copy


@pytest.mark.parametrize("is_aws", [True, False])
@pytest.mark.parametrize("kind", ["tar.gz", "tar", "riva"])
@pytest.mark.parametrize(
    ("check", "proof"), [("auto", "crc64nvme"), ("md5", "multipart-etag"), ("sha256", "multipart-etag")]
)
async def test_no_byte_of_archive_or_models_comes_through_here(
    kind: str, check: str, proof: str, is_aws: bool
) -> None:
    store, model = Watched(is_aws=is_aws), made(kind)
    await staged(store, model, upload_check=check, source_copy="send")
    seen: list[Event] = []
    report = await promote(promotion(upload_check=check), store=store, observer=seen.append)
    assert report.exit_code == 0
    done = report_of(report)
    assert (done.outcome, done.mode, done.destination) == ("staged", "full", PLACE)
    assert done.artifact is not None
    assert (done.artifact.validation.source_copy, done.warnings) == (proof, [])
    assert not [key for key, _ in store.account.sent if "/source/" in key or "/models/" in key]
    # A probe of a store that is not AWS reads a few bytes of one object.
    assert len(store.account.read) <= (not is_aws and check == "auto")
    (started,) = [event for event in seen if isinstance(event, StageStarted)]
    size = sum(map(len, model.objects.values()))
    assert (started.source_uri, started.source_size, started.source_copy) == (SOURCE, size, proof)
    last = [event for event in seen if isinstance(event, Progress)][-1]
    assert (last.copied, last.durable, last.durable_source, last.counts) == (size, 0, size, ("copied",))
    await assert_promoted(store, model)


async def test_parts_that_nobody_tells_are_taken_to_be_as_large_as_ours() -> None:
    """Of 9,000 bytes in 5 parts that is one of several sizes; that the ETags are equal proves it."""
    store, model = Watched(is_aws=False, tells_parts=False), made("tar.gz")
    await staged(store, model, upload_check="md5", source_copy="send")
    done = report_of(await promote(promotion(upload_check="md5"), store=store))
    assert done.artifact is not None
    assert done.artifact.validation.source_copy == "multipart-etag"
    await assert_promoted(store, model)


@pytest.mark.parametrize("kind", ["tar.gz", "riva"])
async def test_bytes_that_the_store_may_not_copy_are_read_hashed_and_sent(kind: str) -> None:
    store, model = Watched(), made(kind)
    await staged(store, model)
    report = await promote(promotion(source_copy="send"), store=store)
    done = report_of(report)
    assert done.artifact is not None
    assert done.artifact.validation.source_copy == "sent"
    assert store.account.copied == []
    await assert_promoted(store, model)


async def test_two_stores_with_their_own_credentials() -> None:
    """What is promoted to another store comes through here."""
    here, there, model = Watched(), Watched(), made("tar.gz")
    await staged(here, model)
    done = report_of(await promote(promotion(), store=there, source_store=here))
    assert done.artifact is not None
    assert done.artifact.validation.source_copy == "sent"
    assert "credentials" in done.artifact.validation.source_copy_reason
    assert (await verify(there, "staging", "live/parakeet/v2/", deep=True)).ok
    assert {name: data for name, data in at(there, PLACE).items() if name in model.objects} == model.objects


async def test_deep_reads_every_byte_of_what_is_copied() -> None:
    store, model = Watched(), made("tar.gz")
    await staged(store, model)
    seen: list[Event] = []
    report_of(await promote(promotion(deep=True), store=store, observer=seen.append))
    last = [event for event in seen if isinstance(event, Progress)][-1]
    size = sum(map(len, model.objects.values()))
    assert (last.fetched, last.hashed, last.copied, last.durable) == (size, size, size, 0)
    await assert_promoted(store, model)


async def test_an_empty_member_is_promoted_as_well() -> None:
    store, model = Watched(), made("tar.gz", readme=b"")
    await staged(store, model, include=("*.riva", "README"))
    report_of(await promote(promotion(), store=store))
    assert at(store, PLACE)["models/README"] == b""
    await assert_promoted(store, model)


# ---- several places, and again


async def test_several_places_each_on_its_own() -> None:
    """One of them is held by another staging; the others are promoted."""
    store, model = Watched(), made("tar.gz")
    await staged(store, model)
    taken = "s3://staging/taken/parakeet/v1/"
    await staged_there(store, env="taken")
    before = at(store, taken)
    report = await promote(promotion(PLACE, taken, OTHER), store=store)
    assert [place.destination for place in report.places] == [PLACE, taken, OTHER]
    assert [place.exit_code for place in report.places] == [0, 73, 0]
    assert report.exit_code == 73
    failed = report.places[1].error
    assert failed is not None
    assert failed.code == "destination_conflict"
    assert at(store, taken) == before
    for place in (PLACE, OTHER):
        await assert_promoted(store, model, place)
    runs = {report_of(report, number).run_id for number in (0, 2)}
    assert len(runs) == 2


async def test_again_is_one_look_each() -> None:
    store, model = Watched(), made("tar.gz")
    await staged(store, model)
    await promote(promotion(PLACE, OTHER), store=store)
    before = at(store, PLACE), at(store, OTHER)
    store.account.copied.clear()
    report = await promote(promotion(PLACE, OTHER), store=store)
    assert [report_of(report, n).outcome for n in (0, 1)] == ["already_staged"] * 2
    assert (at(store, PLACE), at(store, OTHER)) == before
    assert store.account.copied == []


async def test_what_was_staged_from_the_same_source_is_there_already() -> None:
    store, model = Watched(), made("tar.gz")
    await staged(store, model)
    await stage(asked(model, env="live", model_version="v2"), store=store)
    before = at(store, PLACE)
    assert report_of(await promote(promotion(), store=store)).outcome == "already_staged"
    assert at(store, PLACE) == before


async def test_force_replaces_and_a_dry_run_writes_nothing() -> None:
    store, model = Watched(), made("tar.gz")
    await staged(store, model)
    await staged_there(store, env="live", model_version="v2")
    before = at(store, PLACE)
    planned = report_of(await promote(promotion(force=True, dry_run=True), store=store))
    assert planned.outcome == "planned"
    assert planned.plan is not None
    assert (planned.plan.source, planned.plan.source_copy) == (SOURCE, "crc64nvme")
    assert [item.key.removeprefix("live/parakeet/v2/") for item in planned.plan.objects][:3] == [
        *model.objects
    ]
    assert at(store, PLACE) == before
    assert report_of(await promote(promotion(force=True), store=store)).outcome == "staged"
    await assert_promoted(store, model)


# ---- the source staging has to be what was staged


async def test_where_nothing_is_staged_there_is_nothing_to_promote() -> None:
    with pytest.raises(SourceNotFoundError):
        await promote(promotion(), store=Watched())


async def test_what_is_gone_is_named() -> None:
    store, model = Watched(), made("tar.gz")
    await staged(store, model)
    await store.delete("staging", PREFIX + "models/m0.riva")
    with pytest.raises(SourceNotFoundError) as caught:
        await promote(promotion(), store=store)
    assert "models/m0.riva" in caught.value.what
    assert at(store, PLACE) == {}


@pytest.mark.parametrize("name", ["source/a.tar.gz", "models/m1.riva"])
async def test_what_was_replaced_is_named(name: str) -> None:
    store, model = Watched(), made("tar.gz")
    await staged(store, model)
    await store.put(
        "staging", PREFIX + name, body(b"x" * len(model.objects[name])), content_type="a/b", metadata={}
    )
    with pytest.raises(IntegrityError) as caught:
        await promote(promotion(), store=store)
    assert name in caught.value.what
    assert at(store, PLACE) == {}


@pytest.mark.parametrize("deep", [True, False])
async def test_an_object_that_is_replaced_meanwhile_is_never_published(deep: bool) -> None:
    store, model = Watched(), made("tar.gz")
    await staged(store, model)

    async def replace(count: int, source: CopySource) -> None:
        if count == 2:
            data = body(b"y" * len(model.objects["source/a.tar.gz"]))
            await store.put("staging", PREFIX + "source/a.tar.gz", data, content_type="a/b", metadata={})

    store.before = replace
    report = await promote(promotion(deep=deep), store=store)
    assert report.exit_code == 65
    assert at(store, PLACE) == {}
    assert store.open_uploads("staging") == []


async def test_a_staging_that_is_replaced_meanwhile_is_left_for_the_next_run() -> None:
    """The marker of the source is looked at once more, just before that of the promotion is put."""
    store, model = Watched(), made("tar.gz")
    await staged(store, model)
    store.after = restaged_after_a_copy(store, model)
    report = await promote(promotion(), store=store)
    assert report.exit_code == 75
    assert "staging_complete.txt" not in at(store, PLACE)
    assert report_of(await promote(promotion(), store=store)).outcome == "staged"
    await assert_promoted(store, model)


@pytest.mark.parametrize("cases", [range(40), pytest.param(range(40, 200), marks=pytest.mark.long)])
@pytest.mark.parametrize("check", ["auto", "md5"])
async def test_one_flipped_bit_is_never_published(check: str, cases: range) -> None:
    """200 stores that lie about what they have copied, each in one bit of one part."""
    draw = random.Random(cases.start)
    refused = 0
    for case in cases:
        store, model = Watched(), made("tar.gz", seed=case, sizes=(draw.randrange(1, 9000), 3500))
        await staged(store, model, upload_check=check, source_copy="send")
        request = promotion(upload_check=check)
        struck = draw.randrange(await _copies_of(model, request, check)) + 1
        weak: Copies = draw.choice(["flipped", "lying"]) if check == "auto" else "flipped"

        async def flip(count: int, _: CopySource, store: Watched = store, struck: int = struck) -> None:
            store.set_copies(weak if count == struck else "honoured")  # noqa: B023 - awaited in this very turn

        store.before = flip
        report = await promote(request, store=store)
        assert len(store.account.copied) >= struck
        there = at(store, PLACE)
        if report.exit_code == 0:  # nothing proved the copy, so it was sent
            assert {name: there[name] for name in model.objects} == model.objects
            continue
        assert report.exit_code in {65, 75}
        assert "staging_complete.txt" not in there
        refused += 1
    # Where MD5s are the proof an ETag shows at once that a copy is another, and it is sent.
    assert (refused > 0) == (check == "auto")


async def _copies_of(model: Model, request: PromoteRequest, check: str) -> int:
    """How many parts such a promotion copies."""
    store = Watched()
    await staged(store, model, upload_check=check, source_copy="send")
    await promote(request, store=store)
    return len(store.account.copied)


# ---- other kinds of stagings


async def test_a_staging_by_reference_is_promoted_as_one() -> None:
    store, model = Watched(), made("tar.gz")
    await staged(store, model, reference_only=True)
    done = report_of(await promote(promotion(), store=store))
    assert (done.outcome, done.mode) == ("staged", "reference_only")
    assert at(store, PLACE).keys() == {"artifact.json", "staging_complete.txt"}
    artifact = json.loads(at(store, PLACE)["artifact.json"])
    assert artifact["source"] == json.loads(at(store, SOURCE)["artifact.json"])["source"]
    assert artifact["promoted_from"]["s3_prefix"] == SOURCE
    assert (await verify(store, "staging", "live/parakeet/v2/")).ok


async def test_a_reference_to_what_was_replaced_since_is_refused() -> None:
    store, model = Watched(), made("tar.gz")
    await staged(store, model, reference_only=True)
    await store.put_source(model.key, model.data + b"more")
    report = await promote(promotion(), store=store)
    assert report.exit_code == 65
    assert at(store, PLACE) == {}


IMAGE = "s3://models/images/riva-speech.tar.gz"


@pytest.mark.parametrize("mode", ["full", "reference_only", "bintarball_reference"])
async def test_the_deployment_documents_go_along(mode: str) -> None:
    store, model = Watched(), made("tar.gz")
    await store.put("models", "images/riva-speech.tar.gz", body(b"image"), content_type="a/b", metadata={})
    fields = {} if mode == "full" else {mode: True}
    report = await staged(store, model, server_path=IMAGE, **fields)
    done = report_of(await promote(promotion(source=report.destination), store=store))
    assert (done.mode, done.outcome) == (mode, "staged")
    assert done.deployment is not None
    assert report.deployment is not None
    mine, theirs = done.deployment.bintarball_references, report.deployment.bintarball_references
    assert mine.container_image == theirs.container_image
    folder = "bintarball/deployment-metadata/" if mode == "bintarball_reference" else ""
    assert done.destination == PLACE.replace("live/", f"{folder}live/")
    if mode == "full":
        assert mine.model_archive.s3_uri == f"{PLACE}source/a.tar.gz"
    else:
        assert mine.model_archive == theirs.model_archive
    bucket, _, prefix = done.destination.removeprefix("s3://").partition("/")
    assert (await verify(store, bucket, prefix)).ok


async def test_an_image_that_was_replaced_since_is_refused() -> None:
    store, model = Watched(), made("tar.gz")
    await store.put("models", "images/riva-speech.tar.gz", body(b"image"), content_type="a/b", metadata={})
    await staged(store, model, server_path=IMAGE)
    await store.put("models", "images/riva-speech.tar.gz", body(b"other"), content_type="a/b", metadata={})
    assert (await promote(promotion(), store=store)).exit_code == 65
    assert at(store, PLACE) == {}


class Shy(Watched):
    """Refuses to show some keys of a staging, or says that they are gone, for a while."""

    def __init__(self, *, lists: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.hides: dict[str, int] = {}
        self.error: RivaStreamError | None = AccessDeniedError(
            "denied", where=Where(status=403, code="AccessDenied")
        )
        self._lists = lists

    async def get(self, bucket: str, key: str, **options: Any) -> Document | None:
        if self.hides.get(key):
            self.hides[key] -= 1
            if self.error is None:
                return None
            raise self.error
        return await super().get(bucket, key, **options)

    async def list_objects(self, bucket: str, prefix: str, **options: Any) -> Listing:
        if not self._lists:
            raise AccessDeniedError("denied", where=Where(status=403, code="AccessDenied"))
        return await super().list_objects(bucket, prefix, **options)


async def with_an_image(store: Shy, **fields: Any) -> StageReport:
    await store.put("models", "images/riva-speech.tar.gz", body(b"image"), content_type="a/b", metadata={})
    return await staged(store, made("tar.gz"), server_path=IMAGE, **fields)


PAIR = ("deployment.json", "deployment_ready.txt")


@pytest.mark.parametrize("mode", ["full", "reference_only"])
@pytest.mark.parametrize("name", PAIR)
@pytest.mark.parametrize("refused", [True, False])
async def test_one_wrong_answer_about_a_deployment_document_does_not_drop_the_pair(
    mode: str, name: str, refused: bool
) -> None:
    store = Shy()
    await with_an_image(store, **({} if mode == "full" else {mode: True}))
    if not refused:
        store.error = None
    store.hides = {PREFIX + name: 1}
    report = report_of(await promote(promotion(), store=store))
    assert set(PAIR) <= at(store, PLACE).keys()
    assert report.deployment is not None


@pytest.mark.parametrize("mode", ["full", "reference_only"])
async def test_a_pair_that_may_not_be_seen_is_not_taken_for_missing(mode: str) -> None:
    store = Shy(lists=False)
    fields = {} if mode == "full" else {mode: True}
    await with_an_image(store, **fields)
    await promote(promotion(), store=store)
    before = at(store, PLACE)
    store.hides = dict.fromkeys((PREFIX + name for name in PAIR), 1000)
    with pytest.raises(AccessDeniedError):
        await promote(promotion(force=True), store=store)
    assert at(store, PLACE) == before
    async with read_staging(SOURCE, store) as staging:  # who does not ask for it is not kept from the rest
        assert staging.artifact is not None
        with pytest.raises(AccessDeniedError):
            assert staging.deployment


async def test_a_staging_without_an_image_is_promoted_where_a_listing_shows_that_there_is_none() -> None:
    store = Shy()
    await staged(store, made("tar.gz"))
    store.hides = dict.fromkeys((PREFIX + name for name in PAIR), 1000)
    assert report_of(await promote(promotion(), store=store)).outcome == "staged"


@pytest.mark.parametrize("name", PAIR)
async def test_a_document_that_the_manifest_names_must_be_there(name: str) -> None:
    store = Shy()
    await with_an_image(store)
    await store.delete("staging", PREFIX + name)
    with pytest.raises(SourceNotFoundError) as caught:
        await promote(promotion(), store=store)
    assert name in caught.value.what
    assert at(store, PLACE) == {}


@pytest.mark.parametrize("image", [True, False])
async def test_a_replica_lacks_no_pair_that_was_requested(image: bool) -> None:
    store = Shy(lists=False)
    await store.put("models", "images/riva-speech.tar.gz", body(b"image"), content_type="a/b", metadata={})
    store.hides = dict.fromkeys((PREFIX + name for name in PAIR), 1000)
    fields = {"server_path": IMAGE} if image else {}
    report = await staged(store, made("tar.gz"), replicate_to=(PLACE,), force=True, **fields)
    assert report.outcome == "staged"
    assert [replica.exit_code for replica in report.replicas] == [77 if image else 0]
    if not image:
        assert "deployment_ready.txt" not in at(store, PLACE)
        assert "deployment" in {warning.code for warning in report.warnings}


@pytest.mark.parametrize("mode", ["full", "reference_only"])
async def test_a_replica_of_what_was_staged_already_lacks_no_pair_that_a_listing_shows(mode: str) -> None:
    store = Shy()
    fields = {} if mode == "full" else {mode: True}
    await with_an_image(store, **fields)
    store.hides = dict.fromkeys((PREFIX + name for name in PAIR), 1000)
    report = await stage(asked(made("tar.gz"), replicate_to=(PLACE,), **fields), store=store)
    assert report.outcome == "already_staged"
    assert [replica.exit_code for replica in report.replicas] == [77]
    assert at(store, PLACE) == {}


# ---- interrupted


async def test_a_promotion_goes_on_where_another_one_was_cancelled() -> None:
    store, model = Watched(), made("tar.gz", sizes=(20_000, 3_500))
    await staged(store, model)
    total = await _copies_of(model, promotion(), "auto")
    scope = anyio.CancelScope()

    async def cancel(count: int, source: CopySource) -> None:
        if count == 4:
            scope.cancel()
            await anyio.sleep_forever()

    store.before = cancel
    with scope:
        await promote(promotion(run_id="first"), store=store)
    store.before = do_nothing
    assert "staging_complete.txt" not in at(store, PLACE)
    first = len(store.account.copied)
    report_of(await promote(promotion(run_id="second"), store=store))
    assert len(store.account.copied) - first < total
    await assert_promoted(store, model)


# ---- replicas of a staging


async def test_a_staging_is_replicated_once_it_is_committed() -> None:
    store, model = Watched(), made("tar.gz")
    await store.put_source(model.key, model.data)
    report = await stage(asked(model, replicate_to=(PLACE, OTHER)), store=store)
    assert report.exit_code == 0
    assert [place.destination for place in report.replicas] == [PLACE, OTHER]
    for place in (PLACE, OTHER):
        await assert_promoted(store, model, place)
    again = await stage(asked(model, replicate_to=(PLACE, OTHER)), store=store)
    assert again.outcome == "already_staged"
    assert [place.report.outcome for place in again.replicas if place.report] == ["already_staged"] * 2


async def test_a_replica_that_fails_leaves_the_staging_as_it_is() -> None:
    store, model = Watched(), made("tar.gz")
    await store.put_source(model.key, model.data)
    report = await stage(asked(model, replicate_to=(PLACE, "s3://nowhere/live/parakeet/v3/")), store=store)
    assert report.outcome == "staged"
    assert [place.exit_code for place in report.replicas] == [0, 78]
    assert report.exit_code == 78
    async with read_staging(SOURCE, store) as staging:
        assert staging.run_id == report.run_id


# ---- what cannot be asked


@pytest.mark.parametrize(
    "fields",
    [
        {"source": "s3://staging/prod/parakeet/"},
        {"source": "prod/parakeet/v1/"},
        {"to": ()},
        {"to": (SOURCE,)},
        {"to": (PLACE, PLACE)},
        {"to": ("s3://staging/a/b/c/d/",)},
        {"to": ("s3://staging/a/../c/",)},
    ],
)
def test_what_cannot_be_asked(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        PromoteRequest(**{"source": SOURCE, "to": (PLACE,)} | fields)


def test_a_staging_is_not_its_own_replica() -> None:
    request: dict[str, Any] = {"source": "s3://models/in/a.tar.gz", "bucket": "staging", "env": "prod"}
    with pytest.raises(ValueError, match="replicate_to"):
        StageRequest(**request, model_name="parakeet", model_version="v1", replicate_to=(SOURCE,))


async def test_the_store_shall_copy_and_cannot() -> None:
    here, there, model = Watched(), Watched(), made("tar.gz")
    await staged(here, model)
    report = await promote(promotion(source_copy="store"), store=there, source_store=here)
    failed = report.places[0].error
    assert failed is not None
    assert (failed.type, failed.exit_code) == (ConfigurationError.__name__, 78)
    assert there.keys("staging") == []


# ---- what a strict reader found


async def test_a_manifest_that_nobody_vouches_for_proves_nothing() -> None:
    """A marker of version 0.1: whoever may write the manifest could name any object in it."""
    store, model = Watched(), made("tar.gz")
    await staged(store, model)
    key, other = PREFIX + "models/m1.riva", b"x" * len(model.objects["models/m1.riva"])
    await store.put("staging", key, body(other), content_type="a/b", metadata={})
    replaced = store.look("staging", key)
    assert replaced is not None
    manifest = json.loads(at(store, SOURCE)["upload_manifest.json"])
    for entry in manifest["files"]["models"]:
        if entry["s3_key"] == key:
            entry |= {"etag": replaced.etag, "store_checksum": None}
    marker = at(store, SOURCE)["staging_complete.txt"]
    lines = [line for line in marker.splitlines(keepends=True) if b"upload_manifest" not in line]
    for name, data in (
        ("upload_manifest.json", json.dumps(manifest).encode()),
        ("staging_complete.txt", b"".join(lines)),
    ):
        kept = store.look("staging", PREFIX + name)
        assert kept is not None
        await store.put("staging", PREFIX + name, body(data), content_type="a/b", metadata=kept.metadata)
    report = await promote(promotion(), store=store)
    assert report.exit_code == 65
    assert at(store, PLACE) == {}
    assert (await promote(promotion(source_copy="store"), store=store)).exit_code == 78


async def test_what_stands_at_the_place_stays_when_the_staging_is_replaced_meanwhile() -> None:
    store, model = Watched(), made("tar.gz")
    await staged(store, model)
    await staged_there(store, env="live", model_version="v2")
    before = at(store, PLACE)
    store.after = restaged_after_a_copy(store, model)
    assert (await promote(promotion(force=True), store=store)).exit_code == 75
    after = at(store, PLACE)
    assert {name: after.get(name) for name in before} == before


async def test_replicas_that_take_longer_than_the_watch_are_not_taken_for_stalled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The staging's own watch is over by then; each copy is a sign of life of its replica."""
    monkeypatch.setattr(from_staging, "COPIES", 1)
    store, model = Watched(), made("tar.gz")
    await store.put_source(model.key, model.data)

    async def slow(count: int, source: CopySource) -> None:
        if source.key.startswith(PREFIX):
            await anyio.sleep(0.5)

    store.before = slow
    report = await stage(asked(model, replicate_to=(PLACE,), timeout=2.5), store=store)
    assert [place.exit_code for place in report.replicas] == [0]


@pytest.mark.parametrize(("copy", "code"), [("auto", 65), ("store", 65)])
async def test_an_object_that_was_replaced_under_its_marker_is_told_as_that(copy: str, code: int) -> None:
    store, model = Watched(), made("tar.gz")
    await staged(store, model)

    async def replace(count: int, source: CopySource) -> None:
        if count == 1:
            data = body(b"y" * len(model.objects["models/m1.riva"]))
            await store.put("staging", PREFIX + "models/m1.riva", data, content_type="a/b", metadata={})

    store.before = replace
    assert (await promote(promotion(source_copy=copy), store=store)).exit_code == code
    assert at(store, PLACE) == {}
    assert not [key for key in store.account.read if key.startswith(PREFIX + "source/")]


class _Silent(MemoryStore):
    """Answers no GET of a document: as one that sends a byte now and then, which no time-out between two of them ends."""

    async def get(self, bucket: str, key: str, *, limit: int) -> Any:
        await anyio.sleep_forever()


async def test_a_promotion_ends_when_its_source_does_not_answer() -> None:
    """Until the staging is found and looked at nothing watches it, whatever --timeout says."""
    request = PromoteRequest(source="s3://models/prod/m/v1/", to=("s3://models/live/m/v1/",), timeout=0.2)
    with anyio.move_on_after(5) as scope, pytest.raises(StalledError):
        await promote(request, store=_Silent("models"))
    assert not scope.cancelled_caught


SEGMENT = "must be one safe path segment"
NO_PLACE = "does not name a staging, which is at s3://bucket/ENV/NAME/VERSION/"


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("--env a/b", {"--env": SEGMENT}),
        ("--model-version ..", {"--model-version": SEGMENT}),
        ("--bucket s3://b --env a/b", {"--env": SEGMENT, "--bucket": "is not a bucket name"}),
        ("--to s3://deploy/x", {"--to": NO_PLACE}),
        ("--env live --to s3://deploy/x", {"--to": NO_PLACE}),
        (
            "--to s3://other/live/n/v1/ --to s3://other/x --to u/y",
            {"--to": f"number 2 {NO_PLACE}; number 3 is not the S3 URI"},
        ),
        ("--env a/b --to s3://deploy/x", {"--env": SEGMENT, "--to": NO_PLACE}),
        (
            "--to s3://deploy/prod/n/v1",
            {"--to": "names s3://deploy/prod/n/v1/, where the staging itself is"},
        ),
        ("--env live --retention-days 0", {"--retention-days": "must be at least 1"}),
    ],
)
def test_what_is_wrong_with_a_place_is_told_under_the_flag_that_was_given(
    words: str, wrong: dict[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = ("promote", "s3://deploy/prod/n/v1/", "--region", "us-east-1", "--quiet", "--json")
    assert main([*place, "--state-dir", str(tmp_path), *words.split()]) == 78
    problems = json.loads(capfd.readouterr().out)["error"]["problems"]
    told = {problem["flag"]: problem["wrong"] for problem in problems}
    assert told.keys() == wrong.keys()
    assert all(told[flag].startswith(text) for flag, text in wrong.items())
    assert not any(problem["variable"] for problem in problems)  # none of these comes from one


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("s3://deploy/prod/m --env live", "'s3://deploy/prod/m' does not name a staging"),
        ("s3://deploy/prod/m/v1/models --env live", "'s3://deploy/prod/m/v1/models' does not name a staging"),
        ("s3://deploy/prod/a%b/v1 --env live", "'s3://deploy/prod/a%b/v1' must be one safe path segment"),
        (
            "s3://deploy/prod/n/v1/ --env prod",
            "--env would leave the staging where it is, at s3://deploy/prod/n/v1/",
        ),
        (
            "s3://deploy/bintarball/deployment-metadata/prod/n/v1 --bucket deploy --env prod",
            "--bucket and --env would leave the staging where it is",
        ),
    ],
)
def test_a_staging_that_cannot_be_promoted_is_told_as_it_was_named(
    words: str, told: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    state = ("--region", "us-east-1", "--quiet", "--state-dir", str(tmp_path))
    assert main(["promote", *words.split(), *state]) == 78
    said = capfd.readouterr().err
    assert f"riva_stream: {told}" in said
    assert not any(name in said for name in ("--source", "RIVA_ASR_MODEL_S3_URI", "my-models"))
    assert "--to" not in said or "leave" in told


def test_a_staging_that_settings_name_wrongly_is_told_by_their_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, text in {
        "NVIDIA_DRIVERS_S3_BUCKET": "deploy",
        "ENV": "a/b",
        "RIVA_ASR_MODEL_NAME": "n",
        "MODEL_VERSION": "v1",
    }.items():
        monkeypatch.setenv(name, text)
    words = ("--env", "live", "--region", "us-east-1", "--quiet", "--state-dir", str(tmp_path))
    assert main(["promote", *words]) == 78
    said = capfd.readouterr().err
    assert "correct NVIDIA_DRIVERS_S3_BUCKET, ENV, RIVA_ASR_MODEL_NAME and MODEL_VERSION" in said
    assert "--source" not in said


async def test_an_archive_that_a_reference_lacks_is_no_matter_of_the_flags_of_stage() -> None:
    store, model = Watched(), made("tar.gz")
    await staged(store, model, reference_only=True)
    await store.delete("models", model.key)
    (place,) = (await promote(promotion(), store=store)).places
    assert place.error is not None
    assert place.exit_code == 66
    assert place.error.hint == "stage it again from what is there now"


@pytest.mark.parametrize("sends", [False, True])
async def test_places_take_their_memory_from_the_budget_that_is_shared(sends: bool) -> None:
    store, model = Watched(), made("tar.gz")
    await staged(store, model)
    request = promotion(PLACE, OTHER, source_copy="send" if sends else "auto")
    budget = MemoryBudget(3 * request.memory)
    report = await promote(request, store=store, budget=budget)
    assert report.exit_code == 0
    assert (budget.peak >= request.memory, budget.in_use) == (sends, 0)
    little = MemoryBudget(request.memory - 1)
    report = await promote(request.model_copy(update={"force": True}), store=store, budget=little)
    assert report.exit_code == (ConfigurationError.exit_code if sends else 0)


class Mute(Watched):
    """It enforces CRC64NVME, and tells none of what it has copied; or it knows none at all."""

    def __init__(self, *, knows: bool) -> None:
        super().__init__(is_aws=False, checks_whole=knows)
        self._knows = knows

    async def copy_part(self, *args: Any) -> CopiedPart:
        return replace(await super().copy_part(*args), crc64nvme=None)

    async def head(self, *args: Any, **options: Any) -> ObjectInfo | None:
        info = await super().head(*args, **options)
        return info if info is None or self._knows else replace(info, checksums={})


@pytest.mark.parametrize("knows", [True, False])
async def test_a_checksum_that_is_not_known_of_every_part_is_none_of_the_whole(knows: bool) -> None:
    """That of no part at all was sent: the commit failed once the old marker was gone, or the manifest told a wrong one."""
    store, model = Mute(knows=knows), made("tar.gz")
    await staged(store, model, source_copy="send", upload_check="auto" if knows else "crc64nvme")
    env, name, version = PLACE.removeprefix("s3://staging/").strip("/").split("/")
    await staged_there(store, env=env, model_name=name, model_version=version, source_copy="send")
    report = await promote(promotion(PLACE, force=True, upload_check="crc64nvme"), store=store)
    assert report_of(report).outcome == "staged"
    await assert_promoted(store, model)
    manifest = json.loads(at(store, PLACE)["upload_manifest.json"])
    payload = [manifest["files"]["source_archive"], *manifest["files"]["models"]]
    assert len(payload) == len(model.objects)
    assert {entry["store_checksum"] for entry in payload} == {None}
