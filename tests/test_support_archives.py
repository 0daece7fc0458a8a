"""Made-up archives are what they say: read back by the standard library, which knows nothing of the makers."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.support.archives import archive_bytes, make_archive, riva_bytes

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("level", [0, 1, 6])
def test_every_member_is_as_announced(level: int) -> None:
    data, archive = archive_bytes(3_000_001, level=level)
    assert (len(data), hashlib.sha256(data).hexdigest()) == (archive.size, archive.sha256)
    assert len(gzip.decompress(data)) == archive.tar_size
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
        for member in archive.members:
            file = tar.extractfile(member.name)
            assert file is not None
            content = file.read()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (member.size, member.sha256)
        assert [entry.name for entry in tar if entry.isfile()] == [member.name for member in archive.members]
    assert sum(member.size for member in archive.rivas) == 3_000_001
    assert archive.rivas[0].size > archive.rivas[1].size


def test_weights_compress_as_real_ones_do() -> None:
    _, archive = archive_bytes(4 << 20, level=6)
    assert 0.90 < archive.size / archive.tar_size < 0.92


def test_the_same_seed_gives_the_same_archive_and_another_one_another(tmp_path: Path) -> None:
    first = make_archive(tmp_path / "first", 1 << 20, seed=1)
    assert make_archive(tmp_path / "second", 1 << 20, seed=1) == first
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    assert archive_bytes(1 << 20, seed=2)[1].sha256 != first.sha256


def test_members_can_be_named_and_sized() -> None:
    _, archive = archive_bytes(members=[("a.riva", 0), ("deep/b.riva", 513), ("notes.bin", 7)], texts=False)
    assert [(m.name, m.basename, m.size, m.is_riva) for m in archive.members] == [
        ("a.riva", "a.riva", 0, True),
        ("deep/b.riva", "b.riva", 513, True),
        ("notes.bin", "notes.bin", 7, False),
    ]


def test_no_block_of_weights_is_like_another() -> None:
    data = riva_bytes(4 << 20)
    blocks = {data[start : start + 4096] for start in range(0, len(data), 4096)}
    assert len(blocks) == len(data) // 4096


def test_a_riva_is_a_tar_itself() -> None:
    with tarfile.open(fileobj=io.BytesIO(riva_bytes(100_000)), mode="r:") as tar:
        assert tar.getnames() == ["model_config.yaml", "model_weights.bin"]
