"""Tiny archives, and what is really in them."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cache

from isal import isal_zlib

from tests.staging import tar_gz
from tests.support.archives import riva_bytes

__all__ = ["IMAGE", "SOURCES", "Source", "source"]

SOURCE_BUCKET = "sources"
IMAGE = "images/server.tar.gz"
"""Key of a container image; only its HEAD is ever looked at."""


@dataclass(frozen=True, slots=True)
class Source:
    """An archive as it lies in its bucket."""

    key: str
    data: bytes
    members: dict[str, str]
    """Base name → SHA-256 of each file in it."""
    is_good: bool = True
    """Otherwise nothing of it may ever become visible."""

    @property
    def uri(self) -> str:
        return f"s3://{SOURCE_BUCKET}/{self.key}"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def matching(self, include: list[str]) -> dict[str, str]:
        """What of it a staging with these patterns has to have below ``models/``."""
        return {
            name: digest
            for name, digest in self.members.items()
            if any(fnmatch(name, pattern) for pattern in include)
        }


def _made(name: str, *, cut: int = 0, sizes: tuple[int, int] = (5_000, 1_500), plain: bool = False) -> Source:
    files = [
        ("parakeet/README.md", f"{name}\n".encode()),
        ("parakeet/a.riva", riva_bytes(sizes[0], f"{name}/a")),
        ("parakeet/b.riva", riva_bytes(sizes[1], f"{name}/b")),
        ("parakeet/vocab.txt", f"{name} words\n".encode() * 20),
    ]
    data = isal_zlib.decompress(tar_gz(files), wbits=31) if plain else tar_gz(files)
    members = {path.rpartition("/")[2]: hashlib.sha256(body).hexdigest() for path, body in files}
    return Source(
        f"archives/{name}.tar{'' if plain else '.gz'}", data[: len(data) - cut], members, is_good=not cut
    )


def _long() -> Source:
    """Of many parts, and of many gzip members, at each of which a decoder can begin: a run of it takes checkpoints."""
    made = _made("long", sizes=(9_000, 5_500))
    inside = gzip.decompress(made.data)
    pieces = [gzip.compress(inside[at : at + 1024], 1, mtime=0) for at in range(0, len(inside), 1024)]
    return replace(made, data=b"".join(pieces))


@cache
def _sources() -> dict[str, Source]:
    return {
        "one": _made("one"),
        "two": _made("two"),
        "plain": _made("plain", plain=True),
        "bad": _made("bad", cut=9),
        "long": _long(),
    }


def source(name: str) -> Source:
    """One of the archives: ``one``, ``two`` and ``plain``, which is not compressed, are good.

    ``bad`` is cut; of ``long`` checkpoints are taken.
    """
    return _sources()[name]


SOURCES = ("one", "two", "plain", "bad", "long")
