"""Journals that cannot be understood: watched for as long as the longest usual lease, and set aside."""

from __future__ import annotations

import pytest

from riva_stream.lease.journal import LEASE
from riva_stream.s3.port import PartBody
from tests.sim.network import immediately
from tests.sim.scenarios import BUCKET, asked
from tests.sim.test_moments import JOURNAL, Told, a_world
from tests.sim.world import simulated

WRITTEN = {
    "empty": b"",
    "cut": b'{"format": 1, "run_id": "x"',
    "another version": b'{"format": 99}',
    "foreign": b"not a journal",
    "binary": b"\xff\xfe\x00",
    "too large": b" " * ((64 << 20) + 1),
}


@pytest.mark.parametrize("kind", ["aws", "ignores", "refuses", "exact"])
@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize("scenario", ["fresh", "already staged"])
def test_a_journal_that_cannot_be_understood_is_set_aside(scenario: str, written: str, kind: str) -> None:
    data = WRITTEN[written]
    world = a_world(kind, scenario, Told())
    immediately(
        world.store.put(
            BUCKET, JOURNAL, PartBody((data,), len(data)), content_type="application/json", metadata={}
        )
    )
    with simulated(world, 0):
        began = world.loop.now
        run = world.run(asked())
        assert run.outcome == ("staged" if scenario == "fresh" else "already_staged")
        assert world.loop.now - began >= LEASE
        assert world.store.look(BUCKET, JOURNAL) is None
        assert not list(map(str, world.violations))
