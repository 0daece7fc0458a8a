"""How a ceiling for the memory of the whole process is divided."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict

from riva_stream.errors import ConfigurationError
from riva_stream.naming import option
from riva_stream.sizes import MIB

__all__ = ["BLOCK", "SMALLEST_PART", "MemoryPlan", "least_memory", "plan_memory"]

SMALLEST_PART = 5 * MIB
"""S3: every part but the last has at least 5 MiB."""

# Measured, with the method, in docs/memory.md.
_BASE = 106 * MIB
"""The interpreter, the libraries, a client with all its connections in use, and ends of blocks kept alive by parts."""
_ALLOCATOR = 1.15
"""Bytes of the process per byte of the archive in memory: the excess is what the allocator cannot reuse at once."""
BLOCK = MIB
"""Bytes to which one step of the extraction may expand."""
_LEAST_PARTS = 4
"""One being read and one being sent, in each direction, is the least that keeps moving."""


class MemoryPlan(BaseModel):
    """The division of a ceiling. All figures in bytes; the formula is in docs/memory.md."""

    model_config = ConfigDict(frozen=True)

    ceiling: int
    part_size: int
    read_share: int
    """Source bytes in flight: being fetched, hashed, uploaded or waiting for the extraction."""
    write_share: int
    """Expanded bytes in flight: in a part being filled, being hashed or being uploaded."""


def least_memory(part_size: int, write: int = 0) -> int:
    """The least ceiling for parts of ``part_size`` bytes whose write share has room for ``write`` bytes; whole MiB."""
    parts = max(
        _LEAST_PARTS, 2 * math.ceil(write / part_size) - 1
    )  # with an odd number the write share has one more
    return math.ceil((_BASE + _ALLOCATOR * (parts * part_size + BLOCK)) / MIB) * MIB


def plan_memory(ceiling: int, part_size: int, *, forced: str = "") -> MemoryPlan:
    """Divide ``ceiling`` bytes into the shares for reading and for writing.

    Args:
        ceiling: of the whole process.
        part_size: bytes of a part.
        forced: why parts have to be this large, if it is not the requested size.

    Raises:
        ConfigurationError: the ceiling is too small; the message names the least that works.
    """
    parts = int(((ceiling - _BASE) / _ALLOCATOR - BLOCK) // part_size)
    if parts < _LEAST_PARTS:
        least = least_memory(part_size) // MIB
        said = (
            f"memory of {ceiling / MIB:.0f} MiB is too small for parts of {part_size / MIB:.0f} MiB: "
            f"the minimum is {least} MiB"
        )
        if forced:
            raise ConfigurationError(
                f"{forced}; {said}",
                hint=f"pass {option('part_size')} {part_size // MIB}MiB {option('memory')} {least}MiB, or more",
            )
        raise ConfigurationError(
            said,
            hint=f"pass {option('memory')} {least}MiB or more"
            + (f", or a smaller {option('part_size')}" if part_size > SMALLEST_PART else ""),
        )
    read = parts // 2
    return MemoryPlan(
        ceiling=ceiling,
        part_size=part_size,
        read_share=read * part_size,
        write_share=(parts - read) * part_size,
    )
