"""Answers that cannot be parsed, or are not the operation's own: asked for again, neither believed nor a bug of ours."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from typing import Any
from unittest.mock import patch

import pytest

from riva_stream.errors import TransientError
from riva_stream.s3 import StoreSettings, open_store
from riva_stream.s3.port import CompletedPart

XML = b'<?xml version="1.0" encoding="UTF-8"?>'


def answer(body: bytes, **headers: str) -> bytes:
    lines = [
        "HTTP/1.1 200 OK",
        f"content-length: {len(body)}",
        "content-type: application/xml",
        "connection: close",
    ]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


HEAD = answer(b"", etag='"0"', last_modified="soon")
LIST = answer(
    XML
    + b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>k</Key><ETag>&quot;0&quot;</ETag>"
    b"<LastModified>2026-01-01T00:00:00Z</LastModified><Size></Size></Contents></ListBucketResult>"
)
NO_SIZE = answer(
    XML + b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>k</Key>"
    b"<LastModified>2026-01-01T00:00:00Z</LastModified></Contents></ListBucketResult>"
)
PARTS = answer(
    XML + b"<ListPartsResult><IsTruncated>false</IsTruncated><Part><PartNumber>1</PartNumber><Size>5</Size>"
    b"<LastModified>now</LastModified><ETag>&quot;0&quot;</ETag></Part></ListPartsResult>"
)
NO_ETAG = answer(
    XML + b"<ListPartsResult><IsTruncated>false</IsTruncated><Part><PartNumber>1</PartNumber><Size>5</Size>"
    b"</Part></ListPartsResult>"
)
UPLOADS = answer(
    XML
    + b"<ListMultipartUploadsResult><IsTruncated>false</IsTruncated><Upload><Key>k</Key><UploadId>u</UploadId>"
    b"<Initiated></Initiated></Upload></ListMultipartUploadsResult>"
)

CASES: dict[str, tuple[bytes, Callable[[Any], Awaitable[Any]]]] = {
    "a date of a HEAD": (HEAD, lambda store: store.head("bucket", "k")),
    "an empty size of a listing": (LIST, lambda store: store.list_objects("bucket", "")),
    "a listing without sizes": (NO_SIZE, lambda store: store.list_objects("bucket", "")),
    "a date of a part": (PARTS, lambda store: store.list_parts("bucket", "k", "u")),
    "a part without an ETag": (NO_ETAG, lambda store: store.list_parts("bucket", "k", "u")),
    "an empty date of an upload": (UPLOADS, lambda store: store.list_uploads("bucket", "")),
}


@pytest.mark.parametrize("case", CASES)
async def test_an_answer_that_cannot_be_parsed_is_no_bug_of_ours(case: str) -> None:
    data, ask = CASES[case]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    with patch.dict(os.environ, keys):
        async with (
            server,
            open_store(
                StoreSettings(region="us-east-1", endpoint_url=f"http://127.0.0.1:{port}", addressing="path"),
                warn=print,
            ) as store,
        ):
            with contextlib.suppress(TransientError):  # or what it says can be used
                await ask(store)


EMPTY = {
    "nothing": answer(b""),
    "a page": answer(b"<html><body>It works!</body></html>"),
    "an error": answer(
        XML + b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"
    ),
}
"""The last is AWS's own, and botocore sees to it."""


@pytest.mark.parametrize("what", EMPTY)
@pytest.mark.parametrize("operation", ["complete_upload", "list_uploads", "list_objects", "list_parts"])
async def test_an_answer_that_is_not_the_operations_own_is_not_believed(what: str, operation: str) -> None:
    """200 and nothing, or a page: "nothing is there", "no upload is open", "it is completed" (under no ETag)."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                await reader.readexactly(int(line.partition(b":")[2]))
        writer.write(EMPTY[what])
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = StoreSettings(region="us-east-1", endpoint_url=f"http://127.0.0.1:{port}", addressing="path")
    with patch.dict(os.environ, {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}):
        async with server, open_store(settings, warn=print) as store:
            asked: dict[str, Callable[[], Awaitable[Any]]] = {
                "complete_upload": lambda: store.complete_upload(
                    "bucket", "k", "u", [CompletedPart(1, "0", 5)], crc64nvme=None
                ),
                "list_uploads": lambda: store.list_uploads("bucket", "k"),
                "list_objects": lambda: store.list_objects("bucket", "k"),
                "list_parts": lambda: store.list_parts("bucket", "k", "u"),
            }
            with pytest.raises(TransientError):
                await asked[operation]()
