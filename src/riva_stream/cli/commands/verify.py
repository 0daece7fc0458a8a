"""``verify``: is what is staged still what was staged?"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from riva_stream.cli import options
from riva_stream.cli.command import Invocation
from riva_stream.cli.units import parse_size

NAME = "verify"
SUMMARY = "is what is staged still what was staged?"
USAGE = "[s3://BUCKET/ENV/MODEL/VERSION/] [flags]"
DESCRIPTION = """\
Compare everything that is staged below a prefix with what was staged: the marker, artifact.json, the manifest and
the checksum file against each other, every object's size, ETag, version, store checksum and run id against them, and
what lies beside it. With --deep also read every object whole, several at once and nothing of it to disk, and compare
SHA-256 and BLAKE3. A staging by reference is compared with the source that it points at. Nothing is written.

All differences are listed. Exit code 0: it is the same; 65: it is not; 66: nothing is staged there (the message says
what there is); 75: it was replaced meanwhile; 77: something may not be read.
"""
EXAMPLES = """\
  PROG verify s3://deployments/prod/parakeet-rnnt-en-us/v2025.09/
      seconds: no object is read
  PROG verify
      the staging that the settings of stage name, from the environment and .env
  PROG verify s3://deployments/prod/parakeet-rnnt-en-us/v2025.09/ --deep
      every byte is read
  PROG verify s3://deployments/prod/parakeet-rnnt-en-us/v2025.09/ --json | jq '.objects[] | select(.ok | not)'
      what differs, and in what
"""


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "prefix",
        nargs="?",
        metavar="s3://BUCKET/ENV/MODEL/VERSION/",
        help="the staging (default: the one that the settings of stage name)",
    )
    parser.add_argument("--deep", action="store_true", help="read every object and compare its digests")
    parser.add_argument(
        "--connections", type=int, default=8, metavar="N", help="with --deep, for each object (default: 8)"
    )
    parser.add_argument(
        "--memory",
        type=parse_size,
        default=256 << 20,
        metavar="SIZE",
        help="with --deep, of the whole process (default: 256MiB)",
    )
    options.add_reach(parser.add_argument_group("S3"))
    options.add_source_reach(parser.add_argument_group("source", "only asked for a staging by reference"))
    options.add_output(parser)


def run(args: Namespace, invocation: Invocation) -> int:
    """Verify and show the result."""
    from riva_stream.cli.verify_run import run_verify  # noqa: PLC0415 - all that is heavy comes with it

    return run_verify(args, invocation)
