"""A link: TCP connections handed on to a port of this host, at so many bytes a second each way, and counted.

It runs in a process of its own, ``python -m benchmarks.relay PORT``, with a thread for each way of each connection.
Bytes go by splice(2) and never leave the kernel, which makes it cheap: :func:`ceiling` says how cheap. It delays bytes
as a narrow link does; round trips and losses are not modelled.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from benchmarks.tools import ROOT
from tests.support.daemons import LOOPBACK

__all__ = ["GBPS", "Ceiling", "Moved", "Relay", "Way", "ceiling"]

GBPS = 1e9 / 8
"""Bytes a second."""
_STEP = 256 << 10
_PIPE = 1 << 20
_BURST = 0.01
"""Seconds of the rate that may pass at once after a pause; more than a thread oversleeps."""


@dataclass(frozen=True, slots=True)
class Moved:
    """Bytes that the client has sent and received, and the CPU seconds that the relay took for them."""

    sent: int = 0
    received: int = 0
    cpu: float = 0.0

    def __sub__(self, before: Moved) -> Moved:
        return Moved(self.sent - before.sent, self.received - before.received, self.cpu - before.cpu)


class Way:
    """One way of the link, which all connections share."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = math.inf
        """Bytes a second."""
        self.passed = 0
        self._clock = clock
        self._free = 0.0
        self._lock = threading.Lock()

    def take(self, size: int) -> float:
        """Count ``size`` bytes, and say in how many seconds they will have passed."""
        with self._lock:
            now = self._clock()
            self.passed += size
            self._free = max(self._free, now - _BURST) + size / self.rate
            return max(0.0, self._free - now)


class Relay:
    """A link to ``port``, open as long as this context manager is."""

    def __init__(self, port: int) -> None:
        self._to = port

    def __enter__(self) -> Self:
        argv = [sys.executable, "-m", "benchmarks.relay", str(self._to)]
        self._process = subprocess.Popen(
            argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.port = int(self._read())
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=10)  # the end of its input ends it

    @property
    def endpoint_url(self) -> str:
        """Where a client finds the server behind it."""
        return f"http://{LOOPBACK}:{self.port}"

    def limit(self, rate: float) -> None:
        """Let ``rate`` bytes a second pass each way; ``math.inf`` is no limit, as it is at first."""
        self._ask(str(rate))

    def counts(self) -> Moved:
        """What has passed so far."""
        return self._ask("")

    def _ask(self, line: str) -> Moved:
        if self._process.stdin is None:  # pragma: no cover - it is a pipe
            raise RuntimeError("the relay has no pipes")
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return Moved(**json.loads(self._read()))

    def _read(self) -> str:
        if self._process.stdout is None:  # pragma: no cover - it is a pipe
            raise RuntimeError("the relay has no pipes")
        return self._process.stdout.readline()


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What one connection through the relay carries, from a process on this host to itself."""

    bytes_per_second: float
    relay_cpu_seconds_per_gib: float


def ceiling(size: int, rate: float = math.inf) -> Ceiling:
    """Send ``size`` bytes through a relay of ``rate`` bytes a second to this process."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        sender = threading.Thread(target=_send_zeros, args=(listener, size), daemon=True)
        sender.start()
        with Relay(listener.getsockname()[1]) as relay:
            relay.limit(rate)
            buffer, before, began = bytearray(1 << 20), relay.counts(), time.monotonic()
            with socket.create_connection((LOOPBACK, relay.port)) as connection:
                while connection.recv_into(buffer):
                    pass
            seconds, moved = time.monotonic() - began, relay.counts() - before
        sender.join()
    return Ceiling(moved.received / seconds, moved.cpu * (1 << 30) / moved.received)


def _send_zeros(listener: socket.socket, size: int) -> None:
    zeros = memoryview(bytes(1 << 20))
    connection, _ = listener.accept()
    with connection:
        for begin in range(0, size, len(zeros)):
            connection.sendall(zeros[: size - begin])


def _accept(listener: socket.socket, port: int, up: Way, down: Way) -> None:
    while True:
        client, _ = listener.accept()
        threading.Thread(target=_connect, args=(client, port, up, down), daemon=True).start()


def _connect(client: socket.socket, port: int, up: Way, down: Way) -> None:
    with client, socket.create_connection((LOOPBACK, port)) as server:
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sending = threading.Thread(target=_hand_on, args=(client, server, up), daemon=True)
        sending.start()
        _hand_on(server, client, down)
        sending.join()


def _hand_on(source: socket.socket, sink: socket.socket, way: Way) -> None:
    """One way of one connection, to its end. Where one side breaks off, so does the other."""
    outlet, inlet = os.pipe()
    fcntl.fcntl(inlet, fcntl.F_SETPIPE_SZ, _PIPE)
    try:
        while size := os.splice(source.fileno(), inlet, _STEP):
            if delay := way.take(size):
                time.sleep(delay)
            while size:
                size -= os.splice(outlet, sink.fileno(), size)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
    finally:
        os.close(outlet)
        os.close(inlet)


def _main() -> None:
    """Print the port; answer each line of the input, a rate or nothing, with what has passed."""
    up, down = Way(), Way()
    with socket.create_server((LOOPBACK, 0), backlog=128) as listener:
        threading.Thread(target=_accept, args=(listener, int(sys.argv[1]), up, down), daemon=True).start()
        print(listener.getsockname()[1], flush=True)
        for line in sys.stdin:
            if line.strip():
                up.rate = down.rate = float(line)
            moved = {"sent": up.passed, "received": down.passed, "cpu": time.process_time()}
            print(json.dumps(moved), flush=True)


if __name__ == "__main__":
    _main()
