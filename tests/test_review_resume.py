"""What a strict reader found in catalogues: each of these fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from riva_stream import StageRequest, TransientError, stage_all
from riva_stream.catalogue import CatalogueError, load_catalogue
from riva_stream.catalogue.local import stage_in_child
from riva_stream.errors import AccessDeniedError, IntegrityError
from tests.catalogue_double import attempts
from tests.test_checkpoint import request
from tests.test_stage_all import Engine, catalogue, entry
from tests.test_stage_all_command import command, lines, written

# ── catalogues ───────────────────────────────────────────────────────────────────────────────────────────────────────


def file(folder: Path, text: str, name: str = "c.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


ENTRY = """[[staging]]
source = "s3://models/a.tar.gz"
bucket = "deployments"
env = "dev"
region = "us-1"
model_name = "a"
model_version = "v1"
"""


async def test_a_damaged_place_holds_up_no_other() -> None:
    """65 is also what is staged and damaged at *one* place; the others are told the same, and never tried."""

    class Damaged(Engine):
        async def stage(self, request: StageRequest, observer: Any) -> Any:
            if request.bucket == "deployments":
                self.given.append(request)
                raise IntegrityError(
                    "models/a.riva is gone since it was staged", hint="--force stages it anew"
                )
            return await super().stage(request, observer)

    engine = Damaged()
    report = await stage_all(catalogue(entry("a", replicate_to=["s3://in-europe"])), engine=engine)
    assert [request.bucket for request in engine.given] == ["deployments", "in-europe"]
    assert [(e.outcome, e.exit_code) for e in report.entries] == [("failed", 65), ("staged", 0)]


async def test_what_was_staged_is_told_so_when_a_replica_is_tried_again() -> None:
    """The first place is handed over once more for its replica, and only the second answer is told."""

    class Remembers(Engine):
        async def stage(self, request: StageRequest, observer: Any) -> Any:
            report = await super().stage(request, observer)
            again = [one.destination for one in self.given].count(request.destination) > 1
            return report.model_copy(update={"outcome": "already_staged"}) if again else report

    engine = Remembers()
    engine.replicas = {"in-europe": [TransientError("the connection broke"), None]}
    report = await stage_all(catalogue(entry("a", replicate_to=["s3://in-europe"])), engine=engine)
    assert [e.outcome for e in report.entries] == ["staged", "staged"]


async def test_what_was_staged_did_not_fail_when_its_replica_is_tried_again() -> None:
    class BreaksTheSecondTime(Engine):
        async def stage(self, request: StageRequest, observer: Any) -> Any:
            report = await super().stage(request, observer)
            if len(self.given) == 2:
                raise TransientError("the connection broke")
            return report

    engine = BreaksTheSecondTime()
    engine.replicas = {"in-europe": [TransientError("the connection broke")]}
    report = await stage_all(catalogue(entry("a", replicate_to=["s3://in-europe"])), engine=engine)
    assert (report.entries[0].outcome, report.entries[0].exit_code) == ("staged", 0)


async def test_what_was_forced_is_not_forced_once_more_for_a_replica() -> None:
    """With ``force`` the committed staging is deleted and made anew, because a replica of it broke with 75."""
    engine = Engine()
    engine.replicas = {"in-europe": [TransientError("the connection broke"), None]}
    forced = catalogue(entry("a", force=True, replicate_to=["s3://in-europe"]))
    await stage_all(forced, engine=engine)
    assert [request.bucket for request in engine.given if request.force].count("deployments") == 1


def test_json_has_a_line_for_what_was_stopped_and_for_what_never_began(tmp_path: Path) -> None:
    """docs/json.md: ``stopped`` and ``not_started`` are outcomes of lines; only what ends by itself has one."""
    done = subprocess.run(
        **command(
            written(tmp_path, ["hangs", "archive", "a", "b"]), "--fail-fast", "--at-once", "2", "--json"
        ),
        capture_output=True,
        timeout=60,
        check=False,
    )
    *entries, last = lines(done.stdout)
    told = {one["destination"].split("/")[4]: one["outcome"] for one in entries}
    assert last["entries"] == 4
    assert told == {"hangs": "stopped", "archive": "failed", "a": "not_started", "b": "not_started"}


async def test_what_could_not_be_listed_is_told_with_only_too() -> None:
    """Two entries fit ``--only``; the archives of one cannot be listed: that is no success."""

    async def denied(request: StageRequest) -> list[str]:
        raise AccessDeniedError("s3:ListBucket is missing")

    both = catalogue(
        entry("a", env="prod"),
        entry("b", env="prod", source="s3://models/b/", pattern="{model_name}_{model_version}.tar.gz"),
    )
    report = await stage_all(both, engine=Engine(), only="prod/*", list_archives=denied)
    assert report.exit_code == 77


async def test_what_another_entry_stages_is_not_passed_over() -> None:
    """The summary heads that list with "Not staged"."""

    async def two(request: StageRequest) -> list[str]:
        return ["m/a-v1.tar.gz", "m/b_v1.tar.gz"]

    fields = {"source": "s3://models/m/", "env": "prod"}
    both = catalogue(
        entry("a", **fields, pattern="{model_name}-{model_version}.tar.gz"),
        entry("b", **fields, pattern="{model_name}_{model_version}.tar.gz"),
    )
    report = await stage_all(both, engine=Engine(), list_archives=two)
    assert [e.source for e in report.entries] == ["s3://models/m/a-v1.tar.gz", "s3://models/m/b_v1.tar.gz"]
    assert report.passed_over == []


async def test_archives_are_looked_through_once_each() -> None:
    """``k not in fitting`` goes through a list for each key: 9 s of the event loop for the 20,000 that a glob may have,
    and in each environment again."""
    compared = [0]

    class Key(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            compared[0] += 1
            return str.__eq__(self, other)  # type: ignore[return-value]

    async def many(request: StageRequest) -> list[str]:
        return [Key(f"c/{n:06d}-deployable_v1.tar.gz") for n in range(400)]

    one = entry("x", source="s3://models/c/", pattern="{model_name}-deployable_{model_version}.tar.gz")
    glob = catalogue({name: value for name, value in one.items() if not name.startswith("model_")})
    await stage_all(glob, engine=Engine(), only="*/000001/*", list_archives=many)
    assert compared[0] < 40 * 400


async def test_a_child_that_died_is_not_waited_for_because_of_what_it_has_started(tmp_path: Path) -> None:
    """A credential helper of a child that was killed holds its pipes: their end is waited for, not the child's."""
    program = ("sh", "-c", "sleep 20 & kill -9 $$")
    with anyio.fail_after(5), pytest.raises(TransientError):
        await stage_in_child(request(model_name="a"), lambda event: None, state_dir=tmp_path, program=program)


@pytest.mark.parametrize(
    ("printed", "code"),
    [("null", 0), ("5", 0), ('{"error": {}}', 3), ('{"error": null}', 3), ("", -36)],
    ids=["null", "a number", "an error without anything", "no error", "a real-time signal"],
)
async def test_a_child_that_says_nothing_that_can_be_read_is_one_that_died(
    printed: str, code: int, tmp_path: Path
) -> None:
    """docs: exit 75, tried again once. TypeError, KeyError and ValueError are told as a bug of ours, exit 1."""
    ending = f"os.kill(os.getpid(), {-code})" if code < 0 else f"sys.exit({code})"
    program = (sys.executable, "-c", f"import os, sys; print({printed!r}); sys.stdout.flush(); {ending}")
    wanted = request(model_name="a")
    with pytest.raises(TransientError):
        await stage_in_child(wanted, lambda event: None, state_dir=tmp_path, program=program)


async def test_every_child_has_a_state_directory_of_its_own(tmp_path: Path) -> None:
    """docs/catalogue.md. The same path at another endpoint, and a bintarball reference, are other stagings."""
    program = (sys.executable, "-c", "import sys; print(sys.argv[-1], file=open(sys.argv[1], 'a'))")
    told = tmp_path / "told"
    bintarball = {"bintarball_reference": True, "server_path": "images/server.tar.gz"}
    for fields in ({}, {"endpoint_url": "https://elsewhere.example"}, bintarball):
        with suppress(TransientError):
            await stage_in_child(
                request(**fields), lambda event: None, state_dir=tmp_path, program=(*program, str(told))
            )
    assert len(set(told.read_text().splitlines())) == 3


@pytest.mark.parametrize("words", ["retention_days = true", "connections = true", 'force = "yes"'])
def test_a_value_of_another_kind_is_refused_as_the_schema_has_it(words: str, tmp_path: Path) -> None:
    """``true`` is one day of retention, and one byte of memory; ``schema catalogue`` allows none of these."""
    with pytest.raises(CatalogueError):
        load_catalogue(file(tmp_path, ENTRY + words + "\n"))


def test_words_that_no_argument_can_hold_are_refused_with_their_line(tmp_path: Path) -> None:
    """The local engine cannot start a child with a NUL in an argument: ValueError, exit 1, a "bug"."""
    path = file(tmp_path, ENTRY + 'description = "a\\u0000b"\n')
    with pytest.raises(CatalogueError) as refused:
        load_catalogue(path)
    assert [problem.line for problem in refused.value.problems] == [8]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("[[staging]]\nretries = " + "1" * 5000, "c.toml"),
        ('{"staging": [{"retries": ' + "1" * 5000 + "}]}", "c.json"),
        ("a = " + "[" * 3000 + "]" * 3000, "c.toml"),
        ("[" * 100_000, "c.json"),
    ],
    ids=["a long number", "a long number in JSON", "deep", "deep JSON"],
)
def test_a_file_that_no_parser_takes_is_a_wrong_catalogue(text: str, name: str, tmp_path: Path) -> None:
    """ValueError and RecursionError are neither of the errors that are caught: exit 1, a "bug"."""
    with pytest.raises(CatalogueError):
        load_catalogue(file(tmp_path, text, name))


def test_a_field_that_a_json_catalogue_has_twice_is_refused(tmp_path: Path) -> None:
    """TOML forbids it; of JSON the last one counts, and the entries of the first ``staging`` are dropped in silence."""
    fields = {"bucket": "b-b", "env": "dev", "region": "us-1", "model_name": "a", "model_version": "v1"}
    first, second = (json.dumps([{"source": f"s3://models/{name}.tar.gz", **fields}]) for name in "ab")
    with pytest.raises(CatalogueError):
        load_catalogue(file(tmp_path, f'{{"staging": {first}, "staging": {second}}}', "c.json"))


def test_a_key_may_be_written_as_toml_allows(tmp_path: Path) -> None:
    r"""``\UXXXXXXXX`` in a quoted key is good TOML, and no JSON, by whose rules it is read for the lines."""
    text = ENTRY.replace("env =", '"\\U00000065nv" =')
    assert load_catalogue(file(tmp_path, text)).catalogue.staging[0].env == ("dev",)


@pytest.mark.parametrize("other", ["https://STORE.example", "https://store.example:443"])
def test_one_store_in_two_spellings_is_one_place(other: str, tmp_path: Path) -> None:
    text = ENTRY + 'endpoint_url = "https://store.example"\n' + ENTRY.replace("a.tar", "b.tar")
    with pytest.raises(CatalogueError):
        load_catalogue(file(tmp_path, text + f'endpoint_url = "{other}"\n'))


def test_a_signal_reaches_the_children_while_nobody_reads_the_output(tmp_path: Path) -> None:
    """Lines of JSON are written from within the event loop, which then waits for the reader, and hears no signal."""
    import fcntl  # noqa: PLC0415

    path = written(tmp_path, ["hangs", *(f"m{n}" for n in range(14))])
    reading, writing = os.pipe()
    fcntl.fcntl(writing, 1031, 4096)  # F_SETPIPE_SZ
    options = command(path, "--at-once", "4", "--json")
    process = subprocess.Popen(**options, stdout=writing, stderr=subprocess.DEVNULL)
    os.close(writing)
    pids: list[int] = []
    try:
        deadline = time.monotonic() + 40
        before = -1
        while time.monotonic() < deadline:  # until no more of them begin
            begun = sum(len(attempts(tmp_path, f"m{n}")) for n in range(14))
            if begun == before and begun:
                break
            before = begun
            time.sleep(4)
        pids = attempts(tmp_path, "hangs")
        assert pids
        process.send_signal(signal.SIGTERM)
        time.sleep(6)
        assert (tmp_path / "hangs.stopped").exists()
    finally:
        process.kill()
        process.wait(20)
        os.close(reading)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
