"""A source that a glob, or a prefix, finds inside the destination prefix is removed by its own staging."""

from __future__ import annotations

from typing import Any

import pytest

from riva_stream import ConfigurationError, stage
from tests.copying import PREFIX, Watched, asked, made


@pytest.mark.parametrize("fields", [{"reference_only": True, "force": True}, {"force": True}])
async def test_a_source_inside_the_destination_is_refused_however_it_is_named(fields: dict[str, Any]) -> None:
    store, model = Watched(), made("tar.gz")
    await store.put_source(model.key, model.data)
    await stage(asked(model), store=store)
    before = store.staged()
    request = asked(model, **fields).model_copy(
        update={"source": "s3://staging/prod/parakeet/v?/source/a.tar.gz"}
    )
    with pytest.raises(
        ConfigurationError
    ):  # named by its key it is exit 78: "is inside the destination prefix"
        await stage(request, store=store)
    assert (
        store.staged() == before
    )  # with --reference-only --force it is {}: archive, models and marker are gone


async def test_an_image_inside_the_destination_is_refused_however_it_is_named() -> None:
    store, model = Watched(), made("tar.gz")
    await store.put_source(model.key, model.data)
    await stage(asked(model), store=store)
    before = store.staged()
    request = asked(model, force=True).model_copy(
        update={"server_path": f"s3://staging/{PREFIX[:-2]}?/source/*"}
    )
    with pytest.raises(ConfigurationError):
        await stage(request, store=store)
    assert store.staged() == before
