"""What every simulation in a test needs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sim.process import unheard


@pytest.fixture(autouse=True)
def killed_unheard() -> Iterator[None]:
    with unheard():
        yield
