"""``ls``: what is staged in a bucket."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from riva_stream.cli import options
from riva_stream.cli.command import Invocation

NAME = "ls"
SUMMARY = "environments, models and versions staged in a bucket"
USAGE = "[s3://BUCKET[/ENV[/MODEL]]] [flags]"
DESCRIPTION = """\
List what is staged in a bucket, or below one environment or model of it, as a table. It is found by its place,
ENV/MODEL/VERSION, and told by its documents; other keys are passed over, and no object is listed one by one.
Bintarball references (bintarball/deployment-metadata/ENV/MODEL/VERSION) are listed with their environment.

A version is staged; in flight (its journal was written within its lease, by the store's clock); incomplete (a run
stopped or died before its marker; run it again, or collect it with gc); or damaged (verify says in what).
"""
EXAMPLES = """\
  PROG ls s3://deployments
  PROG ls s3://deployments/prod/parakeet-rnnt-en-us
  PROG ls
      the bucket that the settings of stage name
  PROG ls s3://deployments/bintarball/deployment-metadata
      bintarball references alone
  PROG ls s3://deployments --json | jq -r '.stagings[] | select(.state == "staged") | .destination'
"""


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "prefix",
        nargs="?",
        metavar="s3://BUCKET[/ENV[/MODEL]]",
        help="where to look (default: the bucket that the settings of stage name)",
    )
    options.add_reach(parser.add_argument_group("S3"))
    options.add_output(parser)


def run(args: Namespace, invocation: Invocation) -> int:
    """List and show the result."""
    from riva_stream.cli.ls_run import run_ls  # noqa: PLC0415 - all that is heavy comes with it

    return run_ls(args, invocation)
