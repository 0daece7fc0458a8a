"""Real runs: the command line in a process of its own, a real gateway, archives of hundreds of MiB."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig

from riva_stream.flow.memory import least_memory
from riva_stream.sizes import MIB
from tests.staging import PREFIX, SOURCE_KEY, Place
from tests.support.archives import Archive, make_archive
from tests.support.process import ProcessReport, run
from tests.support.seaweedfs import SeaweedServer
from tests.support.servers import GatewayServer

DEFAULT_MEMORY = 256 * MIB


@dataclass(frozen=True, slots=True)
class RealRun:
    place: Place
    archive: Archive
    report: dict[str, Any]
    process: ProcessReport


def command(place: Place, *flags: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "riva_stream",
        "stage",
        f"--source=s3://{place.bucket}/{SOURCE_KEY}",
        f"--bucket={place.bucket}",
        "--env=prod",
        "--model-name=parakeet-rnnt-en-us",
        "--model-version=v2025.09",
        *flags,
    ]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((128, 1), id="128 MiB of weights"),
        pytest.param((1024, 1), id="eight times larger", marks=pytest.mark.long),
        pytest.param((256, 0), id="256 MiB in stored blocks", marks=pytest.mark.long),
    ],
)
def real_run(
    request: pytest.FixtureRequest, gateway: GatewayServer, tmp_path_factory: pytest.TempPathFactory
) -> RealRun:
    """One run of the command line at its defaults."""
    size, level = request.param
    place = Place(gateway, gateway.new_bucket())
    folder = tmp_path_factory.mktemp("real")
    path = folder / "archive.tar.gz"
    archive = make_archive(path, size * MIB, level=level, members=3, seed=f"real {size} {level}")
    place.client.upload_file(str(path), place.bucket, SOURCE_KEY, Config=TransferConfig(max_concurrency=2))
    path.unlink()
    process = run(command(place, "--json"), folder=folder / "client", env=gateway.environment(), timeout=200)
    assert process.exit_code == 0, process.stderr
    return RealRun(place, archive, json.loads(process.stdout), process)


@pytest.mark.gateway
def test_every_object_is_byte_identical(real_run: RealRun) -> None:
    place, archive = real_run.place, real_run.archive
    source = place.head(f"{PREFIX}source/{SOURCE_KEY.rpartition('/')[2]}")
    assert source["ContentLength"] == archive.size
    for key, sha256 in [
        (f"source/{SOURCE_KEY.rpartition('/')[2]}", archive.sha256),
        *((f"models/{member.basename}", member.sha256) for member in archive.rivas),
    ]:
        hasher = hashlib.sha256()
        body = place.client.get_object(Bucket=place.bucket, Key=PREFIX + key)["Body"]
        for chunk in body.iter_chunks(MIB):
            hasher.update(chunk)
        assert hasher.hexdigest() == sha256, key
    assert place.open_uploads() == []


@pytest.mark.gateway
def test_invariant_1_no_archive_byte_is_on_disk(real_run: RealRun) -> None:
    process = real_run.process
    left = {path: path.stat().st_size for path in process.files}
    assert all("state" in path.parts for path in left), left
    assert sum(left.values()) < 256 << 10, left
    # wchar counts every write() to anything that is not a socket: the state, stdout, stderr, and the bytes with
    # which threads wake the loop. A run that spooled its archive would be orders of magnitude above.
    assert process.io.wchar < 2 * MIB


@pytest.mark.gateway
def test_invariant_2_memory_is_a_budget(real_run: RealRun) -> None:
    assert real_run.process.peak_rss <= DEFAULT_MEMORY


@pytest.mark.parametrize(
    "memory",
    [
        pytest.param(least_memory(8 * MIB), id="the least"),
        pytest.param(DEFAULT_MEMORY, id="the default", marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize(
    "level",
    [pytest.param(1, id="weights", marks=pytest.mark.long), pytest.param(0, id="stored blocks")],
)
def test_invariant_2_holds_on_a_slow_store(
    seaweedfs: SeaweedServer, memory: int, level: int, tmp_path: Path
) -> None:
    """SeaweedFS, which takes its time: both shares are full for all of the run."""
    place = Place(seaweedfs, seaweedfs.new_bucket())
    path = tmp_path / "archive.tar.gz"
    make_archive(path, 112 * MIB, level=level, members=3, seed=f"slow {level}")
    place.client.upload_file(str(path), place.bucket, SOURCE_KEY, Config=TransferConfig(max_concurrency=2))
    path.unlink()
    process = run(
        command(place, f"--memory={memory // MIB}MiB"),
        folder=tmp_path / "client",
        env=seaweedfs.environment(),
        timeout=300,
    )
    assert process.exit_code == 0, process.stderr
    assert process.peak_rss <= memory
    seaweedfs.remove_bucket(place.bucket)


@pytest.mark.long  # the next step of the pipeline runs it too (test_riva_131)
@pytest.mark.gateway
def test_sha256sum_agrees_in_a_download_of_the_prefix(real_run: RealRun, tmp_path: Path) -> None:
    place = real_run.place
    for name in place.names():
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True)
        place.client.download_file(place.bucket, PREFIX + name, str(target))
    done = subprocess.run(
        ["sha256sum", "-c", "--strict", "checksums.sha256"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": OK") == 1 + len(real_run.archive.rivas)


@pytest.mark.gateway
def test_the_runs_own_cpu_seconds_are_told(real_run: RealRun) -> None:
    build = real_run.report["artifact"]["build_info"]
    assert build["cpu_seconds_per_gib"] > 0
    assert build["cpu_seconds"] <= real_run.process.cpu
