"""Progress and the summary, drawn in process with a clock and streams of the test's own."""

from __future__ import annotations

import io
import json
import logging
import re
from argparse import Namespace
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from riva_stream.cli.live import LiveRenderer
from riva_stream.cli.logs import JsonLines, choose_renderer
from riva_stream.cli.progress import (
    LANES,
    Closed,
    Counters,
    Item,
    LineRenderer,
    Renderer,
    duration_text,
    record_of,
)
from riva_stream.events import (
    MemberFound,
    PhaseChanged,
    RetryScheduled,
    StageFinished,
    Warned,
)
from tests.cli_double import MIB, progress


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def shown(renderer: logging.Formatter, item: Item, at: datetime | None = None) -> str:
    record = record_of(item)
    if at is not None:
        record.created = at.timestamp()
    return renderer.format(record)


RETRY = RetryScheduled(operation="UploadPart", attempt=2, delay=0.5, reason="SlowDown")


class TestCounters:
    @given(st.lists(st.tuples(*[st.integers(0, 100 * MIB)] * 5), min_size=1, max_size=20))
    def test_nothing_ever_goes_backwards(self, seen: list[tuple[int, int, int, int, int]]) -> None:
        counters = Counters()
        before = [0] * (len(LANES) + 1)
        for now, (fetched, hashed, extracted, durable, own) in enumerate(seen):
            counters.update(
                progress(
                    0,
                    fetched=fetched,
                    hashed=hashed,
                    extracted=extracted,
                    durable=durable,
                    durable_source=own,
                ),
                float(now),
            )
            after = [counters.done, *counters.lanes.values()]
            assert all(a >= b for a, b in zip(after, before, strict=True))
            assert 0 <= counters.percent <= 100
            before = after

    def test_only_what_the_store_has_acknowledged_counts_as_done(self) -> None:
        counters = Counters()
        counters.update(progress(50 * MIB, durable_source=10 * MIB), 0.0)
        assert counters.done == 10 * MIB

    def test_a_model_that_is_staged_as_it_is_needs_no_extraction(self) -> None:
        counters = Counters()
        counters.update(progress(50 * MIB, extracted=0), 0.0)
        assert counters.done == 50 * MIB

    def test_rates_and_the_time_left(self) -> None:
        counters = Counters()
        assert counters.left() is None
        counters.update(progress(10 * MIB, elapsed=1.0), 1.0)
        assert counters.rate("fetched") == 10 * MIB
        counters.update(progress(20 * MIB, elapsed=2.0), 2.0)
        assert counters.rate("fetched") == 10 * MIB
        assert counters.rate("durable") == 20 * MIB
        assert counters.left() == pytest.approx(8.0)

    def test_a_rate_is_that_of_late(self) -> None:
        counters = Counters()
        for second in range(200):
            counters.update(progress(min(second, 50) * MIB, elapsed=float(second)), float(second))
        assert counters.rate("fetched") == 0
        assert counters.left() is None
        assert counters.state(200.0, 10.0)[-1] in {
            f"nothing moved for {seconds} s" for seconds in (149, 150, 151)
        }

    def test_an_empty_source(self) -> None:
        counters = Counters()
        counters.update(progress(0, source_size=0, elapsed=0.0), 0.0)
        assert counters.percent == 0
        assert counters.rate("fetched") == 0

    @pytest.mark.parametrize(
        ("seconds", "text"), [(18, "0:18"), (61.4, "1:01"), (3723, "1:02:03"), (59.9, "1:00")]
    )
    def test_durations(self, seconds: float, text: str) -> None:
        assert duration_text(seconds) == text


class TestLines:
    def test_a_line_of_progress(self) -> None:
        clock = Clock()
        renderer = LineRenderer("130-x", clock=clock)
        when = datetime(2025, 9, 23, 12, 31, 7)  # noqa: DTZ001 - a person's time of day
        shown(renderer, progress(20 * MIB, elapsed=2.0))
        clock.now += 1
        line = shown(renderer, progress(41 * MIB, fetched=43 * MIB, elapsed=3.0), when)
        assert line == (
            "12:31:07 130-x  41 %  41.00 MiB/100.00 MiB  fetched 43.00 MiB 14 MiB/s  hashed 41.00 MiB 14 MiB/s  "
            "extracted 41.00 MiB 14 MiB/s  durable 82.00 MiB 27 MiB/s  left 0:04  waiting for: extract\n"
        )

    def test_a_run_that_stands_still_says_so(self) -> None:
        clock = Clock()
        renderer = LineRenderer("130-x", clock=clock)
        shown(renderer, progress(MIB))
        clock.now += 25
        assert "nothing moved for 25 s" in shown(renderer, progress(MIB))

    def test_many_events_of_a_kind_become_few_lines(self) -> None:
        clock = Clock()
        renderer = LineRenderer("130-x", clock=clock)
        seen = [text for _ in range(1000) if (text := shown(renderer, RETRY))]
        assert len(seen) == 20
        clock.now += 5
        assert "and 980 more like it before" in shown(renderer, RETRY)
        assert shown(renderer, Warned(code="c", message="another kind"))

    def test_events_in_words(self) -> None:
        renderer = LineRenderer("130-x", clock=Clock())
        assert "found a/b.riva (5.00 MiB)" in shown(
            renderer, MemberFound(name="a/b.riva", key="k", size=5 * MIB)
        )
        assert "retry 2 of UploadPart in 0.5 s: SlowDown" in shown(renderer, RETRY)
        assert "warning: look" in shown(renderer, Warned(code="c", message="look"))
        assert shown(renderer, PhaseChanged(phase="commit")).endswith("committing\n")
        assert shown(renderer, PhaseChanged(phase="done")) == ""
        assert "already staged after 1.0 s" in shown(
            renderer, StageFinished(run_id="r", outcome="already_staged", seconds=1.0)
        )


class TestJson:
    def test_one_object_per_event(self) -> None:
        renderer = JsonLines("130-x")
        assert json.loads(shown(renderer, RETRY, datetime(2025, 9, 23, 10, 15, tzinfo=UTC))) == {
            "time": "2025-09-23T10:15:00.000+00:00",
            "run_id": "130-x",
            "event": "retry_scheduled",
            "operation": "UploadPart",
            "attempt": 2,
            "delay": 0.5,
            "reason": "SlowDown",
            "request_id": "",
        }

    def test_counters_never_go_backwards(self) -> None:
        renderer = JsonLines("130-x")
        shown(renderer, progress(5))
        line = json.loads(shown(renderer, progress(3, durable=99)))
        assert (line["fetched"], line["durable"], line["event"]) == (5, 99, "progress")

    def test_a_message_is_an_event_too(self) -> None:
        assert json.loads(shown(JsonLines("r"), "two\nlines\n"))["message"] == "two\nlines"


class TestLive:
    @pytest.fixture(autouse=True)
    def _terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.delenv("FORCE_COLOR", raising=False)
        monkeypatch.delenv("COLORTERM", raising=False)

    @pytest.mark.parametrize("width", [40, 59, 60, 100, 200])
    def test_nothing_is_wider_than_the_terminal(self, width: int) -> None:
        clock = Clock()
        renderer = LiveRenderer("130-20250923-101500-0a1b2c3d", clock=clock, width=width)
        shown(renderer, PhaseChanged(phase="stream"))
        text = ""
        for second in range(1, 4):
            clock.now += 1
            text = shown(renderer, progress(second * 10 * MIB, elapsed=float(second)))
        rows = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", row).strip("\r") for row in text.split("\n")]
        assert len(rows) == 6, "a row that wrapped would shift everything at the next drawing"
        assert all(len(row) <= width for row in rows)
        assert "30 %" in rows[0]
        if width >= 100:
            assert "30.0/100.0 MiB 00:07" in rows[0]
            assert "━" in rows[0]
            assert "streaming; waiting for: extract; 130-20250923-101500-0a1b2c3d" in rows[-1]

    def test_warnings_go_above_the_bars(self) -> None:
        renderer = LiveRenderer("130-x", clock=Clock(), width=100)
        shown(renderer, progress(MIB))
        text = shown(renderer, Warned(code="c", message="[bold]look[/bold]"))
        assert text.index("[bold]look[/bold]") < text.index("1 %")

    def test_no_color_has_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def drawn() -> str:
            renderer = LiveRenderer("130-x", clock=Clock(), width=100)
            shown(renderer, progress(MIB))
            return shown(renderer, progress(50 * MIB)) + shown(renderer, Warned(code="c", message="look"))

        colour = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")
        assert colour.search(drawn())
        monkeypatch.setenv("NO_COLOR", "1")
        assert not colour.search(drawn())

    def test_the_cursor_comes_back(self) -> None:
        renderer = LiveRenderer("130-x", clock=Clock(), width=100)
        assert "\x1b[?25l" in shown(renderer, progress(MIB))
        last = shown(renderer, Closed(progress(100 * MIB)))
        assert "\x1b[?25h" in last
        assert "100 %" in last, "the last drawing shows the last counters"
        assert shown(renderer, Closed(None)) == ""

    def test_a_drawing_is_cheap(self) -> None:
        import time  # noqa: PLC0415

        renderer = LiveRenderer("130-x", clock=Clock(), width=100)
        began = time.process_time()
        for number in range(100):
            shown(renderer, progress(number * MIB))
        assert (time.process_time() - began) / 100 < 0.02


class TestChoice:
    @pytest.mark.parametrize(
        ("terminal", "term", "flags", "kind"),
        [
            (True, "xterm", {}, LiveRenderer),
            (True, "xterm", {"log_format": "pretty"}, LiveRenderer),
            (True, "xterm", {"log_format": "plain"}, LineRenderer),
            (True, "dumb", {}, LineRenderer),
            (True, "", {"log_format": "pretty"}, LineRenderer),
            (False, "xterm", {}, LineRenderer),
            (True, "xterm", {"log_format": "json"}, JsonLines),
            (True, "xterm", {"quiet": True}, Renderer),
        ],
    )
    def test_it_fits_the_terminal_and_the_flags(
        self, terminal: bool, term: str, flags: dict[str, object], kind: type, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("os.isatty", lambda _: terminal)
        monkeypatch.setenv("TERM", term)
        args = Namespace(**{"quiet": False, "log_format": "auto"} | flags)
        assert type(choose_renderer(args, "130-x")) is kind


def test_rich_draws_to_no_stream_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    renderer = LiveRenderer("130-x", width=80)
    shown(renderer, progress(MIB))
    shown(renderer, replace(RETRY, attempt=3))
    shown(renderer, Closed(None))
    assert capfd.readouterr() == ("", "")
    assert isinstance(renderer._console, Console)
    assert isinstance(renderer._console.file, io.StringIO)


@pytest.mark.parametrize(
    "renderer", [Renderer(), LineRenderer("130-x"), LiveRenderer("130-x", width=200), JsonLines("130-x")]
)
def test_every_renderer_blacks_out_secrets(
    renderer: logging.Formatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-long-enough-secret")
    for item in ("it is a-long-enough-secret\n", replace(RETRY, reason="not a-long-enough-secret")):
        text = shown(renderer, item)
        assert "a-long-enough-secret" not in text
        assert "***" in text or text == ""
