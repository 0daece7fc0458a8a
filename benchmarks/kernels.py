"""The kernels that a full staging cannot do without, each alone on the same bytes, in CPU-seconds.

``python -m benchmarks.kernels NAME JOB.json`` runs one of them in a process of its own, so that nothing that another
one left in caches, heaps or arenas helps or hurts it, and prints one JSON object. The clock runs only around the
work: imports and set-up are not in it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["CHECKSUMS", "EXTRA", "KERNELS", "KernelJob", "kernels_for"]

_PART = 8 << 20
_BLOCK = 1 << 20
_CONNECTIONS = 8


@dataclass(frozen=True, slots=True)
class KernelJob:
    """What the kernels work on: two local files and the same archive in a bucket."""

    archive: str
    """Path of the archive, on a tmpfs."""
    members: str
    """Path of a file that holds the members' bytes, one after the other."""
    bucket: str
    key: str
    scratch: str
    """A key to upload to; the upload is aborted."""


class _Clock:
    """CPU seconds of this process, added up over the stretches that count."""

    def __init__(self) -> None:
        self.cpu = 0.0

    def __enter__(self) -> None:
        self._began = time.process_time()

    def __exit__(self, *_: object) -> None:
        self.cpu += time.process_time() - self._began


def _pieces(path: str) -> Iterator[memoryview]:
    """A file in parts, through one buffer, so that no page fault is counted."""
    buffer = memoryview(bytearray(_PART))
    with Path(path).open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            yield buffer[:count]


def _hashed(make: Callable[[], Any], *paths: str) -> float:
    clock = _Clock()
    for path in paths:
        hasher = make()
        for piece in _pieces(path):
            with clock:
                hasher.update(piece)
    return clock.cpu


def _sha256_archive(job: KernelJob) -> float:
    return _hashed(hashlib.sha256, job.archive)


def _sha256_members(job: KernelJob) -> float:
    return _hashed(hashlib.sha256, job.members)


def _md5(job: KernelJob) -> float:
    return _hashed(hashlib.md5, job.archive, job.members)


def _sha256_parts(job: KernelJob) -> float:
    return _hashed(hashlib.sha256, job.archive, job.members)


def _blake3(job: KernelJob) -> float:
    from blake3 import blake3  # noqa: PLC0415 - each kernel imports what it needs

    return _hashed(blake3, job.archive, job.members)


def _crc64nvme(job: KernelJob) -> float:
    from awscrt import checksums  # noqa: PLC0415

    class Crc:
        value = 0

        def update(self, data: memoryview) -> None:
            self.value = checksums.crc64nvme(data, self.value)

    return _hashed(Crc, job.archive, job.members)


def _inflate(job: KernelJob) -> float:
    """ISA-L's own gzip mode, which computes the CRC that a staging must compare as well."""
    from isal import igzip_lib  # noqa: PLC0415

    clock = _Clock()
    inflater = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    for piece in _pieces(job.archive):
        rest: memoryview | bytes = piece
        while not inflater.eof and (len(rest) or not inflater.needs_input):
            # As much at a time as inflates to about one block: what does not fit, the inflater would copy.
            step, rest = rest[: _BLOCK * 3 // 4], rest[_BLOCK * 3 // 4 :]
            with clock:
                inflater.decompress(step, _BLOCK)
                while not inflater.needs_input and not inflater.eof:
                    inflater.decompress(b"", _BLOCK)
    if not inflater.eof:
        raise ValueError("the archive's gzip stream has no end")
    return clock.cpu


def _client() -> AbstractAsyncContextManager[Any]:
    import aioboto3  # noqa: PLC0415
    from aiobotocore.config import AioConfig  # noqa: PLC0415

    config = AioConfig(
        max_pool_connections=_CONNECTIONS,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"payload_signing_enabled": False, "addressing_style": "path"},
    )
    client: AbstractAsyncContextManager[Any] = aioboto3.Session().client("s3", config=config)
    return client


async def _workers(work: Callable[[int], Any], count: int) -> None:
    """``work(0)`` to ``work(count - 1)``, as many at once as there are connections."""
    todo = iter(range(count))

    async def worker() -> None:
        for index in todo:
            await work(index)

    await asyncio.gather(*(worker() for _ in range(_CONNECTIONS)))


async def _get(job: KernelJob) -> float:
    """Ranged GETs, drained and dropped."""
    clock = _Clock()
    async with _client() as client:
        size = (await client.head_object(Bucket=job.bucket, Key=job.key))["ContentLength"]

        async def drain(index: int) -> None:
            first = index * _PART
            asked = f"bytes={first}-{min(first + _PART, size) - 1}"
            answer = await client.get_object(Bucket=job.bucket, Key=job.key, Range=asked)
            async with answer["Body"] as body:
                while await body.content.readany():
                    pass

        with clock:
            await _workers(drain, -(-size // _PART))
    return clock.cpu


async def _put(job: KernelJob) -> float:
    """Parts with bodies of bytes. One and the same body for each: reading the files is not the kernel."""
    clock = _Clock()
    sizes = [len(piece) for path in (job.archive, job.members) for piece in _pieces(path)]
    whole = bytes(next(_pieces(job.archive)))
    bodies = {size: whole[:size].ljust(size, b"\0") for size in set(sizes)}
    async with _client() as client:
        target = {"Bucket": job.bucket, "Key": job.scratch}
        upload = (await client.create_multipart_upload(**target))["UploadId"]

        async def send(index: int) -> None:
            await client.upload_part(
                **target, UploadId=upload, PartNumber=index + 1, Body=bodies[sizes[index]]
            )

        with clock:
            await _workers(send, len(sizes))
        await client.abort_multipart_upload(**target, UploadId=upload)
    return clock.cpu


async def _put_pieces(job: KernelJob) -> float:
    """The same parts through riva_stream's own store, each made of pieces as they come out of inflate."""
    from riva_stream.s3.port import PartBody  # noqa: PLC0415
    from riva_stream.s3.session import StoreSettings, open_store  # noqa: PLC0415

    clock = _Clock()
    sizes = [len(piece) for path in (job.archive, job.members) for piece in _pieces(path)]
    block = bytes(_BLOCK)
    settings = StoreSettings(endpoint_url=os.environ["AWS_ENDPOINT_URL"], connections=_CONNECTIONS)
    async with open_store(settings, warn=print) as store:
        target = (job.bucket, job.scratch)
        upload = await store.create_upload(*target, content_type="", metadata={}, crc64nvme=False)

        async def send(index: int) -> None:
            size = sizes[index]
            pieces = [*[block] * (size // _BLOCK), block[: size % _BLOCK]]
            await store.upload_part(*target, upload, index + 1, PartBody(tuple(pieces), size))

        with clock:
            await _workers(send, len(sizes))
        await store.abort_upload(*target, upload)
    return clock.cpu


KERNELS: dict[str, Callable[[KernelJob], float]] = {
    "sha256-archive": _sha256_archive,
    "inflate": _inflate,
    "sha256-members": _sha256_members,
    "get": lambda job: asyncio.run(_get(job)),
    "put": lambda job: asyncio.run(_put(job)),
}
"""Those that every staging needs; their sum is what a client is measured against."""

CHECKSUMS: dict[str, Callable[[KernelJob], float]] = {
    "md5": _md5,
    "sha256": _sha256_parts,
    "crc64nvme": _crc64nvme,
}
"""By the upload check that is in force; "none" needs none."""

EXTRA: dict[str, Callable[[KernelJob], float]] = {
    "blake3": _blake3,
    "put-pieces": lambda job: asyncio.run(_put_pieces(job)),
}
"""What riva_stream does besides, or in another way; it is told, but it is in no sum."""


def kernels_for(check: str) -> list[str]:
    """Names of the kernels whose sum stands against a run with this upload check."""
    return [*KERNELS, *([f"check-{check}"] if check in CHECKSUMS else [])]


def _main() -> None:
    name, job = sys.argv[1], KernelJob(**json.loads(Path(sys.argv[2]).read_text()))
    known = KERNELS | {f"check-{check}": kernel for check, kernel in CHECKSUMS.items()} | EXTRA
    print(json.dumps({"kernel": name, "cpu": known[name](job), "job": asdict(job)}))


if __name__ == "__main__":
    _main()
