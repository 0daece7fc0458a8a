"""The benchmark harness: that it measures what it says and believes nobody. Never how fast anything is."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import peers as peers_module
from benchmarks.__main__ import main
from benchmarks.compare import compare
from benchmarks.measure import Usage, measure
from benchmarks.peers import Command, Job, Peer
from benchmarks.reference import costliest_imports
from benchmarks.results import Spread, figures_of, table
from benchmarks.stand import Stand
from benchmarks.synthetic import BUCKET, KEY, Archive, serve
from benchmarks.tools import OVERRIDES

MIB = 1 << 20
PYTHON = sys.executable
SPIN = "import time\nwhile time.process_time() < {}: pass"
PATH = {"PATH": "/usr/bin:/bin"}


def test_the_whole_tree_is_measured_even_what_the_shell_does_not_reap(tmp_path: Path) -> None:
    script = (
        f"tee >('{PYTHON}' -c '{SPIN.format(0.4)}') </dev/null >/dev/null; '{PYTHON}' -c '{SPIN.format(0.3)}'"
    )
    usage = measure(["/bin/bash", "-c", script], folder=tmp_path, env=PATH)
    assert usage.exit_code == 0
    assert 0.7 <= usage.cpu < 1.5
    assert usage.wall >= 0.35  # the substitution had 0.4 s of work, and the wall ends with the last process


def test_peak_memory_is_that_of_the_largest_and_of_all_together(tmp_path: Path) -> None:
    hold = "import time; held = bytearray(60 << 20); time.sleep(0.8)"
    script = f"'{PYTHON}' -c '{hold}' & '{PYTHON}' -c '{hold}' & wait"
    usage = measure(["/bin/bash", "-c", script], folder=tmp_path, env=PATH)
    assert 60 * MIB < usage.peak_rss < 100 * MIB
    assert 120 * MIB < usage.peak_rss_sum < 200 * MIB


def test_exit_code_and_output_are_told(tmp_path: Path) -> None:
    usage = measure(["/bin/bash", "-c", "echo out; echo err >&2; exit 7"], folder=tmp_path, env=PATH)
    assert (usage.exit_code, usage.stdout, usage.stderr) == (7, "out\n", "err\n")


def test_a_command_that_hangs_is_killed_with_all_it_started(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        measure(["/bin/bash", "-c", "sleep 60 & wait"], folder=tmp_path, env=PATH, timeout=0.3)
    assert time.monotonic() - began < 30


@pytest.mark.long
@pytest.mark.gateway
def test_a_quick_comparison_checks_and_reports_every_peer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that need nothing but bash and Python: what peers are made of is not installed for a test."""
    monkeypatch.setitem(OVERRIDES, "peers-python", PYTHON)
    arguments = [
        "--quick",
        "--kinds=weights1,stored",
        "--peers=riva,riva-check,boto3",
        f"--out={tmp_path}",
        "--seed=1",
    ]
    assert main(arguments) == 0
    assert "riva against boto3" in capsys.readouterr().out
    document = json.loads((tmp_path / "compare.json").read_text())
    assert document["seed"] == 1
    assert document["machine"]["cores"] >= 1
    assert [archive["kind"] for archive in document["archives"]] == ["weights1", "stored"]
    for archive in document["archives"]:
        assert archive["kernels"]["sum_cpu_seconds"] > 0
        assert archive["kernels"]["start_up_cpu_seconds"] > 0
        assert archive["lanes"][-1]["fetched"] == archive["archive_bytes"]
        moved = archive["archive_bytes"] + 24 * MIB
        for peer in archive["peers"]:
            assert peer["failure"] is None, peer
            assert peer["figures"]["wall_seconds"]["median"] > 0
            sums = peer["traffic"].values()
            assert sum(one["sent"] for one in sums) >= moved
            assert sum(one["received"] for one in sums) >= archive["archive_bytes"]
    assert document["archives"][0]["peers"][1]["upload_check"] != "none"


WRONG = {
    "an exit code": ("exit 3", "it ended with 3"),
    "a digest": ("printf '%064d  %s\\n' 0 {archive}", "its SHA-256 of"),
    "a missing object": ("printf '{sha256}  {archive}\\n'", "no bytes in the bucket"),
}


@pytest.mark.parametrize(("script", "complaint"), WRONG.values(), ids=WRONG)
def test_a_peer_that_is_wrong_is_failed_and_never_fast(script: str, complaint: str) -> None:
    def make(job: Job) -> Command:
        facts = {"archive": job.source.name, "sha256": job.source.archive.sha256}
        return Command(["/bin/bash", "-c", script.format(**facts)])

    liar = Peer("liar", "a liar", make, peers_module._printed, dict)
    with Stand("moto", seed=1) as stand:
        (runs,) = compare(stand, stand.add("stored", 1), [liar], repeats=2)
    assert complaint in runs.failure
    assert runs.usages == []


def usage(wall: float, **figures: Any) -> Usage:
    usual: dict[str, Any] = {
        "exit_code": 0,
        "cpu_user": 1.0,
        "cpu_system": 0.5,
        "peak_rss": MIB,
        "stdout": "",
    }
    usual |= {"peak_rss_sum": 2 * MIB, "server_cpu": 0.5, "foreign_cpu": 0.1, "stderr": ""}
    return Usage(wall=wall, **(usual | figures))


def test_figures_are_medians_with_least_and_most() -> None:
    figures = figures_of([usage(4.0), usage(1.0), usage(2.0)], 512 * MIB, cores=2)
    assert figures["wall_seconds"] == Spread(2.0, 1.0, 4.0)
    assert figures["mib_per_second"] == Spread(256.0, 128.0, 512.0)
    assert figures["client_cpu_seconds_per_gib"].median == 3.0
    assert figures["cores_busy"].median == 0.5


def test_a_table_keeps_its_columns() -> None:
    assert table(("name", "figure"), [["a", "1.5"], ["longer", "FAILED: why"]])[1].endswith("   1.5")
    assert table(("a", "b", "c"), [["x", "FAILED"]])[1].startswith("  x")


@pytest.mark.parametrize("kind", ["weights1", "stored"])
def test_the_made_up_archive_is_a_real_one_in_any_range(kind: str) -> None:
    archive = Archive(kind, 32)
    whole = b"".join(archive.read(0, archive.size))
    assert len(whole) == archive.size
    for first, size in [(0, 10), (7, 5 * MIB), (archive.size - 11, 11), (16 * MIB - 3, 2 * MIB)]:
        assert b"".join(archive.read(first, size)) == whole[first : first + size]
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(whole))) as tar:
        (member,) = tar.getmembers()
        content = tar.extractfile(member)
        assert content is not None
        assert member.size == len(content.read()) == 32 * MIB


def test_the_made_up_store_serves_a_staging(tmp_path: Path) -> None:
    archive = Archive("stored", 16)
    server = serve(archive)
    environment = PATH | {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "made-up",
        "AWS_SECRET_ACCESS_KEY": "made-up",
        "HOME": str(tmp_path),
    }
    argv = [
        PYTHON,
        "-m",
        "riva_stream",
        "stage",
        f"--source=s3://{BUCKET}/{KEY}",
        f"--bucket={BUCKET}",
        "--json",
    ]
    argv += [
        "--env=to",
        "--model-name=memory",
        "--model-version=1",
        "--upload-check=none",
        "--source-copy=send",
    ]
    try:
        found = measure(argv, folder=tmp_path, env=environment)
    finally:
        server.shutdown()
        server.server_close()
    assert found.exit_code == 0, found.stderr
    source = json.loads(found.stdout)["artifact"]["source"]
    assert source["sha256"] == hashlib.sha256(b"".join(archive.read(0, archive.size))).hexdigest()
    assert server.objects[f"{BUCKET}/to/memory/1/models/model.riva"].size == 16 * MIB


@pytest.mark.long
def test_quick_memory_and_reference_runs_write_their_figures(tmp_path: Path) -> None:
    assert main(["memory", "--quick", f"--out={tmp_path}"]) in {
        0,
        1,
    }  # 1: above the promise, which is not for here
    runs = json.loads((tmp_path / "memory.json").read_text())["runs"]
    assert {run["kind"] for run in runs} == {"weights1", "stored"}
    assert all(run["peak_rss_mib"] > 20 for run in runs)
    assert main(["reference", "--quick", "--server=moto", f"--out={tmp_path}"]) == 0
    assert json.loads((tmp_path / "reference.json").read_text())["wall_seconds"]["median"] > 0


def test_the_costliest_imports_come_first() -> None:
    told = (
        "import time: self [us] | cumulative | imported package\nimport time:       100 |        250 | json\n"
    )
    told += "import time:       900 |        900 |   json.decoder\n"
    assert [one["module"] for one in costliest_imports(told)] == ["json.decoder", "json"]
