"""The command line with a made-up pipeline: ``python -m tests.cli_double SCENARIO ARGUMENTS...``.

Only `riva_stream.pipeline` is replaced; all before and behind it is the real thing.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from datetime import UTC, datetime
from types import ModuleType
from typing import Any, Self

from riva_stream.config import StageRequest
from riva_stream.errors import (
    AccessDeniedError,
    ArchiveError,
    DestinationConflictError,
    HeldError,
    RivaStreamError,
    SourceNotFoundError,
    TransientError,
    Where,
)
from riva_stream.events import (
    MemberFound,
    Observer,
    Progress,
    RetryScheduled,
    StageFinished,
    StageStarted,
    Warned,
)
from riva_stream.manifest import (
    Artifact,
    BuildInfo,
    Deployment,
    LaneSeconds,
    Model,
    ModelFile,
    Source,
    Validation,
)
from riva_stream.report import ObjectCheck, Plan, PlannedObject, StageReport, TriedRights

ARGUMENTS = (
    *("stage", "--source", "s3://models/parakeet.tar.gz", "--bucket", "staging-bucket", "--env", "prod"),
    *("--model-name", "parakeet-rnnt", "--model-version", "v1", "--region", "us-east-2"),
)
MIB = 1 << 20
DIGEST = "ab" * 32
NOW = datetime(2025, 9, 23, 10, 15, tzinfo=UTC)

ERRORS: dict[str, Exception] = {
    "archive": ArchiveError("the gzip CRC is wrong", where=Where(bucket="models", key="parakeet.tar.gz")),
    "missing": SourceNotFoundError("there is no such object", hint="nearest keys: parakeet2.tar.gz"),
    "conflict": DestinationConflictError("the destination holds another staging"),
    "transient": TransientError(
        "the connection broke",
        where=Where(operation="UploadPart", bucket="b", key="k", part=3, attempt=9, request_id="RQ1"),
    ),
    "held": HeldError("run 130-x holds the prefix"),
    "denied": AccessDeniedError("not allowed", where=Where(operation="PutObject", bucket="b", status=403)),
    "bug": RuntimeError("kaboom"),
    "secret": AccessDeniedError("", where=Where(operation="PutObject", bucket="b")),
}


def progress(done: int, **changes: Any) -> Progress:
    fields: dict[str, Any] = {
        "source_size": 100 * MIB,
        "fetched": done,
        "hashed": done,
        "extracted": done,
        "expanded": done,
        "durable": 2 * done,
        "durable_source": done,
        "elapsed": 1.0,
        "bottleneck": "extract",
    }
    return Progress(**fields | changes)


def report(run_id: str = "130-test", **changes: Any) -> StageReport:
    model = ModelFile(
        filename="a.riva",
        relative_path="models/a.riva",
        archive_path="x/a.riva",
        size_bytes=5 * MIB,
        size_human="5.00 MiB",
        sha256=DIGEST,
        blake3=DIGEST,
    )
    destination = "s3://staging-bucket/prod/parakeet-rnnt/v1/"
    artifact = Artifact(
        artifact_id="parakeet-rnnt-v1",
        created_at=NOW,
        model=Model(name="parakeet-rnnt", version="v1", language_code="en-US", architecture="rnnt"),
        source=Source(
            uri="s3://models/parakeet.tar.gz",
            filename="parakeet.tar.gz",
            size_bytes=4 * MIB,
            size_human="4.00 MiB",
            sha256=DIGEST,
            etag='"e1"',
            version_id="V1",
            status="staged",
        ),
        models=[model],
        primary_model=model,
        deployment=Deployment(
            environment="prod",
            s3_bucket="staging-bucket",
            s3_prefix=destination,
            retention_days=90,
            staging_complete=True,
            staging_mode="full",
            reference_mode=False,
        ),
        build_info=BuildInfo(
            version="0",
            run_id=run_id,
            build_host="h",
            aws_region="us-east-2",
            preparation_timestamp=NOW,
            wall_seconds=2.0,
            mib_per_second=123.4,
            cpu_seconds=1.5,
            cpu_seconds_per_gib=6.25,
            lanes={
                "extract": LaneSeconds(bytes=4 * MIB, wall_seconds=2, busy_seconds=1.25, waiting_seconds=0.5)
            },
        ),
        validation=Validation(
            source_exists=True,
            source_pinned=True,
            source_integrity="gzip-crc32",
            archive_complete=True,
            checksums_computed=True,
            checksums_verified=False,
            upload_check="crc64nvme",
            objects_verified=True,
            archive_members=3,
        ),
    )
    prefix = "prod/parakeet-rnnt/v1/"
    names = {"source/parakeet.tar.gz": 4 * MIB, "models/a.riva": 5 * MIB, "artifact.json": 900}
    fields: dict[str, Any] = {
        "outcome": "staged",
        "run_id": run_id,
        "mode": "full",
        "destination": destination,
        "marker": destination + "staging_complete.txt",
        "artifact": artifact,
        "objects": [ObjectCheck(key=prefix + k, size_bytes=v, by=["size", "etag"]) for k, v in names.items()],
        "seconds": 2.0,
        "next_step": "riva-131: convert models",
    }
    return StageReport(**fields | changes)


def plan() -> Plan:
    return Plan(
        mode="full",
        source="s3://models/parakeet.tar.gz",
        source_size=100 * MIB,
        source_etag='"e1"',
        source_version_id=None,
        destination="s3://staging-bucket/prod/parakeet-rnnt/v1/",
        objects=[
            PlannedObject(
                key="prod/parakeet-rnnt/v1/source/p.tar.gz", kind="archive", part_size=8 * MIB, parts=13
            )
        ],
        include=["*.riva"],
        part_size=8 * MIB,
        connections=8,
        memory_ceiling=256 * MIB,
        read_share=64 * MIB,
        write_share=64 * MIB,
        upload_check="crc64nvme",
        rights=[TriedRights(of="source", operations=["HeadObject"])],
        would="stage",
    )


async def _run(  # noqa: C901, PLR0912, PLR0915 - a list of scenarios
    scenario: str, request: StageRequest, observer: Observer
) -> StageReport:
    run_id = request.run_id or ""
    observer(
        StageStarted(
            run_id=run_id,
            mode="full",
            source_uri=request.source,
            source_size=100 * MIB,
            destination=request.destination,
            upload_check="crc64nvme",
        )
    )
    observer(progress(MIB))
    match scenario:
        case "short":
            observer(Warned(code="ready", message="READY"))
            await asyncio.sleep(1)
        case "sleep" | "unclean":
            observer(Warned(code="ready", message="READY"))
            try:
                await asyncio.sleep(60)
            finally:
                if scenario == "unclean":
                    raise TransientError("the clean-up failed too")
        case "linger":
            observer(Warned(code="ready", message="READY"))
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.5)  # a clean-up that takes its time, in which further signals come
                raise TransientError("the clean-up ended")
        case "stuck":
            observer(Warned(code="ready", message="READY"))
            try:
                await asyncio.sleep(60)
            finally:
                time.sleep(60)  # noqa: ASYNC251 - a loop that is stuck for good
        case "close":
            asyncio.get_running_loop().run_in_executor(None, _signal_and_hang)
        case "flood":
            for number in range(20_000):
                observer(RetryScheduled(operation="UploadPart", attempt=number, delay=0.1, reason="x" * 50))
                observer(progress(number))
        case "group":
            raise ExceptionGroup("outer", [ExceptionGroup("inner", [ERRORS["archive"]])])
        case "groups":
            raise ExceptionGroup("outer", [ERRORS["transient"], ERRORS["archive"]])
        case "ours":
            raise RivaStreamError("an impossible state")
        case "secret":
            secrets = (os.environ["AWS_SECRET_ACCESS_KEY"], os.environ["AWS_SESSION_TOKEN"])
            observer(Warned(code="leak", message=f"leaked {secrets}"))
            sys.stderr.write(f"a library prints {secrets}\n")
            raise AccessDeniedError(f"leaked {secrets}", hint=f"leaked {secrets}")
        case "environment":
            names = ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_ROLE_ARN")
            seen = {name: os.environ[name] for name in names if name in os.environ}
            raise AccessDeniedError(
                json.dumps({"profile": request.profile, "state": str(request.state_dir)} | seen)
            )
        case "stray":
            sys.stderr.write("a library prints\n")
        case _ if scenario in ERRORS:
            raise ERRORS[scenario]
    observer(MemberFound(name="x/a.riva", key="prod/parakeet-rnnt/v1/models/a.riva", size=5 * MIB))
    observer(StageFinished(run_id=run_id, outcome="staged", seconds=2.0))
    if request.dry_run:
        return report(run_id, outcome="planned", artifact=None, marker=None, objects=[], plan=plan())
    made = report(run_id, warnings=[Warned(code="double", message="a warning of the run")])
    return _Signalled.model_construct(**dict(made)) if scenario == "copy" else made


def _signal_and_hang() -> None:
    """As on a disk that hangs; the signal comes when the run has long had its result."""
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(15)


class _Signalled(StageReport):
    """A report during whose copying, after the event loop is closed, a signal comes."""

    def model_copy(self, **options: Any) -> Self:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.5)
        return super().model_copy(**options)


def main() -> int:
    scenario = sys.argv[1]

    async def stage(request: StageRequest, *, observer: Observer) -> StageReport:
        return await _run(scenario, request, observer)

    module = ModuleType("riva_stream.pipeline")
    module.stage = stage  # type: ignore[attr-defined]
    sys.modules["riva_stream.pipeline"] = module
    from riva_stream.cli import main as command_line  # noqa: PLC0415

    return command_line(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
