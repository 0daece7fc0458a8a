"""Whose process a journal names, and when another one may take it for dead."""

from __future__ import annotations

import subprocess
import sys

import pytest

from riva_stream.lease.journal import Process


@pytest.fixture
def gone() -> Process:
    """A process of this very host and pid namespace that has ended."""
    code = "from riva_stream.lease.journal import Process; print(Process.this().model_dump_json())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return Process.model_validate_json(done.stdout)


def test_a_process_is_dead_only_as_seen_from_its_own_pid_namespace(gone: Process) -> None:
    here = Process.this()
    assert gone.is_dead(here)
    kernel, _, namespace = here.boot.rpartition(" ")
    assert namespace.startswith("pid:[")
    beside = here.model_copy(
        update={"boot": f"{kernel} pid:[1]"}
    )  # another container, with the same host name
    assert not gone.is_dead(beside)


@pytest.mark.parametrize("changed", [{"host": "another"}, {"boot": "another pid:[1]"}, {"boot": ""}])
def test_of_another_host_nothing_is_known(changed: dict[str, str], gone: Process) -> None:
    assert not gone.is_dead(Process.this().model_copy(update=changed))
    assert not gone.model_copy(update=changed).is_dead(Process.this())


def test_a_live_process_is_not_dead_and_a_pid_that_is_used_again_is_another() -> None:
    here = Process.this()
    assert not here.is_dead(here)
    assert here.model_copy(update={"started": "1"}).is_dead(here)


def test_the_host_may_be_named(gone: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIVA_STREAM_HOST_ID", "node-7")
    assert Process.this().host == "node-7"
    assert not gone.is_dead(Process.this())
