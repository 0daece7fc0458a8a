"""What must come of it in the end: plain runs converge, and leave nothing behind."""

from __future__ import annotations

from typing import Any

from riva_stream.config import StageRequest
from tests.sim.scenarios import asked
from tests.sim.sources import SOURCES, source
from tests.sim.world import World

__all__ = ["converge"]

_GOOD = {"staged", "already_staged", "upgraded", "deployment_added"}
_CONFLICT, _BAD, _HELD = "73", "65", "75"


def converge(
    world: World,
    request: StageRequest,
    *,
    machine: str = "a",
    last: bool = True,
    force: bool = False,
    denied: frozenset[str] = frozenset(),
) -> None:
    """Run the same again, plainly, and judge what that comes to.

    Args:
        world: with nothing running in it.
        request: what was asked for.
        machine: where it is run.
        force: whether the run that shall end well replaces what stands there, since that is nobody's.
        denied: operations for which these runs have no right either.
        last: whether nothing can arrive late any more, so that nothing may be left over.
    """
    plain = request.model_copy(update={"force": force, "expect_sha256": None})
    left = 2
    while left:
        journals = world.network.late_journals
        run = world.run(plain, machine=machine, denied=denied)
        # What a dead run had under way looks like a heartbeat when it arrives: such a refusal is not counted.
        left -= not (run.outcome == _HELD and world.network.late_journals > journals)
        standing = world.judge.standing() if run.outcome == _CONFLICT else None
        if run.outcome == _CONFLICT and (request.force or standing is not None):
            # What stands there is another one. Whoever was to replace it may do so now, or else it stays, and its own
            # rerun clears away what was left of it.
            again = request if request.force or standing is None else _request_for(standing)
            run = world.run(again.model_copy(update={"expect_sha256": None}), machine=machine, denied=denied)
        if run.outcome in _GOOD or (run.outcome == _BAD and not _is_good(plain)):
            break
    else:
        text = f"the second plain run ends with {run.outcome}: {run.problem}"
        world.judge.blame_end("E1", text)
        return
    if run.outcome in _GOOD and world.judge.standing() is None:
        world.judge.blame_end("E1", f"{run.outcome}, but what stands there is not whole")
    if last:
        world.judge.judge_end()


def _is_good(request: StageRequest) -> bool:
    return all(source(name).is_good for name in SOURCES if source(name).uri == request.source)


def _request_for(standing: dict[str, Any]) -> StageRequest:
    """What has to be asked for to be told that this is staged already."""
    mode = standing.get("deployment_type") or standing["deployment"]["staging_mode"]
    references = standing.get("bintarball_references")
    uri = references["model_archive"]["s3_uri"] if references else standing["source"]["uri"]
    name = next(name for name in SOURCES if source(name).uri == uri)
    if mode == "bintarball_reference":
        return asked(name, bintarball=True)
    if mode == "reference_only":
        return asked(name, reference=True)
    return asked(name, include=tuple(standing["include"]))
