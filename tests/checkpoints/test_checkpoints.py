"""The snapshots at scale, with small counts; ``python -m tests.checkpoints`` runs long ones."""

from __future__ import annotations

import json
import random

import pytest

from riva_stream.archive import Extractor, InvalidSnapshotError
from tests.checkpoints import equivalence, hostile
from tests.checkpoints.archives import quick_case


@pytest.mark.parametrize("damaged", [False, True])
def test_several_sittings_come_to_the_same_as_one(damaged: bool) -> None:
    counts = equivalence.run(25, 13, damaged=damaged)
    assert counts["archives that were refused"] + counts["archives that came out whole"] == 25
    assert counts["archives that were refused" if damaged else "archives that came out whole"] > 15
    assert counts["sittings from a snapshot"] > 25


def test_changed_snapshots_end_in_a_refusal_or_an_end() -> None:
    report = hostile.run(500, 13)
    assert report.failures == []
    assert report.counts.total() == 500
    assert report.counts["refused"] > 100
    assert report.counts.total() > report.counts["refused"]
    assert report.most_memory < 1 << 29


def test_the_judge_sees_a_child_that_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: object) -> tuple[str, str]:
        raise SystemExit(9)

    monkeypatch.setattr(hostile, "_outcome", dies)
    report = hostile.run(1, 13)
    assert report.counts["crashed"] == len(report.failures) == 1


def test_every_snapshot_is_json_and_goes_through_json_unchanged() -> None:
    rng = random.Random(7)
    seen = 0
    for _ in range(10):
        archive = quick_case(rng)
        for data in hostile.snapshots_of(archive, rng):
            again = json.dumps(json.loads(data)).encode()
            assert Extractor.restore(again, **hostile.OPTIONS)[1].offset <= len(archive)
            with pytest.raises(InvalidSnapshotError):
                Extractor.restore(again)  # with other options
            seen += 1
    assert seen > 10
