"""The contents of the store in memory, and the checks that need nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from riva_stream.flow.digest import base64_crc, crc64nvme_of
from riva_stream.s3.errors import refusal
from riva_stream.s3.port import CompletedPart, PartBody

__all__ = ["Contents", "MemoryObject", "Part", "Request", "Upload", "crc64nvme_in", "md5_of", "received"]

Request = tuple[str, str, str]
"""Operation, bucket and key."""


@dataclass(frozen=True, slots=True, eq=False)
class MemoryObject:
    """One version of an object as stored."""

    key: str
    data: bytes
    etag: str
    last_modified: datetime
    version_id: str | None
    metadata: Mapping[str, str]
    content_type: str
    crc64nvme: str
    """base64; empty if the store keeps none."""
    tags: Mapping[str, str]
    parts: tuple[int, ...] = ()
    """Bytes of each part from which it was completed; empty if it was put whole."""
    deleted: bool = False
    """Whether it is the delete marker of a versioned bucket."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part as received."""

    data: bytes
    md5: bytes
    crc64nvme: str | None
    """base64; None if it was not requested."""


@dataclass(slots=True, eq=False)
class Upload:
    """An open upload."""

    key: str
    upload_id: str
    initiated: datetime
    content_type: str
    metadata: Mapping[str, str]
    declared: bool
    """Whether it was created with CRC64NVME."""
    tags: Mapping[str, str]
    parts: dict[int, Part] = field(default_factory=dict)

    def parts_for_complete(self, where: Request, parts: Sequence[CompletedPart], smallest: int) -> list[Part]:
        """The parts that Complete names, if they match it."""
        if not parts:
            raise refusal(*where, "MalformedXML", 400)
        numbers = [part.number for part in parts]
        if numbers != sorted(set(numbers)):
            raise refusal(*where, "InvalidPartOrder", 400)
        for part in parts:
            kept = self.parts.get(part.number)
            if kept is None or kept.md5.hex() != part.etag or part.crc64nvme not in {None, kept.crc64nvme}:
                raise refusal(*where, "InvalidPart", 400, part=part.number)
            if len(kept.data) < smallest and part is not parts[-1]:
                raise refusal(*where, "EntityTooSmall", 400, part=part.number)
        return [self.parts[number] for number in numbers]


@dataclass(slots=True, eq=False)
class Contents:
    """One bucket with all its content."""

    versions: dict[str, list[MemoryObject]] = field(default_factory=dict)
    """Newest last; without versioning there is one at most."""
    uploads: dict[str, Upload] = field(default_factory=dict)

    def copy(self) -> Contents:
        """A copy; objects are immutable, uploads are not."""
        return Contents(
            {key: list(found) for key, found in self.versions.items()},
            {number: replace(upload, parts=dict(upload.parts)) for number, upload in self.uploads.items()},
        )

    def current(self, key: str) -> MemoryObject | None:
        """The newest version, unless it is a delete marker."""
        found = self.versions.get(key)
        return found[-1] if found and not found[-1].deleted else None

    def below(self, prefix: str) -> Iterator[MemoryObject]:
        """The objects below ``prefix``, by key."""
        for key in sorted(key for key in self.versions if key.startswith(prefix)):
            if (found := self.current(key)) is not None:
                yield found


def crc64nvme_in(data: bytes) -> str:
    """CRC64NVME in the notation of S3."""
    return base64_crc(crc64nvme_of((data,)))


def md5_of(data: bytes) -> bytes:
    """MD5, as used in ETags."""
    return hashlib.md5(data, usedforsecurity=False).digest()


def received(body: PartBody, where: Request, **details: Any) -> Part:
    """The bytes of a body, if they match its checksum."""
    data = b"".join(body.pieces)
    md5 = md5_of(data)
    crc64nvme = None if body.crc64nvme is None else crc64nvme_in(data)
    if len(data) != body.size:
        raise refusal(*where, "IncompleteBody", 400, **details)
    if crc64nvme != body.crc64nvme or body.md5 not in {None, base64.b64encode(md5).decode()}:
        raise refusal(*where, "BadDigest", 400, **details)
    if body.sha256 is not None and hashlib.sha256(data).hexdigest() != body.sha256:
        raise refusal(*where, "XAmzContentSHA256Mismatch", 400, **details)
    return Part(data, md5, crc64nvme)
