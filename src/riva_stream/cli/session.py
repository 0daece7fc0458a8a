"""From parsed arguments to the exit code, for any command: signals, the screen, errors, the result."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import redirect_stderr
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from pydantic import BaseModel

from riva_stream.cli.command import HandsOver, Invocation
from riva_stream.cli.failure import Failure, failure_of
from riva_stream.cli.logs import Outlet, Printer, StandardError, choose_renderer, observe, renderer_of
from riva_stream.cli.loop import Interrupted, SignalWatch, run
from riva_stream.cli.output import (
    event_line,
    failed_line,
    json_text,
    print_result,
    show_cursor,
    write_stderr,
)
from riva_stream.cli.settings.env_file import EnvFile, read_env_file
from riva_stream.cli.settings.load import Endpoint, load_endpoint
from riva_stream.config import NOT_TEXT, StageRequest, is_run_id, is_text
from riva_stream.errors import ConfigurationError
from riva_stream.events import Event, Warned
from riva_stream.redact import SECRETS, redact

if TYPE_CHECKING:
    from riva_stream.cli.record import Record

__all__ = ["Session", "execute"]

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R", bound=BaseModel)

_M_ARENA_MAX = -8  # malloc.h of glibc


class Session:
    """What a command's work gets: the screen, the signals, the run's id, and its record if it keeps one."""

    def __init__(self, args: Namespace, invocation: Invocation, watch: SignalWatch, run_id: str) -> None:
        self.args = args
        self.invocation = invocation
        self.watch = watch
        self.run_id = run_id
        self.screen = Outlet(Printer(choose_renderer(args, run_id)))
        self.record: Record | None = None
        self.warnings: list[Warned] = []
        """Warnings of the command line itself."""
        self._logger = logging.Logger("riva_stream")  # noqa: LOG001 - the run's own: nothing global
        self._logger.addHandler(self.screen)

    def observe(self, event: Event | str, /) -> None:
        """Show an event or a text, and record it. Never waits."""
        observe(self._logger, event)
        if self.record is not None:
            observe(self.record.logger, event)

    def warn(self, warning: Warned, /) -> None:
        """The same for a warning of the command line's own, which is to be in the report too."""
        self.warnings.append(warning)
        self.observe(warning)

    def trace(self) -> None:
        """Show from now on what ``--debug`` shows."""
        self.args.debug = True
        _set_up_logging(debug=True)

    def run(self, main: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **more: P.kwargs) -> T:
        """Run ``main`` with these arguments in an event loop, until it ends or a signal arrives."""

        def tell(number: int) -> None:
            self.observe(
                f"riva_stream: {signal.Signals(number).name}: stopping cleanly; once more ends it at once\n"
            )

        return run(partial(main, *args, **more), watch=self.watch, loop=self.args.loop, on_signal=tell)

    def endpoint(
        self,
        fallback: Mapping[str, str | None] | None = None,
        *,
        env_file: EnvFile | None = None,
        switches: Collection[str] = (),
    ) -> Endpoint:
        """The endpoint and the credentials, which this process has from here on.

        Args:
            fallback: used where neither a flag nor a variable has a value.
            env_file: the file of settings, if it was read already: a pipe can be read only once.
            switches: those settings of ``stage`` that apply here as well.
        """
        found = load_endpoint(
            vars(self.args), env_file=env_file or self.args.env_file, fallback=fallback, switches=switches
        )
        self.adopt_environment(found.environment, found.profile, found.warnings)
        return found

    def adopt_environment(
        self, environment: Mapping[str, str], profile: str | None, warnings: Iterable[Warned] = ()
    ) -> None:
        """Set the AWS variables of ``.env`` in this process, where the AWS libraries look; report what is odd.

        Existing variables stay. AWS_PROFILE ends up as the value that was found for it, and only that: one that was
        outranked or overridden would still be picked up.
        """
        for warning in warnings:
            self.warn(warning)
        for name, value in environment.items():
            os.environ.setdefault(name, value)
        if profile is None or self.args.profile:
            os.environ.pop("AWS_PROFILE", None)
        else:
            os.environ["AWS_PROFILE"] = profile

    def begin_record(self) -> tuple[Record, EnvFile]:
        """Start the log and the events of a recorded run; return its record and the file of settings."""
        args, record = self.args, self.record
        assert record is not None  # noqa: S101 - such a command keeps one
        file = read_env_file(args.env_file)
        log = record.open(file)
        if log.tee and args.log_format == "auto" and not args.quiet:
            self.screen.use(Printer(renderer_of(log, self.run_id)))
        return record, file


def execute(
    args: Namespace,
    invocation: Invocation,
    work: Callable[[Session], R],
    text: Callable[[R, Session], str],
    exit_code: Callable[[R, Session], int] | None = None,
    *,
    hands_over: HandsOver | None = None,
    run_id: str | None = None,
) -> int:
    """Do ``work``, show its result, and return the exit code.

    Args:
        args: with the flags of ``options.add_reading``, or of ``options.add_stage``.
        invocation: how the program was called.
        work: the command's own part.
        text: the result for people.
        exit_code: of a result that may be bad news; None: that of the report, where it has one.
        hands_over: of a run that leaves a log (with the flags of ``options.add_stage``): when it also replaces the
            state for the next step.
        run_id: None: that of ``--run-id``, otherwise a new one.
    """
    _keep_to_one_arena()
    if run_id is None:
        from riva_stream.state import new_run_id  # noqa: PLC0415 - not for a command that is no run

        # It is used in file names: an invalid id is rejected with the settings, and never used in a path.
        run_id = (
            args.run_id if args.run_id and (is_run_id(args.run_id) or hands_over is None) else new_run_id()
        )
    with SignalWatch(show_cursor) as watch:
        session = Session(args, invocation, watch, run_id)
        outcome = _outcome(session, work, hands_over=hands_over)
    show = print_result
    if args.log_format == "json":
        show = partial(
            print_result,
            complain=lambda text: write_stderr(event_line(run_id, "message", {"message": text})),
        )
    # Writing may take as long as the reader likes; signals end the process again in the usual way.
    if isinstance(outcome, Failure):
        if not args.json:
            return outcome.exit_code
        document = json_text(outcome.document(run_id), as_line=args.command.HELP.json_lines)
        return show(document, exit_code=outcome.exit_code)
    code: int = exit_code(outcome, session) if exit_code else getattr(outcome, "exit_code", 0)
    if args.json:
        return show(json_text(SECRETS.value(json.loads(outcome.model_dump_json()))), exit_code=code)
    return show(redact(text(outcome, session)), exit_code=code)


def _outcome(session: Session, work: Callable[[Session], R], *, hands_over: HandsOver | None) -> R | Failure:
    """The result or the failure; the latter is on standard error already."""
    args, run_id = session.args, session.run_id
    if hands_over is not None:
        from riva_stream.cli.record import Record  # noqa: PLC0415 - for the commands that keep one

        session.record = Record(args, run_id, session.invocation, session.warn, hands_over)
    outcome: R | Failure
    last = ""
    try:
        try:
            try:
                with redirect_stderr(StandardError(session.observe)):
                    _set_up_logging(debug=args.debug)
                    _forget_empty_variables(session)
                    _refuse_bytes(args)
                    outcome = work(session)
            except Exception as error:  # noqa: BLE001 - the edge: nothing goes further
                outcome = failure_of(error, session.invocation)
            session.watch.settled()
        except KeyboardInterrupt:  # a signal before the event loop ran: from there on none raises this
            outcome = failure_of(Interrupted(session.watch.caught or signal.SIGINT), session.invocation)
        if session.record is not None:
            outcome = session.record.settle(outcome, session.watch)
        if isinstance(outcome, Failure):
            last = (
                failed_line(outcome.document(run_id))
                if args.log_format == "json"
                else outcome.text(run_id, debug=args.debug)
            )
        return outcome
    finally:
        session.screen.end(last)


def _forget_empty_variables(session: Session) -> None:
    """Remove empty AWS variables, which people use for "not set": the AWS libraries see a profile without a name."""
    empty = sorted(
        name for name, value in os.environ.items() if name.startswith("AWS_") and not value.strip()
    )
    for name in empty:
        del os.environ[name]
    if "AWS_PROFILE" in empty:
        session.warn(Warned(code="empty-profile", message="AWS_PROFILE is empty and was ignored"))


def _refuse_bytes(args: Namespace) -> None:
    """Reject words that are not UTF-8, which no request and no document could hold. Paths may be any bytes.

    The settings of a request are checked with the rest of them.

    Raises:
        ConfigurationError: there are some.
    """
    words = {
        name: value
        for name, value in vars(args).items()
        if isinstance(value, str | list | tuple) and name not in StageRequest.model_fields
    } | {"RIVA_STREAM_HOST_ID": os.environ.get("RIVA_STREAM_HOST_ID", "")}
    if wrong := sorted(name for name, value in words.items() if not is_text(value)):
        raise ConfigurationError(
            f"{' and '.join(wrong)} {NOT_TEXT}",
            hint="check the command line and the environment",
        )


def _set_up_logging(*, debug: bool) -> None:
    """Suppress the libraries' logs; with ``--debug`` show their warnings.

    Never show anything below warnings: at lower levels botocore writes requests with their credentials.
    """
    handler = logging.StreamHandler(sys.stderr) if debug else logging.NullHandler()
    handler.setLevel(logging.WARNING)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _keep_to_one_arena() -> None:
    """Limit the C allocator to one arena; must come before the first thread starts.

    glibc gives threads their own arenas. Memory freed by one thread is then not available to the others, and the parts
    of an archive pass through many threads: the process grew by half of its buffers. One arena has no measurable cost
    (docs/memory.md). It affects the whole process, so the command line does it and the library does not. Other C
    libraries do not have it and are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
