"""A scripted S3 fault proxy: stands in front of a real server and makes it misbehave, by rules and at hooks.

In the test's own event loop::

    async with FaultProxy(server, [Rule("GetObject", occurrence=2, fault=cut(70_000))]) as proxy:
        ...  # a client with endpoint_url=proxy.endpoint_url
    assert [record.range for record in proxy.select("GetObject")] == [...]

or on a thread with a loop of its own, for synchronous tests and for clients that are processes::

    with FaultProxy(server, rules).in_thread() as proxy:
        ...

The Host header is passed on unchanged, so the signature a client made for the proxy's address is still valid at
the store. Bodies stream through in pieces; nothing but the answers to mutating requests is kept whole.
What the faults are and when they strike stands in `tests.support.faults`.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import random
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.support.exchange import Exchange
from tests.support.faultlog import Record, Traffic, select, traffic
from tests.support.faults import Reset, Rule
from tests.support.http1 import PIECE, Connection, Head, read_head
from tests.support.s3ops import S3Request, recognise

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from tests.support.faults import Fault, Where
    from tests.support.servers import S3Server

__all__ = ["FaultProxy", "Hook", "Record", "Rule"]

_IDLE_LIMIT: Final = 2.0
"""Seconds after which an idle connection to the store is not used again: the store might be closing it."""


@dataclass(frozen=True)
class Hook:
    """Calls *action* with the request's `Record` before or after the store gets a mutating request.

    ``after`` means: the store has answered in full, and the client has seen nothing of it. *action* may be a
    coroutine function, which runs in the proxy's loop; a plain function runs in a worker thread, so it may block.
    With *drop* the connection is reset once *action* has returned: what a client that was killed had already
    handed to its kernel then does not reach the store after all.
    """

    action: Callable[[Record], Awaitable[None] | None]
    when: Where = "request"
    """``request``: before it is forwarded; ``response``: before the answer is passed on."""
    mutation: int | None = None
    """Only the n-th mutating request, from 1, over all connections."""
    operation: str = "*"
    drop: bool = False

    def fits(self, when: Where, record: Record) -> bool:
        return (
            self.when == when
            and self.mutation in {None, record.mutation}
            and self.operation in {"*", record.operation}
        )


class FaultProxy:
    """The proxy. *upstream* is a server of `tests.support.servers`; *seed* decides what probabilities bring;
    *connected* is told the number of each connection and its client's port, before anything is read from it.

    ``rules`` and ``hooks`` are plain lists that may be changed while it runs.
    """

    def __init__(
        self,
        upstream: S3Server,
        rules: Iterable[Rule] = (),
        hooks: Iterable[Hook] = (),
        *,
        seed: int = 0,
        connected: Callable[[int, int], None] = lambda number, port: None,
    ) -> None:
        self.upstream = upstream
        self.rules = list(rules)
        self.hooks = list(hooks)
        self.port = 0
        self.unexpected: list[BaseException] = []
        """Errors of the proxy itself. Raised when it closes, so that no test passes on a broken proxy."""
        self._connected = connected
        self._chance = random.Random(seed)
        self._struck: dict[int, tuple[Rule, int]] = {}
        self._exchanges: list[Exchange | Record] = []
        self._connections = self._mutations = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle: list[tuple[float, Connection]] = []
        self._server: asyncio.Server | None = None

    # What a test reads.

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> tuple[Record, ...]:
        """Every request so far in the order of arrival, those under way included."""
        return tuple(item if isinstance(item, Record) else item.record for item in list(self._exchanges))

    def select(self, operation: str = "*", key: str = "*") -> tuple[Record, ...]:
        """The records of one operation on keys that fit a glob."""
        return select(self.log, operation, key)

    def count(self, operation: str = "*", key: str = "*") -> int:
        """How many requests there were: what a rule's "last" needs to know from a dry run."""
        return len(self.select(operation, key))

    @property
    def traffic(self) -> dict[str, Traffic]:
        """Requests and bytes in each direction, by operation."""
        return traffic(self.log)

    @property
    def mutations(self) -> int:
        """How many mutating requests have arrived."""
        return self._mutations

    @property
    def connections(self) -> int:
        """How many connections were accepted."""
        return self._connections

    # Starting and stopping.

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=PIECE)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _since, connection in self._idle:
            await connection.close()
        self._idle.clear()
        await self._server.wait_closed()
        if self.unexpected and exc_type is None:
            raise BaseExceptionGroup("the fault proxy failed", self.unexpected)

    @contextlib.contextmanager
    def in_thread(self) -> Iterator[Self]:
        """Run on a thread with an event loop of its own."""
        started, failed = threading.Event(), list[BaseException]()
        loop: asyncio.AbstractEventLoop
        stop: asyncio.Event

        async def serve() -> None:
            nonlocal loop, stop
            loop, stop = asyncio.get_running_loop(), asyncio.Event()
            async with self:
                started.set()
                await stop.wait()

        def body() -> None:
            try:
                asyncio.run(serve())
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits for this one
                failed.append(error)
            finally:
                started.set()

        thread = threading.Thread(target=body, name="fault-proxy", daemon=True)
        thread.start()
        started.wait()
        try:
            if not failed:
                yield self
        finally:
            if not failed:
                loop.call_soon_threadsafe(stop.set)
            thread.join()
        if failed:
            raise failed[0]

    # Serving.

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The handler is run as a task of the loop: kept here, so that closing can end it.
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        client = Connection(reader, writer)
        self._connections += 1
        try:
            self._connected(self._connections, writer.get_extra_info("peername")[1])
            await self._serve(client, self._connections)
        except asyncio.CancelledError:
            # The proxy is closing. Not raised again: the streams module would report it as an unhandled error.
            client.abort()
        except ConnectionError:
            client.abort()
        except Exception as error:  # noqa: BLE001 - kept for __aexit__
            self.unexpected.append(error)
            client.abort()
        finally:
            with contextlib.suppress(asyncio.CancelledError):
                await client.close()

    async def _serve(self, client: Connection, number: int) -> None:
        accepted = S3Request("Connect", "", "", "", "")
        for fault in self._struck_by(accepted):
            if isinstance(fault, Reset):
                if fault.rst:
                    client.abort()
                return
        keep = True
        while keep and (head := await read_head(client.reader)):
            request = recognise(head)
            self._mutations += request.mutating
            record = Record(
                number=len(self._exchanges) + 1,
                connection=number,
                mutation=self._mutations if request.mutating else None,
                request=request,
                status=None,
                upstream_status=None,
                received=0,
                forwarded=0,
                sent=0,
                faults=(),
                outcome="open",
            )
            exchange = Exchange(self, client, head, record, self._struck_by(request))
            self._exchanges.append(exchange)
            try:
                keep = await exchange.run()
            finally:
                # The record alone is kept: an exchange holds on to its connection.
                self._exchanges[record.number - 1] = exchange.record

    def _struck_by(self, request: S3Request) -> list[Fault]:
        faults: list[Fault] = []
        for rule in self.rules:
            if rule.fits(request):
                # By identity: two equal rules count each for itself. The rule is kept, so that its id stays its own.
                count = self._struck.get(id(rule), (rule, 0))[1] + 1
                self._struck[id(rule)] = (rule, count)
                if rule.strikes(count, self._chance):
                    faults.extend(rule.faults)
        return faults

    # What an exchange asks of its proxy.

    async def connect(self) -> Connection:
        """A connection to the store, an idle one if there is any that was used a moment ago."""
        while self._idle:
            since, connection = self._idle.pop()
            if connection.usable and time.monotonic() - since < _IDLE_LIMIT:
                return connection
            await connection.close()
        return await Connection.open("127.0.0.1", self.upstream.port)

    async def disconnect(self, connection: Connection, *, reusable: bool) -> None:
        """Take a connection back."""
        if reusable and connection.usable:
            self._idle.append((time.monotonic(), connection))
        else:
            connection.abort()

    async def run_hooks(self, when: Where, record: Record) -> bool:
        """Call the hooks that fit. False: the request is to be dropped."""
        go_on = True
        for hook in list(self.hooks):
            if hook.fits(when, record):
                if inspect.iscoroutinefunction(hook.action):
                    await hook.action(record)
                else:
                    await asyncio.to_thread(hook.action, record)
                go_on = go_on and not hook.drop
        return go_on

    def sign_whole(self, head: Head) -> None:
        """Take the Range off a GET and sign it again, in the client's place."""
        head.remove("Range")
        kept = ("if-match", "if-none-match", "x-amz-checksum-mode", "x-amz-expected-bucket-owner")
        headers: dict[str, str] = {"Host": head.get("host") or ""}
        headers |= {name: value for name, value in head.headers if name.lower() in kept}
        request: Any = AWSRequest(head.words[0], f"http://{headers['Host']}{head.words[1]}", headers=headers)
        credentials = Credentials(self.upstream.access_key, self.upstream.secret_key)
        S3SigV4Auth(credentials, "s3", self.upstream.region).add_auth(request)
        for name, value in request.headers.items():
            head.set(name, value)
