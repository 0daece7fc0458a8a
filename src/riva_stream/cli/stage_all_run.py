"""A run of ``stage-all``: the engine, what is shown of it, and the summary."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from riva_stream.catalogue import (
    CatalogueReport,
    Engine,
    EntryEnded,
    EntryReport,
    LoadedCatalogue,
    LocalEngine,
    load_catalogue,
    stage_all,
)
from riva_stream.catalogue.plan import prepare
from riva_stream.cli.command import Invocation
from riva_stream.cli.counters import duration_text
from riva_stream.cli.execute import Session, execute
from riva_stream.cli.loop import run
from riva_stream.cli.options import find_state_dir
from riva_stream.cli.output import print_result
from riva_stream.cli.overview import LiveOverview, Overview, PlainOverview, can_draw
from riva_stream.cli.place import reach_of
from riva_stream.cli.redact import SECRETS
from riva_stream.sizes import human_size
from riva_stream.state import new_run_id

__all__ = ["run_stage_all"]

_REACH = (
    *("region", "endpoint_url", "profile", "ca_bundle", "addressing", "request_payer"),
    *("source_region", "source_endpoint_url", "source_profile", "no_sign_request"),
)

_LEVELS = 6
"""Slashes of ``s3://BUCKET/ENV/MODEL_NAME/MODEL_VERSION/``; an entry whose archives could not be listed has fewer."""
_NO_REGION = "none"


def run_stage_all(args: Namespace, invocation: Invocation) -> int:
    """Stage all, show what it came to, and give the exit code."""
    as_json = args.json

    def text(report: CatalogueReport, fancy: bool) -> str:  # noqa: ARG001 - as execute() calls it
        return _last_line(report) if as_json else _summary(report, invocation)

    return execute(args, invocation, new_run_id(), _stage_all, text, lambda report: report.exit_code)


def _stage_all(session: Session) -> CatalogueReport:
    args = session.args
    loaded = load_catalogue(args.catalogue)
    fallback = _fallback(session, loaded)
    overview, shown = _overview(session)

    def observe(event: Any, /) -> None:
        overview.observe(event)
        if args.json and isinstance(event, EntryEnded):
            print_result(_line(event.report.model_dump(mode="json")))

    work = partial(
        stage_all,
        loaded,
        engine=_engine(args),
        observer=observe,
        only=args.only,
        dry_run=args.dry_run,
        fail_fast=args.fail_fast,
        fallback=fallback,
    )
    with shown:
        report = run(work, watch=session.watch, loop=args.loop, on_signal=session.on_signal)
    args.json = False  # each entry had its line; only a failure of the whole is still a document
    return report


def _fallback(session: Session, loaded: LoadedCatalogue) -> dict[str, Any]:
    """How to reach the stores, where the catalogue says nothing; credentials are this process's from here on."""
    # A region need not be found elsewhere when every entry has what is needed.
    complete = all(wish.fields.get("region") or wish.fields.get("endpoint_url") for wish in prepare(loaded))
    reach = reach_of(session, {"region": _NO_REGION} if complete else None)
    found = {name: getattr(reach, name) for name in _REACH}
    return {name: value for name, value in found.items() if value and value != _NO_REGION}


def _engine(args: Namespace) -> Engine:
    if args.engine == "ray":
        from riva_stream.catalogue.ray_engine import RayEngine  # noqa: PLC0415 - an extra

        return RayEngine(args.ray_address, at_once=args.at_once)
    return LocalEngine(at_once=args.at_once, state_dir=find_state_dir(args))


def _overview(session: Session) -> tuple[Overview, AbstractContextManager[object]]:
    args = session.args
    if args.quiet:
        return Overview(), nullcontext()
    if args.log_format in {"auto", "pretty"} and can_draw():
        live = LiveOverview()
        return live, live.shown()
    return PlainOverview(session.say), nullcontext()


def _line(document: Mapping[str, Any]) -> str:
    return json.dumps(SECRETS.value(dict(document)), ensure_ascii=False) + "\n"


def _last_line(report: CatalogueReport) -> str:
    return _line({**report.model_dump(mode="json", exclude={"entries"}), "entries": len(report.entries)})


def _summary(report: CatalogueReport, invocation: Invocation) -> str:
    good = sum(not entry.exit_code for entry in report.entries)
    lines = [f"{report.catalogue}: {good} of {len(report.entries)} done, {_took(report)}", ""]
    for entry in report.entries:
        lines += _rows(entry, invocation)
    if report.passed_over:
        lines += ["", "Not staged, since the pattern does not fit their names"]
        lines += [f"  {source}" for source in report.passed_over]
    if report.exit_code:
        lines += ["", f"Next: correct what failed, then run the same command again: {invocation.again()}"]
    return "\n".join(lines) + "\n"


def _rows(entry: EntryReport, invocation: Invocation) -> list[str]:
    word = entry.outcome.replace("_", " ")
    code = str(entry.exit_code) if entry.outcome == "failed" else ""
    size = human_size(entry.size_bytes) if entry.size_bytes else ""
    rows = [f"  {word:<16} {code:>3}  {entry.destination}  {size}".rstrip()]
    if entry.error is not None:
        rows.append(f"{'':24}{entry.error.message}")
    if entry.would:
        rows.append(f"{'':24}would: {entry.would}")
    rows += [f"{'':24}warning: {warning}" for warning in entry.warnings]
    steps = [line for line in invocation.called(entry.next_step).splitlines() if line.strip()]
    if entry.exit_code and entry.destination.count("/") == _LEVELS:
        path = "/".join(entry.destination.rstrip("/").split("/")[-3:])
        steps.append(invocation.again("--only", path))
    rows += [f"{'':24}{'next:' if not number else '     '} {step}" for number, step in enumerate(steps)]
    return rows


def _took(report: CatalogueReport) -> str:
    return f"engine {report.engine}, {duration_text(report.seconds)}"
