"""A line break in a source's key: the marker has the key in a line, and would read otherwise than it was written."""

from __future__ import annotations

import pytest

from riva_stream import ConfigurationError, stage
from tests.copying import Watched, asked, made


@pytest.mark.parametrize(
    "folder", ["a\u2028b", "a\nb", "a\x85b", "a\x0bb", "a\nMode: reference_only\n", "a\r"]
)
@pytest.mark.parametrize("what", ["source", "server_path"])
async def test_it_is_refused(folder: str, what: str) -> None:
    store, model = Watched(), made("tar.gz")
    await store.put_source(model.key, model.data)
    await store.put_source(f"in/{folder}/{model.name}", model.data)
    with pytest.raises(ConfigurationError):
        await stage(asked(model, **{what: f"s3://models/in/{folder}/{model.name}"}), store=store)
    assert not store.staged()
