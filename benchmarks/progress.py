"""Throughput over time per lane, from the progress events of one run of the library.

The command line writes a line of progress every few seconds only, so as not to flood a log; here the events come
from the library's observer, ten a second. ``python -m benchmarks.progress REQUEST.json`` is the process that runs.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

from benchmarks.measure import measure
from benchmarks.stand import Source, Stand
from benchmarks.tools import ROOT

__all__ = ["LANES", "record_lanes"]

LANES = ("fetched", "hashed", "extracted", "expanded", "durable")


def record_lanes(stand: Stand, source: Source) -> list[dict[str, float]]:
    """Seconds and bytes so far of each lane, as one run without an upload check told them."""
    name = uuid4().hex
    folder, prefix = stand.folder / name, f"to/lanes/{name}/"
    request = {
        "source": f"s3://{stand.bucket}/{source.key}",
        "bucket": stand.bucket,
        "env": "to",
        "model_name": "lanes",
        "model_version": name,
        "endpoint_url": stand.server.endpoint_url,
        "region": stand.server.region,
        "upload_check": "none",
        "source_copy": "send",
    }
    folder.mkdir()
    (folder / "request.json").write_text(json.dumps(request))
    argv = [sys.executable, "-m", "benchmarks.progress", str(folder / "request.json")]
    usage = measure(argv, folder=folder, env=stand.environment() | {"PYTHONPATH": str(ROOT)})
    stand.remove(prefix)
    if usage.exit_code != 0:
        print(f"no throughput over time: {usage.stderr.strip()[-500:]}", file=sys.stderr)
        return []
    events: list[dict[str, float]] = json.loads(usage.stdout)
    return events


def _main() -> None:
    from riva_stream import StageRequest, stage  # noqa: PLC0415 - only the process that runs needs them
    from riva_stream.events import Event, Progress  # noqa: PLC0415

    told: list[dict[str, Any]] = []

    def observe(event: Event, /) -> None:
        if isinstance(event, Progress):
            fields = asdict(event)
            told.append({name: fields[name] for name in ("elapsed", *LANES)})

    request = StageRequest.model_validate_json(Path(sys.argv[1]).read_text())
    asyncio.run(stage(request, observer=observe))
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    _main()
