"""Archives for the snapshots: those of the property tests, with what they lack put in front, and more ways to compress."""

from __future__ import annotations

import gzip
import random
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import zstandard
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from isal import isal_zlib

from tests.archive.generate import TARFILE, TOOLS, Spec, compress, specs, write
from tests.archive.kit import END, OLD_GNU, header, long_name, member, pad, pax, tar_of

__all__ = ["EXTRAS", "Case", "build", "cases", "compare_each", "quick_case"]

_NOTES = pax((b"comment", b"about all of it"), kind=b"g")
_OWNERS = pax(*((b"SCHILY.xattr.user.n%d" % n, b"v" * 90 * n) for n in range(20)), (b"path", b"owned.bin"))
_OLD_MAP = b"%011o\0%011o\0" % (512, 512) + b"%011o\0%011o\0" % (90_000, 0)
_NEW_MAP = b"2\n512\n512\n70000\n0\n".ljust(512, b"\0")
_SPARSE_1_0 = pax(
    (b"GNU.sparse.major", b"1"),
    (b"GNU.sparse.minor", b"0"),
    (b"GNU.sparse.name", b"new-sparse.bin"),
    (b"GNU.sparse.realsize", b"70000"),
) + member(b"x", _NEW_MAP + b"d" * 512)
EXTRAS: dict[str, bytes] = {
    "global header": _NOTES,
    "many pax records": _OWNERS + member(b"short"),
    "GNU long name": long_name(b"long/" * 60 + b"name.bin\0") + member(b"x", b"weights" * 700),
    "AppleDouble": member(b"._left.bin", b"\0\5\x16\7" + bytes(3000)),
    "not AppleDouble": member(b"._kept.bin", b"kept all the same" * 99),
    "tar inside": member(b"model.bin", tar_of({"config.yaml": b"a: 1\n", "weights": b"w" * 20_000})),
    "damaged tar inside": member(b"odd.bin", tar_of({"a": b"1" * 900})[:700] + b"\xff" * 2000),
    "gzip inside": member(b"packed.bin", gzip.compress(tar_of({"a": b"b"}), mtime=0) + b"rest" * 2000),
    "nothing": member(b"empty.bin", b""),
    "old sparse": header(
        b"old.bin", 512, b"S", magic=OLD_GNU, gnu=_OLD_MAP.ljust(97, b"\0") + b"%011o\0" % 90_000
    )
    + b"d" * 512,
    "new sparse": _SPARSE_1_0,
    "sparse in many stretches": pax(
        (b"GNU.sparse.name", b"stretches.bin"),
        (b"GNU.sparse.size", b"20000"),
        (b"GNU.sparse.numblocks", b"5"),
        (b"GNU.sparse.map", b"0,512,2048,512,8192,512,12288,512,20000,0"),
    )
    + member(b"y", b"1" * 512 + b"2" * 512 + b"3" * 512 + b"4" * 512),
    "unknown type": header(b"odd-type", 700, b"Q") + pad(b"q" * 700),
    "not UTF-8": member(b"caf\xe9.txt", b"text" * 300),
    "larger than all the rest": member(
        b"large.bin", b" ".join(b"%d" % (n * n % 9973) for n in range(150_000))
    ),
}
"""Entries that the generator does not make, all of them with base names of their own."""

CODECS = ("as it is", "bgzip", "pigz", "igzip", "fixed", "zstd frames", "zstd skippable")


@dataclass(frozen=True, slots=True)
class Case:
    """One archive, and with it everything that is drawn: the same case gives the same bytes."""

    spec: Spec
    extras: tuple[str, ...]
    codec: str
    damage: str
    """``""``, ``cut`` or ``flip``."""
    seed: int


def cases(*, damaged: bool) -> st.SearchStrategy[Case]:
    """Cases, damaged or sound."""
    return st.builds(
        Case,
        specs([*TARFILE, *TOOLS]) if not damaged else specs(list(TARFILE)),
        st.lists(st.sampled_from(sorted(EXTRAS)), max_size=5, unique=True).map(tuple),
        st.sampled_from(CODECS),
        st.sampled_from(["cut", "flip"] if damaged else [""]),
        st.integers(0, 1 << 32),
    )


def build(case: Case) -> bytes | None:
    """The archive; None where its format has no place for one of the names."""
    tar = write(case.spec)
    if tar is None:
        return None
    rng = random.Random(case.seed)
    whole = b"".join(EXTRAS[name] for name in case.extras) + tar
    archive = bytearray(
        compress(case.spec, whole) if case.codec == "as it is" else _packed(whole, case.codec, rng)
    )
    if case.damage == "cut":
        del archive[rng.randrange(len(archive)) :]
    elif case.damage == "flip":
        archive[rng.randrange(len(archive))] ^= 1 << rng.randrange(8)
    return bytes(archive)


def compare_each(
    compare: Callable[[Case, int, Counter[str]], None], count: int, chosen_seed: int, *, damaged: bool
) -> Counter[str]:
    """Compare ``count`` archives, each with a number that is drawn for it; says how many of each kind there were.

    Raises:
        AssertionError: of the first that differs.
    """
    counts: Counter[str] = Counter()

    @seed(chosen_seed)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # what fails is small enough; making it smaller takes minutes
    )
    @given(cases(damaged=damaged), st.integers(0, 1 << 32))
    def each(case: Case, chosen: int) -> None:
        compare(case, chosen, counts)

    each()
    return counts


def quick_case(rng: random.Random) -> bytes:
    """A small archive without the help of any program."""
    names = rng.sample(sorted(EXTRAS), rng.randrange(1, 5))
    whole = (
        b"".join(EXTRAS[name] for name in names)
        + member(b"last.bin", rng.randbytes(rng.randrange(1, 20_000)))
        + END
    )
    return _packed(whole, rng.choice((*CODECS[1:], "plain")), rng)


def _packed(tar: bytes, codec: str, rng: random.Random) -> bytes:
    if codec == "plain":
        return tar
    if codec == "igzip":
        igzip = isal_zlib.compressobj(rng.randrange(4), zlib.DEFLATED, 31)
        return bytes(igzip.compress(tar) + igzip.flush())
    if codec == "fixed":
        fixed = zlib.compressobj(rng.randrange(1, 10), zlib.DEFLATED, 31, 1 + rng.randrange(9), zlib.Z_FIXED)
        return fixed.compress(tar) + fixed.flush()
    size = rng.choice((1000, 8000, 65280))
    parts = [tar[at : at + size] for at in range(0, len(tar), size)]
    if codec == "bgzip":
        return b"".join(gzip.compress(part, rng.randrange(10), mtime=0) for part in (*parts, b""))
    if codec == "pigz":  # one member, whose blocks begin at whole bytes
        packer = zlib.compressobj(rng.randrange(10), zlib.DEFLATED, 31)
        flush = rng.choice((zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH))
        return b"".join(packer.compress(part) + packer.flush(flush) for part in parts) + packer.flush()
    frames = [
        zstandard.ZstdCompressor(level=3, write_checksum=rng.random() < 0.9).compress(tar[a:b])
        for a, b in pairwise(sorted({0, len(tar), *(rng.randrange(len(tar)) for _ in range(5))}))
    ]
    if codec == "zstd skippable":
        frames = [frame + b"\x50\x2a\x4d\x18\5\0\0\0other" for frame in frames]
    return b"".join(frames)
