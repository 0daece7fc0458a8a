"""A few of each; ``python -m tests.crash`` does them at length, and these variables ask for more of them here.

======================  ==================================================
``CRASH_KILLS``         kill -9 at random moments
``CRASH_PROMOTIONS``    kills of promotions
``CRASH_POINTS``        kills at known requests
``CRASH_RIVALS``        meetings of two runs, on each of two servers
``CRASH_ZOMBIES``       runs that are stopped and woken
``CRASH_SOAK``          runs in one process
``CRASH_SEED``          what chooses among the many
======================  ==================================================
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.crash.kill import report_kills
from tests.crash.kit import Ground
from tests.crash.points import report_points
from tests.crash.promotions import report_promotions
from tests.crash.rivals import report_rivals
from tests.crash.soak import report_soak
from tests.crash.zombie import report_zombies
from tests.support.servers import GatewayServer, MotoProcess


def _asked(name: str, default: int) -> int:
    return int(os.environ.get(f"CRASH_{name}", default))


# Read before the tests' environment is emptied.
KILLS, POINTS, RIVALS = _asked("KILLS", 3), _asked("POINTS", 6), _asked("RIVALS", 1)
PROMOTIONS = _asked("PROMOTIONS", 3)
ZOMBIES, SOAK, SEED = _asked("ZOMBIES", 1), _asked("SOAK", 6), _asked("SEED", 1)
JOBS = 3


@pytest.fixture
def ground(gateway: GatewayServer) -> Iterator[Ground]:
    with Ground(gateway) as made:
        yield made


def _expect_none(failures: list[str]) -> None:
    assert not failures, "\n".join(failures)


@pytest.mark.timeout(60 + 30 * KILLS)
def test_a_killed_run_goes_on_from_another_host(ground: Ground) -> None:
    _expect_none(report_kills(ground, KILLS, SEED, jobs=JOBS))


@pytest.mark.long
@pytest.mark.timeout(60 + 30 * PROMOTIONS)
def test_a_killed_promotion_goes_on_from_another_host(ground: Ground) -> None:
    _expect_none(report_promotions(ground, PROMOTIONS, SEED, jobs=JOBS))


@pytest.mark.long
@pytest.mark.timeout(60 + 30 * POINTS)
def test_killed_before_and_after_mutating_requests(ground: Ground) -> None:
    _expect_none(report_points(ground, POINTS, SEED, jobs=JOBS))


@pytest.mark.timeout(60 + 30 * RIVALS)
def test_of_two_runs_one_wins_on_the_gateway(ground: Ground) -> None:
    _expect_none(report_rivals(ground, RIVALS, SEED, jobs=JOBS))


@pytest.mark.long
@pytest.mark.timeout(60 + 30 * RIVALS)
def test_of_two_runs_one_wins_where_writes_are_conditional() -> None:
    with MotoProcess() as moto, Ground(moto) as ground:
        _expect_none(report_rivals(ground, RIVALS, SEED, jobs=JOBS))


@pytest.mark.timeout(60 + 30 * ZOMBIES)
def test_a_zombie_writes_nothing(gateway: GatewayServer) -> None:
    """With a lease that signatures can carry: on a store without conditions nothing else holds back what comes too late."""
    with Ground(gateway, lease=4.0) as ground:
        _expect_none(report_zombies(ground, ZOMBIES, SEED, jobs=JOBS))


@pytest.mark.long
@pytest.mark.timeout(120 + 30 * SOAK)
def test_nothing_grows_from_run_to_run(ground: Ground) -> None:
    _expect_none(report_soak(ground, SOAK, 0.05, SEED))
