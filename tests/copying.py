"""A store in memory that keeps account of what goes to it, and models whose parts are a few KiB."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from riva_stream import StageRequest
from riva_stream.s3 import CompletedPart, CopiedPart, CopySource, ObjectPart, PartBody, RangeReply, Stored
from riva_stream.s3.memory import MemoryStore
from riva_stream.sizes import MIB
from tests.contract.ground import body
from tests.staging import gzipped
from tests.support.archives import riva_bytes
from tests.support.small_parts import SmallStageRequest

__all__ = [
    "COPIED",
    "PART",
    "PREFIX",
    "Account",
    "Hook",
    "Model",
    "Watched",
    "asked",
    "assert_nothing_left",
    "assert_staged",
    "do_nothing",
    "made",
]

PREFIX = "prod/parakeet/v1/"
PART, COPIED = 2048, 4096

Hook = Callable[[int, CopySource], Awaitable[None]]


async def do_nothing(_: int, __: CopySource) -> None:
    """Let a copy be made."""


@dataclass(eq=False)
class Account:
    """What went to a store."""

    sent: list[tuple[str, int]] = field(default_factory=list)
    """Key and bytes of each part that was sent."""
    copied: list[tuple[str, CopySource]] = field(default_factory=list)
    """Key and source of each part that was copied, probes aside."""
    read: list[str] = field(default_factory=list)
    """Keys of objects of which a range was read."""

    def payload(self) -> int:
        """Bytes of parts of the archive and its models that were sent."""
        return sum(
            size for key, size in self.sent if key.startswith((PREFIX + "source/", PREFIX + "models/"))
        )


class Watched(MemoryStore):
    """A store in memory that keeps account, and lets a test step in before each copy of a payload."""

    def __init__(self, *, tells_parts: bool = True, checks_whole: bool = True, **options: Any) -> None:
        super().__init__("models", "staging", **{"smallest_part": 1} | options)
        self.account = Account()
        self.before: Hook = do_nothing
        self.after: Hook = do_nothing
        self._tells_parts = tells_parts
        self._checks_whole = checks_whole

    async def upload_part(self, bucket: str, key: str, upload_id: str, number: int, body: PartBody) -> str:
        self.account.sent.append((key, body.size))
        return await super().upload_part(bucket, key, upload_id, number, body)

    @asynccontextmanager
    async def get_range(self, bucket: str, key: str, **options: Any) -> AsyncIterator[RangeReply]:
        self.account.read.append(key)
        async with super().get_range(bucket, key, **options) as reply:
            yield reply

    async def copy_part(
        self, bucket: str, key: str, upload_id: str, number: int, source: CopySource
    ) -> CopiedPart:
        if ".riva-stream/" in key:
            return await super().copy_part(bucket, key, upload_id, number, source)
        self.account.copied.append((key, source))
        count = len(self.account.copied)
        await self.before(count, source)
        told = await super().copy_part(bucket, key, upload_id, number, source)
        await self.after(count, source)
        return told

    async def head_part(self, bucket: str, key: str, number: int) -> ObjectPart | None:
        return await super().head_part(bucket, key, number) if self._tells_parts else None

    async def complete_upload(
        self,
        bucket: str,
        key: str,
        upload_id: str,
        parts: Sequence[CompletedPart],
        *,
        crc64nvme: str | None,
        **options: Any,
    ) -> Stored:
        told = crc64nvme if self._checks_whole else None
        return await super().complete_upload(bucket, key, upload_id, parts, crc64nvme=told, **options)

    async def put_source(self, key: str, data: bytes, *, parts: Sequence[int] = ()) -> None:
        """The source; with ``parts`` it is uploaded in parts of these sizes."""
        if not parts:
            await self.put("models", key, body(data), content_type="a/b", metadata={})
            return
        upload_id = await self.create_upload("models", key, content_type="a/b", metadata={}, crc64nvme=False)
        done, at = [], 0
        for number, size in enumerate(parts, 1):
            piece = data[at : at + size]
            etag = await super().upload_part("models", key, upload_id, number, body(piece))
            done.append(CompletedPart(number, etag, size))
            at += size
        assert at == len(data)
        await self.complete_upload("models", key, upload_id, done, crc64nvme=None)

    def staged(self) -> dict[str, bytes]:
        """Name and bytes of everything below the prefix."""
        found = {key.removeprefix(PREFIX): self.look("staging", key) for key in self.keys("staging", PREFIX)}
        return {name: kept.data for name, kept in found.items() if kept is not None}

    def validation(self) -> dict[str, Any]:
        return dict(json.loads(self.staged()["artifact.json"])["validation"])


@dataclass(frozen=True, slots=True)
class Model:
    """An archive, or a model as it is, and what its staging consists of."""

    name: str
    data: bytes
    objects: dict[str, bytes]

    @property
    def key(self) -> str:
        return f"in/{self.name}"


def made(
    kind: str, seed: object = 0, sizes: Sequence[int] = (9_000, 3_500), *, readme: bytes = b"read me"
) -> Model:
    """``tar.gz``, ``tar`` or ``riva``; random bytes, so that they hardly shrink."""
    files = {f"m{n}.riva": riva_bytes(size, f"{seed}/{n}") for n, size in enumerate(sizes)}
    if kind == "riva":
        return Model("m0.riva", files["m0.riva"], {"models/m0.riva": files["m0.riva"]})
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in {"README": readme, **files}.items():
            info = tarfile.TarInfo(f"p/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    data = raw.getvalue() if kind == "tar" else gzipped(raw.getvalue())
    models = {f"models/{name}": content for name, content in files.items()}
    return Model(f"a.{kind}", data, {f"source/a.{kind}": data, **models})


def asked(model: Model, **fields: Any) -> StageRequest:
    """A request with parts far below what one may have, so that a few KiB are many of them."""
    given: dict[str, Any] = {
        "source": f"s3://models/{model.key}",
        "bucket": "staging",
        "env": "prod",
        "model_name": "parakeet",
        "model_version": "v1",
        "connections": 2,
        "lease": 1.0,
        "retries": 2,
        "memory": 192 * MIB,
    }
    return SmallStageRequest(**given | {"part_size": PART} | fields)


def assert_staged(store: Watched, model: Model) -> None:
    staged = store.staged()
    documents = {"artifact.json", "checksums.sha256", "upload_manifest.json", "staging_complete.txt"}
    assert staged.keys() == documents | model.objects.keys()
    assert {name: staged[name] for name in model.objects} == model.objects
    lines = staged["checksums.sha256"].decode().splitlines()
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    assert listed == {name: hashlib.sha256(data).hexdigest() for name, data in model.objects.items()}
    assert store.open_uploads("staging") == []


def assert_nothing_left(store: Watched) -> None:
    assert store.staged() == {}
    assert store.open_uploads("staging") == []
