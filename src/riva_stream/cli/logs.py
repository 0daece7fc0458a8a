"""Where records go: to standard error and to files, each through a handler with its own queue and thread.

A terminal stopped with Ctrl-S, a pipe that nobody reads, or a disk that hangs blocks whoever writes to it. That must
not be the run: its event loop queues records and continues. Progress is not queued at all: only the newest counters
are kept, and the thread shows them at intervals. What must be read (warnings, errors) is queued, and waited for at the
end, though not for ever.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import os
import queue
import socket
import threading
import time
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from riva_stream.cli.options import ALL, home_of, parse_count, state_dir_of
from riva_stream.cli.output import draw, visible_json, write_stderr
from riva_stream.cli.progress import (
    Closed,
    Counters,
    Item,
    LineRenderer,
    Renderer,
    record_of,
    sentence,
)
from riva_stream.cli.settings.env_file import EnvFile
from riva_stream.cli.settings.places import Places, as_switch
from riva_stream.events import Event, PhaseChanged, Progress, Warned, kind_of
from riva_stream.files import open_regular, read_end
from riva_stream.handover import SCRIPT_ID, SCRIPT_NAME
from riva_stream.log_place import LogPlace
from riva_stream.printable import in_one_line, visible
from riva_stream.redact import NAMED, SECRETS, Redactor
from riva_stream.uris import split_uri

__all__ = [
    "JsonLines",
    "LogFile",
    "LogJson",
    "LogLines",
    "LogSettings",
    "Outlet",
    "Printer",
    "StandardError",
    "choose_renderer",
    "document_of",
    "log_settings",
    "observe",
    "renderer_of",
]

_MOST_WAITING = 2000


# --- from a record to its thread


class Outlet(QueueHandler):
    """A handler behind a queue and a thread.

    Args:
        target: writes; may block.
        slow: what was so slow that records had to be dropped.
    """

    def __init__(self, target: Printer, *, slow: str = "nobody read standard error") -> None:
        self._waiting: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
        super().__init__(self._waiting)
        self.latest: Progress | None = None
        """Set for every progress event: one assignment, no lock, thousands of times."""
        self._slow = slow
        self._lost = 0
        self._listener = _Listener(self, self._waiting, target)
        self._listener.start()
        self._ending: threading.Thread | None = None

    def use(self, target: Printer) -> None:
        """Use another printer from now on."""
        self._listener.target = target

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Leave formatting to the thread, not the run."""
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue a record without waiting. An event may be dropped, a text of the command line's own is not."""
        if self._waiting.qsize() < _MOST_WAITING or not isinstance(record.item, Event):  # type: ignore[attr-defined]
            self._waiting.put(record)
        else:
            self._lost += 1

    def lost(self) -> logging.LogRecord | None:
        """The message about records that were dropped."""
        lost, self._lost = self._lost, 0
        return record_of(f"({lost} messages were dropped: {self._slow})") if lost else None

    def end(self, last: str = "", *, failed: bool = False, timeout: float = 5.0) -> bool:
        """Write what is left, the last counters, and then ``last`` as it is; return whether all of it was written.

        Args:
            last: such as the error that the run ended with.
            failed: whether an error was reported already, which is to come last.
            timeout: seconds to wait at most; the thread continues by itself.
        """
        if self._ending is None:
            closed = record_of(Closed(None if failed else self.latest))
            for record in filter(None, (self.lost(), closed)):
                self._waiting.put(record)
            self._ending = threading.Thread(target=self._finish, args=(last,), daemon=True)
            try:
                self._ending.start()
            except RuntimeError:  # no more threads on this host: then here, however long it takes
                self._finish(last)
                return True
        self._ending.join(timeout)
        return not self._ending.is_alive()

    def _finish(self, last: str) -> None:
        self._listener.stop()
        if last:
            self._listener.target.write(last)


class _Listener(QueueListener):
    """Also takes the newest counters as a record of its own, once per interval."""

    def __init__(
        self, outlet: Outlet, waiting: queue.SimpleQueue[logging.LogRecord], target: Printer
    ) -> None:
        super().__init__(waiting)
        self._waiting = waiting
        self.target = target
        self._outlet = outlet
        self._due = time.monotonic() + target.interval

    def handle(self, record: logging.LogRecord) -> None:
        # Without its lock, which logging waits for when the process ends: a write may never end.
        self.target.emit(record)

    def dequeue(self, block: bool) -> logging.LogRecord:  # noqa: ARG002 - the base class's signature
        while True:
            if self._waiting.empty() and (lost := self._outlet.lost()):
                return lost
            if time.monotonic() >= self._due:
                self._due = time.monotonic() + self.target.interval
                if self._outlet.latest is not None:
                    return record_of(self._outlet.latest)
            with contextlib.suppress(queue.Empty):
                return self._waiting.get(timeout=max(0.0, self._due - time.monotonic()))


class Printer(logging.Handler):
    """Passes the rendered text of a record to ``write``, which must not raise."""

    def __init__(self, renderer: Renderer, write: Callable[[str], None] = write_stderr) -> None:
        super().__init__()
        self.setFormatter(renderer)
        self.interval = renderer.interval
        """Seconds between two polls of the counters."""
        self.write = write
        self._show = draw if renderer.draws else write

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; a bar that cannot be drawn must not suppress the errors."""
        try:
            text = self.format(record)
        except Exception as error:  # noqa: BLE001 - whatever it is
            text = f"(this could not be shown: {error!r})\n"
        if text:
            self._show(text)


class LogFile(Printer):
    """A file that records are appended to, for as long as the disk accepts them.

    Args:
        path: its folder is created if missing; an existing file is appended to.
        renderer: makes the text.
        failed: is told, once, why nothing more is written.
    """

    def __init__(self, path: Path, renderer: Renderer, failed: Callable[[str], None]) -> None:
        super().__init__(renderer, self._append)
        self.path = path
        self._failed = failed
        self._descriptor: int | None = None

    def open(self) -> bool:
        """Open the file; return whether that worked."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Not world-readable: it names buckets and hosts. Each write is appended, whoever else has it open.
            self._descriptor = open_regular(
                self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640, device_too=True
            )
        except OSError as error:
            self._give_up(error)
            return False
        # The lock shows that the run is still running, for as long as the process lives, and blocks nobody.
        with contextlib.suppress(OSError):
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A killed run, or a full disk, may have cut its last line.
            if read_end(self.path, 1) not in {b"", b"\n"}:
                os.write(self._descriptor, b"\n")
        return True

    def close(self) -> None:
        """Stop writing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
        super().close()

    def _append(self, text: str) -> None:
        view = memoryview(text.encode(errors="backslashreplace"))
        try:
            while view and self._descriptor is not None:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            self.close()
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._failed(f"{self.path} cannot be written: {error.strerror or error}")


def observe(logger: logging.Logger, item: Item, level: int | None = None) -> None:
    """Pass an event, or a text, to all outlets of a logger. Never waits."""
    if not isinstance(item, Progress):
        logger.handle(record_of(item, level))
        return
    for handler in logger.handlers:
        if isinstance(handler, Outlet):
            handler.latest = item


class StandardError(io.TextIOBase):
    """``sys.stderr`` during a run: what a library prints must neither block the run nor break the bars."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str, /) -> int:
        """Pass it on."""
        if text.strip():
            self._say(text)
        return len(text)


# --- from a record to its text


def document_of(record: logging.LogRecord) -> dict[str, Any]:
    """The record as a document: ``event``, by :func:`~riva_stream.events.kind_of`, and the event's fields."""
    item: Item = record.item  # type: ignore[attr-defined]
    return {"event": "message"} if isinstance(item, str) else {"event": kind_of(type(item)), **asdict(item)}


class JsonLines(JsonFormatter, Renderer):
    """``{"time": …, "run_id": …, "event": "member_found", …its fields}``.

    Args:
        run_id: is in every line.
        redactor: removes more than the secrets.
        interval: seconds between two lines of progress.
    """

    def __init__(self, run_id: str, redactor: Redactor | None = None, *, interval: float = 5.0) -> None:
        super().__init__(json_ensure_ascii=False)
        self.interval = interval
        self._run_id = run_id
        self._redactor = redactor or SECRETS
        self._highest: dict[str, int] = {}

    def format(self, record: logging.LogRecord) -> str:
        """One line, or none for the end of a run."""
        item: Item = record.item  # type: ignore[attr-defined]
        if isinstance(item, Closed):
            return ""
        message = {"event": "message", "message": item.rstrip("\n")} if isinstance(item, str) else {}
        return self.line(record, {"time": _time(record), "run_id": self._run_id, **message})

    def line(self, record: logging.LogRecord, head: dict[str, Any]) -> str:
        """The head, then the event's fields; no counter of progress is ever lower than in an earlier line."""
        document = document_of(record)
        if isinstance(record.item, Progress):  # type: ignore[attr-defined]
            counters = {name: value for name, value in document.items() if isinstance(value, int)}
            self._highest = {name: max(n, self._highest.get(name, 0)) for name, n in counters.items()}
            document |= self._highest
        return (
            visible_json(self.jsonify_log_record(self._redactor.value({**head, **document, **head}))) + "\n"
        )


class LogLines(Renderer):
    """The lines of a log file, each with the time, the level and the run's id.

    Args:
        run_id: is in every line.
        redactor: removes what the log must not have.
        interval: seconds between two lines of progress.
    """

    def __init__(self, run_id: str, redactor: Redactor | None = None, *, interval: float = 30.0) -> None:
        super().__init__()
        self.interval = interval
        self._run_id = run_id
        self._redactor = redactor or Redactor()
        self._counters = Counters()

    def text(self, item: Item) -> str:
        """The text of one line, or of several."""
        match item:
            case str():
                return item
            case Progress():
                return self._counters.text(item, time.monotonic())
            case Closed():
                return self.text(item.latest) if item.latest is not None else ""
            case Warned():
                return item.message
        return sentence(item)

    def format(self, record: logging.LogRecord) -> str:
        """One line or more, each with the run's id; redacted before it is split, as a secret may span two lines."""
        head = f"{_utc(record)} [{record.levelname}] [{self._run_id}] "
        item: Item = record.item  # type: ignore[attr-defined]
        text = self._redactor.text(self.text(item))
        # An event has one line, whatever its keys hold; a text of our own may have several.
        lines = [in_one_line(text)] if isinstance(item, Event) else visible(text).split("\n")
        return "".join(f"{head}{line}\n" for line in lines if line.strip())


class LogJson(JsonLines):
    """The same as JSON, with the fields that the scripts of the pipeline use."""

    def __init__(self, run_id: str, redactor: Redactor | None = None, *, interval: float = 30.0) -> None:
        super().__init__(run_id, redactor, interval=interval)
        self._lines = LogLines(run_id, redactor)
        self._host = socket.gethostname()
        self._step = ""

    def format(self, record: logging.LogRecord) -> str:
        """One line, unless there is nothing to report."""
        item: Item = record.item  # type: ignore[attr-defined]
        if isinstance(item, Closed):
            return "" if item.latest is None else self.format(record_of(item.latest))
        if isinstance(item, PhaseChanged):
            self._step = item.phase
        text = self._lines.text(item).strip("\n")
        head = {
            "timestamp": _utc(record),
            "level": record.levelname,
            "script_id": SCRIPT_ID,
            "script_name": SCRIPT_NAME,
            "run_id": self._run_id,
            "host": self._host,
            "step": self._step,
            "message": text,
        }
        return self.line(record, head) if text.strip() else ""


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _utc(record: logging.LogRecord) -> str:
    return _time(record).replace("+00:00", "Z")


def choose_renderer(args: Namespace, run_id: str) -> Renderer:
    """Bars where they can be drawn, otherwise lines; a flag takes precedence."""
    if args.quiet:
        return Renderer()
    if args.log_format == "json":
        return JsonLines(run_id)
    # Only the terminal says what it can do, not a file of settings.
    drawable = os.isatty(2) and os.environ.get("TERM", "").lower() not in {"", "dumb", "unknown"}
    if args.log_format != "plain" and drawable:
        from riva_stream.cli.live import LiveRenderer  # noqa: PLC0415 - rich takes a while to import

        return LiveRenderer(run_id)
    return LineRenderer(run_id)


# --- where a run's log goes and what it looks like: flags, then the environment, then ``.env``, as for all settings

_LEVELS = {
    **{level: level for level in ("debug", "info", "warning", "error")},
    "trace": "debug",
    "warn": "warning",
    "critical": "error",
    "fatal": "error",
}
_FORMATS = {"pretty": "pretty", "text": "pretty", "plain": "pretty", "json": "json", "jsonl": "json"}
_KEEP_RUNS = 50


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The log of one run."""

    folder: Path
    level: str = "info"
    form: str = "pretty"
    keep_runs: int | None = _KEEP_RUNS
    """Number of runs whose logs and folders are kept; None: all."""
    tee: bool = False
    """Its lines go to standard error as well, instead of bars."""
    target: LogPlace | None = None
    redactor: Redactor = field(default_factory=Redactor, repr=False)
    warnings: tuple[Warned, ...] = ()


def renderer_of(settings: LogSettings, run_id: str) -> Renderer:
    """The renderer of a log's lines."""
    kind = LogJson if settings.form == "json" else LogLines
    return kind(run_id, settings.redactor, interval=5.0 if settings.level == "debug" else 30.0)


def log_settings(args: Namespace, file: EnvFile) -> LogSettings:
    """Look up all settings of the log.

    The names LOG_LEVEL, LOG_FORMAT and so on are shared by many programs. An invalid value therefore causes a warning,
    and never ends a run.
    """
    warnings: list[Warned] = []
    variable = Places(file).word

    def warn(message: str) -> None:
        warnings.append(Warned(code="log-settings", message=message))

    folder = args.log_dir or variable("LOG_DIR") or state_dir_of(args, file) / "logs"
    level = (args.log_level or variable("LOG_LEVEL") or "info").lower()
    if level not in _LEVELS:
        warn(f"LOG_LEVEL is not one of {', '.join(dict.fromkeys(_LEVELS.values()))}: info is used")
    form = (args.log_file_format or variable("LOG_FORMAT") or "pretty").lower()
    if form not in _FORMATS:
        warn("LOG_FORMAT is neither pretty nor json: pretty is used")
    try:
        keep_runs = args.keep_runs or parse_count(variable("RIVA_STREAM_KEEP_RUNS") or str(_KEEP_RUNS))
    except ArgumentTypeError:
        warn("RIVA_STREAM_KEEP_RUNS must be 1 or greater, or 'all': all are kept")
        keep_runs = ALL
    return LogSettings(
        folder=home_of(folder),
        keep_runs=None if keep_runs == ALL else keep_runs,
        level=_LEVELS.get(level, "info"),
        form=_FORMATS.get(form, "pretty"),
        tee=_switch(variable("LOG_TEE_STDOUT"), "LOG_TEE_STDOUT", warn),
        target=_target(args.log_to_s3, variable, warn),
        redactor=_redactor(args.log_redact or variable("LOG_REDACT"), variable),
        warnings=tuple(warnings),
    )


def _switch(value: str, name: str, warn: Callable[[str], None]) -> bool:
    on = as_switch(value or "0")
    if on is None:
        warn(f"{name} is neither 1 nor 0: 0 is used")
    return on is True


def _target(flag: str | None, variable: Callable[[str], str], warn: Callable[[str], None]) -> LogPlace | None:
    if flag:
        try:
            bucket, prefix = split_uri(flag)
        except ValueError as error:
            warn(f"--log-to-s3 is not s3://BUCKET/PREFIX, it {error}: the log is kept locally only")
            return None
        return LogPlace(bucket, prefix.strip("/"))
    if not _switch(variable("LOG_TO_S3"), "LOG_TO_S3", warn):
        return None
    with contextlib.suppress(ValueError):
        bucket, rest = split_uri(f"s3://{variable('LOG_S3_BUCKET').removeprefix('s3://').strip('/')}")
        if not rest:
            return LogPlace(bucket, (variable("LOG_S3_PREFIX") or "riva-logs").strip("/"))
    warn("LOG_TO_S3 is set, but LOG_S3_BUCKET is not a bucket: the log is kept locally only")
    return None


def _redactor(wanted: str, variable: Callable[[str], str]) -> Redactor:
    on = False if wanted.lower() == "none" else as_switch(wanted)
    if on is False:
        return Redactor(accounts=False)
    names = [] if on else [name.strip() for name in wanted.split(",")]
    return Redactor(names, [*NAMED, *(value for name in names if name and (value := variable(name)))])
