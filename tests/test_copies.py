"""Parts that the store copies itself: what is copied, what proves it, and that nothing else becomes visible."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from pydantic import ValidationError

from riva_stream import (
    AccessDeniedError,
    ConfigurationError,
    DigestMismatchError,
    IntegrityError,
    RivaStreamError,
    SourceChangedError,
    StageReport,
    StageRequest,
    ThrottledError,
    TransientError,
    stage,
)
from riva_stream.cli.commands.stage import summary_text
from riva_stream.cli.progress import Counters
from riva_stream.events import Event, Progress, StageStarted, Warned
from riva_stream.lease import Identity
from riva_stream.pipeline import copies
from riva_stream.retry import RetryPolicy
from riva_stream.s3 import CopiedPart, CopySource, RangeReply
from riva_stream.s3.errors import refusal
from riva_stream.s3.memory import Copies
from riva_stream.sink import Upload
from riva_stream.sink.parts import SentPart
from riva_stream.sizes import MIB
from tests.archive.kit import END, member, pax
from tests.copying import (
    COPIED,
    PART,
    PREFIX,
    Account,
    Model,
    Watched,
    asked,
    assert_nothing_left,
    assert_staged,
    do_nothing,
    made,
)
from tests.support.archives import riva_bytes


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of a few KiB, and retries that do not wait."""
    monkeypatch.setattr(copies, "LEAST_COPY", COPIED)
    monkeypatch.setattr(copies, "FEW_BYTES", 1)
    monkeypatch.setattr(RetryPolicy, "delay", lambda policy, attempt, draw: 0.0)


# ---- what is copied, and by what it is proven


@pytest.mark.parametrize("is_aws", [True, False])
@pytest.mark.parametrize(
    ("kind", "fields", "parts", "proof", "members"),
    [
        ("tar.gz", {}, False, "crc64nvme", "sent"),
        ("tar", {}, False, "crc64nvme", "copied"),
        ("riva", {}, False, "crc64nvme", "copied"),
        ("tar", {"source_copy": "store"}, True, "crc64nvme", "copied"),
        ("tar.gz", {"upload_check": "md5"}, False, "plain-etag", "sent"),
        ("tar", {"upload_check": "md5"}, False, "plain-etag", "sent"),
        ("riva", {"upload_check": "none"}, False, "plain-etag", "copied"),
        ("tar.gz", {"upload_check": "sha256"}, True, "multipart-etag", "sent"),
        ("tar", {"upload_check": "md5", "source_copy": "store"}, True, "multipart-etag", "copied"),
        ("tar", {"upload_check": "md5", "source_copy": "store"}, False, "plain-etag", "copied"),
    ],
)
async def test_the_store_copies_what_can_be_proven(
    kind: str, fields: dict[str, Any], parts: bool, proof: str, members: str, is_aws: bool
) -> None:
    store, model = Watched(is_aws=is_aws), made(kind)
    sizes = [1500] * (len(model.data) // 1500) + [len(model.data) % 1500] if parts else ()
    await store.put_source(model.key, model.data, parts=sizes)
    seen: list[Event] = []
    report = await stage(asked(model, **fields), store=store, observer=seen.append)
    assert_staged(store, model)
    assert {warning.code for warning in report.warnings} <= {"source-integrity"}
    validation = store.validation()
    assert (validation["source_copy"], validation["source_copy_reason"]) == (proof, "")
    (started,) = [event for event in seen if isinstance(event, StageStarted)]
    assert started.source_copy == proof
    models = sum(len(data) for name, data in model.objects.items() if name.startswith("models/"))
    assert store.account.payload() == (0 if members == "copied" or kind == "riva" else models)
    last = [event for event in seen if isinstance(event, Progress)][-1]
    assert last.durable == store.account.payload()
    assert last.durable + last.copied == sum(map(len, model.objects.values()))
    assert last.durable_source == len(model.data)
    source = store.look("models", model.key)
    assert source is not None
    assert {asked.etag for _, asked in store.account.copied} == {source.etag}


async def test_parts_that_nobody_tells_are_guessed_and_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "FEW_BYTES", 5 * MIB)
    store = Watched(is_aws=False, tells_parts=False, smallest_part=5 * MIB)
    model = made("tar.gz", sizes=(13 * MIB,))
    parts = [5 * MIB, 5 * MIB, len(model.data) - 10 * MIB]
    await store.put_source(model.key, model.data, parts=parts)
    await stage(asked(model, upload_check="md5", part_size=5 * MIB), store=store)
    assert_staged(store, model)
    assert store.validation()["source_copy"] == "multipart-etag"
    assert [(c.first, c.last) for _, c in store.account.copied][:2] == [
        (0, 5 * MIB - 1),
        (5 * MIB, 10 * MIB - 1),
    ]


@pytest.mark.parametrize(
    ("size", "count", "part"),
    [
        (100 * MIB + 1, 13, 8 * MIB),
        (1000 * MIB, 63, 16 * MIB),
        (1000 * MIB, 67, 15 * MIB),
        (1000 * MIB + 5, 91, 11 * MIB),
        (7, 1, 7),
        (22 * MIB, 3, None),  # 8 and 10 MiB both do
        (1000 * MIB, 12, None),  # 84 to 90 MiB
    ],
)
def test_a_part_size_is_guessed_only_where_one_is_usual(size: int, count: int, part: int | None) -> None:
    found = copies._usual_parts(size, count)
    assert (found[0] if found else None) == part
    assert found is None or (sum(found), len(found)) == (size, count)


async def test_ranges_that_nothing_else_proves_are_hashed_where_the_store_shall_copy() -> None:
    store, model = Watched(is_aws=False, tells_parts=False), made("tar.gz")
    await store.put_source(model.key, model.data, parts=[len(model.data) - 7, 3, 4])
    await stage(asked(model, upload_check="md5", source_copy="store"), store=store)
    assert_staged(store, model)
    assert store.validation()["source_copy"] == "md5"


@pytest.mark.parametrize("kind", ["tar.gz", "tar", "riva"])
async def test_nothing_is_copied_of_what_is_to_be_sent(kind: str) -> None:
    store, model = Watched(), made(kind)
    await store.put_source(model.key, model.data)
    await stage(asked(model, source_copy="send"), store=store)
    assert_staged(store, model)
    assert store.account.copied == []
    assert store.account.payload() == sum(map(len, model.objects.values()))
    assert store.validation()["source_copy"] == "sent"


async def test_a_source_of_a_few_bytes_is_copied_whole_and_its_members_are_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(copies, "FEW_BYTES", 5 * MIB)
    store, model = Watched(smallest_part=5 * MIB), made("tar")
    await store.put_source(model.key, model.data)
    await stage(asked(model, part_size=5 * MIB), store=store)
    assert_staged(store, model)
    assert [(c.first, c.last) for _, c in store.account.copied] == [(None, None)]


async def test_a_sparse_member_is_sent() -> None:
    """It is not in the tar as it is extracted."""
    whole = riva_bytes(6000, "sparse")
    data = bytes(2000) + whole
    raw = (
        pax(
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.name", b"p/s.riva"),
            (b"GNU.sparse.realsize", b"8000"),
        )
        + member(b"p/GNUSparseFile.0/s.riva", b"1\n2000\n6000\n".ljust(512, b"\0") + whole)
        + member(b"p/t.riva", whole)
        + END
    )
    model = Model("a.tar", raw, {"source/a.tar": raw, "models/s.riva": data, "models/t.riva": whole})
    store = Watched()
    await store.put_source(model.key, raw)
    await stage(asked(model), store=store)
    assert_staged(store, model)
    assert {key for key, _ in store.account.copied} == {PREFIX + "source/a.tar", PREFIX + "models/t.riva"}


# ---- where it is not copied


async def test_another_store_has_nothing_to_copy_from() -> None:
    origin, store, model = Watched(), Watched(), made("tar.gz")
    await origin.put_source(model.key, model.data)
    await stage(asked(model), store=store, source_store=origin)
    assert_staged(store, model)
    assert store.account.copied == []
    validation = store.validation()
    assert validation["source_copy"] == "sent"
    assert "credentials" in validation["source_copy_reason"]
    with pytest.raises(ConfigurationError):
        await stage(asked(model, source_copy="store", model_version="v2"), store=store, source_store=origin)


async def refuse(_: int, source: CopySource) -> None:
    raise AccessDeniedError("access denied").located(status=403, code="AccessDenied")


WEAK: dict[str, dict[str, Any]] = {
    "no copies": {"copies": "refused"},
    "no copies, elsewhere": {"copies": "refused", "is_aws": False},
    "no proof": {"copies": "unproven"},
    "no proof, elsewhere": {"copies": "unproven", "is_aws": False},
    "any ETag, elsewhere": {"copies": "unconditional", "is_aws": False},
    "wrong checksums, elsewhere": {"copies": "flipped", "is_aws": False},
    "any checksum of the whole, elsewhere": {"checks_whole": False, "is_aws": False},
}


@pytest.mark.parametrize("name", [*WEAK, "denied"])
async def test_what_cannot_be_proven_is_sent(name: str) -> None:
    store, model = Watched(**WEAK.get(name, {})), made("tar")
    store.before = refuse if name == "denied" else do_nothing
    await store.put_source(model.key, model.data)
    report = await stage(asked(model), store=store)
    assert_staged(store, model)
    validation = store.validation()
    assert validation["source_copy"] == "sent"
    assert validation["source_copy_reason"]
    assert store.account.payload() == sum(map(len, model.objects.values()))  # once
    assert report.outcome == "staged"
    assert store.keys("staging", PREFIX + ".riva-stream/") == []


@pytest.mark.parametrize("name", [*WEAK, "denied"])
async def test_what_only_the_store_may_make_ends_where_it_cannot_be_proven(name: str) -> None:
    store, model = Watched(**WEAK.get(name, {})), made("tar")
    store.before = refuse if name == "denied" else do_nothing
    await store.put_source(model.key, model.data)
    with pytest.raises(ConfigurationError) as caught:
        await stage(asked(model, source_copy="store"), store=store)
    assert caught.value.exit_code == 78
    assert [name for name in store.staged() if not name.startswith(".riva-stream/")] == []
    assert store.account.payload() == 0


async def test_a_store_that_does_not_answer_a_copy_is_sent_to() -> None:
    """It need not say in so many words that it has no such operation."""

    class Silent(Watched):
        async def copy_part(self, bucket: str, *_: Any) -> CopiedPart:
            raise TransientError("the connection failed")

    store, model = Silent(is_aws=False), made("tar.gz")
    await store.put_source(model.key, model.data)
    await stage(asked(model), store=store)
    assert_staged(store, model)
    assert store.validation()["source_copy_reason"]
    with pytest.raises(TransientError):
        await stage(asked(model, source_copy="store", model_version="v2"), store=store)


async def test_members_that_were_sent_are_not_sent_again() -> None:
    store, model = Watched(copies="unproven"), made("tar.gz")
    await store.put_source(model.key, model.data)
    await stage(asked(model, upload_check="md5"), store=store)
    assert_staged(store, model)
    assert store.validation()["source_copy"] == "sent"
    assert store.account.payload() == sum(map(len, model.objects.values()))


async def test_etags_that_a_bucket_encrypts_into_something_else_prove_nothing() -> None:
    """On AWS, by its default encryption (SSE-KMS), which no request names: 65 was told, for bytes that were right."""
    store, model = Watched(copies="unproven", tells_parts=False), made("riva")
    await store.put_source(model.key, model.data, parts=[1000, 2777, len(model.data) - 3777])
    with pytest.raises(ConfigurationError):
        await stage(asked(model, upload_check="md5", source_copy="store"), store=store)


@pytest.mark.parametrize("code", ["InvalidRequest", "BadDigest", "XAmzContentChecksumMismatch"])
async def test_copies_of_which_no_whole_may_be_told_are_sent(code: str) -> None:
    """A store that refuses every checksum refuses a wrong one, too: each commit failed once the old marker was gone."""

    class Strict(Watched):
        async def copy_part(self, bucket: str, key: str, upload_id: str, *args: Any) -> CopiedPart:
            copied.add(upload_id)
            return await super().copy_part(bucket, key, upload_id, *args)

        async def complete_upload(
            self, bucket: str, key: str, upload_id: str, *args: Any, **given: Any
        ) -> Any:
            if upload_id in copied and given["crc64nvme"]:
                raise refusal("CompleteMultipartUpload", bucket, key, code, 400)
            return await super().complete_upload(bucket, key, upload_id, *args, **given)

    copied: set[str] = set()
    store, model = Strict(is_aws=False), made("tar")
    await store.put_source(model.key, model.data)
    await stage(asked(model), store=store)
    assert_staged(store, model)
    assert store.validation()["source_copy"] == "sent"


async def test_one_refusal_does_not_show_that_the_checksum_of_a_whole_is_checked() -> None:
    class Refusing(Watched):
        refused = False

        async def complete_upload(self, bucket: str, key: str, *args: Any, **given: Any) -> Any:
            if given["crc64nvme"] and not self.refused:
                self.refused = True
                raise refusal("CompleteMultipartUpload", bucket, key, "AccessDenied", 403)
            return await super().complete_upload(bucket, key, *args, **given)

    store, model = Refusing(is_aws=False, checks_whole=False), made("tar.gz")
    await store.put_source(model.key, model.data)
    await stage(asked(model), store=store)
    assert store.refused
    assert store.validation()["source_copy"] == "sent"


async def test_one_refusal_does_not_show_that_copies_are_conditional() -> None:
    class Refusing(Watched):
        refused = False

        async def copy_part(self, bucket: str, key: str, *args: Any) -> CopiedPart:
            if not self.refused:
                self.refused = True
                raise refusal("UploadPartCopy", bucket, key, "AccessDenied", 403)
            return await super().copy_part(bucket, key, *args)

    store, model = Refusing(is_aws=False, copies="unconditional"), made("tar.gz")
    await store.put_source(model.key, model.data)
    await stage(asked(model), store=store)
    assert store.validation()["source_copy"] == "sent"
    assert not store.account.copied


# ---- nothing unproven becomes visible


@pytest.mark.parametrize("seed", range(200))
async def test_a_flipped_bit_is_never_published(seed: int) -> None:
    """The store has copied one bit wrong, in one part; some stores even tell the checksum of the right one."""
    draw = random.Random(seed)
    model = made(draw.choice(["tar.gz", "tar", "riva"]), seed, sizes=(draw.randrange(1, 20_000), 3_000))
    check = draw.choice(["auto", "crc64nvme", "md5", "none"])
    weak: Copies = "lying" if check in {"auto", "crc64nvme"} and draw.random() < 0.5 else "flipped"
    store = Watched(is_aws=draw.random() < 0.5)
    sizes = [1700] * (len(model.data) // 1700) + [len(model.data) % 1700]
    await store.put_source(model.key, model.data, parts=draw.choice([[], sizes if sizes[-1] else sizes[:-1]]))
    request = asked(model, upload_check=check, source_copy=draw.choice(["auto", "store"]))
    total = await copies_of(request, model, store)
    struck = draw.randrange(total) + 1

    async def flip(count: int, _: CopySource) -> None:
        store.set_copies(weak if count == struck else "honoured")

    store.before = flip
    try:
        await stage(request, store=store)
    except (IntegrityError, ConfigurationError, TransientError):
        staged = store.staged()
        assert "staging_complete.txt" not in staged
        visible = {name: data for name, data in staged.items() if name in model.objects}
        assert visible == {name: model.objects[name] for name in visible}
    else:
        assert_staged(store, model)
        assert store.validation()["source_copy"] == "sent"
    assert len(store.account.copied) >= struck


async def copies_of(request: StageRequest, model: Model, store: Watched) -> int:
    """How many parts are copied where nothing is wrong."""
    other = store.copy()
    other.account = Account()
    await stage(request, store=other)
    return len(other.account.copied)


async def test_bytes_that_were_copied_wrong_end_the_run() -> None:
    store, model = Watched(copies="flipped"), made("tar.gz")
    await store.put_source(model.key, model.data)
    with pytest.raises(DigestMismatchError) as caught:
        await stage(asked(model), store=store)
    assert caught.value.where.operation == "UploadPartCopy"
    assert_nothing_left(store)


def test_a_copy_that_was_not_proven_is_never_completed() -> None:
    upload = Upload("k", "a/b", {}, "u", "r", lambda *_: None)
    upload.parts = {1: SentPart(1, 3, "e", "", None, None, proven=False)}
    with pytest.raises(RuntimeError):
        upload.completed_parts()


@pytest.mark.parametrize("kind", ["tar.gz", "tar"])
@pytest.mark.parametrize("at", [1, 2, 3])
async def test_a_source_that_changes_in_mid_copy_ends_the_run(kind: str, at: int) -> None:
    store, model = Watched(), made(kind, sizes=(30_000,))
    other = made(kind, "another", sizes=(30_000,))
    await store.put_source(model.key, model.data)

    async def replace(count: int, _: CopySource) -> None:
        if count == at:
            await store.put_source(model.key, other.data)

    store.before = replace
    seen: list[Event] = []
    with pytest.raises(SourceChangedError):
        await stage(asked(model), store=store, observer=seen.append)
    assert_nothing_left(store)
    # Nor was it taken for a store that does not copy, and read once more.
    assert not [event for event in seen if isinstance(event, Warned) and event.code == "source-copy"]


async def test_a_refused_condition_is_the_stores_mistake_while_the_source_is_unchanged() -> None:
    store, model = Watched(), made("tar.gz")
    await store.put_source(model.key, model.data)

    async def fail(_: int, __: CopySource) -> None:
        raise SourceChangedError("replaced").located(status=412, code="PreconditionFailed")

    store.before = fail
    await stage(asked(model), store=store)
    assert_staged(store, model)
    assert store.validation()["source_copy"] == "sent"


async def test_a_version_may_be_copied_without_the_right_to_versions() -> None:
    store, model = Watched(versioned=True), made("tar.gz")
    await store.put_source(model.key, model.data)

    async def deny(_: int, source: CopySource) -> None:
        if source.version_id is not None:
            await refuse(0, source)

    store.before = deny
    await stage(asked(model), store=store)
    assert_staged(store, model)
    assert store.validation()["source_copy"] == "crc64nvme"
    assert None in {source.version_id for _, source in store.account.copied}


# ---- what passes, and what was done before


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("kind", [TransientError, ThrottledError])
async def test_a_copy_is_tried_again(kind: type[RivaStreamError], done: bool) -> None:
    """As when its answer is lost, or says 200 and then fails."""
    store, model = Watched(), made("tar")
    await store.put_source(model.key, model.data)
    failed = set[int]()

    async def fail(_: int, source: CopySource) -> None:
        if source.first not in failed:
            failed.add(source.first or 0)
            raise kind("it failed")

    store.before, store.after = (do_nothing, fail) if done else (fail, do_nothing)
    await stage(asked(model), store=store)
    assert_staged(store, model)
    assert store.validation()["source_copy"] == "crc64nvme"
    assert len(failed) > 3


async def test_a_store_that_keeps_failing_leaves_what_a_rerun_resumes() -> None:
    store, model = Watched(), made("tar.gz", sizes=(40_000,))
    await store.put_source(model.key, model.data)

    async def fail(count: int, _: CopySource) -> None:
        if count > 3:
            raise TransientError("it failed")

    store.before = fail
    with pytest.raises(TransientError):
        await stage(asked(model), store=store)
    first = store.account
    store.account, store.before = Account(), do_nothing
    report = await stage(asked(model), store=store)
    assert_staged(store, model)
    assert any(warning.code == "resume" for warning in report.warnings)
    before = [source for _, source in first.copied[:3]]
    assert not [source for _, source in store.account.copied if source in before]
    assert len(store.account.copied) == -(-len(model.data) // COPIED) - 3


async def test_copies_that_were_left_are_proven_like_all_others() -> None:
    store, model = Watched(), made("tar.gz", sizes=(40_000,))
    await store.put_source(model.key, model.data)
    begun = anyio.Event()

    async def wait(count: int, _: CopySource) -> None:
        store.set_copies("flipped" if count == 2 else "honoured")
        if count > 3:
            begun.set()
            await anyio.sleep_forever()

    store.before = wait
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: stage(asked(model), store=store))
        await begun.wait()
        tasks.cancel_scope.cancel()
    store.before = do_nothing
    store.set_copies("honoured")
    with pytest.raises(DigestMismatchError):
        await stage(asked(model), store=store)
    assert_nothing_left(store)
    report = await stage(asked(model), store=store)  # nothing of it was kept
    assert_staged(store, model)
    assert report.outcome == "staged"


async def test_parts_that_were_sent_instead_are_not_taken_for_copies() -> None:
    """The last copy may be as large as a part that is sent. A run fell back to sending, and was interrupted; the next one, which copied, ended with 65 for good."""

    class FallsBack(Watched):
        is_broken = True
        sent = 0

        async def copy_part(self, bucket: str, key: str, *args: Any) -> CopiedPart:
            if self.is_broken and ".riva-stream/" not in key:
                raise refusal("UploadPartCopy", bucket, key, "NotImplemented", 501)
            return await super().copy_part(bucket, key, *args)

        async def upload_part(self, bucket: str, key: str, *args: Any) -> str:
            if self.is_broken and ".riva-stream/" not in key:
                self.sent += 1
                if self.sent > enough:
                    scope.cancel()
            return await super().upload_part(bucket, key, *args)

    model = made("riva", sizes=(3 * COPIED + PART,))
    interruptions = 0
    for enough in range(1, 40):
        store = FallsBack()
        await store.put_source(model.key, model.data)
        with anyio.CancelScope() as scope:
            await stage(asked(model, checkpoint=COPIED), store=store)
        if not scope.cancelled_caught:
            break
        interruptions += 1
        store.is_broken = False
        report = await stage(asked(model, checkpoint=COPIED), store=store)
        assert report.outcome == "staged", enough
        assert_staged(store, model)
    assert interruptions > 2


@pytest.mark.parametrize("kind", ["riva", "tar"])
async def test_a_run_that_keeps_falling_back_and_being_interrupted_comes_to_an_end(kind: str) -> None:
    """Where copies are refused in the middle each run began with them again, and then with what it sends in their place."""

    class Refuses(Watched):
        sent = 0

        async def copy_part(self, bucket: str, key: str, *args: Any) -> CopiedPart:
            if ".riva-stream/" not in key:
                raise refusal("UploadPartCopy", bucket, key, "NotImplemented", 501)
            return await super().copy_part(bucket, key, *args)

        async def upload_part(self, bucket: str, key: str, *args: Any) -> str:
            if "/source/" in key or "/models/" in key:  # what is interrupted in its commit is sent anew
                self.sent += 1
                if self.sent > 6:
                    scope.cancel()
            return await super().upload_part(bucket, key, *args)

    store, model = Refuses(), made(kind, sizes=(20_000,))
    await store.put_source(model.key, model.data)
    for _ in range(12):
        store.sent = 0
        with anyio.CancelScope() as scope:
            report = await stage(asked(model, checkpoint=COPIED), store=store)
        if not scope.cancelled_caught:
            break
    assert not scope.cancelled_caught
    assert_staged(store, model)
    assert report.artifact is not None
    assert report.artifact.validation.source_copy == "sent"
    assert report.artifact.validation.source_copy_reason


async def test_a_dry_run_says_who_makes_the_copy_and_leaves_nothing() -> None:
    store, model = Watched(is_aws=False), made("tar.gz")
    await store.put_source(model.key, model.data)
    plan = await planned(stage(asked(model, dry_run=True), store=store))
    assert plan.source_copy == "crc64nvme"
    plan = await planned(stage(asked(model, dry_run=True, source_copy="send"), store=store))
    assert plan.source_copy == "sent"
    assert_nothing_left(store)


async def planned(run: Awaitable[StageReport]) -> Any:
    return (await run).plan


@pytest.mark.parametrize("copied", [True, False])
async def test_summary_and_bars_tell_of_copies(copied: bool) -> None:
    store, model = Watched(copies="honoured" if copied else "refused"), made("tar")
    await store.put_source(model.key, model.data)
    counters = Counters()
    seen: list[Event] = []
    report = await stage(asked(model), store=store, observer=seen.append)
    for event in seen:
        if isinstance(event, Progress):
            counters.update(event, event.elapsed)
    text, validation = summary_text(report), store.validation()
    assert ("crc64nvme" in text.partition("source copied")[2].partition("\n")[0]) == copied
    assert (validation["source_copy_reason"] in text) or copied
    assert "copied" in counters.shown
    assert counters.lanes["copied"] == (sum(map(len, model.objects.values())) if copied else 0)
    assert counters.lanes["durable"] == store.account.payload()
    assert counters.percent == 100.0


async def test_nothing_is_shown_of_copies_where_all_is_sent() -> None:
    store, model = Watched(), made("tar")
    await store.put_source(model.key, model.data)
    seen: list[Event] = []
    await stage(asked(model, source_copy="send"), store=store, observer=seen.append)
    assert not [event for event in seen if isinstance(event, Progress) and "copied" in event.counts]


class _Flaky(Watched):
    """Says once, of one range, that there is no such object."""

    ranges = 0

    @asynccontextmanager
    async def get_range(self, bucket: str, key: str, **options: Any) -> AsyncIterator[RangeReply]:
        self.ranges += 1
        if self.ranges == 2:
            raise refusal("GetObject", bucket, key, "404", 404)
        async with super().get_range(bucket, key, **options) as reply:
            yield reply


async def test_one_404_of_a_range_is_looked_into_as_a_412_is() -> None:
    """Something in front of the store has no route for a moment: exit 65, and all that was sent is aborted."""
    store, model = _Flaky(), made("tar.gz")
    await store.put_source(model.key, model.data)
    report = await stage(asked(model, source_copy="send"), store=store)
    assert report.outcome == "staged"


# ---- what the journal tells of the copies


IDENTITY: dict[str, Any] = {
    "source": "s3://m/a.tar.gz",
    "etag": "e",
    "version_id": None,
    "size": 1,
    "include": [],
    "part_size": 8 * MIB,
    "check": "md5",
}
OF_0_2 = {**IDENTITY, "options": ["None", "None", "None", "copy=crc64nvme"]}
"""As version 0.2.0 writes it."""


def test_how_the_source_is_copied_is_a_field_of_its_own() -> None:
    identity = Identity(**IDENTITY, options=["None", "None", "None"], source_copy="crc64nvme")
    assert Identity.model_validate(OF_0_2) == identity, "and is read of an older run"
    written = json.loads(identity.model_dump_json())
    assert written == {**OF_0_2, "source_copy": "crc64nvme"}, "an older run finds all that it compares"
    assert Identity.model_validate(written) == identity


def test_a_run_that_sends_is_as_it_was() -> None:
    older = {**IDENTITY, "options": ["None", "None", "None", "acl=private"]}
    identity = Identity.model_validate(older)
    assert identity.source_copy == "sent"
    assert json.loads(identity.model_dump_json()) == {**older, "source_copy": "sent"}


@pytest.mark.parametrize("options", [None, 7, {}, [7], [["copy=x"]], "copy=x"], ids=repr)
def test_options_that_are_none_are_refused_as_such(options: object) -> None:
    with pytest.raises(ValidationError, match="options"):
        Identity.model_validate({**IDENTITY, "options": options})
