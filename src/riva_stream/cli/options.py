"""Groups of flags that commands share, and the meaning of the parsed flags.

Names are those of :class:`~riva_stream.config.StageRequest`'s fields. At import only the standard library is used.
"""

from __future__ import annotations

import os
import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from riva_stream import sizes
from riva_stream.cli.settings.env_file import EnvFile, read_env_file, root
from riva_stream.cli.settings.places import Places

__all__ = [
    "ALL",
    "MODES",
    "WOULD",
    "add",
    "add_promote",
    "add_reading",
    "add_stage",
    "add_staging",
    "choice",
    "find_state_dir",
    "flag",
    "home_of",
    "parse_count",
    "parse_duration",
    "parse_size",
    "promote_flags",
    "request_flags",
    "state_dir_of",
    "value",
]

MODES = {
    "full": "in full",
    "reference_only": "by reference",
    "bintarball_reference": "by bintarball reference",
}
"""The mode of a staging in words."""

WOULD = {
    "stage": "stage",
    "already_staged": "do nothing: it is staged already",
    "add_deployment": "add deployment.json to the existing staging",
    "upgrade": "upgrade a staging by reference to a full one",
    "replace": "replace the existing staging",
}
"""What a dry run would do; continues the sentence "a run would"."""

ALL = -1
"""The value that :func:`parse_count` returns for ``all``."""

_COUNT = re.compile(r"[1-9][0-9]{0,8}")
T = TypeVar("T")


def _argument(parse: Callable[[str], T]) -> Callable[[str], T]:
    """``parse`` for argparse, which shows the message of an ArgumentTypeError only."""

    def convert(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise ArgumentTypeError(f"{text!r} {error}") from error

    return convert


parse_size = _argument(sizes.parse_size)
parse_interval = _argument(sizes.parse_interval)
parse_duration = _argument(sizes.parse_duration)


def parse_count(text: str) -> int:
    """``20``, or :data:`ALL` for ``all``.

    Raises:
        ArgumentTypeError: the text is neither.
    """
    word = text.strip().lower()
    if word == "all":
        return ALL
    if not _COUNT.fullmatch(word):
        raise ArgumentTypeError(f"{text!r} must be 1 or greater, or 'all'")
    return int(word)


# --- flags, as the arguments of ``add_argument``

Flags = Mapping[str, Mapping[str, Any]]


def add(group: Any, flags: Flags) -> None:
    """Add flags to a parser, or to a group of one."""
    for flag, options in flags.items():
        group.add_argument(flag, **options)


def value(
    metavar: str | None, text: str, kind: Callable[[str], Any] | None = None, **more: Any
) -> dict[str, Any]:
    """A flag with a value, or an argument without a flag."""
    options = {"metavar": metavar, "help": text, "type": kind, **more}
    return {name: value for name, value in options.items() if value is not None}


def choice(choices: tuple[str, ...], text: str, **more: Any) -> dict[str, Any]:
    """A flag whose value is one of several words."""
    return {"choices": choices, "help": text, **more}


def flag(text: str) -> dict[str, Any]:
    """A flag without a value."""
    return {"action": "store_true", "help": text}


def _switch(text: str) -> dict[str, Any]:
    # None, not False: a flag that was not given must not hide what another source says.
    return flag(text) | {"default": None}


def _mode(mode: str, text: str) -> dict[str, Any]:
    return {"action": "store_const", "dest": "mode", "const": mode, "default": None, "help": text}


_WHAT: Flags = {
    "--full-download": _mode(
        "full_download",
        "copy, unpack and verify the archive (the default); of several modes the last one counts",
    ),
    "--reference-only": _mode(
        "reference_only", "leave the archive where it is; write metadata that pins it [REFERENCE_ONLY]"
    ),
    "--bintarball-reference": _mode(
        "bintarball_reference",
        "leave archive and container image where they are; write the one deployment.json that pins both "
        "[BINTARBALL_REFERENCE]",
    ),
    "--server-path": value(
        "S3_URI",
        "the container image, s3://bucket/key or a key in the destination bucket: deployment.json, which the next step "
        "reads, then names it [RIVA_SERVER_PATH]",
    ),
    "--include": value(
        "PATTERN", "members to stage as models; may be repeated (default: *.riva)", action="append"
    ),
    "--allow-missing-end": _switch(
        "accept a tar without end-of-archive blocks (a truncated one looks the same)"
    ),
    "--language": value("CODE", "default: en-US [RIVA_ASR_LANG_CODE]"),
    "--architecture": value("NAME", "default: from the model's name [RIVA_ASR_MODEL_ARCHITECTURE]"),
    "--description": value("TEXT", "free text for artifact.json"),
    "--retention-days": value(
        "N", "recorded in artifact.json, see retention (default: 90) [ARTIFACT_RETENTION_DAYS]", int
    ),
    "--tag": _switch("tag every object with retention-days and model-name, for lifecycle rules"),
    "--force": _switch(
        "replace another staging at the destination, once the new one is verified [FORCE_DOWNLOAD]"
    ),
    "--dry-run": _switch("check source, destination and rights, show the plan, write nothing [DRY_RUN]"),
    "--replicate-to": value(
        "S3_URI",
        "promote it to s3://BUCKET/ENV/MODEL/VERSION/ once it is committed; may be repeated",
        action="append",
    ),
}
_SOURCE_ENDPOINT: Flags = {
    "--source-region": value("REGION", "region of the source, if different [RIVA_SOURCE_REGION]"),
    "--source-endpoint-url": value("URL", "endpoint of the source, if different [RIVA_SOURCE_ENDPOINT_URL]"),
    "--source-profile": value("NAME", "profile for the source, if different [RIVA_SOURCE_PROFILE]"),
    "--no-sign-request": _switch("the source is public: do not sign requests for it"),
}
_ENDPOINT: Flags = {
    "--region": value(None, "[AWS_REGION, AWS_DEFAULT_REGION]"),
    "--endpoint-url": value("URL", "an S3-compatible store [AWS_ENDPOINT_URL]"),
    "--profile": value("NAME", "profile of the AWS configuration [AWS_PROFILE]"),
    "--ca-bundle": value("FILE", "CA certificates to trust [AWS_CA_BUNDLE]", Path),
    "--addressing": choice(
        ("auto", "path", "virtual"),
        "whether the bucket goes in the path or the host name (default: as in the AWS configuration) [RIVA_STREAM_ADDRESSING]",
    ),
    "--request-payer": choice(("requester",), "for a bucket whose readers pay"),
}
_OBJECTS: Flags = {
    "--sse": choice(("AES256", "aws:kms", "aws:kms:dsse"), "server-side encryption"),
    "--kms-key-id": value("KEY", "with --sse aws:kms"),
    "--acl": value("ACL", "canned access control list of written objects, e.g. bucket-owner-full-control"),
    "--storage-class": value("CLASS", "e.g. INTELLIGENT_TIERING"),
    "--expected-bucket-owner": value("ACCOUNT", "account id, 12 digits; refuse any other owner"),
    "--upload-check": choice(
        ("auto", "crc64nvme", "md5", "sha256", "none"),
        "checksum that the store verifies each part with (default: auto, the strongest it really verifies)",
    ),
}
_LIMITS: Flags = {
    "--memory": value("SIZE", "memory ceiling of the process (default: 256MiB)", parse_size),
    "--part-size": value("SIZE", "size of a part and of a range (default: 8MiB)", parse_size),
    "--checkpoint": value(
        "SIZE|auto|off",
        "bytes of the archive between two checkpoints to resume from (default: auto, 256MiB)",
        parse_interval,
    ),
    "--source-copy": choice(
        ("auto", "store", "send"),
        "who makes the copy of the source (default: auto, the store where that can be proven)",
    ),
    "--resume": choice(
        ("auto", "full"),
        "full: read the source from its start, whatever checkpoints there are (default: auto)",
    ),
    "--connections": value("N", "concurrent requests per direction (default: 8)", int),
    "--timeout": value("TIME", "stop after this long without progress (default: 5m)", parse_duration),
    "--deadline": value("TIME", "time limit of the whole run (default: none)", parse_duration),
    "--retries": value("N", "retries per request (default: 8)", int),
    "--lease": value(
        "TIME",
        "take over from a run without a heartbeat for this long (default: 30s)",
        parse_duration,
    ),
    "--wait": _switch("wait for a live run that holds the destination, instead of exit 75"),
}
_RUNNING: Flags = {
    "--env-file": value("FILE", "settings (default: ./.env if there is one) [RIVA_ENV_FILE]", Path),
    "--state-dir": value("DIR", "default: ./state [RIVA_STATE_DIR]", Path),
    "--run-id": value("ID", "default: generated"),
    "--loop": choice(("auto", "asyncio", "uvloop"), "event loop", default="auto"),
}
_OUTPUT: Flags = {
    "--json": flag("the result as JSON"),
    "--quiet": flag("only the result and errors"),
    "--log-format": choice(
        ("auto", "pretty", "plain", "json"),
        "how progress is shown (default: auto, bars on a terminal and lines elsewhere)",
        default="auto",
    ),
    "--debug": flag("timing of each lane, and tracebacks [TRACE]"),
}
_LOG: Flags = {
    "--log-dir": value("DIR", "default: logs in the state directory [LOG_DIR]", Path),
    "--log-level": choice(
        ("debug", "info", "warning", "error"), "minimum level to log (default: info) [LOG_LEVEL]"
    ),
    "--log-file-format": choice(
        ("pretty", "json"), "lines of text, or of JSON (default: pretty) [LOG_FORMAT]"
    ),
    "--log-redact": value(
        "NAMES",
        "comma-separated names of variables and fields whose values are redacted; off: not even account ids (secrets always "
        "are) "
        "[LOG_REDACT]",
    ),
    "--log-to-s3": value(
        "S3_PREFIX",
        "put a copy below s3://bucket/prefix when the run is over [LOG_TO_S3, LOG_S3_BUCKET, LOG_S3_PREFIX]",
    ),
    "--keep-runs": value(
        "N",
        "runs whose logs and state folders are kept, besides those of the last day; or all (default: 50) "
        "[RIVA_STREAM_KEEP_RUNS]",
        parse_count,
    ),
}
_STAGE: dict[str, tuple[str, Flags]] = {
    "what to stage": ("", _WHAT),
    "source": (
        "",
        {
            "--source": value(
                "S3_URI",
                "the archive: s3://bucket/key, or a prefix ending in / or a glob that matches exactly one [RIVA_ASR_MODEL_S3_URI]",
            ),
            "--expect-sha256": value("HEX", "expected SHA-256 of the archive [RIVA_ASR_MODEL_SHA256]"),
            "--no-checksum": _switch(
                "compute the digests, but do not compare them with the expected SHA-256 [CHECKSUM_VALIDATION=false]"
            ),
            **_SOURCE_ENDPOINT,
        },
    ),
    "destination": (
        "s3://BUCKET/ENV/MODEL_NAME/MODEL_VERSION/",
        {
            "--bucket": value(None, "[NVIDIA_DRIVERS_S3_BUCKET]"),
            "--env": value(None, "prod, staging or dev [ENV]"),
            "--model-name": value("NAME", "[RIVA_ASR_MODEL_NAME]"),
            "--model-version": value("VERSION", "[MODEL_VERSION]"),
        },
    ),
    "S3": ("", {**_ENDPOINT, **_OBJECTS}),
    "limits": (
        "sizes like 64MiB, 1GiB or 67108864 (bytes); durations like 90 (seconds), 90s, 5m, 1h",
        _LIMITS,
    ),
    "archives": (
        "an archive beyond these is refused while it streams",
        {
            "--max-members": value("N", "entries in the archive (default: 100000)", int),
            "--max-models": value("N", "members that match --include (default: 1000)", int),
            "--max-header-bytes": value("SIZE", "extended headers of one member (default: 1MiB)", parse_size),
            "--max-expanded": value("SIZE", "expanded size of the archive (default: 5TiB)", parse_size),
            "--max-ratio": value(
                "N", "expanded bytes per archive byte, checked after 64 MiB (default: 100)", float
            ),
            "--max-streams": value("N", "gzip members or zstd frames (default: 4000000)", int),
            "--max-zstd-window": value(
                "SIZE", "window of a zstd archive; counts towards --memory (default: 32MiB)", parse_size
            ),
        },
    ),
}
_REQUEST = {
    "mode" if "dest" in options else flag[2:].replace("-", "_")
    for _, flags in _STAGE.values()
    for flag, options in flags.items()
}
"""Names in the parsed arguments that a request is made from; all others concern the command line alone."""


def _add_recorded(parser: ArgumentParser, groups: Mapping[str, tuple[str, Flags]]) -> None:
    for title, (text, flags) in groups.items():
        add(parser.add_argument_group(title, text or None), flags)
    _add_output(parser)
    add(parser.add_argument_group("log", "one file per run, DIR/RUN_ID.log"), _LOG)


def add_stage(parser: ArgumentParser) -> None:
    """Add all flags of ``stage``, in its order; ``check`` and ``policy`` accept its command lines unchanged."""
    _add_recorded(parser, _STAGE)


_PROMOTE: dict[str, tuple[str, Flags]] = {
    "where to": (
        "each of the first four replaces that part of the staging's own place",
        {
            "--env": value(None, "e.g. prod"),
            "--bucket": value(None, "another bucket"),
            "--model-name": value("NAME", "another name"),
            "--model-version": value("VERSION", "another version"),
            "--to": value(
                "S3_URI",
                "a place as a whole, s3://BUCKET/ENV/MODEL/VERSION/; may be repeated",
                action="append",
            ),
        },
    ),
    "how": (
        "",
        {
            "--deep": _switch("read every byte of the staging on the way, and compare its SHA-256"),
            "--retention-days": value("N", "recorded in artifact.json (default: as in the staging)", int),
            "--tag": _WHAT["--tag"],
            "--force": _switch("replace another staging at the place, once the new one is verified"),
            "--dry-run": _switch("check the staging, the places and rights, show the plan, write nothing"),
        },
    ),
    "source": ("how to reach the staging", _SOURCE_ENDPOINT),
    "S3": ("", {**_ENDPOINT, **_OBJECTS}),
    "limits": (
        "sizes like 64MiB, 1GiB or 67108864 (bytes); durations like 90 (seconds), 90s, 5m, 1h",
        {flag: text for flag, text in _LIMITS.items() if flag not in {"--checkpoint", "--resume"}},
    ),
}
_PROMOTED = {flag[2:].replace("-", "_") for title in ("how", "S3", "limits") for flag in _PROMOTE[title][1]}


def add_promote(parser: ArgumentParser) -> None:
    """Add all flags of ``promote``, in its order."""
    _add_recorded(parser, _PROMOTE)


def add_staging(parser: ArgumentParser) -> None:
    """Add the argument that names the staging to read."""
    text = "the staging (default: the one that the settings of stage name)"
    add(parser, {"prefix": value("s3://BUCKET/ENV/MODEL/VERSION/", text, nargs="?")})


def add_reading(parser: ArgumentParser, *, source: str = "") -> None:
    """Add the flags of a command that stages nothing; ``source`` says what those of the source are for."""
    add(parser.add_argument_group("S3"), _ENDPOINT)
    if source:
        add(parser.add_argument_group("source", source), _SOURCE_ENDPOINT)
    _add_output(parser)


def _add_output(parser: ArgumentParser) -> None:
    """Add the flags for settings, state and output."""
    add(parser.add_argument_group("running"), _RUNNING)
    add(parser.add_argument_group("output", "the result goes to stdout, everything else to stderr"), _OUTPUT)


# --- the meaning of the parsed flags


def request_flags(args: Namespace, run_id: str, file: EnvFile | None = None) -> dict[str, object]:
    """The flags that a request is made from, for every command that takes those of ``stage``."""
    flags: dict[str, object] = {name: getattr(args, name) for name in _REQUEST}
    flags |= {name: tuple(getattr(args, name) or ()) for name in ("include", "replicate_to")}
    return flags | {"state_dir": state_dir_of(args, file), "run_id": run_id}


def promote_flags(args: Namespace, run_id: str, file: EnvFile) -> dict[str, Any]:
    """The flags that a promotion is made from, except its places and the endpoints."""
    flags = {name: value for name in _PROMOTED if (value := getattr(args, name)) is not None}
    return flags | {"state_dir": state_dir_of(args, file), "run_id": run_id}


def state_dir_of(args: Namespace, file: EnvFile | None = None) -> Path:
    """The state directory: the flag, or else below :func:`root` the environment's, that of ``.env``, or ``state``."""
    if args.state_dir:
        return home_of(args.state_dir)
    return root() / home_of(Places(file or EnvFile()).text("RIVA_STATE_DIR") or "state")


def find_state_dir(args: Namespace) -> Path:
    """The same for a command that needs nothing else from ``.env``, which is read only if needed.

    Raises:
        ConfigurationError: a named file cannot be read.
    """
    decided = args.state_dir or Places().text("RIVA_STATE_DIR")
    return state_dir_of(args, None if decided else read_env_file(args.env_file))


def home_of(path: Path | str) -> Path:
    """``path`` with ``~`` expanded, where there is such a home."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib raises where there is none
