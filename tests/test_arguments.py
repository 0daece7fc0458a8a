"""Arguments of the wrong kind are refused at the door, by their names."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import aioboto3
import boto3
import pytest

from riva_stream import (
    LocalEngine,
    MemoryBudget,
    PromoteRequest,
    StageRequest,
    StoreSettings,
    load_catalogue,
    open_store,
    promote,
    read_staging,
    stage,
    stage_all,
    throttled,
)
from riva_stream.s3.memory import MemoryStore
from riva_stream.sizes import MIB

PLACE = "s3://staging/dev/m/v1/"
REQUEST = StageRequest(
    source="s3://models/m.riva", bucket="staging", env="dev", model_name="m", model_version="v1"
)
PROMOTION = PromoteRequest(source=PLACE, to=("s3://staging/prod/m/v1/",))
HERE = StoreSettings(region="us-east-1")


async def reading(place: Any = PLACE, store: Any = None, **arguments: Any) -> None:
    async with read_staging(place, store or MemoryStore("staging"), **arguments):
        pass


async def opening(settings: Any = HERE, warn: Any = print, **arguments: Any) -> None:
    async with open_store(settings, warn=warn, **arguments):
        pass


async def staging(request: Any = REQUEST, **arguments: Any) -> None:
    await stage(request, **arguments)


async def promoting(request: Any = PROMOTION, **arguments: Any) -> None:
    await promote(request, **arguments)


WRONG: dict[str, tuple[Callable[..., Awaitable[Any]], dict[str, Any]]] = {
    "request must be a StageRequest, not NoneType": (staging, {"request": None}),
    "request must be a StageRequest, not dict": (staging, {"request": REQUEST.model_dump()}),
    "request must be a StageRequest, not riva_stream.config.PromoteRequest": (
        staging,
        {"request": PROMOTION},
    ),
    "request must be a PromoteRequest, not riva_stream.config.StageRequest": (
        promoting,
        {"request": REQUEST},
    ),
    "store must be an open store .*, not riva_stream.s3.session.StoreSettings": (staging, {"store": HERE}),
    "source_store must be an open store .*, not contextlib._Async": (
        promoting,
        {"source_store": open_store(HERE, warn=print)},
    ),
    "budget must be a MemoryBudget, not int": (staging, {"budget": 512 * MIB}),
    "observer must be callable with one event, not NoneType": (promoting, {"observer": None}),
    "session must be an aioboto3.Session, not boto3.session.Session": (staging, {"session": boto3.Session()}),
    "source_session must be an aioboto3.Session, not str": (staging, {"source_session": "profile"}),
    "place must be text, s3://BUCKET/PREFIX/, not NoneType": (reading, {"place": None}),
    "store must be an open store .*, not str": (reading, {"store": "us-east-1"}),
    "observer must be callable with one event, not list": (reading, {"observer": []}),
    "connections must be a whole number, not str": (reading, {"connections": "4"}),
    "settings must be StoreSettings, not riva_stream.s3.memory.MemoryStore": (
        opening,
        {"settings": MemoryStore()},
    ),
    "warn must be callable with one text, not NoneType": (opening, {"warn": None}),
    "session must be an aioboto3.Session, not type": (opening, {"session": aioboto3.Session}),
    "catalogue must be a Catalogue or the path of one, not NoneType": (stage_all, {"catalogue": None}),
    "catalogue must be a Catalogue or the path of one, not dict": (stage_all, {"catalogue": {}}),
    "engine must be an engine such as LocalEngine.*, not str": (
        stage_all,
        {"catalogue": "a.toml", "engine": "local"},
    ),
}


@pytest.mark.parametrize("said", WRONG)
async def test_an_argument_of_the_wrong_kind_is_refused_by_its_name(said: str) -> None:
    function, arguments = WRONG[said]
    with pytest.raises(TypeError, match=f"^{said}"):
        await function(**arguments)


@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [
        (lambda: MemoryBudget(-1), ValueError, "the bytes of a memory budget must be at least 1, not -1"),
        (lambda: MemoryBudget("512MiB"), TypeError, "the bytes of a memory budget must be a whole number"),  # type: ignore[arg-type]
        (lambda: LocalEngine(at_once=0), ValueError, "at_once must be at least 1, not 0"),
        (lambda: throttled(None, 1.0), TypeError, "observer must be callable"),  # type: ignore[arg-type]
        (lambda: load_catalogue(None), TypeError, "path must be the path of a file, not NoneType"),  # type: ignore[arg-type]
    ],
)
def test_so_is_a_bad_argument_of_what_is_made_beforehand(
    make: Callable[[], object], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        make()


async def test_a_store_is_of_no_use_after_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    async with open_store(StoreSettings(endpoint_url="http://127.0.0.1:9"), warn=print) as store:
        pass
    with pytest.raises(RuntimeError, match=r"its open_store\(\) block has ended"):
        await store.head("bucket", "key")
    with pytest.raises(RuntimeError, match=r"its open_store\(\) block has ended"):
        await stage(REQUEST, store=store)
    assert not await store.renew()
