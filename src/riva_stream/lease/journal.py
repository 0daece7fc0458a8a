"""The run's journal: who holds the prefix, what it may complete, and which parts the store has already. No I/O.

It is at ``<prefix>.riva-stream/journal.json`` while a run is under way, and after one that was interrupted. Nothing is
completed that a journal did not name before: whoever takes over aborts what it names, by id, and has then nothing to
fear. About parts it is a hint, never an authority: they are believed only as far as the store itself confirms them.
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
"""Seconds; of a journal that cannot be understood."""
SENT = "sent"
"""Of :attr:`Identity.source_copy`: the store copies nothing."""
SENT_INSTEAD = "sent-instead"
"""Of the same: it was asked to, and did not."""
_COPY = "copy="
_LONGEST = 3600.0
"""Seconds; of a lease that can be asked for."""
_MOST = 64 << 20
_MOST_VALUES = 1 << 21
"""Numbers, texts and what holds them in a journal that is read: 300,000 parts have as many."""


class _OrNone:
    """What is no such text counts as None: a part is a hint, and the uploads beside it have to be known whatever it says.

    Not a function of ours for each part: a journal has tens of thousands, and is written often.
    """

    def __init__(self, pattern: str) -> None:
        self._schema = core_schema.str_schema(pattern=pattern, strict=True)

    def __get_pydantic_core_schema__(self, *_: object) -> core_schema.CoreSchema:
        return core_schema.with_default_schema(
            core_schema.nullable_schema(self._schema), default=None, on_error="default"
        )


_Crc64 = Annotated[str | None, _OrNone(r"^[A-Za-z0-9+/]{10}[AEIMQUYcgkosw048]=$")]
"""base64 of eight bytes."""


_Count = Annotated[int, Field(ge=0, lt=1 << 63)]
"""Of bytes or parts: what nothing can have is told by no run."""


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Process(_Document):
    """A process, so that another one of the same host can tell whether it still lives."""

    host: str
    boot: str
    """The kernel's boot id and the pid namespace: a pid means nothing after a reboot, nor in another container."""
    pid: int
    started: str
    """Start time in clock ticks since boot (proc(5), stat field 22): pids are used again."""

    @classmethod
    def this(cls) -> Process:
        """This very process; RIVA_STREAM_HOST_ID names the host. Reads /proc, so call it in a thread."""
        # Of the process and not of a request: whoever takes a lease has it, the library's callers too.
        host = os.environ.get("RIVA_STREAM_HOST_ID") or socket.gethostname()
        return cls(host=host, boot=_boot_id(), pid=os.getpid(), started=_started(os.getpid()) or "")

    def is_dead(self, here: Process) -> bool:
        """Whether it surely runs no more, as seen from ``here``; False whenever that cannot be known."""
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
    """What proves the store's copies of the source, :data:`SENT` where it makes none: what a dead run has still under way
    must not come in between parts that were made otherwise."""

    @property
    def is_copied(self) -> bool:
        """Whether the store makes the copies."""
        return self.source_copy not in {SENT, SENT_INSTEAD}

    @model_validator(mode="before")
    @classmethod
    def _of_0_2(cls, document: Any) -> Any:
        """Version 0.2.0 has it as the last of the options alone."""
        match document:
            case dict({"options": list([*options, str(last)])}) if last.startswith(_COPY):
                return {"source_copy": last.removeprefix(_COPY)} | document | {"options": options}
        return document

    @field_serializer("options")
    def _for_0_2(self, options: list[str]) -> list[str]:
        """Version 0.2.0 compares the options, and would else resume what the store copies by sending the rest."""
        return options if self.source_copy == SENT else [*options, f"{_COPY}{self.source_copy}"]


class JournaledPart(_Document):
    """A part that the store had acknowledged when this was written."""

    number: _Count
    size: _Count
    etag: str
    fingerprint: str
    """xxh3_128 of its bytes, hexadecimal."""
    crc64nvme: _Crc64 = None
    """Of its bytes, base64, where it was computed."""


class JournaledUpload(_Document):
    """One upload, and the parts of it that were durable; of a document's only that it is there to be aborted."""

    key: str
    upload_id: str = Field(min_length=1)
    """Never empty: a request to abort such an upload is one to delete the object, to a store that overlooks the parameter."""
    created_by: str
    """Run id of the run that created it, which its object's metadata carry."""
    parts: Items[JournaledPart] = Field(default_factory=list)


class JournaledCheckpoint(_Document):
    """An object from which a run can resume in the middle of the archive."""

    key: str
    sha256: str
    """Of its bytes, hexadecimal: a checkpoint is believed only if it is this very one."""
    offset: _Count
    """Bytes of the archive that need not be read again."""


class Journal(_Document):
    """What one run has done so far."""

    format: Literal[1] = 1
    run_id: str
    token: str
    """Of this very hold: tells it from another one with the same run id."""
    process: Process
    started_at: datetime
    lease: float
    """Seconds. A holder writes its journal several times in that time; who sees no change for so long takes over."""

    @field_validator("lease")
    @classmethod
    def _is_bounded(cls, value: float) -> float:
        if math.isnan(value):
            raise ValueError("no number of seconds")
        return min(value, _LONGEST)  # whoever may write the bucket must not make others wait for ever

    beat: int
    """Grows with every write. Clocks are never compared."""
    stopped: bool = False
    """The run has ended and let go; whoever comes need not watch it."""
    committing: bool | None = None
    """Whether readers may see changes of this run. If so, nothing of it is resumed, and requests of it may still be
    under way until its lease is over. None: written by version 0.1, which does not tell: the same as true."""
    conditional: bool = False
    """Whether the store was found to keep to conditions: then nothing of this run can strike another one's journal."""
    identity: Identity | None = None
    uploads: Items[JournaledUpload] = Field(default_factory=list)
    checkpoints: Items[JournaledCheckpoint] = Field(default_factory=list, max_length=8)
    """The newest first."""
    stale: Items[str] = Field(default_factory=list)
    """Keys at which commits of earlier runs, which did not come to their end, may have left an object. Where nothing may
    be listed nobody else knows of them."""

    def to_bytes(self) -> bytes:
        """As it is stored: compact, it is written often."""
        return self.model_dump_json().encode() + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> Journal:
        """Read it back.

        Raises:
            ValueError: it is cut, from another version, or not a journal at all.
        """
        return read_model(cls, data, size=_MOST, values=_MOST_VALUES)

    @property
    def has_begun(self) -> bool:
        """Whether requests of this run that readers see the effect of may have been sent."""
        return self.committing is not False

    def leaves(self) -> list[str]:
        """Keys at which this run, or those before it, may have left an object that no marker speaks for."""
        begun = {upload.key for upload in self.uploads} if self.has_begun else set()
        return sorted({*self.stale, *begun})

    def holder(self) -> str:
        """Who it is, for messages."""
        return f"run {self.run_id} on {self.process.host} (pid {self.process.pid})"


def _boot_id() -> str:
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """Start time of a live process, or "" when there is none of this pid (or it is only waiting to be reaped).

    None where that cannot be known: /proc may hide the processes of other users (proc(5), hidepid).
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return "" if Path("/proc/1").exists() else None
    except OSError:
        return None
    # the command's name is in parentheses and may hold anything, so count from the last one
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in {"Z", "X"} else fields[19]
