"""What the servers that are brought up on demand were seen to do; ``python -m tests.contract --server NAME`` asks again.

The answers stand in ``on_demand.json``, as ``--json`` prints them: by server the questions of the contract suite, what
``--upload-check`` comes to, and the exits of the main jobs.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import aioboto3
import anyio.to_thread

from riva_stream.errors import RivaStreamError
from riva_stream.retry import Retrier, RetryPolicy
from riva_stream.s3 import StoreSettings, WritableBucket, open_store
from riva_stream.s3.probe import probe_uploads
from riva_stream.sizes import MOST_PARTS
from tests.contract.copies import COPIES
from tests.contract.enforcement import PROBED, QUESTIONS, Question
from tests.contract.ground import TAKEN, Ground, outcome
from tests.contract.jobs import JOBS
from tests.contract.writes import WRITES, WriteQuestion
from tests.support.on_demand import ON_DEMAND
from tests.support.servers import S3Server

__all__ = ["Seen", "ask", "differences", "seen", "table_of_jobs", "table_of_servers"]

DIES = "the server dies"
_FILE = Path(__file__).with_name("on_demand.json")
_ASKED: tuple[Question | WriteQuestion, ...] = (*QUESTIONS, *WRITES, *COPIES)
_NAMES = {"ceph": "Ceph RGW", "swift": "Swift", "localstack26": "LocalStack 2026", "seaweedfs": "SeaweedFS"}


@dataclass(frozen=True, slots=True)
class Seen:
    """What one server did."""

    answers: Mapping[str, str] = field(default_factory=dict)
    probed: Mapping[str, str] = field(default_factory=dict)
    jobs: Mapping[str, str] = field(default_factory=dict)


def seen(name: str) -> Seen:
    """What is written down of a server."""
    return Seen(**json.loads(_FILE.read_text()).get(name, {}))


@asynccontextmanager
async def _ground(server: S3Server) -> AsyncIterator[Ground]:
    """A new bucket on it, behind a client of its own: the server may have been started anew."""
    keys = {"aws_access_key_id": server.access_key, "aws_secret_access_key": server.secret_key}
    settings = StoreSettings(region=server.region, endpoint_url=server.endpoint_url)
    async with open_store(settings, session=aioboto3.Session(**keys), warn=lambda _: None) as store:
        yield Ground(server, store, await anyio.to_thread.run_sync(server.new_bucket))


async def ask(server: S3Server, tell: Callable[[str], None]) -> tuple[dict[str, str], dict[str, str]]:
    """Ask a server every question, each in a bucket of its own; what it answers, and what the probe makes of it."""
    answers: dict[str, str] = {}
    probed: dict[str, str] = {}
    for question in _ASKED:
        async with _ground(server) as ground:
            try:
                answers[question.name] = await outcome(partial(question.ask, ground))
            except Exception as error:  # noqa: BLE001 - a server may answer anything, and that is what is asked
                answers[question.name] = type(error).__name__
        if not await anyio.to_thread.run_sync(server.answers):
            answers[question.name] = DIES
            await anyio.to_thread.run_sync(server.stop)
            await anyio.to_thread.run_sync(server.start)
        tell(f"{question.name}: {answers[question.name]}")
    async with _ground(server) as ground:
        for wanted in PROBED["moto"]:
            key, retrier = f"p/{wanted}", Retrier(RetryPolicy(retries=1))
            try:
                found = await probe_uploads(WritableBucket(ground.store, ground.bucket, retrier), key, wanted)
            except RivaStreamError as error:
                probed[wanted] = error.where.code or "refused"
            else:
                limit = "" if found.most_parts == MOST_PARTS else f", {found.most_parts:,} parts"
                probed[wanted] = found.check + limit
            tell(f"--upload-check {wanted}: {probed[wanted]}")
    return answers, probed


def differences(known: Seen, found: Seen) -> list[str]:
    """In what a server differs from what is written down, one line each; what was not asked is no difference."""
    lines = []
    for kind in ("answers", "probed", "jobs"):
        before, now = getattr(known, kind), getattr(found, kind)
        lines += [
            f"{name}: {now[name]}, it was {before.get(name, 'not asked')}"
            for name in now
            if now[name] != before.get(name)
        ]
    return lines


def table_of_servers() -> str:
    """What those enforce that are no part of the suite, in Markdown."""
    servers = [name for name in ON_DEMAND if name != "seaweedfs" and seen(name).answers]
    columns = {name: seen(name) for name in servers}
    head = f"| {{}} | {' | '.join(_NAMES.get(name, name) for name in servers)} |"
    rule = "|---" * (len(servers) + 1) + "|"
    lines = [head.format("request"), rule]
    for question in _ASKED:
        answers = [columns[name].answers[question.name] for name in servers]
        cells = [answer if answer in {TAKEN, DIES} else f"`{answer}`" for answer in answers]
        lines.append(f"| {question.name} | {' | '.join(cells)} |")
    lines += ["", head.format("`--upload-check`"), rule]
    for wanted in PROBED["moto"]:
        lines.append(f"| `{wanted}` | {' | '.join(columns[name].probed[wanted] for name in servers)} |")
    return "\n".join(lines)


def table_of_jobs() -> str:
    """The exits of the main jobs, in Markdown."""
    servers = [name for name in ON_DEMAND if seen(name).jobs]
    columns = {name: seen(name).jobs for name in servers}
    lines = [
        f"| job | right | {' | '.join(_NAMES.get(name, name) for name in servers)} |",
        "|---" * (len(servers) + 2) + "|",
    ]
    for job in JOBS:
        right = ", ".join(map(str, job.right))
        lines.append(f"| {job.name} | {right} | {' | '.join(columns[name][job.name] for name in servers)} |")
    return "\n".join(lines)
