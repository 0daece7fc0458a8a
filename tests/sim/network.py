"""Between a run and its store: every request has a number, and a schedule decides what becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import dataclass, field
from functools import partial
from operator import methodcaller
from typing import Any, ClassVar, Protocol, TypeVar

from riva_stream.errors import RivaStreamError, TransientError, Where
from riva_stream.layout import JOURNAL
from riva_stream.s3.errors import refusal
from riva_stream.s3.memory import MemoryStore
from riva_stream.s3.port import (
    NO_TAGS,
    CompletedPart,
    CopiedPart,
    CopySource,
    Document,
    Folders,
    Lifecycle,
    Listing,
    ObjectInfo,
    ObjectPart,
    OpenUpload,
    PartBody,
    RangeReply,
    Stored,
    Window,
)
from tests.sim.breaks import Break
from tests.sim.loop import State, VirtualLoop
from tests.sim.process import Process
from tests.sim.sources import SOURCE_BUCKET

__all__ = ["Connection", "Network", "Request", "Schedule", "immediately"]

T = TypeVar("T")

BUSY = 2
"""Requests that are asked to come later, once the store is busy: no more than one request is tried again."""
HANGS = 60.0
"""Seconds after which a client gives a request up that is not answered."""


@dataclass(eq=False, slots=True)
class Request:
    """One attempt of one operation."""

    number: int
    """In the whole simulation, from 1."""
    ordinal: int
    """Among those of its run, from 0."""
    process: Process
    operation: str
    bucket: str
    key: str
    detail: str
    changes: bool
    carry_out: Callable[[MemoryStore], Any]
    future: asyncio.Future[Any]
    credential: int
    arrived: bool = False
    outcome: tuple[Any, RivaStreamError | None] = (None, None)
    """What came of it, once it has arrived: its answer may be under way for longer than its sender's cancellation."""
    dropped: bool = False
    unsent: bool = False
    """It has not left its host, and does not once its sender no longer waits for it."""
    cut: bool = False

    @property
    def may_be_missing(self) -> bool:
        """Whether it asks for one whole object at the destination, so that it can be told that there is none."""
        return (
            self.operation in ("HeadObject", "GetObject") and self.bucket != SOURCE_BUCKET and not self.detail
        )

    @property
    def is_cut(self) -> bool:
        """Whether its answer's body ends early."""
        return self.cut or self.process.cuts

    def __str__(self) -> str:
        return f"#{self.number} {self.process.name}[{self.ordinal}] {self.operation} {self.key}{self.detail}"


class Schedule(Protocol):
    """Decides. Every method is asked at one place in the network, in the order of the requests."""

    def strike(self, request: Request) -> Break | None:
        """What becomes of a request that is being sent."""

    def delays(self, request: Request) -> tuple[float, float]:
        """Seconds until it arrives, and from there until its answer does."""

    def abandoned(self, request: Request) -> float | None:
        """Seconds until a request arrives all the same whose sender no longer waits for it; None: it never does."""

    def outage(self, request: Request) -> float:
        """Seconds for which the network is down."""

    def refusals(self, request: Request) -> int:
        """So many more attempts are refused."""

    def frozen(self, request: Request, on: Network) -> None:
        """The run of this request is frozen just now: see to it that it is thawed."""

    def ended(self, process: Process, on: Network) -> None:
        """A run is over, in whatever way."""


def immediately(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    raise AssertionError("the store in memory has waited for something")


@dataclass(eq=False)
class Network:
    """Carries the requests of all runs to one store, and lets the judge look on.

    Args:
        loop: where time is.
        store: what carries requests out.
        schedule: decides what becomes of each.
        judged: is called in place of a request's own ``carry_out``.
        context: of no run: what the network does goes on whatever becomes of the runs.
        trace: takes a line for each thing that happens; None: nobody looks.
        after_kill: is told that a run is over by being killed.
    """

    loop: VirtualLoop
    store: MemoryStore
    schedule: Schedule
    judged: Callable[[Request], Any]
    context: Context
    trace: Callable[[str], None] | None = None
    after_kill: Callable[[], None] = lambda: None
    sent: int = 0
    breaks: int = 0
    on_hold: list[Request] = field(default_factory=list)
    """Requests of frozen runs that have not left their host."""
    late: list[tuple[float, Request]] = field(default_factory=list)
    """Requests that nobody waits for, and when they take effect."""
    late_journals: int = 0
    """Journals among them that the store has taken: whoever watches takes each for the heartbeat of a live run."""

    def send(self, request: Request) -> None:
        """Take a request on its way."""
        process = request.process
        process.in_flight[request.number] = request
        struck = self.schedule.strike(request)
        if struck is None and process.busy:
            process.busy -= 1
            struck = Break.BUSY
        elif struck is None and (refused := process.refuses(request.operation, request.key, self.loop.now)):
            struck = refused
        elif struck is not None:
            self.breaks += 1
            if struck is Break.BUSY:
                process.busy = BUSY
            elif struck is Break.REFUSED:
                process.refusals[request.operation, request.key] = self.schedule.refusals(request)
            elif struck is Break.SWEPT:
                for upload in self.store.open_uploads(request.bucket):
                    immediately(self.store.abort_upload(request.bucket, upload.key, upload.upload_id))
            elif struck is Break.DOWN:
                process.down_until = self.loop.now + self.schedule.outage(request)
        before, after = self.schedule.delays(request)
        if self.trace:
            self._tell(f"{request}" + (f"   *** {struck.value}" if struck else ""))
        self._on_its_way[struck](self, request, before, after)

    def thaw(self, process: Process, *, clock_stood_still: bool) -> None:
        """Let a frozen run go on, and what it had not sent yet go out."""
        if process.host.state is not State.FROZEN:
            return
        if self.trace:
            self._tell(f"{process.name} goes on")
        process.has_slept = True
        self.loop.thaw(process.host, clock_stood_still=clock_stood_still)
        held = [request for request in self.on_hold if request.process is process]
        self.on_hold = [request for request in self.on_hold if request.process is not process]
        for request in held:
            before, after = self.schedule.delays(request)
            self._in(before, partial(self._arrive, request, after))

    def gave_up(self, request: Request) -> None:
        """The sender no longer waits: it may be under way, or never have left."""
        request.process.in_flight.pop(request.number, None)
        if request.arrived or request.dropped:
            return
        if request.unsent:
            request.dropped = True
            return
        self._leave_behind(request)

    def kill(self, process: Process, *, all_arrive: bool = False) -> None:
        """End a process where it is; what it has under way may still come."""
        if self.trace:
            self._tell(f"{process.name} is killed")
        self.loop.kill(process.host)
        for request in list(process.in_flight.values()):
            if all_arrive:
                self._effect(request)
            else:
                self._leave_behind(request)
        process.in_flight.clear()
        process.over("killed")
        self.schedule.ended(process, self)
        self.after_kill()

    # ---- what each break comes to

    def _pass(self, request: Request, before: float, after: float) -> None:
        self._in(before, partial(self._arrive, request, after))

    def _refuse(self, request: Request, before: float, after: float, *, code: str, status: int) -> None:
        self._in(before + after, partial(self._fail, request, code, status))

    def _carry_out_and_fail(self, request: Request, before: float, after: float) -> None:
        self._in(before, partial(self._effect, request))
        self._in(before + after, partial(self._fail, request, "InternalError", 500))

    def _lose_the_answer(self, request: Request, before: float, after: float) -> None:
        self._in(before, partial(self._effect, request))
        self._in(before + after, partial(self._break_off, request))

    def _cut(self, request: Request, before: float, after: float) -> None:
        request.cut = True
        self._pass(request, before, after)

    def _cut_all(self, request: Request, before: float, after: float) -> None:
        request.process.cuts = True
        self._pass(request, before, after)

    def _be_down(self, request: Request, before: float, after: float) -> None:
        request.dropped = True
        self._in(before + after, partial(self._break_off, request))

    def _expire(self, request: Request, before: float, after: float) -> None:
        request.process.valid_from = request.process.credential + 1
        self._pass(request, before, after)

    def _miss(self, request: Request, before: float, after: float) -> None:
        self._in(before + after, partial(self._answer, request, None, None))

    def _hang(self, request: Request, _before: float, _after: float) -> None:
        late = self.schedule.abandoned(request)
        if late is not None:
            self.later(self.loop.now + late, request)
        self._in(HANGS, partial(self._give_up, request))

    def _give_up(self, request: Request) -> None:
        """Break off a request that took too long: if it arrives after all, nobody waits for its answer."""
        request.dropped = not request.arrived
        self._break_off(request)

    def _cancel(self, request: Request, before: float, after: float, *, all_arrive: bool) -> None:
        self._in(0.0, partial(self._cancel_now, request, all_arrive=all_arrive))
        # A run that waits for the answer all the same, for it must know what became of it, gets one.
        self._in(before, partial(self._arrive, request, after))

    def _cancel_late(self, request: Request, before: float, after: float) -> None:
        self._in(0.0, request.process.cancel)
        self._in(before, partial(self._arrive, request, after))

    def _kill(self, request: Request, _before: float, _after: float, *, how: Break) -> None:
        self._in(0.0, partial(self._kill_now, request, how))

    def _freeze(self, request: Request, _before: float, after: float, *, holds: bool) -> None:
        if holds:
            self.on_hold.append(request)
        else:
            self._in(0.0, partial(self._arrive, request, after))
        self.loop.freeze(request.process.host)
        self.schedule.frozen(request, self)

    _on_its_way: ClassVar[Mapping[Break | None, Callable[..., None]]] = {
        None: _pass,
        Break.CANCEL_BEFORE: partial(_cancel, all_arrive=False),
        Break.CANCEL_AFTER: partial(_cancel, all_arrive=True),
        Break.CANCEL_LATE: _cancel_late,
        Break.KILL_BEFORE: partial(_kill, how=Break.KILL_BEFORE),
        Break.KILL_AFTER: partial(_kill, how=Break.KILL_AFTER),
        Break.KILL_LATE: partial(_kill, how=Break.KILL_LATE),
        Break.ERROR_BEFORE: partial(_refuse, code="InternalError", status=500),
        Break.ERROR_AFTER: _carry_out_and_fail,
        Break.LOST: _lose_the_answer,
        Break.CUT: _cut,
        Break.CUTS: _cut_all,
        Break.DOWN: _be_down,
        Break.DENIED: partial(_refuse, code="AccessDenied", status=403),
        Break.REFUSED: partial(_refuse, code="AccessDenied", status=403),
        Break.MISSING: _miss,
        Break.SWEPT: _pass,
        Break.BUSY: partial(_refuse, code="SlowDown", status=503),
        Break.EXPIRED: _expire,
        Break.HANGS: _hang,
        Break.FREEZE_BEFORE: partial(_freeze, holds=True),
        Break.FREEZE_AFTER: partial(_freeze, holds=False),
    }

    # ---- steps

    def _in(self, seconds: float, step: Callable[[], object]) -> None:
        self.loop.call_at(self.loop.now + seconds, step, context=self.context)

    def _leave_behind(self, request: Request) -> None:
        """Nobody waits for it any more."""
        if request.arrived or request.dropped:
            return
        late = self.schedule.abandoned(request) if request not in self.on_hold else None
        request.dropped = True
        if request in self.on_hold:
            self.on_hold.remove(request)
        if late is not None:
            self.later(self.loop.now + late, request)

    def later(self, when: float, request: Request) -> None:
        """Let it take effect then, whatever has become of its sender."""

        def arrive() -> None:
            self.late.remove(arrival)
            self._effect(request, late=request.dropped)

        arrival = when, request
        self.late.append(arrival)
        self.loop.call_at(when, arrive, context=self.context)

    def _arrive(self, request: Request, after: float) -> None:
        """Carry it out, and answer."""
        if request.dropped:
            return
        if request.credential < request.process.valid_from:
            self._in(after, partial(self._fail, request, "ExpiredToken", 400))
            return
        answer = self._effect(request)
        self._in(after, partial(self._answer, request, *answer))

    def _effect(self, request: Request, *, late: bool = False) -> tuple[Any, RivaStreamError | None]:
        """Let it take effect, once."""
        if request.arrived or (request.dropped and not late):
            return request.outcome
        request.arrived = True
        if self.trace and late:
            self._tell(f"{request}   *** arrives late")
        try:
            request.outcome = self.judged(request), None
            if late and request.operation == "PutObject" and request.key.endswith(JOURNAL):
                self.late_journals += 1
        except RivaStreamError as error:
            if self.trace:
                self._tell(f"{request} -> {error.where.code or error}")
            request.outcome = None, error
        return request.outcome

    def _answer(self, request: Request, result: Any, error: RivaStreamError | None) -> None:
        request.process.in_flight.pop(request.number, None)
        if request.future.done() or request.process.host.state is State.DEAD:
            return
        if error is not None:
            request.future.set_exception(error)
        else:
            request.future.set_result(result)

    def _fail(self, request: Request, code: str, status: int) -> None:
        error = refusal(request.operation, request.bucket, request.key, code, status)
        self._answer(request, None, error)

    def _break_off(self, request: Request) -> None:
        where = Where(request.operation, request.bucket, request.key)
        self._answer(request, None, TransientError("the connection failed: it was lost", where=where))

    def _cancel_now(self, request: Request, *, all_arrive: bool) -> None:
        for each in list(request.process.in_flight.values()):
            if all_arrive:
                self._effect(each)
            elif each is request:
                each.unsent = True
        request.process.cancel()

    def _kill_now(self, request: Request, how: Break) -> None:
        if how is Break.KILL_BEFORE:
            request.dropped = True
        self.kill(request.process, all_arrive=how is Break.KILL_AFTER)

    def _tell(self, line: str) -> None:
        if self.trace:
            self.trace(f"{self.loop.now:9.3f}  {line}")


class Connection:
    """One run's :class:`~riva_stream.s3.port.Store`: it asks over the network."""

    def __init__(self, network: Network, process: Process) -> None:
        self._network = network
        self._process = process
        self._store = network.store

    @property
    def is_aws(self) -> bool:
        return self._store.is_aws

    async def renew(self) -> bool:
        self._process.credential += 1
        return True

    async def _ask(
        self,
        operation: str,
        bucket: str,
        key: str,
        effect: Callable[[MemoryStore], Any],
        *,
        changes: bool = False,
        detail: str = "",
    ) -> Any:
        network, process = self._network, self._process
        network.sent += 1
        request = Request(
            network.sent,
            process.requests,
            process,
            operation,
            bucket,
            key,
            detail,
            changes,
            lambda store: immediately(effect(store)),
            network.loop.create_future(),
            process.credential,
        )
        process.requests += 1
        network.send(request)
        try:
            return await request.future, request
        except asyncio.CancelledError:
            network.gave_up(request)
            raise

    async def head(self, bucket: str, key: str, *, window: Window | None = None) -> ObjectInfo | None:
        effect = methodcaller("head", bucket, key, window=window)
        found, _ = await self._ask("HeadObject", bucket, key, effect)
        return found  # type: ignore[no-any-return]

    async def head_part(self, bucket: str, key: str, number: int) -> ObjectPart | None:
        effect = methodcaller("head_part", bucket, key, number)
        found, _ = await self._ask("HeadObject", bucket, key, effect, detail=f" part {number}")
        return found  # type: ignore[no-any-return]

    async def get(self, bucket: str, key: str, *, limit: int) -> Document | None:
        effect = methodcaller("get", bucket, key, limit=limit)
        found, request = await self._ask("GetObject", bucket, key, effect)
        if request.is_cut and found is not None:
            raise TransientError(
                f"the body ended after {len(found.data) // 2} of {len(found.data)} bytes",
                where=Where("GetObject", bucket, key),
            )
        return found  # type: ignore[no-any-return]

    @asynccontextmanager
    async def get_range(
        self, bucket: str, key: str, *, first: int, last: int, etag: str, version_id: str | None
    ) -> AsyncIterator[RangeReply]:
        async def effect(store: MemoryStore) -> tuple[RangeReply, bytes]:
            asked = store.get_range(bucket, key, first=first, last=last, etag=etag, version_id=version_id)
            async with asked as reply:
                data = b"".join([piece async for piece in reply.pieces])
            self._process.read_until(bucket, key, etag, first + len(data))
            return reply, data

        (reply, data), request = await self._ask(
            "GetObject", bucket, key, effect, detail=f" bytes {first}-{last}"
        )

        async def pieces() -> AsyncIterator[bytes]:
            half = len(data) // 2
            yield data[:half]
            if not request.is_cut:
                yield data[half:]

        yield RangeReply(reply.status, reply.content_range, reply.content_length, reply.etag, pieces())

    async def list_objects(self, bucket: str, prefix: str, *, limit: int = 1000, after: str = "") -> Listing:
        effect = methodcaller("list_objects", bucket, prefix, limit=limit, after=after)
        found, _ = await self._ask("ListObjectsV2", bucket, prefix, effect)
        return found  # type: ignore[no-any-return]

    async def list_folder(self, bucket: str, prefix: str, *, limit: int = 1000, token: str = "") -> Folders:
        effect = methodcaller("list_folder", bucket, prefix, limit=limit, token=token)
        found, _ = await self._ask("ListObjectsV2", bucket, prefix, effect)
        return found  # type: ignore[no-any-return]

    async def list_parts(self, bucket: str, key: str, upload_id: str) -> Sequence[CompletedPart] | None:
        effect = methodcaller("list_parts", bucket, key, upload_id)
        found, _ = await self._ask("ListParts", bucket, key, effect, detail=_short(upload_id))
        return found  # type: ignore[no-any-return]

    async def list_uploads(self, bucket: str, prefix: str) -> Sequence[OpenUpload]:
        effect = methodcaller("list_uploads", bucket, prefix)
        found, _ = await self._ask("ListMultipartUploads", bucket, prefix, effect)
        return found  # type: ignore[no-any-return]

    async def get_tags(self, bucket: str, key: str) -> Mapping[str, str]:
        effect = methodcaller("get_tags", bucket, key)
        found, _ = await self._ask("GetObjectTagging", bucket, key, effect)
        return found  # type: ignore[no-any-return]

    async def get_lifecycle(self, bucket: str) -> Lifecycle | None:
        effect = methodcaller("get_lifecycle", bucket)
        found, _ = await self._ask("GetBucketLifecycleConfiguration", bucket, "", effect)
        return found  # type: ignore[no-any-return]

    async def put(
        self,
        bucket: str,
        key: str,
        body: PartBody,
        *,
        content_type: str,
        metadata: Mapping[str, str],
        tags: Mapping[str, str] = NO_TAGS,
        if_absent: bool = False,
        if_match: str | None = None,
        window: Window | None = None,
    ) -> Stored:
        effect = methodcaller(
            "put",
            bucket,
            key,
            body,
            content_type=content_type,
            metadata=metadata,
            tags=tags,
            if_absent=if_absent,
            if_match=if_match,
            window=window,
        )
        detail = _condition(if_absent=if_absent, if_match=if_match, window=window)
        stored, _ = await self._ask("PutObject", bucket, key, effect, changes=True, detail=detail)
        return stored  # type: ignore[no-any-return]

    async def delete(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str | None = None,
        if_match: str | None = None,
        window: Window | None = None,
    ) -> str | None:
        effect = methodcaller("delete", bucket, key, version_id=version_id, if_match=if_match, window=window)
        detail = _condition(if_match=if_match, window=window)
        marker, _ = await self._ask("DeleteObject", bucket, key, effect, changes=True, detail=detail)
        return marker  # type: ignore[no-any-return]

    async def create_upload(
        self,
        bucket: str,
        key: str,
        *,
        content_type: str,
        metadata: Mapping[str, str],
        crc64nvme: bool,
        tags: Mapping[str, str] = NO_TAGS,
        window: Window | None = None,
    ) -> str:
        effect = methodcaller(
            "create_upload",
            bucket,
            key,
            content_type=content_type,
            metadata=metadata,
            crc64nvme=crc64nvme,
            tags=tags,
            window=window,
        )
        upload_id, _ = await self._ask(
            "CreateMultipartUpload",
            bucket,
            key,
            effect,
            changes=True,
            detail=_condition(window=window),
        )
        return upload_id  # type: ignore[no-any-return]

    async def upload_part(self, bucket: str, key: str, upload_id: str, number: int, body: PartBody) -> str:
        kept = PartBody(
            tuple(bytes(piece) for piece in body.pieces), body.size, body.crc64nvme, body.md5, body.sha256
        )
        effect = methodcaller("upload_part", bucket, key, upload_id, number, kept)
        etag, _ = await self._ask(
            "UploadPart",
            bucket,
            key,
            effect,
            changes=True,
            detail=f"{_short(upload_id)} part {number}",
        )
        return etag  # type: ignore[no-any-return]

    async def copy_part(
        self, bucket: str, key: str, upload_id: str, number: int, source: CopySource
    ) -> CopiedPart:
        effect = methodcaller("copy_part", bucket, key, upload_id, number, source)
        copied, _ = await self._ask(
            "UploadPartCopy",
            bucket,
            key,
            effect,
            changes=True,
            detail=f"{_short(upload_id)} part {number} from {source.key} bytes {source.first}-{source.last}",
        )
        return copied  # type: ignore[no-any-return]

    async def complete_upload(
        self,
        bucket: str,
        key: str,
        upload_id: str,
        parts: Sequence[CompletedPart],
        *,
        crc64nvme: str | None,
        if_absent: bool = False,
        if_match: str | None = None,
        window: Window | None = None,
    ) -> Stored:
        effect = methodcaller(
            "complete_upload",
            bucket,
            key,
            upload_id,
            tuple(parts),
            crc64nvme=crc64nvme,
            if_absent=if_absent,
            if_match=if_match,
            window=window,
        )
        detail = _short(upload_id) + _condition(if_absent=if_absent, if_match=if_match, window=window)
        stored, _ = await self._ask(
            "CompleteMultipartUpload",
            bucket,
            key,
            effect,
            changes=True,
            detail=detail,
        )
        return stored  # type: ignore[no-any-return]

    async def abort_upload(self, bucket: str, key: str, upload_id: str) -> None:
        effect = methodcaller("abort_upload", bucket, key, upload_id)
        await self._ask(
            "AbortMultipartUpload",
            bucket,
            key,
            effect,
            changes=True,
            detail=_short(upload_id),
        )

    async def put_tags(
        self, bucket: str, key: str, tags: Mapping[str, str], *, window: Window | None = None
    ) -> None:
        effect = methodcaller("put_tags", bucket, key, tags, window=window)
        detail = _condition(window=window)
        await self._ask("PutObjectTagging", bucket, key, effect, changes=True, detail=detail)


def _short(upload_id: str) -> str:
    return f" u{upload_id.lstrip('0')[:8]}"


def _condition(*, if_absent: bool = False, if_match: str | None = None, window: Window | None = None) -> str:
    words = [
        "if-none-match *" if if_absent else "",
        f"if-match {if_match[:8]}" if if_match else "",
        f"within {window.seconds} s of {window.since:%H:%M:%S}" if window else "",
    ]
    return "".join(f" ({word})" for word in words if word)
