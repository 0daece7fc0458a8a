"""The last run recorded in a state directory. Reads local files only, so call it in a thread."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from riva_stream.errors import ConfigurationError
from riva_stream.files import read_regular
from riva_stream.handover import code_of, read, read_json
from riva_stream.inspection.reports import LastRun
from riva_stream.layout import prefix_of
from riva_stream.lease.journal import Journal, Process

__all__ = ["RecordedRun", "last_run_of"]

_Status = Literal["success", "failure", "running", "unknown"]

_LARGEST = 64 << 20
"""Maximum bytes of a journal."""
_SETTINGS = ("region", "endpoint_url", "profile", "ca_bundle", "addressing")


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run, and what is needed to look at its destination."""

    run: LastRun
    bucket: str
    prefix: str
    endpoint: dict[str, str]
    """Region, endpoint, profile, CA bundle and addressing that it ran with, as far as it was told."""


def last_run_of(state: Path) -> RecordedRun:
    """The last run in a state directory.

    It is the one that ``130.status`` names; without that the one that runs, by ``130.json``; else the one that began last.

    If it ended before it knew where to stage to, bucket and prefix are those of the last run that did.

    Raises:
        ConfigurationError: there is no such directory, or no run in it.
    """
    folder = state.expanduser()
    try:
        found = read(folder)
        named, record = found.status, found.record
        began = sorted((folder / "runs").glob("*/request.json"), key=lambda path: path.stat().st_mtime_ns)
        # A dry run leaves a request, too, but has staged nothing and writes no status.
        requests = [path for path in began if not read_json(path).get("dry_run")]
        if not requests:
            raise _nothing(state, _why_nothing(folder, named, dry=bool(began)))
        latest = requests[-1]
        last = latest.parent
        # A run removes the status when it begins: whatever the clocks say, the one that is there is the last one's.
        own = folder / "runs" / str(named.get("run_id") or record.get("run_id")) / "request.json"
        if named.get("run_id") or (record.get("status") == "running" and own in requests):
            last = own.parent
            latest = own if own in requests else latest
        succeeded = named.get("status") == "success"
        request, report = read_json(latest), found.report if succeeded else _report_of(last)
    except OSError as error:
        raise _nothing(state, f"it cannot be read: {error.strerror}") from error
    try:
        bucket = str(request["bucket"])
        mode = "bintarball_reference" if request.get("bintarball_reference") else None
        prefix = prefix_of(mode, *(str(request[name]) for name in ("env", "model_name", "model_version")))
    except KeyError as error:
        raise _nothing(state, f"{latest} does not name {error}") from error
    alive = _alive(last / "journal.json")
    exit_code, outcome = code_of(named.get("exit_code", "")), report.get("outcome")
    run = LastRun(
        folder=str(last),
        run_id=last.name,
        status=_word(named.get("status", ""), report, alive),
        exit_code=0 if exit_code is None and (report or succeeded) else exit_code,
        outcome=outcome if isinstance(outcome, str) else None,
        destination=f"s3://{bucket}/{prefix}" if last == latest.parent else "",
        alive=False if report or named else alive,
    )
    endpoint = {name: value for name in _SETTINGS if isinstance(value := request.get(name), str)}
    return RecordedRun(run, bucket, prefix, endpoint)


def _report_of(own: Path) -> Mapping[str, Any]:
    """The report of the run that wrote the request beside it; not that of an earlier one with the same id."""
    request, report = own / "request.json", own / "report.json"
    with suppress(FileNotFoundError):
        if report.stat().st_mtime_ns < request.stat().st_mtime_ns:
            return {}
    return read_json(report)


def _word(named: str, report: Mapping[str, Any], alive: bool | None) -> _Status:
    if named == "success" or (report and named != "failure"):
        return "success"
    if named == "failure":
        return "failure"
    words: dict[bool | None, _Status] = {True: "running", False: "failure", None: "unknown"}
    return words[alive]


def _alive(journal: Path) -> bool | None:
    """Whether the run's process is still running, as far as its copy of the journal shows on this host."""
    with suppress(OSError, ValueError):
        found = Journal.parse(read_regular(journal, _LARGEST))
        here = Process.this()
        if found.stopped or found.process.is_dead(here):
            return False
        return True if (found.process.host, found.process.boot) == (here.host, here.boot) else None
    return None


def _why_nothing(folder: Path, named: Mapping[str, str], *, dry: bool) -> str:
    if named.get("run_id") and named.get("exit_code"):
        log = f"; its log: {named['log']}" if named.get("log") else ""
        return f"run {named['run_id']} ended with {named['exit_code']} before its destination was known{log}"
    if dry:
        return "there are only dry runs in it"
    return "no run has left anything in it" if folder.is_dir() else "it does not exist"


def _nothing(state: Path, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"the state directory {state} has no record of a run: {why}",
        hint="name the staging itself, for example: s3://deployments/prod/parakeet-rnnt-en-us/v2025.09/",
    )
