"""Raw deflate (RFC 1951) that can be resumed at a block: ISA-L's own ``isal_inflate``, from the isal wheel.

The wheel's class neither reports where a deflate block begins nor takes a window, so the functions of its shared object
are called directly; the layout of ``struct inflate_state`` is public (``igzip_lib.h``). A place to resume at is a bit
offset and the 32 KiB of output before it: plain numbers and bytes, which mean the same to every version, host and
processor, and are merely bad input if somebody forged them. The structure itself never leaves the process.

How a block's first bit is found: while one is looked for, input is fed 4 KiB at a time, and a copy of the state is kept
before each step. When a header was read, a field that is otherwise unused (``tmp_in_size``) is cleared; then the step
is repeated from the copy with ever fewer bytes, until one byte less would not reach the header. The length of a stored
block tells where the next one begins.

Where the symbols are missing, or a self-test fails, the wheel's class is used, which cannot resume.
"""

from __future__ import annotations

import ctypes
import hashlib
import zlib
from bisect import bisect_left
from ctypes import c_int, c_int16, c_int32, c_uint8, c_uint32, c_uint64, c_void_p
from functools import cache
from typing import NamedTuple, Protocol, cast

from isal import igzip_lib

from riva_stream.flow.native import Pinned, declare, new_block

__all__ = [
    "WINDOW",
    "Boundary",
    "InflateError",
    "Inflater",
    "NativeInflater",
    "WheelInflater",
    "why_not_native",
]

WINDOW = 32 << 10
"""Bytes of output that deflate may refer back to."""
_STEP = 4 << 10
_MOST_SPILLED = 128 << 10
"""More than ISA-L can hold in its own output buffer (64 KiB and a match)."""

_NEW_HEADER, _HEADER, _STORED, _CODED, _FINISHED = 0, 1, 2, 3, 5
_FAULTS = {-1: "invalid block", -2: "invalid symbol", -3: "invalid distance"}


class _State(ctypes.Structure):
    """``struct inflate_state``."""

    _fields_ = (
        ("next_out", c_void_p),
        ("avail_out", c_uint32),
        ("total_out", c_uint32),
        ("next_in", c_void_p),
        ("read_in", c_uint64),
        ("avail_in", c_uint32),
        ("read_in_length", c_int32),
        ("lit_huff_code", c_uint8 * (4096 * 4 + 1264 * 2)),
        ("dist_huff_code", c_uint8 * (1024 * 2 + 80 * 2)),
        ("block_state", c_int),
        ("dict_length", c_uint32),
        ("bfinal", c_uint32),
        ("crc_flag", c_uint32),
        ("crc", c_uint32),
        ("hist_bits", c_uint32),
        ("type0_block_len", c_int32),
        ("write_overflow_lits", c_int32),
        ("write_overflow_len", c_int32),
        ("copy_overflow_length", c_int32),
        ("copy_overflow_distance", c_int32),
        ("wrapper_flag", c_int16),
        ("tmp_in_size", c_int16),
        ("tmp_out_valid", c_int32),
        ("tmp_out_processed", c_int32),
        ("tmp_in_buffer", c_uint8 * 328),
        ("tmp_out_buffer", c_uint8 * (2 * WINDOW + 288)),
    )


_SIZE = ctypes.sizeof(_State)
_HISTORY = _State.tmp_out_buffer.offset
_ROOM = _SIZE + (64 << 10)
"""Memory allocated for the structure: more than it needs, so that a larger one would show and do no harm."""


class InflateError(Exception):
    """The deflate data is damaged.

    ``position`` is the number of its bytes that reveal the damage: with one less, nothing is wrong yet. It does not
    depend on how the input was split, except in the wheel's class, which only knows how much it was given.
    """

    def __init__(self, fault: str, position: int) -> None:
        super().__init__(fault)
        self.position = position


class Boundary(NamedTuple):
    """Where a deflate block begins."""

    bit: int
    """Counted from the first byte that was fed to the inflater."""
    window: bytes
    """The output before it: 32 KiB, or all there is."""


class Inflater(Protocol):
    """One raw deflate stream."""

    seeking: bool
    """Whether to stop at the next block."""
    boundary: Boundary | None
    """The block that was looked for, once all output before it has been returned."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended, and all its output has been returned."""

    @property
    def unused(self) -> int:
        """At the end: number of last bytes not in the stream; up to eight may be from earlier pieces."""

    @property
    def needs_input(self) -> bool:
        """Whether the fed data yields nothing more."""

    def begin(self) -> None:
        """Begin another stream."""

    def feed(self, piece: memoryview) -> None:
        """Pass in the next bytes; only when input is needed."""

    def inflate(self, max_output: int) -> bytes | memoryview:
        """The next output, at most ``max_output`` bytes.

        Raises:
            InflateError: the data is damaged; all output before the damage has been returned.
        """


class NativeInflater:
    """An :class:`Inflater` that knows where blocks begin, and can resume at one.

    Args:
        window: the output before the place where it resumes.
        skip: bits of the first byte that precede that place, 0 to 7.

    Raises:
        OSError: it is not available here; :func:`why_not_native` says why.
    """

    def __init__(self, window: bytes = b"", skip: int = 0, *, library: ctypes.CDLL | None = None) -> None:
        found = library or _library()
        if isinstance(found, str):
            raise OSError(found)
        self._library = found
        self._memory = ctypes.create_string_buffer(_ROOM)
        self._copy = ctypes.create_string_buffer(_ROOM)
        self._state = _State.from_buffer(self._memory)
        self.begin(window, skip)

    def begin(self, window: bytes = b"", skip: int = 0) -> None:
        """Begin another stream, in the same memory."""
        self._library.isal_inflate_init(self._state)
        if window:
            pin = Pinned(window)
            self._library.isal_inflate_set_dict(self._state, pin.address, pin.size)
        self._skip = skip
        self._pin: Pinned | None = None
        self._fed = self.unused = 0
        self._full = False
        self._spilled = memoryview(b"")
        self._error: InflateError | None = None
        self.seeking = False
        self.boundary: Boundary | None = None

    @property
    def eof(self) -> bool:
        """As :class:`Inflater` says."""
        return int(self._state.block_state) == _FINISHED

    @property
    def needs_input(self) -> bool:
        """As :class:`Inflater` says."""
        return not self.unused and not self._full and self._error is None and not self.eof

    def feed(self, piece: memoryview) -> None:
        """As :class:`Inflater` says."""
        self._pin = pin = Pinned(piece)
        self._fed += len(piece)
        self.unused = len(piece)
        state = self._state
        state.next_in = pin.address
        if self._skip and piece:
            state.read_in = piece[0] >> self._skip
            state.read_in_length = 8 - self._skip
            state.next_in += 1
            self.unused -= 1
            self._skip = 0

    def inflate(self, max_output: int) -> bytes | memoryview:
        """As :class:`Inflater` says."""
        if self._error is not None:
            return self._spill(max_output)
        block, pin = new_block(max_output)
        size = self._seek(pin.address, max_output) if self.seeking else None
        if size is None:
            self._save()
            before = self.unused
            code = self._run(pin.address, max_output, before)
            if code < 0:
                self._locate(code, max_output, before)
                return self._spill(max_output)
            size = max_output - self._state.avail_out
        return block if size == max_output else memoryview(block)[:size]

    # -- one call ------------------------------------------------------------------------------------------------

    def _run(self, address: int, room: int, count: int) -> int:
        """Inflate the next ``count`` bytes into ``room``; what is left of them is still to be fed."""
        state = self._state
        state.next_out, state.avail_out, state.avail_in = address, room, count
        code = int(self._library.isal_inflate(state))
        self.unused += state.avail_in - count
        self._full = not state.avail_out
        return code

    def _save(self) -> None:
        """Save a copy of the state, and of the used part of its buffer."""
        ctypes.memmove(self._copy, self._memory, _HISTORY + self._state.tmp_out_valid)

    def _restore(self, left: int) -> None:
        """Restore the copy, with ``left`` bytes still to be fed."""
        kept = _State.from_buffer(self._copy)
        ctypes.memmove(self._memory, self._copy, _HISTORY + kept.tmp_out_valid)
        self.unused = left

    # -- damage --------------------------------------------------------------------------------------------------

    def _locate(self, code: int, room: int, left: int) -> None:
        """Find the shortest input that shows the damage, and keep all output before it."""
        scratch, pin = new_block(room + _MOST_SPILLED)

        def shows(count: int) -> bool:
            self._restore(left)
            return self._run(pin.address, room, count) < 0

        least = bisect_left(range(left), True, key=shows)
        self._restore(left)
        code = self._run(pin.address, room + _MOST_SPILLED, least) or code
        self._spilled = memoryview(scratch)[: room + _MOST_SPILLED - self._state.avail_out]
        self._error = InflateError(_FAULTS.get(code, f"error {code}"), self._fed - left + least)

    def _spill(self, max_output: int) -> memoryview:
        if not self._spilled and self._error is not None:
            raise self._error
        block, self._spilled = self._spilled[:max_output], self._spilled[max_output:]
        return block

    # -- where blocks begin --------------------------------------------------------------------------------------

    def _seek(self, address: int, room: int) -> int | None:
        """Inflate step by step up to the beginning of a block.

        Returns:
            how many bytes came out; None where only an ordinary call makes progress.
        """
        state = self._state
        filled = 0
        while filled < room and not self.eof:
            if self._at_block():
                return filled
            left, step = self.unused, self._step()
            if not left and not self._full and self._drained:
                break
            watched = state.block_state == _CODED
            self._save()
            state.tmp_in_size += watched
            code = self._run(address + filled, room - filled, step)
            if code < 0:
                self._restore(left)
                self.seeking = False
                break
            if watched and self._reached:
                step = self._least(address + filled, room - filled, step, left)
                self._restore(left)
                self._run(address + filled, room - filled, step)
            elif watched:
                state.tmp_in_size = 0
            filled = room - state.avail_out
        return filled or None

    def _step(self) -> int:
        """Bytes to feed next: the rest of a stored block, and none while output is pending before a block."""
        state = self._state
        most: int = _STEP
        if state.block_state == _STORED:
            most = state.type0_block_len - state.read_in_length // 8
        elif state.block_state == _HEADER:
            most = 0
        return min(self.unused, max(0, most))

    def _at_block(self) -> bool:
        """Whether the next bit begins a block, and all output before it has been returned."""
        state = self._state
        if state.block_state not in {_NEW_HEADER, _HEADER} or not self._drained or not self._fed:
            return False
        consumed = self._fed - self.unused - state.tmp_in_size
        self.boundary = Boundary(8 * consumed - state.read_in_length, self._window())
        self.seeking = False
        return True

    @property
    def _reached(self) -> bool:
        """Whether the last call, which was watched, reached the end of the block."""
        return (self._state.block_state, self._state.tmp_in_size) != (_CODED, 1)

    @property
    def _drained(self) -> bool:
        state = self._state
        return (
            state.tmp_out_valid == state.tmp_out_processed
            and not state.write_overflow_len
            and not state.copy_overflow_length
        )

    def _least(self, address: int, room: int, step: int, left: int) -> int:
        """The least number of bytes that reaches the end of the block."""

        def reaches(count: int) -> bool:
            self._restore(left)
            self._state.tmp_in_size = 1
            self._run(address, room, count)
            return self._reached

        return bisect_left(range(step), True, key=reaches)

    def _window(self) -> bytes:
        state = self._state
        begin = max(0, state.tmp_out_processed - WINDOW)
        return ctypes.string_at(
            ctypes.addressof(self._memory) + _HISTORY + begin, state.tmp_out_processed - begin
        )


class WheelInflater:
    """An :class:`Inflater` that uses the wheel's own class: it never finds a block."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Begin another stream."""
        self._inflater = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_DEFLATE)
        self._piece = memoryview(b"")
        self._fed = 0
        self.seeking = False
        self.boundary: Boundary | None = None

    @property
    def eof(self) -> bool:
        """As :class:`Inflater` says."""
        return bool(self._inflater.eof)

    @property
    def unused(self) -> int:
        """As :class:`Inflater` says."""
        return len(self._inflater.unused_data)

    @property
    def needs_input(self) -> bool:
        """As :class:`Inflater` says."""
        return not self._piece and bool(self._inflater.needs_input) and not self.eof

    def feed(self, piece: memoryview) -> None:
        """As :class:`Inflater` says."""
        self._piece = piece
        self._fed += len(piece)

    def inflate(self, max_output: int) -> bytes | memoryview:
        """As :class:`Inflater` says."""
        piece, self._piece = self._piece, memoryview(b"")
        try:
            block: bytes = self._inflater.decompress(piece, max_output)
        except _WHEEL_ERROR as error:
            raise InflateError(str(error), self._fed) from None
        return block


_WHEEL_ERROR = cast("type[Exception]", igzip_lib.IsalError)  # the stubs declare it as an instance


def why_not_native() -> str:
    """Why :class:`NativeInflater` does not work here, in one line; empty where it does."""
    library = _library()
    return library if isinstance(library, str) else ""


@cache
def _library() -> ctypes.CDLL | str:
    pointer = ctypes.POINTER(_State)
    try:
        library = ctypes.CDLL(igzip_lib.__file__)
        declare(
            library,
            isal_inflate_init=(None, pointer),
            isal_inflate_set_dict=(c_int, pointer, c_void_p, c_uint32),
            isal_inflate=(c_int, pointer),
        )
    except (OSError, AttributeError, TypeError) as error:
        return f"isal {igzip_lib.__name__} exports no isal_inflate ({error})"
    return library if _has_our_layout(library) and _works(library) else "isal's inflate failed its self-test"


def _has_our_layout(library: ctypes.CDLL) -> bool:
    """Whether the structure has the layout above, by what initialisation and a first call touch and leave alone."""
    memory = ctypes.create_string_buffer(b"\xa5" * _ROOM, _ROOM)
    state = _State.from_buffer(memory)
    library.isal_inflate_init(state)
    cleared = (
        *(
            "read_in",
            "avail_in",
            "read_in_length",
            "avail_out",
            "total_out",
            "block_state",
            "bfinal",
            "crc_flag",
        ),
        *("hist_bits", "type0_block_len", "tmp_in_size", "tmp_out_valid", "tmp_out_processed"),
    )
    tables = memory.raw[_State.lit_huff_code.offset : _State.block_state.offset]
    if any(getattr(state, name) for name in cleared) or tables.strip(b"\xa5"):
        return False
    text = bytes(range(256)) * 400
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
    packed, (out, pin) = deflate.compress(text) + deflate.flush(), new_block(len(text))
    source = Pinned(packed)
    state.next_in, state.avail_in = source.address, source.size
    state.next_out, state.avail_out = pin.address, pin.size
    code = library.isal_inflate(state)
    return (
        code == 0 and out == text and state.block_state == _FINISHED and not memory.raw[_SIZE:].strip(b"\xa5")
    )


def _works(library: ctypes.CDLL) -> bool:
    """Test known vectors: stored, fixed and dynamic blocks; from the beginning, and resumed at each block found."""
    noise = hashlib.shake_128(b"RFC 1951").digest(40_000)
    text = b" ".join(b"%d" % (i * i % 4001) for i in range(12_000))
    for data, level, strategy in (
        (noise, 0, zlib.Z_DEFAULT_STRATEGY),
        (text, 1, zlib.Z_DEFAULT_STRATEGY),
        (text[:30_000] + noise, 6, zlib.Z_DEFAULT_STRATEGY),
        (text[:30_000], 6, zlib.Z_FIXED),
    ):
        deflate = zlib.compressobj(level, zlib.DEFLATED, -15, 8, strategy)
        packed = deflate.compress(data[:20_000]) + deflate.flush(zlib.Z_SYNC_FLUSH)
        packed += deflate.compress(data[20_000:]) + deflate.flush()
        found = _places(library, packed, data)
        if not found or not all(_continues(library, packed, data, *place) for place in found):
            return False
    return True


def _places(library: ctypes.CDLL, packed: bytes, data: bytes) -> list[tuple[int, Boundary]]:
    """Every block found while inflating the whole, with the amount of output before it; empty if that is wrong."""
    found: list[tuple[int, Boundary]] = []
    inflater, out = NativeInflater(library=library), bytearray()
    for at in range(0, len(packed), 20_000):
        inflater.feed(memoryview(packed)[at : at + 20_000])
        while not inflater.needs_input and not inflater.eof:
            inflater.seeking = not inflater.boundary
            out += inflater.inflate(10_000)
            if inflater.boundary:
                found.append((len(out), inflater.boundary))
                inflater.boundary = None
                out += inflater.inflate(10_000)
    return found if out == data and inflater.eof else []


def _continues(library: ctypes.CDLL, packed: bytes, data: bytes, at: int, place: Boundary) -> bool:
    """Whether the rest comes out right from there."""
    if place.window != data[max(0, at - WINDOW) : at]:
        return False
    inflater, out = NativeInflater(place.window, place.bit % 8, library=library), bytearray()
    inflater.feed(memoryview(packed)[place.bit // 8 :])
    while not inflater.needs_input and not inflater.eof:
        out += inflater.inflate(len(data))
    return out == data[at:] and inflater.eof
