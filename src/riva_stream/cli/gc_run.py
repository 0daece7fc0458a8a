"""A run of ``gc``."""

from __future__ import annotations

from argparse import Namespace
from datetime import UTC
from functools import partial

from riva_stream.cli.command import Invocation
from riva_stream.cli.execute import Session, execute
from riva_stream.cli.loop import run
from riva_stream.cli.place import reach_of, store_of
from riva_stream.operations.uris import split
from riva_stream.report import CollectReport, Leftover
from riva_stream.state import new_run_id

__all__ = ["run_gc"]


def run_gc(args: Namespace, invocation: Invocation) -> int:
    """Collect, show the result, and give the exit code."""
    return execute(args, invocation, new_run_id(), _collect, _text)


def _collect(session: Session) -> CollectReport:
    args = session.args
    bucket, prefix = split(args.prefix, "s3://deployments/prod/")
    reach = reach_of(session)

    from riva_stream.pipeline.collect import collect  # noqa: PLC0415 - the AWS libraries come with it

    settings = store_of(reach)
    work = partial(
        collect,
        settings,
        bucket,
        prefix,
        older_than=args.older_than,
        lease=args.lease,
        apply=args.yes,
        observer=session.screen.observe,
    )
    return run(work, watch=session.watch, loop=args.loop, on_signal=session.on_signal)


def _text(report: CollectReport, fancy: bool) -> str:  # noqa: ARG001 - as execute() calls it
    lines = [
        f"{_word(leftover, report)}  {_since(leftover)}  {leftover.kind:10}  {leftover.key}"
        for leftover in report.found
    ]
    gone = sum(leftover.removed for leftover in report.found)
    due = sum(leftover.old and not leftover.held for leftover in report.found)
    if not report.found:
        lines.append(f"nothing is left below {report.prefix}")
    elif report.applied:
        lines.append(f"{gone} of {len(report.found)} removed below {report.prefix}")
    else:
        lines.append(
            f"{due} of {len(report.found)} would be removed below {report.prefix}; --yes removes them"
        )
    return "\n".join(lines) + "\n"


def _word(leftover: Leftover, report: CollectReport) -> str:
    if leftover.held:
        return "in use "
    if leftover.removed:
        return "removed"
    if not leftover.old:
        return "younger"
    return "failed " if report.applied else "due    "


def _since(leftover: Leftover) -> str:
    return f"{leftover.since.astimezone(UTC):%Y-%m-%d %H:%M}Z" if leftover.since else "unknown          "
