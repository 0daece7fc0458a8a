"""An S3 store of no size: it makes up the archive as it is read, and forgets the parts that it is sent.

With it a staging of any number of GiB needs neither a disk nor memory, which is what a measurement of the *client's*
memory wants, and hardly any CPU seconds of a server. ``python -m benchmarks.synthetic KIND MIB [MS]`` serves one archive
at ``s3://made-up/archive.tar.gz``, and at any other key that begins with ``archive``, on a loopback port, which it prints,
until its stdin ends. Each answer comes after ``MS`` milliseconds.
"""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
import tarfile
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from awscrt import checksums

from benchmarks.stand import KINDS
from benchmarks.tools import ROOT
from tests.support.archives import riva_bytes

__all__ = ["BUCKET", "KEY", "Archive", "environment", "serve", "served"]

BUCKET, KEY = "made-up", "archive.tar.gz"
_SOURCES = f"{BUCKET}/archive"
_UNIT = 16 << 20
_STEP = 1 << 20
_ETAG = "0123456789abcdef" * 2
_GZIP_HEADER = b"\x1f\x8b\x08" + bytes(6) + b"\xff"


class Archive:
    """A gzip of a tar with one model, any range of which can be had at once.

    The model is one block of weights again and again. Each is deflated on its own (a full flush ends it on a byte),
    so the same deflated bytes stand for each; the CRC of the whole comes from those of its pieces.
    """

    def __init__(self, kind: str, mib: int) -> None:
        units = max(1, (mib << 20) // _UNIT)
        header = tarfile.TarInfo("parakeet/model.riva")
        header.size = units * _UNIT
        head, unit = header.tobuf(tarfile.GNU_FORMAT), riva_bytes(_UNIT, "made up")
        tail = bytes(tarfile.RECORDSIZE * 2 - tarfile.BLOCKSIZE)
        level = KINDS[kind]
        crc = zlib.crc32(head)
        of_unit = zlib.crc32(unit)
        for _ in range(units):
            crc = checksums.combine_crc32(crc, of_unit, _UNIT)
        crc = checksums.combine_crc32(crc, zlib.crc32(tail), len(tail))
        length = len(head) + header.size + len(tail)
        trailer = crc.to_bytes(4, "little") + (length & 0xFFFFFFFF).to_bytes(4, "little")
        self._head = _GZIP_HEADER + _deflated(head, level)
        self._unit = memoryview(_deflated(unit, level))
        self._tail = _deflated(tail, level, last=True) + trailer
        self._units = units
        self.size = len(self._head) + units * len(self._unit) + len(self._tail)

    def read(self, first: int, size: int) -> Iterator[memoryview]:
        """The bytes from ``first`` on."""
        while size > 0:
            piece = self._piece_at(first)[:size]
            yield piece
            first += len(piece)
            size -= len(piece)

    def _piece_at(self, at: int) -> memoryview:
        if at < len(self._head):
            return memoryview(self._head)[at:]
        unit, within = divmod(at - len(self._head), len(self._unit))
        if unit < self._units:
            return self._unit[within:]
        return memoryview(self._tail)[at - len(self._head) - self._units * len(self._unit) :]


def _deflated(data: bytes, level: int, *, last: bool = False) -> bytes:
    deflater = zlib.compressobj(level, zlib.DEFLATED, -15)
    return deflater.compress(data) + deflater.flush(zlib.Z_FINISH if last else zlib.Z_FULL_FLUSH)


_DOCUMENT = 256 << 10
"""Bytes up to which a part is kept: the staging's documents, which it reads back."""


@dataclass(eq=False)
class _Kept:
    """What is known of an object or of an upload: its headers and sizes, and the bytes of a small one."""

    headers: dict[str, str]
    etag: str
    size: int = 0
    data: bytes = b""
    parts: dict[int, int] = field(default_factory=dict)


class _Handler(BaseHTTPRequestHandler):
    """As much of S3 as a staging asks for."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_HEAD(self) -> None:
        """An object's size, ETag and metadata."""
        key = self._target()[0]
        if key.startswith(_SOURCES):
            self._answer(200, {"ETag": f'"{_ETAG}-1"'}, length=self.server.archive.size)
            return
        kept = self.server.objects.get(key)
        if kept is None:
            self._answer(404)
        else:
            self._answer(200, {**kept.headers, "ETag": f'"{kept.etag}"'}, length=kept.size)

    def do_GET(self) -> None:
        """A range of the archive, a small object, or a listing."""
        key, query = self._target()
        if "list-type" in query:
            self._list(f"{key}/{query.get('prefix', '')}")
        elif "uploads" in query:
            self._xml("ListMultipartUploadsResult", "<IsTruncated>false</IsTruncated>")
        elif "uploadId" in query:
            if query["uploadId"] in self.server.uploads:
                self._xml("ListPartsResult", "<IsTruncated>false</IsTruncated>")
            else:
                self._error(404, "NoSuchUpload")
        elif key.startswith(_SOURCES):
            self._range()
        elif (kept := self.server.objects.get(key)) is not None:
            self._answer(200, {**kept.headers, "ETag": f'"{kept.etag}"'}, body=kept.data)
        else:
            self._error(404, "NoSuchKey")

    def do_PUT(self) -> None:
        """A part, which is counted and forgotten unless it is as small as a document, or a small object."""
        key, query = self._target()
        left = int(self.headers["Content-Length"])
        upload = self.server.uploads.get(query.get("uploadId", ""))
        if upload is not None:
            upload.parts[int(query["partNumber"])] = left
            if left <= _DOCUMENT:
                upload.data = self.rfile.read(left)
                left = 0
            buffer = memoryview(self.server.buffers.buffer)
            while left and (count := self.rfile.readinto(buffer[: min(left, _STEP)])):
                left -= count
            self._answer(200, {"ETag": f'"{_ETAG}"'})
            return
        data = self.rfile.read(left)
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        with self.server.writing:
            if holds := self._condition_holds(self.server.objects.get(key)):
                self.server.objects[key] = _Kept(self._given_headers(), etag, len(data), data)
        if holds:
            self._answer(200, {"ETag": f'"{etag}"'})
        else:
            self._error(412, "PreconditionFailed")

    def do_POST(self) -> None:
        """Begin or complete an upload."""
        key, query = self._target()
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "uploads" in query:
            upload_id = f"upload-{next(self.server.numbers)}"
            self.server.uploads[upload_id] = _Kept(self._given_headers(), _ETAG)
            self._xml("InitiateMultipartUploadResult", f"<UploadId>{upload_id}</UploadId>")
            return
        upload = self.server.uploads.pop(query["uploadId"])
        upload.etag, upload.size = f"{_ETAG}-{len(upload.parts)}", sum(upload.parts.values())
        self.server.objects[key] = upload
        self._xml("CompleteMultipartUploadResult", f"<ETag>&quot;{upload.etag}&quot;</ETag>")

    def do_DELETE(self) -> None:
        """Forget an object or an upload."""
        self.server.objects.pop(self._target()[0], None)
        self._answer(204)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _target(self) -> tuple[str, dict[str, str]]:
        split = urlsplit(self.path)
        query = parse_qs(split.query, keep_blank_values=True)
        return unquote(split.path).strip("/"), {name: values[0] for name, values in query.items()}

    def _given_headers(self) -> dict[str, str]:
        return {
            name: value
            for name, value in self.headers.items()
            if name.lower().startswith("x-amz-meta-") or name.lower() == "content-type"
        }

    def _condition_holds(self, there: _Kept | None) -> bool:
        """Of a PUT; as AWS has them, without which a run would wait before it trusts its own journal."""
        if self.headers["If-None-Match"] is not None:
            return there is None
        wanted = self.headers["If-Match"]
        return wanted is None or (there is not None and wanted.strip('"') == there.etag)

    def _range(self) -> None:
        archive = self.server.archive
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        headers = {"ETag": f'"{_ETAG}-1"', "Content-Range": f"bytes {first}-{last}/{archive.size}"}
        self._answer(206, headers, length=last - first + 1)
        for piece in archive.read(first, last - first + 1):
            self.connection.sendall(piece)

    def _list(self, below: str) -> None:
        found = [(key, kept) for key, kept in sorted(self.server.objects.items()) if key.startswith(below)]
        listed = "".join(
            f"<Contents><Key>{escape(key.partition('/')[2])}</Key><Size>{kept.size}</Size>"
            f"<ETag>&quot;{kept.etag}&quot;</ETag></Contents>"
            for key, kept in found
        )
        self._xml("ListBucketResult", f"<IsTruncated>false</IsTruncated>{listed}")

    def _xml(self, name: str, content: str) -> None:
        body = f'<?xml version="1.0" encoding="UTF-8"?><{name}>{content}</{name}>'.encode()
        self._answer(200, {"Content-Type": "application/xml"}, body=body)

    def _error(self, status: int, code: str) -> None:
        self._answer(status, body=f"<Error><Code>{code}</Code></Error>".encode())

    def _answer(
        self,
        status: int,
        headers: dict[str, str] | None = None,
        *,
        body: bytes = b"",
        length: int | None = None,
    ) -> None:
        time.sleep(self.server.pause)
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if body:
            self.wfile.write(body)


class _Buffers(threading.local):
    """One buffer a thread, in which parts are lost."""

    def __init__(self) -> None:
        self.buffer = bytearray(_STEP)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, archive: Archive, pause: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.archive = archive
        self.pause = pause
        self.writing = threading.Lock()
        self.objects: dict[str, _Kept] = {}
        self.uploads: dict[str, _Kept] = {}
        self.numbers = itertools.count()
        self.buffers = _Buffers()


def serve(archive: Archive, pause: float = 0.0) -> _Server:
    """A server on a thread, each of whose answers comes after ``pause`` seconds; the caller shuts it down."""
    server = _Server(archive, pause)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@contextmanager
def served(kind: str, mib: int, milliseconds: float = 0) -> Iterator[tuple[int, int]]:
    """The store in a process of its own; gives its port and its process id."""
    argv = [sys.executable, "-m", "benchmarks.synthetic", kind, str(mib), str(milliseconds)]
    with subprocess.Popen(
        argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        if process.stdin is None or process.stdout is None:  # pragma: no cover - both are pipes
            raise RuntimeError("the store has no pipes")
        try:
            yield int(process.stdout.readline()), process.pid
        finally:
            process.stdin.close()  # which ends it
            process.wait(10)


def environment(port: int, home: Path) -> dict[str, str]:
    """All that a process gets to see which is to find the store."""
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "NO_PROXY": "*",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "made-up",
        "AWS_SECRET_ACCESS_KEY": "made-up",
        "AWS_REGION": "us-east-1",
    }


def _main() -> None:
    pause = float(sys.argv[3]) / 1000 if len(sys.argv) > 3 else 0.0
    server = serve(Archive(sys.argv[1], int(sys.argv[2])), pause)
    print(server.server_port, flush=True)
    sys.stdin.read()
    server.shutdown()


if __name__ == "__main__":
    _main()
