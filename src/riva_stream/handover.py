"""What one step of the pipeline hands to the next: small files in the state directory, as shell scripts read them.

One value per file, with a newline at its end, for ``$(cat state/s3_staging_uri)``. ``130.status`` is their commit, as
the marker is the bucket's: it is removed first and written last, each time after waiting for the disk, so that it does
not survive a power cut without them. Each file is replaced as a whole, and all of them are written under a lock, so that
two runs with one state directory leave the files of one of them, never a mixture.

Only the standard library is loaded here, so that the import costs a shell script next to nothing. Every function
blocks: not for the event loop.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from riva_stream.errors import unwritable_state
from riva_stream.files import open_regular, read_regular
from riva_stream.layout import ARTIFACT_JSON, CHECKSUMS

__all__ = [
    "COPIES",
    "LAST_ARTIFACT",
    "LAST_CHECKSUMS",
    "RECORD",
    "SCRIPT_ID",
    "SCRIPT_NAME",
    "STATUS",
    "VALUES",
    "Ending",
    "Handover",
    "begin",
    "code_of",
    "finish",
    "iso",
    "put",
    "read",
    "read_json",
]

_SCHEMA = 1
SCRIPT_ID = "130"
SCRIPT_NAME = "riva-130-downloads-validates-and-stages-model-artifacts-to-s3"

STATUS = "130.status"
RECORD = "130.json"
LAST_ARTIFACT = "last_artifact_metadata.json"
LAST_CHECKSUMS = "last_checksums.sha256"
VALUES = (
    "s3_staging_uri",
    "upload_timestamp",
    "source_model_s3_uri",
    "source_model_size",
    "checksum_file",
    "artifact_metadata",
    "container_s3_uri",
    "bintarball_manifest",
    "primary_riva_file",
)
"""Every file that holds one value; those for which a run has no value are removed."""
COPIES = {
    "artifact_metadata": (ARTIFACT_JSON, LAST_ARTIFACT),
    "checksum_file": (CHECKSUMS, LAST_CHECKSUMS),
}
"""Values that are paths of documents: their names in the run's folder, and in the state directory itself."""

_LOCK = ".130.lock"
_MAX_BYTES = 64 << 20
"""Maximum bytes of a file, the same as of a document in a bucket."""
_PATIENCE = 30.0
"""Seconds to wait for a lock that is held while a few names reach the disk: a longer holder is suspended or dead."""
_UNSYNCABLE = {errno.EINVAL, errno.ENOTSUP, errno.EACCES}
"""On some network file systems; or of a folder that may be written to but not read."""
_LOOKS = 100  # attempts, 10 ms apart, to read a set of files that another run is writing


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended."""

    run_id: str
    exit_code: int
    duration_ms: int
    log_file: str
    command: str
    """The shell line that repeats the run, without secrets."""
    ended_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def status(self) -> str:
        """``success`` or ``failure``."""
        return "failure" if self.exit_code else "success"


@dataclass(frozen=True, slots=True)
class Handover:
    """The content of a state directory."""

    folder: Path
    status: Mapping[str, str]
    """``130.status``; empty when there is none."""
    record: Mapping[str, Any]
    """``130.json``; empty when there is none."""
    values: Mapping[str, str]
    """The existing files, by name."""
    artifact: Mapping[str, Any]
    """``last_artifact_metadata.json``; empty when there is none."""
    copies: Mapping[str, Path]
    """The documents of :data:`COPIES` below this folder: the run's own as long as they are what was handed over."""
    report: Mapping[str, Any]
    """``report.json`` of the staging that was handed over; empty when there is none."""


def iso(moment: datetime) -> str:
    """``2025-09-23T10:15:00Z``."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def begin(folder: Path, run_id: str, *, log_file: str, command: str) -> None:
    """Retract an older run's status before this run changes anything: until it ends there is no status.

    Raises:
        ConfigurationError: the state directory cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            # The record first: a run that is killed in between has not left a folder in which nothing was ever staged.
            put(folder / RECORD, _record(run_id, log_file, command, "running", datetime.now(UTC)))
            (folder / STATUS).unlink(missing_ok=True)
            _sync(folder)
    except OSError as error:
        raise unwritable_state(folder, error) from error


def finish(
    folder: Path,
    ending: Ending,
    values: Mapping[str, str],
    artifact: bytes | None,
    checksums: bytes | None = None,
) -> None:
    """Write the files of a run that has ended, ``130.status`` last, and remove those that do not apply to it.

    Args:
        folder: the state directory.
        ending: how it ended.
        values: the known values, by the names of :data:`VALUES`; none after a failure.
        artifact: ``artifact.json`` of the staging.
        checksums: its ``checksums.sha256``.

    Raises:
        OSError: they cannot be written; then there is no ``130.status``, or an older run's where not even that could
            be removed.
    """
    try:
        _replace_all(folder, ending, values, artifact, checksums)
    except OSError:
        # An older status would pass its values off as those of this run. No lock: it may be what failed.
        with contextlib.suppress(OSError):
            (folder / STATUS).unlink(missing_ok=True)
            _sync(folder)
        raise


def _replace_all(
    folder: Path,
    ending: Ending,
    values: Mapping[str, str],
    artifact: bytes | None,
    checksums: bytes | None,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    own = folder / "runs" / ending.run_id
    texts: dict[str, str | bytes | None] = {
        name: f"{values[name]}\n" if values.get(name) else None for name in VALUES
    }
    texts |= {LAST_ARTIFACT: artifact, LAST_CHECKSUMS: checksums}
    texts[RECORD] = _record(ending.run_id, ending.log_file, ending.command, ending.status, ending.ended_at)
    # The run itself wrote these without waiting for the disk: its heartbeat must not depend on it.
    copies = [Path(values[name]) for name in COPIES if values.get(name)]
    for path in (*copies, own / "report.json", own, own.parent):
        _sync(path)
    with contextlib.ExitStack() as partials:
        # The contents reach the disk before the lock is taken, which other runs wait for.
        ready = {
            name: partials.enter_context(_partial(folder / name, data)) if data is not None else None
            for name, data in texts.items()
        }
        status = partials.enter_context(_partial(folder / STATUS, _status(ending)))
        with _locked(folder):
            (folder / STATUS).unlink(missing_ok=True)
            _sync(folder)  # or a power cut could leave the old status beside new values
            for name, partial in ready.items():
                if partial is not None:
                    partial.replace(folder / name)
                else:
                    (folder / name).unlink(missing_ok=True)
            _sync(folder)
            status.replace(folder / STATUS)
            _sync(folder)


def read(folder: Path) -> Handover:
    """Read the current content, all of it from one run.

    Raises:
        OSError: it cannot be read.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    for _ in range(_LOOKS):
        before = _get(folder, STATUS)
        status = dict(line.partition("=")[::2] for line in before.splitlines())
        values = {name: text.removesuffix("\n") for name in VALUES if (text := _get(folder, name))}
        own = folder / "runs" / status.get("run_id", "")
        found = Handover(
            folder,
            status,
            read_json(folder / RECORD),
            values,
            read_json(folder / LAST_ARTIFACT),
            {name: path for name in COPIES if values.get(name) and (path := _copy(folder, own, name))},
            _report(own, values),
        )
        if _get(folder, STATUS) == before:
            return found
        time.sleep(0.01)
    raise OSError("its files change all the time")


def _copy(folder: Path, own: Path, name: str) -> Path | None:
    """Where a document is now; runs of one id share a folder, so a file in it is not trusted for its name."""
    in_run, in_state = COPIES[name]
    try:
        handed_over = read_regular(folder / in_state, _MAX_BYTES)
    except FileNotFoundError:  # as version 0.2 leaves it
        return own / in_run if (own / in_run).is_file() else None
    with contextlib.suppress(OSError):
        if read_regular(own / in_run, _MAX_BYTES) == handed_over:
            return own / in_run
    return folder / in_state


def _report(own: Path, values: Mapping[str, str]) -> dict[str, Any]:
    """The report in a run's folder, unless it is of another staging: an earlier one with the same id."""
    report = read_json(own / "report.json")
    described = report.get("artifact") or report.get("deployment")
    created_at = str(described.get("created_at")) if isinstance(described, dict) else ""
    with contextlib.suppress(ValueError):  # not a time
        destination = str(report.get("destination")).rstrip("/")
        of = (report.get("run_id"), destination, iso(datetime.fromisoformat(created_at)))
        if of == (own.name, values.get("s3_staging_uri"), values.get("upload_timestamp")):
            return report
    return {}


def _status(ending: Ending) -> str:
    lines = {
        "status": ending.status,
        "log": ending.log_file,
        "timestamp": iso(ending.ended_at),
        "schema": str(_SCHEMA),
        "run_id": ending.run_id,
        "duration_ms": str(ending.duration_ms),
    }
    if ending.exit_code:
        lines["exit_code"] = str(ending.exit_code)
    # A line break in a value (a folder's name may have one) would start a line of its own.
    return "".join(f"{name}={' '.join(value.splitlines())}\n" for name, value in lines.items())


def _record(run_id: str, log_file: str, command: str, status: str, when: datetime) -> str:
    document = {
        "schema": _SCHEMA,
        "script_id": SCRIPT_ID,
        "script_name": SCRIPT_NAME,
        "timestamp": iso(when),
        "log_file": log_file,
        "run_id": run_id,
        "status": status,
        "command": command,
    }
    return json.dumps(document, indent=2) + "\n"


def put(path: Path, data: str | bytes) -> None:
    """Replace a file as a whole: readers see the old one or the new one, never half of it, even after a power cut.

    Raises:
        OSError: it cannot be written.
    """
    with _partial(path, data) as partial:
        partial.replace(path)


@contextlib.contextmanager
def _partial(path: Path, data: str | bytes) -> Iterator[Path]:
    """A file beside ``path`` with this content, on the disk, for the block to move there; else it is removed."""
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data if isinstance(data, bytes) else data.encode(errors="surrogateescape"))
            file.flush()
            _fsync(file.fileno())
        yield partial
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk.

    Raises:
        OSError: the disk failed.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in _UNSYNCABLE | {errno.ENOENT, errno.ENOTDIR}:
            raise
        return
    try:
        _fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync(descriptor: int) -> None:
    """Sync to the disk; where that is not supported, do without."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSYNCABLE:
            raise


def _get(folder: Path, name: str) -> str:
    try:
        return read_regular(folder / name, _MAX_BYTES).decode(errors="surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return ""


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is no file, or no valid object in it.

    Raises:
        OSError: it cannot be read.
    """
    with contextlib.suppress(ValueError, RecursionError):
        document = json.loads(_get(path.parent, path.name))
        if isinstance(document, dict):
            return document
    return {}


def code_of(text: str) -> int | None:
    """The exit code in a status; None where there is none, or one that no process can have."""
    return int(text) if text.isdecimal() and len(text) <= 3 else None  # noqa: PLR2004 - 255 is the highest


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other runs out briefly; where files cannot be locked (some network file systems), do without."""
    with open(open_regular(folder / _LOCK, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab") as file:  # noqa: PTH123 - a descriptor
        until = time.monotonic() + _PATIENCE
        with contextlib.suppress(OSError):
            while time.monotonic() < until:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(0.01)
        yield
