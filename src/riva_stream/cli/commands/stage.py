"""``stage``: the main job."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from riva_stream.cli import options
from riva_stream.cli.command import Invocation

NAME = "stage"
SUMMARY = "stage a model archive: verify, unpack, upload, commit"
USAGE = "[flags]"
DESCRIPTION = """\
Read a .tar.gz of .riva models from S3 once, and leave a verified staging in S3: the archive, its models, their
checksums and metadata, and last of all staging_complete.txt. Nothing of it touches the local disk. Running the
same command again is always safe: it continues, or says that everything is there.

Every setting comes from its flag, else from the environment, else from .env; [NAME] is its variable.
"""
EXAMPLES = """\
  PROG stage
      everything from the environment and .env
  PROG stage --reference-only
      seconds: the archive stays where it is
  PROG stage --source s3://models/parakeet_v8.1.tar.gz --bucket deployments --env prod \\
      --model-name parakeet-rnnt-en-us --model-version v2025.09 --region us-east-2
  PROG stage --dry-run --json | jq .plan
      what would be written, and whether it may be
"""


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    options.add_stage(parser)


def run(args: Namespace, invocation: Invocation) -> int:
    """Stage it and show the result."""
    from riva_stream.cli.stage_run import run_stage  # noqa: PLC0415 - all that is heavy comes with it

    return run_stage(args, invocation)
