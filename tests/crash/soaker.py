"""The process of the soak: stages one prefix after the other and tells what it holds after each.

Started by `tests.crash.soak`; everything it needs is in its arguments and environment. Writes one JSON line per
staging: resident bytes, file descriptors, threads and tasks when it is done, and how many attempts it took.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import json
import resource
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from riva_stream import StageRequest, stage
from riva_stream.errors import TransientError

_ATTEMPTS = 20
_WORKERS = 8
"""Worker threads: no run has more at once, and when it is measured there are so many."""

_LIBC = ctypes.CDLL(None)


def _held() -> dict[str, int]:
    gc.collect()
    # What the allocator merely has spare goes back first: what stays is what somebody holds.
    _LIBC.malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "rss": pages * resource.getpagesize(),
        "descriptors": len([*Path("/proc/self/fd").iterdir()]) - 1,  # one is the listing's own
        "blocks": sys.getallocatedblocks(),
        "threads": threading.active_count(),
        "tasks": len(asyncio.all_tasks()) - 1,  # one is this very task
    }


async def _fill_the_pool() -> None:
    """anyio keeps as many workers as were ever busy at once, of late: how many that is is chance, and no leak."""
    together = threading.Barrier(_WORKERS)

    async def meet() -> None:
        await anyio.to_thread.run_sync(together.wait)

    async with anyio.create_task_group() as tasks:
        for _ in range(_WORKERS):
            tasks.start_soon(meet)


async def _one(fields: dict[str, Any]) -> int:
    """Stage until it is staged: the number of calls."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            await stage(StageRequest.model_validate(fields))
        except TransientError as error:
            sys.stderr.write(
                f"{fields['model_version']}, attempt {attempt}: {type(error).__name__}: {error}\n"
            )
        else:
            return attempt
    raise AssertionError(f"not staged in {_ATTEMPTS} attempts: {fields['model_version']}")


async def _soak(args: argparse.Namespace) -> None:
    anyio.to_thread.current_default_thread_limiter().total_tokens = _WORKERS
    for index in range(args.runs):
        fields = {
            "source": args.source,
            "bucket": args.bucket,
            "env": "prod",
            "model_name": "soak",
            "model_version": f"v{index}",
            "endpoint_url": args.endpoint_url,
            "region": "us-east-1",
            "part_size": 5 << 20,
            "connections": 3,
            "run_id": f"soak-{index}",  # the next attempt takes over at once
        }
        attempts = await _one(fields)
        # What a closed connection leaves to the loop is done by the next turns of it.
        await asyncio.sleep(0.1)
        await _fill_the_pool()
        sys.stdout.write(json.dumps({"index": index, "attempts": attempts} | _held()) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, required=True)
    for name in ("source", "bucket", "endpoint-url"):
        parser.add_argument(f"--{name}", required=True)
    asyncio.run(_soak(parser.parse_args()))
