"""``status``: what stands at a prefix, and who is at it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from riva_stream.cli import options
from riva_stream.cli.command import Invocation
from riva_stream.cli.units import parse_duration

NAME = "status"
SUMMARY = "staged, in flight (how far?), resumable or absent"
USAGE = "[s3://BUCKET/PREFIX/ | STATE] [flags]"
DESCRIPTION = """\
Say what stands at a prefix: staged, in_flight (by whom, how far, alive?), resumable (what a rerun need not send
again) or absent. A journal that is found there is watched for up to its lease to tell a live run from a dead one;
a live one shows itself within a third of that. STATE is a state directory: its last run is looked up there, and then
the bucket. Nothing is written.

Exit code 0 whenever the state could be told. With --exit-code: 0 staged, 65 staged but not usable, 66 absent,
75 in flight or resumable.
"""
EXAMPLES = """\
  PROG status s3://deployments/prod/parakeet-rnnt-en-us/v2025.09/
  PROG status ./state
      the last run of a state directory
  PROG status
      the staging that the settings of stage name, else the last run in ./state
  PROG status s3://deployments/prod/parakeet-rnnt-en-us/v2025.09/ --json | jq -r .state
  until PROG status --quiet --exit-code; do sleep 60; done
      wait for another run
"""


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "place",
        nargs="?",
        metavar="s3://BUCKET/ENV/MODEL/VERSION/ | STATE",
        help="a staging or a state directory (default: the staging that the settings of stage name, else ./state)",
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--lease",
        type=parse_duration,
        metavar="TIME",
        help="watch a journal no longer (default: its own lease)",
    )
    group.add_argument(
        "--no-wait",
        action="store_true",
        help="do not watch: go by the store's clock and the journal's time stamp",
    )
    parser.add_argument(
        "--exit-code", action="store_true", help="0 only if it is staged; else 65, 66 or 75 as above"
    )
    options.add_reach(parser.add_argument_group("S3"))
    options.add_output(parser)


def run(args: Namespace, invocation: Invocation) -> int:
    """Look and show the result."""
    from riva_stream.cli.status_run import run_status  # noqa: PLC0415 - all that is heavy comes with it

    return run_status(args, invocation)
