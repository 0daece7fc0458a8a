"""Open and read local files that others may have put there: no open blocks, and no read is endless.

Opening a named pipe blocks until its other end is opened, whatever signals and timeouts say; a device may yield bytes
for ever. Where a file is expected, nothing else is accepted (:func:`open_regular`, :func:`read_regular`, :func:`read_end`); where a pipe
is allowed, it is polled (:func:`read_given`). Only the standard library is used; every function blocks.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from pathlib import Path

__all__ = ["open_regular", "read_end", "read_given", "read_regular"]

_LOOK_SECONDS = 0.1
_STEP = 1 << 16
_OF_A_SHELL = ("/dev/fd/", "/proc/", "/dev/stdin")


def open_regular(path: Path, flags: int = os.O_RDONLY, mode: int = 0o666, *, device_too: bool = False) -> int:
    """A descriptor of a regular file, not inherited by children; if ``device_too``, also of a device or a pipe to read.

    Raises:
        OSError: it cannot be opened, or is something else.
    """
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno != errno.ENXIO:  # a pipe without a reader, or a socket
            raise
        raise _irregular(path) from error
    kind = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(kind) or (device_too and (stat.S_ISCHR(kind) or stat.S_ISFIFO(kind)))):
        os.close(descriptor)
        raise _irregular(path)
    os.set_blocking(descriptor, True)
    return descriptor


def read_regular(path: Path, most: int) -> bytes:
    """All of a regular file.

    Raises:
        OSError: it cannot be read, has more than ``most`` bytes, or is something else.
    """
    with open(open_regular(path), "rb") as file:
        return _bounded(file.read(most + 1), path, most)


def read_end(path: Path, most: int) -> bytes:
    """The last bytes of a regular file, ``most`` of them.

    Raises:
        OSError: it cannot be read, or is something else.
    """
    with open(open_regular(path), "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - most))
        return file.read(most)


def read_given(path: Path, most: int, *, patience: float, silence: float | None = None) -> bytes:
    """All of a file, a device or a pipe that the caller was given.

    Args:
        path: where it is.
        most: maximum bytes.
        patience: seconds that a named pipe may be without a writer.
        silence: seconds that a writer may send nothing; None: any time, since a person may be typing.

    Raises:
        OSError: it cannot be read, is larger than ``most``, or nobody writes to it.
    """
    if not stat.S_ISFIFO(path.stat().st_mode):
        with path.open("rb", buffering=0) as file:
            found = bytearray()
            while len(found) <= most and (piece := file.read(_STEP)):
                found += piece
        return _bounded(bytes(found), path, most)
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as pipe:  # noqa: PTH123 - a descriptor
        # The pipe of a process substitution has had its writer from the start; a named pipe may yet get one.
        until = 0.0 if str(path).startswith(_OF_A_SHELL) else time.monotonic() + patience
        found, is_written, heard = bytearray(), False, time.monotonic()
        while len(found) <= most:
            piece = pipe.read(_STEP)
            if piece:
                found += piece
                heard = time.monotonic()
            elif piece is None:  # there is a writer, but no data yet
                if silence is not None and time.monotonic() > heard + silence:
                    raise _silent(path, silence)
                select.select([pipe], [], [], _LOOK_SECONDS)
            elif is_written or found or not until:
                break
            elif time.monotonic() > until:
                raise _silent(path, patience)
            else:
                time.sleep(_LOOK_SECONDS)
            is_written = is_written or piece is None
        return _bounded(bytes(found), path, most)


def _bounded(data: bytes, path: Path, most: int) -> bytes:
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes", str(path))
    return data


def _irregular(path: Path) -> OSError:
    return OSError(errno.EINVAL, "it is not a regular file", str(path))


def _silent(path: Path, seconds: float) -> OSError:
    return OSError(errno.ETIMEDOUT, f"it is a pipe that received no data for {seconds:.0f} s", str(path))
