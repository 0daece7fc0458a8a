"""Whole stagings, killed up to ten times and read on by another host: the same documents and objects as in one go.

The real ``stage()`` on the simulator's time and store, of random archives, sound and damaged; every run but the last is
killed at a request that is drawn. Its judge looks on as in any simulation.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from hypothesis import assume

from riva_stream.config import StageRequest
from riva_stream.s3.memory import MemoryStore
from riva_stream.s3.port import PartBody
from riva_stream.sizes import MIB
from tests.checkpoints.archives import Case, build, compare_each
from tests.checkpoints.sittings import in_one_go
from tests.sim.breaks import Break
from tests.sim.kinds import KINDS
from tests.sim.network import Request, immediately
from tests.sim.process import Process
from tests.sim.scenarios import BUCKET, asked, prefix_of
from tests.sim.schedules import Plain
from tests.sim.sources import SOURCE_BUCKET, Source
from tests.sim.world import World, new_store, simulated
from tests.support.ceilings import ceiling_for

__all__ = ["run"]

_INCLUDE = ("*.bin",)
_MOST_KILLS = 10
_LEAST_PART, _MOST_PARTS = 512, 150
_LARGE = "larger than all the rest"
_LONG = 0.4
"""Share of the archives that have it."""
_COPIED = 0.3
"""Share of the archives that the store copies."""
_OF_ITS_TIME = ("created_at", "build_info")
"""What of ``artifact.json`` two runs of the same bytes may have otherwise; ``validation.resumed_by`` too."""


@dataclass(frozen=True, slots=True)
class _Staged:
    """What stands there in the end, without what is of its time."""

    outcome: str
    problem: str
    objects: Mapping[str, str]
    """Key → SHA-256 of the archive, the models and the checksum file."""
    artifact: Mapping[str, Any]
    manifest: Mapping[str, Any]
    blake3: tuple[str | None, ...]
    resumed_from: int | None
    resumes: int
    """Runs that began to read in the middle of the archive."""
    requests: int
    kills: int
    left: tuple[str, ...]
    """Open uploads, and what is below ``.riva-stream/``."""


@dataclass(eq=False)
class _Kills(Plain):
    """Each run, by its pid, is killed at a request of its own."""

    at: Mapping[int, tuple[int, Break]]
    first_byte: dict[int, str] = field(default_factory=dict)
    """Of the source, that each run asked for."""

    def strike(self, request: Request) -> Break | None:
        if request.bucket == SOURCE_BUCKET and request.operation == "GetObject":
            self.first_byte.setdefault(request.process.pid, request.detail.split()[1].partition("-")[0])
        ordinal, how = self.at.get(request.process.pid, (-1, Break.KILL_AFTER))
        return how if request.ordinal == ordinal else None


@cache
def _empty() -> MemoryStore:
    return new_store(KINDS["aws"])


def _source(archive: bytes) -> Source:
    suffix = {b"\x1f\x8b": ".tar.gz", b"\x28\xb5": ".tar.zst"}.get(archive[:2], ".tar")
    whole = in_one_go(archive, include=_INCLUDE)
    members = {member.key_name: digest for member, _, digest, _ in whole.files}
    return Source(f"archives/drawn{suffix}", archive, members, is_good=not whole.refusal)


def _request(source: Source, part: int, copy: str) -> StageRequest:
    # So little that a run cannot have read all of it before it has sent any; a zstd window has to fit, though.
    memory = 192 * MIB if source.key.endswith("zst") else ceiling_for(part, 3)
    small = {"part_size": part, "checkpoint": part, "memory": memory}
    return asked(include=_INCLUDE, copy=copy).model_copy(update={"source": source.uri, **small})


def _stage(
    source: Source, part: int, kills: Mapping[int, tuple[int, Break]], chosen: int, copy: str
) -> _Staged:
    store = _empty().copy()
    body = PartBody((source.data,), len(source.data))
    schedule = _Kills(kills)
    world = World(store, schedule, sources=[source])
    immediately(store.put(SOURCE_BUCKET, source.key, body, content_type="a/b", metadata={}))
    with simulated(world, chosen):
        for pid in range(1, len(kills) + 2):
            process = world.run(_request(source, part, copy), machine="ab"[pid % 2])
            if process.outcome != "killed":
                break
        assert not world.violations, [str(violation) for violation in world.violations]
        return _seen(world, process, sum(first != "0" for first in schedule.first_byte.values()))


def _seen(world: World, last: Process, resumes: int) -> _Staged:
    prefix, store = prefix_of(), world.store
    data = {key: found.data for key in store.keys(BUCKET) if (found := store.look(BUCKET, key))}
    artifact = json.loads(data.get(f"{prefix}artifact.json", b'{"build_info": {}}'))
    manifest = json.loads(data.get(f"{prefix}upload_manifest.json", b"{}"))
    resumed_from = artifact["build_info"].get("resumed_from")
    for name in _OF_ITS_TIME:
        artifact.pop(name, None)
    blake3 = tuple(model.pop("blake3") for model in artifact.get("models", ()))
    (artifact.get("primary_model") or {}).pop("blake3", None)
    validation = artifact.get("validation", {"warnings": [], "warning_codes": []})
    validation.pop("resumed_by", None)
    coded = zip(validation["warnings"], validation.pop("warning_codes"), strict=True)
    validation["warnings"] = [warning for warning in coded if warning[1] != "resume"]
    for name in ("upload_id", "started_at"):
        manifest.pop(name, None)
    manifest.get("files", {}).pop("metadata", None)
    return _Staged(
        last.outcome,
        last.problem,
        {
            key: hashlib.sha256(body).hexdigest()
            for key, body in data.items()
            if key.startswith((f"{prefix}source/", f"{prefix}models/")) or key.endswith("checksums.sha256")
        },
        artifact,
        manifest,
        blake3,
        resumed_from,
        resumes,
        last.requests,
        len(world.processes) - 1,
        (
            *(f"{upload.key} is open" for upload in store.open_uploads(BUCKET)),
            *(key for key in data if ".riva-stream/" in key),
        ),
    )


def compare(case: Case, chosen: int, counts: Counter[str]) -> None:
    """One archive, in one go and killed.

    Raises:
        AssertionError: they came to something else, or left something.
    """
    draw = random.Random(chosen)
    if draw.random() < _LONG and _LARGE not in case.extras:  # the deflate blocks of a small one are few
        case = replace(case, extras=(_LARGE, *case.extras))
    archive = build(case)
    assume(archive is not None)
    assert archive is not None
    source = _source(archive)
    size = sum(len(data) for _, data, _, _ in in_one_go(archive, include=_INCLUDE).files)
    part = max(_LEAST_PART, len(archive) // draw.randrange(6, 30), size // _MOST_PARTS)
    copy = "auto" if random.Random(f"copies of {chosen}").random() < _COPIED else "send"
    whole = _stage(source, part, {}, chosen, copy)
    assert whole.outcome == "staged" or not source.is_good or not source.members, whole.problem
    span = max(2, whole.requests // draw.choice((1, 2, 4)))
    kills = {
        pid: (draw.randrange(span), draw.choice((Break.KILL_BEFORE, Break.KILL_AFTER)))
        for pid in range(1, draw.randrange(1, _MOST_KILLS + 1) + 1)
    }
    parts = _stage(source, part, kills, chosen + 1, copy)
    # One that was killed when it had committed is found staged.
    assert parts.outcome == whole.outcome or (parts.outcome, whole.outcome) == ("already_staged", "staged")
    assert parts.problem == whole.problem
    assert parts.objects == whole.objects
    assert parts.artifact == whole.artifact
    assert parts.manifest == whole.manifest
    assert parts.left == whole.left == ()
    # One BLAKE3 of each resume is not known, and none but those.
    lost = sum(mine != other for mine, other in zip(parts.blake3, whole.blake3, strict=True))
    assert lost == parts.blake3.count(None) <= parts.resumes
    counts["archives that were staged" if whole.outcome == "staged" else "archives that were refused"] += 1
    counts["runs that were killed"] += parts.kills
    counts["runs that went on from a checkpoint"] += parts.resumes
    counts["archives that were read on to their end"] += bool(parts.resumed_from)
    counts["archives that the store copied"] += copy == "auto"
    counts["archives that it copied, read on to their end"] += copy == "auto" and bool(parts.resumed_from)


def run(count: int, chosen_seed: int, *, damaged: bool) -> Counter[str]:
    """See :func:`~tests.checkpoints.archives.compare_each`."""
    return compare_each(compare, count, chosen_seed, damaged=damaged)
