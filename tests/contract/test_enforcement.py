"""What each store enforces stands in one table; every store is asked every question again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from riva_stream.errors import ConfigurationError, SourceChangedError
from riva_stream.retry import Retrier
from riva_stream.s3 import CopySource, WritableBucket
from riva_stream.s3.copy_probe import probe_copies
from riva_stream.s3.probe import probe_uploads
from tests.contract.copies import COPIES, COPIES_WORTH, COPY_FACTS, MIB, CopyFact
from tests.contract.enforcement import ANSWERS, PROBED, QUESTIONS, Question, table
from tests.contract.ground import Ground, body, outcome
from tests.contract.jobs import JOBS
from tests.contract.on_demand import Seen, differences, seen, table_of_jobs, table_of_servers
from tests.contract.writes import WRITES, WriteQuestion
from tests.support.on_demand import ON_DEMAND

on_one_loop = pytest.mark.asyncio(loop_scope="session")

DOCS = Path(__file__).parents[2] / "docs" / "reliability.md"


@on_one_loop
@pytest.mark.parametrize("question", [*QUESTIONS, *WRITES, *COPIES], ids=lambda question: question.name)
async def test_each_store_enforces_what_the_table_says(
    ground: Ground, question: Question | WriteQuestion
) -> None:
    assert await outcome(lambda: question.ask(ground)) == ANSWERS[ground.server.name][question.name]


@on_one_loop
@pytest.mark.parametrize("fact", COPY_FACTS, ids=lambda fact: fact.name)
async def test_copies_are_what_the_table_says(ground: Ground, fact: CopyFact) -> None:
    assert await fact.find(ground) == fact.answers[ground.server.name]


@on_one_loop
@pytest.mark.parametrize("wanted", PROBED["moto"])
async def test_the_probe_finds_out_what_each_store_verifies(ground: Ground, wanted: str) -> None:
    expected, key = PROBED[ground.server.name][wanted], "prefix/.riva-stream/probe"
    if expected == "refused":
        with pytest.raises(ConfigurationError, match="does not verify"):
            await probe_uploads(WritableBucket(ground.store, ground.bucket, Retrier()), key, wanted)
    else:
        probed = await probe_uploads(WritableBucket(ground.store, ground.bucket, Retrier()), key, wanted)
        assert (probed.check, probed.most_parts) == (expected, 10_000)
    # nothing is left of it, and nothing was ever visible
    assert not await ground.store.list_uploads(ground.bucket, "")
    assert not (await ground.store.list_objects(ground.bucket, "")).objects


@on_one_loop
async def test_the_probe_finds_out_what_copies_are_worth(ground: Ground) -> None:
    data = os.urandom(6 * MIB)
    source, store = ground.key("in"), ground.store
    etag = await ground.put(source, body(data))
    found = await probe_copies(
        WritableBucket(store, ground.bucket, Retrier()),
        "prefix/.riva-stream/probe",
        CopySource(ground.bucket, source, etag, None, 0, 65_535),
        data[:65_536],
        declare=PROBED[ground.server.name]["auto"] == "crc64nvme",
    )
    assert (not found.reason, found.crc64nvme, found.md5) == COPIES_WORTH[ground.server.name]
    assert not await store.list_uploads(ground.bucket, "")
    assert [info.key for info in (await store.list_objects(ground.bucket, "")).objects] == [source]


@on_one_loop
async def test_the_probe_tells_a_source_that_is_gone(ground: Ground) -> None:
    gone = CopySource(ground.bucket, ground.key(), "0" * 31 + "1")
    with pytest.raises(SourceChangedError):
        await probe_copies(
            WritableBucket(ground.store, ground.bucket, Retrier()), "p/probe", gone, None, declare=False
        )
    assert not await ground.store.list_uploads(ground.bucket, "")


def test_the_probe_agrees_with_the_table() -> None:
    rows = {
        "crc64nvme": "UploadPart, wrong CRC64NVME, declared at Create",
        "md5": "UploadPart, wrong Content-MD5",
        "sha256": "UploadPart, wrong signed SHA-256",
    }
    for store, answers in ANSWERS.items():
        for check, row in rows.items():
            assert (PROBED[store][check] == "refused") == (answers[row] == "taken")


def test_the_table_stands_in_the_docs() -> None:
    text = DOCS.read_text()
    for made in (table(), table_of_servers(), table_of_jobs()):
        assert made in text


@pytest.mark.parametrize("name", ON_DEMAND)
def test_every_server_on_demand_was_asked_everything(name: str) -> None:
    known = seen(name)
    assert list(known.answers) == list(ANSWERS["moto"])
    assert list(known.probed) == list(PROBED["moto"])
    assert list(known.jobs) == [job.name for job in JOBS]


def test_what_is_seen_now_is_compared_with_what_is_written_down() -> None:
    known = seen("ceph")
    assert differences(known, known) == []
    assert differences(known, Seen(jobs={"check": known.jobs["check"]})) == []
    assert len(differences(known, Seen(jobs={"check": "1"}, probed={"auto": "none"}))) == 2
