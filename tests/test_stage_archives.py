"""Archives that are odd, through the public door: how a run over one ends, what it says, and what it leaves."""

from __future__ import annotations

import gzip
import random
import re

import pytest
import zstandard

from riva_stream import ArchiveError, ConfigurationError, stage
from riva_stream.errors import ArchiveFault
from riva_stream.events import Event, MemberFound
from riva_stream.flow.memory import least_memory
from riva_stream.sizes import GIB, MIB
from tests.archive.kit import END, header, member, tar_of
from tests.staging import PREFIX, SOURCE_KEY, Place, put_credentials
from tests.support.servers import MotoServer


@pytest.fixture
def place(moto: MotoServer, moto_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    put_credentials(moto, monkeypatch)
    return Place(moto, moto_bucket)


def zst(data: bytes, window_log: int) -> bytes:
    params = zstandard.ZstdCompressionParameters.from_level(
        3, window_log=window_log, write_content_size=0, write_checksum=1
    )
    out = zstandard.ZstdCompressor(compression_params=params).compressobj()
    return bytes(out.compress(data) + out.flush())


MODEL = random.Random(9).randbytes(MIB)


async def test_a_long_zstd_window_is_refused_by_its_limit_then_by_memory_then_staged(place: Place) -> None:
    place.put(SOURCE_KEY, zst(tar_of({"a.riva": MODEL}), 27))
    with pytest.raises(ArchiveError) as refused:
        await stage(place.request())
    assert refused.value.fault is ArchiveFault.LIMIT
    assert "max_zstd_window 128MiB" in refused.value.hint
    place.assert_nothing_left()
    with pytest.raises(ConfigurationError) as too_little:
        await stage(place.request(max_zstd_window=128 * MIB, memory=least_memory(8 * MIB)))
    (least,) = re.findall(r"memory (\d+)MiB", too_little.value.hint)
    report = await stage(place.request(max_zstd_window=128 * MIB, memory=int(least) * MIB))
    assert report.outcome == "staged"


async def test_a_member_that_is_too_large_for_the_memory_ends_with_78(place: Place) -> None:
    large = header(b"large.riva", size_field=b"\x80" + (200 * GIB).to_bytes(11, "big"))
    place.put(SOURCE_KEY, member(b"a.riva", MODEL) + large + bytes(4096) + END)
    with pytest.raises(ConfigurationError) as caught:
        await stage(place.request(memory=least_memory(8 * MIB)))
    assert caught.value.exit_code == 78
    assert "'large.riva'" in caught.value.what
    assert place.names() == [] or all(name.startswith(".riva-stream/") for name in place.names())


async def test_what_macos_left_beside_a_model_is_not_staged_and_opens_no_upload(place: Place) -> None:
    twin = bytes.fromhex("0005160700020000") + bytes(300)
    model = b"PK\3\4" + MODEL
    files = {
        "m/._a.riva": twin,
        "m/a.riva": model,
        "__MACOSX/m/._a.riva": twin,
        "m/._real.riva": model,
        "PaxHeader/a.riva": b"20 mtime=1700000000\n",
    }
    place.put(SOURCE_KEY, b"".join(member(name.encode(), data) for name, data in files.items()) + END)
    seen: list[Event] = []
    report = await stage(place.request(), observer=seen.append)
    assert [e.name for e in seen if isinstance(e, MemberFound)] == ["m/a.riva", "m/._real.riva"]
    assert [name for name in place.names() if name.startswith("models/")] == [
        "models/._real.riva",
        "models/a.riva",
    ]
    assert place.read(PREFIX + "models/a.riva") == model
    told = [warning.message for warning in report.warnings if "'m/._a.riva'" in warning.message]
    assert len(told) == 1
    assert "'__MACOSX/m/._a.riva'" in told[0]
    assert "'PaxHeader/a.riva'" in told[0]


@pytest.mark.parametrize("what", ["gzip in gzip", "an error page in a gzip", "an upload's framing"])
async def test_what_is_no_archive_is_told_as_what_it_is_and_leaves_nothing(place: Place, what: str) -> None:
    archive = gzip.compress(tar_of({"a.riva": MODEL}))
    layers, data = {
        "gzip in gzip": (("gzip", "gzip", "tar"), gzip.compress(archive)),
        "an error page in a gzip": (("gzip", "html"), gzip.compress(b"<!doctype html><p>403")),
        "an upload's framing": (
            ("aws-chunked", "gzip", "tar"),
            b"%x;chunk-signature=%064x\r\n" % (len(archive), 1)
            + archive
            + b"\r\n0;chunk-signature=%064x\r\n" % 2,
        ),
    }[what]
    place.put(SOURCE_KEY, data)
    with pytest.raises(ArchiveError) as caught:
        await stage(place.request())
    assert caught.value.exit_code == 65
    assert caught.value.layers == layers
    assert caught.value.where.key == SOURCE_KEY
    place.assert_nothing_left()
