"""Where a run's log goes and how it looks: flags, then the environment, then ``.env``, as for all settings.

The names LOG_LEVEL, LOG_FORMAT and so on belong to many programs. What does not fit here is a warning, therefore, and
never ends a run.
"""

from __future__ import annotations

import os
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from riva_stream.cli.options import home_of, state_dir_of
from riva_stream.cli.redact import Redactor
from riva_stream.cli.units import ALL, parse_count
from riva_stream.events import Warned
from riva_stream.operations.log_place import LogPlace
from riva_stream.uris import split_uri

__all__ = ["LEVELS", "LogSettings", "log_settings"]

LEVELS = ("debug", "info", "warning", "error")
_ALIASES = {"trace": "debug", "warn": "warning", "critical": "error", "fatal": "error"}
_FORMATS = {"pretty": "pretty", "text": "pretty", "plain": "pretty", "json": "json", "jsonl": "json"}
_KEEP_RUNS = 50
_YES = {"1", "true", "yes", "on"}
_NO = {"0", "false", "no", "off", "none"}
_PREFIX = "riva-logs"


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The log of one run."""

    folder: Path
    level: str = "info"
    form: str = "pretty"
    keep_runs: int | None = _KEEP_RUNS
    """Runs whose logs and folders stay; None: those of all."""
    tee: bool = False
    """Its lines go to standard error as well, in place of bars."""
    target: LogPlace | None = None
    redactor: Redactor = field(default_factory=Redactor, repr=False)
    warnings: tuple[Warned, ...] = ()


def log_settings(args: Namespace, in_file: Mapping[str, str]) -> LogSettings:
    """Look up everything; ``in_file`` is what the ``.env`` holds."""
    warnings: list[Warned] = []

    def variable(name: str) -> str:
        return (os.environ.get(name) or in_file.get(name) or "").strip()

    def warn(message: str) -> None:
        warnings.append(Warned(code="log-settings", message=message))

    folder = args.log_dir or variable("LOG_DIR") or state_dir_of(args, in_file) / "logs"
    level = (args.log_level or variable("LOG_LEVEL") or "info").lower()
    level = _ALIASES.get(level, level)
    if level not in LEVELS:
        warn(f"LOG_LEVEL is none of {', '.join(LEVELS)}: info is taken")
        level = "info"
    form = (args.log_file_format or variable("LOG_FORMAT") or "pretty").lower()
    if form not in _FORMATS:
        warn("LOG_FORMAT is neither pretty nor json: pretty is taken")
    try:
        keep_runs = args.keep_runs or parse_count(variable("RIVA_STREAM_KEEP_RUNS") or str(_KEEP_RUNS))
    except ArgumentTypeError:
        warn("RIVA_STREAM_KEEP_RUNS is neither a number from 1 on nor 'all': all are kept")
        keep_runs = ALL
    return LogSettings(
        folder=home_of(folder),
        keep_runs=None if keep_runs == ALL else keep_runs,
        level=level,
        form=_FORMATS.get(form, "pretty"),
        tee=_switch(variable("LOG_TEE_STDOUT"), "LOG_TEE_STDOUT", warn),
        target=_target(args.log_to_s3, variable, warn),
        redactor=_redactor(args.log_redact or variable("LOG_REDACT"), variable),
        warnings=tuple(warnings),
    )


def _switch(value: str, name: str, warn: Callable[[str], None]) -> bool:
    if value and value.lower() not in _YES | _NO:
        warn(f"{name} is neither 1 nor 0: 0 is taken")
    return value.lower() in _YES


def _target(flag: str | None, variable: Callable[[str], str], warn: Callable[[str], None]) -> LogPlace | None:
    if flag:
        try:
            bucket, prefix = split_uri(flag)
        except ValueError as error:
            warn(f"--log-to-s3 is no s3://BUCKET/PREFIX, it {error}: the log stays here alone")
            return None
        return LogPlace(bucket, prefix.strip("/"))
    if not _switch(variable("LOG_TO_S3"), "LOG_TO_S3", warn):
        return None
    try:
        bucket, rest = split_uri(f"s3://{variable('LOG_S3_BUCKET').removeprefix('s3://').strip('/')}")
    except ValueError:
        bucket, rest = "", ""
    if not bucket or rest:
        warn("LOG_TO_S3 is set, but LOG_S3_BUCKET is no bucket: the log stays here alone")
        return None
    return LogPlace(bucket, (variable("LOG_S3_PREFIX") or _PREFIX).strip("/"))


def _redactor(wanted: str, variable: Callable[[str], str]) -> Redactor:
    if wanted.lower() in _NO:
        return Redactor(accounts=False)
    names = [] if wanted.lower() in _YES else [name.strip() for name in wanted.split(",")]
    return Redactor(names, [value for name in names if name and (value := variable(name))])
