"""No error leaves the user alone: each one that can be raised says what to do next."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from botocore.exceptions import HTTPClientError

import riva_stream
from riva_stream import errors
from riva_stream.cli.app import build_parser
from riva_stream.cli.command import Invocation
from riva_stream.cli.commands import COMMANDS
from riva_stream.cli.failure import failure_of
from riva_stream.config import StageRequest, Stores
from riva_stream.naming import flags_named, option
from tests.cli_processes import run
from tests.support.forked import is_measured

SOURCE = Path(riva_stream.__file__).parent
KINDS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.RivaStreamError)
}
AGAIN = ("stage", "--source", "s3://m/a.tar.gz")


def raised() -> list[tuple[str, str, ast.Call]]:
    """Every place in the package that makes an error: where, which, how."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS:
                found.append((str(path.relative_to(SOURCE)), node.func.id, node))  # noqa: PERF401 - reads better
    return found


def hint_of(call: ast.Call) -> ast.expr | None:
    return next((word.value for word in call.keywords if word.arg == "hint"), None)


def test_every_error_has_a_hint_where_it_is_made() -> None:
    """But for those of an archive, whose kind of fault has one, and those that get the command: the tests below."""
    assert len(raised()) > 100
    without = [
        f"{path}:{call.lineno} {kind}"
        for path, kind, call in raised()
        if hint_of(call) is None
        and not issubclass(KINDS[kind], errors.TransientError)
        and not (kind == "ArchiveError" and path.startswith("archive/"))
    ]
    assert without == []


def test_no_hint_is_an_empty_text() -> None:
    texts = [(path, hint_of(call)) for path, _, call in raised()]
    empty = [path for path, hint in texts if isinstance(hint, ast.Constant) and not str(hint.value).strip()]
    assert empty == []


@pytest.mark.parametrize(
    "kind", sorted(name for name, kind in KINDS.items() if issubclass(kind, errors.TransientError))
)
def test_what_is_worth_another_run_names_the_command(kind: str) -> None:
    failure = failure_of(KINDS[kind]("it broke"), Invocation("riva-stream", AGAIN))
    assert "riva-stream stage --source s3://m/a.tar.gz" in failure.hint


@pytest.mark.parametrize("kind", [errors.HeldError, errors.DestinationConflictError])
def test_a_hint_that_says_what_to_do_is_followed_by_the_command_alone(
    kind: type[errors.RivaStreamError],
) -> None:
    failure = failure_of(kind("it broke", hint="do this"), Invocation("riva-stream", AGAIN))
    force = " --force" if kind is errors.DestinationConflictError else ""
    assert failure.hint == f"do this:\nriva-stream stage --source s3://m/a.tar.gz{force}"


LACKING = [
    MemoryError(),
    RuntimeError("can't start new thread"),
    OSError(24, "Too many open files"),
    HTTPClientError(error=OSError(23, "Too many open files in system")),
]


@pytest.mark.parametrize("error", LACKING, ids=repr)
def test_a_host_that_gives_too_little_is_no_bug(error: Exception) -> None:
    failure = failure_of(ExceptionGroup("at once", [error]), Invocation("riva-stream", AGAIN))
    assert failure.exit_code == 78
    assert "ulimit" in failure.hint
    assert "bug" not in failure.message
    # whatever was made of it on its way, a rerun would not help
    told = errors.TransientError("a file cannot be read", hint="check --ca-bundle")
    told.__cause__ = error
    wrapped = failure_of(told, Invocation("riva-stream", AGAIN))
    assert (wrapped.code, wrapped.exit_code) == ("out_of_resources", 78)
    assert "ca-bundle" not in wrapped.hint


@pytest.mark.parametrize("fault", errors.ArchiveFault)
def test_errors_of_an_archive_have_the_hint_of_their_fault(fault: errors.ArchiveFault) -> None:
    assert failure_of(errors.ArchiveError("it broke", fault=fault), Invocation("riva-stream", AGAIN)).hint


# --- a wrong command line


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["stge"], "see python -m riva_stream --help"),
        (["gc", "s3://b", "--reference-only"], "--reference-only is a flag of check, stage, policy."),
        (
            ["gc", "s3://b", "--older-then", "1d"],
            "did you mean --older-than? See python -m riva_stream gc --help",
        ),
        (["stage", "--upload-check", "crc64"], "crc64nvme"),
        (["stage", "--nope"], "see python -m riva_stream stage --help"),
        (["stage", "--zzz"], "see python -m riva_stream stage --help"),
        (["gc"], "see python -m riva_stream gc --help"),
        (["docs", "semantic"], "semantics"),
    ],
)
def test_a_wrong_command_line_is_told_with_what_helps(argv: list[str], said: str) -> None:
    done = run("riva_stream", *argv)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


# --- the help itself


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("columns", [80, 100])
def test_the_help_fits_its_terminal_and_has_examples(
    command: str, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    parser = build_parser("python -m riva_stream").commands[command]
    text = parser.format_help()
    body, _, examples = text.partition("\nexamples:\n")  # command lines there are kept whole
    assert [line for line in body.splitlines() if len(line) > columns] == []
    assert len(examples.strip().splitlines()) >= 2
    assert "PROG" not in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_of_every_command_is_explained(command: str) -> None:
    parser = build_parser("riva-stream").commands[command]
    assert not [action.dest for action in parser._actions if not (action.help or "").strip()]


def test_the_help_of_no_command_loads_anything_heavy() -> None:
    if is_measured():
        pytest.skip("coverage loads some of it")
    names = list(COMMANDS)
    code = (
        "import sys, riva_stream.cli\n"
        f"codes = [riva_stream.cli.main([name, '--help']) for name in {names!r}]\n"
        "heavy = {'pydantic', 'rich', 'aioboto3', 'botocore', 'asyncio', 'anyio', 'dotenv', 'difflib', 'xml'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)), 'codes:', set(codes))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert "heavy: [] codes: {0}" in done.stdout


def test_no_flag_of_a_staging_is_written_out_where_a_catalogue_can_show_it() -> None:
    """``option()`` names the field there. The command line, ``check`` and ``status`` know nothing of catalogues."""
    flags = {
        f"--{name.replace('_', '-')}"
        for name in StageRequest.model_fields.keys() - Stores.model_fields.keys()
        if name not in {"dry_run", "state_dir", "run_id", "bucket"}  # of stage-all too; of the AWS CLI
    }
    written = []
    for path in sorted(SOURCE.rglob("*.py")):
        name = str(path.relative_to(SOURCE))
        if name.startswith(("cli/", "preflight/", "inspection/status")):
            continue
        tree = ast.parse(path.read_text())
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        written += [
            f"{name}:{node.lineno} {node.value}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
            if flags.intersection(re.findall(r"--[a-z0-9-]+", node.value))
        ]
    assert written == []


def test_an_option_is_named_by_its_flag_on_the_command_line_alone() -> None:
    assert option("max_ratio", "VARIABLE") == "max_ratio"
    with flags_named():
        with flags_named():
            pass
        assert option("max_ratio", "VARIABLE") == "--max-ratio (VARIABLE)"
        assert option("source") == "--source"
    assert option("source") == "source"
