"""Random archives for the property tests: what is in them, who writes them, how they are compressed and cut."""

from __future__ import annotations

import gzip
import io
import random
import struct
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import zstandard
from hypothesis import strategies as st

from tests.archive.kit import needed

__all__ = ["MEMORY", "TARFILE", "TOOLS", "Spec", "compress", "cutter", "specs", "write"]

TARFILE = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
TOOLS = {
    "tar v7": ["tar", "--format=v7"],
    "tar oldgnu": ["tar", "--format=oldgnu"],
    "tar gnu": ["tar", "--format=gnu"],
    "tar ustar": ["tar", "--format=ustar"],
    "tar posix": ["tar", "--format=posix"],
    "tar gnu sparse": ["tar", "--format=gnu", "-S"],
    "tar posix sparse 0.0": ["tar", "--format=posix", "-S", "--sparse-version=0.0"],
    "tar posix sparse 0.1": ["tar", "--format=posix", "-S", "--sparse-version=0.1"],
    "tar posix sparse 1.0": ["tar", "--format=posix", "-S", "--sparse-version=1.0"],
    "bsdtar ustar": ["bsdtar", "--format=ustar"],
    "bsdtar pax": ["bsdtar", "--format=pax", "--read-sparse"],
    "bsdtar gnutar": ["bsdtar", "--format=gnutar"],
}

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where the reference tools work: a file system in memory, where there is one."""

_LETTERS = "abcXYZ019._- é漢"


@dataclass(frozen=True, slots=True)
class Spec:
    """What goes into one archive, small enough to print when it fails."""

    writer: str
    files: tuple[tuple[str, int, bool], ...]
    """Name, size, and whether it has a hole in its middle."""
    codec: str
    seed: int
    cut: int
    """Bytes of the largest piece that is pushed."""
    max_output: int

    def contents(self) -> dict[str, bytes]:
        rng = random.Random(self.seed)
        found = {}
        for name, size, hole in self.files:
            data = rng.randbytes(size) if size < 3000 else (rng.randbytes(97) * (size // 97 + 1))[:size]
            found[name] = data[: size // 2] + bytes(40_000) + data[size // 2 :] if hole else data
        return found


def _base(length: int) -> st.SearchStrategy[str]:
    return st.text(_LETTERS, min_size=1, max_size=length).filter(
        lambda n: n.strip(". ") != "" and n[0] not in " -"
    )


def specs(writers: list[str]) -> st.SearchStrategy[Spec]:
    """Archives of up to eight members with distinct base names, from one of these writers."""
    folder = st.lists(_base(30), max_size=5).map("/".join)
    sizes = st.one_of(
        st.integers(0, 2000),
        st.sampled_from([0, 1, 511, 512, 513, 1023, 1024, 1025, 9728, 10240]),
        st.integers(0, 60_000),
    )
    one = st.tuples(folder, _base(100), sizes, st.sampled_from([False, False, True])).map(
        lambda t: ((f"d{t[0]}/" if t[0] else "") + t[1] + ".bin", t[2], t[3])
    )
    many = st.lists(one, min_size=1, max_size=8, unique_by=lambda f: f[0].rpartition("/")[2].casefold())
    return st.builds(
        Spec,
        st.sampled_from(writers),
        many.map(tuple),
        st.sampled_from(["gzip", "gzip members", "gzip fields", "zstd", "plain"]),
        st.integers(0, 1 << 32),
        st.sampled_from([1, 2, 13, 511, 4096, 100_000, 1 << 30]),
        st.sampled_from([64, 1000, 4096, 1 << 20]),
    )


def write(spec: Spec) -> bytes | None:
    """The tar; None where this format has no place for one of the names."""
    contents = spec.contents()
    if spec.writer in TARFILE:
        out = io.BytesIO()
        try:
            with tarfile.open(fileobj=out, mode="w", format=TARFILE[spec.writer]) as tar:
                for name, data in contents.items():
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        except ValueError:
            return None
        return out.getvalue()
    program, *options = TOOLS[spec.writer]
    needed(program, "libarchive-tools" if program == "bsdtar" else "tar")
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        for name, data in contents.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            _put(path, data)
        done = subprocess.run(
            [program, *options, "-cf", "-", "--", *contents],
            cwd=folder,
            capture_output=True,
            check=False,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        )
    return done.stdout if done.returncode == 0 else None


def _put(path: Path, data: bytes) -> None:
    with path.open("wb") as out:
        for at in range(0, len(data), 4096):
            block = data[at : at + 4096]
            if any(block):
                out.seek(at)
                out.write(block)
        out.truncate(len(data))


def compress(spec: Spec, tar: bytes) -> bytes:
    """The archive as it would lie in the source."""
    rng = random.Random(spec.seed + 1)
    if spec.codec == "plain":
        return tar
    if spec.codec == "zstd":
        return zstandard.ZstdCompressor(level=rng.choice([1, 3, 9]), write_checksum=True).compress(tar)
    if spec.codec == "gzip":
        return gzip.compress(tar, rng.randrange(10), mtime=0)
    edges = sorted({0, len(tar), *(rng.randrange(len(tar) + 1) for _ in range(rng.randrange(6)))})
    parts = [tar[a:b] for a, b in pairwise(edges)]
    if spec.codec == "gzip members":
        return b"".join(gzip.compress(p, rng.randrange(10), mtime=0) for p in parts) + bytes(
            rng.randrange(600)
        )
    return b"".join(_with_fields(p, rng) for p in [*parts, b""])


def _with_fields(data: bytes, rng: random.Random) -> bytes:
    flags = rng.randrange(32)
    head = b"\x1f\x8b\x08" + bytes([flags]) + rng.randbytes(6)
    if flags & 4:
        extra = rng.randbytes(rng.randrange(300))
        head += struct.pack("<H", len(extra)) + extra
    for flag in (8, 16):
        if flags & flag:
            head += bytes(rng.randrange(1, 256) for _ in range(rng.randrange(60))) + b"\0"
    if flags & 2:
        head += struct.pack("<H", zlib.crc32(head) & 0xFFFF)
    deflate = zlib.compressobj(rng.randrange(10), zlib.DEFLATED, -15)
    return head + deflate.compress(data) + deflate.flush() + struct.pack("<II", zlib.crc32(data), len(data))


def cutter(spec: Spec) -> Callable[[], int]:
    """Random sizes of pieces, up to the largest that the spec allows."""
    rng = random.Random(spec.seed + 2)
    return lambda: rng.randint(1, spec.cut)
