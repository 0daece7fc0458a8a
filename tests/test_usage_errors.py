"""A command line that is wrong: it may hold a secret in the wrong place, and a program may be listening."""

from __future__ import annotations

import json

import pytest

from riva_stream.cli import main
from riva_stream.cli.app import build_parser
from riva_stream.cli.commands import COMMANDS

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


@pytest.mark.parametrize("command", ["stage", "check", "promote"])
def test_all_malformed_values_of_flags_are_said_at_once(
    command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["--memory", "banana", "--lease", "x", "--timeout", "-5", "--retries=y", "--sse", "rot13"]
    assert main([command, *words, "--json"]) == 2
    told = capfd.readouterr()
    message = json.loads(told.out)["error"]["message"]
    flags = [line.split()[1] for line in message.splitlines()]
    assert flags == ["--memory:", "--lease:", "--timeout:", "--retries:", "--sse:"]
    assert all(flag in told.err for flag in flags)


def test_a_usage_error_is_text_where_other_lines_are_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["stage", "--log-format=json", "--log-format", "plain", "--memory", "x"]) == 2
    assert "argument --memory: 'x' is not a size" in capfd.readouterr().err


@pytest.mark.parametrize("empty", ["", " "])
@pytest.mark.parametrize("command", COMMANDS)
def test_an_empty_value_of_any_flag_counts_as_not_given(command: str, empty: str) -> None:
    parser = build_parser("riva-stream")
    actions = parser.commands[command]._actions
    needed = [
        str(next(iter(action.choices or ()), "s3://b"))
        for action in actions
        if not action.option_strings and action.required
    ]
    without, _ = parser.parse_known_args([command, *needed])
    flags = [
        flag
        for action in actions
        if action.nargs is None
        for flag in action.option_strings
        if flag[:2] == "--"
    ]
    assert flags or command in {"schema", "docs", "completion"}
    for flag in flags:
        for words in ([flag, empty], [f"{flag}={empty}"]):
            found, unknown = parser.parse_known_args([command, *needed, *words])
            assert (vars(found), unknown) == (vars(without), []), flag


def test_an_empty_value_replaces_none_that_was_given() -> None:
    words = ["stage", "--memory", "1GiB", "--include", "a", "--memory", "", "--include", "", "--include", "b"]
    found, _ = build_parser("riva-stream").parse_known_args(words)
    assert (found.memory, found.include) == (1 << 30, ["a", "b"])


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "completion"])
def test_every_command_with_a_result_takes_json(command: str) -> None:
    assert "--json" in build_parser("riva-stream").commands[command].flags()


def test_a_schema_is_the_same_document_with_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "artifact"]) == 0
    plain = capfd.readouterr().out
    assert main(["schema", "artifact", "--json"]) == 0
    assert capfd.readouterr().out == plain


def test_malformed_values_are_reported_beside_what_else_is_wrong(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["gc", "--older-than", "banana"]) == 2
    told = capfd.readouterr().err
    assert "--older-than" in told
    assert "required" in told
