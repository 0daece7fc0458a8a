"""Random archives against the reference extraction, and random damage against the promise that nothing wrong comes out.

The number of examples is small by default. The recorded run of ``docs/archives.md`` sets
``RIVA_STREAM_PROPERTY_EXAMPLES=10000`` and ``--hypothesis-seed``.
"""

from __future__ import annotations

import io
import os
import random
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from riva_stream.errors import ArchiveError
from tests.archive.generate import MEMORY, TARFILE, TOOLS, Spec, compress, cutter, specs, write
from tests.archive.kit import Extracted, extract, gnu_tar

EXAMPLES = int(
    os.environ.get("RIVA_STREAM_PROPERTY_EXAMPLES", "60")
)  # read before the environment is isolated
COUNTS: Counter[str] = Counter()

pytestmark = pytest.mark.timeout(0 if EXAMPLES > 1000 else 300)


def configured(examples: int) -> settings:
    return settings(
        max_examples=max(examples, 1),
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module", autouse=True)
def counted() -> Iterator[None]:
    """Say at the end how many archives were really compared: -rA or -s shows it."""
    yield
    print("\nproperty tests:", dict(sorted(COUNTS.items())))  # noqa: T201


def run(spec: Spec, archive: bytes) -> Extracted:
    return extract(archive, include=["*.bin"], cuts=cutter(spec), max_output=spec.max_output)


def check(spec: Spec, tar: bytes, archive: bytes) -> None:
    expected = spec.contents()
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        theirs = gnu_tar(tar, Path(folder, "out"))
    assert theirs.code == 0, theirs.stderr
    assert theirs.files == expected
    assert run(spec, archive).files == expected
    COUNTS["generated, compared"] += 1
    event(spec.writer)


@configured(EXAMPLES // 2)
@given(specs(list(TARFILE)))
def test_archives_of_tarfile_equal_the_reference(spec: Spec) -> None:
    tar = write(spec)
    assume(tar is not None)
    assert tar is not None
    expected = spec.contents()
    with tarfile.open(fileobj=io.BytesIO(tar)) as reader:
        for info in reader:
            body = reader.extractfile(info)
            assert body is not None
            assert body.read() == expected[info.name]
    check(spec, tar, compress(spec, tar))


@configured(EXAMPLES - EXAMPLES // 2)
@given(specs(list(TOOLS)))
def test_archives_of_gnu_tar_and_bsdtar_equal_the_reference(spec: Spec) -> None:
    tar = write(spec)
    assume(tar is not None)
    assert tar is not None
    check(spec, tar, compress(spec, tar))


@configured(EXAMPLES)
@given(specs(list(TARFILE)), st.randoms(use_true_random=False))
def test_a_damaged_archive_never_gives_other_bytes(spec: Spec, rng: random.Random) -> None:
    assume(spec.codec != "plain")  # a plain tar has no checksum over its data: nothing could tell
    tar = write(spec)
    assume(tar is not None)
    assert tar is not None
    archive = bytearray(compress(spec, tar))
    if rng.random() < 0.4:
        del archive[rng.randrange(len(archive)) :]
        what = "cut"
    else:
        archive[rng.randrange(len(archive))] ^= (
            1 << rng.randrange(8) if rng.random() < 0.5 else rng.randrange(1, 256)
        )
        what = "flip"
    try:
        files = run(spec, bytes(archive)).files
    except ArchiveError:
        outcome = "refused"
    else:
        assert files == spec.contents()
        outcome = "the same bytes"
    COUNTS[f"damaged ({what}), {outcome}"] += 1
    COUNTS["damaged"] += 1
