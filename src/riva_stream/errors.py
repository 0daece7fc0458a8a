"""Every error this package raises on purpose, with the exit code it ends in.

::

    RivaStreamError                 1    a bug of ours
    ├── ConfigurationError         78    settings, profile, credentials, region
    ├── IntegrityError             65    never retried into success
    │   ├── ArchiveError                 not a valid archive, or one that is refused
    │   ├── DigestMismatchError          the bytes are not the expected ones
    │   └── SourceChangedError           the source is not the one that was pinned
    ├── SourceNotFoundError        66
    ├── DestinationConflictError   73    the destination holds another staging
    ├── TransientError             75    worth running again, as it is
    │   ├── ThrottledError               throttled (503 SlowDown)
    │   ├── StalledError                 no progress, or the deadline has passed
    │   └── HeldError                    another run holds the prefix
    └── AccessDeniedError          77

An error says *what* went wrong, *where* (operation, bucket, key, part or range, attempt, service code, request
id) and what to do next (*hint*). None of them ever carries a credential, a token or a signed URL: they hold only
the fields of :class:`Where`. All of them survive pickling, so they can cross a process boundary.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

from riva_stream.naming import option
from riva_stream.printable import in_one_line

__all__ = [
    "EXPIRED",
    "AccessDeniedError",
    "ArchiveError",
    "ArchiveFault",
    "ConfigurationError",
    "DestinationConflictError",
    "DigestMismatchError",
    "HeldError",
    "IntegrityError",
    "RivaStreamError",
    "SourceChangedError",
    "SourceNotFoundError",
    "StalledError",
    "ThrottledError",
    "TransientError",
    "Where",
    "first_of",
    "leaves_of",
    "out_of_resources",
    "raise_limits",
    "unwritable_state",
]


EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
"""Service codes of expired credentials, which may be valid again once they are re-read."""


@dataclass(frozen=True, slots=True)
class Where:
    """The request that failed. Empty fields are left out of the text."""

    operation: str = ""
    bucket: str = ""
    key: str = ""
    part: int | None = None
    byte_range: tuple[int, int] | None = None
    """First byte and last byte, both inclusive, as HTTP counts them."""
    attempt: int | None = None
    status: int | None = None
    code: str = ""
    request_id: str = ""

    def __str__(self) -> str:
        first, last = self.byte_range or (0, 0)
        words = (
            (self.operation, self.operation),
            (self.bucket, f"s3://{self.bucket}/{self.key}" if self.key else f"s3://{self.bucket}"),
            (self.part is not None, f"part {self.part}"),
            (self.byte_range, f"bytes {first}-{last}"),
            (self.attempt is not None, f"attempt {self.attempt}"),
            (self.status is not None, f"HTTP {self.status}"),
            # The answer to a HEAD has no body, so the status is all there is.
            (self.code and self.code != str(self.status), self.code),
            (self.request_id, f"request id {self.request_id}"),
        )
        return ", ".join(word for is_told, word in words if is_told)


class RivaStreamError(Exception):
    """The root of the tree; raised directly only for a bug of ours.

    Args:
        what: one sentence that says what is wrong, in the user's terms.
        where: the request it happened in, when there was one.
        hint: what to do next; a command where there is one.
    """

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False
    """Whether the same request may be tried again at once."""
    resumable: ClassVar[bool] = True
    """Whether a rerun can resume where this run stopped; otherwise nothing of it is kept."""

    def __init__(self, what: str, *, where: Where | None = None, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where or Where()
        self.hint = hint
        self.listed: tuple[str, ...] = ()
        """The lines at the end of ``what``, where each follows a newline and two spaces."""

    @property
    def code(self) -> str:
        """What programs branch on besides the type: ``access_denied`` for AccessDeniedError."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__.removesuffix("Error")).lower()

    def __str__(self) -> str:
        place = str(self.where)
        return f"{self.what} [{place}]" if place else self.what

    def located(self, **details: Any) -> Self:
        """Fill in the fields of ``where`` that are still empty; those already set stay."""
        known = {f.name for f in fields(Where) if getattr(self.where, f.name) != f.default}
        self.where = replace(self.where, **{k: v for k, v in details.items() if k not in known})
        return self

    def listing(self, lines: Iterable[str]) -> Self:
        """Append lines to ``what``: names from a store, which may hold anything; line ends in them are escaped."""
        self.listed = tuple(map(in_one_line, lines))
        self.what += "".join(f"\n  {line}" for line in self.listed)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), self.what, where=self.where, hint=self.hint), (), vars(self)


def raise_limits() -> str:
    """What to do if :func:`out_of_resources` says something."""
    return (
        "look at ulimit -n, -u and -v, and at the limits of the container (memory, pids); a smaller "
        f"{option('connections')} needs fewer open files; then run it again"
    )


def out_of_resources(error: object) -> str:
    """That this host has no memory, thread or open file left for the process, which a rerun does not fix.

    "" if it was something else. Errors that were raised from it, and those of the SDK that hold it, count as well.
    """
    while isinstance(error, BaseException):
        if isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE}:
            return os.strerror(error.errno)
        # CPython has neither a type nor an error number for a thread that cannot be started.
        if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "new thread" in str(error)):
            return str(error) or "no memory is left"
        error = error.__cause__ or getattr(error, "kwargs", {}).get("error")
    return ""


def leaves_of(error: BaseException) -> list[BaseException]:
    """The errors in a group, or the error itself: what the tasks of a run failed with."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves_of(inner)]
    return [error]


def first_of(error: BaseException) -> BaseException:
    """The one error to report from a group, or the error itself: a bug first, then a final one, then a transient one.

    When one task fails, those that work with it fail too; their errors are attached as notes.
    """

    def rank(leaf: BaseException) -> tuple[bool, bool, bool]:
        ours = isinstance(leaf, RivaStreamError)
        return (ours, ours and leaf.resumable, ours and leaf.retryable)  # type: ignore[attr-defined]

    leaves = leaves_of(error)
    chosen = min(leaves, key=rank)
    for other in leaves:
        if other is not chosen:
            chosen.add_note(f"besides: {type(other).__name__}: {other}")
    return chosen


class ConfigurationError(RivaStreamError):
    """Settings, profile, credentials or region do not allow the run to start."""

    exit_code = 78
    ignored: tuple[str, ...] = ()
    """Messages about what was ignored while the settings were resolved: the cause may be there."""


class IntegrityError(RivaStreamError):
    """The bytes are not what they should be. Final: no rerun can fix them."""

    exit_code = 65
    resumable = False


class ArchiveFault(StrEnum):
    """What kind of fault an archive has, which decides what to do about it."""

    DAMAGED = "damaged"
    """Bytes differ from those that were written: a checksum or a length is wrong."""
    CUT = "cut"
    """Bytes are missing at the end."""
    MALFORMED = "malformed"
    """It violates its format, or is damaged where no checksum shows it."""
    AMBIGUOUS = "ambiguous"
    """Different archive readers would interpret it differently."""
    UNSUPPORTED = "unsupported"
    """It may be valid, but uses a feature that is not supported here."""
    LAYER = "layer"
    """It is not a tar, or is a tar in more than one layer: :attr:`ArchiveError.layers` says what was found."""
    MEMBER = "member"
    """A member that matches cannot be staged as it is."""
    NO_MATCH = "no-match"
    """No member matches."""
    LIMIT = "limit"
    """It exceeds a limit; the hint names the flag."""


_WHAT_TO_DO = {
    ArchiveFault.DAMAGED: "upload an intact copy of the archive; nothing of it was staged",
    ArchiveFault.CUT: "upload the whole archive again; nothing of it was staged",
    ArchiveFault.MALFORMED: "try tar -tvf where the archive was made: if it is read there, pack it again with GNU tar or "
    "bsdtar; if not, it is damaged: create it again",
    ArchiveFault.AMBIGUOUS: "unpack the archive where it was made, check the files, and pack them again",
    ArchiveFault.UNSUPPORTED: "unpack the archive where it was made and pack the files again: tar --format=posix -cf",
    ArchiveFault.LAYER: "check the URI; the archive has to be a tar, plain or compressed with gzip or zstd",
    ArchiveFault.MEMBER: "pack the archive again without that member, or narrow {include}",
    ArchiveFault.NO_MATCH: "check {include}, or whether this is the right archive",
    ArchiveFault.LIMIT: "raise the limit if that is how the archive should be",
}


class ArchiveError(IntegrityError):
    """The archive is damaged, truncated, or refused.

    Its hint defaults to the remedy for its ``fault``. ``layers`` lists what was found in place of an archive, from the
    outside in: ``("gzip", "gzip", "tar")``, ``("html",)``.
    """

    def __init__(
        self,
        what: str,
        *,
        where: Where | None = None,
        hint: str = "",
        fault: ArchiveFault = ArchiveFault.DAMAGED,
        layers: tuple[str, ...] = (),
    ) -> None:
        super().__init__(what, where=where, hint=hint or _WHAT_TO_DO[fault].format(include=option("include")))
        self.fault = fault
        self.layers = layers

    @property
    def code(self) -> str:
        """Its fault, such as ``cut``."""
        return self.fault.value


class DigestMismatchError(IntegrityError):
    """A digest, checksum or length differs from the one that was expected."""


class SourceChangedError(IntegrityError):
    """The source is no longer the object that the first HEAD pinned."""


class SourceNotFoundError(RivaStreamError):
    """There is no such source, or not exactly one."""

    exit_code = 66


class DestinationConflictError(RivaStreamError):
    """The destination holds a staging of something else."""

    exit_code = 73


class TransientError(RivaStreamError):
    """The network or the store failed in a way that may not recur on another attempt."""

    exit_code = 75
    retryable = True


class ThrottledError(TransientError):
    """The store throttled the request (503 SlowDown and the like)."""


class StalledError(TransientError):
    """No progress for ``timeout`` seconds, or the run's deadline has passed."""


class HeldError(TransientError):
    """Another run holds the destination prefix, or has taken it over."""

    retryable = False
    has_ended = False
    """Whether that run is known to have ended: nobody holds the prefix."""


class AccessDeniedError(RivaStreamError):
    """The credentials do not grant what this step needs.

    Args:
        what: as for every error.
        where: as for every error.
        hint: as for every error.
        action: the IAM action that the store named, such as ``kms:Decrypt``; empty where it named none.
        resource: ARN that the store named with it.
        denied_by: the kind of policy that explicitly denies it (``a service control policy``), so that no
            grant helps; usually empty.
        says: the store's own message, where ``what`` repeats it; empty where ``what`` says more than the message.
    """

    exit_code = 77

    def __init__(
        self,
        what: str,
        *,
        where: Where | None = None,
        hint: str = "",
        action: str = "",
        resource: str = "",
        denied_by: str = "",
        says: str = "",
    ) -> None:
        super().__init__(what, where=where, hint=hint)
        self.action = action
        self.resource = resource
        self.denied_by = denied_by
        self.says = says
        self.grants: tuple[dict[str, Any], ...] = ()
        """Statements of an IAM policy that grant what is missing; filled in once the request is known."""

    @property
    def hides_absence(self) -> bool:
        """Whether it may mean that the object does not exist.

        Without s3:ListBucket, S3 answers 403 for a missing object too. If another action is named, the object exists.
        """
        return self.action in {"", "s3:ListBucket"}


def unwritable_state(folder: Path, error: OSError) -> ConfigurationError:
    """The error for a state directory that cannot be written."""
    # It says that a file exists where a folder should be made.
    reason = os.strerror(errno.ENOTDIR) if isinstance(error, FileExistsError) else error.strerror or error
    return ConfigurationError(
        f"the state directory {folder} cannot be written: {reason}",
        hint="pass --state-dir DIR with a folder you may write to",
    )
