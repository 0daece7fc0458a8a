"""What snapshots cost: inflating by each way, finding a block, and writing a snapshot down.

CPU seconds of this process, medians of interleaved runs, so that a busy machine weighs on all alike. Run it with
``python -m benchmarks.snapshots``; ``--json`` for a machine. No network, nothing on disk.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
import time
import zlib
from collections.abc import Callable
from functools import partial

from isal import isal_zlib

from benchmarks.extraction import weights
from riva_stream.archive import Extractor
from riva_stream.archive.inflate import Inflater, NativeInflater, WheelInflater, why_not_native
from riva_stream.flow.sha256 import Sha256, why_no_state
from tests.archive.kit import tar_of

MIB = 1 << 20
PIECE = 8 * MIB
SLICE = 900_000
BETWEEN = 16 * MIB
"""Bytes of output between two places that are asked for."""


def text(size: int) -> bytes:
    rng = random.Random(20130)
    block = b" ".join(b"%d" % rng.randrange(4000) for _ in range(MIB // 4))
    return (block * (size // len(block) + 1))[:size]


def deflated(data: bytes, level: int) -> bytes:
    packer = isal_zlib.compressobj(1, 8, -15) if level == 1 else zlib.compressobj(level, zlib.DEFLATED, -15)
    return bytes(packer.compress(data) + packer.flush())


def inflated(packed: bytes, new: Callable[[], Inflater], *, seeks: bool = False) -> int:
    """Everything, in blocks of a MiB, and the CRC32 of each; returns how many places were found."""
    inflater, view, made, found, wanted = new(), memoryview(packed), 0, 0, BETWEEN
    for at in range(0, len(packed), SLICE):
        inflater.feed(view[at : at + SLICE])
        while not inflater.needs_input and not inflater.eof:
            if seeks and made >= wanted:
                inflater.seeking, wanted = True, made + BETWEEN
            block = inflater.inflate(MIB)
            isal_zlib.crc32(block)
            made += len(block)
            if inflater.boundary is not None:
                inflater.boundary, found = None, found + 1
    return found


def hashed(data: bytes, new: Callable[[], object]) -> int:
    hasher, view = new(), memoryview(data)
    for at in range(0, len(data), MIB):
        hasher.update(view[at : at + MIB])  # type: ignore[attr-defined]
    return 0


def snapshot_seconds(data: bytes, level: int) -> tuple[float, int]:
    """The median time of one ``snapshot()``, and its bytes."""
    packer = zlib.compressobj(level, zlib.DEFLATED, 31)
    tar = tar_of({"a.riva": data[: 32 * MIB]})
    archive = packer.compress(tar) + packer.flush()
    extractor, times, size = Extractor(), list[float](), 0
    for at in range(0, len(archive), MIB):
        extractor.push(archive[at : at + MIB])
        extractor.mark()
        while not extractor.needs_input:
            extractor.pull(MIB)
        begun = time.process_time()
        snapshot = extractor.snapshot()
        times.append(time.process_time() - begun)
        size = max(size, len(snapshot.data) if snapshot else 0)
    return statistics.median(times), size


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if why_not_native() or why_no_state():
        raise SystemExit(why_not_native() or why_no_state())
    made = {"weights": weights(options.mib * MIB, 1), "text": text(options.mib * MIB)}
    rows: list[dict[str, object]] = []
    for name, level in (
        ("weights", 0),
        ("weights", 1),
        ("weights", 6),
        ("weights", 9),
        ("text", 1),
        ("text", 6),
        ("text", 9),
    ):
        packed = deflated(made[name], level)
        ways: dict[str, Callable[[], int]] = {
            "wheel": partial(inflated, packed, WheelInflater),
            "native": partial(inflated, packed, NativeInflater),
            "seeking": partial(inflated, packed, NativeInflater, seeks=True),
        }
        median, found = measured(ways, options.runs)
        snapshot, size = snapshot_seconds(made[name], level)
        rows.append(
            {
                "data": f"{name}, level {level}",
                "wheel_mb_s": options.mib * MIB / 1e6 / median["wheel"],
                "native_mb_s": options.mib * MIB / 1e6 / median["native"],
                "native_to_wheel": median["native"] / median["wheel"],
                "ms_per_place": 1e3 * (median["seeking"] - median["native"]) / max(1, found["seeking"]),
                "places": found["seeking"],
                "ms_per_snapshot": 1e3 * snapshot,
                "snapshot_bytes": size,
            }
        )
    digests, _ = measured(
        {
            "hashlib": partial(hashed, made["text"], hashlib.sha256),
            "ours": partial(hashed, made["text"], Sha256),
        },
        options.runs,
    )
    if options.json:
        print(json.dumps({"rows": rows, "sha256": digests}))
        return
    for row in rows:
        print(
            ", ".join(
                f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}"
                for key, value in row.items()
            )
        )
    print(
        f"SHA-256: hashlib {digests['hashlib']:.4f} s, ours {digests['ours']:.4f} s: {digests['ours'] / digests['hashlib']:.3f}"
    )


def measured(ways: dict[str, Callable[[], int]], runs: int) -> tuple[dict[str, float], dict[str, int]]:
    """Median CPU seconds of each way, and what it returned."""
    returned = {name: way() for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(runs):
        for name in list(ways) if run % 2 else list(reversed(ways)):
            begun = time.process_time()
            ways[name]()
            seconds[name].append(time.process_time() - begun)
    return {name: statistics.median(values) for name, values in seconds.items()}, returned


if __name__ == "__main__":
    main()
