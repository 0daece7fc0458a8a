"""Pass a body on, piece by piece, with the faults that happen at a byte of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.support.faults import Drip, FlipBit, Reset, ShortBody, Stall

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from tests.support.faults import Fault, Where

__all__ = ["ClosedByFaultError", "relay"]


class ClosedByFaultError(Exception):
    """A fault ends the connection here, by RST or by an orderly close."""

    def __init__(self, *, rst: bool) -> None:
        super().__init__("closed by a fault")
        self.rst = rst


def _stops(
    faults: Sequence[Fault], where: Where, announced: int | None
) -> list[tuple[int, Reset | Stall | ShortBody]]:
    """The faults that stand at a byte of this body, in the order of these bytes."""
    stops: list[tuple[int, Reset | Stall | ShortBody]] = []
    for fault in faults:
        match fault:
            case Reset(stage=stage, after=after) | Stall(stage=stage, after=after) if (
                stage == f"{where}-body"
            ):
                stops.append((after, fault))
            case ShortBody(missing=missing, honest=False) if where == "response" and announced is not None:
                stops.append((max(0, announced - missing), fault))
            case ShortBody(honest=True) if where == "response" and announced is not None:
                # What was announced is already the shorter length.
                stops.append((announced, fault))
    return sorted(stops, key=lambda stop: stop[0])


def _flipped(piece: bytes, start: int, flips: list[FlipBit], happened: Callable[[Fault], None]) -> bytes:
    for flip in flips:
        at = flip.offset - start
        if 0 <= at < len(piece):
            piece = piece[:at] + bytes([piece[at] ^ flip.mask]) + piece[at + 1 :]
            happened(flip)
    return piece


async def relay(
    body: AsyncIterator[bytes],
    send: Callable[[bytes], Awaitable[None]],
    faults: Sequence[Fault],
    where: Where,
    announced: int | None,
    happened: Callable[[Fault], None],
) -> None:
    """Send every piece of *body* on, and do at its bytes what *faults* say.

    Args:
        body: payload pieces.
        send: hands a piece to the kernel before it returns.
        faults: all that strike this request; only those for this direction count.
        where: the direction.
        announced: the body's length as the receiver was told, if it was.
        happened: told of each fault that took effect.

    Raises:
        ClosedByFaultError: a fault ends the connection; everything before its byte has been sent.
    """
    stops = _stops(faults, where, announced)
    flips = [fault for fault in faults if isinstance(fault, FlipBit) and fault.where == where]
    drip = next((fault for fault in faults if isinstance(fault, Drip) and where == "response"), None)
    if drip is not None:
        send = _dripping(send, drip)
        happened(drip)
    done = 0
    async for whole in body:
        piece = _flipped(whole, done, flips, happened)
        while stops and stops[0][0] - done < len(piece):
            after, stop = stops.pop(0)
            if after > done:
                lead, piece = piece[: after - done], piece[after - done :]
                await send(lead)
                done = after
            happened(stop)
            await _halt(stop)
            if isinstance(stop, ShortBody):
                # Take the rest off the store's connection, so that it can be used again.
                async for _ in body:
                    pass
                return
        if piece:
            await send(piece)
            done += len(piece)


def _dripping(send: Callable[[bytes], Awaitable[None]], drip: Drip) -> Callable[[bytes], Awaitable[None]]:
    async def slowly(data: bytes) -> None:
        for start in range(0, len(data), drip.piece):
            await send(data[start : start + drip.piece])
            await asyncio.sleep(drip.pause)

    return slowly


async def _halt(stop: Reset | Stall | ShortBody) -> None:
    match stop:
        case Stall(gate=gate):
            await gate.hold()
        case Reset(rst=rst):
            raise ClosedByFaultError(rst=rst)
        case ShortBody(honest=False):
            raise ClosedByFaultError(rst=False)
