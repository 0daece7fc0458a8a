"""What may be asked for, of what state of the destination."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from riva_stream.config import PromoteRequest, StageRequest
from riva_stream.s3.memory import MemoryStore
from riva_stream.s3.port import PartBody
from riva_stream.sizes import MIB
from tests.sim.network import immediately
from tests.sim.sources import IMAGE, SOURCE_BUCKET, source
from tests.support.ceilings import ceiling_for
from tests.support.small_parts import SmallStageRequest, with_small

__all__ = [
    "BUCKET",
    "FOLLOW_UPS",
    "SCENARIOS",
    "Collection",
    "Promotion",
    "Scenario",
    "asked",
    "collection",
    "name_foreign_key",
    "prefix_of",
    "promoted",
]

R = TypeVar("R", bound=StageRequest)

BUCKET = "staging"
LEASE = 6.0
_PART = 2048
_LITTLE = ceiling_for(_PART, 3)


def prefix_of(*, bintarball: bool = False) -> str:
    """Where all of it is staged."""
    return ("bintarball/deployment-metadata/" if bintarball else "") + "prod/parakeet/v1/"


class Promotion(SmallStageRequest):
    """A staging that is made from another one, of the same source: each is staged elsewhere in the bucket."""

    @property
    def original(self) -> StageRequest:
        """What has staged it there."""
        name = self.source.rpartition("/")[2].partition(".")[0]
        fields = {"env": "dev", "model_version": name, "force": False, "expect_sha256": None}
        return SmallStageRequest(**self.model_dump() | fields)

    @property
    def promotion(self) -> PromoteRequest:
        """What is asked for."""
        request = PromoteRequest(source=self.original.destination, to=(self.place,))
        return with_small(request, **self.shared())


class Collection(SmallStageRequest):
    """What ``gc`` does at the same place."""

    @property
    def prefix(self) -> str:
        return prefix_of(bintarball=self.bintarball_reference)


def collection(request: StageRequest) -> Collection:
    """In place of a request, by somebody who does not wait until the leftovers are old."""
    fields = {field: getattr(request, field) for field in StageRequest.model_fields}
    return Collection.model_construct(**fields | {"force": False, "server_path": None})


def promoted(name: str = "one", **fields: Any) -> Promotion:
    """The same as :func:`asked`, by promotion."""
    made = asked(name, **fields)
    return Promotion.model_construct(**{field: getattr(made, field) for field in StageRequest.model_fields})


@cache
def asked(
    name: str = "one",
    *,
    force: bool = False,
    image: bool = False,
    reference: bool = False,
    bintarball: bool = False,
    include: tuple[str, ...] = ("*.riva",),
    wrong: bool = False,
    copy: str = "send",
    check: str = "auto",
) -> StageRequest:
    """A request. Parts are small beyond what a request may have, so that a few KiB are many of them."""
    fields: dict[str, Any] = {
        "source": source(name).uri,
        "bucket": BUCKET,
        "env": "prod",
        "model_name": "parakeet",
        "model_version": "v1",
        "force": force,
        "reference_only": reference,
        "bintarball_reference": bintarball,
        "include": include,
        "lease": LEASE,
        "memory": 192 * MIB,
        "retries": 3,
        "connections": 4,
        "source_copy": copy,
        "upload_check": check,
    }
    if image or bintarball:
        fields["server_path"] = f"s3://{SOURCE_BUCKET}/{IMAGE}"
    if wrong:
        fields["expect_sha256"] = "0" * 64
    small = {"part_size": _PART, "checkpoint": _PART if name == "long" else 0}
    if name == "long":
        small["memory"] = _LITTLE  # so that a run cannot have read all of it before it has sent any
    return SmallStageRequest(**fields | small)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A destination in some state, and what is asked for then."""

    name: str
    before: tuple[StageRequest, ...]
    """Runs that have ended well."""
    request: StageRequest
    denied: frozenset[str] = frozenset()
    """Operations for which its run has no right."""
    is_hostile: bool = False
    """Whether the manifest that stands there names a key that is none of ours."""

    @property
    def originals(self) -> list[StageRequest]:
        """What is staged elsewhere, to be promoted by its run or by one that comes after it."""
        if not isinstance(self.request, Promotion):
            return []
        return [self.request.original, _other(self.request).original]

    @property
    def is_bintarball(self) -> bool:
        return self.request.bintarball_reference


_UNLISTED = frozenset({"ListObjectsV2"})

SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("fresh", (), asked()),
        Scenario("image", (), asked(image=True)),
        Scenario("forced same", (asked(),), asked(force=True)),
        Scenario("forced image", (asked(image=True),), asked(image=True, force=True)),
        Scenario("forced other", (asked("two"),), asked(force=True)),
        Scenario("other includes", (asked(include=("a.riva",)),), asked(force=True)),
        Scenario("fewer includes", (asked(),), asked(include=("b.riva",), force=True)),
        Scenario("reference", (), asked(reference=True)),
        Scenario("reference image", (), asked(reference=True, image=True)),
        Scenario("upgrade", (asked(reference=True),), asked()),
        Scenario("image added", (asked(),), asked(image=True)),
        Scenario("downgrade", (asked(),), asked(reference=True, force=True)),
        Scenario("bintarball", (), asked(bintarball=True)),
        Scenario("bintarball other", (asked("two", bintarball=True),), asked(bintarball=True, force=True)),
        Scenario("already staged", (asked(),), asked()),
        Scenario("unlisted", (), asked(), _UNLISTED),
        Scenario("unlisted other", (asked("two"),), asked(force=True), _UNLISTED),
        Scenario("hostile manifest", (asked("two"),), asked(force=True), _UNLISTED, is_hostile=True),
        Scenario("long", (), asked("long")),
        Scenario("long over other", (asked("two"),), asked("long", force=True)),
        Scenario("bad source", (), asked("bad")),
        Scenario("copied", (), asked(copy="auto")),
        Scenario("copied members", (), asked("plain", copy="auto")),
        Scenario("copied by its ETag", (), asked(copy="auto", check="md5")),
        Scenario("copied over another", (asked("two", copy="auto"),), asked(copy="auto", force=True)),
        Scenario("copied, bad", (), asked("bad", copy="store")),
        Scenario("bad source over good", (asked(),), asked("bad", force=True)),
        Scenario("promoted", (), promoted(copy="auto")),
        Scenario("promoted by its ETag", (), promoted(copy="auto", check="md5")),
        Scenario("promoted, sent", (), promoted()),
        Scenario("promoted by reference", (), promoted(reference=True)),
        Scenario("promoted with an image", (), promoted(image=True, copy="auto")),
        Scenario("promoted over another", (asked("two"),), promoted(copy="auto", force=True)),
        Scenario("long, copied", (), asked("long", copy="auto")),
    )
}


def name_foreign_key(store: MemoryStore) -> None:
    """Let the manifest that stands in ``store`` name keys outside of the prefix, where something is."""
    key = prefix_of() + "upload_manifest.json"
    found = store.look(BUCKET, key)
    if found is None:
        return  # a store on which nothing could be staged
    manifest = json.loads(found.data)
    # One of them reads like one of ours, were it below the prefix.
    foreign = ("others/keep", "models/keep")
    manifest["files"]["models"] += [{**manifest["files"]["metadata"], "s3_key": key} for key in foreign]
    marker = store.look(BUCKET, prefix_of() + "staging_complete.txt")
    # As version 0.1 wrote it, which did not vouch for the manifest.
    lines = (
        [line for line in marker.data.splitlines(keepends=True) if b"upload_manifest" not in line]
        if marker
        else []
    )
    changed = {
        **dict.fromkeys(foreign, b"none of ours"),
        key: json.dumps(manifest).encode(),
        prefix_of() + "staging_complete.txt": b"".join(lines),
    }
    for name, data in changed.items():
        immediately(
            store.put(BUCKET, name, PartBody((data,), len(data)), content_type="a/b", metadata=found.metadata)
        )


def _other(request: R) -> R:
    return request.model_copy(update={"source": source("two").uri})


FOLLOW_UPS: Mapping[str, Any] = {
    "same": lambda request: request,
    "force": lambda request: request.model_copy(update={"force": True}),
    "refused": lambda request: request.model_copy(update={"force": True, "expect_sha256": "0" * 64}),
    "refused plain": lambda request: request.model_copy(update={"force": False, "expect_sha256": "0" * 64}),
    "other": lambda request: _other(request).model_copy(update={"force": False}),
    "other forced": lambda request: _other(request).model_copy(update={"force": True}),
}
"""What is run after a broken run."""
