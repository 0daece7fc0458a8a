"""A run of ``stage``: settings, the event loop, the report."""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from pathlib import Path

from riva_stream.cli.command import Invocation
from riva_stream.cli.execute import Session, execute, set_up_environment
from riva_stream.cli.loop import run
from riva_stream.cli.options import request_flags
from riva_stream.cli.summary import summary_text
from riva_stream.report import StageReport
from riva_stream.settings import load
from riva_stream.state import new_run_id

__all__ = ["run_stage"]


def run_stage(args: Namespace, invocation: Invocation) -> int:
    """Stage, show the result, and give the exit code."""

    def text(report: StageReport, fancy: bool) -> str:
        return summary_text(report, debug=args.debug, fancy=fancy)

    return execute(args, invocation, args.run_id or new_run_id(), _stage, text)


def _stage(session: Session) -> StageReport:
    args = session.args
    loaded = load(request_flags(args, session.run_id), env_file=args.env_file, state_dir=Path("state"))
    if loaded.trace:
        session.trace()
    set_up_environment(loaded.environment, loaded.request.profile, profile_flag=bool(args.profile))
    for warning in loaded.warnings:
        session.screen.observe(warning)

    from riva_stream.operations.policy import granting  # noqa: PLC0415
    from riva_stream.pipeline import stage  # noqa: PLC0415 - the AWS libraries are for a request that is right

    with granting(loaded.request):
        report = run(
            partial(stage, loaded.request, observer=session.screen.observe),
            watch=session.watch,
            loop=args.loop,
            on_signal=session.on_signal,
        )
    warnings = [warning.message for warning in loaded.warnings]
    return report.model_copy(update={"warnings": [*warnings, *report.warnings]})
