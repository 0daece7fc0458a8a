"""The relay of the benchmarks, and what is told of a link. Never how fast anything is."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.__main__ import main, parser
from benchmarks.compare import Runs
from benchmarks.link import rows
from benchmarks.peers import COPYING, PEERS
from benchmarks.relay import Moved, Relay, Way
from tests.support.daemons import LOOPBACK
from tests.test_benchmarks import usage

MIB = 1 << 20


@contextmanager
def server(serve: Callable[[socket.socket], object]) -> Iterator[int]:
    """Gives each connection to ``serve``; the port it listens on."""
    with socket.create_server((LOOPBACK, 0)) as listener:

        def accept() -> None:
            connection, _ = listener.accept()
            with connection:
                serve(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def whole(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(MIB), b""))


def test_a_way_lets_its_rate_pass_and_no_more() -> None:
    now = 100.0
    way = Way(lambda: now)
    assert way.take(1 << 40) == 0
    way = Way(lambda: now)
    way.rate = 1000
    assert [way.take(100) for _ in range(3)] == pytest.approx([0.09, 0.19, 0.29])
    now = 100.2
    assert way.take(100) == pytest.approx(0.19)
    now = 200.0  # a pause saves up no more than a hundredth of a second
    assert way.take(100) == pytest.approx(0.09)
    assert way.passed == 500


def test_the_relay_hands_on_both_ways_and_counts_each() -> None:
    asked, answer = bytes(range(256)) * 5000, b"answer" * 100_000
    got: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        got.append(whole(connection))
        connection.sendall(answer)

    with server(serve) as port, Relay(port) as relay:
        with socket.create_connection((LOOPBACK, relay.port)) as client:
            client.sendall(asked)
            client.shutdown(socket.SHUT_WR)
            assert whole(client) == answer
        moved = relay.counts()
    assert got == [asked]
    assert (moved.sent, moved.received) == (len(asked), len(answer))
    assert moved.cpu > 0


def test_a_limited_relay_changes_no_byte() -> None:
    answer = bytes(range(256)) * 4000
    with server(lambda connection: connection.sendall(answer)) as port, Relay(port) as relay:
        relay.limit(20e6)
        with socket.create_connection((LOOPBACK, relay.port)) as client:
            assert whole(client) == answer


def runs_of(name: str, *walls: float, moved: tuple[Moved, ...] = ()) -> Runs:
    runs = Runs((PEERS | COPYING)[name], [usage(wall, cpu_user=wall / 2) for wall in walls])
    runs.moved = list(moved)
    return runs


def test_a_row_of_the_link_tells_bytes_in_those_of_the_archive() -> None:
    sent = runs_of("riva-check", 4.0, 5.0, moved=(Moved(2000, 1000, 0.1), Moved(2200, 1000, 0.3)))
    copied = runs_of("riva-copy", 3.0, 3.0, moved=(Moved(1000, 1000, 0.1), Moved(1000, 1000, 0.1)))
    copied.source_copy = "crc64nvme"
    failed = runs_of("old-aws")
    failed.failure = "it ended with 1"
    found = rows([sent, copied, failed], size=1000, cores=2)
    assert found[0][:5] == ["riva-check", "4.50 (4.00 to 5.00)", "1.00", "2.100", "1.000"]
    assert found[1][:5] == ["riva-copy (crc64nvme)", "3.00 (3.00 to 3.00)", "0.67", "1.000", "1.000"]
    assert found[2] == ["old-aws", "FAILED: it ended with 1"]
    assert rows([failed, copied], size=1000, cores=2)[1][2] == "nan"


@pytest.mark.parametrize(
    "arguments", [["--rates=0"], ["--rates=fast"], ["--ways=nobody"], ["--ways="]], ids="".join
)
def test_arguments_that_make_no_sense_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["link", *arguments])
    assert arguments[0].partition("=")[0] in capsys.readouterr().err


def test_lists_have_commas() -> None:
    args = parser().parse_args(["link", "--rates=1,2.5", "--ways=riva,pipe-copy"])
    assert (args.rates, args.ways) == ([1.0, 2.5], ["riva", "pipe-copy"])


@pytest.mark.long
@pytest.mark.gateway
def test_a_quick_run_over_a_link_writes_its_figures(tmp_path: Path) -> None:
    assert main(["link", "--quick", "--seed=1", f"--out={tmp_path}", "--rates=2", "--ways=riva"]) == 0
    (link,) = json.loads((tmp_path / "link.json").read_text())["links"]
    (moved,) = link["peers"][0]["moved"]
    assert moved["received"] >= link["archive_bytes"]
    assert moved["sent"] >= link["archive_bytes"] + 24 * MIB
