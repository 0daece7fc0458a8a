"""Zeros: the content of holes, and a test for bytes that are all zero."""

from __future__ import annotations

__all__ = ["ZEROS", "is_zero"]

ZEROS = memoryview(bytes(1 << 18))
"""The source of all holes: one block for all of them."""
_STRIDE = 1 << 16
_STRIDE_OF_ZEROS = bytes(_STRIDE)


def is_zero(view: memoryview) -> bool:
    """Whether all bytes are zero; stops at the first 64 KiB that are not."""
    pieces = (bytes(view[i : i + _STRIDE]) for i in range(0, len(view), _STRIDE))  # bytes compare by memcmp
    return all(piece == _STRIDE_OF_ZEROS[: len(piece)] for piece in pieces)
