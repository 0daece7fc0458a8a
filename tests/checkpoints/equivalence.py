"""In several sittings as in one go: random archives, sound and damaged."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis import strategies as st

from tests.checkpoints.archives import Case, build, cases
from tests.checkpoints.sittings import in_one_go, in_sittings

__all__ = ["run"]

_INCLUDE = ("*.bin",)


def compare(case: Case, rng: random.Random, counts: Counter[str]) -> None:
    """One archive.

    Raises:
        AssertionError: the sittings came to something else.
    """
    archive = build(case)
    assume(archive is not None)
    assert archive is not None
    whole = in_one_go(archive, include=_INCLUDE)
    parts = in_sittings(archive, rng, counts, include=_INCLUDE)
    assert parts.refusal == whole.refusal
    assert [(m, digest, inside) for m, _, digest, inside in parts.files] == [
        (m, digest, inside) for m, _, digest, inside in whole.files
    ]
    assert parts == whole
    counts["archives that were refused" if whole.refusal else "archives that came out whole"] += 1


def run(count: int, chosen_seed: int, *, damaged: bool) -> Counter[str]:
    """Compare ``count`` archives; says how many of each kind there were.

    Raises:
        AssertionError: of one of them, the smallest that was found.
    """
    counts: Counter[str] = Counter()

    @seed(chosen_seed)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # what fails is small enough; making it smaller takes minutes
    )
    @given(cases(damaged=damaged), st.integers(0, 1 << 32))
    def each(case: Case, chosen: int) -> None:
        compare(case, random.Random(chosen), counts)

    each()
    return counts
