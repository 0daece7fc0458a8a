"""A run of ``policy``: no event loop, no AWS libraries."""

from __future__ import annotations

from argparse import Namespace

from riva_stream.cli.command import Invocation
from riva_stream.cli.execute import Session, execute
from riva_stream.cli.log_settings import log_settings
from riva_stream.cli.options import request_flags
from riva_stream.cli.settings.env_file import EnvFile, read_env_file
from riva_stream.cli.settings.load import load
from riva_stream.cli.settings.problems import SettingsError
from riva_stream.config import StageRequest
from riva_stream.operations.grants import PolicyDocument
from riva_stream.operations.policy import policy_of, uses_of

__all__ = ["run_policy"]

_NEEDED = {
    "version": ("env", "model_name", "model_version"),
    "model": ("env", "model_name"),
    "env": ("env",),
    "bucket": (),
}
_ANY_REGION = "us-east-1"
"""Only the partition of the ARNs depends on it, and this is the usual one."""


def run_policy(args: Namespace, invocation: Invocation) -> int:
    """Print the policy, and give the exit code."""
    found: list[str] = []

    def work(_: Session) -> PolicyDocument:
        file = read_env_file(args.env_file)
        request = _request(args, file)
        target = log_settings(args, file.values).target
        if args.format == "table":
            found.append(_table(request, tuple(args.extras or ()), log=target is not None))
        return policy_of(
            request,
            scope=args.scope,
            extras=args.extras or (),
            source_key=args.source_kms_key,
            log=target,
        )

    def text(document: PolicyDocument, fancy: bool) -> str:  # noqa: ARG001 - as execute() calls it
        return found[0] if found else document.model_dump_json(indent=2) + "\n"

    return execute(args, invocation, args.run_id or "", work, text)


def _request(args: Namespace, file: EnvFile) -> StageRequest:
    """The settings, as far as the scope needs them.

    Raises:
        SettingsError: one that it needs is missing or malformed.
    """
    flags = request_flags(args, args.run_id or "", file.values)
    try:
        return load(flags, env_file=file).request
    except SettingsError as error:
        missing = {problem.setting for problem in error.problems if not problem.found_in}
        spare = {"env", "model_name", "model_version"} - set(_NEEDED[args.scope])
        stand_ins = dict.fromkeys(missing & spare, "any") | (
            {"region": _ANY_REGION} if "region" in missing else {}
        )
        if not stand_ins:
            raise
        return load(flags | stand_ins, env_file=file).request


def _table(request: StageRequest, extras: tuple[str, ...], *, log: bool) -> str:
    """Which request needs which right, for a person."""
    rows = [
        ("request", "at the", "right"),
        *((name, place, right) for name, right, place in uses_of(request, extras, log=log)),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]}" for row in rows]
    return "\n".join(lines) + "\n"
