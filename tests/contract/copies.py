"""Questions about parts that a store copies itself: what it refuses, and what its answers are worth.

``stage --source-copy`` stands on the answers: a copy counts only when it is proven equal to the bytes that were
hashed, and the proofs are made of part ETags, checksums, and the ETag of the whole.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from riva_stream.errors import RivaStreamError
from riva_stream.s3 import CompletedPart, CopiedPart, CopySource, ObjectPart
from tests.contract.ground import SMALL, TAKEN, Ground, body, crc64nvme, md5
from tests.contract.writes import WriteQuestion

__all__ = ["COPIES", "COPIES_WORTH", "COPY_FACTS", "MIB", "Copied", "CopyFact", "copy_of_parts"]

MIB = 1 << 20
YES, NO = "yes", "no"

_OTHER_ETAG = "0" * 32
_NO_VERSION = "no-such-version"


@dataclass(frozen=True, slots=True)
class CopyFact:
    """What is true of a copy on each store."""

    name: str
    find: Callable[[Ground], Awaitable[str]]
    answers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Copied:
    """An object of several parts, and an upload that was filled with copies of the same ranges."""

    source: str
    """Its key."""
    etag: str
    """Of the source."""
    parts: tuple[bytes, ...]
    key: str
    upload_id: str
    answers: tuple[CopiedPart, ...]

    @property
    def data(self) -> bytes:
        return b"".join(self.parts)

    @property
    def completed(self) -> list[CompletedPart]:
        """What it takes to complete the upload."""
        pairs = enumerate(zip(self.parts, self.answers, strict=True), 1)
        return [CompletedPart(n, told.etag, len(data), told.crc64nvme) for n, (data, told) in pairs]


async def copy_of_parts(ground: Ground, *, declared: bool = False) -> Copied:
    """Upload an object of three parts, and copy it in the same three."""
    parts = (os.urandom(5 * MIB), os.urandom(5 * MIB), os.urandom(12_345))
    source, source_upload, done = await ground.upload(*parts)
    etag = await ground.complete(source, source_upload, done)
    key = ground.key()
    upload_id = await ground.create(key, declared=declared)
    answers, at = [], 0
    for number, data in enumerate(parts, 1):
        asked = CopySource(ground.bucket, source, etag, None, at, at + len(data) - 1)
        answers.append(await ground.store.copy_part(ground.bucket, key, upload_id, number, asked))
        at += len(data)
    return Copied(source, etag, parts, key, upload_id, tuple(answers))


async def _copy(
    ground: Ground,
    data: bytes = SMALL,
    *,
    etag: str = "",
    missing: bool = False,
    version_id: str | None = None,
    span: tuple[int, int] | None = None,
    aborted: bool = False,
    number: int = 1,
) -> CopiedPart:
    source, key = ground.key(), ground.key()
    own = _OTHER_ETAG if missing else await ground.put(source, body(data))
    upload_id = await ground.create(key)
    if aborted:
        await ground.store.abort_upload(ground.bucket, key, upload_id)
    first, last = span or (None, None)
    asked = CopySource(ground.bucket, source, etag or own, version_id, first, last)
    return await ground.store.copy_part(ground.bucket, key, upload_id, number, asked)


async def _complete_copies(ground: Ground, *, wrong: bool) -> object:
    copied = await copy_of_parts(ground, declared=True)
    whole = crc64nvme(b"another object" if wrong else copied.data)
    return await ground.complete(copied.key, copied.upload_id, copied.completed, whole)


async def _tells_checksums(ground: Ground) -> str:
    copied = await copy_of_parts(ground, declared=True)
    told = [answer.crc64nvme for answer in copied.answers]
    return _yes(told == [crc64nvme(part) for part in copied.parts], unless=any(told))


async def _lists_checksums(ground: Ground) -> str:
    copied = await copy_of_parts(ground, declared=True)
    listed = await ground.store.list_parts(ground.bucket, copied.key, copied.upload_id) or []
    told = [part.crc64nvme for part in listed]
    return _yes(told == [crc64nvme(part) for part in copied.parts], unless=any(told))


async def _tells_md5(ground: Ground, *, declared: bool = False) -> str:
    copied = await copy_of_parts(ground, declared=declared)
    return _yes([answer.etag for answer in copied.answers] == [md5(part) for part in copied.parts])


async def _keeps_etag(ground: Ground) -> str:
    copied = await copy_of_parts(ground)
    return _yes(await ground.complete(copied.key, copied.upload_id, copied.completed) == copied.etag)


async def _keeps_plain_etag(ground: Ground) -> str:
    return _yes((await _copy(ground)).etag == md5(SMALL))


async def _tells_parts(ground: Ground) -> str:
    copied = await copy_of_parts(ground)
    expected = [ObjectPart(len(part), len(copied.parts)) for part in copied.parts]
    try:
        told = [await ground.store.head_part(ground.bucket, copied.source, n) for n in (1, 2, 3)]
    except RivaStreamError:
        return NO
    return _yes(told == expected)


async def _copies_small_range(ground: Ground) -> str:
    try:
        return _yes((await _copy(ground, span=(2, 5))).etag == md5(SMALL[2:6]))
    except RivaStreamError as error:
        return error.where.code


def _yes(holds: object, *, unless: object = False) -> str:
    """An answer; one that says something else than the truth must not pass for one that says nothing."""
    assert holds or not unless, "the store tells something wrong"
    return YES if holds else NO


def _on(moto: str, gateway: str, localstack: str, seaweedfs: str, memory: str) -> Mapping[str, str]:
    return {
        "moto": moto,
        "gateway": gateway,
        "localstack": localstack,
        "seaweedfs": seaweedfs,
        "memory": memory,
    }


def _ask(**options: Any) -> Callable[[Ground], Awaitable[object]]:
    return lambda ground: _copy(ground, **options)


_TAKEN = _on(TAKEN, TAKEN, TAKEN, TAKEN, TAKEN)
_REFUSED, _GONE, _MISSING = "PreconditionFailed", "NoSuchUpload", "NoSuchKey"

COPIES: tuple[WriteQuestion, ...] = (
    WriteQuestion("UploadPartCopy, If-Match, the right ETag", _ask(), _TAKEN),
    WriteQuestion(
        "UploadPartCopy, If-Match, another ETag",
        _ask(etag=_OTHER_ETAG),
        _on(TAKEN, _REFUSED, TAKEN, _REFUSED, _REFUSED),
    ),
    WriteQuestion(
        "UploadPartCopy, no such key", _ask(missing=True), _on("404", _MISSING, _MISSING, _MISSING, _MISSING)
    ),
    WriteQuestion(
        "UploadPartCopy, no such version",
        _ask(version_id=_NO_VERSION),
        _on("404", "NoSuchVersion", "InvalidArgument", _MISSING, "InvalidArgument"),
    ),
    WriteQuestion(
        "UploadPartCopy of a range that ends after the end",
        _ask(data=bytes(6 * MIB), span=(0, 6 * MIB)),
        _on(TAKEN, "InvalidArgument", "InvalidArgument", "InvalidRange", "InvalidArgument"),
    ),
    WriteQuestion(
        "UploadPartCopy into an aborted upload", _ask(aborted=True), _on("500", _GONE, _GONE, _GONE, _GONE)
    ),
    WriteQuestion(
        "UploadPartCopy as part number 10,001",
        _ask(number=10_001),
        _on(TAKEN, "InvalidArgument", "InvalidArgument", "InvalidPart", "InvalidArgument"),
    ),
    WriteQuestion(
        "Complete of copied parts, right CRC64NVME of the whole",
        lambda g: _complete_copies(g, wrong=False),
        _TAKEN,
    ),
    WriteQuestion(
        "Complete of copied parts, wrong CRC64NVME of the whole",
        lambda g: _complete_copies(g, wrong=True),
        _on(TAKEN, TAKEN, "BadDigest", "BadDigest", "BadDigest"),
    ),
)
"""In the order of the table. The store in memory answers as AWS does."""

COPY_FACTS: tuple[CopyFact, ...] = (
    CopyFact(
        "the CRC64NVME of a copied part is told, where the upload declared it",
        _tells_checksums,
        _on(NO, NO, YES, YES, YES),
    ),
    CopyFact("ListParts tells it as well", _lists_checksums, _on(NO, NO, YES, NO, YES)),
    CopyFact("the ETag of a copied range is its MD5", _tells_md5, _on(YES, YES, YES, NO, YES)),
    CopyFact(
        "the same, where the upload declared CRC64NVME",
        lambda g: _tells_md5(g, declared=True),
        _on(YES, YES, YES, YES, YES),
    ),
    CopyFact(
        "copied in the parts of its source, an object has the source's ETag",
        _keeps_etag,
        _on(YES, YES, YES, NO, YES),
    ),
    CopyFact(
        "copied as one part, what was put whole has its ETag",
        _keeps_plain_etag,
        _on(YES, YES, YES, YES, YES),
    ),
    CopyFact("HEAD tells the parts of an object", _tells_parts, _on(YES, NO, YES, YES, YES)),
    CopyFact(
        "a range of a source of a few bytes is that range",
        _copies_small_range,
        _on(YES, YES, YES, NO, "InvalidRequest"),
    ),
)
"""What a copy is on each store."""

COPIES_WORTH: Mapping[str, tuple[bool, bool, bool]] = {
    "moto": (False, False, False),
    "gateway": (True, False, True),
    "localstack": (False, False, False),
    "seaweedfs": (True, True, True),
    "memory": (True, True, True),
}
"""Whether parts are copied at all with ``--source-copy auto``, and whether their CRC64NVME and their ETag are believed."""
