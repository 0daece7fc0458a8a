"""The body of a PUT, sent piece by piece from the very buffers that were hashed.

botocore accepts bytes or a file. It would read a file, and aiohttp would read it again in a thread, 64 KiB at a time;
bytes would have to be joined first, and asyncio copies what the socket does not take at once. An aiohttp payload avoids
both: botocore accepts anything with a ``read``, and aiohttp sends a payload as it is. On the loopback interface this
halves the CPU time of sending (docs/performance.md).
"""

from __future__ import annotations

from typing import Any, NoReturn, Self

import botocore.auth
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

from riva_stream.s3.port import PartBody

__all__ = ["SIGNER", "SentBody"]

_STEP = 256 << 10
"""Bytes passed to the socket at once: asyncio copies only the unsent rest of one step."""

SIGNER = "riva-stream-s3v4"


class SentBody(Payload):
    """One attempt's body, as a context manager. Each attempt gets a new one: none is ever rewound.

    On exit it drops the pieces: requests and their answers refer to each other in the SDK, so a body lives on until
    garbage collection, and with it the memory of whole parts.
    """

    def __init__(self, body: PartBody) -> None:
        super().__init__(None)
        self._pieces = body.pieces
        self._size = body.size
        self.sent_sha256 = body.sha256

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pieces = ()

    def __len__(self) -> int:
        return self._size or 0

    def __bool__(self) -> bool:
        return True  # botocore drops a falsy body, as an empty one would be

    def read(self, *_: Any) -> NoReturn:
        """Exist for botocore's validation; must not be called."""
        raise TypeError("a SentBody is written, not read")

    def decode(self, *_: Any, **__: Any) -> NoReturn:
        """Exist for aiohttp's base class; must not be called."""
        raise TypeError("a SentBody is written, not decoded")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send every piece, waiting whenever the socket is full."""
        for piece in self._pieces:
            view = memoryview(piece)
            for start in range(0, len(view), _STEP):
                await writer.write(view[start : start + _STEP])

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Send all of it; Content-Length is its own size."""
        del content_length
        await self.write(writer)


class _BodyAuth(botocore.auth.S3SigV4Auth):  # type: ignore[misc]
    """SigV4 that takes the payload's hash from the body instead of reading the body on the event loop.

    A body without a hash goes unsigned (``UNSIGNED-PAYLOAD``), as in the SDK over TLS.
    """

    def payload(self, request: Any) -> str:
        if isinstance(request.body, SentBody):
            return request.body.sent_sha256 or "UNSIGNED-PAYLOAD"
        return str(super().payload(request))


# A name of our own in botocore's table of signers; it affects nobody else's requests.
botocore.auth.AUTH_TYPE_MAPS[SIGNER] = _BodyAuth
