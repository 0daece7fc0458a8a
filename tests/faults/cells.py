"""Run one cell of the matrix, and what must hold after it.

After every cell: the fault has struck; the exit is one of the right ones; there is no marker unless everything is
there; every object that can be seen is right; a final refusal leaves no upload and no journal; and the same run
again, with no fault, ends in the very same bytes and digests with no upload left open and no journal.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from riva_stream import RivaStreamError, StageRequest, stage
from riva_stream.manifest import Marker
from riva_stream.s3 import Store
from riva_stream.sizes import MIB
from tests.faults.matrix import MARKER, Cell, Situation, Target
from tests.staging import PREFIX, SOURCE_KEY, Place
from tests.support.archives import Archive, archive_bytes
from tests.support.faultlog import Record
from tests.support.faultproxy import FaultProxy, Hook, Rule
from tests.support.faults import Gate, Refuse, ShortBody, Stall
from tests.support.servers import S3Server
from tests.support.small_parts import with_small

_LEASE = 9.0

__all__ = ["Field"]

JOURNALS = ".riva-stream/"
NAME = SOURCE_KEY.rpartition("/")[2]

_UNKNOWN = PREFIX + "models/unknown.riva"
_TRIES = 3
"""Of a cell, where a run makes fewer requests than the one in which they were counted."""


@dataclass(frozen=True, slots=True)
class Model:
    """An archive and what its staging consists of."""

    data: bytes = field(repr=False)  # pytest looks at what its fixtures are, megabytes or not
    archive: Archive

    @classmethod
    def of(cls, seed: str, members: list[tuple[str, int]]) -> Model:
        return cls(*archive_bytes(0, seed=seed, members=members, level=0))

    @property
    def objects(self) -> Mapping[str, str]:
        """Names below the prefix, and the SHA-256 of what lies there."""
        staged = {f"models/{member.basename}": member.sha256 for member in self.archive.rivas}
        return staged | {f"source/{NAME}": self.archive.sha256}


@dataclass(eq=False)
class Field:
    """A server with both archives in place, and what a run without faults asks of it."""

    server: S3Server
    direct: Store
    """A client for the runs without a fault, so that none has to be opened for each."""
    sources: str = field(init=False)
    """The bucket that holds them."""
    part: int = field(init=False)
    """Bytes of a part."""
    new: Model = field(init=False)
    old: Model = field(init=False)
    _totals: dict[Situation, Mapping[Target, int]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.sources = self.server.new_bucket("sources")
        # More than two parts of archive and of model, in as few bytes as that takes; moto takes parts of any size here.
        self.part = 5 * MIB if self.server.name != "moto" else 256 << 10
        sizes = {"p/big.riva": self.part * 6 // 5, "p/small.riva": self.part * 9 // 10, "p/tiny.riva": 9000}
        self.new = Model.of("new", list(sizes.items()))
        self.old = Model.of("old", [(f"p/gone-{n}.riva", 3000) for n in range(3)])
        for folder, model in (("new", self.new), ("old", self.old)):
            self.server.client().put_object(
                Bucket=self.sources, Key=f"{folder}/{SOURCE_KEY}", Body=model.data
            )
        self._put_in_parts(f"parts/{SOURCE_KEY}", self.new.data)

    def _put_in_parts(self, key: str, data: bytes) -> None:
        """A source that is copied in as many parts as it was uploaded in: there a first, a middle and a last one."""
        client, place = self.server.client(), {"Bucket": self.sources, "Key": key}
        upload = place | {"UploadId": client.create_multipart_upload(**place)["UploadId"]}
        parts = []
        for number, at in enumerate(range(0, len(data), self.part), 1):
            answer = client.upload_part(**upload, PartNumber=number, Body=data[at : at + self.part])
            parts.append({"PartNumber": number, "ETag": answer["ETag"]})
        client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})

    def request(self, place: Place, folder: str = "new", **fields: Any) -> StageRequest:
        given: dict[str, Any] = {
            "source": f"s3://{self.sources}/{folder}/{SOURCE_KEY}",
            "connections": 4,
            "retries": 2,
            "source_copy": "send",
        }
        return with_small(place.request(**given | fields), part_size=self.part)

    async def run(self, cell: Cell, targets: tuple[Target, ...]) -> None:
        """Run the cell, and the clean run after it.

        Raises:
            AssertionError: something does not hold that must.
        """
        total = (await self._totals_of(cell.target.situation, targets))[cell.target]
        for _ in range(_TRIES):
            place = await self._prepared(cell.target.situation)
            rule = _rule(cell, total)
            asked = self._asked(place, cell.target.situation)
            async with FaultProxy(self.server, [rule]) as proxy:
                request = asked.model_copy(
                    update={"endpoint_url": proxy.endpoint_url, "timeout": cell.timeout}
                )
                code, words = await _exit_of(request)
                struck = [record for record in proxy.log if record.faults or _cut_short(cell, record)]
                made = proxy.count(cell.target.operation, _key(cell.target))
            if struck or made >= total:
                break
            total = made  # the run in which they were counted was slow, and wrote its journal once more
        assert struck, f"the fault did not strike; exit {code}: {words}"
        assert all(rule.fits(record.request) for record in struck)
        await asyncio.to_thread(self._assert_safe, place, cell, code)
        assert code in cell.exits, f"exit {code}: {words}"
        again = self._asked(place, cell.target.situation).model_copy(update={"expect_sha256": None})
        code, words = await _exit_of(again, self.direct)
        assert code == 0, f"the rerun ended in {code}: {words}"
        await asyncio.to_thread(self._assert_converged, place, cell)
        await asyncio.to_thread(self.server.remove_bucket, place.bucket)

    def _asked(self, place: Place, situation: Situation) -> StageRequest:
        wrong = hashlib.sha256(b"another archive").hexdigest()
        # Short, for what a run leaves in its commit is waited out; but long enough for windows.
        lease = 2.0 if situation == "resume" else _LEASE
        copied: dict[str, Any] = {"folder": "parts", "source_copy": "auto"} if situation == "copied" else {}
        return self.request(
            place,
            **copied,
            lease=lease,
            force=situation == "replace",
            expect_sha256=wrong if situation == "refused" else None,
        )

    async def _prepared(self, situation: Situation) -> Place:
        place = Place(self.server, await asyncio.to_thread(self.server.new_bucket))
        if situation == "resume":
            await self._leave_uploads(place)
        if situation in {"replace", "again"}:
            await stage(self.request(place, "old" if situation == "replace" else "new"), store=self.direct)
        return place

    async def _leave_uploads(self, place: Place) -> None:
        """What a run leaves that was refused all but two parts of its models, with an upload open for each of them."""
        models = {PREFIX + name for name in self.new.objects if name.startswith("models/")}
        gate, begun = Gate(), set[str]()

        async def begins(record: Record) -> None:
            begun.add(record.key)
            if models <= begun:
                gate.release()

        # Refused only when the run knows all its uploads: otherwise it would be the scheduler's choice how many there
        # are, and of one that was just being created no journal would tell.
        refused = (Stall("request", gate=gate), Refuse("SlowDown"))
        rule = Rule("UploadPart", key=PREFIX + "models/*", occurrence=range(3, 99), fault=refused)
        hook = Hook(begins, operation="UploadPart")
        async with FaultProxy(self.server, [rule], [hook]) as proxy:
            code, words = await _exit_of(self.request(place, endpoint_url=proxy.endpoint_url))
        assert code == 75, words
        # Of one more no journal tells: it was being created when that run ended.
        unknown = {"Bucket": place.bucket, "Key": _UNKNOWN}
        await asyncio.to_thread(lambda: place.client.create_multipart_upload(**unknown))

    async def _totals_of(self, situation: Situation, targets: tuple[Target, ...]) -> Mapping[Target, int]:
        """How many requests of each kind a run without faults makes: which one is the last depends on it."""
        if situation not in self._totals:
            place = await self._prepared(situation)
            async with FaultProxy(self.server) as proxy:
                request = self._asked(place, situation)
                code, words = await _exit_of(request.model_copy(update={"endpoint_url": proxy.endpoint_url}))
                assert code == (65 if situation == "refused" else 0), words
                self._totals[situation] = {
                    target: proxy.count(target.operation, _key(target)) for target in targets
                }
        return self._totals[situation]

    # What holds.

    def _assert_safe(self, place: Place, cell: Cell, code: int) -> None:
        situation = cell.target.situation
        names = place.names()
        if MARKER.removeprefix(PREFIX) in names:
            marked = self._marked(place)
            assert situation not in {"fresh", "resume", "copied"} or marked is self.new
            assert situation != "refused", "a refused run has put a marker"
            self._assert_whole(place, marked)
            assert code != 65 or situation == "again", "exit 65, and yet it is staged"
        else:
            assert situation != "again", "the staging that was there has lost its marker"
            for name in names:
                self._assert_right(place, name)
        if code in {0, 65} and not cell.leaves_open:
            assert not [name for name in names if name.startswith(JOURNALS)], f"exit {code} left its journal"
            assert place.open_uploads() == [], f"exit {code} left uploads open"
        if code == 65 and situation not in {"replace", "again"} and not cell.leaves_open:
            assert names == [], "a refusal left objects"

    def _marked(self, place: Place) -> Model:
        """Which of both a marker says is staged."""
        source = Marker.parse(place.read(MARKER).decode()).source
        return self.old if source == f"s3://{self.sources}/old/{SOURCE_KEY}" else self.new

    def _assert_right(self, place: Place, name: str) -> None:
        """An object that can be seen is one that was meant, whole: the new one's or the old one's."""
        if name.startswith(("source/", "models/")):
            digest = hashlib.sha256(place.read(PREFIX + name)).hexdigest()
            meant = {self.new.objects.get(name), self.old.objects.get(name)}
            assert digest in meant, f"{name} is not what it should be"
        elif name.endswith(".json") and not name.startswith(JOURNALS):
            json.loads(place.read(PREFIX + name))

    def _assert_whole(self, place: Place, model: Model) -> None:
        """All that a marker promises."""
        names = {name for name in place.names() if not name.startswith(JOURNALS)}
        documents = {"artifact.json", "checksums.sha256", "upload_manifest.json", "staging_complete.txt"}
        assert names == documents | set(model.objects)
        lines = place.read(PREFIX + "checksums.sha256").decode().splitlines()
        listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        assert listed == model.objects
        for name, digest in model.objects.items():
            assert hashlib.sha256(place.read(PREFIX + name)).hexdigest() == digest, name
        artifact = place.read(PREFIX + "artifact.json")
        assert json.loads(artifact)["source"]["sha256"] == model.archive.sha256
        marker = Marker.parse(place.read(MARKER).decode())
        assert marker.artifact_sha256 == hashlib.sha256(artifact).hexdigest()

    def _assert_converged(self, place: Place, cell: Cell) -> None:
        self._assert_whole(place, self.new)
        assert self._marked(place) is self.new
        assert not [name for name in place.names() if name.startswith(JOURNALS)], "a journal is left"
        # A staging that is whole is not swept again: what a probe could not abort is left to gc, and what no journal tells
        # of where uploads could not be listed.
        spared = (PREFIX + JOURNALS, _UNKNOWN) if cell.leaves_open else ()
        left = [key for key in place.open_uploads() if not key.startswith(spared)]
        assert left == [], "uploads are left open after the rerun"


def _key(target: Target) -> str:
    """Source keys lie in a folder here, so that two archives of one name can be there."""
    return f"*/{target.key}" if target.key == SOURCE_KEY else target.key


def _rule(cell: Cell, total: int) -> Rule:
    at = {"only": 1, "first": 1, "middle": (total + 1) // 2, "last": total}[cell.at]
    expected = {"one": total == 1, "two": total == 2, "many": total > 1, "some": total > 0}
    assert expected[cell.target.count], f"a run makes {total} requests of {cell.target.name}"
    occurrence = {"once": range(at, at + 1), "twice": range(at, at + 2), "on": range(at, 1 << 20)}
    return Rule(
        cell.target.operation,
        key=_key(cell.target),
        occurrence=occurrence[cell.fault.lasts],
        fault=cell.fault.strikes,
    )


def _cut_short(cell: Cell, record: Record) -> bool:
    """A Content-Length that was made smaller is struck as soon as it is told; the client may not read on."""
    announced = any(isinstance(strike, ShortBody) and strike.honest for strike in cell.fault.strikes)
    return announced and record.outcome == "client-gone" and record.operation == cell.target.operation


async def _exit_of(request: StageRequest, store: Store | None = None) -> tuple[int, str]:
    """The exit code that the command line would give. What is none of our errors is a bug: exit 1."""
    try:
        await stage(request, store=store)
    except RivaStreamError as error:
        return error.exit_code, f"{type(error).__name__}: {error}"
    except Exception as error:  # noqa: BLE001 - a bug of ours is a result here, told with its words
        return 1, f"{type(error).__name__}: {error}"
    return 0, "staged"
