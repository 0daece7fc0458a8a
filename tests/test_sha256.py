"""SHA-256 with a state: the same digests as hashlib's, from any byte on, and plain data in between."""

from __future__ import annotations

import hashlib
import random

import pytest
from awscrt import checksums as crt
from pydantic import TypeAdapter

from riva_stream.flow import sha256 as module
from riva_stream.flow.digest import Digest, DigestState
from riva_stream.flow.sha256 import Sha256, Sha256State, why_no_state

STATE = TypeAdapter(DigestState)
RNG = random.Random(180)
DATA = RNG.randbytes(5000)
BEGIN = "6a09e667bb67ae853c6ef372a54ff53a510e527f9b05688c1f83d9ab5be0cd19"
"""The words that SHA-256 begins with (FIPS 180-4, 5.3.3)."""


def test_libcrypto_passes_its_self_test() -> None:
    assert why_no_state() == ""


def test_it_begins_as_the_standard_says() -> None:
    assert Sha256().snapshot() == Sha256State(BEGIN, 0, "")


@pytest.mark.parametrize("cut", [0, 1, 55, 56, 63, 64, 65, 127, 128, 4999, 5000])
def test_it_goes_on_from_any_byte(cut: int) -> None:
    first = Sha256()
    first.update(memoryview(DATA)[: cut // 2])
    first.update(bytearray(DATA[cut // 2 : cut]))
    state = first.snapshot()
    assert state is not None
    assert (state.size, state.tail) == (cut, DATA[cut - cut % 64 : cut].hex())
    second = Sha256.restore(state)
    assert second.snapshot() == state
    second.update(memoryview(DATA)[cut:].toreadonly())
    assert second.digest() == second.digest() == hashlib.sha256(DATA).digest()
    assert first.digest() == hashlib.sha256(DATA[:cut]).digest()


def rounds(words: list[int], block: bytes) -> list[int]:
    """One block of SHA-256 as the standard writes it (FIPS 180-4, 6.2.2)."""
    primes = [n for n in range(2, 312) if all(n % d for d in range(2, n))]
    thirds = [int(_root3(p) & 0xFFFFFFFF) for p in primes]

    def turn(x: int, n: int) -> int:
        return (x >> n | x << 32 - n) & 0xFFFFFFFF

    w = [int.from_bytes(block[i : i + 4], "big") for i in range(0, 64, 4)]
    for t in range(16, 64):
        s0 = turn(w[t - 15], 7) ^ turn(w[t - 15], 18) ^ w[t - 15] >> 3
        s1 = turn(w[t - 2], 17) ^ turn(w[t - 2], 19) ^ w[t - 2] >> 10
        w.append((w[t - 16] + s0 + w[t - 7] + s1) & 0xFFFFFFFF)
    a, b, c, d, e, f, g, h = words
    for t in range(64):
        t1 = h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + (e & f ^ ~e & g) + thirds[t] + w[t]
        t2 = (turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + (a & b ^ a & c ^ b & c)
        a, b, c, d, e, f, g, h = (t1 + t2) & 0xFFFFFFFF, a, b, c, (d + t1) & 0xFFFFFFFF, e, f, g
    return [(x + y) & 0xFFFFFFFF for x, y in zip(words, (a, b, c, d, e, f, g, h), strict=True)]


def _root3(p: int) -> int:
    """The cube root of p, times 2**32."""
    wanted, low, high = p << 96, 0, 1 << 40
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**3 <= wanted else (low, middle - 1)
    return low


@pytest.mark.parametrize("size", [0, 64, 1 << 29, (1 << 29) + 64, 5 << 40])
def test_the_length_counts_beyond_what_32_bits_hold(size: int) -> None:
    words = [int(BEGIN[i : i + 8], 16) for i in range(0, 64, 8)]
    expected = rounds(words, b"\x80" + bytes(55) + (8 * size).to_bytes(8, "big"))
    digest = Sha256.restore(Sha256State(BEGIN, size, "")).digest()
    assert digest == b"".join(word.to_bytes(4, "big") for word in expected)


@pytest.mark.parametrize(
    ("words", "size", "tail"), [(BEGIN, 5, "00"), (BEGIN, 64, "00"), (BEGIN, 1, ""), (BEGIN, 63, "00" * 64)]
)
def test_a_tail_that_does_not_fit_is_refused(words: str, size: int, tail: str) -> None:
    with pytest.raises(ValueError, match="tail"):
        Sha256.restore(Sha256State(words, size, tail))


def test_without_libcrypto_hashlib_serves_and_there_is_no_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_library", lambda: "there is none")
    hasher = Sha256()
    hasher.update(DATA)
    assert hasher.digest() == hashlib.sha256(DATA).digest()
    assert hasher.snapshot() is None
    assert Digest().snapshot() is None
    with pytest.raises(ValueError, match="there is none"):
        Sha256.restore(Sha256State(BEGIN, 0, ""))


def test_a_digest_goes_on_but_for_what_has_no_state() -> None:
    whole, first = (Digest(["crc64nvme", "crc32", "crc32c", "md5"]) for _ in range(2))
    whole.update([DATA])
    first.update([DATA[:777]])
    state = first.snapshot()
    assert state is not None
    second = Digest.restore(STATE.validate_json(STATE.dump_json(state)))
    second.update([DATA[777:]])
    expected, record = whole.record(), second.record()
    assert (
        (record.size, record.sha256)
        == (expected.size, expected.sha256)
        == (5000, hashlib.sha256(DATA).hexdigest())
    )
    assert record.blake3 is None
    assert record.others == {name: value for name, value in expected.others.items() if name != "md5"}
    assert state.crcs["crc64nvme"] == crt.crc64nvme(DATA[:777])


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b'{"size":1,"sha256":{"words":"00","size":1,"tail":"00"},"crcs":{}}',
        b'{"size":1,"sha256":{"words":"%s","size":1,"tail":"00"},"crcs":{"md5":1}}' % BEGIN.encode(),
        b'{"size":1,"sha256":{"words":"%s","size":1,"tail":"0"},"crcs":{}}' % BEGIN.encode(),
        b'{"size":1,"sha256":{"words":"%s","size":1,"tail":"00"},"crcs":{"crc32":-1}}' % BEGIN.encode(),
        b'{"size":true,"sha256":{"words":"%s","size":1,"tail":"00"},"crcs":{}}' % BEGIN.encode(),
    ],
)
def test_what_is_no_state_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="validation error"):
        STATE.validate_json(text)


@pytest.mark.parametrize(("size", "crc"), [(2, 1), (1, 1 << 32)])
def test_a_state_that_cannot_be_is_refused(size: int, crc: int) -> None:
    state = DigestState(size, Sha256State(BEGIN, 1, "00"), {"crc32": crc})
    with pytest.raises(ValueError, match=r"two sizes|more than 4 bytes"):
        Digest.restore(state)
