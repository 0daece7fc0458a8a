"""``check``: would a run succeed?"""

from __future__ import annotations

import json
import textwrap
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from riva_stream.cli import options
from riva_stream.cli.command import Help, Invocation
from riva_stream.cli.output import labelled, text_of
from riva_stream.cli.running import session_command
from riva_stream.cli.settings.env_file import read_env_file
from riva_stream.errors import ConfigurationError

if TYPE_CHECKING:
    from riva_stream.cli.session import Session
    from riva_stream.events import Warned
    from riva_stream.preflight.report import CheckRecord, CheckReport

HELP = Help(
    summary="try everything that a staging needs, and say how to fix what is missing",
    usage="[flags]",
    description="""\
Try what `stage` with the same flags would need: settings, credentials, regions, the source, every right at the
destination, the store's checksums and conditional writes, the place of the log's copy, the clock, memory, open files,
the disk of the state directory. It takes seconds, each check has a time limit, and everything it writes is removed again.

Each line is pass, warn (a run would work, with less) or FAIL, and each one that is not a pass says how to fix it.
Where a right is missing, the IAM policy that grants it is printed. GPU workers are not checked: this step needs none.
""",
    examples="""\
  PROG check
      everything from the environment and .env
  PROG check --reference-only
      only what a staging by reference needs
  PROG check --json | jq -r '.records[] | select(.status == "fail") | .details.fix'
      what to do, for a program
""",
)


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    options.add(
        parser,
        {
            "--limit": options.value(
                "TIME", "time limit per check (default: 10s)", options.parse_duration, default=10.0
            )
        },
    )
    options.add_stage(parser)


_WORDS = {"pass": "pass", "warn": "warn", "fail": "FAIL"}


def _check(session: Session) -> CheckReport:
    from riva_stream.cli.logs import log_settings
    from riva_stream.cli.settings.load import load
    from riva_stream.preflight.check import check, check_host

    args = session.args
    state_dir = options.state_dir_of(args)
    try:
        file = read_env_file(args.env_file)
        state_dir = options.state_dir_of(args, file)
        logs = log_settings(args, file)
        loaded = load(options.request_flags(args, session.run_id, file), env_file=file)
    except ConfigurationError as error:
        return session.run(check_host, _wrong(error), state_dir=state_dir, run_id=session.run_id)
    session.adopt_environment(loaded.environment, loaded.request.profile)
    settled = _right(loaded.env_file, [*logs.warnings, *loaded.warnings])
    return session.run(
        check, loaded.request, settled, run_id=session.run_id, limit=args.limit, log=logs.target
    )


def _right(env_file: Path | None, warnings: list[Warned]) -> CheckRecord:
    from riva_stream.preflight.report import passed, warned

    file = f" and {env_file}" if env_file else ""
    facts: dict[str, Any] = {"env_file": str(env_file) if env_file else None}
    if warnings:
        facts["warnings"] = [asdict(warning) for warning in warnings]
        return warned("settings", "; ".join(warning.message for warning in warnings), **facts)
    return passed("settings", f"complete, from flags, the environment{file}", **facts)


def _wrong(error: ConfigurationError) -> CheckRecord:
    from riva_stream.preflight.report import failed

    return failed(
        "settings",
        "; ".join([error.what, *error.ignored]),
        fix=error.hint,
        problems=[asdict(problem) for problem in getattr(error, "problems", ())],
    )


def _record_lines(record: CheckRecord, width: int, invocation: Invocation) -> Iterator[str]:
    first, *more = record.message.split("\n")
    yield f"{_WORDS[record.status]}  {record.component:{width}}  {first}"
    start = " " * (width + 8)
    for problem in record.details.get("problems", ()):
        names = " or ".join(filter(None, (problem["flag"], problem["variable"])))
        more.append(f"{names} {problem['wrong']}, for example: {problem['flag']} {problem['example']}")
    yield from (start + line.strip() for line in more)
    fix = "" if record.status == "pass" else invocation.with_program_name(record.details.get("fix", ""))
    yield from labelled(f"{start}fix: ", fix.split("\n") if fix else ())


def _lines(report: CheckReport, invocation: Invocation) -> Iterator[str]:
    from riva_stream.preflight.report import NOT_TRIED

    if report.destination and report.mode:
        yield f"Check of a staging ({options.MODES[report.mode]})"
        yield from (f"from  {report.source}", f"to    {report.destination}", "")
    tried = [record for record in report.records if record.code != NOT_TRIED]
    width = max(len(record.component) for record in report.records)
    yield from (line for record in tried for line in _record_lines(record, width, invocation))
    # One line for all checks that one failure has prevented.
    skipped = [record for record in report.records if record.code == NOT_TRIED]
    for message in dict.fromkeys(record.message for record in skipped):
        names = ", ".join(record.component for record in skipped if record.message == message)
        start = " " * (width + 8)
        yield f"warn  {'':{width}}  {message}:"
        yield from textwrap.wrap(
            names, 100, initial_indent=start, subsequent_indent=start, break_on_hyphens=False
        )
    yield ""
    counts = {status: sum(record.status == status for record in report.records) for status in _WORDS}
    yield (
        f"{counts['pass']} passed, {counts['warn']} warned, {counts['fail']} failed in {report.seconds:.1f} s"
        + (f"; exit code {report.exit_code}" if report.exit_code else "")
    )
    if report.policy is not None:
        yield from ("", "This IAM policy grants what is missing:")
        yield from json.dumps(report.policy.model_dump(), indent=2).split("\n")
        yield f"All that a run needs: {invocation.other('policy', '--limit')}"
    elif report.overall != "fail":
        yield f"Next: {invocation.other('stage', '--limit')}"


run = session_command(_check, lambda report, session: text_of(_lines(report, session.invocation)))
