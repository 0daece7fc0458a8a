"""What other people's keys hold reaches no terminal raw: escape sequences, C1 controls, bells, bidirectional marks."""

from __future__ import annotations

import asyncio
import json

import pytest

from riva_stream import stage
from riva_stream.cli import main
from riva_stream.cli.live import LiveRenderer
from riva_stream.cli.logs import JsonLines, LogLines, Printer
from riva_stream.cli.output import json_line, json_text, visible, visible_json
from riva_stream.cli.overview import LiveOverview
from riva_stream.cli.progress import LineRenderer, Renderer, record_of
from riva_stream.events import Warned
from riva_stream.sizes import MIB
from tests.staging import PREFIX, Place, put_credentials
from tests.support.servers import S3Server

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
