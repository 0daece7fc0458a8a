"""The main jobs on one server, by the command line, with their exit codes: ``python -m tests.contract --server NAME``.

Each job has a deployment of its own. A run that is killed dies once its uploads are open; two at once begin together.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError, ResponseStreamingError

from riva_stream.sizes import MIB
from tests.support.archives import archive_bytes
from tests.support.servers import S3Server

__all__ = ["JOBS", "Job", "Site", "opened_site", "run_jobs"]

_SECONDS = 300
_FLAGS = ("--part-size", "5MiB", "--quiet")


@dataclass(frozen=True, slots=True)
class Site:
    """One server with a bucket that holds sources, and a folder for state."""

    server: S3Server
    bucket: str
    folder: Path

    def start(self, command: str, *argv: str) -> subprocess.Popen[bytes]:
        """Start the command line."""
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RIVA_"))
        }
        return subprocess.Popen(
            [sys.executable, "-m", "riva_stream", command, *argv],
            cwd=self.folder,
            env=environment | self.server.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, command: str, *argv: str) -> int:
        """Its exit code."""
        return self.run_json(command, *argv)[0]

    def run_json(self, command: str, *argv: str) -> tuple[int, Any]:
        """Its exit code and its document."""
        process = self.start(command, *argv, "--json")
        out, err = process.communicate(timeout=_SECONDS)
        with (self.folder / "log").open("ab") as log:
            log.write(f"\n$ {command} {' '.join(argv)}\n".encode() + err + out)
        return process.returncode, json.loads(out) if out.strip() else None

    def settings(self, version: str, *more: str, source: str = "model.tar.gz") -> list[str]:
        """Flags for one deployment."""
        return [
            f"--source=s3://{self.bucket}/sources/{source}",
            f"--bucket={self.bucket}",
            "--env=prod",
            "--model-name=parakeet",
            f"--model-version={version}",
            *_FLAGS,
            *more,
        ]

    def stage(self, version: str, *more: str, source: str = "model.tar.gz") -> int:
        """The exit code of one ``stage``."""
        return self.run("stage", *self.settings(version, *more, source=source))

    def uri(self, version: str) -> str:
        """Where a deployment is."""
        return f"s3://{self.bucket}/prod/parakeet/{version}/"

    def keys(self, version: str) -> list[str]:
        """What is there."""
        prefix = f"prod/parakeet/{version}/"
        answer = self.server.client().list_objects_v2(Bucket=self.bucket, Prefix=prefix)
        return [entry["Key"] for entry in answer.get("Contents", ()) if not entry["Key"].endswith("/")]


@contextmanager
def opened_site(server: S3Server) -> Iterator[Site]:
    """A bucket with sources on a server that runs already."""
    bucket = server.new_bucket()
    with tempfile.TemporaryDirectory() as folder:
        site = Site(server, bucket, Path(folder))
        client = server.client()
        small, _ = archive_bytes(12 * MIB)
        other, _ = archive_bytes(11 * MIB, seed=1)
        large, _ = archive_bytes(96 * MIB, seed=2)
        sources = {"model": small, "other": other, "large": large, "cut": small[:-100_000]}
        for name, data in sources.items():
            client.put_object(Bucket=bucket, Key=f"sources/{name}.tar.gz", Body=data)
        yield site


def _check(site: Site) -> list[int]:
    exits = [site.run("check", *site.settings("check"))]
    assert not site.keys("check"), "check left something"
    return exits


def _dry_run(site: Site) -> list[int]:
    exits = [site.stage("dry", "--dry-run")]
    assert not site.keys("dry"), "a dry run left something"
    return exits


def _stage(site: Site) -> list[int]:
    return [site.stage("first"), site.stage("first")]


def _verify(site: Site) -> list[int]:
    site.stage("first")
    return [site.run("verify", site.uri("first"), "--deep")]


def _look(site: Site) -> list[int]:
    site.stage("first")
    return [site.run("status", site.uri("first")), site.run("ls", f"s3://{site.bucket}/")]


def _killed(site: Site) -> list[int]:
    process = site.start("stage", *site.settings("killed", source="large.tar.gz"))
    journal = "prod/parakeet/killed/.riva-stream/journal.json"
    try:
        while process.poll() is None:
            try:
                body = site.server.client().get_object(Bucket=site.bucket, Key=journal)["Body"].read()
            except (ClientError, ResponseStreamingError):
                continue
            # There are stores that show an object while it is being written, or send less of it than they say.
            with suppress(ValueError):
                if any(upload["parts"] for upload in json.loads(body).get("uploads", ())):
                    break
    finally:
        process.kill()
        process.communicate()
    first = process.returncode
    exits = [first, site.stage("killed", source="large.tar.gz")]
    if exits[-1] == 0:
        exits.append(site.run("verify", site.uri("killed"), "--deep"))
    return exits


def _forced(site: Site) -> list[int]:
    site.stage("forced")
    exits = [
        site.stage("forced", source="other.tar.gz"),
        site.stage("forced", "--force", source="other.tar.gz"),
    ]
    if exits[-1] == 0:
        exits.append(site.run("verify", site.uri("forced"), "--deep"))
    return exits


def _refused(site: Site) -> list[int]:
    exits = [
        site.stage("refused", source="cut.tar.gz"),
        site.stage("refused", "--expect-sha256", "0" * 64),
    ]
    if exits == [65, 65]:
        assert not site.keys("refused"), "a refused run left something"
    return exits


def _by_reference(site: Site) -> list[int]:
    return [site.stage("reference", "--reference-only"), site.stage("reference")]


def _gc(site: Site) -> list[int]:
    key = "prod/parakeet/gc/source/left.tar.gz"
    site.server.client().create_multipart_upload(Bucket=site.bucket, Key=key)
    exits = [site.run("gc", f"s3://{site.bucket}/prod/", "--older-than", "0s", "--yes", "--quiet")]
    if exits == [0]:
        answer = site.server.client().list_multipart_uploads(Bucket=site.bucket, Prefix=key)
        assert not answer.get("Uploads"), "gc left an upload"
    return exits


def _two_at_once(site: Site) -> list[int]:
    with ExitStack() as stack:
        runs = [
            stack.enter_context(site.start("stage", *site.settings("two", source="large.tar.gz")))
            for _ in range(2)
        ]
        for run in runs:
            run.communicate(timeout=_SECONDS)
    return sorted(run.returncode for run in runs)


@dataclass(frozen=True, slots=True)
class Job:
    """One job, and the exits that it should end with."""

    name: str
    act: Callable[[Site], list[int]]
    right: tuple[int, ...]


JOBS: tuple[Job, ...] = (
    Job("check", _check, (0,)),
    Job("dry run", _dry_run, (0,)),
    Job("stage, again", _stage, (0, 0)),
    Job("verify --deep", _verify, (0,)),
    Job("status, ls", _look, (0, 0)),
    Job("kill -9, again, verify --deep", _killed, (-9, 0, 0)),
    Job("another source, --force, verify --deep", _forced, (73, 0, 0)),
    Job("refused: a cut archive, another SHA-256", _refused, (65, 65)),
    Job("by reference, then in full", _by_reference, (0, 0)),
    Job("gc of an upload that is left", _gc, (0,)),
    Job("two at once", _two_at_once, (0, 75)),
)


def run_jobs(server: S3Server, tell: Callable[[str], None]) -> Mapping[str, str]:
    """The exits of every job on a server that runs, as cells of a table."""
    cells: dict[str, str] = {}
    with opened_site(server) as site:
        for job in JOBS:
            try:
                exits = job.act(site)
            except AssertionError as error:
                cells[job.name] = f"**{error}**"
            else:
                cells[job.name] = ", ".join(map(str, exits))
            tell(f"{job.name}: {cells[job.name]}")
            if log := os.environ.get("RIVA_STREAM_JOBS_LOG"):
                Path(log).write_bytes((site.folder / "log").read_bytes())
    return cells
