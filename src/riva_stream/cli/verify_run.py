"""A run of ``verify``."""

from __future__ import annotations

import shlex
from argparse import Namespace
from dataclasses import replace
from functools import partial

from riva_stream.cli.command import Invocation
from riva_stream.cli.execute import Session, execute
from riva_stream.cli.loop import run
from riva_stream.cli.place import reach_of, staging_prefix, store_of
from riva_stream.cli.summary import MODES
from riva_stream.errors import ConfigurationError, IntegrityError
from riva_stream.layout import DEPLOYMENTS, is_bintarball
from riva_stream.operations.reports import NOT_STAGED, VerifiedObject, VerifyReport
from riva_stream.settings_reach import Reach
from riva_stream.sizes import human_size
from riva_stream.state import new_run_id
from riva_stream.uris import key_of, split_uri

__all__ = ["run_verify"]

_FLAGS = ("--env", "--model-name", "--model-version")
_MODE_FLAGS = {"reference_only": "--reference-only", "bintarball_reference": "--bintarball-reference"}
_MOST_EXTRA_SHOWN = 20
_MOST_CONNECTIONS = 256


def run_verify(args: Namespace, invocation: Invocation) -> int:
    """Verify, show the result, and give the exit code."""

    def text(report: VerifyReport, fancy: bool) -> str:
        del fancy
        return _text(report, invocation)

    return execute(
        args,
        invocation,
        args.run_id or new_run_id(),
        _verify,
        text,
        lambda report: 0 if report.ok else IntegrityError.exit_code,
    )


def _verify(session: Session) -> VerifyReport:
    args = session.args
    if not 1 <= args.connections <= _MOST_CONNECTIONS:
        raise ConfigurationError(
            f"--connections is {args.connections}", hint=f"pass 1 to {_MOST_CONNECTIONS}, for example 8"
        )
    reach = reach_of(session)
    bucket, prefix = staging_prefix(args.prefix, reach)

    from riva_stream.operations.verify import verify  # noqa: PLC0415 - the AWS libraries come with it

    settings = replace(store_of(reach), connections=2 * args.connections + 8)
    elsewhere = replace(
        settings,
        region=reach.source_region or reach.region,
        endpoint_url=reach.source_endpoint_url or reach.endpoint_url,
        profile=reach.source_profile or reach.profile,
        unsigned=reach.no_sign_request,
    )
    work = partial(
        verify,
        settings,
        bucket,
        prefix,
        deep=args.deep,
        connections=args.connections,
        memory=args.memory,
        source_settings=elsewhere if _is_elsewhere(reach) else None,
        observer=session.screen.observe,
    )
    return run(work, watch=session.watch, loop=args.loop, on_signal=session.on_signal)


def _is_elsewhere(reach: Reach) -> bool:
    return any((reach.source_region, reach.source_endpoint_url, reach.source_profile, reach.no_sign_request))


def _text(report: VerifyReport, invocation: Invocation) -> str:
    wrong = [entry for entry in report.objects if not entry.ok]
    head = (
        "Verified: what is staged is what was staged"
        if report.ok
        else f"DIFFERS: {len(wrong)} of {len(report.objects)} objects are not what was staged"
    )
    how = MODES[report.mode] if report.mode else "in a way that cannot be told"
    lines = [f"{head} ({how}, {report.depth})", "", report.destination]
    if report.run_id and report.staged_at:
        lines.append(f"staged {report.staged_at:%Y-%m-%d %H:%M:%S}Z by run {report.run_id}")
    lines += ["", *_rows(report)]
    if report.extra:
        shown = report.extra[:_MOST_EXTRA_SHOWN]
        lines += ["", "Beside it, and not staged", *(f"  {key}" for key in shown)]
        if len(report.extra) > len(shown):
            lines.append(f"  … and {len(report.extra) - len(shown)} more")
    lines += ["", "Notes", *(f"  {note}" for note in report.notes)] if report.notes else []
    pace = f"Took {report.seconds:.1f} s"
    if report.read is not None:
        pace += f"; {human_size(report.read.bytes)} read at {report.read.mib_per_second:.0f} MiB/s"
    lines += ["", pace]
    if not report.ok:
        lines += ["", *_next(report, wrong, invocation)]
    elif report.read is None and report.mode == "full":
        lines += ["", f"Next: to read every byte, too: {invocation.again('--deep')}"]
    return "\n".join(lines) + "\n"


def _next(report: VerifyReport, wrong: list[VerifiedObject], invocation: Invocation) -> list[str]:
    bucket, prefix = split_uri(report.destination)
    if all(not entry.by and entry.difference == NOT_STAGED for entry in wrong):
        return ["Next: delete what was not staged:", *(f"  aws s3 rm s3://{bucket}/{e.key}" for e in wrong)]
    levels = prefix.removeprefix(DEPLOYMENTS if is_bintarball(prefix) else "").rstrip("/").split("/")
    if report.source is None or len(levels) != len(_FLAGS):
        return [
            "Next: stage it again with --force, which replaces what is there once the new one is verified"
        ]
    flags = ["--source", report.source, "--bucket", bucket]
    flags += [word for pair in zip(_FLAGS, levels, strict=True) for word in pair]
    flags += [_MODE_FLAGS[report.mode]] if report.mode in _MODE_FLAGS else []
    flags += ["--server-path", report.container] if report.container else []
    return [
        "Next: stage it again; what is there is replaced once the new one is verified:",
        f"  {invocation.prog} stage {shlex.join(flags)} --force",
    ]


def _rows(report: VerifyReport) -> list[str]:
    prefix = key_of(report.destination)
    names = {entry.key: entry.key.removeprefix(prefix) for entry in report.objects}
    width = max(map(len, names.values()), default=0)
    rows = []
    for entry in report.objects:
        mark = "ok      " if entry.ok else "DIFFERS "
        size = "" if entry.size_bytes is None else human_size(entry.size_bytes)
        rows.append(f"  {mark}{names[entry.key]:<{width}}  {size:>11}  {_said(entry)}".rstrip())
    return rows


def _said(entry: VerifiedObject) -> str:
    return ", ".join(entry.by) if entry.ok else entry.difference
