"""``next``: what the next step of the pipeline needs to know."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from riva_stream.cli import options
from riva_stream.cli.command import Help, Invocation
from riva_stream.cli.output import json_text, print_result, refuse
from riva_stream.errors import ConfigurationError

if TYPE_CHECKING:
    from riva_stream.handover import Handover

HELP = Help(
    summary="what the next step needs to know, for a shell",
    usage="[flags]",
    description="""\
Print what the last staging left for riva-131 as lines that a shell can evaluate, or with --json as one document. It
reads the state directory only, no S3. A variable that the staging has no value for is exported empty.

It ends with 0 only if the last run there succeeded. After a failed run it ends with that run's exit code, after an
interrupted one, or while one is under way, with 75; with 66 where nothing was ever staged.
""",
    examples="""\
  vars=$(PROG next) && eval "$vars" && aws s3 sync "$S3_STAGING_URI/" model/
      assigned first: the exit code of a command inside eval would be lost
  PROG next --json | jq -r .s3_staging_uri
  PROG next --state-dir /var/lib/riva/state
""",
)

_OF_THE_ARTIFACT = {
    "RIVA_ASR_MODEL_NAME": ("model", "name"),
    "MODEL_VERSION": ("model", "version"),
    "RIVA_ASR_LANG_CODE": ("model", "language_code"),
    "ENV": ("deployment", "environment"),
    "NVIDIA_DRIVERS_S3_BUCKET": ("deployment", "s3_bucket"),
    "STAGING_MODE": ("deployment", "staging_mode"),
    "STAGING_RUN_ID": ("build_info", "run_id"),
}
_NEEDED = ("s3_staging_uri", "upload_timestamp", "source_model_s3_uri", "source_model_size")
_OF_AN_IMAGE = ("container_s3_uri", "bintarball_manifest")
_NEEDED_BY = {
    "full": ("artifact_metadata", "checksum_file", "primary_riva_file"),
    "reference_only": ("artifact_metadata",),
    "bintarball_reference": _OF_AN_IMAGE,
}
"""By mode, what is needed besides."""
_INTERRUPTED = {128 + number for number in (1, 2, 10, 12, 15, 24)}
"""Exit codes after SIGHUP, SIGINT, SIGUSR1, SIGUSR2, SIGTERM, SIGXCPU."""
_MISSING, _INCONSISTENT, _AGAIN, _UNREADABLE = 66, 65, 75, 78
_Problem = tuple[str, str, str, int]
"""Why there is no staging for the next step: code, message, hint, exit code."""


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    options.add(
        parser,
        {
            "--env-file": options.value(
                "FILE",
                "settings, of which only RIVA_STATE_DIR counts here (default: ./.env if there is one) [RIVA_ENV_FILE]",
                Path,
            ),
            "--state-dir": options.value(
                "DIR", "state directory of the staging (default: ./state) [RIVA_STATE_DIR]", Path
            ),
            "--json": options.flag("one JSON document"),
        },
    )


def run(args: Namespace, invocation: Invocation) -> int:
    """Print the variables, or the document."""
    from riva_stream.handover import read

    try:
        folder = options.find_state_dir(args)
    except ConfigurationError as error:
        return _refuse(args, ("unreadable", error.what, error.hint, _UNREADABLE))
    try:
        handover = read(folder)
    except OSError as error:
        message = f"the state directory {folder} cannot be read: {error.strerror or error}"
        return _refuse(
            args,
            ("unreadable", message, "pass --state-dir DIR with a folder you may read", _UNREADABLE),
        )
    problem = _judge(handover, invocation)
    if problem is not None:
        return _refuse(args, problem, handover.record.get("run_id"))
    environment = _environment(handover)
    if args.json:
        return print_result(json_text(_document(handover, environment)))
    return print_result(
        "".join(f"export {name}={quote(value)}\n" for name, value in environment.items()), for_a_shell=True
    )


def _judge(handover: Handover, invocation: Invocation) -> _Problem | None:
    from riva_stream.handover import STATUS, code_of

    folder, record, status = handover.folder, handover.record, handover.status
    where = "" if folder == Path("state") else f" --state-dir {quote(str(folder))}"
    again = str(record.get("command") or f"{invocation.prog} stage{where}")
    run_id = status.get("run_id") or record.get("run_id") or "unknown"
    if not status and record:
        return (
            "running",
            f"run {run_id} began at {record.get('timestamp')} and has not ended: it is under way, or was killed"
            if record.get("status") == "running"
            else f"a run after run {run_id} was killed, or could not write how it ended",
            f"wait until it is done, or run it again, which is always safe:\n{again}",
            _AGAIN,
        )
    if not status:
        return (
            "nothing_staged",
            f"nothing has been staged yet with the state directory {folder}",
            f"stage first:\n{again}",
            _MISSING,
        )
    if status.get("status") not in {"success", "failure"}:
        return (
            "unreadable",
            f"{folder / STATUS} cannot be understood: it says neither success nor failure",
            f"run the staging again, which rewrites it:\n{again}",
            _UNREADABLE,
        )
    if status.get("status") == "failure":
        ended_with = code_of(status.get("exit_code", ""))
        code = _AGAIN if ended_with is None else ended_with
        log = f"; its log: {status['log']}" if status.get("log") else ""
        return (
            "failed",
            f"the last staging, run {run_id} at {status.get('timestamp')}, failed with exit code {code}{log}",
            f"read what it said, and run it again:\n{again}"
            if code in _INTERRUPTED or code in {0, _AGAIN}
            else f"see in its log what to fix first; the command was:\n{again}",
            _AGAIN if code in _INTERRUPTED or not code else code,
        )
    missing = _missing(handover)
    if not _described(handover):
        missing.append(
            "the run's report.json"
            if handover.values.get("bintarball_manifest")
            else "last_artifact_metadata.json"
        )
    if missing:
        return (
            "inconsistent",
            f"the state directory {folder} records a success, but lacks {', '.join(missing)}",
            f"run the staging again: it finds that everything is there, and rewrites the state:\n{again}",
            _INCONSISTENT,
        )
    return None


def _missing(handover: Handover) -> list[str]:
    """The values that the staging must have, and the directory does not; of a copy, the file."""
    values = _values(handover)
    mode = str(_part(_described(handover), "deployment").get("staging_mode"))
    needed = {*_NEEDED, *_NEEDED_BY.get(mode, ())}
    if handover.report.get("deployment") or any(values[name] for name in _OF_AN_IMAGE):
        needed |= {*_OF_AN_IMAGE}
    return [name for name, value in values.items() if name in needed and not value]


def _refuse(args: Namespace, problem: _Problem, run_id: object = None) -> int:
    return refuse("NoStaging", *problem, as_json=args.json, run_id=run_id)


def _values(handover: Handover) -> dict[str, str]:
    """The values, with local copies at their current place: the directory may be mounted elsewhere, or be a copy."""
    from riva_stream.handover import COPIES, VALUES

    values = {name: handover.values.get(name, "") for name in VALUES}
    return values | {
        name: str(handover.copies[name].absolute()) if name in handover.copies else "" for name in COPIES
    }


def _described(handover: Handover) -> Mapping[str, Any]:
    """``artifact.json``; for a bintarball reference, which has none, ``deployment.json`` with its mode added."""
    deployment = _part(handover.report, "deployment")
    if handover.artifact or not deployment:
        return handover.artifact
    own = _part(deployment, "deployment") | {"staging_mode": deployment.get("deployment_type")}
    return deployment | {"deployment": own}


def _part(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A table in a document whose structure has not been validated."""
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def _environment(handover: Handover) -> dict[str, str]:
    described = _described(handover)
    return {name.upper(): value for name, value in _values(handover).items()} | {
        name: str(_part(described, part).get(key) or "") for name, (part, key) in _OF_THE_ARTIFACT.items()
    }


def _document(handover: Handover, environment: Mapping[str, str]) -> dict[str, object]:
    return {
        "run_id": handover.status.get("run_id"),
        "timestamp": handover.status.get("timestamp"),
        "state_dir": str(handover.folder.absolute()),
        "log_file": handover.status.get("log"),
        **{name: value or None for name, value in _values(handover).items()},
        "environment": dict(environment),
    }
