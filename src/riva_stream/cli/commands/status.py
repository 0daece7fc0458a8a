"""``status``: what is at a prefix, and which run is in progress there."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import TYPE_CHECKING

from riva_stream.cli import options
from riva_stream.cli.command import Help
from riva_stream.cli.output import section, text_of
from riva_stream.cli.running import session_command
from riva_stream.cli.settings.env_file import read_env_file
from riva_stream.errors import ConfigurationError, HeldError, IntegrityError, SourceNotFoundError
from riva_stream.sizes import human_size

if TYPE_CHECKING:
    from riva_stream.cli.session import Session
    from riva_stream.inspection.reports import Holder, LastRun, StagedNow, StatusReport, UploadStatus

HELP = Help(
    summary="staged, in flight (how far?), resumable or absent",
    usage="[s3://BUCKET/PREFIX/ | STATE] [flags]",
    description="""\
Report what is at a prefix: staged, in_flight (by whom, how far, alive?), resumable (what a rerun need not send
again) or absent. A journal that is found there is watched for up to its lease to tell a live run from a dead one;
a live one shows itself within a third of that. STATE is a state directory: its last run is looked up there, and then
the bucket. Nothing is written.

Exit code 0 whenever the state could be determined; 66 for a place that cannot be a staging. With --exit-code: 0 staged,
65 staged but not usable, 66 absent, 75 in flight or resumable.
""",
    examples="""\
  PROG status s3://deployments/prod/parakeet-rnnt-en-us/v2025.09/
  PROG status ./state
      the last run of a state directory
  PROG status
      the staging that the settings of stage name, else the last run in ./state
  PROG status s3://deployments/prod/parakeet-rnnt-en-us/v2025.09/ --json | jq -r .state
  until PROG status --quiet --exit-code; do sleep 60; done
      wait for another run
""",
)


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    text = (
        "a staging or a state directory (default: the staging that the settings of stage name, else ./state)"
    )
    place = options.value("s3://BUCKET/ENV/MODEL/VERSION/ | STATE", text, nargs="?")
    watching: options.Flags = {
        "--lease": options.value(
            "TIME", "how long to watch a journal at most (default: its own lease)", options.parse_duration
        ),
        "--no-wait": options.flag("do not watch: go by the store's clock and the journal's time stamp"),
    }
    options.add(parser, {"place": place})
    options.add(parser.add_mutually_exclusive_group(), watching)
    options.add(parser, {"--exit-code": options.flag("0 only if it is staged; else 65, 66 or 75 as above")})
    options.add_reading(parser)


_HEADS = {
    "staged": "Staged",
    "in_flight": "In flight",
    "resumable": "Resumable: the run that began it has ended",
    "absent": "Absent: nothing staged, no run in progress",
}


def _look(session: Session) -> StatusReport:
    from riva_stream.inspection.last_run import last_run_of
    from riva_stream.inspection.status import status

    args = session.args
    file = read_env_file(args.env_file)
    last: LastRun | None = None
    state = Path(args.place) if args.place is not None and not args.place.startswith("s3://") else None
    if state is None:
        try:
            endpoint = session.endpoint(env_file=file)
            bucket, prefix = endpoint.staging(args.place)
        except ConfigurationError:
            state = options.state_dir_of(args, file)
            if args.place is not None or not state.is_dir():
                raise
    if state is not None:
        found = last_run_of(state)
        bucket, prefix, last = found.bucket, found.prefix, found.run
        endpoint = session.endpoint(found.endpoint, env_file=file)

    return session.run(
        status,
        endpoint.store(),
        bucket,
        prefix,
        wait=not args.no_wait,
        lease=args.lease,
        last_run=last,
        observer=session.observe,
    )


def _exit_code(report: StatusReport, session: Session) -> int:
    if not session.args.exit_code:
        return 0
    if report.staged is not None:
        return IntegrityError.exit_code if report.staged.problem else 0
    return SourceNotFoundError.exit_code if report.run is None else HeldError.exit_code


def _text(report: StatusReport, _: Session) -> str:
    lines = [_head(report), "", report.destination]
    if report.staged is not None:
        lines += ["", "Staged", *_staged(report.staged)]
    if report.run is not None:
        lines += ["", "A run has begun to replace it" if report.staged else "Run", *_run(report.run)]
    if report.last_run is not None:
        last = report.last_run
        code = "" if last.exit_code is None else f", exit code {last.exit_code}"
        lines += section(
            "Last run here",
            (
                f"{last.run_id}: {last.outcome or last.status}{code}",
                last.folder,
                *(
                    []
                    if last.destination
                    else ["it did not know where to stage to: the above is of an earlier run"]
                ),
            ),
        )
    lines += section("Notes", (note.message for note in report.notes))
    lines += ["", f"A rerun would {report.rerun.message}."]
    return text_of(lines)


def _head(report: StatusReport) -> str:
    head = _HEADS[report.state]
    if report.state == "in_flight" and report.run is not None:
        alive = {True: ", alive", False: "", None: ", but whether it is alive is not known"}[report.run.alive]
        head += alive + ("" if report.run.percent is None else f", {report.run.percent:.0f} %")
    if report.staged is not None and report.staged.problem:
        head += f", but {report.staged.problem}"
    elif report.staged is not None and report.run is not None:
        alive = (
            "is being replaced" if report.run.state == "in_flight" else "an interrupted run was replacing it"
        )
        head += f", and {alive}"
    return head


def _staged(staged: StagedNow) -> list[str]:
    size = "" if staged.source_size is None else f" ({human_size(staged.source_size)})"
    when = f" at {staged.staged_at:%Y-%m-%d %H:%M:%S}Z" if staged.staged_at else ""
    how = options.MODES[staged.mode] if staged.mode else "-"
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


run = session_command(_look, _text, _exit_code)
