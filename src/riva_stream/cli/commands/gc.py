"""``gc``: what dead runs left open."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import UTC
from typing import TYPE_CHECKING

from riva_stream.cli import options
from riva_stream.cli.command import Help
from riva_stream.cli.output import text_of
from riva_stream.cli.running import session_command

if TYPE_CHECKING:
    from riva_stream.cli.session import Session
    from riva_stream.report import CollectReport, Leftover

HELP = Help(
    summary="list, and abort, what dead runs left open",
    usage="s3://BUCKET[/PREFIX] [flags]",
    description="""\
List the multipart uploads and journals that runs have left below a prefix. With --yes abort and delete those that
are older than --older-than. Everything that a live run holds always stays. A run that merely stopped is resumed from
what it left, so leave it time to be resumed before you collect it.
""",
    examples="""\
  PROG gc s3://deployments/prod/
      what there is, and what would be removed
  PROG gc s3://deployments --older-than 7d --yes
      everything that is a week old, in the whole bucket
""",
)


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    options.add(
        parser,
        {
            "prefix": options.value("s3://BUCKET[/PREFIX]", "where to look"),
            "--older-than": options.value(
                "TIME", "minimum age for removal (default: 1d)", options.parse_duration, default=86400.0
            ),
            "--yes": options.flag("abort and delete; without it, only list"),
            "--lease": options.value(
                "TIME",
                "how long to watch a journal for a heartbeat (default: 30s)",
                options.parse_duration,
                default=30.0,
            ),
        },
    )
    options.add_reading(parser)


def _collect(session: Session) -> CollectReport:
    from riva_stream.inspection.gc import collect
    from riva_stream.inspection.uris import split_prefix

    args = session.args
    bucket, prefix = split_prefix(args.prefix)
    return session.run(
        collect,
        session.endpoint().store(),
        bucket,
        prefix,
        older_than=args.older_than,
        lease=args.lease,
        apply=args.yes,
        observer=session.observe,
    )


def _text(report: CollectReport, _: Session) -> str:
    lines = [
        f"{_word(leftover, report)}  {_since(leftover)}  {leftover.kind:10}  {leftover.key}"
        for leftover in report.found
    ]
    gone = sum(leftover.removed for leftover in report.found)
    due = sum(leftover.old and not leftover.held for leftover in report.found)
    total = len(report.found)
    if total and report.applied:
        lines.append(f"{gone} of {total} removed below {report.prefix}")
    elif total:
        lines.append(f"{due} of {total} would be removed below {report.prefix}; --yes removes them")
    elif not report.unseen:
        lines.append(f"nothing is left below {report.prefix}")
    if report.unseen:
        count = len(report.unseen)
        lines.append(
            f"{count} {'place' if count == 1 else 'places'} could not be inspected: {report.unseen[0]}"
            f"{' and others' if count > 1 else ''}"
        )
    if report.error is not None and report.error.hint:
        lines.append(f"next: {report.error.hint}")
    return text_of(lines)


def _word(leftover: Leftover, report: CollectReport) -> str:
    words = {
        "in use ": leftover.held,
        "removed": leftover.removed,
        "younger": not leftover.old,
        "failed ": report.applied,
    }
    return next((word for word, holds in words.items() if holds), "due    ")


def _since(leftover: Leftover) -> str:
    return f"{leftover.since.astimezone(UTC):%Y-%m-%d %H:%M}Z" if leftover.since else "unknown          "


run = session_command(_collect, _text)
