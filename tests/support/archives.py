"""Made-up model archives: the shape of a Parakeet ``.tar.gz``, any size, the same bytes for the same seed.

The archive holds a few small text files and ``.riva`` members. Each ``.riva`` is itself a small tar of weights,
as the real ones are. The weights are little-endian float32 whose sign and exponent bytes are spread as a trained
network's are, while the mantissas are noise: gzip -6 takes about 9 % off them, as it does off real weights.

Everything is produced block by block: memory stays at a few MiB whatever the archive's size. Making it costs
about 4 s per GiB, and what the compression costs on top: nearly nothing for level 1 and 0, 35 s per GiB for 6.
"""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from isal import isal_zlib

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["Archive", "Member", "archive_bytes", "make_archive", "riva_bytes", "write_archive"]

_BLOCK: Final = 1 << 20
_TAR_BLOCK: Final = tarfile.BLOCKSIZE

# The last byte of a little-endian float32: sign and the upper seven bits of the exponent. Its 256 places give
# the frequencies, as counted in weights with a standard deviation near 0.02.
_EXPONENTS: Final = (
    b"\xbc" * 102
    + b"\x3c" * 102
    + b"\xbb" * 20
    + b"\x3b" * 20
    + b"\xba\x3a\xba\x3a\xba\x3a\xba\x3a"
    + b"\xbd\x3d" * 2
)

_TEXTS: Final = (
    ("README.md", b"# Parakeet\n\nMade-up weights for tests. They recognise nothing.\n"),
    ("config/model_config.yaml", b"name: parakeet-test\nsample_rate: 16000\nlanguage: en-US\n"),
    ("config/vocab.txt", "".join(f"token{i:05d}\n" for i in range(1024)).encode()),
)


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in the archive, as whoever unpacks it must find it."""

    name: str
    size: int
    sha256: str

    @property
    def basename(self) -> str:
        return self.name.rpartition("/")[2]

    @property
    def is_riva(self) -> bool:
        return self.name.endswith(".riva")


@dataclass(frozen=True, slots=True)
class Archive:
    """What was written: sizes in bytes, digests in hexadecimal."""

    size: int
    sha256: str
    tar_size: int
    """Size of the tar inside the gzip."""
    members: tuple[Member, ...]
    """Every regular file, in the archive's order."""

    @property
    def rivas(self) -> tuple[Member, ...]:
        return tuple(member for member in self.members if member.is_riva)


@lru_cache(maxsize=1)
def _noise() -> int:
    """One block of random bits, made once: ``randbytes`` is the slow part (160 MB/s)."""
    return int.from_bytes(random.Random(20_130).randbytes(_BLOCK), "little")


def _weights(size: int, seed: str) -> Iterator[bytes]:
    """*size* bytes of float32-like weights, a multiple of nothing in particular.

    Every block is the noise XORed with a key of its own. No two blocks are equal, so bytes put in the wrong
    place are found by a digest, and deflate's 32 KiB window sees nothing that repeats.
    """
    for index, start in enumerate(range(0, size, _BLOCK)):
        key = hashlib.blake2b(f"{seed}/{index}".encode()).digest()
        mask = int.from_bytes(key * (_BLOCK // len(key)), "little")
        block = bytearray((_noise() ^ mask).to_bytes(_BLOCK, "little"))
        block[3::4] = block[3::4].translate(_EXPONENTS)
        yield bytes(block[: min(_BLOCK, size - start)])


def _header(name: str, size: int, *, directory: bool = False) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = size, 1_700_000_000
    info.type, info.mode = (tarfile.DIRTYPE, 0o755) if directory else (tarfile.REGTYPE, 0o644)
    return info.tobuf(tarfile.GNU_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % _TAR_BLOCK)


_END: Final = bytes(2 * _TAR_BLOCK)


def _riva(size: int, seed: str) -> Iterator[bytes]:
    """A ``.riva`` of exactly *size* bytes: a tar of a small text and the weights.

    A tar comes in whole blocks, so what *size* has beyond them follows the end blocks as zeros, as padding to a
    record does. One too small to hold a tar is weights alone.
    """
    text = f"format: riva\nseed: {seed}\n".encode()
    lead = _header("model_config.yaml", len(text)) + text + _padding(len(text))
    weights = (size - len(lead) - _TAR_BLOCK - len(_END)) // _TAR_BLOCK * _TAR_BLOCK
    if weights < 0:
        yield from _weights(size, seed)
        return
    yield lead + _header("model_weights.bin", weights)
    yield from _weights(weights, seed)
    yield _END + bytes((size - len(lead) - _TAR_BLOCK - len(_END)) % _TAR_BLOCK)


def riva_bytes(size: int, seed: object = 0) -> bytes:
    """A bare ``.riva`` of *size* bytes, in memory: for small ones."""
    return b"".join(_riva(size, str(seed)))


def _compressor(level: int) -> Any:
    """gzip at *level*: 0 stored blocks, 1 as igzip does it, 6 or any other as zlib does it."""
    if level == 1:
        return isal_zlib.compressobj(1, zlib.DEFLATED, 31)
    return zlib.compressobj(level, zlib.DEFLATED, 31)


def _shares(size: int, count: int) -> list[int]:
    """*size* in *count* unequal parts, the first the largest without a tie: each two thirds of what is left."""
    parts = []
    for _ in range(count - 1):
        parts.append(size * 2 // 3)
        size -= parts[-1]
    return [*parts, size]


class _Counted:
    """A sink that hashes and counts what passes through it."""

    def __init__(self, out: BinaryIO) -> None:
        self._out, self._hash, self.size = out, hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        self._out.write(data)
        self._hash.update(data)
        self.size += len(data)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


def write_archive(
    out: BinaryIO,
    size: int,
    *,
    level: int = 1,
    seed: object = 0,
    members: int | Sequence[tuple[str, int]] = 2,
    texts: bool = True,
) -> Archive:
    """Write a Parakeet-shaped ``.tar.gz`` to *out* and say what is in it.

    Args:
        out: a binary file; only ``write`` is used.
        size: bytes of all the ``.riva`` members together. The archive is about 9 % smaller, and slightly larger
            at level 0.
        level: 1 (igzip, quick), 6 (zlib, slow), 0 (stored blocks, quickest), or another one of zlib's.
        seed: anything with a text; the same seed and arguments give the same bytes.
        members: how many ``.riva`` files share *size*, the first being the largest, or their names and sizes
            (*size* is then ignored).
        texts: whether the small text files come along.
    """
    if isinstance(members, int):
        rivas = [(f"parakeet/model-{i}.riva", part) for i, part in enumerate(_shares(size, members))]
    else:
        rivas = list(members)
    sink, gzip, facts = _Counted(out), _compressor(level), list[Member]()
    tar_size = 0

    def put(data: bytes) -> None:
        nonlocal tar_size
        tar_size += len(data)
        if packed := gzip.compress(data):
            sink.write(packed)

    def member(name: str, length: int, blocks: Iterator[bytes]) -> None:
        put(_header(name, length))
        digest = hashlib.sha256()
        for block in blocks:
            digest.update(block)
            put(block)
        put(_padding(length))
        facts.append(Member(name, length, digest.hexdigest()))

    put(_header("parakeet", 0, directory=True))
    for name, text in _TEXTS if texts else ():
        member(f"parakeet/{name}", len(text), iter((text,)))
    for name, length in rivas:
        member(name, length, _riva(length, f"{seed}/{name}"))
    # GNU tar fills its last record of 10 KiB with zeros.
    put(_END + bytes(-(tar_size + len(_END)) % tarfile.RECORDSIZE))
    sink.write(gzip.flush())
    return Archive(size=sink.size, sha256=sink.sha256, tar_size=tar_size, members=tuple(facts))


def make_archive(path: Path, size: int, **options: Any) -> Archive:
    """Write the archive of `write_archive` to the file *path*."""
    with path.open("wb") as out:
        return write_archive(out, size, **options)


def archive_bytes(size: int = 1 << 20, **options: Any) -> tuple[bytes, Archive]:
    """The archive of `write_archive` in memory: for small ones, which many tests want alike."""
    fixed = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    return _made(size, *fixed.items())


@lru_cache(maxsize=8)
def _made(size: int, *options: tuple[str, Any]) -> tuple[bytes, Archive]:
    out = io.BytesIO()
    archive = write_archive(out, size, **dict(options))
    return out.getvalue(), archive
