"""A run of ``stage``: settings, the event loop, the report."""

from __future__ import annotations

from argparse import Namespace
from functools import partial

from riva_stream.cli.command import Invocation
from riva_stream.cli.execute import Session, execute, set_up_environment
from riva_stream.cli.log_lines import LogRenderer
from riva_stream.cli.log_settings import LogSettings
from riva_stream.cli.loop import run
from riva_stream.cli.options import request_flags
from riva_stream.cli.settings.env_file import read_env_file
from riva_stream.cli.settings.load import load
from riva_stream.cli.summary import summary_text
from riva_stream.config import is_run_id
from riva_stream.report import StageReport
from riva_stream.state import new_run_id

__all__ = ["run_stage"]


def run_stage(args: Namespace, invocation: Invocation) -> int:
    """Stage, show the result, and give the exit code."""

    def text(report: StageReport, fancy: bool) -> str:
        return summary_text(report, debug=args.debug, fancy=fancy)

    return execute(args, invocation, _run_id(args), _stage, text, recorded=True)


def _run_id(args: Namespace) -> str:
    """What the run's files are named by: one that may not be is refused with the settings, not made a path of."""
    return args.run_id if args.run_id and is_run_id(args.run_id) else new_run_id()


def _stage(session: Session) -> StageReport:
    args, record = session.args, session.record
    assert record is not None  # noqa: S101 - this command keeps one
    file = read_env_file(args.env_file)
    show_as_the_log(session, record.open(file))
    loaded = load(request_flags(args, args.run_id or session.run_id, file.values), env_file=file)
    record.request = loaded.request
    if loaded.trace:
        session.trace()
    set_up_environment(loaded.environment, loaded.request.profile, profile_flag=bool(args.profile))
    for warning in loaded.warnings:
        session.warn(warning)
    if not loaded.request.dry_run:
        record.begin()

    from riva_stream.operations.policy import granting  # noqa: PLC0415
    from riva_stream.pipeline import stage  # noqa: PLC0415 - the AWS libraries are for a request that is right

    with granting(loaded.request):
        report = run(
            partial(stage, loaded.request, observer=session.observe),
            watch=session.watch,
            loop=args.loop,
            on_signal=session.on_signal,
        )
    return report.model_copy(update={"warnings": [*session.warnings, *report.warnings]})


def show_as_the_log(session: Session, settings: LogSettings) -> None:
    """With LOG_TEE_STDOUT, standard error has the lines of the log, unless a flag wants something else."""
    if settings.tee and session.args.log_format == "auto" and not session.args.quiet:
        session.screen.use(
            LogRenderer(session.run_id, level=settings.level, form=settings.form, redactor=settings.redactor)
        )
