"""Sources that are not what their names say: bare models that are none, and what a Mac leaves beside archives."""

from __future__ import annotations

import gzip
import io
import json
import shlex
import tarfile
from typing import Any

import anyio
import pytest

from riva_stream import SourceNotFoundError, StageRequest, stage
from riva_stream.cli.command import Invocation
from riva_stream.cli.failure import failure_of
from riva_stream.errors import ArchiveError, ConfigurationError, DestinationConflictError, StalledError
from riva_stream.events import Event, Warned
from riva_stream.inspection.find import no_staging_error
from riva_stream.pipeline.begin import deadline
from riva_stream.retry import Retrier, RetryPolicy
from riva_stream.s3 import Bucket, PartBody
from riva_stream.s3.memory import MemoryStore
from tests.support.archives import archive_bytes, riva_bytes

pytestmark = pytest.mark.usefixtures("flags_in_hints")

BUCKET = "staging"
TWIN = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(100)


def tar(*names: str) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as file:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 5
            file.addfile(info, io.BytesIO(b"bytes"))
    return raw.getvalue()


def request(source: str, **fields: Any) -> StageRequest:
    given: dict[str, Any] = {
        "source": f"s3://{BUCKET}/{source}",
        "bucket": BUCKET,
        "env": "prod",
        "model_name": "m",
        "model_version": "v1",
        "region": "us-east-1",
    }
    return StageRequest.model_validate(given | fields)


async def store_of(**objects: bytes) -> MemoryStore:
    store = MemoryStore(BUCKET)
    for key, data in objects.items():
        await store.put(BUCKET, key, PartBody((data,), len(data)), content_type="a/b", metadata={})
    return store


# ---- bare models


@pytest.mark.parametrize(
    ("name", "data", "layers"),
    [
        ("._model.riva", TWIN, ("appledouble",)),
        ("model.riva", b"<!DOCTYPE html><html><body>502 Bad Gateway</body></html>", ("html",)),
        ("model.riva", b"\n <html>" + bytes(9000), ("html",)),
        ("model.riva", b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", ("xml",)),
        ("model.riva", b'{"message": "not found"}', ("json",)),
        ("model.riva", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", ("git-lfs",)),
        ("model.riva", b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n" + riva_bytes(9000), ("http",)),
    ],
)
async def test_what_no_model_can_be_is_refused(name: str, data: bytes, layers: tuple[str, ...]) -> None:
    store = await store_of(**{f"in/{name}": data})
    with pytest.raises(ArchiveError) as caught:
        await stage(request(f"in/{name}"), store=store)
    assert (caught.value.exit_code, caught.value.fault) == (65, "layer")
    assert caught.value.layers[: len(layers)] == layers
    assert caught.value.where.key == f"in/{name}"
    assert store.keys(BUCKET, "prod/") == []
    assert not store.open_uploads(BUCKET)


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(tar("a.riva", "b.riva")),
        b"PK\x03\x04" + bytes(300),
        b"7z\xbc\xaf\x27\x1c" + bytes(300),
        b"just some words\n",
        TWIN,
    ],
    ids=["tar.gz", "zip", "7z", "text", "magic alone"],
)
async def test_what_is_odd_for_a_model_is_staged_with_a_warning(data: bytes) -> None:
    seen: list[Event] = []
    store = await store_of(**{"in/model.riva": data})
    await stage(request("in/model.riva"), store=store, observer=seen.append)
    assert "bare-model" in {event.code for event in seen if isinstance(event, Warned)}


@pytest.mark.parametrize(
    "data",
    [riva_bytes(9000), b"{" + bytes(range(256)) * 40, b"\x80" * 5000, b"\0" * 100 + b"weights" * 2000],
    ids=["a model", "begins as JSON", "unknown", "begins with zeros"],
)
async def test_a_model_is_staged_without(data: bytes) -> None:
    seen: list[Event] = []
    store = await store_of(**{"in/model.riva": data})
    report = await stage(request("in/model.riva"), store=store, observer=seen.append)
    assert report.outcome == "staged"
    assert "bare-model" not in {event.code for event in seen if isinstance(event, Warned)}


# ---- what fits a glob


@pytest.mark.parametrize("source", ["in/", "in/*.tar.gz", "in/*", "*/*.tar.gz"])
async def test_appledouble_twins_do_not_count(source: str) -> None:
    data, _ = archive_bytes(100_000)
    seen: list[Event] = []
    store = await store_of(**{"in/x.tar.gz": data, "in/._x.tar.gz": TWIN, "in/__MACOSX/._x.tar.gz": TWIN})
    report = await stage(request(source), store=store, observer=seen.append)
    assert report.artifact is not None
    assert report.artifact.source.filename == "x.tar.gz"
    (told,) = [event for event in seen if isinstance(event, Warned) and event.code == "leftovers"]
    assert "._x.tar.gz" in told.message


@pytest.mark.parametrize(
    ("key", "data"),
    [
        ("in/.AppleDouble/x.tar.gz", TWIN),
        ("in/__MACOSX/x.tar.gz", TWIN),
        ("in/._y.tar.gz", TWIN),
        ("in/Icon\r", b""),
    ],
)
async def test_neither_does_what_stands_in_such_a_folder(key: str, data: bytes) -> None:
    archive, _ = archive_bytes(100_000)
    store = await store_of(**{"in/x.tar.gz": archive, key: data})
    report = await stage(request("in/*"), store=store)
    assert report.artifact is not None
    assert report.artifact.source.filename == "x.tar.gz"


@pytest.mark.parametrize(("name", "data"), [("._x.tar.gz", None), ("y.tar.gz", TWIN)])
async def test_neither_the_name_nor_the_bytes_alone_leave_it_out(name: str, data: bytes | None) -> None:
    archive, _ = archive_bytes(100_000)
    store = await store_of(**{"in/x.tar.gz": archive, f"in/{name}": archive if data is None else data})
    with pytest.raises(SourceNotFoundError):
        await stage(request("in/*.tar.gz"), store=store)


async def test_where_only_twins_are_nothing_is_found() -> None:
    store = await store_of(**{"in/._x.tar.gz": TWIN, "in/._y.tar.gz": TWIN})
    with pytest.raises(SourceNotFoundError) as caught:
        await stage(request("in/*.tar.gz"), store=store)
    assert caught.value.exit_code == 66


# ---- errors as JSON


@pytest.mark.parametrize(
    ("key", "data", "layers"),
    [
        ("a.tar.gz", gzip.compress(gzip.compress(tar("a.riva"))), ["gzip", "gzip", "tar"]),
        ("a.tar.gz", b"<html></html>" * 9, ["html"]),
        ("a.riva", b"<html></html>" * 9, ["html"]),
        ("a.tar", tar("a.txt"), []),
    ],
)
async def test_an_error_about_an_archive_has_its_fault_and_its_layers(
    key: str, data: bytes, layers: list[str]
) -> None:
    with pytest.raises(ArchiveError) as caught:
        await stage(request(key), store=await store_of(**{key: data}))
    document = failure_of(caught.value, Invocation("riva-stream", ("stage",))).document("run")
    error = json.loads(json.dumps(document))["error"]
    assert (error["code"], error.get("layers", [])) == (caught.value.fault.value, layers)


async def test_an_error_about_something_else_has_none() -> None:
    with pytest.raises(SourceNotFoundError) as caught:
        await stage(request("nothing"), store=await store_of())
    document = failure_of(caught.value, Invocation("riva-stream", ("stage",))).document("run")
    assert "layers" not in document["error"]


@pytest.mark.parametrize("key", ["archives/..", "archives/.", "archives/a\\b.tar", "archives/a\x07.tar"])
async def test_a_name_that_no_checksum_file_can_have_is_refused(key: str) -> None:
    store = MemoryStore(BUCKET)
    data = tar("a.riva")
    await store.put(BUCKET, key, PartBody((data,), len(data)), content_type="a/b", metadata={})
    with pytest.raises(ConfigurationError):
        await stage(request(key), store=store)


@pytest.mark.parametrize("key", ["a dir/tail .tar.gz ", "it's $5.tar.gz", "plain.tar.gz"])
@pytest.mark.parametrize("sought", ["plane.tar", "*"])
async def test_a_source_that_a_hint_names_is_quoted_for_a_shell(key: str, sought: str) -> None:
    store = await store_of(**{key: b"archive"})
    if sought == "*":
        await store.put(BUCKET, f"{key}2", PartBody((b"b",), 1), content_type="a/b", metadata={})
    with pytest.raises(SourceNotFoundError) as caught:
        await stage(request(sought), store=store)
    words = shlex.split(caught.value.hint)
    assert words[words.index("--source") + 1] == f"s3://{BUCKET}/{key}"


async def test_the_patterns_of_another_staging_are_told_as_flags_for_a_shell() -> None:
    store = await store_of(**{"m.tar": tar("a b.riva")})
    await stage(request("m.tar", include=("a b.*", "*.riva")), store=store)
    with pytest.raises(DestinationConflictError) as caught:
        await stage(request("m.tar"), store=store)
    assert "--include 'a b.*' --include '*.riva'" in caught.value.what


async def test_a_place_that_a_hint_names_is_quoted_for_a_shell() -> None:
    store = await store_of(**{"a b/c": b"x"})
    error = await no_staging_error(Bucket(store, BUCKET, Retrier(RetryPolicy())), "a b/")
    assert error.hint.endswith("riva-stream ls 's3://staging/a b/'")


@pytest.mark.parametrize("name", ["model.riva", "model.tar.gz"])
async def test_an_empty_source_is_not_called_what_it_may_not_be(name: str) -> None:
    with pytest.raises(ArchiveError) as caught:
        await stage(request(name), store=await store_of(**{name: b""}))
    assert caught.value.hint == "upload it again"


@pytest.mark.parametrize(("seconds", "told"), [(0.05, "0.05 s"), (0.5, "0.5 s")])
async def test_a_deadline_is_told_as_it_was_given(seconds: float, told: str) -> None:
    with pytest.raises(StalledError, match=f"the deadline of {told} has passed") as caught:
        async with deadline(seconds):
            await anyio.sleep_forever()
    assert "longer --deadline" in caught.value.hint
