"""The minimum speed of a transfer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from riva_stream.errors import TransientError

__all__ = ["min_throughput"]

_GRACE = 30.0
_SLOWEST = 32 << 10


@contextmanager
def min_throughput(size: int) -> Iterator[None]:
    """End a transfer of ``size`` bytes that is slower than 32 KiB/s, after half a minute's grace.

    A timeout between two packets does not catch a connection that trickles; a new one is nearly always faster.

    Raises:
        TransientError: it took too long.
    """
    try:
        with anyio.fail_after(_GRACE + size / _SLOWEST):
            yield
    except TimeoutError as error:
        raise TransientError(f"{size} bytes took longer than {_GRACE + size / _SLOWEST:.0f} s") from error
