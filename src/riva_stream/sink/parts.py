"""One part: the checksums of the very buffer that is sent."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import xxhash

from riva_stream.flow.buffers import Chunk, Piece
from riva_stream.flow.digest import base64_crc, crc64nvme_of, md5_of, sha256_of
from riva_stream.s3 import CopySource, PartBody

__all__ = ["Check", "Copy", "Part", "PartChecksums", "SentPart", "body_of", "checksum_part"]

Check = str
"""``crc64nvme``, ``md5`` or ``sha256``: the checksum by which the store verifies each part. ``etag``: it verifies
nothing, but returns the MD5 of what it received, which is compared here. ``none``: neither.
"""


@dataclass(frozen=True, slots=True)
class Copy:
    """A part that the store makes itself from an object that it has: no bytes are sent."""

    source: CopySource
    size: int


Part = Chunk | Copy
"""Bytes that are here, of which a share is held until they are durable; or a copy by the store."""


@dataclass(frozen=True, slots=True)
class PartChecksums:
    """The checksums computed from a part's bytes before they were sent."""

    size: int
    fingerprint: str
    """xxh3_128, hexadecimal: shows a later run whether the store has exactly these bytes."""
    crc64nvme: int | None = None
    md5: bytes | None = None
    sha256: str | None = None
    compared_here: bool = False
    """Whether the MD5 is not sent, but compared with the store's ETag here."""

    def matches(self, etag: str) -> bool:
        """Whether the store's ETag is that of these bytes, as far as can be told."""
        return not self.compared_here or self.md5 is None or etag == self.md5.hex()

    def body(self, pieces: Sequence[Piece]) -> PartBody:
        """The bytes with the checksum for the store to verify."""
        return PartBody(
            pieces,
            self.size,
            crc64nvme=None if self.crc64nvme is None else base64_crc(self.crc64nvme),
            md5=None if self.md5 is None or self.compared_here else base64.b64encode(self.md5).decode(),
            sha256=self.sha256,
        )


@dataclass(frozen=True, slots=True)
class SentPart:
    """A part that the store has acknowledged."""

    number: int
    size: int
    etag: str
    fingerprint: str
    """Empty for a part that was copied."""
    crc64nvme: int | None
    md5: bytes | None
    proven: bool = True
    """Whether it is known to contain the bytes that were hashed; a copied part is not until it was compared."""

    @property
    def checksum(self) -> str | None:
        """Its CRC64NVME in the notation of S3."""
        return None if self.crc64nvme is None else base64_crc(self.crc64nvme)


def checksum_part(pieces: Sequence[Piece], check: Check) -> PartChecksums:
    """Compute the checksums of a part; runs in a worker thread."""
    fingerprint = xxhash.xxh3_128()
    for piece in pieces:
        fingerprint.update(piece)
    return PartChecksums(
        sum(map(len, pieces)),
        fingerprint.hexdigest(),
        crc64nvme=crc64nvme_of(pieces) if check == "crc64nvme" else None,
        md5=md5_of(pieces) if check in {"md5", "etag"} else None,
        sha256=sha256_of(pieces) if check == "sha256" else None,
        compared_here=check == "etag",
    )


def body_of(data: bytes, check: Check) -> PartBody:
    """The body of a small object."""
    return checksum_part((data,), check).body((data,))
