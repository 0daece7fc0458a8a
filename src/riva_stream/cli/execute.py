"""From parsed arguments to the exit code, whatever the command: signals, the screen, errors, the result."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel

from riva_stream.cli.allocator import keep_to_one_arena
from riva_stream.cli.command import Invocation
from riva_stream.cli.failure import Failure, failure_of
from riva_stream.cli.output import print_result, show_cursor
from riva_stream.cli.redact import SECRETS, redact, remember
from riva_stream.cli.rendering import ScreenStream, choose_renderer
from riva_stream.cli.screen import Screen
from riva_stream.cli.settings.env_file import on_read
from riva_stream.cli.signals import Interrupted, SignalWatch
from riva_stream.config import StageRequest, is_text
from riva_stream.errors import ConfigurationError
from riva_stream.events import Event, Warned

if TYPE_CHECKING:
    from riva_stream.cli.record import Record

__all__ = ["Session", "execute", "set_up_environment"]

R = TypeVar("R", bound=BaseModel)


class Session:
    """What a command's work is given: the screen, the signals, the run's id, and its record if it keeps one."""

    def __init__(self, args: Namespace, run_id: str, screen: Screen, watch: SignalWatch) -> None:
        self.args = args
        self.run_id = run_id
        self.screen = screen
        self.watch = watch
        self.record: Record | None = None
        self.warnings: list[str] = []
        """What the command line itself warned of."""

    def observe(self, event: Event, /) -> None:
        """Show an event, and record it. Never waits."""
        self.screen.observe(event)
        if self.record is not None:
            self.record.observe(event)

    def warn(self, warning: Warned, /) -> None:
        """The same for a warning of the command line's own, which the report shall have too."""
        self.warnings.append(warning.message)
        self.observe(warning)

    def say(self, text: str) -> None:
        """Show a text, and record it."""
        self.screen.say(text)
        if self.record is not None:
            self.record.say(text)

    def trace(self) -> None:
        """Show from here on what ``--debug`` shows."""
        self.args.debug = True
        _set_up_logging(debug=True)

    def on_signal(self, number: int) -> None:
        """Say that the signal was heard."""
        name = signal.Signals(number).name
        self.say(f"riva_stream: {name}: stopping cleanly; once more ends it at once\n")


def execute(
    args: Namespace,
    invocation: Invocation,
    run_id: str,
    work: Callable[[Session], R],
    text: Callable[[R, bool], str],
    exit_code: Callable[[R], int] = lambda _: 0,
    *,
    recorded: bool = False,
) -> int:
    """Do ``work``, show its result, and give the exit code.

    Args:
        args: with the flags of ``options.add_output``.
        invocation: how the program was called.
        run_id: for messages.
        work: the command's own part.
        text: the result for a person, given whether the terminal knows more than ASCII.
        exit_code: of a result, for commands whose result may be bad news.
        recorded: whether the run leaves a log, and state for the next step (with the flags of ``options.add_log``).
    """
    keep_to_one_arena()
    remember(os.environ)
    on_read(remember)
    with SignalWatch(show_cursor) as watch:
        outcome = _outcome(args, invocation, run_id, watch, work, recorded=recorded)
    # Writing may take as long as the reader likes; a signal ends the process again as it does anywhere.
    if isinstance(outcome, Failure):
        if not args.json:
            return outcome.exit_code
        document = json.dumps(outcome.document(run_id), indent=2, ensure_ascii=False)
        return print_result(document + "\n", exit_code=outcome.exit_code)
    if args.json:
        shown = SECRETS.value(json.loads(outcome.model_dump_json()))
        return print_result(
            json.dumps(shown, indent=2, ensure_ascii=False) + "\n", exit_code=exit_code(outcome)
        )
    fancy = sys.stdout is not None and "utf" in (sys.stdout.encoding or "").lower()
    return print_result(redact(text(outcome, fancy)), exit_code=exit_code(outcome))


def _outcome(
    args: Namespace,
    invocation: Invocation,
    run_id: str,
    watch: SignalWatch,
    work: Callable[[Session], R],
    *,
    recorded: bool,
) -> R | Failure:
    """The result or the failure; the latter stands on standard error already."""
    screen = Screen(choose_renderer(args, run_id))
    session = Session(args, run_id, screen, watch)
    if recorded:
        from riva_stream.cli.record import Record  # noqa: PLC0415 - for the commands that keep one

        session.record = Record(args, run_id, invocation, session.warn)
    outcome: R | Failure
    last = ""
    try:
        try:
            with redirect_stderr(ScreenStream(session)):
                _set_up_logging(debug=args.debug)
                _forget_empty_variables(session)
                _refuse_bytes(args)
                outcome = work(session)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the edge: nothing goes further
            if isinstance(error, KeyboardInterrupt):  # a signal before the event loop ran
                error = Interrupted(watch.caught or signal.SIGINT)
            outcome = failure_of(error, invocation)
        if session.record is not None:
            # What is done is done: a signal that comes now has nothing left to cancel.
            with watch.calling(lambda _: None):
                outcome = session.record.settle(outcome, watch)
        if isinstance(outcome, Failure):
            as_json = args.log_format == "json"
            last = _log_line(outcome, run_id) if as_json else outcome.text(run_id, debug=args.debug)
        return outcome
    finally:
        screen.close(last)


def set_up_environment(environment: Mapping[str, str], profile: str | None, *, profile_flag: bool) -> None:
    """Put what ``.env`` holds for the AWS libraries where they look for it: this process is ours.

    What the environment holds already stays. AWS_PROFILE ends up as what was found for it, and only that: one that
    was outranked or overridden would still be picked up.
    """
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    if profile is None or profile_flag:
        os.environ.pop("AWS_PROFILE", None)
    else:
        os.environ["AWS_PROFILE"] = profile


def _log_line(failure: Failure, run_id: str) -> str:
    head = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "run_id": run_id, "event": "failed"}
    return json.dumps(head | failure.document(run_id), ensure_ascii=False) + "\n"


def _forget_empty_variables(session: Session) -> None:
    """An empty AWS variable means nothing to a person, but to the AWS libraries it is a profile without a name."""
    empty = sorted(
        name for name, value in os.environ.items() if name.startswith("AWS_") and not value.strip()
    )
    for name in empty:
        del os.environ[name]
    if "AWS_PROFILE" in empty:
        session.warn(Warned(code="empty-profile", message="AWS_PROFILE is empty and was ignored"))


def _refuse_bytes(args: Namespace) -> None:
    """Words that are not UTF-8, of which no request and no document could be made. Paths may be any bytes.

    The settings of a request are looked at with the rest of them.

    Raises:
        ConfigurationError: there are some.
    """
    words = {name: value for name, value in vars(args).items() if isinstance(value, str | list | tuple)}
    wrong = [
        name for name, value in words.items() if name not in StageRequest.model_fields and not is_text(value)
    ]
    wrong += [name for name in ("RIVA_STREAM_HOST_ID",) if not is_text(os.environ.get(name))]
    if wrong:
        raise ConfigurationError(
            f"not UTF-8: {', '.join(sorted(wrong))}",
            hint="look at what the command line and the environment hold",
        )


def _set_up_logging(*, debug: bool) -> None:
    """Keep the libraries' logs to themselves; with ``--debug`` show their warnings.

    Never less than warnings: at lower levels botocore writes requests with their credentials.
    """
    handler = logging.StreamHandler(sys.stderr) if debug else logging.NullHandler()
    handler.setLevel(logging.WARNING)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
