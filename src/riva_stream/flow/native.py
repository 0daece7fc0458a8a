"""C functions of libraries that the interpreter has loaded anyway, and memory shared with them.

ctypes releases the GIL while such a function runs. What it lacks is a pointer into a read-only buffer; the buffer
protocol, which is part of CPython's stable ABI since 3.11, gives it without a copy.
"""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_int, c_ssize_t, c_void_p
from typing import Any

__all__ = ["Pinned", "declare", "new_block"]


class _Buffer(ctypes.Structure):
    """``Py_buffer``."""

    _fields_ = (
        ("buf", c_void_p),
        ("obj", c_void_p),
        ("len", c_ssize_t),
        ("itemsize", c_ssize_t),
        ("readonly", c_int),
        ("ndim", c_int),
        ("format", c_char_p),
        ("shape", c_void_p),
        ("strides", c_void_p),
        ("suboffsets", c_void_p),
        ("internal", c_void_p),
    )


def declare(library: ctypes.CDLL, **functions: tuple[Any, ...]) -> None:
    """Declare what functions of a library return, and then what they take.

    Raises:
        AttributeError: it has no such function.
    """
    for name, (result, *arguments) in functions.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


declare(
    ctypes.pythonapi,
    PyObject_GetBuffer=(c_int, ctypes.py_object, ctypes.POINTER(_Buffer), c_int),
    PyBuffer_Release=(None, ctypes.POINTER(_Buffer)),
    PyBytes_FromStringAndSize=(ctypes.py_object, c_void_p, c_ssize_t),
)
_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_release_buffer = ctypes.pythonapi.PyBuffer_Release


class Pinned:
    """A contiguous buffer, possibly read-only, whose address is valid for as long as this object lives."""

    __slots__ = ("_buffer", "address", "size")

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._buffer = _Buffer()
        _get_buffer(data, self._buffer, 0)
        self.address: int = self._buffer.buf or 0
        self.size: int = self._buffer.len

    def __del__(self) -> None:
        _release_buffer(self._buffer)  # no effect if there was no buffer to get


def new_block(size: int) -> tuple[bytes, Pinned]:
    """Allocate ``size`` uninitialised bytes; return them and their address.

    A C function fills them before anything else sees them, as extension modules do; from then on they are immutable.
    """
    block: bytes = ctypes.pythonapi.PyBytes_FromStringAndSize(None, size)
    return block, Pinned(block)
