"""``gc``: what dead runs left open."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from riva_stream.cli import options
from riva_stream.cli.command import Invocation
from riva_stream.cli.units import parse_duration

NAME = "gc"
SUMMARY = "list, and abort, what dead runs left open"
USAGE = "s3://BUCKET[/PREFIX] [flags]"
DESCRIPTION = """\
List the multipart uploads and journals that runs have left below a prefix. With --yes abort and delete those that
are older than --older-than. What a live run holds always stays. A run that merely stopped goes on from what it
left, so give it the time it may need before you collect it.
"""
EXAMPLES = """\
  PROG gc s3://deployments/prod/
      what there is, and what would go
  PROG gc s3://deployments --older-than 7d --yes
      whatever is a week old, in the whole bucket
"""


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("prefix", metavar="s3://BUCKET[/PREFIX]", help="where to look")
    parser.add_argument(
        "--older-than", type=parse_duration, default=86400.0, metavar="TIME", help="default: 1d"
    )
    parser.add_argument("--yes", action="store_true", help="abort and delete; else it is only listed")
    parser.add_argument(
        "--lease", type=parse_duration, default=30.0, metavar="TIME", help="to watch a journal (default: 30s)"
    )
    options.add_reach(parser.add_argument_group("S3"))
    options.add_output(parser)


def run(args: Namespace, invocation: Invocation) -> int:
    """Collect and show the result."""
    from riva_stream.cli.gc_run import run_gc  # noqa: PLC0415 - all that is heavy comes with it

    return run_gc(args, invocation)
