"""`read_staging()`: what it gives is one staging and the very bytes that were staged, or it says that it is not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from riva_stream import (
    ConfigurationError,
    DestinationConflictError,
    DigestMismatchError,
    HeldError,
    IntegrityError,
    SourceNotFoundError,
    StageRequest,
    TransientError,
    read_staging,
    stage,
)
from riva_stream.inspection.staging import STAGING_REPLACED
from riva_stream.inspection.verify import verify
from riva_stream.manifest import json_bytes
from riva_stream.retry import RetryPolicy
from riva_stream.s3 import Document, ObjectInfo, PartBody, RangeReply, Window
from riva_stream.s3.memory import MemoryStore
from riva_stream.sizes import MIB
from tests.staging import PREFIX
from tests.support.archives import archive_bytes

BUCKET = "deployments"
PLACE = f"s3://{BUCKET}/{PREFIX}"
MODEL = "models/model-1.riva"
IMAGE = "images/server.tar.gz"


class Store(MemoryStore):
    """A store in memory in which a test can come between two requests of a reader."""

    def __init__(self, **options: Any) -> None:
        super().__init__(BUCKET, **options)
        self.before: dict[tuple[str, str], Callable[[], Awaitable[Any]]] = {}
        """Operation and path → what happens, once, before such a request."""
        self.down: set[str] = set()
        """Paths whose requests meet a network that is down."""
        self.flipped = False
        """Whether a byte of each range arrives as another."""
        self.missed: set[int] = set()
        """Requests, by their number among those that read, that are told that there is nothing."""
        self.asked: list[str] = []
        """Paths of all requests that read."""

    async def _comes(self, operation: str, key: str) -> None:
        path = key.removeprefix(PREFIX)
        self.asked.append(path)
        if path in self.down:
            raise TransientError("the connection was reset")
        if act := self.before.pop((operation, path), None):
            await act()

    async def head(self, bucket: str, key: str, *, window: Window | None = None) -> ObjectInfo | None:
        await self._comes("HEAD", key)
        if len(self.asked) in self.missed:
            return None
        return await super().head(bucket, key, window=window)

    async def get(self, bucket: str, key: str, *, limit: int) -> Document | None:
        await self._comes("GET", key)
        if len(self.asked) in self.missed:
            return None
        return await super().get(bucket, key, limit=limit)

    @asynccontextmanager
    async def get_range(self, bucket: str, key: str, **options: Any) -> AsyncIterator[RangeReply]:
        await self._comes("RANGE", key)
        async with super().get_range(bucket, key, **options) as reply:

            async def pieces() -> AsyncIterator[bytes]:
                async for piece in reply.pieces:
                    yield bytes([piece[0] ^ self.flipped]) + piece[1:]

            yield replace(reply, pieces=pieces())

    def read(self, path: str) -> bytes:
        found = self.look(BUCKET, PREFIX + path)
        assert found is not None, path
        return found.data

    async def write(self, path: str, data: bytes, *, prefix: str = PREFIX) -> None:
        """Put an object, with the metadata of the one that is there."""
        there = self.look(BUCKET, prefix + path)
        metadata: Mapping[str, str] = there.metadata if there else {}
        body = PartBody((data,), len(data))
        await self.put(BUCKET, prefix + path, body, content_type="a/b", metadata=metadata)

    async def remove(self, path: str) -> None:
        await self.delete(BUCKET, PREFIX + path)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries come at once."""
    monkeypatch.setattr(RetryPolicy, "delay", lambda *_: 0.0)


async def staged(store: Store, size: int = MIB, seed: str = "a", **fields: Any) -> StageRequest:
    await store.write("model.tar.gz", archive_bytes(size, members=2, seed=seed)[0], prefix="")
    given: dict[str, Any] = {
        "source": f"s3://{BUCKET}/model.tar.gz",
        "bucket": BUCKET,
        "env": "prod",
        "model_name": "parakeet-rnnt-en-us",
        "model_version": "v2025.09",
        "force": True,
    }
    request = StageRequest.model_validate(given | fields)
    await stage(request, store=store)
    return request


async def reseal(store: Store, **changes: Callable[[dict[str, Any]], None]) -> None:
    """Change ``artifact`` or ``manifest``, and write what vouches for them for what they are then."""
    marker = store.read("staging_complete.txt")
    artifact, manifest = store.read("artifact.json"), store.read("upload_manifest.json")
    document, listed = json.loads(artifact), json.loads(manifest)
    for name, change in changes.items():
        change({"artifact": document, "manifest": listed}[name])
    await store.write("artifact.json", json_bytes(document))
    info = await store.head(BUCKET, f"{PREFIX}artifact.json")
    assert info is not None
    digest = hashlib.sha256(store.read("artifact.json")).hexdigest()
    listed["files"]["metadata"] |= {
        "etag": info.etag,
        "size_bytes": info.size,
        "checksum": f"sha256:{digest}",
    }
    listed["files"]["metadata"]["store_checksum"] = None
    await store.write("upload_manifest.json", json_bytes(listed))
    for name, old in (("artifact.json", artifact), ("upload_manifest.json", manifest)):
        hashes = [hashlib.sha256(data).hexdigest().encode() for data in (old, store.read(name))]
        marker = marker.replace(hashes[0], hashes[1])
    await store.write("staging_complete.txt", marker)


async def read_whole(store: Store, path: str = MODEL) -> bytes:
    async with read_staging(PLACE, store) as staging, staging.read(path) as pieces:
        return b"".join([bytes(piece) async for piece in pieces])


def flipped(data: bytes) -> bytes:
    return data[:1000] + bytes([data[1000] ^ 1]) + data[1001:]


def of_version_0_1(marker: bytes) -> bytes:
    lines = marker.splitlines(keepends=True)
    return b"".join(line for line in lines if not line.startswith((b"SHA-256 of upload_manifest", b"Token")))


@pytest.mark.parametrize("options", [{}, {"versioned": True}])
async def test_a_whole_staging_is_given_with_all_that_pins_its_objects(options: dict[str, bool]) -> None:
    store = Store(**options)
    request = await staged(store)
    async with read_staging(PLACE.rstrip("/"), store) as staging:
        assert (staging.destination, staging.mode, staging.vouched) == (request.destination, "full", True)
        assert staging.artifact is not None
        assert staging.manifest is not None
        assert (staging.run_id, staging.deployment) == (staging.manifest.upload_id, None)
        assert set(staging.objects) == {
            "source/model.tar.gz",
            "models/model-0.riva",
            MODEL,
            "checksums.sha256",
            "artifact.json",
        }
        for path, item in staging.objects.items():
            there = store.look(BUCKET, item.key)
            assert there is not None
            assert (item.etag, item.version_id) == (there.etag, there.version_id)
            assert (item.size, item.sha256) == (len(there.data), hashlib.sha256(there.data).hexdigest())
            async with staging.read(path) as pieces:
                assert b"".join([bytes(piece) async for piece in pieces]) == there.data
        await staging.still_stands()


async def test_no_object_is_read_until_it_is_asked_for(store: Store) -> None:
    await staged(store)
    store.asked.clear()
    async with read_staging(PLACE, store):
        pass
    assert store.asked[0] == store.asked[-1] == "staging_complete.txt"
    assert not [path for path in store.asked if "/" in path]


async def test_ranges_and_their_order(store: Store) -> None:
    """A large object comes in several ranges at once, and in order."""
    await staged(store, 40 * MIB)
    store.asked.clear()
    assert await read_whole(store, "source/model.tar.gz") == store.read("source/model.tar.gz")
    assert store.asked.count("source/model.tar.gz") > 4


@pytest.mark.parametrize("mode", ["full", "reference_only", "bintarball_reference"])
async def test_deployment_json_goes_by_its_own_marker(store: Store, mode: str) -> None:
    await store.write(IMAGE, b"a container image", prefix="")
    fields: dict[str, Any] = {} if mode == "full" else {mode: True}
    request = await staged(store, server_path=IMAGE, **fields)
    async with read_staging(request.destination, store) as staging:
        assert staging.deployment is not None
        assert (staging.mode, staging.vouched, bool(staging.objects)) == (mode, True, mode == "full")
    other = store.look(BUCKET, request.prefix + "deployment.json")
    assert other is not None
    data = other.data.replace(b"server.tar.gz", b"others.tar.gz")
    await store.write("deployment.json", data, prefix=request.prefix)
    with pytest.raises(IntegrityError, match=r"deployment_ready\.txt was written for") as caught:
        async with read_staging(request.destination, store):
            pass
    assert caught.value.where.key == request.prefix + "deployment.json"


@pytest.mark.parametrize("name", ["artifact.json", "upload_manifest.json", "checksums.sha256"])
async def test_a_document_of_another_run_is_told_and_named(store: Store, name: str) -> None:
    """Both runs staged good documents; those of one beside the marker of the other are a torn set."""
    await staged(store, seed="one")
    old = store.read(name)
    await staged(store, seed="two")
    await store.write(name, old)
    with pytest.raises(IntegrityError) as caught:
        await read_whole(store)
    assert caught.value.where.key == PREFIX + name
    report = await verify(store, BUCKET, PREFIX)
    assert name in [entry.key.removeprefix(PREFIX) for entry in report.objects if not entry.ok]


async def test_a_manifest_of_another_run_with_the_same_source_is_told(store: Store) -> None:
    """Keys, sizes and digests agree then: only the marker can tell."""
    await staged(store, run_id="130-one")
    old = store.read("upload_manifest.json")
    await staged(store, run_id="130-one")
    assert old != store.read("upload_manifest.json")
    await store.write("upload_manifest.json", old)
    with pytest.raises(IntegrityError, match=r"staging_complete\.txt was written for") as caught:
        await read_whole(store)
    assert caught.value.where.key == f"{PREFIX}upload_manifest.json"


@pytest.mark.parametrize("name", ["artifact.json", "upload_manifest.json", "checksums.sha256"])
async def test_a_document_that_is_gone_is_told(store: Store, name: str) -> None:
    await staged(store)
    await store.remove(name)
    with pytest.raises(IntegrityError, match="it is missing") as caught:
        await read_whole(store)
    assert caught.value.where.key == PREFIX + name


async def test_an_object_that_was_replaced_is_told(store: Store) -> None:
    await staged(store)
    await store.write(MODEL, flipped(store.read(MODEL)))
    with pytest.raises(IntegrityError, match="its ETag is") as caught:
        await read_whole(store)
    assert caught.value.where.key == PREFIX + MODEL
    assert not isinstance(caught.value, DigestMismatchError)
    assert await read_whole(store, "models/model-0.riva")  # the others are as good as before


async def test_an_object_that_is_missing_is_told(store: Store) -> None:
    await staged(store)
    await store.remove(MODEL)
    with pytest.raises(IntegrityError, match="it is missing") as caught:
        await read_whole(store)
    assert caught.value.where.key == PREFIX + MODEL


async def test_a_byte_that_arrives_as_another_is_told_before_the_last_range(store: Store) -> None:
    await staged(store, 30 * MIB)
    store.flipped = True
    given = 0

    async def read() -> None:
        nonlocal given
        async with read_staging(PLACE, store) as staging, staging.read(MODEL) as pieces:
            async for piece in pieces:
                given += len(piece)

    with pytest.raises(DigestMismatchError, match="its SHA-256 is") as caught:
        await read()
    assert caught.value.where.key == PREFIX + MODEL
    assert 0 < given < len(store.read(MODEL))


async def test_an_object_that_is_replaced_while_it_is_read_is_told(store: Store) -> None:
    await staged(store)
    store.before["RANGE", MODEL] = lambda: store.write(MODEL, flipped(store.read(MODEL)))
    with pytest.raises(IntegrityError, match="replaced or removed while it was read") as caught:
        await read_whole(store)
    assert caught.value.where.key == PREFIX + MODEL


@pytest.mark.parametrize("operation", ["HEAD", "RANGE"])
async def test_a_staging_that_is_replaced_while_it_is_read_is_not_called_damaged(
    store: Store, operation: str
) -> None:
    await staged(store)
    store.before[operation, MODEL] = lambda: staged(store, seed="another")
    with pytest.raises(HeldError, match="was replaced") as caught:
        await read_whole(store)
    assert (caught.value.where.code, caught.value.exit_code) == (STAGING_REPLACED, 75)


async def test_a_staging_that_is_replaced_between_its_documents_is_not_called_damaged(store: Store) -> None:
    await staged(store)
    store.before["GET", "artifact.json"] = lambda: staged(store, seed="another")
    with pytest.raises(HeldError) as caught:
        await read_whole(store)
    assert caught.value.where.code == STAGING_REPLACED


@pytest.mark.parametrize("same_bytes", [True, False])
async def test_the_marker_is_looked_at_again_at_the_end(store: Store, same_bytes: bool) -> None:
    """Also where the new staging has the very same objects: what was read may still be of two."""
    await staged(store, run_id="130-one")

    async def read() -> None:
        async with read_staging(PLACE, store) as staging:
            await staged(store, run_id="130-one", seed="a" if same_bytes else "b")
            with pytest.raises(HeldError):
                await staging.still_stands()

    with pytest.raises(HeldError) as caught:
        await read()
    assert caught.value.where.code == STAGING_REPLACED


async def test_a_marker_that_goes_away_is_told(store: Store) -> None:
    await staged(store)
    with pytest.raises(HeldError):
        async with read_staging(PLACE, store):
            await store.remove("staging_complete.txt")


async def test_an_image_that_is_added_meanwhile_does_not_matter_and_one_that_goes_does(store: Store) -> None:
    await staged(store)
    await store.write(IMAGE, b"a container image", prefix="")
    async with read_staging(PLACE, store):
        await staged(store, server_path=IMAGE, force=False)
    with pytest.raises(HeldError):
        async with read_staging(PLACE, store):
            await store.remove("deployment_ready.txt")


async def test_a_marker_of_version_0_1_does_not_vouch_for_the_manifest(store: Store) -> None:
    await staged(store)
    await store.write("staging_complete.txt", of_version_0_1(store.read("staging_complete.txt")))
    async with read_staging(PLACE, store) as staging, staging.read(MODEL) as pieces:
        assert not staging.vouched
        assert b"".join([bytes(piece) async for piece in pieces]) == store.read(MODEL)
    report = await verify(store, BUCKET, PREFIX)
    assert report.ok, [entry for entry in report.objects if not entry.ok]
    assert [note.code for note in report.notes] == ["manifest-unvouched"]


async def test_under_a_marker_of_version_0_1_digests_still_go_by_the_artifact(store: Store) -> None:
    await staged(store)
    await store.write("staging_complete.txt", of_version_0_1(store.read("staging_complete.txt")))
    artifact, manifest = (store.read(name) for name in ("artifact.json", "upload_manifest.json"))
    digest = hashlib.sha256(store.read(MODEL)).hexdigest().encode()
    assert digest in artifact
    await store.write("upload_manifest.json", manifest.replace(digest, b"0" * 64))
    with pytest.raises(IntegrityError, match=r"about prod/.*models/model-1\.riva") as caught:
        await read_whole(store)
    assert caught.value.where.key == f"{PREFIX}upload_manifest.json"


async def test_nothing_there_is_nothing_found(store: Store) -> None:
    with pytest.raises(SourceNotFoundError, match="nothing is staged"):
        await read_whole(store)
    await staged(store)
    await store.remove("staging_complete.txt")
    with pytest.raises(SourceNotFoundError, match="objects without a marker"):
        await read_whole(store)
    await staged(store)
    with pytest.raises(SourceNotFoundError, match=r"has no 'models/other\.riva'"):
        await read_whole(store, "models/other.riva")
    with pytest.raises(ConfigurationError):
        async with read_staging(PREFIX, store):
            pass


@pytest.mark.parametrize("path", ["staging_complete.txt", "artifact.json", "upload_manifest.json", MODEL])
async def test_a_network_that_is_down_is_no_damage(store: Store, path: str, impatient: None) -> None:
    await staged(store)
    store.down = {path}
    with pytest.raises(TransientError) as caught:
        await read_whole(store)
    assert not isinstance(caught.value, HeldError)
    with pytest.raises(TransientError):
        await verify(store, BUCKET, PREFIX)


async def test_a_network_that_fails_at_the_last_look_is_no_replacement(store: Store, impatient: None) -> None:
    await staged(store)
    with pytest.raises(TransientError) as caught:
        async with read_staging(PLACE, store):
            store.down = {"staging_complete.txt"}
    assert not isinstance(caught.value, HeldError)


async def test_an_error_of_the_block_comes_out_as_it_is(store: Store) -> None:
    await staged(store, 30 * MIB)
    mine = ExceptionGroup("mine", [ValueError("one"), ValueError("two")])

    async def read() -> None:
        async with read_staging(PLACE, store) as staging, staging.read(MODEL) as pieces:
            async for _ in pieces:
                raise mine

    with pytest.raises(ExceptionGroup) as caught:
        await read()
    assert caught.value is mine
    async with read_staging(PLACE, store) as staging, staging.read(MODEL) as pieces:
        async for _ in pieces:
            break  # leaving early is no error


@pytest.mark.parametrize("deep", [False, True])
async def test_verify_tells_a_replaced_staging_as_such(store: Store, deep: bool) -> None:
    await staged(store)
    store.before["RANGE" if deep else "HEAD", MODEL] = lambda: staged(store, seed="another")
    with pytest.raises(HeldError, match="was replaced") as caught:
        await verify(store, BUCKET, PREFIX, deep=deep)
    assert (caught.value.where.code, caught.value.exit_code) == (STAGING_REPLACED, 75)


async def test_verify_tells_an_image_that_is_added_meanwhile(store: Store) -> None:
    await staged(store)
    await store.write(IMAGE, b"a container image", prefix="")
    store.before["HEAD", MODEL] = lambda: staged(store, server_path=IMAGE, force=False)
    with pytest.raises(HeldError):
        await verify(store, BUCKET, PREFIX)


async def test_verify_deep_finds_a_byte_that_arrives_as_another(store: Store) -> None:
    await staged(store)
    store.flipped = True
    assert (await verify(store, BUCKET, PREFIX)).ok
    report = await verify(store, BUCKET, PREFIX, deep=True)
    wrong = {entry.key.removeprefix(PREFIX) for entry in report.objects if not entry.ok}
    assert wrong == {"source/model.tar.gz", "models/model-0.riva", MODEL}


async def test_what_is_told_to_be_missing_once_is_looked_for_again(store: Store) -> None:
    """404 to any one request but that for the marker, without which nobody knows that there is anything."""
    await staged(store)
    store.asked.clear()
    assert (await verify(store, BUCKET, PREFIX)).ok
    assert store.asked[0] == "staging_complete.txt"
    for number in range(2, len(store.asked) + 1):
        store.asked.clear()
        store.missed = {number}
        assert (await verify(store, BUCKET, PREFIX)).ok, number
    for number in (2, 3, 5, 6):  # artifact.json and the like, then a model
        store.asked.clear()
        store.missed = {number}
        assert await read_whole(store), number


async def test_keys_elsewhere_in_a_manifest_are_one_difference(store: Store) -> None:
    """Each was one, and compared with all others: a hostile manifest took hours."""
    asked = await staged(store)
    await store.write("staging_complete.txt", of_version_0_1(store.read("staging_complete.txt")))
    manifest = json.loads(store.read("upload_manifest.json"))
    model = manifest["files"]["models"][0]
    manifest["files"]["models"] += [model | {"s3_key": f"elsewhere/{number}.riva"} for number in range(3000)]
    await store.write("upload_manifest.json", json.dumps(manifest).encode())
    report = await verify(store, asked.bucket, asked.prefix)
    (entry,) = [it for it in report.objects if it.key.endswith("/upload_manifest.json")]
    found = {difference.code: difference.message for difference in entry.differences}
    assert len(found) == len(entry.differences)
    assert {"outside", "artifact.json"} <= set(found)
    assert max(map(len, found.values())) < 1000


@pytest.mark.parametrize("place", ["s3://deployments", "s3://deployments/", "s3://deployments/artifact.json"])
async def test_a_bucket_is_no_staging(store: Store, place: str) -> None:
    with pytest.raises(ConfigurationError, match="names a bucket, not a staging in it"):
        async with read_staging(place, store):
            pass
    assert not store.asked


def updated(*path: str, **values: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        for step in path:
            document = document[step]
        document.update(values)

    return change


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"artifact": updated("primary_model", relative_path="models/nowhere.riva")}, "primary-model"),
        ({"artifact": updated(primary_model=None)}, "primary-model"),
        ({"artifact": updated("model", version="v0")}, "place"),
        ({"artifact": updated("model", name="canary")}, "place"),
        ({"artifact": updated("deployment", environment="dev")}, "place"),
        ({"artifact": updated("deployment", s3_bucket="elsewhere")}, "place"),
        ({"artifact": updated(schema_version="2.0")}, "malformed"),
        ({"manifest": updated(schema_version="2.0")}, "malformed"),
    ],
)
async def test_a_sealed_document_that_contradicts_itself_is_not_handed_over(
    store: Store, change: dict[str, Callable[[dict[str, Any]], None]], code: str
) -> None:
    request = await staged(store)
    await reseal(store, **change)
    report = await verify(store, BUCKET, PREFIX)
    wrong = {found.code for entry in report.objects for found in entry.differences}
    assert (report.ok, code in wrong) == (False, True), wrong
    with pytest.raises(IntegrityError):
        await read_whole(store)
    error = DestinationConflictError if code == "malformed" else IntegrityError
    with pytest.raises(error):
        await stage(request.model_copy(update={"force": False}), store=store)


async def test_unknown_fields_and_minor_versions_are_read(store: Store) -> None:
    request = await staged(store)
    newer = updated(schema_version="1.7", something_new={"a": 1})
    await reseal(store, artifact=newer, manifest=newer)
    report = await verify(store, BUCKET, PREFIX)
    assert report.ok, [entry for entry in report.objects if not entry.ok]
    await read_whole(store)
    assert (await stage(request.model_copy(update={"force": False}), store=store)).outcome == "already_staged"
