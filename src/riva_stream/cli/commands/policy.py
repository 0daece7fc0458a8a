"""``policy``: the minimal IAM policy. No event loop, no AWS libraries."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from riva_stream.cli import options
from riva_stream.cli.command import Help, Invocation
from riva_stream.cli.output import table_text, text_of
from riva_stream.cli.settings.env_file import EnvFile, read_env_file

if TYPE_CHECKING:
    from riva_stream.cli.session import Session
    from riva_stream.config import StageRequest
    from riva_stream.preflight.policy import PolicyDocument

HELP = Help(
    summary="print the least IAM policy that a staging needs",
    usage="[--format json|table] [flags]",
    description="""\
Print the IAM policy that grants `stage` with the same settings what it needs, and nothing else. Neither credentials nor
a network are needed. It is meant for the role or user that runs `stage`; a bucket of another account needs the same in
its bucket policy.
""",
    examples="""\
  PROG policy > policy.json
      for the settings in the environment and .env; docs/check.md says how to attach it
  PROG policy --scope env --with gc --with retention
      for every model of this environment, and for those commands too
  PROG policy --format table
      which request needs which right
""",
)

_NEEDED = {
    "version": ("env", "model_name", "model_version"),
    "model": ("env", "model_name"),
    "env": ("env",),
    "bucket": (),
}


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    options.add(
        parser,
        {
            "--format": options.choice(
                ("json", "table"),
                "the policy (the default), or which request needs which right",
                default="json",
            ),
            "--scope": options.choice(
                tuple(_NEEDED),
                "how much of the destination it covers (default: version, the least); settings below that level may be missing",
                default="version",
            ),
            "--with": options.choice(
                ("gc", "tag", "retention"),
                "also for: gc, tagged objects, lifecycle rules; may be repeated",
                dest="extras",
                action="append",
            ),
            "--source-kms-key": options.value("KEY", "KMS key of the source (id, ARN or alias/NAME)"),
        },
    )
    options.add_stage(parser)


_ANY_REGION = "us-east-1"
"""Only the partition of the ARNs depends on it, and this is the usual one."""


def run(args: Namespace, invocation: Invocation) -> int:
    """Print the policy, or the table."""
    from riva_stream.cli.logs import log_settings
    from riva_stream.cli.session import execute
    from riva_stream.preflight.policy import policy_of

    table: list[str] = []

    def work(_: Session) -> PolicyDocument:
        file = read_env_file(args.env_file)
        request = _request(args, file)
        target = log_settings(args, file).target
        extras = tuple(args.extras or ())
        if args.format == "table":
            table.append(_table(request, extras, log=target is not None))
        return policy_of(request, scope=args.scope, extras=extras, source_key=args.source_kms_key, log=target)

    def text(document: PolicyDocument, _: Session) -> str:
        return table[0] if table else document.model_dump_json(indent=2) + "\n"

    return execute(args, invocation, work, text, run_id=args.run_id or "")


def _request(args: Namespace, file: EnvFile) -> StageRequest:
    """The settings, as far as the scope needs them.

    Raises:
        SettingsError: a setting that it needs is missing or malformed.
    """
    from riva_stream.cli.settings.load import load
    from riva_stream.cli.settings.problems import SettingsError

    flags = options.request_flags(args, args.run_id or "", file)
    try:
        return load(flags, env_file=file).request
    except SettingsError as error:
        spare = dict.fromkeys({"env", "model_name", "model_version"} - {*_NEEDED[args.scope]}, "any")
        missing = {problem.setting for problem in error.problems if problem.code == "missing"}
        stand_ins = {
            name: text for name, text in (spare | {"region": _ANY_REGION}).items() if name in missing
        }
        if not stand_ins:
            raise
        return load(flags | stand_ins, env_file=file).request


def _table(request: StageRequest, extras: tuple[str, ...], *, log: bool) -> str:
    """Which request needs which right, for people."""
    from riva_stream.preflight.policy import uses_of

    rows = ((name, place, right) for name, right, place in uses_of(request, extras, log=log))
    return text_of(table_text([("request", "at the", "right"), *rows]))
