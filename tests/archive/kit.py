"""What every test of archives needs: a run through the Extractor, tar blocks made by hand, and GNU tar."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from riva_stream.archive import (
    ArchiveSummary,
    Extractor,
    InsideReport,
    Member,
    MemberData,
    MemberEnd,
    MemberStart,
)
from riva_stream.errors import ArchiveError

OLD_GNU = b"ustar  \0"
USTAR = b"ustar\x0000"
END = bytes(1024)
MIB = 1 << 20


@dataclass(slots=True)
class Extracted:
    """What came out of one archive."""

    files: dict[str, bytes] = field(default_factory=dict)
    inside: dict[str, InsideReport] = field(default_factory=dict)
    members: list[Member] = field(default_factory=list)
    largest: int = 0
    """Bytes of member data in the largest answer of one ``pull``."""
    _summary: ArchiveSummary | None = None

    @property
    def summary(self) -> ArchiveSummary:
        assert self._summary is not None
        return self._summary


def extract(
    data: bytes, *, cuts: Callable[[], int] | int | None = None, max_output: int = MIB, **options: Any
) -> Extracted:
    """Everything the Extractor makes of ``data``, pushed in pieces of ``cuts`` bytes (None: in one)."""
    extractor = Extractor(**options)
    result = Extracted()
    current: bytearray | None = None
    at = 0
    while at < len(data):
        size = len(data) if cuts is None else cuts if isinstance(cuts, int) else cuts()
        extractor.push(memoryview(data)[at : at + size])
        at += size
        while not extractor.needs_input:
            answer = 0
            for event in extractor.pull(max_output):
                match event:
                    case MemberStart(member):
                        assert current is None
                        current = bytearray()
                        result.members.append(member)
                    case MemberData(piece):
                        assert current is not None
                        assert len(piece)
                        assert memoryview(piece).readonly
                        current += piece
                        answer += len(piece)
                    case MemberEnd(member, inside):
                        assert current is not None
                        assert len(current) == member.size
                        result.files[member.name] = bytes(current)
                        result.inside[member.name] = inside
                        current = None
            result.largest = max(result.largest, answer)
    result._summary = extractor.finish()
    assert current is None
    assert extractor.expanded == result.summary.expanded_bytes
    assert extractor.consumed == len(data)
    return result


def cut_at(*places: int) -> Callable[[], int]:
    """Pieces of these sizes, then the rest in one."""
    sizes = iter(places)
    return lambda: next(sizes, 1 << 62)


def refused(data: bytes, **options: Any) -> ArchiveError:
    """The ArchiveError that ``data`` ends in."""
    with pytest.raises(ArchiveError) as caught:
        extract(data, **options)
    assert caught.value.exit_code == 65
    return caught.value


def refusal(data: bytes, **options: Any) -> str:
    """The text of the ArchiveError that ``data`` ends in."""
    return str(refused(data, **options))


def pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def seal(block: bytes) -> bytes:
    """The header block with a right checksum."""
    blank = block[:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(blank) + block[156:]


def header(
    name: bytes,
    size: int = 0,
    kind: bytes = b"0",
    *,
    magic: bytes = USTAR,
    link: bytes = b"",
    prefix: bytes = b"",
    size_field: bytes | None = None,
    gnu: bytes = b"",
) -> bytes:
    """One header block, made by hand. ``gnu`` goes to byte 386, where old GNU keeps the sparse map."""
    block = bytearray(512)
    block[0 : len(name)] = name
    block[100:136] = b"0000644\0" + b"0000000\0" * 2 + (size_field or b"%011o\0" % size)
    block[136:148] = b"00000000000\0"
    block[156:157] = kind
    block[157 : 157 + len(link)] = link
    block[257 : 257 + len(magic)] = magic
    block[345 : 345 + len(prefix)] = prefix
    if gnu:
        block[386 : 386 + len(gnu)] = gnu
    return seal(bytes(block))


def member(name: bytes, data: bytes = b"model", **fields: Any) -> bytes:
    return header(name, len(data), **fields) + pad(data)


def record(keyword: bytes, value: bytes) -> bytes:
    rest = b" " + keyword + b"=" + value + b"\n"
    size = len(rest)
    while len(b"%d" % size) + len(rest) != size:
        size = len(b"%d" % size) + len(rest)
    return b"%d" % size + rest


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x", body: bytes | None = None) -> bytes:
    text = b"".join(record(*r) for r in records) if body is None else body
    return header(b"PaxHeaders/pax", len(text), kind) + pad(text)


def long_name(name: bytes, kind: bytes = b"L") -> bytes:
    return header(b"././@LongLink", len(name), kind, magic=OLD_GNU) + pad(name)


def tar_of(files: Mapping[str, bytes], fmt: int = tarfile.PAX_FORMAT, **options: Any) -> bytes:
    """A tar of these files, written by Python's tarfile."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=fmt, **options) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@dataclass(frozen=True, slots=True)
class GnuTar:
    """What GNU tar made of an archive."""

    code: int
    stderr: str
    files: dict[str, bytes]


def gnu_tar(data: bytes, directory: Path) -> GnuTar:
    """Extract with GNU tar into an emptied ``directory``; regular files only, hard links once per name."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    done = subprocess.run(
        ["tar", "--warning=no-timestamp", "-xf", "-"],
        input=data,
        cwd=directory,
        capture_output=True,
        env=environment,
        check=False,
    )
    return GnuTar(done.returncode, done.stderr.decode(errors="replace"), dict(files_below(directory)))


def files_below(directory: Path) -> Iterable[tuple[str, bytes]]:
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield str(path.relative_to(directory)), path.read_bytes()


def needed(program: str, package: str) -> str:
    """The path of a program that the suite cannot do without."""
    found = shutil.which(program)
    if found is None:
        pytest.fail(f"{program} is not installed: apt-get install {package}")
    return found
