"""``policy``: the least IAM policy."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from riva_stream.cli import options
from riva_stream.cli.command import Invocation

NAME = "policy"
SUMMARY = "print the least IAM policy that a staging needs"
USAGE = "[--format json|table] [flags]"
DESCRIPTION = """\
Print the IAM policy that grants `stage` with the same settings what it needs, and nothing else. Neither credentials nor
a network are needed. It is meant for the role or user that runs `stage`; a bucket of another account needs the same in
its bucket policy.
"""
EXAMPLES = """\
  PROG policy > policy.json
      for the settings in the environment and .env; docs/check.md says how to attach it
  PROG policy --scope env --with gc --with retention
      for every model of this environment, and for those commands too
  PROG policy --format table
      which request needs which right
"""


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--format",
        choices=("json", "table"),
        default="json",
        help="the policy (the default), or which request needs which right",
    )
    parser.add_argument(
        "--scope",
        choices=("version", "model", "env", "bucket"),
        default="version",
        help="how far it reaches at the destination (default: version, the least); settings beyond it may be missing",
    )
    parser.add_argument(
        "--with",
        dest="extras",
        action="append",
        choices=("gc", "tag", "retention"),
        help="also for: gc, tagged objects, lifecycle rules; may be repeated",
    )
    parser.add_argument(
        "--source-kms-key", metavar="KEY", help="that the source is encrypted with: id, ARN or alias/NAME"
    )
    options.add_stage(parser)


def run(args: Namespace, invocation: Invocation) -> int:
    """Print it."""
    from riva_stream.cli.policy_run import run_policy  # noqa: PLC0415 - pydantic is not for --help to load

    return run_policy(args, invocation)
