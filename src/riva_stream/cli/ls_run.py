"""A run of ``ls``."""

from __future__ import annotations

from argparse import Namespace
from functools import partial

from riva_stream.cli.command import Invocation
from riva_stream.cli.execute import Session, execute
from riva_stream.cli.loop import run
from riva_stream.cli.place import reach_of, store_of
from riva_stream.errors import ConfigurationError
from riva_stream.layout import DEPLOYMENTS
from riva_stream.operations.reports import ListedStaging, ListReport
from riva_stream.operations.uris import split
from riva_stream.sizes import human_size
from riva_stream.state import new_run_id

__all__ = ["run_ls"]

_HEAD = ("ENV", "MODEL", "VERSION", "STATE", "MODE", "SIZE", "MODELS", "STAGED AT", "RUN")
_RIGHT = {"SIZE", "MODELS"}
_MOST_SEGMENTS = 3
_MODES = {"full": "full", "reference_only": "reference", "bintarball_reference": "bintarball"}


def run_ls(args: Namespace, invocation: Invocation) -> int:
    """List, show the result, and give the exit code."""
    return execute(args, invocation, args.run_id or new_run_id(), _list, _text)


def _list(session: Session) -> ListReport:
    args = session.args
    reach = reach_of(session)
    example = "s3://deployments"
    place = args.prefix or (f"s3://{reach.bucket}" if reach.bucket else None)
    if place is None:
        raise ConfigurationError(
            "no bucket is named, and the settings of stage do not name one either",
            hint=f"for example: {example}; or set NVIDIA_DRIVERS_S3_BUCKET",
        )
    bucket, key = split(place, example)
    segments = [segment for segment in key.split("/") if segment]
    prefix = "".join(f"{segment}/" for segment in segments)
    if prefix.removeprefix(DEPLOYMENTS).count("/") > _MOST_SEGMENTS:
        raise ConfigurationError(
            f"{place} is deeper than a staging, which lies at ENV/MODEL/VERSION",
            hint=f"for example: s3://{bucket}/{'/'.join(segments[:2])}",
        )

    from riva_stream.operations.ls import list_stagings  # noqa: PLC0415 - the AWS libraries come with it

    settings = store_of(reach)
    work = partial(list_stagings, settings, bucket, prefix, observer=session.screen.observe)
    return run(work, watch=session.watch, loop=args.loop, on_signal=session.on_signal)


def _text(report: ListReport, fancy: bool) -> str:
    del fancy
    more = [f"note: {note}" for note in report.notes]
    if not report.stagings:
        return "\n".join([f"nothing is staged below {report.place}", *more]) + "\n"
    table = [_HEAD, *(_row(staging) for staging in report.stagings)]
    widths = [max(len(row[column]) for row in table) for column in range(len(_HEAD))]
    lines = [
        "  ".join(
            cell.rjust(width) if name in _RIGHT else cell.ljust(width)
            for cell, width, name in zip(row, widths, _HEAD, strict=True)
        ).rstrip()
        for row in table
    ]
    notes = [f"  {s.destination}: {s.note}" for s in report.stagings if s.note]
    lines += ["", "Notes", *notes] if notes else []
    staged = sum(staging.state == "staged" for staging in report.stagings)
    lines += ["", f"{staged} staged, {len(report.stagings) - staged} not, below {report.place}", *more]
    return "\n".join(lines) + "\n"


def _row(staging: ListedStaging) -> tuple[str, ...]:
    return (
        staging.env,
        staging.model,
        staging.version,
        staging.state.replace("_", " ") + (", restaging" if staging.restaged_by else ""),
        _MODES[staging.mode] if staging.mode else "-",
        "-" if staging.size_bytes is None else human_size(staging.size_bytes),
        "-" if staging.models is None else str(staging.models),
        f"{staging.staged_at:%Y-%m-%d %H:%M}Z" if staging.staged_at else "-",
        staging.run_id or "-",
    )
