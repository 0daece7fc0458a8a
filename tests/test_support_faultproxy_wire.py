"""The fault proxy on the wire: raw sockets, so that nothing but the socket itself says what arrived and how it ended."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.faultproxy import FaultProxy, Rule
from tests.support.faults import FlipBit, Refuse, Reset, ShortBody, cut

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.faults import Fault
    from tests.support.servers import S3Server

DATA = os.urandom(300_000)


@pytest.fixture
def stored(moto: S3Server) -> str:
    bucket = moto.new_bucket()
    # moto lets an unsigned request read what is public, and write anyway.
    moto.client().put_object(Bucket=bucket, Key="key", Body=DATA, ACL="public-read")
    return bucket


class Wire:
    """A client that is no more than a socket."""

    def __init__(self, proxy: FaultProxy) -> None:
        self.socket = socket.create_connection(("127.0.0.1", proxy.port), timeout=60)
        self.file = self.socket.makefile("rb")
        self._host = f"127.0.0.1:{proxy.port}"

    def send(self, method: str, target: str, body: bytes = b"", **headers: str) -> None:
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._host}", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        # At once: after a reset the rest could not be sent any more.
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode() + (b"" if "Expect" in headers else body))

    def head(self) -> tuple[int, dict[str, str]]:
        status = int(self.file.readline().split()[1])
        headers = {}
        while line := self.file.readline().strip().decode():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return status, headers

    def body(self, headers: dict[str, str]) -> bytes:
        return self.file.read(int(headers["content-length"]))

    def close(self) -> None:
        self.file.close()
        self.socket.close()


class OneAnswer:
    """A store that gives every connection the same bytes, whatever it is asked, and closes."""

    access_key = secret_key = region = ""

    def __init__(self, answer: bytes) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._answer = answer
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection, connection.makefile("rb") as lines:
            while lines.readline().strip():
                pass
            connection.sendall(self._answer)

    def close(self) -> None:
        self._thread.join(60)
        self._listener.close()


@contextlib.contextmanager
def wire_to(server: S3Server | OneAnswer, *rules: Rule) -> Iterator[tuple[FaultProxy, Wire]]:
    with FaultProxy(server, rules).in_thread() as proxy, contextlib.closing(Wire(proxy)) as wire:  # type: ignore[arg-type]
        yield proxy, wire


def connect_and_read(proxy: FaultProxy) -> bytes:
    # connect() itself fails when the reset is quicker than it.
    with contextlib.closing(Wire(proxy)) as wire:
        return wire.file.read()


def test_two_requests_on_one_connection(moto: S3Server, stored: str) -> None:
    with wire_to(moto) as (proxy, wire):
        for _ in range(2):
            wire.send("GET", f"/{stored}/key")
            status, headers = wire.head()
            assert (status, wire.body(headers)) == (200, DATA)
        assert [record.connection for record in proxy.log] == [1, 1]


@pytest.mark.parametrize("after", [0, 1, 65_536, 299_999])
def test_a_cut_is_an_end_of_file_after_exactly_so_many_bytes(moto: S3Server, stored: str, after: int) -> None:
    with wire_to(moto, Rule("GetObject", fault=cut(after))) as (_, wire):
        wire.send("GET", f"/{stored}/key")
        status, headers = wire.head()
        assert (status, headers["content-length"]) == (200, "300000")
        assert wire.file.read() == DATA[:after]


def test_a_short_body_ends_early(moto: S3Server, stored: str) -> None:
    with wire_to(moto, Rule("GetObject", fault=ShortBody(7))) as (_, wire):
        wire.send("GET", f"/{stored}/key")
        wire.head()
        assert wire.file.read() == DATA[:-7]


@pytest.mark.parametrize(
    ("fault", "faults", "forwarded", "upstream_status"),
    [
        (Reset("request"), ("Reset",), 0, None),
        (Reset("request-body", after=1000), ("Reset",), 1000, None),
        (Reset("response"), ("Reset",), 1001, 200),
    ],
)
def test_a_reset_of_an_upload_at_each_stage(
    moto: S3Server,
    stored: str,
    fault: Fault,
    faults: tuple[str, ...],
    forwarded: int,
    upstream_status: int | None,
) -> None:
    with wire_to(moto, Rule("PutObject", fault=fault)) as (proxy, wire):
        # Little more than what passes: what the proxy does not read would be lost in a reset of its own.
        wire.send("PUT", f"/{stored}/new", bytes(1001))
        with pytest.raises(ConnectionResetError):
            wire.file.read()
    record = proxy.log[0]
    assert (record.faults, record.forwarded, record.upstream_status) == (faults, forwarded, upstream_status)
    assert (record.status, record.outcome) == (None, "dropped")
    listed = moto.client().list_objects_v2(Bucket=stored)["Contents"]
    assert ("new" in {entry["Key"] for entry in listed}) is (upstream_status == 200)


def test_a_reset_in_the_body_of_an_answer(moto: S3Server, stored: str) -> None:
    with wire_to(moto, Rule("GetObject", fault=Reset("response-body", after=70_000))) as (proxy, wire):
        wire.send("GET", f"/{stored}/key")
        with pytest.raises(ConnectionResetError):
            wire.file.read()
    assert (proxy.log[0].sent, proxy.log[0].outcome) == (70_000, "cut")


def test_a_connection_that_is_reset_when_it_is_accepted(moto: S3Server, stored: str) -> None:
    with FaultProxy(moto, [Rule("Connect", occurrence="first", fault=Reset())]).in_thread() as proxy:
        with pytest.raises(ConnectionResetError):
            connect_and_read(proxy)
        with contextlib.closing(Wire(proxy)) as second:
            second.send("HEAD", f"/{stored}")
            assert second.head()[0] == 200
    assert proxy.connections == 2


def test_expect_100_continue_is_answered_by_the_store(moto: S3Server, stored: str) -> None:
    with wire_to(moto) as (proxy, wire):
        wire.send("PUT", f"/{stored}/new", b"bytes", Expect="100-continue", x_amz_acl="public-read")
        assert wire.head()[0] == 100
        wire.socket.sendall(b"bytes")
        # moto says 100 twice, and both are passed on.
        assert next(status for status, _ in iter(wire.head, None) if status != 100) == 200
        wire.send("HEAD", f"/{stored}/new")
        assert wire.head()[1]["content-length"] == "5"
    assert [record.outcome for record in proxy.log] == ["answered", "answered"]


def test_a_refused_expectation_gets_its_answer_without_the_body(moto: S3Server, stored: str) -> None:
    with wire_to(moto, Rule("PutObject", fault=Refuse("SlowDown"))) as (proxy, wire):
        wire.send("PUT", f"/{stored}/new", b"bytes", Expect="100-continue", x_amz_acl="public-read")
        status, headers = wire.head()
        assert (status, headers["connection"]) == (503, "close")
        assert b"<Code>SlowDown</Code>" in wire.body(headers)
        assert wire.file.read() == b""
    assert proxy.log[0].received == 0


def test_a_refusal_of_head_has_no_body(moto: S3Server, stored: str) -> None:
    with wire_to(moto, Rule("HeadObject", occurrence=1, fault=Refuse("SlowDown"))) as (_, wire):
        wire.send("HEAD", f"/{stored}/key")
        assert wire.head()[0] == 503
        wire.send("HEAD", f"/{stored}/key")
        assert wire.head()[0] == 200


def test_a_chunked_upload_arrives_whole(moto: S3Server, stored: str) -> None:
    with wire_to(moto) as (proxy, wire):
        lines = [
            f"PUT /{stored}/new HTTP/1.1",
            f"Host: 127.0.0.1:{proxy.port}",
            "Transfer-Encoding: chunked",
            "",
            "",
        ]
        wire.socket.sendall("\r\n".join(lines).encode() + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n")
        assert wire.head()[0] == 200
    assert proxy.log[0].forwarded == 5
    assert moto.client().get_object(Bucket=stored, Key="new")["Body"].read() == b"abcde"


@pytest.fixture
def chunked_store() -> Iterator[OneAnswer]:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    store = OneAnswer(answer)
    yield store
    store.close()


def test_faults_count_payload_bytes_of_a_chunked_answer(chunked_store: OneAnswer) -> None:
    with wire_to(chunked_store, Rule("GetObject", fault=FlipBit("response", 3))) as (proxy, wire):
        wire.send("GET", "/bucket/key")
        assert wire.head()[1]["transfer-encoding"] == "chunked"
        assert wire.file.read(len(b"3\r\nabc\r\n2\r\nee\r\n0\r\n\r\n")) == b"3\r\nabc\r\n2\r\nee\r\n0\r\n\r\n"
    assert proxy.log[0].sent == 5


@pytest.fixture(params=[b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"])
def broken_store(request: pytest.FixtureRequest) -> Iterator[OneAnswer]:
    store = OneAnswer(request.param)
    yield store
    store.close()


def test_a_store_that_breaks_off_is_told_from_a_client_that_does(broken_store: OneAnswer) -> None:
    with wire_to(broken_store) as (proxy, wire):
        wire.send("GET", "/bucket/key")
        assert wire.file.read() in {
            b"",
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: keep-alive\r\n\r\nabc",
        }
    assert proxy.log[0].outcome == "upstream-gone"


def test_a_client_that_goes_away_in_its_body_leaves_nothing(moto: S3Server, stored: str) -> None:
    with FaultProxy(moto).in_thread() as proxy:
        wire = Wire(proxy)
        head = f"PUT /{stored}/new HTTP/1.1\r\nHost: 127.0.0.1:{proxy.port}\r\nContent-Length: 1000\r\n\r\n"
        wire.socket.sendall(head.encode() + bytes(999))
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.file.read() == b""
        wire.close()
    assert (proxy.log[0].outcome, proxy.log[0].received) == ("client-gone", 999)
    assert [entry["Key"] for entry in moto.client().list_objects_v2(Bucket=stored)["Contents"]] == ["key"]


def test_a_store_that_is_not_there_is_the_stores_fault() -> None:
    store = OneAnswer(b"")
    socket.create_connection(("127.0.0.1", store.port)).close()
    store.close()
    with wire_to(store) as (proxy, wire):
        wire.send("GET", "/bucket/key")
        assert wire.file.read() == b""
    assert proxy.log[0].outcome == "upstream-gone"
