"""What a run leaves on the local disk: its log, its events, the state for the next step, and a bundle when it fails.

Nothing in here ends a run, but for a state directory that cannot be written when the run has not begun yet. Log and
events are written by threads of their own, everything else when the event loop has ended.
"""

from __future__ import annotations

import contextlib
import os
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any, ParamSpec, TypeVar

from pydantic import BaseModel

from riva_stream import handover
from riva_stream.cli.command import Invocation
from riva_stream.cli.failure import Failure
from riva_stream.cli.jsonlog import JsonRenderer, kind_of
from riva_stream.cli.log_file import LogFile
from riva_stream.cli.log_lines import STARTED, LogRenderer
from riva_stream.cli.log_settings import LogSettings, log_settings
from riva_stream.cli.log_upload import upload_log
from riva_stream.cli.old_runs import BUNDLE, EVENTS, remove_old_runs
from riva_stream.cli.options import state_dir_of
from riva_stream.cli.redact import redact
from riva_stream.cli.screen import Screen
from riva_stream.cli.settings.env_file import EnvFile
from riva_stream.cli.settings.load import is_asked
from riva_stream.cli.signals import SignalWatch
from riva_stream.cli.step import artifact_of, values_of
from riva_stream.config import StageRequest
from riva_stream.errors import ConfigurationError
from riva_stream.events import Event, RetryScheduled, Warned
from riva_stream.report import StageReport

__all__ = ["Record"]

P = ParamSpec("P")
R = TypeVar("R", bound=BaseModel)

_LAST_EVENTS = 500
_LAST_REQUESTS = 100
_SLOW = "the disk was slow"


class Record:
    """The record of one run.

    Args:
        args: with the flags of ``options.add_output`` and ``options.add_log``.
        run_id: names the files.
        invocation: how the program was called.
        warn: is told what could not be written.
    """

    def __init__(
        self, args: Namespace, run_id: str, invocation: Invocation, warn: Callable[[Warned], None]
    ) -> None:
        self.request: StageRequest | None = None
        """Set once it is known."""
        self.settings: LogSettings | None = None
        """Known once it is open."""
        self._args = args
        self._run_id = run_id
        self._invocation = invocation
        self._warn_of = warn
        self._began = monotonic()
        self._in_file: Mapping[str, str] = {}
        self._state = state_dir_of(args)
        self._refused = ""
        """Why nothing can be written to the state directory."""
        self._said = False
        """Whether that is what the run ends with: once is enough, for all the files that are missing then."""
        self._screens: list[tuple[Screen, LogFile]] = []
        self._log: LogFile | None = None
        self._early: list[Event | str] = []
        self._events: deque[tuple[datetime, Event]] = deque(maxlen=_LAST_EVENTS)
        self._problems: list[str] = []
        self._requests: deque[dict[str, Any]] = deque(maxlen=_LAST_REQUESTS)

    @property
    def log_file(self) -> Path | None:
        """The log, where there is one."""
        return _absolute(self._log.path) if self._log is not None else None

    @property
    def _command(self) -> str:
        """Redacted anew each time: the secrets of a ``.env`` are known only once it is read."""
        return redact(self._invocation.again())

    @property
    def folder(self) -> Path:
        """``<state>/runs/<run id>``."""
        return self._state / "runs" / self._run_id

    @property
    def bundle(self) -> Path:
        """Where the diagnostics of a failure are."""
        return _absolute(self.folder / BUNDLE)

    def open(self, file: EnvFile) -> LogSettings:
        """Begin to write, now that it is known where and how."""
        self._in_file = file.values
        self._state = state_dir_of(self._args, file.values)
        settings = self.settings = log_settings(self._args, file.values)
        self._refused = _refusal(self._state)
        log = LogFile(settings.folder / f"{self._run_id}.log", self._failed("the log"))
        if not (self._refused and settings.folder.is_relative_to(self._state)) and log.open():
            renderer = LogRenderer(
                self._run_id, level=settings.level, form=settings.form, redactor=settings.redactor
            )
            self._log = log
            self._screens.append((Screen(renderer, write=log.write, slow=_SLOW), log))
        events = LogFile(self.folder / EVENTS, self._failed("the events"))
        if not self._refused and events.open():
            shown = JsonRenderer(self._run_id, interval=1.0, redactor=settings.redactor)
            self._screens.append((Screen(shown, write=events.write, slow=_SLOW), events))
        early, self._early = self._early, []
        self.observe(Warned(code=STARTED, message=self._command))
        for item in early:
            self._say(item) if isinstance(item, str) else self._observe(item)
        for warning in settings.warnings:
            self._warn_of(warning)
        return settings

    def begin(self) -> None:
        """Take back the state of older runs: this one is about to change what they told of.

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

    def observe(self, event: Event, /) -> None:
        """Take an event. Never waits."""
        self._events.append((datetime.now(UTC), event))
        if isinstance(event, RetryScheduled):
            self._requests.append(
                {"time": datetime.now(UTC), "request_id": event.request_id, "reason": event.reason}
            )
        if self.settings is None:
            self._early.append(event)
        self._observe(event)

    def say(self, text: str) -> None:
        """Take a text of the command line's own, or of a library's. Never waits."""
        if self.settings is None:
            self._early.append(text)
        self._say(text)

    def settle(self, outcome: R | Failure, watch: SignalWatch) -> R | Failure:
        """Write everything that is left to write; blocks, for seconds at most.

        Args:
            outcome: of the run.
            watch: a signal stops the upload of the log.

        Returns:
            The outcome, with the names of what a failure left, or with the warnings that came too late for it.
        """
        if self.settings is None:  # it failed before anything was known
            self.open(EnvFile())
        self._tell_of_refusal()
        if isinstance(outcome, Failure):
            outcome = replace(outcome, log=str(self.log_file or ""), bundle=str(self.bundle))
            traced = outcome.exit_code == 1 or (self.settings is not None and self.settings.level == "debug")
            self.say(outcome.text(self._run_id, debug=traced))
        if not self._is_dry():
            self._try("what old runs have left was not all removed", self._remove_old)
        for screen, file in self._screens:
            if screen.close():
                file.close()  # or else its thread is still at it: the process will close it
        if isinstance(outcome, Failure) and (
            self._refused or not self._try("the diagnostics cannot be written", self._bundle, outcome)
        ):
            outcome = replace(outcome, bundle="")
        if not self._is_dry():
            if not self._refused:
                self._try("the state for the next step cannot be written", self._hand_over, outcome)
            self._try("the log was not copied to S3", self._upload, outcome, watch)
        if isinstance(outcome, StageReport):
            late = [problem for problem in self._problems if problem not in outcome.warnings]
            outcome = outcome.model_copy(update={"warnings": [*outcome.warnings, *late]})
        return outcome

    def _tell_of_refusal(self) -> None:
        if self._refused and not self._said:
            what = f"this run leaves no state{' and no log' if self._log is None else ''}"
            self._failed(what)(self._refused)

    def _try(self, what: str, act: Callable[P, None], *args: P.args, **more: P.kwargs) -> bool:
        """Whether it went well; if not, that is a warning, and must not hide what the run came to."""
        try:
            act(*args, **more)
        except Exception as error:  # noqa: BLE001 - whatever it is, the run itself has ended already
            self._failed(what)(str(error) if isinstance(error, OSError) else repr(error))
            return False
        return True

    def _upload(self, outcome: BaseModel | Failure, watch: SignalWatch) -> None:
        target = self.settings.target if self.settings is not None else None
        if target is None:
            return
        files = [path for path in (self.log_file, self.bundle) if path is not None and path.is_file()]
        if not isinstance(outcome, Failure):
            files = files[:1]
        if files and (why := upload_log(self.request, target, self._run_id, files, watch)):
            self._failed("the log was not copied to S3")(why)

    def _remove_old(self) -> None:
        settings = self.settings
        if settings is None or settings.keep_runs is None:
            return
        state = handover.read(self._state)  # the next step may be about to read what these point at
        spared = {self._run_id, state.status.get("run_id", ""), str(state.record.get("run_id", ""))}
        keep = settings.keep_runs
        if removed := remove_old_runs(self._state, settings.folder, keep=keep, spared=spared):
            self.say(f"removed what {removed} old runs have left: --keep-runs is {keep}\n")

    def _is_dry(self) -> bool:
        """A dry run changed nothing, so the state of the last real one stays true."""
        if self.request is not None:
            return self.request.dry_run
        return bool(self._args.dry_run) or is_asked("DRY_RUN", self._in_file)

    def _hand_over(self, outcome: BaseModel | Failure) -> None:
        report = outcome if isinstance(outcome, StageReport) else None
        ending = handover.Ending(
            run_id=self._run_id,
            exit_code=outcome.exit_code if isinstance(outcome, Failure) else 0,
            duration_ms=round((monotonic() - self._began) * 1000),
            log_file=str(self.log_file or ""),
            command=self._command,
        )
        values = {} if report is None else values_of(report, self._state, self.folder)
        artifact = None if report is None else artifact_of(report, self.folder)
        handover.finish(self._state, ending, values, artifact)

    def _bundle(self, failure: Failure) -> None:
        from riva_stream.cli.diagnostics import Evidence, write_bundle  # noqa: PLC0415 - most runs succeed

        assert self.settings is not None  # noqa: S101 - settle() opens it
        where = failure.where
        if where.request_id:
            self._requests.append(
                {"time": datetime.now(UTC), "request_id": where.request_id, "reason": str(where)}
            )
        flags = {name: value for name, value in vars(self._args).items() if name != "command"}
        request = self.request.without_secrets().model_dump(mode="json") if self.request else None
        evidence = Evidence(
            run_id=self._run_id,
            command=self._command,
            failure=failure,
            settings=request if request is not None else {"flags": flags},
            env_file=self._in_file,
            events=[
                {"time": when.isoformat(timespec="milliseconds"), "event": kind_of(event), **asdict(event)}
                for when, event in self._events
            ],
            requests=list(self._requests),
            log=self.log_file,
        )
        write_bundle(self.bundle, evidence, self.settings.redactor)

    def _observe(self, event: Event) -> None:
        for screen, _ in self._screens:
            screen.observe(event)

    def _say(self, text: str) -> None:
        for screen, _ in self._screens:
            screen.say(text)

    def _failed(self, what: str) -> Callable[[str], None]:
        def warn(problem: str) -> None:
            message = redact(f"{what}: {problem}")
            self._problems.append(message)
            self._warn_of(Warned(code="record", message=message))

        return warn


def _refusal(folder: Path) -> str:
    """Why nothing can be written to a folder, which is made if need be; "" where it can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"{folder} cannot be made: {error.strerror}"
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder} may not be written to"


def _absolute(path: Path) -> Path:
    """For a message, and for whoever works in another folder; in a folder that was deleted nothing is absolute."""
    with contextlib.suppress(OSError):
        return path.absolute()
    return path
