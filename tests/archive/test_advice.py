"""What an error of an archive tells to do can be done, and helps: each kind of fault, each limit and its flag."""

from __future__ import annotations

import gzip
import pickle
import random

import pytest
import zstandard

from riva_stream import ArchiveError
from riva_stream.archive import Limits
from riva_stream.cli.app import build_parser
from riva_stream.errors import ArchiveFault, Where
from tests.archive.kit import (
    END,
    MIB,
    OLD_GNU,
    extract,
    header,
    long_name,
    member,
    pad,
    pax,
    refused,
    tar_of,
)

pytestmark = pytest.mark.usefixtures("flags_in_hints")

TAR = tar_of({"a.riva": random.Random(4).randbytes(60_000), "b.riva": b"weights" * 4000})


def zst(data: bytes, window_log: int = 20, **options: object) -> bytes:
    params = zstandard.ZstdCompressionParameters.from_level(
        3, window_log=window_log, write_content_size=0, write_checksum=1
    )
    out = zstandard.ZstdCompressor(compression_params=params).compressobj()
    return bytes(out.compress(data) + out.flush())


def sparse_1_0(lines: bytes) -> bytes:
    records = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", b"s.riva")]
    stored = pad(lines) + b"d" * 512
    return pax(*records, (b"GNU.sparse.realsize", b"2048")) + member(b"x", stored) + END


MANY_LINES = b"3\n0\n512\n" + b"0" * 3000 + b"600\n0\n2048\n0\n"
LIMITS = {
    "entries": ("members", 1, TAR),
    "models": ("matching_members", 1, TAR),
    "long names": ("header_bytes", 2000, long_name(b"d/" * 1500 + b"x.riva\0") + member(b"x") + END),
    "pax path": ("header_bytes", 2000, pax((b"path", b"d/" * 1500 + b"x.riva")) + member(b"x") + END),
    "headers in a row": (
        "header_bytes",
        2000,
        pax((b"mtime", b"1"), kind=b"g") * 9 + member(b"x.riva") + END,
    ),
    "sparse map, entries": (
        "header_bytes",
        1024,
        sparse_1_0(b"50\n" + b"0\n0\n" * 48 + b"0\n512\n2048\n0\n"),
    ),
    "size at a header": ("expanded_bytes", 30_000, TAR),
    "size in the stream": ("expanded_bytes", 70_000, gzip.compress(TAR + bytes(MIB))),
    "ratio": ("ratio", 5, gzip.compress(tar_of({"z.riva": b"\1" + bytes(3 * MIB)}))),
    "gzip members": ("streams", 2, gzip.compress(TAR) + gzip.compress(b"") * 3),
    "zstd frames": ("streams", 2, zst(TAR) + zst(b"") * 3),
    "zstd blocks of nothing": (
        "streams",
        20,
        b"\x28\xb5\x2f\xfd\x00\x58" + bytes(3 * 50) + b"\1\0\0" + zst(TAR),
    ),
    "zstd window": ("zstd_window", 32 * MIB, zst(TAR, 26)),
    "zstd window of a later frame": ("zstd_window", 4 * MIB, zst(TAR[:1000]) + zst(TAR[1000:], 24)),
}
FLAGS = {
    "members": "--max-members",
    "matching_members": "--max-models",
    "header_bytes": "--max-header-bytes",
    "expanded_bytes": "--max-expanded",
    "ratio": "--max-ratio",
    "streams": "--max-streams",
    "zstd_window": "--max-zstd-window",
}
RAISED = {"ratio": 2000, "zstd_window": 64 * MIB}


@pytest.mark.parametrize("what", LIMITS)
def test_every_limit_names_a_flag_that_helps(what: str) -> None:
    limit, value, archive = LIMITS[what]
    floor = {"ratio_floor": MIB}
    error = refused(archive, limits=Limits(**floor | {limit: value}))
    assert error.fault is ArchiveFault.LIMIT
    assert FLAGS[limit] in error.hint
    raised = RAISED.get(limit, 1000 * value)
    assert extract(archive, limits=Limits(**floor | {limit: raised})).files


def test_the_flags_are_those_of_the_command_line() -> None:
    parser = build_parser("riva-stream").commands["stage"]
    assert set(FLAGS.values()) <= set(parser._option_string_actions)


GZ, ZST = gzip.compress(TAR), zst(TAR)
FAULTS = {
    "gzip crc": (ArchiveFault.DAMAGED, GZ[:-8] + bytes([GZ[-8] ^ 1]) + GZ[-7:]),
    "gzip length": (ArchiveFault.DAMAGED, GZ[:-1] + bytes([GZ[-1] ^ 1])),
    "gzip data": (ArchiveFault.DAMAGED, GZ[:400] + b"\xff" * 400 + GZ[800:]),
    "zstd checksum": (ArchiveFault.DAMAGED, ZST[:-1] + bytes([ZST[-1] ^ 1])),
    "a later header": (ArchiveFault.DAMAGED, TAR[:1536].replace(b"a.riva", b"c.riva")[:512] + TAR[512:]),
    "garbage behind": (ArchiveFault.DAMAGED, GZ + b"garbage"),
    "gzip cut": (ArchiveFault.CUT, GZ[:-9]),
    "gzip trailer cut": (ArchiveFault.CUT, GZ[:-2]),
    "zstd cut": (ArchiveFault.CUT, ZST[:-9]),
    "a member cut": (ArchiveFault.CUT, TAR[:5000]),
    "a header cut": (ArchiveFault.CUT, member(b"a.riva") + header(b"b.riva")[:300]),
    "no end": (ArchiveFault.CUT, member(b"a.riva")),
    "a pax record": (ArchiveFault.MALFORMED, pax(body=b"nonsense") + member(b"a.riva") + END),
    "a size": (ArchiveFault.MALFORMED, header(b"a.riva", size_field=b"x" * 12) + END),
    "a pax header without a member": (ArchiveFault.MALFORMED, pax((b"path", b"x")) + END),
    "two long names": (ArchiveFault.AMBIGUOUS, long_name(b"a\0") * 2 + member(b"a.riva") + END),
    "a global path": (ArchiveFault.AMBIGUOUS, pax((b"path", b"x"), kind=b"g") + member(b"a.riva") + END),
    "a lone block": (ArchiveFault.AMBIGUOUS, member(b"a.riva") + bytes(512) + member(b"b.riva") + END),
    "another volume": (ArchiveFault.UNSUPPORTED, member(b"a.riva", kind=b"M", magic=OLD_GNU) + END),
    "star": (ArchiveFault.UNSUPPORTED, header(b"s.riva", 0, b"S") + END),
    "several volumes": (ArchiveFault.UNSUPPORTED, pax((b"GNU.volume.size", b"1")) + member(b"a.riva") + END),
    "a link": (ArchiveFault.MEMBER, header(b"a.riva", 0, b"2", link=b"b") + END),
    "a name": (ArchiveFault.MEMBER, member(b"../a.riva") + END),
    "zeros": (ArchiveFault.MEMBER, member(b"a.riva", bytes(2000)) + END),
    "twice": (ArchiveFault.MEMBER, member(b"a.riva") * 2 + END),
    "other names": (ArchiveFault.NO_MATCH, member(b"a.bin") + END),
    "nothing at all": (ArchiveFault.NO_MATCH, END),
}


@pytest.mark.parametrize("what", FAULTS)
def test_only_what_is_damaged_or_cut_is_to_be_uploaded_again(what: str) -> None:
    fault, archive = FAULTS[what]
    error = refused(archive)
    assert error.fault is fault
    again = "upload an intact copy" in error.hint or "upload the whole archive again" in error.hint
    assert again == (fault in {ArchiveFault.DAMAGED, ArchiveFault.CUT})


@pytest.mark.parametrize("name", [b"m.RIVA", b"models/M.Riva"])
def test_a_name_that_differs_in_case_alone_is_told(name: bytes) -> None:
    error = refused(member(b"a.tar") + member(name) + END)
    assert error.fault is ArchiveFault.NO_MATCH
    assert error.hint == f"case matters: name '{name.decode()}' with --include as it is written"


@pytest.mark.parametrize("fault", ArchiveFault)
def test_every_kind_of_fault_says_what_to_do_and_survives_pickling(fault: ArchiveFault) -> None:
    error = ArchiveError("it broke", where=Where(key="k"), fault=fault, layers=("gzip", "zip"))
    again = pickle.loads(pickle.dumps(error))
    assert error.hint
    for one in (error, again):
        assert (one.what, one.where.key, one.hint, one.fault, one.layers) == (
            "it broke",
            "k",
            error.hint,
            fault,
            ("gzip", "zip"),
        )
