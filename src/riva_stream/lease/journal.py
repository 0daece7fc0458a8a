"""The run's journal: who holds the prefix, which uploads it may complete, and which parts are durable. No I/O.

It is at ``<prefix>.riva-stream/journal.json`` while a run is in progress, and after an interrupted one. An upload is
completed only if a journal named it first: a run that takes over aborts the uploads that it names, by id, and is then
safe from them. For parts it is a hint, never an authority: they count only as far as the store itself confirms them.
"""

from __future__ import annotations

import math
import os
import socket
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator, model_validator
from pydantic_core import core_schema

from riva_stream.readback import Items, read_model

__all__ = [
    "LEASE",
    "SENT",
    "SENT_INSTEAD",
    "Identity",
    "Journal",
    "JournaledPart",
    "JournaledUpload",
    "Process",
]


LEASE = 30.0
"""Seconds; the lease assumed for a journal that cannot be parsed."""
SENT = "sent"
"""Value of :attr:`Identity.source_copy`: the store copies nothing."""
SENT_INSTEAD = "sent-instead"
"""Value of :attr:`Identity.source_copy`: the store was asked to copy, and did not."""
_COPY = "copy="
_LONGEST = 3600.0
"""Seconds; a journal's lease counts for no more than this."""
_MAX_BYTES = 64 << 20
_MOST_VALUES = 1 << 21
"""JSON values of a journal that is read, containers included: as many as 300,000 parts have."""


class _OrNone:
    """Read anything but a matching string as None: a part is only a hint, and must not hide the uploads beside it.

    A core schema, not a Python function called per part: a journal has tens of thousands, and is written often.
    """

    def __init__(self, pattern: str) -> None:
        self._schema = core_schema.str_schema(pattern=pattern, strict=True)

    def __get_pydantic_core_schema__(self, *_: object) -> core_schema.CoreSchema:
        return core_schema.with_default_schema(
            core_schema.nullable_schema(self._schema), default=None, on_error="default"
        )


_Crc64 = Annotated[str | None, _OrNone(r"^[A-Za-z0-9+/]{10}[AEIMQUYcgkosw048]=$")]
"""Eight bytes, base64."""


_Count = Annotated[int, Field(ge=0, lt=1 << 63)]
"""A number of bytes or parts, within what a run can have."""


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Process(_Document):
    """A process, identified so that another on the same host can tell whether it is still alive."""

    host: str
    boot: str
    """The kernel's boot id and the pid namespace: a pid means nothing after a reboot or in another container."""
    pid: int
    started: str
    """Start time in clock ticks since boot (proc(5), stat field 22): pids are reused."""

    @classmethod
    def this(cls) -> Process:
        """This process; RIVA_STREAM_HOST_ID names the host. Reads /proc, so call it in a thread."""
        # A setting of the process, not of a request: it applies to every lease, those of library callers included.
        host = os.environ.get("RIVA_STREAM_HOST_ID") or socket.gethostname()
        return cls(host=host, boot=_boot_id(), pid=os.getpid(), started=_started(os.getpid()) or "")

    def is_dead(self, here: Process) -> bool:
        """Whether it has certainly ended, as seen from ``here``; False whenever that cannot be known."""
        if not self.boot or (self.host, self.boot) != (here.host, here.boot):
            return False
        started = _started(self.pid)
        return bool(self.started) and started is not None and started != self.started


class Identity(_Document):
    """What a run stages and how: only a run of the same identity may resume its uploads."""

    source: str
    etag: str
    version_id: str | None
    size: _Count
    include: Items[str]
    part_size: int
    check: str
    options: Items[str]
    """Encryption, key, storage class and tags: fixed when an upload is created."""
    source_copy: str = SENT
    """How the store's copies of the source are proven; :data:`SENT` if it makes none. Requests of a dead run that are
    still in flight must not mix with parts that were made in another way."""

    @property
    def is_copied(self) -> bool:
        """Whether the store makes the copies."""
        return self.source_copy not in {SENT, SENT_INSTEAD}

    @model_validator(mode="before")
    @classmethod
    def _of_0_2(cls, document: Any) -> Any:
        """Read version 0.2.0, which has ``source_copy`` only as the last of the options."""
        match document:
            case dict({"options": list([*options, str(last)])}) if last.startswith(_COPY):
                return {"source_copy": last.removeprefix(_COPY)} | document | {"options": options}
        return document

    @field_serializer("options")
    def _for_0_2(self, options: list[str]) -> list[str]:
        """Keep version 0.2.0, which compares the options, from resuming a store's copy by sending the rest."""
        return options if self.source_copy == SENT else [*options, f"{_COPY}{self.source_copy}"]


class JournaledPart(_Document):
    """A part that the store had acknowledged when this was written."""

    number: _Count
    size: _Count
    etag: str
    fingerprint: str
    """xxh3_128 of its bytes, hexadecimal."""
    crc64nvme: _Crc64 = None
    """CRC64NVME of its bytes, base64, if it was computed."""


class JournaledUpload(_Document):
    """One upload and its durable parts; that of a document is named only so that it can be aborted."""

    key: str
    upload_id: str = Field(min_length=1)
    """Never empty: a store that ignores an empty ``uploadId`` would take the abort for a deletion of the object."""
    created_by: str
    """Id of the run that created it, as in the metadata of its object."""
    parts: Items[JournaledPart] = Field(default_factory=list)


class JournaledCheckpoint(_Document):
    """An object from which a run can resume in the middle of the archive."""

    key: str
    sha256: str
    """SHA-256 of its bytes, hexadecimal: a checkpoint that does not match is not used."""
    offset: _Count
    """Bytes of the archive that need not be read again."""


class Journal(_Document):
    """What one run has done so far."""

    format: Literal[1] = 1
    run_id: str
    token: str
    """Random for each hold: distinguishes it from another hold with the same run id."""
    process: Process
    started_at: datetime
    lease: float
    """Seconds. The holder writes its journal several times per lease; unchanged for one, it may be taken over."""

    @field_validator("lease")
    @classmethod
    def _is_bounded(cls, value: float) -> float:
        if math.isnan(value):
            raise ValueError("no number of seconds")
        return min(value, _LONGEST)  # write access to the bucket must not be enough to block others forever

    beat: int
    """Incremented with every write. Clocks are never compared."""
    stopped: bool = False
    """The run has ended and released the prefix: the next run need not watch the journal."""
    committing: bool | None = None
    """Whether readers may see changes of this run. If so, none of it is resumed, and its requests may be in flight
    until its lease expires. None: written by version 0.1, which does not say; the same as true."""
    conditional: bool = False
    """Whether the store was found to honour conditions: then no request of this run can harm another run's journal."""
    identity: Identity | None = None
    uploads: Items[JournaledUpload] = Field(default_factory=list)
    checkpoints: Items[JournaledCheckpoint] = Field(default_factory=list, max_length=8)
    """Newest first."""
    stale: Items[str] = Field(default_factory=list)
    """Keys at which unfinished commits of earlier runs may have left an object. Without permission to list, this is the
    only record of them."""

    def to_bytes(self) -> bytes:
        """The stored form: compact, since it is written often."""
        return self.model_dump_json().encode() + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> Journal:
        """Parse a stored journal.

        Raises:
            ValueError: it is truncated, from another version, or not a journal at all.
        """
        return read_model(cls, data, size=_MAX_BYTES, values=_MOST_VALUES)

    @property
    def has_begun(self) -> bool:
        """Whether this run may have sent requests whose effect readers see."""
        return self.committing is not False

    def leftover_keys(self) -> list[str]:
        """Keys at which this run, or one before it, may have left an object that no marker vouches for."""
        begun = {upload.key for upload in self.uploads} if self.has_begun else set()
        return sorted({*self.stale, *begun})

    def holder(self) -> str:
        """The holder, described for messages."""
        return f"run {self.run_id} on {self.process.host} (pid {self.process.pid})"


def _boot_id() -> str:
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """Start time of a live process, or "" when no process has this pid (or it has ended and was not reaped yet).

    None if that cannot be known: /proc may hide the processes of other users (proc(5), hidepid).
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return "" if Path("/proc/1").exists() else None
    except OSError:
        return None
    # the command's name is in parentheses and may contain anything, so count from the last parenthesis
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in {"Z", "X"} else fields[19]
