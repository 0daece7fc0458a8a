"""In several sittings as in one go: random archives, sound and damaged."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import assume

from tests.checkpoints.archives import Case, build, compare_each
from tests.checkpoints.sittings import in_one_go, in_sittings

__all__ = ["run"]

_INCLUDE = ("*.bin",)


def compare(case: Case, chosen: int, counts: Counter[str]) -> None:
    """One archive.

    Raises:
        AssertionError: the sittings came to something else.
    """
    archive = build(case)
    assume(archive is not None)
    assert archive is not None
    whole = in_one_go(archive, include=_INCLUDE)
    parts = in_sittings(archive, random.Random(chosen), counts, include=_INCLUDE)
    assert parts.refusal == whole.refusal
    assert [(m, digest, inside) for m, _, digest, inside in parts.files] == [
        (m, digest, inside) for m, _, digest, inside in whole.files
    ]
    assert parts == whole
    counts["archives that were refused" if whole.refusal else "archives that came out whole"] += 1


def run(count: int, chosen_seed: int, *, damaged: bool) -> Counter[str]:
    """See :func:`~tests.checkpoints.archives.compare_each`."""
    return compare_each(compare, count, chosen_seed, damaged=damaged)
