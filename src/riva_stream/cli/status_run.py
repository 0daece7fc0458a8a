"""A run of ``status``."""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from pathlib import Path

from riva_stream.cli.command import Invocation
from riva_stream.cli.execute import Session, execute
from riva_stream.cli.loop import run
from riva_stream.cli.options import state_dir_of
from riva_stream.cli.place import reach_of, staging_prefix, store_of
from riva_stream.cli.settings.env_file import EnvFile, read_env_file
from riva_stream.cli.settings.load import Endpoint
from riva_stream.cli.summary import MODES
from riva_stream.errors import ConfigurationError, HeldError, IntegrityError, SourceNotFoundError
from riva_stream.operations.reports import Holder, LastRun, StagedNow, StatusReport, UploadStatus
from riva_stream.sizes import human_size
from riva_stream.state import new_run_id

__all__ = ["run_status"]

_HEADS = {
    "staged": "Staged",
    "in_flight": "In flight",
    "resumable": "Resumable: a run began it and is gone",
    "absent": "Absent: nothing is staged here, and nobody is at it",
}


def run_status(args: Namespace, invocation: Invocation) -> int:
    """Look, show the result, and give the exit code."""

    def code(report: StatusReport) -> int:
        return _exit_code(report) if args.exit_code else 0

    return execute(args, invocation, args.run_id or new_run_id(), _look, _text, code)


def _look(session: Session) -> StatusReport:
    args = session.args
    file = read_env_file(args.env_file)
    last: LastRun | None = None
    place: str | None = args.place
    if place is not None and not place.startswith("s3://"):
        bucket, prefix, last, reach = _remembered(session, Path(place), file)
    else:
        try:
            reach = reach_of(session, env_file=file)
            bucket, prefix = staging_prefix(place, reach)
        except ConfigurationError:
            state = state_dir_of(args, file.values)
            if place is not None or not state.is_dir():
                raise
            bucket, prefix, last, reach = _remembered(session, state, file)

    from riva_stream.operations.status import status  # noqa: PLC0415 - the AWS libraries come with it

    settings = store_of(reach)
    work = partial(
        status,
        settings,
        bucket,
        prefix,
        wait=not args.no_wait,
        lease=args.lease,
        last_run=last,
        observer=session.screen.observe,
    )
    return run(work, watch=session.watch, loop=args.loop, on_signal=session.on_signal)


def _remembered(session: Session, state: Path, file: EnvFile) -> tuple[str, str, LastRun, Endpoint]:
    from riva_stream.operations.last_run import last_run_of  # noqa: PLC0415

    found = last_run_of(state)
    return found.bucket, found.prefix, found.run, reach_of(session, found.reach, env_file=file)


def _exit_code(report: StatusReport) -> int:
    if report.staged is not None:
        return IntegrityError.exit_code if report.staged.problem else 0
    return SourceNotFoundError.exit_code if report.run is None else HeldError.exit_code


def _text(report: StatusReport, fancy: bool) -> str:
    del fancy
    lines = [_head(report), "", report.destination]
    if report.staged is not None:
        lines += ["", "Staged", *_staged(report.staged)]
    if report.run is not None:
        title = "A run has begun to replace it" if report.staged else "Run"
        lines += ["", title, *_run(report.run)]
    if report.last_run is not None:
        last = report.last_run
        code = "" if last.exit_code is None else f", exit code {last.exit_code}"
        lines += [
            "",
            "Last run here",
            f"  {last.run_id}: {last.outcome or last.status}{code}",
            f"  {last.folder}",
        ]
    lines += ["", "Notes", *(f"  {note}" for note in report.notes)] if report.notes else []
    lines += ["", f"A rerun would {report.rerun}"]
    return "\n".join(lines) + "\n"


def _head(report: StatusReport) -> str:
    head = _HEADS[report.state]
    if report.state == "in_flight" and report.run is not None:
        alive = {True: ", alive", False: "", None: ", but whether it is alive is not known"}[report.run.alive]
        head += alive + ("" if report.run.percent is None else f", {report.run.percent:.0f} %")
    if report.staged is not None and report.staged.problem:
        head += f", but {report.staged.problem}"
    elif report.staged is not None and report.run is not None:
        alive = (
            "is being replaced"
            if report.run.state == "in_flight"
            else "a run that died would have replaced it"
        )
        head += f", and {alive}"
    return head


def _staged(staged: StagedNow) -> list[str]:
    size = "" if staged.source_size is None else f" ({human_size(staged.source_size)})"
    when = f" at {staged.staged_at:%Y-%m-%d %H:%M:%S}Z" if staged.staged_at else ""
    how = MODES[staged.mode] if staged.mode else "-"
    lines = [f"  {how}{when} by run {staged.run_id or 'unknown'}"]
    lines += [f"  from {staged.source}{size}"] if staged.source else []
    return [*lines, f"  {staged.models} models"] if staged.models else lines


def _run(holder: Holder) -> list[str]:
    lines = [f"  {holder.run_id or 'unknown'} on {holder.host or 'unknown'} (pid {holder.pid or 'unknown'})"]
    if holder.started_at is not None:
        beats = f", {holder.beats} heartbeats" if holder.beats is not None else ""
        last = f", the last at {holder.written_at:%H:%M:%S}Z" if holder.written_at else ""
        lines.append(f"  started at {holder.started_at:%Y-%m-%d %H:%M:%S}Z{beats}{last}")
    words = {True: "alive", False: "not alive", None: "alive or not: unknown"}
    lines.append(f"  {words[holder.alive]}: {holder.why}")
    if holder.source is not None:
        lines.append(f"  from {holder.source}")
    if holder.source_size:
        done, size = human_size(holder.source_bytes), human_size(holder.source_size)
        lines.append(f"  {done} of {size} acknowledged ({holder.percent:.0f} %)")
    return [*lines, *(_upload(upload) for upload in holder.uploads)]


def _upload(upload: UploadStatus) -> str:
    known = upload.stored_parts is not None and upload.stored_bytes is not None
    parts = upload.stored_parts if known else upload.journaled_parts
    size = human_size((upload.stored_bytes if known else upload.journaled_bytes) or 0)
    return f"    {upload.state:<9}  {parts} {'part' if parts == 1 else 'parts'}, {size}  {upload.key}"
