"""Groups of flags that commands share. Names are those of :class:`~riva_stream.config.StageRequest`'s fields."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from riva_stream.cli.units import parse_count, parse_duration, parse_size
from riva_stream.settings_file import read_env_file, root

__all__ = [
    "NOT_OF_THE_REQUEST",
    "add_how",
    "add_limits",
    "add_log",
    "add_output",
    "add_reach",
    "add_source",
    "add_source_reach",
    "add_stage",
    "add_store",
    "add_what",
    "add_where_to",
    "find_state_dir",
    "home_of",
    "request_flags",
    "state_dir_of",
]

NOT_OF_THE_REQUEST = frozenset(
    {"command", "env_file", "loop", "json", "quiet", "log_format", "debug"}
    | {"limit", "format", "scope", "extras", "source_kms_key"}
    | {"log_dir", "log_level", "log_file_format", "log_redact", "log_to_s3", "keep_runs"}
)
"""Names in the parsed arguments that are the command line's own business."""

_MODES = {
    "--full-download": "copy, unpack and verify the archive (the default); of several modes the last one counts",
    "--reference-only": "leave the archive where it lies; write metadata that pins it [REFERENCE_ONLY]",
    "--bintarball-reference": "leave archive and container image where they lie; write the one deployment.json that "
    "pins both [BINTARBALL_REFERENCE]",
}


def request_flags(
    args: Namespace, run_id: str, in_file: Mapping[str, str] | None = None
) -> dict[str, object]:
    """The flags that a request is made from, for every command that takes those of ``stage``."""
    flags = {name: value for name, value in vars(args).items() if name not in NOT_OF_THE_REQUEST}
    flags["include"] = tuple(args.include or ())
    flags["state_dir"] = state_dir_of(args, in_file)
    flags["run_id"] = run_id
    return flags


def _switch(group: Any, flag: str, text: str) -> None:
    # None, not False: a flag that was not given must not hide what another source says.
    group.add_argument(flag, action="store_true", default=None, help=text)


def add_stage(parser: ArgumentParser) -> None:
    """All that ``stage`` takes, in its order; so that ``check`` and ``policy`` take a command line of its as it is."""
    add_what(parser)
    add_source(parser)
    add_where_to(parser)
    add_store(parser)
    add_how(parser)
    add_limits(parser)
    add_output(parser)
    add_log(parser)


def add_source(parser: ArgumentParser) -> None:
    """Where the archive is and how to get at it."""
    group = parser.add_argument_group("source")
    group.add_argument(
        "--source",
        metavar="S3_URI",
        help="the archive: s3://bucket/key, or a prefix ending in / or a glob that fits exactly one "
        "[RIVA_ASR_MODEL_S3_URI]",
    )
    group.add_argument(
        "--expect-sha256", metavar="HEX", help="what its SHA-256 must be [RIVA_ASR_MODEL_SHA256]"
    )
    _switch(
        group,
        "--no-checksum",
        "compute the digests, but do not compare them with the expected SHA-256 [CHECKSUM_VALIDATION=false]",
    )
    add_source_reach(group)


def add_source_reach(group: Any) -> None:
    """The endpoint and the credentials of the source."""
    group.add_argument("--source-region", metavar="REGION", help="when it differs [RIVA_SOURCE_REGION]")
    group.add_argument(
        "--source-endpoint-url", metavar="URL", help="when it differs [RIVA_SOURCE_ENDPOINT_URL]"
    )
    group.add_argument("--source-profile", metavar="NAME", help="when it differs [RIVA_SOURCE_PROFILE]")
    _switch(group, "--no-sign-request", "the source is public: do not sign requests for it")


def add_where_to(parser: ArgumentParser) -> None:
    """The destination: s3://BUCKET/ENV/MODEL_NAME/MODEL_VERSION/."""
    group = parser.add_argument_group("destination", "s3://BUCKET/ENV/MODEL_NAME/MODEL_VERSION/")
    group.add_argument("--bucket", help="[NVIDIA_DRIVERS_S3_BUCKET]")
    group.add_argument("--env", help="prod, staging or dev [ENV]")
    group.add_argument("--model-name", metavar="NAME", help="[RIVA_ASR_MODEL_NAME]")
    group.add_argument("--model-version", metavar="VERSION", help="[MODEL_VERSION]")


def add_what(parser: ArgumentParser) -> None:
    """The mode, and what is said about the model."""
    group = parser.add_argument_group("what to stage")
    for flag, text in _MODES.items():
        group.add_argument(
            flag, action="store_const", dest="mode", const=flag[2:].replace("-", "_"), default=None, help=text
        )
    group.add_argument(
        "--server-path",
        metavar="S3_URI",
        help="the container image, s3://bucket/key or a key in the destination bucket: deployment.json, which the "
        "next step reads, then names it [RIVA_SERVER_PATH]",
    )
    group.add_argument(
        "--include",
        action="append",
        metavar="PATTERN",
        help="members to stage as models; may be repeated (default: *.riva)",
    )
    _switch(
        group,
        "--allow-missing-end",
        "take a tar without its end-of-archive blocks (also how a cut one looks)",
    )
    group.add_argument("--language", metavar="CODE", help="default: en-US [RIVA_ASR_LANG_CODE]")
    group.add_argument(
        "--architecture", metavar="NAME", help="default: from the model's name [RIVA_ASR_MODEL_ARCHITECTURE]"
    )
    group.add_argument("--description", metavar="TEXT", help="free text for artifact.json")
    group.add_argument(
        "--retention-days",
        type=int,
        metavar="N",
        help="recorded in artifact.json, see retention (default: 90) [ARTIFACT_RETENTION_DAYS]",
    )
    _switch(group, "--tag", "tag every object with retention-days and model-name, for lifecycle rules")
    _switch(
        group,
        "--force",
        "replace another staging at the destination, once the new one is verified [FORCE_DOWNLOAD]",
    )
    _switch(
        group, "--dry-run", "check source, destination and rights, show the plan, write nothing [DRY_RUN]"
    )


def add_store(parser: ArgumentParser) -> None:
    """How to reach S3, and how objects are stored."""
    group = parser.add_argument_group("S3")
    add_reach(group)
    group.add_argument("--sse", choices=("AES256", "aws:kms", "aws:kms:dsse"), help="server-side encryption")
    group.add_argument("--kms-key-id", metavar="KEY", help="with --sse aws:kms")
    group.add_argument(
        "--acl",
        metavar="ACL",
        help="canned access control list of what is written, e.g. bucket-owner-full-control",
    )
    group.add_argument("--storage-class", metavar="CLASS", help="e.g. INTELLIGENT_TIERING")
    group.add_argument("--expected-bucket-owner", metavar="ACCOUNT", help="12 digits; refuse any other owner")
    group.add_argument(
        "--upload-check",
        choices=("auto", "crc64nvme", "md5", "sha256", "none"),
        help="what the store checks each part with (default: auto, the best it really checks)",
    )
    group.add_argument(
        "--source-copy",
        choices=("auto", "store", "send"),
        help="who makes the copy of the source (default: auto, the store where that can be proven)",
    )


def add_reach(group: Any) -> None:
    """The endpoint and the credentials."""
    group.add_argument("--region", help="[AWS_REGION, AWS_DEFAULT_REGION]")
    group.add_argument("--endpoint-url", metavar="URL", help="an S3-compatible store [AWS_ENDPOINT_URL]")
    group.add_argument("--profile", metavar="NAME", help="of the AWS configuration [AWS_PROFILE]")
    group.add_argument("--ca-bundle", type=Path, metavar="FILE", help="certificates to trust [AWS_CA_BUNDLE]")
    group.add_argument(
        "--addressing",
        choices=("auto", "path", "virtual"),
        help="where a URL has the bucket (default: as the AWS configuration says) [RIVA_STREAM_ADDRESSING]",
    )
    group.add_argument("--request-payer", choices=("requester",), help="for a bucket whose readers pay")


def add_how(parser: ArgumentParser) -> None:
    """Limits: memory, requests, time."""
    group = parser.add_argument_group(
        "limits", "sizes like 64MiB, 1GiB or 67108864 (bytes); durations like 90 (seconds), 90s, 5m, 1h"
    )
    group.add_argument(
        "--memory", type=parse_size, metavar="SIZE", help="of the whole process (default: 256MiB)"
    )
    group.add_argument(
        "--part-size", type=parse_size, metavar="SIZE", help="of a part and a range (default: 8MiB)"
    )
    group.add_argument("--connections", type=int, metavar="N", help="requests at once each way (default: 8)")
    group.add_argument(
        "--timeout",
        type=parse_duration,
        metavar="TIME",
        help="stop after so long without progress (default: 5m)",
    )
    group.add_argument(
        "--deadline", type=parse_duration, metavar="TIME", help="of the whole run (default: none)"
    )
    group.add_argument("--retries", type=int, metavar="N", help="of one request (default: 8)")
    group.add_argument(
        "--lease",
        type=parse_duration,
        metavar="TIME",
        help="without a sign of life, after which a run's place is taken (default: 30s)",
    )
    _switch(group, "--wait", "wait for a live run that holds the destination, instead of exit 75")


def add_limits(parser: ArgumentParser) -> None:
    """What an archive may ask of us."""
    group = parser.add_argument_group("archives", "an archive beyond these is refused while it streams")
    group.add_argument("--max-members", type=int, metavar="N", help="entries (default: 100000)")
    group.add_argument("--max-models", type=int, metavar="N", help="matching members (default: 1000)")
    group.add_argument(
        "--max-header-bytes", type=parse_size, metavar="SIZE", help="of one member's headers (default: 1MiB)"
    )
    group.add_argument("--max-expanded", type=parse_size, metavar="SIZE", help="in all (default: 5TiB)")
    group.add_argument(
        "--max-ratio", type=float, metavar="N", help="expanded to archive, once 64 MiB are out (default: 100)"
    )
    group.add_argument(
        "--max-streams", type=int, metavar="N", help="gzip members or zstd frames (default: 4000000)"
    )
    group.add_argument(
        "--max-zstd-window",
        type=parse_size,
        metavar="SIZE",
        help="that a zstd archive may need; it is taken from --memory (default: 32MiB)",
    )


def add_output(parser: ArgumentParser) -> None:
    """Where settings and state lie, and what is shown."""
    group = parser.add_argument_group("running")
    group.add_argument(
        "--env-file",
        type=Path,
        metavar="FILE",
        help="settings (default: ./.env if there is one) [RIVA_ENV_FILE]",
    )
    group.add_argument("--state-dir", type=Path, metavar="DIR", help="default: ./state [RIVA_STATE_DIR]")
    group.add_argument("--run-id", metavar="ID", help="default: one is made up")
    group.add_argument("--loop", choices=("auto", "asyncio", "uvloop"), default="auto", help="event loop")
    group = parser.add_argument_group("output", "the result goes to stdout, everything else to stderr")
    group.add_argument("--json", action="store_true", help="the result as one JSON document")
    group.add_argument("--quiet", action="store_true", help="only the result and errors")
    group.add_argument(
        "--log-format",
        choices=("auto", "pretty", "plain", "json"),
        default="auto",
        help="of progress: bars on a terminal, else lines (default: auto)",
    )
    group.add_argument("--debug", action="store_true", help="timing of each lane, and tracebacks [TRACE]")


def add_log(parser: ArgumentParser) -> None:
    """The file that a run's log goes to."""
    group = parser.add_argument_group("log", "one file per run, DIR/RUN_ID.log")
    group.add_argument(
        "--log-dir", type=Path, metavar="DIR", help="default: logs in the state directory [LOG_DIR]"
    )
    group.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        help="the least that is written (default: info) [LOG_LEVEL]",
    )
    group.add_argument(
        "--log-file-format",
        choices=("pretty", "json"),
        help="lines of text, or of JSON (default: pretty) [LOG_FORMAT]",
    )
    group.add_argument(
        "--log-redact",
        metavar="NAMES",
        help="variables and fields whose values are blacked out, with commas; off: not even account ids "
        "(secrets always are) [LOG_REDACT]",
    )
    group.add_argument(
        "--log-to-s3",
        metavar="S3_PREFIX",
        help="put a copy below s3://bucket/prefix when the run is over [LOG_TO_S3, LOG_S3_BUCKET, LOG_S3_PREFIX]",
    )
    group.add_argument(
        "--keep-runs",
        type=parse_count,
        metavar="N",
        help="runs whose logs and folders in the state directory stay, beside those of the last day, or all "
        "(default: 50) [RIVA_STREAM_KEEP_RUNS]",
    )


def state_dir_of(args: Namespace, in_file: Mapping[str, str] | None = None) -> Path:
    """The state directory: the flag, the environment, ``.env``, ``state``; the latter three from :func:`root`."""
    if args.state_dir:
        return home_of(args.state_dir)
    named = os.environ.get("RIVA_STATE_DIR") or (in_file or {}).get("RIVA_STATE_DIR")
    return root() / home_of(named or "state")


def find_state_dir(args: Namespace) -> Path:
    """The same for a command that needs nothing else of ``.env``, which is read only where it decides.

    Raises:
        ConfigurationError: a file that was named cannot be read.
    """
    decided = args.state_dir or os.environ.get("RIVA_STATE_DIR")
    return state_dir_of(args, {} if decided else read_env_file(args.env_file).values)


def home_of(path: Path | str) -> Path:
    """``path`` with ``~`` replaced, where there is such a home."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib raises where there is none
