"""What the wire tells of processes: how much they read, and whose change is whose."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from tests.staging import Place
from tests.support.process import run
from tests.support.servers import S3Server
from tests.support.wire import Change, Wire, both_at_once, client_of

ROOT = Path(__file__).parent.parent
STAGING = "dev/parakeet/v1/"


def change(run: str, began: float, ended: float, prefix: str = STAGING) -> Change:
    return Change(prefix, run, began, ended, "UploadPart models/a.riva")


ONE_AFTER_THE_OTHER = {
    "nobody": [],
    "one run with two requests at once": [change("a", 0, 5), change("a", 1, 2)],
    "one after the other": [change("a", 0, 5), change("b", 5, 6), change("b", 5, 9)],
    "two at two prefixes": [change("a", 0, 5), change("b", 1, 2, "prod/parakeet/v1/")],
}
AT_ONCE = {
    "a request that is not over": [change("a", 0, 5), change("b", 4, 9)],
    "a run that comes back": [change("a", 0, 1), change("b", 2, 3), change("a", 4, 5)],
    "within another one": [change("a", 0, 1), change("b", 2, 3), change("c", 4, 5), change("a", 9, 9)],
}


@pytest.mark.parametrize("changes", ONE_AFTER_THE_OTHER.values(), ids=ONE_AFTER_THE_OTHER)
def test_runs_that_come_one_after_the_other(changes: list[Change]) -> None:
    assert both_at_once(changes) == []


@pytest.mark.parametrize("changes", AT_ONCE.values(), ids=AT_ONCE)
def test_runs_at_one_prefix_at_once(changes: list[Change]) -> None:
    (first, *_) = both_at_once(changes)
    assert first.startswith(f"{STAGING}: run b began")
    assert "before run a was done" in first


def test_the_process_of_a_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as client:
            port = client.getsockname()[1]
            assert client_of(port) == os.getpid()
        assert client_of(port) is None


@pytest.mark.gateway
def test_a_run_is_known_by_its_journal_and_a_stranger_is_found(
    gateway: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(gateway, gateway.new_bucket())
    _, data = place.source(key="in/m_v1.tar.gz")
    wire = Wire(gateway)
    with wire.open() as endpoint_url:
        argv = [sys.executable, "-m", "riva_stream", "stage", f"--source=s3://{place.bucket}/in/m_v1.tar.gz"]
        argv += [f"--bucket={place.bucket}", "--env=dev", "--model-name=parakeet", "--model-version=v1"]
        argv += ["--source-copy=send", "--state-dir=state"]
        env = gateway.environment(endpoint_url) | {"PYTHONPATH": str(ROOT)}
        done = run(argv, folder=tmp_path, env=env)
        assert done.exit_code == 0, done.stderr
        (reading,) = wire.readings("in/*")
        assert (reading.key, reading.first, reading.size) == ("in/m_v1.tar.gz", 0, len(data))
        assert {change.run for change in wire.changes} == {reading.run}
        assert not reading.run.startswith("without")
        assert {change.prefix for change in wire.changes} == {STAGING}
        assert any(change.what.endswith(" staging_complete.txt") for change in wire.changes)
        assert all(change.began < change.ended for change in wire.changes)
        assert both_at_once(wire.changes) == []
        gateway.client(endpoint_url).put_object(
            Bucket=place.bucket, Key=f"{STAGING}models/late.riva", Body=b"late"
        )
        monkeypatch.setattr("tests.support.wire.client_of", lambda _: None)
        gateway.client(endpoint_url.replace("127.0.0.1", "localhost")).put_object(
            Bucket=place.bucket, Key=f"{STAGING}models/gone.riva", Body=b"gone"
        )  # by another name, and so by another connection
    *own, late, unknown = sorted(wire.changes, key=lambda change: change.began)
    assert late.run == f"without a journal, of process {os.getpid()}"
    assert unknown.run == reading.run
    assert both_at_once([*own, late]) == []
    assert both_at_once([*own, late, unknown])
