"""What the contract tests stand on: a store behind the port, its server, and bodies with their checksums."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from riva_stream.errors import RivaStreamError
from riva_stream.flow.digest import crc64nvme_of
from riva_stream.s3 import CompletedPart, PartBody, Store
from riva_stream.s3.memory import MemoryStore
from tests.support.servers import random_bucket_name

__all__ = [
    "SMALL",
    "TAKEN",
    "Ground",
    "MemoryServer",
    "Server",
    "base64_of",
    "body",
    "crc64nvme",
    "md5",
    "outcome",
]

SMALL = b"some bytes of a part\n"
TAKEN = "taken"
"""The outcome of a request that the store did not refuse."""

_TYPE = "application/octet-stream"


def base64_of(value: bytes) -> str:
    return base64.b64encode(value).decode()


def crc64nvme(data: bytes) -> str:
    return base64_of(crc64nvme_of([data]).to_bytes(8, "big"))


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def body(data: bytes = SMALL, check: str = "none", *, wrong: bool = False) -> PartBody:
    """*data* with the checksum *check*, or with one that is not its own."""
    hashed = b"other " + data if wrong else data
    values: dict[str, str] = {}
    match check:
        case "crc64nvme":
            values = {"crc64nvme": crc64nvme(hashed)}
        case "md5":
            values = {"md5": base64_of(bytes.fromhex(md5(hashed)))}
        case "sha256":
            values = {"sha256": hashlib.sha256(hashed).hexdigest()}
    return PartBody((data,), len(data), **values)


async def outcome(act: Callable[[], Awaitable[object]]) -> str:
    """``taken``, or the error code that the store gave: its status where it gave none, our error where it gave neither."""
    try:
        await act()
    except RivaStreamError as error:
        return error.where.code or str(error.where.status or type(error).__name__)
    return TAKEN


class Server(Protocol):
    """What makes buckets for a store."""

    @property
    def name(self) -> str:
        """Its column in the tables."""

    def new_bucket(self) -> str:
        """Make a bucket of a name that nobody has."""

    def remove_bucket(self, name: str) -> None:
        """Remove one with all that is in it."""


class MemoryServer:
    """The store in memory; nobody else speaks to it."""

    name = "memory"

    def __init__(self) -> None:
        self.store = MemoryStore()

    def new_bucket(self) -> str:
        name = random_bucket_name()
        self.store.create_bucket(name)
        return name

    def remove_bucket(self, name: str) -> None:
        self.store.delete_bucket(name)


@dataclass(frozen=True, slots=True)
class Ground:
    """One bucket on one server, seen through the port."""

    server: Server
    store: Store
    bucket: str

    def key(self, folder: str = "k") -> str:
        """A key that nothing else has."""
        return f"{folder}/{secrets.token_hex(6)}"

    async def put(self, key: str, what: PartBody | None = None, **options: Any) -> str:
        """Put a small object and give its ETag."""
        given: dict[str, Any] = {"content_type": _TYPE, "metadata": {}} | options
        return (await self.store.put(self.bucket, key, what or body(), **given)).etag

    async def data(self, key: str) -> bytes | None:
        """The bytes of a small object, or None when there is none."""
        found = await self.store.get(self.bucket, key, limit=16 << 20)
        return found.data if found else None

    async def create(
        self, key: str, *, declared: bool = False, metadata: Mapping[str, str] | None = None
    ) -> str:
        return await self.store.create_upload(
            self.bucket, key, content_type=_TYPE, metadata=metadata or {}, crc64nvme=declared
        )

    async def part(self, key: str, upload_id: str, number: int = 1, what: PartBody | None = None) -> str:
        return await self.store.upload_part(self.bucket, key, upload_id, number, what or body())

    async def upload(
        self, *parts: bytes, key: str = "", check: str = "none"
    ) -> tuple[str, str, list[CompletedPart]]:
        """An open upload with these parts: its key, its UploadId, and what it takes to complete it."""
        key = key or self.key()
        upload_id = await self.create(key, declared=check == "crc64nvme")
        done = []
        for number, data in enumerate(parts, 1):
            etag = await self.part(key, upload_id, number, body(data, check))
            value = crc64nvme(data) if check == "crc64nvme" else None
            done.append(CompletedPart(number, etag, len(data), value))
        return key, upload_id, done

    async def complete(
        self, key: str, upload_id: str, parts: list[CompletedPart], whole: str | None = None
    ) -> str:
        stored = await self.store.complete_upload(self.bucket, key, upload_id, parts, crc64nvme=whole)
        return stored.etag

    async def range(self, key: str, first: int, last: int, etag: str, version_id: str | None = None) -> bytes:
        async with self.store.get_range(
            self.bucket, key, first=first, last=last, etag=etag, version_id=version_id
        ) as reply:
            return b"".join([piece async for piece in reply.pieces])
