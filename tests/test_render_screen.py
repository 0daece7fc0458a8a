"""What is written when, and the summary of a run."""

from __future__ import annotations

import logging
import re
import threading

import pytest

from riva_stream.cli.commands.stage import summary_text
from riva_stream.cli.logs import Outlet, Printer, StandardError, observe
from riva_stream.cli.progress import Closed, Renderer
from riva_stream.events import (
    Event,
    Progress,
    RetryScheduled,
)
from tests.cli_double import DIGEST, plan, progress, report

RETRY = RetryScheduled(operation="UploadPart", attempt=2, delay=0.5, reason="SlowDown")


class Recorder(Renderer):
    """A renderer that says what it was asked, and a place to write to that can be blocked."""

    interval = 0.01

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []
        self.open = threading.Event()
        self.open.set()
        self.drawn = threading.Event()

    def format(self, record: logging.LogRecord) -> str:
        match record.item:  # type: ignore[attr-defined]
            case Progress() as latest:
                self.drawn.set()
                return f"at {latest.fetched}\n"
            case Closed():
                return "closed\n"
            case str():
                return super().format(record)
            case event:
                return f"{type(event).__name__}\n"

    def write(self, text: str) -> None:
        self.open.wait(20)
        self.written.append(text)

    @property
    def text(self) -> str:
        return "".join(self.written)


class Screen(Outlet):
    """An outlet as a run uses it."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(Printer(recorder, recorder.write))
        self.logger = logging.Logger("test")  # noqa: LOG001 - nothing global
        self.logger.addHandler(self)

    def observe(self, item: Event | str) -> None:
        observe(self.logger, item)


class TestScreen:
    def test_everything_is_written_in_order_and_the_last_word_at_the_end(self) -> None:
        recorder = Recorder()
        screen = Screen(recorder)
        screen.observe(RETRY)
        screen.observe("hello")
        assert screen.end("the end\n")
        assert recorder.text == "RetryScheduled\nhello\nclosed\nthe end\n"

    def test_only_the_newest_counters_are_drawn(self) -> None:
        recorder = Recorder()
        recorder.open.clear()
        screen = Screen(recorder)
        screen.observe("blocks")
        for number in range(10_000):
            screen.observe(progress(number))
        recorder.drawn.clear()  # an older one may stand at the place that is blocked
        recorder.open.set()
        assert recorder.drawn.wait(10)
        assert screen.end()
        assert "at 9999\n" in recorder.text
        assert recorder.text.count("at ") < 200

    def test_a_blocked_terminal_blocks_nobody(self) -> None:
        recorder = Recorder()
        recorder.open.clear()
        screen = Screen(recorder)
        screen.observe("first")
        for _ in range(5000):
            screen.observe(RETRY)
        screen.observe("an error")
        assert not screen.end("the end\n", timeout=0.1)
        recorder.open.set()
        assert screen.end("the end\n")
        assert recorder.text.count("RetryScheduled") <= 2001
        assert "messages were dropped" in recorder.text
        assert "an error\n" in recorder.text
        assert recorder.text.endswith("the end\n")

    def test_a_drawing_that_fails_takes_nothing_with_it(self) -> None:
        class Broken(Recorder):
            def format(self, record: logging.LogRecord) -> str:
                if isinstance(record.item, Event):  # type: ignore[attr-defined]
                    raise ZeroDivisionError
                return super().format(record)

        recorder = Broken()
        screen = Screen(recorder)
        screen.observe(RETRY)
        assert screen.end("the end\n")
        assert "could not be shown" in recorder.text
        assert recorder.text.endswith("the end\n")

    def test_what_libraries_print_goes_the_same_way(self) -> None:
        recorder = Recorder()
        screen = Screen(recorder)
        print("from a library", file=StandardError(screen.observe))
        assert screen.end()
        assert "from a library" in recorder.text

    def test_secrets_of_the_environment_are_blacked_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-long-enough-secret")
        recorder = Recorder()
        screen = Screen(recorder)
        screen.observe("it is a-long-enough-secret; http://u:p4ss@host/?X-Amz-Signature=abc&x=1")
        screen.end()
        assert "it is ***; http://***@host/?X-Amz-Signature=***&x=1\n" in recorder.text


class TestSummary:
    def test_a_full_staging(self) -> None:
        text = summary_text(report())
        assert text.startswith("Staged (in full)\n\ns3://staging-bucket/prod/parakeet-rnnt/v1/\n├── source/")
        assert f"├── models/a.riva              5.00 MiB  sha256 {DIGEST}\n" in text
        assert "└── artifact.json" in text
        assert "[x] each part checked by the store: crc64nvme" in text
        assert "[ ] no expected SHA-256 was given" in text
        assert "Took 2.0 s, 123 MiB/s of the archive; run 130-test" in text
        assert text.endswith("Next: riva-131: convert models\n")
        assert "CPU" not in text

    def test_a_low_rate_has_a_smaller_unit(self) -> None:
        full = report()
        assert full.artifact is not None
        slow = full.artifact.build_info.model_copy(update={"mib_per_second": 0.25})
        artifact = full.artifact.model_copy(update={"build_info": slow})
        text = summary_text(full.model_copy(update={"artifact": artifact}))
        assert "Took 2.0 s, 256.00 KiB/s of the archive; run 130-test" in text

    def test_debug_adds_the_lanes(self) -> None:
        text = summary_text(report(), debug=True)
        assert "CPU 1.50 s, 6.25 per GiB of the source" in text
        assert re.search(r"extract +4\.00 MiB +2\.00 +1\.25 +0\.50\n", text)

    def test_what_was_not_checked_is_not_claimed(self) -> None:
        whole = report()
        assert whole.artifact is not None
        nothing = whole.artifact.validation.model_copy(
            update=dict.fromkeys(("source_pinned", "archive_complete", "objects_verified"), False)
            | {"source_integrity": "none", "upload_check": "none", "checksums_computed": False}
        )
        artifact = whole.artifact.model_copy(update={"validation": nothing})
        text = summary_text(whole.model_copy(update={"artifact": artifact}))
        assert "[x]" not in text
        assert "[ ] nothing vouches for the source's bytes" in text
        assert "[ ] the store did not check the parts" in text

    def test_already_staged(self) -> None:
        text = summary_text(report(outcome="already_staged"))
        assert text.startswith("Already staged")
        assert "MiB/s" not in text
        assert "Checked at staging time; objects re-checked now" in text

    def test_a_dry_run(self) -> None:
        text = summary_text(report(outcome="planned", artifact=None, marker=None, objects=[], plan=plan()))
        assert text.startswith("Dry run, nothing was written (in full)\nA run would stage\n")
        assert "source/p.tar.gz  13 parts of 8.00 MiB" in text
        assert "Memory  at most 256.00 MiB: 64.00 MiB for reading" in text
        assert "Tried   source: HeadObject" in text

    def test_without_box_characters(self) -> None:
        assert summary_text(report(), fancy=False).isascii()
