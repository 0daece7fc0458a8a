"""What each store enforces, asked one question at a time: the questions, and the answers as a table.

The answers are what `riva_stream` relies on: ``--upload-check auto``, the commit and the lease. A cell is ``taken``,
or the error code the store refuses with. ``python -m tests.contract`` prints the table; tests ask every store
again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aioboto3

from riva_stream.s3 import CompletedPart, StoreSettings, open_store
from tests.contract.copies import COPIES, COPY_FACTS
from tests.contract.ground import SMALL, TAKEN, Ground, body, crc64nvme
from tests.contract.seaweed import SEAWEED
from tests.contract.writes import WRITES
from tests.support.servers import S3Server

__all__ = ["ANSWERS", "PROBED", "QUESTIONS", "Question", "table"]

STORES = ("moto", "gateway", "localstack", "memory")

_OTHER_ETAG = "0" * 32


@dataclass(frozen=True, slots=True)
class Question:
    """One request that a strict store refuses (or, the last few, that any store should take)."""

    name: str
    ask: Callable[[Ground], Awaitable[object]]
    answers: tuple[str, str, str, str]
    """Of moto, the gateway, LocalStack and the store in memory."""


async def _put_wrong(ground: Ground, check: str) -> object:
    return await ground.put(ground.key(), body(check=check, wrong=True))


async def _part_wrong(ground: Ground, check: str, *, declared: bool = False) -> object:
    key = ground.key()
    return await ground.part(
        key, await ground.create(key, declared=declared), 1, body(check=check, wrong=True)
    )


async def _part_of_another_check(ground: Ground) -> object:
    key = ground.key()
    return await ground.part(key, await ground.create(key, declared=True), 1, body(check="md5"))


async def _part_gone(ground: Ground) -> object:
    key, upload_id, _ = await ground.upload()
    await ground.store.abort_upload(ground.bucket, key, upload_id)
    return await ground.part(key, upload_id)


async def _part_after_complete(ground: Ground) -> object:
    key, upload_id, parts = await ground.upload(SMALL)
    await ground.complete(key, upload_id, parts)
    return await ground.part(key, upload_id)


async def _part_numbered(ground: Ground, number: int) -> object:
    key, upload_id, _ = await ground.upload()
    return await ground.part(key, upload_id, number)


async def _complete_other_etag(ground: Ground) -> object:
    key, upload_id, _ = await ground.upload(SMALL)
    return await ground.complete(key, upload_id, [CompletedPart(1, _OTHER_ETAG, len(SMALL))])


async def _complete_wrong_size(ground: Ground) -> object:
    key, upload_id, parts = await ground.upload(SMALL)
    return await ground.complete(key, upload_id, [CompletedPart(1, parts[0].etag, len(SMALL) + 1)])


async def _complete_wrong_whole(ground: Ground) -> object:
    key, upload_id, parts = await ground.upload(SMALL, check="crc64nvme")
    return await ground.complete(key, upload_id, parts, crc64nvme(b"another object"))


async def _complete_small_parts(ground: Ground) -> object:
    key, upload_id, parts = await ground.upload(SMALL, SMALL)
    return await ground.complete(key, upload_id, parts)


async def _complete_missing_part(ground: Ground) -> object:
    key, upload_id, parts = await ground.upload(SMALL)
    return await ground.complete(key, upload_id, [*parts, CompletedPart(2, _OTHER_ETAG, 1)])


async def _complete_twice(ground: Ground) -> object:
    key, upload_id, parts = await ground.upload(SMALL)
    await ground.complete(key, upload_id, parts)
    return await ground.complete(key, upload_id, parts)


async def _complete_gone(ground: Ground) -> object:
    key, upload_id, parts = await ground.upload(SMALL)
    await ground.store.abort_upload(ground.bucket, key, upload_id)
    return await ground.complete(key, upload_id, parts)


async def _complete_if(ground: Ground, **condition: Any) -> object:
    key = ground.key()
    await ground.put(key)
    _, upload_id, parts = await ground.upload(SMALL, key=key)
    return await ground.store.complete_upload(
        ground.bucket, key, upload_id, parts, crc64nvme=None, **condition
    )


async def _put_if_absent(ground: Ground) -> object:
    key = ground.key()
    await ground.put(key)
    return await ground.put(key, if_absent=True)


async def _put_if_match_other(ground: Ground) -> object:
    key = ground.key()
    await ground.put(key)
    return await ground.put(key, if_match=_OTHER_ETAG)


async def _put_if_match_missing(ground: Ground) -> object:
    return await ground.put(ground.key(), if_match=_OTHER_ETAG)


async def _put_if_match_right(ground: Ground) -> object:
    key = ground.key()
    return await ground.put(key, if_match=await ground.put(key))


async def _range(ground: Ground, first: int, etag: str = "") -> object:
    key = ground.key()
    own = await ground.put(key)
    return await ground.range(key, first, first + 4, etag or own)


async def _range_missing(ground: Ground) -> object:
    return await ground.range(ground.key(), 0, 4, _OTHER_ETAG)


async def _range_of_version(ground: Ground) -> object:
    key = ground.key()
    return await ground.range(key, 0, 4, await ground.put(key), version_id="no-such-version")


async def _as(ground: Ground, name: str) -> object:
    """Speak to the store with a wrong key; the SDK finds it in the session it is given."""
    server = ground.server
    if not isinstance(server, S3Server):
        return None  # nobody signs anything
    keys = {"aws_access_key_id": server.access_key, "aws_secret_access_key": server.secret_key}
    session = aioboto3.Session(**(keys | {name: "not-the-right-one"}))
    settings = StoreSettings(region=server.region, endpoint_url=server.endpoint_url)
    async with open_store(settings, session=session, warn=lambda _: None) as store:
        return await store.list_objects(ground.bucket, "")


QUESTIONS: tuple[Question, ...] = (
    Question(
        "PUT, wrong CRC64NVME", lambda g: _put_wrong(g, "crc64nvme"), (TAKEN, TAKEN, "BadDigest", "BadDigest")
    ),
    Question(
        "PUT, wrong Content-MD5",
        lambda g: _put_wrong(g, "md5"),
        (TAKEN, "BadDigest", "BadDigest", "BadDigest"),
    ),
    Question(
        "PUT, wrong signed SHA-256",
        lambda g: _put_wrong(g, "sha256"),
        (TAKEN, "XAmzContentSHA256Mismatch", TAKEN, "XAmzContentSHA256Mismatch"),
    ),
    Question(
        "UploadPart, wrong CRC64NVME, declared at Create",
        lambda g: _part_wrong(g, "crc64nvme", declared=True),
        (TAKEN, TAKEN, "BadDigest", "BadDigest"),
    ),
    Question(
        "UploadPart, wrong CRC64NVME, not declared",
        lambda g: _part_wrong(g, "crc64nvme"),
        (TAKEN, TAKEN, "BadDigest", "BadDigest"),
    ),
    Question(
        "UploadPart, wrong Content-MD5",
        lambda g: _part_wrong(g, "md5"),
        (TAKEN, "BadDigest", "BadDigest", "BadDigest"),
    ),
    Question(
        "UploadPart, wrong signed SHA-256",
        lambda g: _part_wrong(g, "sha256"),
        (TAKEN, "XAmzContentSHA256Mismatch", TAKEN, "XAmzContentSHA256Mismatch"),
    ),
    Question(
        "UploadPart with Content-MD5 only, CRC64NVME declared at Create",
        _part_of_another_check,
        (TAKEN, TAKEN, "InvalidRequest", "InvalidRequest"),
    ),
    Question(
        "UploadPart of an aborted upload", _part_gone, ("500", "NoSuchUpload", "NoSuchUpload", "NoSuchUpload")
    ),
    Question(
        "UploadPart of a completed upload",
        _part_after_complete,
        ("500", "NoSuchUpload", "NoSuchUpload", "NoSuchUpload"),
    ),
    Question(
        "UploadPart number 10,001",
        lambda g: _part_numbered(g, 10_001),
        ("InvalidArgument", "InvalidArgument", "InvalidArgument", "InvalidArgument"),
    ),
    Question(
        "Complete, another ETag",
        _complete_other_etag,
        ("InvalidPart", "InvalidPart", "InvalidPart", "InvalidPart"),
    ),
    Question(
        "Complete, a part that was not sent",
        _complete_missing_part,
        ("InvalidPart", "NoSuchUpload", "EntityTooSmall", "EntityTooSmall"),
    ),
    Question(
        "Complete, wrong MpuObjectSize",
        _complete_wrong_size,
        (TAKEN, TAKEN, "InvalidRequest", "InvalidRequest"),
    ),
    Question(
        "Complete, wrong CRC64NVME of the whole",
        _complete_wrong_whole,
        (TAKEN, TAKEN, "BadDigest", "BadDigest"),
    ),
    Question(
        "Complete, parts under 5 MiB that are not the last",
        _complete_small_parts,
        ("EntityTooSmall", TAKEN, "EntityTooSmall", "EntityTooSmall"),
    ),
    Question(
        "Complete, a second time", _complete_twice, (TAKEN, "NoSuchUpload", "NoSuchUpload", "NoSuchUpload")
    ),
    Question(
        "Complete of an aborted upload",
        _complete_gone,
        ("500", "NoSuchUpload", "NoSuchUpload", "NoSuchUpload"),
    ),
    Question(
        "Complete, If-None-Match: *, the key is there",
        lambda g: _complete_if(g, if_absent=True),
        ("PreconditionFailed", TAKEN, "PreconditionFailed", "PreconditionFailed"),
    ),
    Question(
        "Complete, If-Match, another ETag",
        lambda g: _complete_if(g, if_match=_OTHER_ETAG),
        (TAKEN, TAKEN, "PreconditionFailed", "PreconditionFailed"),
    ),
    Question(
        "PUT, If-None-Match: *, the key is there",
        _put_if_absent,
        ("PreconditionFailed", TAKEN, "PreconditionFailed", "PreconditionFailed"),
    ),
    Question(
        "PUT, If-Match, another ETag",
        _put_if_match_other,
        ("PreconditionFailed", TAKEN, "PreconditionFailed", "PreconditionFailed"),
    ),
    Question(
        "PUT, If-Match, no such key", _put_if_match_missing, ("NoSuchKey", TAKEN, "NoSuchKey", "NoSuchKey")
    ),
    Question("PUT, If-Match, the right ETag", _put_if_match_right, (TAKEN, TAKEN, TAKEN, TAKEN)),
    Question(
        "GET of a range, If-Match, another ETag",
        lambda g: _range(g, 0, _OTHER_ETAG),
        ("PreconditionFailed", "PreconditionFailed", "PreconditionFailed", "PreconditionFailed"),
    ),
    Question(
        "GET of a range after the end",
        lambda g: _range(g, 1000),
        ("InvalidRange", "InvalidRange", "InvalidRange", "InvalidRange"),
    ),
    Question(
        "GET of a range, no such key", _range_missing, ("NoSuchKey", "NoSuchKey", "NoSuchKey", "NoSuchKey")
    ),
    Question(
        "GET of a range, no such version",
        _range_of_version,
        ("NoSuchVersion", "InvalidArgument", "InvalidArgument", "InvalidArgument"),
    ),
    Question(
        "an unknown access key",
        lambda g: _as(g, "aws_access_key_id"),
        (TAKEN, "InvalidAccessKeyId", TAKEN, TAKEN),
    ),
    Question(
        "a wrong secret key",
        lambda g: _as(g, "aws_secret_access_key"),
        (TAKEN, "SignatureDoesNotMatch", TAKEN, TAKEN),
    ),
)

ANSWERS: dict[str, dict[str, str]] = {
    store: {question.name: question.answers[place] for question in QUESTIONS}
    for place, store in enumerate(STORES)
} | {"seaweedfs": dict(SEAWEED)}
"""By store, then by question."""
for _store, _answers in ANSWERS.items():
    _answers |= {question.name: question.answers[_store] for question in (*WRITES, *COPIES)}

PROBED: dict[str, dict[str, str]] = {
    "moto": {"auto": "etag", "crc64nvme": "refused", "md5": "refused", "sha256": "refused", "none": "none"},
    "gateway": {"auto": "sha256", "crc64nvme": "refused", "md5": "md5", "sha256": "sha256", "none": "none"},
    "localstack": {
        "auto": "crc64nvme",
        "crc64nvme": "crc64nvme",
        "md5": "md5",
        "sha256": "refused",
        "none": "none",
    },
    "seaweedfs": {
        "auto": "crc64nvme",
        "crc64nvme": "crc64nvme",
        "md5": "md5",
        "sha256": "refused",
        "none": "none",
    },
    "memory": {
        "auto": "crc64nvme",
        "crc64nvme": "crc64nvme",
        "md5": "md5",
        "sha256": "sha256",
        "none": "none",
    },
}
"""What ``--upload-check`` comes to on each store; ``refused``: the run does not begin (exit 78)."""


_TITLES = {"localstack": "LocalStack", "seaweedfs": "SeaweedFS"}


def table() -> str:
    """All tables in Markdown."""
    stores = list(ANSWERS)
    titles = " | ".join(_TITLES.get(store, store) for store in stores)
    rule = "|---" * (len(stores) + 1) + "|"
    lines = [f"| request | {titles} |", rule]
    for name in ANSWERS["memory"]:
        answers = [ANSWERS[store][name] for store in stores]
        cells = [answer if answer == TAKEN else f"`{answer}`" for answer in answers]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", f"| of parts that the store copies | {titles} |", rule]
    for fact in COPY_FACTS:
        told = [fact.answers[store] for store in stores]
        cells = [answer if answer in {"yes", "no"} else f"`{answer}`" for answer in told]
        lines.append(f"| {fact.name} | {' | '.join(cells)} |")
    lines += ["", f"| `--upload-check` | {titles} |", rule]
    for wanted in PROBED["moto"]:
        lines.append(f"| `{wanted}` | {' | '.join(PROBED[store][wanted] for store in stores)} |")
    return "\n".join(lines)
