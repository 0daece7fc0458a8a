"""One request through the proxy, from its head to the last byte of its answer, with the faults that strike it.

::

    client ──head──► recognised, numbered ──► stage "request" ──► store
           ──body──► pump ── stage "request-body" ──────────────► store
           ◄─head── rewritten ◄── stage "response" ◄───────────── store
           ◄─body── relay ◄── stage "response-body" ◄──────────── store
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol
from xml.sax.saxutils import escape

from tests.support.bodies import ClosedByFaultError, relay
from tests.support.faultlog import Record
from tests.support.faults import IgnoreRange, Latency, Refuse, Reset, Rewrite, ShortBody, Stall
from tests.support.http1 import BrokenBodyError, Connection, Framing, Head, read_head

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable

    from tests.support.faultlog import Outcome
    from tests.support.faults import Fault, Where

__all__ = ["Exchange", "Owner"]

_EARLY_ANSWER_GRACE = 0.2
"""Seconds in which the rest of a request's body may still arrive when the store has already answered."""


class Owner(Protocol):
    """What an exchange needs of its proxy."""

    async def connect(self) -> Connection:
        """A connection to the store."""

    async def disconnect(self, connection: Connection, *, reusable: bool) -> None:
        """Give it back."""

    async def run_hooks(self, when: Where, record: Record) -> bool:
        """Call the hooks of a mutating request; false: drop the request."""

    def sign_whole(self, head: Head) -> None:
        """Take the Range off a request and sign it again."""


class Exchange:
    """The state of one request. Its `record` can be read at any time."""

    def __init__(
        self, owner: Owner, client: Connection, head: Head, record: Record, faults: Iterable[Fault]
    ) -> None:
        self._owner, self._client, self._head = owner, client, head
        self._faults = tuple(faults)
        self._continued = False
        self.record = record

    def note(self, **changes: Any) -> None:
        """Change the record."""
        self.record = replace(self.record, **changes)

    def happened(self, fault: Fault) -> None:
        """Write down that a fault took effect."""
        self.note(faults=(*self.record.faults, type(fault).__name__))

    async def run(self) -> bool:
        """Serve the request. True: the client's connection can carry another one."""
        upstream: Connection | None = None
        reusable = keep = False
        try:
            await self._stage("request")
            if refusal := self._refusal(executed=False):
                return await self._refuse(refusal)
            if ignored := self._first(IgnoreRange):
                self._owner.sign_whole(self._head)
                self.happened(ignored)
            upstream = await _upstream(self._owner.connect())
            reusable, keep = await self._forward(upstream)
        except ClosedByFaultError as closed:
            self._end("dropped" if self.record.status is None else "cut")
            if closed.rst:
                self._client.abort()
        except (BrokenBodyError, ConnectionError) as error:
            self._end("upstream-gone" if getattr(error, "upstream", False) else "client-gone")
        finally:
            if upstream is not None:
                await self._owner.disconnect(upstream, reusable=reusable)
        return keep

    def _end(self, outcome: Outcome) -> None:
        self.note(outcome=outcome)

    def _first(self, kind: type[Any]) -> Any:
        return next((fault for fault in self._faults if isinstance(fault, kind)), None)

    def _refusal(self, *, executed: bool) -> Refuse | None:
        return next((f for f in self._faults if isinstance(f, Refuse) and f.executed == executed), None)

    async def _stage(self, stage: Where) -> None:
        """Everything that can happen before forwarding, or before answering, in the order of the rules."""
        if self.record.mutation is not None and not await self._owner.run_hooks(stage, self.record):
            raise ClosedByFaultError(rst=True)
        for fault in self._faults:
            match fault:
                case Latency(seconds=seconds, stage=at) if at == stage:
                    self.happened(fault)
                    await asyncio.sleep(seconds)
                case Stall(stage=at, gate=gate) if at == stage:
                    self.happened(fault)
                    await gate.hold()
                case Reset(stage=at, rst=rst) if at == stage:
                    self.happened(fault)
                    raise ClosedByFaultError(rst=rst)

    async def _refuse(self, refusal: Refuse) -> bool:
        """Answer in the store's place. Without Expect the body is taken off the wire first, so that the client
        gets to read the answer and can use the connection again."""
        expects = self._head.get("expect") is not None
        if not expects:
            async for piece in self._client.body(self._head.request_framing()):
                self.note(received=self.record.received + len(piece))
        keep = self._head.keeps_alive and not expects
        await self._answer_error(refusal, keep=keep)
        return keep

    async def _answer_error(self, refusal: Refuse, *, keep: bool) -> None:
        self.happened(refusal)
        request = self.record.request
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{refusal.code}</Code><Message>{escape(refusal.message)}</Message>"
            f"<Resource>{escape(f'/{request.bucket}/{request.key}')}</Resource>"
            f"<RequestId>INJECTED{self.record.number:08d}</RequestId></Error>"
        ).encode()
        if request.method == "HEAD":
            body = b""
        head = Head(f"HTTP/1.1 {refusal.http_status} {refusal.code}")
        head.headers = [
            ("Content-Type", "application/xml"),
            ("Content-Length", str(len(body))),
            ("x-amz-request-id", f"INJECTED{self.record.number:08d}"),
            *refusal.headers.items(),
            ("Connection", "keep-alive" if keep else "close"),
        ]
        # Written down first: whoever has read the whole answer finds it in the log.
        self.note(status=refusal.http_status, sent=len(body), outcome="refused")
        await self._client.send(head.encode() + body)

    async def _forward(self, upstream: Connection) -> tuple[bool, bool]:
        """Pass the request on and the answer back: whether each connection can be used again."""
        await _upstream(upstream.send(self._head.encode()))
        pump = asyncio.create_task(self._pump(upstream))
        try:
            head = await self._response_head(upstream, pump)
            if not pump.done() and (self._continued or self._head.get("expect") is None):
                await asyncio.wait({pump}, timeout=_EARLY_ANSWER_GRACE)
            whole = pump.done()
            keep = whole and self._head.keeps_alive
            reusable = await self._answer(upstream, head, keep=keep)
        finally:
            pump.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError, ClosedByFaultError):
                await pump
        return reusable and whole, keep and self.record.outcome == "answered"

    async def _pump(self, upstream: Connection) -> None:
        """The request's body, from the client to the store."""
        framing = self._head.request_framing()

        async def received() -> AsyncIterator[bytes]:
            async for piece in self._client.body(framing):
                self.note(received=self.record.received + len(piece))
                yield piece

        async def forward(piece: bytes) -> None:
            await _upstream(upstream.send_body(piece, framing))
            self.note(forwarded=self.record.forwarded + len(piece))

        await relay(received(), forward, self._faults, "request", None, self.happened)
        await _upstream(upstream.end_body(framing))

    async def _response_head(self, upstream: Connection, pump: asyncio.Task[None]) -> Head:
        """The final answer's head, with every 1xx before it passed on. A pump that fails ends the wait."""
        while True:
            reading = asyncio.create_task(read_head(upstream.reader))
            waiting: set[asyncio.Task[Any]] = {reading, pump}
            try:
                while not reading.done():
                    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    if pump in done:
                        waiting.discard(pump)
                        # A store that refuses early closes on the pump: its answer says more than that.
                        if (error := pump.exception()) and not getattr(error, "upstream", False):
                            raise error
                head: Head | None = await _upstream(reading)
            finally:
                reading.cancel()
            if head is None:
                raise _gone("the store closed without an answer")
            if head.status >= 200:
                self.note(upstream_status=head.status)
                return head
            self._continued = True
            await self._client.send(head.encode())

    async def _answer(self, upstream: Connection, head: Head, *, keep: bool) -> bool:
        """Pass the answer on, as the faults will have it. True: the store's connection can be used again."""
        framing = head.response_framing(self.record.request.method)
        reusable = head.keeps_alive and (framing.chunked or framing.length is not None)
        # Closed here: one that is left to the garbage collector is closed by a task of its own, at any time.
        async with (
            contextlib.aclosing(upstream.body(framing)) as received,
            contextlib.aclosing(_upstream_pieces(received)) as body,
        ):
            return await self._pass_on(head, framing, body, reusable=reusable, keep=keep)

    async def _pass_on(
        self, head: Head, framing: Framing, body: AsyncIterator[bytes], *, reusable: bool, keep: bool
    ) -> bool:
        if self.record.mutation is not None:
            # Small, and only when it is complete has the store surely done what "after" speaks of.
            body = _pieces([piece async for piece in body])
        await self._stage("response")
        if refusal := self._refusal(executed=True):
            async for _ in body:
                pass
            await self._answer_error(refusal, keep=keep)
            return reusable
        if framing.length is None and not framing.chunked:
            keep = False
        framing = self._rewrite(head, framing)
        # Each side of the proxy has a connection of its own: what the store said of its one is not the client's.
        head.first = f"HTTP/1.1 {head.first.partition(' ')[2]}"
        head.remove("Keep-Alive")
        head.set("Connection", "keep-alive" if keep else "close")

        def sending(size: int) -> None:
            # Written down first: whoever has read the whole answer finds it in the log.
            sent = self.record.sent + size
            self.note(sent=sent, outcome="answered" if sent == framing.length else "open")

        async def send(piece: bytes) -> None:
            sending(len(piece))
            await self._client.send_body(piece, framing)

        self.note(status=head.status)
        sending(0)
        await self._client.send(head.encode())
        await relay(body, send, self._faults, "response", framing.length, self.happened)
        self._end("answered")
        await self._client.end_body(framing)
        if not keep:
            await self._client.close()
        return reusable

    def _rewrite(self, head: Head, framing: Framing) -> Framing:
        for fault in self._faults:
            match fault:
                case Rewrite(status=status, headers=headers, remove=remove, shift_range=shift):
                    if status is not None:
                        head.first = f"HTTP/1.1 {status} Injected"
                    if shift and (value := head.get("content-range")):
                        span, _, total = value.removeprefix("bytes ").partition("/")
                        first, last = (int(text) + shift for text in span.split("-"))
                        head.set("Content-Range", f"bytes {first}-{last}/{total}")
                    for name in remove:
                        head.remove(name)
                    for name, text in headers.items():
                        head.set(name, text)
                    self.happened(fault)
                case ShortBody(missing=missing, honest=True) if framing.length:
                    # The announcement alone changes; the relay stops at it and the rest is thrown away.
                    framing = Framing(max(0, framing.length - missing))
                    head.set("Content-Length", str(framing.length))
        return framing


def _gone(text: str) -> BrokenBodyError:
    error = BrokenBodyError(text)
    error.upstream = True  # type: ignore[attr-defined]
    return error


async def _upstream(step: Any) -> Any:
    """Await a step on the store's connection, so that its failure is told from one of the client's."""
    try:
        return await step
    except ConnectionError as error:
        raise _gone(str(error)) from error


async def _upstream_pieces(body: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    try:
        async for piece in body:
            yield piece
    except ConnectionError as error:
        raise _gone(str(error)) from error


async def _pieces(pieces: list[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
