"""What the extraction branch costs: gunzip, tar and policy, next to raw ISA-L inflating the same bytes plus their CRC.

Float weights at gzip -6, no network. CPU seconds of this process, medians of interleaved runs, so that a busy machine
weighs on both alike. Run it with ``python benchmarks/extraction.py``; ``--json`` for a machine.

The floor is measured with the block size that the extractor uses; ``one call`` is the naive floor, for comparison: it
inflates everything into one growing buffer, and pays for the page faults.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import random
import statistics
import tarfile
import time
import zlib
from array import array
from collections.abc import Callable

from isal import igzip_lib, isal_zlib

from riva_stream.archive import Extractor, MemberData

MIB = 1 << 20
PIECE = 8 * MIB
BLOCK = MIB


def weights(size: int, seed: int) -> bytes:
    """Float32 weights as a trained network has them: gzip takes 7 % off."""
    rng = random.Random(seed)
    block = array("f", (rng.gauss(0, 0.02) for _ in range(MIB))).tobytes()
    return (block * (size // len(block) + 1))[:size]


def archive(size: int) -> bytes:
    """A .tar.gz at level 6 with two models of weights, each a tar, and a few small files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, share in (
            ("config.yaml", 2000),
            ("a.riva", size * 2 // 3),
            ("b.riva", size // 3),
            ("vocab", 9000),
        ):
            data = weights(share, share)
            if name.endswith(".riva"):
                inner = io.BytesIO()
                with tarfile.open(fileobj=inner, mode="w") as model:
                    info = tarfile.TarInfo("model_weights.bin")
                    info.size = len(data)
                    model.addfile(info, io.BytesIO(data))
                data = inner.getvalue()
            info = tarfile.TarInfo(f"model/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(out.getvalue(), 6, mtime=0)


def raw(data: bytes) -> int:
    """The floor: raw inflate in blocks, and a CRC32 over each."""
    inflater = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_DEFLATE)
    crc = size = 0
    view = memoryview(data)[10:-8]
    for at in range(0, len(view), BLOCK * 9 // 10):
        piece: memoryview | bytes = view[at : at + BLOCK * 9 // 10]
        while True:
            block = inflater.decompress(piece, BLOCK)
            crc = isal_zlib.crc32(block, crc)
            size += len(block)
            if inflater.needs_input or inflater.eof:
                break
            piece = b""
    if crc != int.from_bytes(data[-8:-4], "little"):
        raise ValueError("wrong CRC")
    return size


def one_call(data: bytes) -> int:
    """The naive floor."""
    block = isal_zlib.decompress(data[10:-8], wbits=-zlib.MAX_WBITS)
    isal_zlib.crc32(block)
    return len(block)


def branch(data: bytes) -> int:
    """The extraction branch as the pipeline runs it, its output dropped."""
    extractor = Extractor()
    size = 0
    for at in range(0, len(data), PIECE):
        extractor.push(memoryview(data)[at : at + PIECE])
        while not extractor.needs_input:
            for event in extractor.pull(BLOCK):
                if isinstance(event, MemberData):
                    size += len(event.data)
    return extractor.finish().expanded_bytes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mib", type=int, default=128, help="size of the models together (default 128)")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    data = archive(options.mib * MIB)
    ways: dict[str, Callable[[bytes], int]] = {"raw": raw, "branch": branch, "one call": one_call}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    sizes = {name: way(data) for name, way in ways.items()}  # warm, and the same bytes come out
    if len(set(sizes.values())) != 1:
        raise SystemExit(f"the ways differ: {sizes}")
    for run in range(options.runs):
        order = list(ways) if run % 2 else list(reversed(ways))
        for name in order:
            begin = time.process_time()
            ways[name](data)
            seconds[name].append(time.process_time() - begin)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = median["branch"] / median["raw"]
    if options.json:
        print(
            json.dumps({"archive": len(data), "expanded": sizes["raw"], "seconds": seconds, "ratio": ratio})
        )
        return
    print(f"{len(data) / MIB:.0f} MiB of archive, {sizes['raw'] / MIB:.0f} MiB expanded, {options.runs} runs")
    for name, value in median.items():
        spread = f"{min(seconds[name]):.3f} to {max(seconds[name]):.3f}"
        print(f"{name:>9}: {value:.3f} s of CPU ({spread}), {sizes['raw'] / 1e6 / value:.0f} MB/s")
    print(f"branch / raw inflate + CRC32 = {ratio:.3f}")


if __name__ == "__main__":
    main()
