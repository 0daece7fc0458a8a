"""The measurement of stagings at once: that all of them were staged, and what is told of rounds. Never how fast anything is."""

from __future__ import annotations

import argparse
import http.client
import json
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import catalogue
from benchmarks.__main__ import main
from benchmarks.catalogue import Series, Store, stage_all
from benchmarks.results import Spread
from benchmarks.synthetic import BUCKET, Archive, serve
from tests.support.daemons import LOOPBACK
from tests.test_benchmarks import usage

MIB = 1 << 20


def made_up(**more: int) -> AbstractContextManager[Store]:
    return catalogue._made_up(argparse.Namespace(kind="stored", size=16, entries=2, **more))


@pytest.mark.gateway
@pytest.mark.long
def test_a_quick_run_stages_on_every_store_and_writes_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["catalogue", "--quick", "--kind=stored", "--seed=1", "--pause=1", f"--out={tmp_path}"]) == 0
    document = json.loads((tmp_path / "catalogue.json").read_text())
    assert [store["name"] for store in document["stores"]] == ["made-up", "far", "server"]
    for store in document["stores"]:
        assert store["entries"] == 2
        assert store["archive_bytes"] > 16 * MIB
        assert list(store["at_once"]) == ["1", "2"]
        assert store["at_once"]["1"]["gain"]["median"] == 1
        for told in store["at_once"].values():
            assert told["figures"]["client_cpu_seconds"]["median"] > 0
            assert told["figures"]["server_cpu_seconds"]["median"] > 0
    assert "juicefs on the same cores" in capsys.readouterr().out


def test_a_gain_is_that_of_a_round() -> None:
    with made_up() as store:
        series = Series(
            store, {1: [usage(4.0), usage(9.0), usage(6.0)], 2: [usage(2.0), usage(3.0), usage(6.0)]}
        )
    assert series.gains() == {1: Spread(1.0, 1.0, 1.0), 2: Spread(2.0, 1.0, 3.0)}
    one, two = series.rows(cores=2)
    assert one[:3] == ["1", "6.00 (4.00 to 9.00)", "1.00 (1.00 to 1.00)"]
    assert two[:3] == ["2", "3.00 (2.00 to 6.00)", "2.00 (1.00 to 3.00)"]
    assert two[5] == "0.50"  # of 1.5 CPU seconds in 3


@pytest.mark.long
def test_a_run_that_did_not_stage_all_is_no_figure() -> None:
    with made_up() as store, pytest.raises(RuntimeError, match="it ended with 66") as caught:
        stage_all(replace(store, keys=[*store.keys, "nothing.tar.gz"]), 2)
    assert "failed" in str(caught.value)


@pytest.mark.gateway
def test_what_is_not_in_the_bucket_is_no_figure() -> None:
    args = argparse.Namespace(server="juicefs", kind="stored", size=1, entries=1, seed=1)
    with catalogue._server(args) as store, pytest.raises(RuntimeError, match=r"holds \[\] bytes"):
        store.forget("dev/nothing/1/")


def test_the_made_up_store_keeps_to_conditions_and_serves_more_than_one_archive() -> None:
    server = serve(Archive("stored", 16))
    client = http.client.HTTPConnection(LOOPBACK, server.server_port, timeout=60)

    def ask(method: str, key: str, body: bytes = b"", **headers: str) -> tuple[int, str | None]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        client.request(method, f"/{BUCKET}/{key}", body, named)
        answer = client.getresponse()
        answer.read()
        return answer.status, answer.headers["ETag"]

    try:
        assert ask("PUT", "journal", b"one", If_None_Match="*")[0] == 200
        assert ask("PUT", "journal", b"two", If_None_Match="*")[0] == 412
        first = ask("HEAD", "journal")[1]
        assert ask("PUT", "journal", b"two", If_Match=str(first))[0] == 200
        assert ask("PUT", "journal", b"three", If_Match=str(first))[0] == 412
        assert ask("PUT", "nothing", b"one", If_Match=str(first))[0] == 412
        assert ask("HEAD", "archive-1.tar.gz") == ask("HEAD", "archive-2.tar.gz")
        assert ask("HEAD", "to/archive-1.tar.gz")[0] == 404
    finally:
        client.close()
        server.shutdown()
        server.server_close()
