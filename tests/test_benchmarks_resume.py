"""What the benchmark of interruptions kills, and how it reckons. Never how fast anything is."""

from __future__ import annotations

import json
import math
import socket
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import main, parser
from benchmarks.relay import Relay
from benchmarks.results import Spread
from benchmarks.resume import Restart, Restarts, kill_at, ratios, working_seconds
from tests.test_benchmarks_link import MIB, runs_of, server


def flood(connection: socket.socket) -> None:
    zeros = bytes(MIB)
    while True:
        try:
            connection.sendall(zeros)
        except OSError:
            return


RECEIVE = "import socket, sys\ns = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\nwhile s.recv(65536): pass"


def test_a_command_is_killed_when_it_has_received_so_much_and_its_server_is_told(tmp_path: Path) -> None:
    with server(flood) as port, Relay(port) as relay:
        argv = [sys.executable, "-c", RECEIVE, str(relay.port)]
        kill_at(relay, argv, folder=tmp_path, env={}, received=5 * MIB)
        assert relay.counts().received >= 5 * MIB


def test_a_command_that_ends_before_it_is_killed_is_an_error(tmp_path: Path) -> None:
    with server(lambda connection: connection.sendall(b"few")) as port, Relay(port) as relay:
        argv = [sys.executable, "-c", RECEIVE, str(relay.port)]
        with pytest.raises(RuntimeError, match="before it was killed"):
            kill_at(relay, argv, folder=tmp_path, env={}, received=MIB)


def test_a_run_works_from_prepare_to_its_end() -> None:
    events = [
        {"event": "warned", "time": "2026-01-01T00:00:00.000+00:00"},
        {"event": "phase_changed", "phase": "prepare", "time": "2026-01-01T00:00:01.500+00:00"},
        {"event": "phase_changed", "phase": "stream", "time": "2026-01-01T00:00:03.000+00:00"},
        {"event": "stage_finished", "time": "2026-01-01T00:00:09.750+00:00"},
    ]
    assert working_seconds(map(json.dumps, events)) == 8.25


def test_restarts_are_shares_of_a_whole_run() -> None:
    restarts = Restarts("a way", size=1000)
    restarts.runs = {
        0: [Restart(1010, 10.0, 5.0), Restart(1010, 30.0, 4.0), Restart(1010, 12.0, 6.0)],
        50: [Restart(600, 6.0, 2.5), Restart(500, 9.0, 3.0), Restart(700, 3.0, 2.0)],
    }
    assert restarts.shares(50) == {"read": 0.6, "wall": 0.5, "cpu": 0.5}
    assert restarts.rows() == [["50 %", "0.600", "0.500", "0.500", "12.00", "5.00"]]
    assert list(restarts.document()["shares"]) == [50]


def test_what_checkpoints_cost_is_compared_round_by_round() -> None:
    found = ratios(runs_of("riva", 2.0, 6.0, 9.0), runs_of("riva", 1.0, 4.0, 9.0))
    assert found["wall"] == Spread(1.5, 1.0, 2.0)
    assert found["cpu"] == Spread(3.5 / 2.5, 1.0, 1.5)


def test_arguments_have_defaults() -> None:
    args = parser().parse_args(["resume", "--at=10,90"])
    assert (args.at, args.gbps, args.cost) == ([10, 90], math.inf, False)


@pytest.mark.long
@pytest.mark.gateway
def test_a_quick_run_is_killed_and_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    usual = ["resume", "--quick", "--seed=1", f"--out={tmp_path}"]
    assert main([*usual, "--at=95", "--ways=riva"]) == 0
    document = json.loads((tmp_path / "resume.json").read_text())
    (way,) = document["ways"]
    assert way["runs"]["0"][0]["received"] >= document["archive_bytes"]
    assert way["shares"]["95"]["read"] > 0
    assert main([*usual, "--cost"]) == 0
    told = json.loads((tmp_path / "checkpoints.json").read_text())["ratios"]
    assert list(told) == ["off", "16MiB", "the default"]
    assert "killed at" in capsys.readouterr().out
