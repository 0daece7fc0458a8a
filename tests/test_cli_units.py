"""Sizes and durations as people write them."""

from __future__ import annotations

from argparse import ArgumentTypeError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riva_stream.cli.command import Invocation
from riva_stream.cli.failure import failure_of
from riva_stream.cli.options import parse_duration, parse_size
from riva_stream.report import error_report


@given(st.integers(min_value=0, max_value=1 << 60))
def test_a_number_of_bytes_is_itself(size: int) -> None:
    assert parse_size(str(size)) == size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64MiB", 64 << 20),
        ("64M", 64 << 20),
        ("64m", 64 << 20),
        ("64 MiB", 64 << 20),
        ("1.5GiB", 3 << 29),
        ("1G", 1 << 30),
        ("64MB", 64_000_000),
        ("67108864", 64 << 20),
        ("67108864B", 64 << 20),
        ("2T", 2 << 40),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1e6", "64X", "64iB", "six", "1,5G", "nan"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="64MiB"):
        parse_size(text)


@given(st.integers(0, 400), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_a_duration_comes_back_as_it_was(days: int, hours: int, minutes: int, seconds: int) -> None:
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    assert parse_duration(f"{days}d{hours}h{minutes}m{seconds}s") == total
    assert parse_duration(str(total)) == total


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("5m", 300),
        ("1h", 3600),
        ("1h30m", 5400),
        ("0.5", 0.5),
        ("1.5h", 5400),
        ("2d", 172800),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", " ", "m", "-5", "5x", "5m1h", "inf", "nan"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="5m"):
        parse_duration(text)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("can't start new thread"), OSError(24, "no file")]
)
def test_an_entry_says_what_a_run_says(error: Exception) -> None:
    whole = failure_of(error, Invocation("riva-stream", ("stage",)))
    assert (whole.code, whole.exit_code) == ("out_of_resources", 78)
    entry = error_report(error)
    assert (entry.code, entry.exit_code) == (whole.code, whole.exit_code)
