"""The snapshots at scale, with small counts; ``python -m tests.checkpoints`` runs long ones."""

from __future__ import annotations

import json
import random

import pytest

from riva_stream.archive import Extractor, InvalidSnapshotError
from tests.archive.kit import END, member, tar_of
from tests.checkpoints import equivalence, hostile, stagings
from tests.checkpoints.archives import EXTRAS, quick_case
from tests.checkpoints.sittings import in_one_go, in_two
from tests.sim.process import unheard


@pytest.mark.parametrize("damaged", [False, True])
def test_several_sittings_come_to_the_same_as_one(damaged: bool) -> None:
    counts = equivalence.run(25, 13, damaged=damaged)
    assert counts["archives that were refused"] + counts["archives that came out whole"] == 25
    assert counts["archives that were refused" if damaged else "archives that came out whole"] > 15
    assert counts["sittings from a snapshot"] > 25


@pytest.mark.parametrize("damaged", [False, True])
def test_a_staging_that_is_killed_again_and_again_comes_to_the_same(damaged: bool) -> None:
    with unheard():
        counts = stagings.run(20, 13, damaged=damaged)
    assert counts["archives that were staged"] + counts["archives that were refused"] == 20
    assert counts["archives that were refused" if damaged else "archives that were staged"] > 15
    assert counts["runs that went on from a checkpoint"] > 0


_SMALL = b"".join(EXTRAS[name] for name in EXTRAS if name != "larger than all the rest")
_MORE = (
    member(b"zeros-later.bin", b"x" + bytes(3000))
    + member(b"two-files.bin", tar_of({"first": b"1" * 6000, "second": b"2" * 700}))
    + member(b"d/.DS_Store", b"\0\0\0\1Bud1" + bytes(100))
    + member(b"d/._z.bin", b"\0\5\x16\7")
)
_EVERYTHING = {
    "sound": _SMALL + _MORE + END,
    "with something behind its end": _SMALL + _MORE + END + b"\1" + bytes(2000),
    "with a name twice": _MORE + member(b"e/zeros-later.bin"),
    "of zeros": member(b"zeros.bin", bytes(5000)) + END,
    "without its end": _MORE,
    "cut": _SMALL[:-200],
}


@pytest.mark.parametrize("name", _EVERYTHING)
def test_a_sitting_may_end_at_every_part_of_an_archive(name: str) -> None:
    """All that the walk, the selection and the look inside remember is tried: forgetting any of it shows somewhere."""
    archive, options = _EVERYTHING[name], {"include": ("*.bin", ".DS_Store*")}
    whole = in_one_go(archive, **options)
    places = 0
    for cut in range(1, len(archive), 211 if len(archive) > 20_000 else 29):
        parts = in_two(archive, cut, **options)
        assert parts in (None, whole)
        places += parts is not None
    assert places > 30


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
