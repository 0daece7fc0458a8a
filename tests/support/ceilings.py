"""Ceilings of memory for tests: so little that a run has to go on with what it has before it can read more."""

from __future__ import annotations

from bisect import bisect_left

from riva_stream.errors import ConfigurationError
from riva_stream.flow.memory import plan_memory

__all__ = ["ceiling_for"]


def ceiling_for(part_size: int, parts: int) -> int:
    """Bytes of the least memory with which so many parts may be in flight each way."""

    def is_enough(ceiling: int) -> bool:
        try:
            return plan_memory(ceiling, part_size).read_share >= parts * part_size
        except ConfigurationError:
            return False

    return bisect_left(range(1 << 30), True, key=is_enough)
