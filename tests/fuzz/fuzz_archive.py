"""Coverage-guided fuzzing of the archive room: ``python tests/fuzz/fuzz_archive.py -runs=50000 -seed=20130``.

Needs atheris (the ``fuzz`` extra). Takes libFuzzer's options, and folders with a corpus; without one it begins with a
few archives of each kind. What must hold for any input:

- it ends in a summary or in an ArchiveError, and nothing else;
- the same, file for file, however the input is cut into pieces and the output into blocks;
- no answer of ``pull`` is much larger than what was asked for, and each file is as long as was announced.
"""

from __future__ import annotations

import gzip
import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-untyped,unused-ignore]

with atheris.instrument_imports(include=["riva_stream.archive"]):
    from riva_stream.archive import Extractor, Limits, MemberData, MemberEnd, MemberStart
from riva_stream.errors import ArchiveError

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.archive.kit import END, OLD_GNU, header, long_name, member, pax, seal, tar_of

LIMITS = Limits(
    members=200,
    matching_members=50,
    header_bytes=1 << 14,
    expanded_bytes=1 << 24,
    ratio=200,
    ratio_floor=1 << 20,
    streams=200,
    zstd_window=1 << 20,
)
PLAIN, SEALED, GZIPPED, AS_IT_IS = range(4)


def outcome(data: bytes, size: int, max_output: int) -> tuple[dict[str, bytes], str]:
    """The files, and how it ended: the text of the refusal, or nothing."""
    extractor = Extractor(include=["*"], limits=LIMITS)
    files: dict[str, bytes] = {}
    current = bytearray()
    expected = 0
    try:
        for at in range(0, len(data), size):
            extractor.push(memoryview(data)[at : at + size])
            while not extractor.needs_input:
                answer = 0
                for event in extractor.pull(max_output):
                    if isinstance(event, MemberStart):
                        current.clear()
                        expected = event.member.size
                    elif isinstance(event, MemberData):
                        current += event.data
                        answer += len(event.data)
                    elif isinstance(event, MemberEnd):
                        assert len(current) == expected, "a file of another length than announced"
                        files[event.member.name] = bytes(current)
                assert answer <= max(max_output, 128 << 10), "more output than was asked for"
        extractor.finish()
    except ArchiveError as error:
        return {}, str(error)
    return files, ""


def archive_of(data: bytes) -> bytes:
    """The archive an input stands for: its first byte says how far the fuzzer is helped over the checksums."""
    if not data:
        return data
    how, body = data[0] % 4, data[1:]
    if how in {SEALED, GZIPPED}:
        blocks = [body[i : i + 512] for i in range(0, len(body), 512)]
        body = b"".join(seal(b) if len(b) == 512 and b[257:262] == b"ustar" else b for b in blocks)
    return gzip.compress(body, 1, mtime=0) if how == GZIPPED else body


def one_input(data: bytes) -> None:
    """What libFuzzer calls."""
    archive = archive_of(data)
    whole = outcome(archive, max(len(archive), 1), 1 << 20)
    small = outcome(archive, 1 + len(data) % 97, 1 + len(data) % 5000)
    assert bool(whole[1]) == bool(small[1]), (whole[1], small[1])
    assert whole[0] == small[0], "the files depend on how the input was cut"


def seeds() -> list[bytes]:
    """One of each kind to begin with."""
    sparse = b"%011o\0%011o\0" % (512, 512) + b"%011o\0%011o\0" % (2048, 0)
    old = header(b"s", 512, b"S", magic=OLD_GNU, gnu=sparse.ljust(97, b"\0") + b"%011o\0" % 2048) + b"d" * 512
    records = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", b"s")]
    new = pax(*records, (b"GNU.sparse.realsize", b"2048")) + member(
        b"x", b"2\n512\n512\n2048\n0\n".ljust(512, b"\0") + b"d" * 512
    )
    map_0_1 = pax(
        (b"GNU.sparse.size", b"2048"), (b"GNU.sparse.numblocks", b"2"), (b"GNU.sparse.map", b"0,512,2048,0")
    )
    tars = [
        tar_of({"a.riva": b"model", "b/c": b"w" * 600}),
        pax((b"path", b"long.riva"), (b"size", b"5")) + member(b"x") + END,
        pax((b"comment", b"c"), kind=b"g")
        + long_name(b"name\0")
        + member(b"x", tar_of({"in": b"side"}))
        + END,
        old + member(b"y") + END,
        new + END,
        map_0_1 + member(b"z", b"d" * 512) + END,
        member(b"._x.riva", b"\0\5\x16\7" + bytes(90)) + member(b"PaxHeader/x", b"11 path=xy\n") + END,
        pax((b"SCHILY.xattr.user.x", b"v" * 1500), (b"path", b"y.riva")) + member(b"x") + END,
        gzip.compress(tar_of({"a.riva": b"model"}), 1, mtime=0),
        header(b"l", 0, b"2", link=b"x") + header(b"d/", 0, b"5") + member(b"x.riva") + END + b"rest",
    ]
    plain = [bytes([how]) + tar for tar in tars for how in (PLAIN, SEALED, GZIPPED)]
    return plain + [bytes([AS_IT_IS]) + gzip.compress(tar) + gzip.compress(b"") + bytes(9) for tar in tars]


def main() -> None:
    """Hand over to libFuzzer."""
    arguments = list(sys.argv)
    with tempfile.TemporaryDirectory() as folder:
        if all(argument.startswith("-") for argument in arguments[1:]):
            for number, seed in enumerate(seeds()):
                Path(folder, str(number)).write_bytes(seed)
            arguments.append(folder)
        atheris.Setup(arguments, one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
