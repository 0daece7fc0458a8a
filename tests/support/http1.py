"""As much of HTTP/1.1 as a proxy needs: heads kept as they came, bodies passed on in pieces.

Written by hand on asyncio streams and not on an HTTP library, because a fault is a matter of single bytes: which
ones leave the socket, and whether it is then closed or reset.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

__all__ = ["PIECE", "BrokenBodyError", "Connection", "Framing", "Head", "read_head"]

PIECE: Final = 256 * 1024
"""The most bytes handled at a time."""

_NO_BODY: Final = frozenset({204, 304})


class BrokenBodyError(ConnectionError):
    """The peer closed before it had sent what it promised."""


@dataclass(frozen=True, slots=True)
class Framing:
    """How a body ends: after *length* bytes, after its last chunk, or with the connection (neither)."""

    length: int | None = None
    chunked: bool = False


@dataclass
class Head:
    """The first line and the headers of a message, in the order and spelling they came in."""

    first: str
    headers: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        first, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return cls(first, [(name, value.strip()) for name, _, value in pairs])

    @property
    def words(self) -> list[str]:
        """Method, target and version of a request; version, status and reason of a response."""
        return self.first.split(" ", 2)

    @property
    def status(self) -> int:
        return int(self.words[1])

    def get(self, name: str) -> str | None:
        return next((value for header, value in self.headers if header.lower() == name.lower()), None)

    def remove(self, name: str) -> None:
        self.headers = [pair for pair in self.headers if pair[0].lower() != name.lower()]

    def set(self, name: str, value: str) -> None:
        """Replace a header, or add it at the end."""
        self.remove(name)
        self.headers.append((name, value))

    def encode(self) -> bytes:
        lines = [self.first, *(f"{name}: {value}" for name, value in self.headers)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    @property
    def keeps_alive(self) -> bool:
        wish = (self.get("connection") or "").lower()
        if self.first.startswith("HTTP/1.0") or self.first.endswith("HTTP/1.0"):
            return wish == "keep-alive"
        return wish != "close"

    def _chunked(self) -> bool:
        return "chunked" in (self.get("transfer-encoding") or "").lower()

    def request_framing(self) -> Framing:
        """A request that announces no body has none."""
        return Framing(chunked=True) if self._chunked() else Framing(int(self.get("content-length") or 0))

    def response_framing(self, method: str) -> Framing:
        """A response to HEAD has no body, whatever length it announces."""
        if method == "HEAD" or self.status in _NO_BODY:
            return Framing(0)
        if self._chunked():
            return Framing(chunked=True)
        length = self.get("content-length")
        return Framing(None if length is None else int(length))


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """The next message's head, or None when the peer closed instead."""
    try:
        return Head.parse(await reader.readuntil(b"\r\n\r\n"))
    except asyncio.IncompleteReadError as error:
        if error.partial.strip():
            raise BrokenBodyError("closed in the middle of a head") from error
        return None


class Connection:
    """One side of the proxy: a socket's reader and writer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        # drain() then means "handed to the kernel": a cut after N bytes must not lose some of the N.
        writer.transport.set_write_buffer_limits(high=0)
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @classmethod
    async def open(cls, host: str, port: int) -> Self:
        return cls(*await asyncio.open_connection(host, port, limit=PIECE))

    @property
    def usable(self) -> bool:
        """Whether it may carry another request, as far as one can know."""
        return not (self.reader.at_eof() or self.writer.is_closing())

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def body(self, framing: Framing) -> AsyncGenerator[bytes]:
        """The payload of a body in pieces, without its chunk framing.

        Raises:
            BrokenBodyError: the peer closed early.
        """
        if framing.chunked:
            while size := int((await self._line()).split(b";")[0], 16):
                async with contextlib.aclosing(self._exactly(size)) as pieces:
                    async for piece in pieces:
                        yield piece
                await self._line()
            while await self._line():
                pass  # trailers: none of the three servers sends any
        elif framing.length is None:
            while piece := await self.reader.read(PIECE):
                yield piece
        else:
            async with contextlib.aclosing(self._exactly(framing.length)) as pieces:
                async for piece in pieces:
                    yield piece

    async def _exactly(self, size: int) -> AsyncGenerator[bytes]:
        while size:
            piece = await self.reader.read(min(size, PIECE))
            if not piece:
                raise BrokenBodyError(f"closed with {size} bytes still to come")
            size -= len(piece)
            yield piece

    async def _line(self) -> bytes:
        line = await self.reader.readline()
        if not line.endswith(b"\n"):
            raise BrokenBodyError("closed in the middle of a chunked body")
        return line.rstrip(b"\r\n")

    async def send_body(self, piece: bytes, framing: Framing) -> None:
        if framing.chunked:
            piece = b"%x\r\n%b\r\n" % (len(piece), piece)
        await self.send(piece)

    async def end_body(self, framing: Framing) -> None:
        if framing.chunked:
            await self.send(b"0\r\n\r\n")

    def abort(self) -> None:
        """Answer whatever comes next with RST: the peer sees a connection reset, not an end of file."""
        with contextlib.suppress(OSError):
            linger = struct.pack("ii", 1, 0)
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    async def close(self) -> None:
        """Send what is still buffered, then close."""
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()
