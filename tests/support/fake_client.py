"""A store that is played by its answers: the adapter on a client that sends nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import botocore.exceptions

from riva_stream.s3 import S3Store, WriteOptions

__all__ = ["FakeClient", "refusal", "store_of"]

_MOST = 50

Answer = Callable[[dict[str, Any]], dict[str, Any]]


class _Exceptions:
    ClientError = botocore.exceptions.ClientError


class FakeClient:
    """Answers each request by a function of its arguments; beside them stands ``operation``, the method's name."""

    exceptions = _Exceptions()

    def __init__(self, answer: Answer) -> None:
        self.asked: list[dict[str, Any]] = []
        self._answer = answer

    def __getattr__(self, name: str) -> Any:
        async def request(**arguments: Any) -> dict[str, Any]:
            await anyio.lowlevel.checkpoint()
            assert len(self.asked) < _MOST, "asked for ever"
            self.asked.append(arguments | {"operation": name})
            return self._answer(self.asked[-1])

        return request


def store_of(answer: Answer) -> tuple[S3Store, FakeClient]:
    """The adapter, and the client below it."""
    client = FakeClient(answer)
    return S3Store(client, is_aws=False, options=WriteOptions()), client


def refusal(code: str, status: int, message: str = "", **headers: str) -> botocore.exceptions.ClientError:
    """What botocore raises for it."""
    response: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers, "RequestId": "R1"},
    }
    return botocore.exceptions.ClientError(response, "Operation")
