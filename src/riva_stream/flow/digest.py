"""Chunks to digests, off the event loop: hashlib, BLAKE3 and the CRCs release the GIL while they run."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Annotated, Any, ClassVar, Literal, Protocol

from awscrt import checksums as crt
from blake3 import blake3
from isal import isal_zlib
from pydantic import ConfigDict, Field

from riva_stream import clock
from riva_stream.flow.buffers import Channel, Chunk, Piece
from riva_stream.flow.lanes import Lane
from riva_stream.flow.sha256 import Sha256, Sha256State

__all__ = [
    "Digest",
    "DigestRecord",
    "DigestState",
    "Hash",
    "HashLane",
    "base64_crc",
    "combined_crc64nvme",
    "crc64nvme_of",
    "md5_of",
    "sha256_of",
]


@dataclass(frozen=True, slots=True)
class DigestRecord:
    """The digests of ``size`` bytes, in lower-case hexadecimal."""

    size: int
    sha256: str
    blake3: str | None
    """None if it was not requested, or the digest was restored: BLAKE3 has no state that can be saved."""
    others: dict[str, str]
    """Further requested algorithms, in the encoding of S3: base64, but hexadecimal for ``md5``."""


class _Hasher(Protocol):
    def update(self, data: Piece, /) -> Any:
        """Process more bytes."""

    def digest(self) -> bytes:
        """Return the digest of all bytes so far."""


class _Crc:
    """A CRC function as a hasher."""

    def __init__(self, function: Any, width: int) -> None:
        self._function, self._width, self.value = function, width, 0

    def update(self, data: Piece, /) -> None:
        self.value = self._function(data, self.value)

    def digest(self) -> bytes:
        return self.value.to_bytes(self._width, "big")

    def restore(self, value: int) -> None:
        if value >> 8 * self._width:
            raise ValueError(f"a CRC of more than {self._width} bytes")
        self.value = value


_HASHERS: dict[str, Callable[[], Any]] = {
    "sha256": Sha256,
    "blake3": blake3,
    "crc64nvme": lambda: _Crc(crt.crc64nvme, 8),
    "crc32": lambda: _Crc(isal_zlib.crc32, 4),
    "crc32c": lambda: _Crc(crt.crc32c, 4),
    "sha1": lambda: hashlib.sha1(usedforsecurity=False),
    "md5": lambda: hashlib.md5(usedforsecurity=False),
}

_HEXADECIMAL = frozenset(("sha256", "blake3", "md5"))


@dataclass(frozen=True, slots=True)
class DigestState:
    """The state of a digest in the middle of its object: plain data, the same on every host."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", strict=True)

    size: Annotated[int, Field(ge=0, lt=1 << 61)]
    sha256: Sha256State
    crcs: dict[Literal["crc64nvme", "crc32", "crc32c"], Annotated[int, Field(ge=0, lt=1 << 64)]]


class Hash:
    """A single algorithm, so that several can process the same chunks in parallel, each in its own lane.

    Args:
        algorithm: sha256, blake3, or one of those that :class:`Digest` accepts as others.
    """

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm
        self.hasher: _Hasher = _HASHERS[algorithm]()

    def update(self, pieces: Sequence[Piece]) -> None:
        """Process the next pieces; runs in a worker thread."""
        for piece in pieces:
            self.hasher.update(piece)

    def text(self) -> str:
        """The digest of all bytes so far: hexadecimal where that is usual, otherwise base64 as in S3."""
        value = self.hasher.digest()
        return value.hex() if self.algorithm in _HEXADECIMAL else base64.b64encode(value).decode()

    @property
    def crc(self) -> int | None:
        """The digest as a number, for continuing from it; None if the algorithm is not a CRC."""
        return self.hasher.value if isinstance(self.hasher, _Crc) else None

    def restore(self, crc: int) -> None:
        """Continue from where :attr:`crc` was taken, with the same algorithm."""
        if isinstance(self.hasher, _Crc):
            self.hasher.restore(crc)


class Digest:
    """SHA-256 of one object, BLAKE3 on request, and further checksums.

    Args:
        others: further algorithms, from crc64nvme, crc32, crc32c, sha1, md5.
        with_blake3: whether to compute BLAKE3 as well.
    """

    def __init__(self, others: Iterable[str] = (), *, with_blake3: bool = True) -> None:
        self.size = 0
        self._sha256 = Sha256()
        self._blake3 = Hash("blake3") if with_blake3 else None
        self._others = {name: Hash(name) for name in others}

    def snapshot(self) -> DigestState | None:
        """The state after all bytes so far, to continue elsewhere; None if SHA-256 has no such state here."""
        sha256 = self._sha256.snapshot()
        if sha256 is None:
            return None
        crcs = {name: other.crc for name, other in self._others.items() if other.crc is not None}
        return DigestState(self.size, sha256, crcs)  # type: ignore[arg-type]  # the names that Literal lists

    @property
    def others(self) -> tuple[str, ...]:
        """The further algorithms."""
        return tuple(self._others)

    @classmethod
    def restore(cls, state: DigestState) -> Digest:
        """Continue from a snapshot. From there on BLAKE3 is None, and MD5 and SHA-1 are not in the record.

        Raises:
            ValueError: no digest can have this state, or SHA-256 cannot be restored here.
        """
        if state.size != state.sha256.size:
            raise ValueError("a digest of two sizes")
        digest = cls(state.crcs, with_blake3=False)
        digest.size = state.size
        digest._sha256 = Sha256.restore(state.sha256)
        for name, value in state.crcs.items():
            digest._others[name].restore(value)
        return digest

    def update(self, pieces: Sequence[Piece]) -> None:
        """Process the next pieces; runs in a worker thread."""
        hashers = [self._sha256, *(other.hasher for other in self._others.values())]
        if self._blake3 is not None:
            hashers.append(self._blake3.hasher)
        for piece in pieces:
            for hasher in hashers:
                hasher.update(piece)
            self.size += len(piece)

    def record(self) -> DigestRecord:
        """The digests of all bytes so far."""
        return DigestRecord(
            self.size,
            self._sha256.digest().hex(),
            None if self._blake3 is None else self._blake3.text(),
            {name: other.text() for name, other in self._others.items()},
        )


class _Updated(Protocol):
    def update(self, pieces: Sequence[Piece], /) -> None:
        """Process the next pieces."""


@dataclass(eq=False)
class HashLane:
    """One worker that chunks pass in order, each going into the digest with which it was queued."""

    lane: Lane
    done: Callable[[], None] = lambda: None
    """Called after each chunk."""
    _queue: Channel[tuple[_Updated, Chunk]] = field(default_factory=Channel, init=False)

    def send(self, digest: _Updated, chunk: Chunk) -> None:
        """Queue a chunk that this lane holds a share of; the lane releases it."""
        self._queue.send((digest, chunk))

    def close(self) -> None:
        """Declare that no more chunks will come; :meth:`run` ends after the last."""
        self._queue.close()

    async def run(self) -> None:
        """Hash until the queue is closed and empty."""
        async for digest, chunk in self._queue:
            with self.lane.busy():
                await clock.in_thread(digest.update, chunk.pieces)
            self.lane.bytes += chunk.size
            chunk.release()
            self.done()


def sha256_of(pieces: Sequence[Piece]) -> str:
    """SHA-256 of all pieces, hexadecimal."""
    whole = Hash("sha256")
    whole.update(pieces)
    return whole.text()


def md5_of(pieces: Sequence[Piece]) -> bytes:
    """MD5 of all pieces."""
    whole = Hash("md5")
    whole.update(pieces)
    return whole.hasher.digest()


def crc64nvme_of(pieces: Sequence[Piece]) -> int:
    """CRC64NVME of all pieces."""
    return reduce(lambda value, piece: crt.crc64nvme(piece, value), pieces, 0)


def crc64nvme_value(text: str | None) -> int | None:
    """A CRC64NVME given by a store, base64; None if there is none, or it is malformed."""
    try:
        data = base64.b64decode(text or "", validate=True)
    except ValueError:
        return None
    return int.from_bytes(data, "big") if len(data) == 8 else None  # noqa: PLR2004 - 64 bits


def base64_crc(value: int) -> str:
    """A CRC64 in the notation of S3."""
    return base64.b64encode(value.to_bytes(8, "big")).decode()


def combined_crc64nvme(parts: Iterable[tuple[int, int]]) -> str:
    """CRC64NVME, base64, of a whole object from the (value, bytes) of its parts in order."""
    return base64_crc(reduce(lambda before, part: crt.combine_crc64nvme(before, *part), parts, 0))
