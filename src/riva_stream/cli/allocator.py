"""Keep the C allocator to one arena.

glibc gives threads arenas of their own. A block that one thread has freed is then out of reach for the others, and
the parts of an archive pass through many threads: the process grew by half of its buffers. One arena costs nothing
that could be measured (docs/memory.md). It is the whole process's matter, so the command line does it and the
library does not: a program that embeds the library can set MALLOC_ARENA_MAX=1.
"""

from __future__ import annotations

import ctypes

__all__ = ["keep_to_one_arena"]

_M_ARENA_MAX = -8  # malloc.h of glibc


def keep_to_one_arena() -> None:
    """Must come before the first thread starts; other C libraries do not have it and are left alone."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
