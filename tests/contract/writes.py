"""More questions to each store: conditions on what is there, and windows of time (docs/semantics.md).

Each bears on the commit: a Complete or DELETE that comes late, or that meets another object than it means to replace,
must not take effect.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from riva_stream.s3 import Window
from tests.contract.ground import SMALL, TAKEN, Ground, body

__all__ = ["WRITES", "WriteQuestion", "window"]

_OTHER_ETAG = "0" * 32
_LATE = "RequestExpired"
_REFUSED = "PreconditionFailed"


@dataclass(frozen=True, slots=True)
class WriteQuestion:
    """One request, and what it comes to on each store."""

    name: str
    ask: Callable[[Ground], Awaitable[object]]
    answers: Mapping[str, str]


async def window(ground: Ground, *, past: bool = False) -> Window:
    """One that is open by the store's own clock, or was over a minute ago."""
    key = ground.key()
    stored = await ground.store.put(ground.bucket, key, body(), content_type="text/plain", metadata={})
    await ground.store.delete(ground.bucket, key)
    assert stored.now is not None
    return Window(stored.now - timedelta(seconds=90), 30) if past else Window(stored.now, 60)


async def _put(ground: Ground, **options: Any) -> object:
    return await ground.put(ground.key(), **options)


async def _delete_if(ground: Ground, etag: str = "", *, there: bool = True) -> object:
    key = ground.key()
    own = await ground.put(key) if there else ""
    return await ground.store.delete(ground.bucket, key, if_match=etag or own)


async def _complete(ground: Ground, *, over: bool = False, right: bool = False, **options: Any) -> object:
    key = ground.key()
    if over:
        etag = await ground.put(key)
        options |= {"if_match": etag} if right else {}
    _, upload_id, parts = await ground.upload(SMALL, key=key)
    return await ground.store.complete_upload(ground.bucket, key, upload_id, parts, crc64nvme=None, **options)


async def _within(ground: Ground, operation: str, *, past: bool) -> object:
    given = await window(ground, past=past)
    if operation == "Complete":
        return await _complete(ground, window=given)
    if operation == "PUT":
        return await _put(ground, window=given)
    key = ground.key()
    if operation == "Create":
        return await ground.store.create_upload(
            ground.bucket, key, content_type="text/plain", metadata={"a": "b"}, crc64nvme=True, window=given
        )
    await ground.put(key)
    if operation == "DELETE":
        return await ground.store.delete(ground.bucket, key, window=given)
    return await ground.store.head(ground.bucket, key, window=given)


def _on(moto: str, gateway: str, localstack: str, seaweedfs: str, memory: str) -> Mapping[str, str]:
    return {
        "moto": moto,
        "gateway": gateway,
        "localstack": localstack,
        "seaweedfs": seaweedfs,
        "memory": memory,
    }


_TAKEN = _on(TAKEN, TAKEN, TAKEN, TAKEN, TAKEN)


def _windows(operation: str) -> tuple[WriteQuestion, WriteQuestion]:
    return (
        WriteQuestion(f"{operation}, within its window", lambda g: _within(g, operation, past=False), _TAKEN),
        WriteQuestion(
            f"{operation}, after its window",
            lambda g: _within(g, operation, past=True),
            _on(TAKEN, _LATE, _LATE, _LATE, _LATE),
        ),
    )


WRITES: tuple[WriteQuestion, ...] = (
    WriteQuestion("PUT, If-None-Match: *, no such key", lambda g: _put(g, if_absent=True), _TAKEN),
    WriteQuestion("Complete, If-None-Match: *, no such key", lambda g: _complete(g, if_absent=True), _TAKEN),
    WriteQuestion(
        "Complete, If-Match, the right ETag", lambda g: _complete(g, over=True, right=True), _TAKEN
    ),
    WriteQuestion(
        "Complete, If-Match, no such key",
        lambda g: _complete(g, if_match=_OTHER_ETAG),
        _on(TAKEN, TAKEN, "NoSuchKey", _REFUSED, "NoSuchKey"),
    ),
    WriteQuestion(
        "DELETE, If-Match, another ETag",
        lambda g: _delete_if(g, _OTHER_ETAG),
        _on(_REFUSED, TAKEN, "NotImplemented", _REFUSED, _REFUSED),
    ),
    WriteQuestion(
        "DELETE, If-Match, the right ETag",
        _delete_if,
        _on(TAKEN, TAKEN, "NotImplemented", TAKEN, TAKEN),
    ),
    WriteQuestion(
        "DELETE, If-Match, no such key",
        lambda g: _delete_if(g, _OTHER_ETAG, there=False),
        _on("NoSuchKey", TAKEN, "NotImplemented", _REFUSED, "NoSuchKey"),
    ),
    *(
        question
        for operation in ("HEAD", "PUT", "DELETE", "Create", "Complete")
        for question in _windows(operation)
    ),
)
"""In the order of the table. The store in memory answers as AWS does."""
