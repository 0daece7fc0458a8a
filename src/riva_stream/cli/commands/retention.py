"""``retention``: lifecycle rules for what is staged."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace

from riva_stream.cli import options
from riva_stream.cli.command import Invocation

NAME = "retention"
SUMMARY = "show, and print, the lifecycle rules for stagings"
USAGE = "s3://BUCKET [flags]"
DESCRIPTION = """\
Show the lifecycle rules of a bucket and what they would become: stagings expire, abandoned multipart uploads are
aborted. The result, on standard output, is all rules of the bucket, ours merged with those of others, as the document
that aws s3api put-bucket-lifecycle-configuration takes. Nothing is written.

Markers and documents expire after --days, archives and models --abort-days and one day later, so that no marker
outlives what it vouches for; on a store that is not AWS all expire after --days. Stagings of dev and staging expire
unless --env names others; those of prod only if --env prod is given. See also: PROG docs retention
"""
EXAMPLES = """\
  PROG retention s3://deployments
      the rules there, what they would become, and what they apply to now
  PROG retention s3://deployments --days 30 > lifecycle.json
  aws s3api put-bucket-lifecycle-configuration --bucket deployments --lifecycle-configuration file://lifecycle.json
      set them: dev and staging, 30 days
  PROG retention s3://deployments --env prod --days 365
      prod too; the rules for other environments stay
  PROG retention s3://deployments --remove
      without the rules for dev and staging
"""
_MOST = 36500


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("bucket", metavar="s3://BUCKET", help="whose rules")
    group = parser.add_argument_group("rules")
    group.add_argument(
        "--days",
        type=_days,
        default=90,
        metavar="N",
        help="age at which markers and documents expire (default: 90)",
    )
    group.add_argument(
        "--env",
        action="append",
        metavar="ENV",
        help="environment to set rules for; may be repeated (default: dev, staging; never prod)",
    )
    group.add_argument(
        "--abort-days",
        type=_days,
        default=7,
        metavar="N",
        help="age at which abandoned uploads are aborted; a run can be gone on with until then (default: 7)",
    )
    group.add_argument(
        "--noncurrent-days",
        type=_days,
        metavar="N",
        help="in a bucket with versions: remove the bytes so long after their expiry (default: never)",
    )
    group.add_argument(
        "--by-tag", action="store_true", help="only objects tagged retention-days=DAYS (stage --tag)"
    )
    group.add_argument("--remove", action="store_true", help="leave the rules for these environments out")
    options.add_reach(parser.add_argument_group("S3"))
    options.add_output(parser)


def run(args: Namespace, invocation: Invocation) -> int:
    """Compare, set, and show the result."""
    from riva_stream.cli.retention_run import run_retention  # noqa: PLC0415 - all that is heavy comes with it

    return run_retention(args, invocation)


def _days(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= _MOST:
        raise ArgumentTypeError(f"{text!r} is not a number of days: 1 to {_MOST}")
    return int(text)
