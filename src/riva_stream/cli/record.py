"""What a run leaves on the local disk: its log, its events, the state for the next step, and a bundle when it fails.

Nothing in here ends a run, except a state directory that cannot be written before the run has begun. Log and events
are written by their own threads, everything else after the event loop has ended.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, ParamSpec, TypeVar

from pydantic import BaseModel

from riva_stream import handover
from riva_stream.cli.command import HandsOver, Invocation
from riva_stream.cli.failure import Failure
from riva_stream.cli.logs import (
    JsonLines,
    LogFile,
    LogSettings,
    Outlet,
    document_of,
    log_settings,
    observe,
    renderer_of,
)
from riva_stream.cli.loop import Interrupted, SignalWatch, run
from riva_stream.cli.old_runs import BUNDLE, EVENTS, remove_old_runs
from riva_stream.cli.options import state_dir_of
from riva_stream.cli.progress import STARTED, Item, record_of
from riva_stream.cli.settings.env_file import EnvFile
from riva_stream.cli.settings.places import Places, as_switch
from riva_stream.config import Request, is_text
from riva_stream.errors import ConfigurationError, RivaStreamError
from riva_stream.events import RetryScheduled, Warned
from riva_stream.files import read_regular
from riva_stream.layout import DEPLOYMENT_JSON
from riva_stream.log_place import LogPlace
from riva_stream.manifest import Artifact, checksums_text, payload_of, to_json
from riva_stream.redact import Redactor, redact
from riva_stream.report import PromoteReport, StageReport

__all__ = ["Record"]

P = ParamSpec("P")
R = TypeVar("R", bound=BaseModel)

_LARGEST = 64 << 20
"""Maximum bytes of a document."""


class _Recent(logging.Handler):
    """The last records, for a log that is opened later, and for the diagnostics."""

    def __init__(self) -> None:
        super().__init__()
        self.records: deque[logging.LogRecord] = deque(maxlen=500)
        self.requests: deque[dict[str, Any]] = deque(maxlen=100)

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        item: Item = record.item  # type: ignore[attr-defined]
        if isinstance(item, RetryScheduled):
            self.add_request(item.request_id, item.reason)

    def add_request(self, request_id: str, reason: str) -> None:
        """Add a request that failed."""
        self.requests.append({"time": datetime.now(UTC), "request_id": request_id, "reason": reason})


class Record:
    """The record of one run.

    Args:
        args: with the flags of ``options.add_stage``.
        run_id: names the files.
        invocation: how the program was called.
        warn: is told what could not be written.
        hands_over: when the run replaces the state for the next step.
    """

    def __init__(
        self,
        args: Namespace,
        run_id: str,
        invocation: Invocation,
        warn: Callable[[Warned], None],
        hands_over: HandsOver,
    ) -> None:
        self.request: Request | None = None
        """Set once known."""
        self.settings: LogSettings | None = None
        """Set once the record is open."""
        self.logger = logging.Logger("riva_stream")  # noqa: LOG001 - the run's own: nothing global
        """Takes the messages of the run, for its files."""
        self._args = args
        self._run_id = run_id
        self._invocation = invocation
        self._warn_of = warn
        self._always = hands_over == "always"
        self._began = monotonic()
        self._file = EnvFile()
        self._state = state_dir_of(args)
        self._refused = ""
        """Why nothing can be written to the state directory."""
        self._said = False
        """Whether the run ends with that error: once is enough, for all the files that are then missing."""
        self._outlets: list[tuple[Outlet, LogFile]] = []
        self._log: LogFile | None = None
        self._recent = _Recent()
        self.logger.addHandler(self._recent)
        self._problems: list[Warned] = []

    @property
    def log_file(self) -> Path | None:
        """The log, where there is one."""
        return _absolute(self._log.path) if self._log is not None else None

    @property
    def _command(self) -> str:
        """Redacted anew each time: the secrets of a ``.env`` are known only once it has been read."""
        return redact(self._invocation.again())

    @property
    def folder(self) -> Path:
        """``<state>/runs/<run id>``."""
        return self._state / "runs" / self._run_id

    @property
    def bundle(self) -> Path:
        """Path of the diagnostics of a failure."""
        return _absolute(self.folder / BUNDLE)

    @property
    def free_id(self) -> str:
        """The run id; with a suffix if the next step still reads the documents of a run with the same id.

        A promotion that fails leaves them as they are, so it must write to another folder.
        """
        status: Mapping[str, str] = {}
        with contextlib.suppress(OSError):  # then the next step cannot read them either
            status = handover.read(self._state).status
        of_a_place = rf"{re.escape(self._run_id)}(-\d+)?"  # of several, each run has a number
        is_taken = status.get("status") == "success" and re.fullmatch(of_a_place, status.get("run_id", ""))
        if not is_taken:
            return self._run_id
        again = "-again"
        return (
            self._run_id.removesuffix(again)
            if self._run_id.endswith(again)
            else f"{self._run_id[:100]}{again}"
        )

    def open(self, file: EnvFile) -> LogSettings:
        """Start writing, now that it is known where and how."""
        self._file = file
        self._state = state_dir_of(self._args, file)
        settings = self.settings = log_settings(self._args, file)
        self._refused = _refusal(self._state)
        self._recent.records.appendleft(record_of(Warned(code=STARTED, message=self._command)))
        log = LogFile(
            settings.folder / f"{self._run_id}.log",
            renderer_of(settings, self._run_id),
            partial(self._failed, "the log"),
        )
        level = logging.getLevelNamesMapping()[settings.level.upper()]
        if not (self._refused and settings.folder.is_relative_to(self._state)) and self._attach(log, level):
            self._log = log
        if not self._refused:
            lines = JsonLines(self._run_id, settings.redactor, interval=1.0)
            events = LogFile(self.folder / EVENTS, lines, partial(self._failed, "the events"))
            self._attach(events, logging.NOTSET)
        for warning in settings.warnings:
            self._warn_of(warning)
        return settings

    def begin(self) -> None:
        """Retract the state of older runs: this one is about to change what they described.

        Raises:
            ConfigurationError: the state directory cannot be written.
        """
        try:
            handover.begin(
                self._state, self._run_id, log_file=str(self.log_file or ""), command=self._command
            )
        except ConfigurationError:
            self._said = True
            raise

    def settle(self, outcome: R | Failure, watch: SignalWatch) -> R | Failure:
        """Write everything that is left to write; blocks, for seconds at most.

        Args:
            outcome: of the run.
            watch: a signal stops the upload of the log.

        Returns:
            The outcome, with the names of the files of a failure, or with late warnings.
        """
        settings = self.settings or self.open(EnvFile())  # if it failed before anything was known
        outcome = self._tell(outcome, traced=settings.level == "debug")
        dry = self._is_dry()
        if not dry:
            self._try("not everything that old runs left was removed", self._remove_old, settings)
        for outlet, file in self._outlets:
            if outlet.end(failed=isinstance(outcome, Failure)):
                file.close()  # otherwise its thread is still writing: the process will close it
        # First what the next step waits for.
        if not dry and not self._refused and (self._always or _staged(outcome) is not None):
            self._try("the state for the next step cannot be written", self._hand_over, outcome)
        if isinstance(outcome, Failure) and (
            self._refused
            or not self._try("the diagnostics cannot be written", self._bundle, outcome, settings.redactor)
        ):
            outcome = outcome.model_copy(update={"diagnostics": ""})
        if not dry and settings.target is not None:
            self._try("the log was not copied to S3", self._upload, settings.target, outcome, watch)
        if isinstance(outcome, StageReport):
            late = [problem for problem in self._problems if problem not in outcome.warnings]
            outcome = outcome.model_copy(update={"warnings": [*outcome.warnings, *late]})
        return outcome

    def _tell(self, outcome: R | Failure, *, traced: bool) -> R | Failure:
        """Log the outcome of the run; return it with the names of its files."""
        if self._refused and not self._said:
            self._failed(
                f"this run leaves no state{' and no log' if self._log is None else ''}", self._refused
            )
        if isinstance(outcome, Failure):
            outcome = outcome.model_copy(
                update={"log_file": str(self.log_file or ""), "diagnostics": str(self.bundle)}
            )
            text = outcome.text(self._run_id, debug=traced or outcome.exit_code == 1)
            observe(self.logger, text, logging.ERROR)
        return outcome

    def _attach(self, file: LogFile, level: int) -> bool:
        """Start writing to a file, earlier records included; return whether that worked."""
        if not file.open():
            return False
        outlet = Outlet(file, slow="the disk was slow")
        outlet.setLevel(level)
        for record in self._recent.records:
            if record.levelno >= level:
                outlet.handle(record)
        self.logger.addHandler(outlet)
        self._outlets.append((outlet, file))
        return True

    def _try(self, what: str, act: Callable[P, None], *args: P.args, **more: P.kwargs) -> bool:
        """Call ``act`` and return whether it worked; if not, only warn, so as not to hide the outcome of the run."""
        try:
            act(*args, **more)
        except Exception as error:  # noqa: BLE001 - whatever it is, the run itself has ended already
            self._failed(what, str(error) if isinstance(error, OSError | RivaStreamError) else repr(error))
            return False
        return True

    def _upload(self, target: LogPlace, outcome: BaseModel | Failure, watch: SignalWatch) -> None:
        """Upload the log, and the diagnostics if there are any, to a place in S3, but never into the staging.

        Raises:
            RivaStreamError, OSError: it failed.
        """
        files = [self.log_file, self.bundle if isinstance(outcome, Failure) else None]
        found = [path for path in files if path is not None and path.is_file()]
        if not found:
            return
        if self.request is None:
            raise OSError("the settings for S3 are invalid")
        if refusal := target.refusal(self.request):
            raise PermissionError(refusal)

        from riva_stream.log_delivery import deliver  # noqa: PLC0415 - the AWS libraries

        work = partial(deliver, self.request, target, found, run_id=self._run_id, seconds=15.0)
        try:
            run(work, watch=watch, on_signal=lambda _: None)
        except Interrupted as error:
            raise InterruptedError(str(error.__cause__ or "it was interrupted")) from error

    def _remove_old(self, settings: LogSettings) -> None:
        keep = settings.keep_runs
        if keep is None:
            return
        state = handover.read(self._state)  # the next step may be about to read their files
        kept_ids = {self._run_id, state.status.get("run_id", ""), str(state.record.get("run_id", ""))}
        if removed := remove_old_runs(self._state, settings.folder, keep=keep, kept_ids=kept_ids):
            observe(self.logger, f"removed the leftovers of {removed} old runs: --keep-runs is {keep}\n")

    def _is_dry(self) -> bool:
        """Whether this is a dry run, which changes nothing, so the state of the last real run stays valid."""
        asked = bool(self._args.dry_run) or as_switch(Places(self._file).text("DRY_RUN")) is True
        return asked if self.request is None else self.request.dry_run

    def _hand_over(self, outcome: BaseModel | Failure) -> None:
        report = _staged(outcome)
        ending = handover.Ending(
            run_id=self._run_id if report is None else report.run_id,
            exit_code=getattr(outcome, "exit_code", 0),
            duration_ms=round((monotonic() - self._began) * 1000),
            log_file=str(self.log_file or ""),
            command=self._command,
        )
        if report is None:
            handover.finish(self._state, ending, {}, None)
        else:
            documents = _documents_of(report, self.folder.with_name(report.run_id))
            values = _values_of(report) | {
                name: str(_absolute(own or self._state / handover.COPIES[name][1]))
                for name, (own, _) in documents.items()
            }
            texts = {name: text for name, (_, text) in documents.items()}
            handover.finish(
                self._state, ending, values, texts.get("artifact_metadata"), texts.get("checksum_file")
            )

    def _bundle(self, failure: Failure, redactor: Redactor) -> None:
        from riva_stream.cli.diagnostics import write_bundle  # noqa: PLC0415 - most runs succeed

        if failure.where.request_id:
            self._recent.add_request(failure.where.request_id, str(failure.where))
        flags = {name: value for name, value in vars(self._args).items() if name != "command"}
        settings = self.request.model_dump(mode="json") if self.request else {"flags": flags}
        write_bundle(
            self.bundle,
            redactor,
            self._run_id,
            failure,
            settings={"command": self._command, "settings": settings},
            env_file=self._file.values,
            events=[
                {"time": datetime.fromtimestamp(record.created, UTC), **document_of(record)}
                for record in self._recent.records
                if not isinstance(record.item, str)  # type: ignore[attr-defined]
            ],
            requests=self._recent.requests,
            log=self.log_file,
        )

    def _failed(self, what: str, problem: str) -> None:
        warning = Warned(code="record", message=redact(f"{what}: {problem}"))
        self._problems.append(warning)
        self._warn_of(warning)


def _staged(outcome: BaseModel | Failure) -> StageReport | None:
    """What the next step continues with, after a successful run: of several places the first."""
    if isinstance(outcome, PromoteReport):
        return None if outcome.exit_code else outcome.places[0].report
    return outcome if isinstance(outcome, StageReport) and not outcome.exit_code else None


def _refusal(folder: Path) -> str:
    """Why nothing can be written to a folder, which is created if necessary; "" where it can.

    A folder whose name the settings are about to reject is not created.
    """
    if not is_text(folder):
        return f"{folder} is not UTF-8"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"{folder} cannot be made: {error.strerror}"
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder} may not be written to"


def _absolute(path: Path) -> Path:
    """An absolute path, for messages and other working directories; relative if the current directory was deleted."""
    with contextlib.suppress(OSError):
        return path.absolute()
    return path


def _values_of(report: StageReport) -> dict[str, str]:
    """The values for the next step, by the names of :data:`~riva_stream.handover.VALUES`, without the local copies."""
    # Without its slash: scripts write "$(cat state/s3_staging_uri)/artifact.json", and in S3 "//" is another key.
    values = {"s3_staging_uri": report.destination.rstrip("/")}
    deployment, artifact = report.deployment, report.artifact
    if deployment is not None:
        values["container_s3_uri"] = deployment.bintarball_references.container_image.s3_uri
        values["bintarball_manifest"] = report.destination + DEPLOYMENT_JSON
    if artifact is not None:
        values |= {
            "upload_timestamp": handover.iso(artifact.created_at),
            "source_model_s3_uri": artifact.source.uri,
            "source_model_size": str(artifact.source.size_bytes),
        }
        if artifact.primary_model is not None:
            values["primary_riva_file"] = report.destination + artifact.primary_model.relative_path
    elif deployment is not None:
        archive = deployment.bintarball_references.model_archive
        values |= {
            "upload_timestamp": handover.iso(deployment.created_at),
            "source_model_s3_uri": archive.s3_uri,
            "source_model_size": str(archive.size_bytes),
        }
    return values


def _documents_of(report: StageReport, folder: Path) -> dict[str, tuple[Path | None, bytes]]:
    """The documents for the next step, by the names of :data:`~riva_stream.handover.COPIES`.

    Byte for byte as in the bucket, with the path of the copy, if the run's folder has one that agrees with the report:
    what is there may also be of an earlier run with the same id. Otherwise as the report describes them.
    """
    artifact = report.artifact
    if artifact is None:
        return {}
    entries = [(sha256, path) for path, _, sha256, _ in payload_of(artifact) if sha256]
    made: dict[str, tuple[bytes, Callable[[bytes], object]]] = {
        "artifact_metadata": (to_json(artifact), Artifact.model_validate_json)
    }
    if report.mode == "full":
        made["checksum_file"] = (checksums_text(entries).encode(), lambda text: sorted(text.splitlines()))
    found: dict[str, tuple[Path | None, bytes]] = {}
    for name, (expected, parse) in made.items():
        path = folder / handover.COPIES[name][0]
        found[name] = (None, expected)
        with contextlib.suppress(OSError, ValueError):
            copy = read_regular(path, _LARGEST)
            if parse(copy) == parse(expected):
                found[name] = (path, copy)
    return found
