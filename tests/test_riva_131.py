"""The next step of the pipeline, seen from outside: a shell script that has the state directory, the bucket, and standard
tools finds, downloads and checks what the drop-in script has staged.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from riva_stream.sizes import MIB
from tests.archive.kit import needed
from tests.drop_in import copy_of_the_repository, with_this_interpreter
from tests.staging import PREFIX, SOURCE_KEY, Place
from tests.support.servers import GatewayServer

RIVA_131 = Path(__file__).with_name("riva_131.sh")
AWS = Path(__file__).parent / "support" / "aws.py"
SERVER_KEY = "bintarball/riva-containers/riva-speech-2.15.0.tar.gz"
REFERENCE = f"bintarball/deployment-metadata/{PREFIX}"
IMAGE = b"a container image" * 1000
MODES = ("--full-download", "--reference-only", "--bintarball-reference")


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A bucket with a source and a container image, and a repository for each mode, with what was staged by it."""

    place: Place
    folder: Path
    models: dict[str, bytes]
    """What tarfile finds in the source."""

    def stage(self, name: str, *flags: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Riva-130, from a repository of its own."""
        repository = copy_of_the_repository(self.folder / name)
        values = {
            "RIVA_ASR_MODEL_S3_URI": f"s3://{self.place.bucket}/{SOURCE_KEY}",
            "NVIDIA_DRIVERS_S3_BUCKET": self.place.bucket,
            "RIVA_ASR_MODEL_NAME": "parakeet-rnnt-en-us",
            "MODEL_VERSION": "v2025.09",
            "ENV": "prod",
            "RIVA_SERVER_PATH": SERVER_KEY,
            **self.place.server.environment(),
            **settings,
        }
        (repository / ".env").write_text("".join(f"{name}='{value}'\n" for name, value in values.items()))
        return subprocess.run(
            [with_this_interpreter(repository), *flags],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def go_on(self, name: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """Riva-131: what it is given is that repository's state directory, and credentials for the bucket."""
        programs = folder / "bin"
        programs.mkdir()
        (programs / "aws").write_text(f'#!/bin/sh\nexec "{sys.executable}" "{AWS}" "$@"\n')
        (programs / "aws").chmod(0o755)
        work = folder / "work"
        work.mkdir()
        environment = {**os.environ, **self.place.server.environment(), "PYTHON": sys.executable}
        environment["PATH"] = f"{programs}:{environment['PATH']}"
        return subprocess.run(
            [RIVA_131, self.folder / name / "state", work],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


@pytest.fixture(scope="module")
def pipeline(gateway: GatewayServer, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    needed("jq", "jq")
    place = Place(gateway, gateway.new_bucket())
    _, data = place.source(7 * MIB, members=3)
    place.put(SERVER_KEY, IMAGE)
    models = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file is not None and member.name.endswith(".riva"):
                models[member.name.rpartition("/")[2]] = file.read()
    assert len(models) == 3
    pipeline = Pipeline(place, tmp_path_factory.mktemp("pipeline"), models)
    for mode in MODES:
        version = "v2025.09" if mode != "--reference-only" else "v-reference"
        done = pipeline.stage(mode, mode, "--quiet", MODEL_VERSION=version)
        assert done.returncode == 0, done.stderr
    return pipeline


@pytest.mark.parametrize("mode", MODES)
def test_the_next_step_gets_the_very_models_from_state_and_bucket(
    pipeline: Pipeline, mode: str, tmp_path: Path
) -> None:
    done = pipeline.go_on(mode, tmp_path)
    assert done.returncode == 0, done.stderr
    found = {path.name: path.read_bytes() for path in (tmp_path / "work/models").iterdir()}
    assert found == pipeline.models
    assert (tmp_path / "work/image.tar.gz").read_bytes() == IMAGE


def flipped(data: bytes) -> bytes:
    """The same length, one bit changed in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    ("mode", "key", "damage", "said"),
    [
        ("--full-download", PREFIX + "models/model-1.riva", flipped, "models/model-1.riva: FAILED"),
        pytest.param(
            "--full-download",
            PREFIX + "models/model-2.riva",
            None,
            "FAILED open or read",
            marks=pytest.mark.long,
        ),
        ("--full-download", PREFIX + "artifact.json", flipped, "staging_complete.txt: "),
        pytest.param(
            "--full-download",
            PREFIX + "staging_complete.txt",
            None,
            "staging_complete.txt",
            marks=pytest.mark.long,
        ),
        ("--full-download", PREFIX + "deployment.json", flipped, "deployment_ready.txt: "),
        ("--reference-only", SOURCE_KEY, flipped, f"{SOURCE_KEY}: "),
        pytest.param(
            "--bintarball-reference", SOURCE_KEY, flipped, f"{SOURCE_KEY}: ", marks=pytest.mark.long
        ),
        ("--bintarball-reference", SERVER_KEY, flipped, f"{SERVER_KEY}: "),
        pytest.param(
            "--bintarball-reference",
            REFERENCE + "deployment_ready.txt",
            None,
            "deployment_ready.txt",
            marks=pytest.mark.long,
        ),
    ],
)
def test_the_next_step_sees_what_is_not_as_it_was_staged(
    pipeline: Pipeline,
    mode: str,
    key: str,
    damage: Callable[[bytes], bytes] | None,
    said: str,
    tmp_path: Path,
) -> None:
    """Or else the test above could not fail."""
    place = pipeline.place
    before = place.read(key)
    if damage is None:
        place.client.delete_object(Bucket=place.bucket, Key=key)
    else:
        place.put(key, damage(before))
    try:
        done = pipeline.go_on(mode, tmp_path)
    finally:
        place.put(key, before)
    assert done.returncode != 0
    assert said in done.stdout + done.stderr


def test_after_a_failure_the_next_step_does_not_begin(pipeline: Pipeline, tmp_path: Path) -> None:
    failed = pipeline.stage(
        "failed", "--quiet", RIVA_ASR_MODEL_S3_URI=f"s3://{pipeline.place.bucket}/none.tar.gz"
    )
    assert failed.returncode == 66
    done = pipeline.go_on("failed", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "riva-130 has not succeeded" in done.stderr
    assert not list((tmp_path / "work").iterdir())
