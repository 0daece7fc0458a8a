"""The inflater: blocks are found where zlib would begin one, and damage is told the same however the input was cut."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from functools import cache, partial
from itertools import chain, repeat

import pytest
from isal import isal_zlib

from riva_stream.archive.inflate import (
    WINDOW,
    Boundary,
    InflateError,
    Inflater,
    NativeInflater,
    WheelInflater,
    why_not_native,
)

RNG = random.Random(1951)
TEXT = b" ".join(b"%d" % number for number in RNG.choices(range(4000), k=120_000))
NOISE = RNG.randbytes(300_000)


def deflated(data: bytes, level: int, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, -15, 8, strategy)
    return packer.compress(data) + packer.flush()


def igzip(data: bytes) -> bytes:
    packer = isal_zlib.compressobj(1, zlib.DEFLATED, -15)
    return bytes(packer.compress(data) + packer.flush())


STREAMS: dict[str, tuple[bytes, Callable[[bytes], bytes]]] = {
    "stored": (NOISE, partial(deflated, level=0)),
    "gzip -1": (TEXT, partial(deflated, level=1)),
    "gzip -6": (TEXT, partial(deflated, level=6)),
    "gzip -9": (TEXT, partial(deflated, level=9)),
    "igzip": (TEXT + NOISE, igzip),
    "fixed": (TEXT, partial(deflated, level=6, strategy=zlib.Z_FIXED)),
    "mixed": (TEXT + NOISE + TEXT, partial(deflated, level=6)),
}


@cache
def stream_of(name: str) -> tuple[bytes, bytes]:
    """What is packed, and how it looks packed."""
    data, pack = STREAMS[name]
    return data, pack(data)


def whole(inflater: Inflater, packed: bytes, piece: Callable[[], int], room: Callable[[], int]) -> bytes:
    out, at = bytearray(), 0
    while at < len(packed) and not inflater.eof:
        size = piece()
        inflater.feed(memoryview(packed)[at : at + size])
        at += size
        while not inflater.needs_input and not inflater.eof:
            block = inflater.inflate(room())
            out += block
    return bytes(out)


def blocks(packed: bytes, piece: int, room: int) -> list[tuple[int, Boundary]]:
    """Each block that is found, and how much output is before it."""
    inflater, found, out = NativeInflater(), list[tuple[int, Boundary]](), 0
    for at in range(0, len(packed), piece):
        inflater.feed(memoryview(packed)[at : at + piece])
        while not inflater.needs_input and not inflater.eof:
            inflater.seeking = True
            out += len(inflater.inflate(room))
            if inflater.boundary is not None:
                found.append((out, inflater.boundary))
                inflater.boundary = None
                inflater.seeking = False
                out += len(inflater.inflate(room))  # past it
    return found


def test_the_library_of_the_wheel_passes_its_self_test() -> None:
    assert why_not_native() == ""


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("piece", [1 << 20, 7001])
def test_zlib_begins_at_each_block_that_is_found(name: str, piece: int) -> None:
    data, packed = stream_of(name)
    found = blocks(packed, piece, 60_000)
    assert len(found) > 1
    for at, block in found:
        assert block.window == data[max(0, at - WINDOW) : at]
        if block.bit % 8 and name in {"igzip", "mixed"}:
            continue  # stored blocks follow, whose bytes may not be shifted
        shifted = int.from_bytes(packed[block.bit // 8 :], "little") >> block.bit % 8
        rest = shifted.to_bytes(len(packed) - block.bit // 8, "little")
        assert zlib.decompressobj(-15, zdict=block.window).decompress(rest) == data[at:]


@pytest.mark.parametrize("name", STREAMS)
def test_it_begins_at_each_block_that_it_found(name: str) -> None:
    data, packed = stream_of(name)
    for at, block in blocks(packed, 50_000, 60_000)[::2]:
        rest = memoryview(packed)[block.bit // 8 :]
        for cut in (1, 1000, len(rest)):
            inflater = NativeInflater(block.window, block.bit % 8)
            pieces = chain([cut, 1], repeat(1 << 20))
            assert whole(inflater, bytes(rest), pieces.__next__, lambda: 1 << 16) == data[at:]
            assert inflater.eof


def test_a_block_that_begins_a_bit_earlier_or_later_is_none() -> None:
    data, packed = stream_of("gzip -6")
    for at, block in blocks(packed, 50_000, 60_000)[1:]:
        for bit in (block.bit - 1, block.bit + 1):
            inflater = NativeInflater(block.window, bit % 8)
            try:
                out = whole(inflater, packed[bit // 8 :], lambda: 1 << 20, lambda: 1 << 20)
            except InflateError:
                continue
            assert out != data[at:]


@pytest.mark.parametrize("kind", [NativeInflater, WheelInflater])
@pytest.mark.parametrize("name", STREAMS)
def test_any_cut_and_any_room_give_the_same_bytes(name: str, kind: type[Inflater]) -> None:
    data, packed = stream_of(name)
    rng = random.Random(name)
    for most_in, most_out in ((3000, 100_000), (1 << 20, 3000), (50_000, 50_000)):
        inflater = kind()
        cut, room = partial(rng.randint, 1, most_in), partial(rng.randint, 1, most_out)
        out = whole(inflater, packed + b"behind", cut, room)
        assert out == data
        assert inflater.unused <= 6
        inflater.begin()
        assert whole(inflater, packed, lambda: 1 << 20, lambda: 1 << 20) == data
        assert inflater.unused == 0


def test_it_looks_for_blocks_with_any_cut_and_any_room() -> None:
    rng = random.Random(5)
    found = 0
    for data, packed in map(stream_of, STREAMS):
        inflater, out, at = NativeInflater(), bytearray(), 0
        while not inflater.eof:
            size = rng.randint(1, rng.choice((1, 300, 30_000)))
            inflater.feed(memoryview(packed)[at : at + size])
            at += size
            while not inflater.needs_input and not inflater.eof:
                inflater.seeking = inflater.seeking or rng.random() < 0.2
                out += inflater.inflate(rng.randint(1, rng.choice((1, 300, 30_000))))
                if inflater.boundary is not None:
                    assert inflater.boundary.window == out[-WINDOW:]
                    inflater.boundary, found = None, found + 1
        assert out == data
    assert found > 30


def test_damage_is_told_the_same_however_it_is_cut() -> None:
    rng = random.Random(3)
    told = set()
    for _ in range(120):
        packed = stream_of(rng.choice(list(STREAMS)))[1]
        damaged = bytearray(packed[: rng.randrange(20_000, 60_000)])
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        results = set()
        for most in (1 << 20, 1 << 20, 4000):
            inflater, out = NativeInflater(), bytearray()
            try:
                at = 0
                while at < len(damaged):
                    size = rng.randint(1, most)
                    inflater.feed(memoryview(bytes(damaged[at : at + size])))
                    at += size
                    while not inflater.needs_input and not inflater.eof:
                        inflater.seeking = rng.random() < 0.1
                        out += inflater.inflate(rng.randint(1, most))
                results.add((bytes(out), "", 0))
            except InflateError as error:
                results.add((bytes(out), str(error), error.position))
        assert len(results) == 1
        told |= {text for _, text, _ in results}
    assert told == {"", "invalid block", "invalid symbol", "invalid distance"}
