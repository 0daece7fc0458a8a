"""A document of more than 64 MiB where one of ours should be: nothing gets past it, not even ``--force``, which its own hint
recommends; and one such journal takes `ls` of the whole bucket down."""

from __future__ import annotations

import asyncio

import pytest

from riva_stream import DestinationConflictError, stage
from riva_stream.cli import main
from riva_stream.layout import JOURNAL
from riva_stream.sizes import MIB
from tests.contract.ground import body
from tests.copying import PREFIX, Model, Watched, asked, made
from tests.staging import Place, put_credentials
from tests.support.servers import S3Server

TOO_LARGE = b" " * (65 * MIB)


async def staged_with(name: str) -> tuple[Watched, Model]:
    store, model = Watched(), made("tar.gz")
    await store.put_source(model.key, model.data)
    await stage(asked(model), store=store)
    await store.put("staging", PREFIX + name, body(TOO_LARGE), content_type="a/b", metadata={})
    return store, model


@pytest.mark.parametrize("name", ["staging_complete.txt", "artifact.json", "upload_manifest.json"])
async def test_force_replaces_it(name: str) -> None:
    # docs/semantics.md: "anything with a marker | any mode with --force | replaced"; a journal "that cannot be understood,
    # twice" is taken over after 30 seconds
    store, model = await staged_with(name)
    assert (await stage(asked(model, force=True), store=store)).outcome == "staged"


async def test_a_marker_that_cannot_be_read_is_a_conflict() -> None:
    store, model = await staged_with("staging_complete.txt")
    with pytest.raises(
        DestinationConflictError
    ):  # docs/semantics.md: "a marker that this tool cannot read": 73, not 65
        await stage(asked(model), store=store)


@pytest.mark.parametrize("command", [("ls",), ("status", "--no-wait")])
async def test_one_journal_does_not_take_the_listing_down(
    command: tuple[str, ...], moto: S3Server, moto_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_credentials(moto, monkeypatch)
    place = Place(moto, moto_bucket)
    place.put(f"prod/n/v1/{JOURNAL}", TOO_LARGE)
    uri = f"s3://{place.bucket}" + ("" if command[0] == "ls" else "/prod/n/v1/")
    assert await asyncio.to_thread(main, [command[0], uri, "--quiet", *command[1:]]) == 0
