"""A command line that is wrong: it may hold a secret in the wrong place, and a program may be listening."""

from __future__ import annotations

import json

import pytest

from riva_stream.cli import main

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
OF_NOBODY = "zQ9bTtT7example/of+a/key/that/no/variable+has"
PASSWORD = "correct-horse-battery"
SIGNED = "https://b.s3.amazonaws.com/a.tar.gz?X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2Fx&X-Amz-Signature=deadbeefcafe"


@pytest.mark.parametrize("how", [(), ("--json",), ("--log-format", "json"), ("--json", "--log-format=json")])
@pytest.mark.parametrize(
    "words",
    [
        ("stage", SIGNED),
        ("stage", "--aws-secret-access-key", SECRET),
        ("stage", "--aws-secret-access-key", OF_NOBODY),
        ("stage", f"--aws-secret-access-key={OF_NOBODY}"),
        ("verify", "--memory", SECRET),
        ("gc", "s3://deploy/", "--older-than", PASSWORD),
        ("docs", SIGNED),
        ("docs", PASSWORD),
        ("schema", SECRET),
    ],
    ids=lambda words: " ".join(words)[:30],
)
def test_a_usage_error_tells_no_secret(
    words: tuple[str, ...],
    how: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("RIVA_DB_PASSWORD", PASSWORD)
    assert main([*words, *how]) == 2
    told = capfd.readouterr()
    for secret in (SECRET, OF_NOBODY, PASSWORD, "deadbeefcafe", "AKIAIOSFODNN7EXAMPLE"):
        assert secret not in told.out + told.err
    assert "***" in told.err or words[0] == "docs"  # where there is no such flag, that is all it says


@pytest.mark.parametrize("how", [("--log-format", "json"), ("--log-format=plain", "--log-format=json")])
@pytest.mark.parametrize("words", [("stage", "--memory", "x"), ("verify", "--nonsense"), ("stage-all",)])
def test_a_usage_error_is_a_line_of_json_where_these_are_asked_for(
    words: tuple[str, ...], how: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, *how]) == 2
    told = capfd.readouterr()
    (line,) = (json.loads(text) for text in told.err.splitlines())
    assert (line["event"], line["run_id"], line["error"]["type"]) == ("failed", None, "UsageError")
    assert (line["error"]["code"], line["error"]["exit_code"], told.out) == ("usage", 2, "")


def test_a_usage_error_is_text_where_other_lines_are_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["stage", "--log-format=json", "--log-format", "plain", "--memory", "x"]) == 2
    assert "argument --memory: 'x' is not a size" in capfd.readouterr().err
