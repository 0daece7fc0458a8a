"""SHA-256 (FIPS 180-4) whose state can be saved midway, and continued on another host.

The state of SHA-256 after a multiple of 64 bytes is eight words and a length; bytes beyond that are kept as they are.
hashlib has the same code and does not expose the state, so libcrypto's own functions are called, those that the
interpreter's hashlib has loaded. Where they are missing (other builds of Python have no libcrypto, OpenSSL without what
it calls deprecated), or a self-test fails, hashlib is used, without a state.
"""

from __future__ import annotations

import ctypes
import hashlib
from ctypes import c_char_p, c_int, c_size_t, c_uint32, c_void_p
from dataclasses import dataclass
from functools import cache
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from riva_stream.flow.native import Pinned, declare

__all__ = ["Sha256", "Sha256State", "why_no_state"]

_BLOCK = 64


@dataclass(frozen=True, slots=True)
class Sha256State:
    """The state of a SHA-256."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", strict=True)

    words: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """The eight words, big-endian, hexadecimal: the state after the last whole block of 64 bytes."""
    size: Annotated[int, Field(ge=0, lt=1 << 61)]
    """Bytes so far."""
    tail: Annotated[str, Field(pattern=r"^([0-9a-f]{2}){0,63}$")]
    """The bytes after the last whole block, hexadecimal."""


class _Context(ctypes.Structure):
    """``SHA256_CTX`` of OpenSSL and of its derivatives."""

    _fields_ = (
        ("h", c_uint32 * 8),
        ("low", c_uint32),
        ("high", c_uint32),
        ("data", c_uint32 * 16),
        ("num", c_uint32),
        ("md_len", c_uint32),
    )


class Sha256:
    """SHA-256 of one sequence of bytes."""

    def __init__(self) -> None:
        library = _library()
        self._size = 0
        if isinstance(library, str):
            self._hasher = hashlib.sha256()
            self._library = None
            return
        self._library = library
        self._memory = ctypes.create_string_buffer(4 * ctypes.sizeof(_Context))
        self._context = _Context.from_buffer(self._memory)
        library.SHA256_Init(self._context)

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Process more bytes; the GIL is released meanwhile."""
        if self._library is None:
            self._hasher.update(data)
            return
        pin = Pinned(data)
        self._library.SHA256_Update(self._context, pin.address, pin.size)
        self._size += pin.size

    def digest(self) -> bytes:
        """The digest of all bytes so far."""
        if self._library is None:
            return self._hasher.digest()
        out = ctypes.create_string_buffer(32)
        last = _Context.from_buffer_copy(self._context)
        self._library.SHA256_Final(out, last)
        return out.raw

    def snapshot(self) -> Sha256State | None:
        """The current state; None without libcrypto's functions."""
        if self._library is None:
            return None
        words = b"".join(word.to_bytes(4, "big") for word in self._context.h)
        tail = bytes(self._context.data)[: self._size % _BLOCK]
        return Sha256State(words.hex(), self._size, tail.hex())

    @classmethod
    def restore(cls, state: Sha256State) -> Sha256:
        """Continue from a state.

        Raises:
            ValueError: no SHA-256 has such a state, or it cannot be restored here.
        """
        hasher, tail = cls(), bytes.fromhex(state.tail)
        if hasher._library is None:
            raise ValueError(why_no_state())
        if len(tail) != state.size % _BLOCK:
            raise ValueError(f"a tail of {len(tail)} bytes for a SHA-256 of {state.size}")
        context, words = hasher._context, bytes.fromhex(state.words)
        context.h[:] = [int.from_bytes(words[at : at + 4], "big") for at in range(0, 32, 4)]
        hasher._size = state.size - len(tail)
        context.high, context.low = divmod(8 * hasher._size, 1 << 32)
        hasher.update(tail)
        return hasher


def why_no_state() -> str:
    """Return "" if the state of a SHA-256 can be saved; otherwise one line that says why not."""
    library = _library()
    return library if isinstance(library, str) else ""


@cache
def _library() -> ctypes.CDLL | str:
    pointer = ctypes.POINTER(_Context)
    try:
        import _hashlib  # noqa: PLC0415 - not every interpreter has it

        library = ctypes.CDLL(_hashlib.__file__)
        declare(
            library,
            SHA256_Init=(c_int, pointer),
            SHA256_Update=(c_int, pointer, c_void_p, c_size_t),
            SHA256_Final=(c_int, c_char_p, pointer),
        )
    except (ImportError, OSError, AttributeError, TypeError) as error:
        return f"libcrypto's SHA256_Init is not available ({error})"
    return library if _works(library) else "libcrypto's SHA-256 failed its self-test"


def _works(library: ctypes.CDLL) -> bool:
    """Whether digests equal hashlib's, and the state is where it is expected, at each position in a block."""
    text = hashlib.shake_128(b"FIPS 180-4").digest(500)
    source, out = Pinned(text), ctypes.create_string_buffer(32)
    for cut in (0, 1, 63, 64, 65, 127, 128, 300, 500):
        memory = ctypes.create_string_buffer(
            b"\xa5" * 4 * ctypes.sizeof(_Context), 4 * ctypes.sizeof(_Context)
        )
        first = _Context.from_buffer(memory)
        library.SHA256_Init(first)
        library.SHA256_Update(first, source.address, cut)
        if (first.num, 8 * cut) != (cut % _BLOCK, first.low) or memory.raw[ctypes.sizeof(_Context) :].strip(
            b"\xa5"
        ):
            return False
        second = _Context()
        library.SHA256_Init(second)
        second.h[:] = first.h
        second.low = 8 * (cut - cut % _BLOCK)
        tail = Pinned(bytes(first.data)[: cut % _BLOCK])
        library.SHA256_Update(second, tail.address, tail.size)
        library.SHA256_Update(second, source.address + cut, len(text) - cut)
        library.SHA256_Final(out, second)
        if out.raw != hashlib.sha256(text).digest():
            return False
    return True
