"""Chunks to digests, off the event loop: hashlib, BLAKE3 and the CRCs release the GIL while they run."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from awscrt import checksums as crt
from blake3 import blake3
from isal import isal_zlib

from riva_stream import clock
from riva_stream.buffers import Channel, Chunk, Piece
from riva_stream.lanes import Lane

__all__ = [
    "Digest",
    "DigestRecord",
    "Hash",
    "HashLane",
    "combined_crc64nvme",
    "crc64nvme_of",
    "md5_of",
    "sha256_of",
]


@dataclass(frozen=True, slots=True)
class DigestRecord:
    """What was computed from ``size`` bytes. Digests are lower-case hexadecimal."""

    size: int
    sha256: str
    blake3: str
    others: dict[str, str]
    """Further algorithms that were asked for, in the encoding S3 uses: base64, but hexadecimal for ``md5``."""


class _Hasher(Protocol):
    def update(self, data: Piece, /) -> Any:
        """Take more bytes."""

    def digest(self) -> bytes:
        """Give the value of all bytes so far."""


class _Crc:
    """A CRC function as a hasher."""

    def __init__(self, function: Any, width: int) -> None:
        self._function, self._width, self._value = function, width, 0

    def update(self, data: Piece, /) -> None:
        self._value = self._function(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._width, "big")


_OTHERS: dict[str, Any] = {
    "crc64nvme": lambda: _Crc(crt.crc64nvme, 8),
    "crc32": lambda: _Crc(isal_zlib.crc32, 4),
    "crc32c": lambda: _Crc(crt.crc32c, 4),
    "sha1": lambda: hashlib.sha1(usedforsecurity=False),
    "md5": lambda: hashlib.md5(usedforsecurity=False),
}


_OWN: dict[str, Any] = {"sha256": hashlib.sha256, "blake3": blake3}


def _encoded(algorithm: str, value: bytes) -> str:
    """Hexadecimal where that is usual, else base64 as S3 has it."""
    return value.hex() if algorithm in {"md5", *_OWN} else base64.b64encode(value).decode()


class Digest:
    """SHA-256 and BLAKE3 of one object, and whatever else vouches for it.

    Args:
        others: further algorithms out of crc64nvme, crc32, crc32c, sha1, md5.
    """

    def __init__(self, others: Iterable[str] = ()) -> None:
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._blake3 = blake3()
        self._others: dict[str, _Hasher] = {name: _OTHERS[name]() for name in others}

    def update(self, pieces: Sequence[Piece]) -> None:
        """Take the next pieces; runs in a worker thread."""
        hashers: tuple[_Hasher, ...] = (self._sha256, self._blake3, *self._others.values())
        for piece in pieces:
            for hasher in hashers:
                hasher.update(piece)
            self.size += len(piece)

    def record(self) -> DigestRecord:
        """What all bytes so far come to."""
        return DigestRecord(
            self.size,
            self._sha256.hexdigest(),
            self._blake3.hexdigest(),
            {name: _encoded(name, hasher.digest()) for name, hasher in self._others.items()},
        )


class Hash:
    """One algorithm alone, so that several can work on the same chunks beside each other, each in a lane of its own.

    Args:
        algorithm: sha256, blake3, or one of those that :class:`Digest` takes as others.
    """

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm
        self._hasher: _Hasher = _OWN[algorithm]() if algorithm in _OWN else _OTHERS[algorithm]()

    def update(self, pieces: Sequence[Piece]) -> None:
        """Take the next pieces; runs in a worker thread."""
        for piece in pieces:
            self._hasher.update(piece)

    def text(self) -> str:
        """What all bytes so far come to, encoded as in :class:`DigestRecord`."""
        return _encoded(self.algorithm, self._hasher.digest())


class _Updated(Protocol):
    def update(self, pieces: Sequence[Piece], /) -> None:
        """Take the next pieces."""


@dataclass(eq=False)
class HashLane:
    """One worker through which chunks go in order, each into the digest it came with."""

    lane: Lane
    _queue: Channel[tuple[_Updated, Chunk]] = field(default_factory=Channel, init=False)

    def send(self, digest: _Updated, chunk: Chunk) -> None:
        """Queue a chunk that this lane holds a share of; the lane releases it."""
        self._queue.send((digest, chunk))

    def close(self) -> None:
        """No more chunks will come; :meth:`run` ends after the last."""
        self._queue.close()

    async def run(self) -> None:
        """Hash until the queue is closed and empty."""
        async for digest, chunk in self._queue:
            with self.lane.busy():
                await clock.in_thread(digest.update, chunk.pieces)
            self.lane.bytes += chunk.size
            chunk.release()


def sha256_of(pieces: Sequence[Piece]) -> str:
    """SHA-256 of all pieces, hexadecimal."""
    hasher = hashlib.sha256()
    for piece in pieces:
        hasher.update(piece)
    return hasher.hexdigest()


def md5_of(pieces: Sequence[Piece]) -> bytes:
    """MD5 of all pieces."""
    hasher = hashlib.md5(usedforsecurity=False)
    for piece in pieces:
        hasher.update(piece)
    return hasher.digest()


def crc64nvme_of(pieces: Sequence[Piece]) -> int:
    """CRC64NVME of all pieces."""
    value = 0
    for piece in pieces:
        value = crt.crc64nvme(piece, value)
    return value


def combined_crc64nvme(parts: Iterable[tuple[int, int]]) -> str:
    """CRC64NVME, base64, of a whole object from the (value, bytes) of its parts in order."""
    whole = 0
    for value, size in parts:
        whole = crt.combine_crc64nvme(whole, value, size)
    return base64.b64encode(whole.to_bytes(8, "big")).decode()
