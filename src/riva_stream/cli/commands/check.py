"""``check``: would a run succeed?"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from riva_stream.cli import options
from riva_stream.cli.command import Invocation
from riva_stream.cli.units import parse_duration

NAME = "check"
SUMMARY = "try everything that a staging needs, and say how to mend what is missing"
USAGE = "[flags]"
DESCRIPTION = """\
Try what `stage` with the same flags would need: settings, credentials, regions, the source, every right at the
destination, the store's checksums and conditional writes, the place of the log's copy, the clock, memory, open files,
the disk of the state directory. It takes seconds, each check has a time limit, and whatever it writes it removes again.

Each line is pass, warn (a run goes on, with less) or FAIL, and what is not a pass says how to mend it. Where a right is
missing, the IAM policy that grants it is printed. GPU workers are not looked at: this step needs none.
"""
EXAMPLES = """\
  PROG check
      everything from the environment and .env
  PROG check --reference-only
      only what a staging by reference needs
  PROG check --json | jq -r '.records[] | select(.status == "fail") | .details.fix'
      what to do, for a program
"""


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--limit",
        type=parse_duration,
        default=10.0,
        metavar="TIME",
        help="that each check may take (default: 10s)",
    )
    options.add_stage(parser)


def run(args: Namespace, invocation: Invocation) -> int:
    """Check and show the result."""
    from riva_stream.cli.check_run import run_check  # noqa: PLC0415 - all that is heavy comes with it

    return run_check(args, invocation)
