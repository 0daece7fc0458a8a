"""The pages stay true: links resolve, what they name exists, and the library's examples run."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from riva_stream import errors, handover
from riva_stream.catalogue import CatalogueError
from riva_stream.catalogue.engine import WorkerDiedError
from riva_stream.cli.app import build_parser
from riva_stream.cli.command import Invocation
from riva_stream.cli.commands import COMMANDS
from riva_stream.cli.failure import failure_of
from riva_stream.cli.options import parse_duration, parse_size
from riva_stream.cli.progress import STARTED
from riva_stream.cli.settings.env_file import ENV_FILE
from riva_stream.cli.settings.model import TRACE, Settings
from riva_stream.config import ProblemCode, StageRequest
from riva_stream.events import Event, kind_of
from riva_stream.inspection.reports import NOT_STAGED, Rerun
from riva_stream.inspection.retention import RuleChange
from riva_stream.pipeline.decide import Decision
from riva_stream.preflight.check_runner import Condition
from riva_stream.preflight.report import ACCESS_DENIED, NOT_TRIED
from riva_stream.report import Would
from riva_stream.sink.copies import Proof
from riva_stream.source import RANGES_IGNORED
from tests.drop_in import NAME
from tests.support.archives import archive_bytes
from tests.support.servers import MotoServer

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
README = ROOT / "README.md"
LIBRARY = ROOT / "docs" / "library.md"
CONFIGURATION = ROOT / "docs" / "configuration.md"
WITH_FLAGS = ("semantics", "tour", "running-again", "troubleshooting")
FROM_RIVA_130 = ROOT / "docs" / "from-riva-130.md"

# Variables that the pages may name though they are no settings: read by the SDK, the C library or other programs.
_NOT_OURS = {
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "MALLOC_ARENA_MAX",
    "AWS_ENDPOINT_URL_STS",
}
_VARIABLE = re.compile(r"\b(?:AWS|RIVA|NVIDIA)_[A-Z0-9_]+\b|\bMODEL_VERSION\b|`ENV`")


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_resolves(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def flags_of_the_help() -> set[str]:
    parser = build_parser("riva-stream")
    helps = [parser.format_help(), *(command.format_help() for command in parser.commands.values())]
    return set(re.findall(r"(?<![\w-])--[a-z0-9][a-z0-9-]*", "\n".join(helps)))


@pytest.mark.parametrize(
    "page",
    [README, LIBRARY, CONFIGURATION, *(ROOT / "docs" / f"{name}.md" for name in WITH_FLAGS)],
    ids=lambda page: page.name,
)
def test_every_flag_that_is_named_exists(page: Path) -> None:
    text = re.sub(
        r"^(?!.*riva_stream).*(?:scripts/|sha256sum|aws s3).*$", "", page.read_text(), flags=re.MULTILINE
    )
    named = set(re.findall(r"(?<![\w-])--[a-z0-9][a-z0-9-]*", text))
    assert named <= flags_of_the_help(), named - flags_of_the_help()


def test_every_flag_is_in_the_pages() -> None:
    text = "".join(page.read_text() for page in PAGES)
    assert not {flag for flag in flags_of_the_help() if flag not in text}


def test_every_flag_of_stage_is_in_the_table_of_settings() -> None:
    text = CONFIGURATION.read_text()
    stage = build_parser("riva-stream").commands["stage"].format_help()
    flags = set(re.findall(r"(?<![\w-])--[a-z0-9][a-z0-9-]*", stage)) - {"--help"}
    assert not {flag for flag in flags if f"`{flag}`" not in text}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_variable_that_is_named_is_a_setting(page: Path) -> None:
    known = {
        variable
        for name in Settings.model_fields
        for variable in (*Settings.variables(name), *Settings.aliases(name))
    }
    known |= {ENV_FILE, TRACE}
    named = {name.strip("`") for name in _VARIABLE.findall(page.read_text())}
    code = "".join(path.read_text() for room in ("src", "tests") for path in (ROOT / room).rglob("*.py"))
    # What is not for users has names of its own, and need not be a setting as long as something reads it.
    internal = {name for name in named if name.startswith("RIVA_STREAM_") and f'"{name}"' in code}
    assert named <= known | _NOT_OURS | internal, named - known - _NOT_OURS - internal


def test_every_setting_with_a_variable_is_in_the_readme() -> None:
    text = README.read_text() + CONFIGURATION.read_text()
    variables = {
        variable
        for name in Settings.model_fields
        for variable in (*Settings.variables(name), *Settings.aliases(name))
    }
    for variable in {*variables, ENV_FILE, TRACE}:
        assert re.search(rf"`{variable}[`=]", text), variable


def test_the_first_screen_has_the_two_commands_and_they_can_be_run() -> None:
    screen = "\n".join(README.read_text().splitlines()[:40])
    for command in ("./scripts/demo", "./scripts/test"):
        assert command in screen
        assert os.access(ROOT / command, os.X_OK)


def test_every_command_is_in_the_readme_which_is_short() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) <= 250
    rows = {match[1] for line in lines if (match := re.match(r"\| `([\w-]+)", line))}
    assert COMMANDS.keys() <= rows


def test_every_page_is_in_the_readme() -> None:
    linked = set(re.findall(r"\]\(docs/([\w-]+\.md)", README.read_text()))
    assert linked == {page.name for page in ROOT.glob("docs/*.md")}


def test_the_exit_codes_are_those_of_the_errors() -> None:
    table = dict(re.findall(r"^\| (\d+) \| (.+?) \|", README.read_text(), re.MULTILINE))
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]
    assert {str(kind.exit_code) for kind in kinds if issubclass(kind, errors.RivaStreamError)} <= set(table)


def test_every_error_that_is_named_exists_and_ends_as_the_page_says() -> None:
    page = (ROOT / "docs" / "semantics.md").read_text()
    named = re.findall(r"`(\w+Error)`, (?:exit )?(\d+)", page)
    assert len(named) > 10
    for name, code in named:
        assert getattr(errors, name).exit_code == int(code), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_for_users_name_no_tests(page: Path) -> None:
    text = page.read_text()
    assert not re.findall(r"`(?:tests/[\w./]+::)?test_\w+`", text)
    assert page.name == "CONTRIBUTING.md" or "tests/" not in text


def test_every_promise_is_shown_by_tests_that_exist() -> None:
    code = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    rows = promises()
    named = {name for page in rows.values() for _, _, names in page for name in names}
    assert len(named) > 200
    assert not {name for name in named if f"def {name}(" not in code}
    assert {"semantics.md", "archives.md", "from-riva-130.md", "configuration.md"} <= rows.keys()
    for page, found in rows.items():
        sections = {
            line.lstrip("# ") for line in (ROOT / "docs" / page).read_text().splitlines() if line[:1] == "#"
        }
        assert {section for section, _, _ in found} <= sections, page
        assert all(promise and names for _, promise, names in found), page


def promises() -> dict[str, list[tuple[str, str, list[str]]]]:
    """By page: section, promise, and names of tests."""
    found: dict[str, list[tuple[str, str, list[str]]]] = {}
    page = ""
    for line in (ROOT / "docs" / "internals" / "promises.md").read_text().splitlines():
        if line.startswith("## "):
            page = line[3:]
        elif line.startswith("| ") and not line.startswith("| section"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            assert len(cells) == 3, line
            names = re.findall(r"`(?:tests/[\w./]+::)?(test_\w+)(?:\[[^`]*\])?`", cells[2])
            found.setdefault(page, []).append((cells[0], cells[1], names))
    return found


def test_every_promise_of_riva_130_is_kept_by_something_and_shown_by_a_test() -> None:
    """No row is open, and each stands among the promises. That their tests exist is held above."""
    heads, rows, page = 0, 0, FROM_RIVA_130.read_text()
    shown = {promise for _, promise, _ in promises()["from-riva-130.md"]}
    lines = page.splitlines()
    for number, line in enumerate(lines):
        if not line.startswith("|"):
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert len(cells) == 2, line
        assert all(cells), line
        if lines[number + 1 : number + 2] == ["|---|---|"]:
            heads += 1
        elif set(line) != {"|", "-"}:
            kept = f"{cells[0]}: {cells[1]}"
            assert re.sub(r"\]\([^)]*\)", "]", kept) in {
                re.sub(r"\]\([^)]*\)", "]", text) for text in shown
            }, line
            rows += 1
    assert heads >= 12
    assert rows > 90


def test_every_flag_and_state_file_of_riva_130_has_a_row() -> None:
    rows = "\n".join(line for line in FROM_RIVA_130.read_text().splitlines() if line.startswith("|"))
    script = (ROOT / "scripts" / NAME).read_text()
    flags = set(re.findall(r"^  (--[a-z-]+)", script, re.MULTILINE))
    assert len(flags) == 11
    for name in (*flags, *handover.VALUES, handover.LAST_ARTIFACT, handover.STATUS, handover.RECORD):
        assert re.search(rf"`{name}(`|=)", rows), name


def test_the_flags_of_limits_and_leases_have_the_defaults_that_the_table_says() -> None:
    rows = dict(
        re.findall(
            r"^\| `--([a-z0-9-]+)` \|[^|]*\|[^|]*\| ([^|]+?) \|", CONFIGURATION.read_text(), re.MULTILINE
        )
    )
    for flag, field in StageRequest.model_fields.items():
        row = rows.get(flag.replace("_", "-"), "")
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            parse = parse_duration if flag in {"lease", "timeout", "deadline"} else parse_size
            assert parse(row) == field.default, flag


@pytest.fixture
def models(moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The buckets and the archive that docs/library.md speaks of, where the SDK finds them."""
    client = moto.client()
    for bucket in ("models", "deployments"):
        client.create_bucket(Bucket=bucket)
    key = "parakeet-rnnt-riva-1-1b-en-us-deployable_v8.1.tar.gz"
    client.put_object(Bucket="models", Key=key, Body=archive_bytes(1 << 20, members=2)[0])
    for name, value in moto.environment().items():
        monkeypatch.setenv(name, value)
    yield
    for bucket in ("models", "deployments"):
        moto.remove_bucket(bucket)


async def test_the_examples_of_the_library_run_as_they_are(
    models: None, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", LIBRARY.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 7
    names: dict[str, Any] = {"__name__": "docs.library"}
    for block in blocks:
        code = compile(block, "docs/library.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        running = eval(code, names)
        if running is not None:
            await running
    out = capsys.readouterr().out
    assert "models/model-0.riva" in out
    assert "stopped; running it again is safe" in out


def test_the_library_example_of_the_readme_runs(models: None, tmp_path: Path) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "models/model-0.riva" in done.stdout
    assert not list(tmp_path.iterdir())


def codes_of_warnings() -> set[str]:
    """Every code that a warning may have, as the code of the package names it."""
    found: set[str] = {STARTED}
    calls = (
        node
        for path in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    )
    for call in calls:
        name = getattr(call.func, "id", getattr(call.func, "attr", ""))
        first = getattr(call.args[0], "attr", "") or getattr(call.args[0], "id", "") if call.args else ""
        codes = [word.value for word in call.keywords if word.arg == "code" and name == "Warned"]
        codes += call.args[:1] if name == "warn" and len(call.args) == 2 else []
        codes += call.args[1:2] if name == "partial" and first == "warn" else []
        found |= {str(code.value) for code in codes if isinstance(code, ast.Constant)}
    return found


def codes_of_findings() -> set[str]:
    """Every code of a difference or a note, as the code of the package names it."""
    calls = (
        node
        for path in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    )
    found: set[str] = {NOT_STAGED, *get_args(Rerun.model_fields["code"].annotation)}
    for call in calls:
        name = getattr(call.func, "id", getattr(call.func, "attr", ""))
        codes = [word.value for word in call.keywords if word.arg == "code" and name == "Finding"]
        codes += call.args[1:2] if name in {"differs", "compare"} else []
        codes += call.args[:1] if name == "_note" else []
        found |= {
            code.value for code in codes if isinstance(code, ast.Constant) and isinstance(code.value, str)
        }
    return found


def test_every_code_of_check_is_in_its_page() -> None:
    page = (ROOT / "docs" / "check.md").read_text()
    codes = {
        str(word.value.value)
        for path in (ROOT / "src" / "riva_stream" / "preflight").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        for word in node.keywords
        if word.arg == "code" and isinstance(word.value, ast.Constant)
    }
    codes |= {NOT_TRIED, ACCESS_DENIED, RANGES_IGNORED, "degraded", "failed", "ok", *get_args(Condition)[1:]}
    assert len(codes) > 18
    assert not {code for code in codes if f"`{code}`" not in page}


def test_every_code_of_the_json_is_in_its_page() -> None:
    page = (ROOT / "docs" / "json.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (`[^|]+`|see below) \|", page, re.MULTILINE))
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    kinds += [CatalogueError, WorkerDiedError]
    for kind in (kind for kind in kinds if issubclass(kind, errors.RivaStreamError)):
        if kind is errors.RivaStreamError:
            continue
        made = [kind("x")]
        if issubclass(kind, errors.ArchiveError):
            made = [kind("x", fault=fault) for fault in errors.ArchiveFault]
        for error in made:
            failure = failure_of(error, Invocation("riva-stream", ("stage",)))
            assert f"`{failure.code}`" in rows[failure.type], failure
            assert re.search(rf"^\| `{failure.type}` .*\| {failure.exit_code} \|", page, re.MULTILINE), (
                failure
            )
    assert not {code for code in get_args(ProblemCode) if f"\n| `{code}` |" not in page}
    codes = codes_of_warnings()
    assert len(codes) > 25
    assert not {code for code in codes if f"`{code}`" not in page}
    assert not {code for code in get_args(Would) if f"`{code}`" not in page}
    values = {*get_args(RuleChange.model_fields["change"].annotation), *map(str, Proof), *handover.VALUES}
    assert not {value for value in values if f"`{value}`" not in page}
    assert {decision.value for decision in Decision} == set(get_args(Would))
    findings = codes_of_findings()
    assert len(findings) > 25
    assert not {code for code in findings if f"`{code}`" not in page}
    events = {kind_of(kind) for kind in get_args(Event)}
    assert not {name for name in events if f"`{name}`" not in page}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_table_is_wrapped_into_a_paragraph(page: Path) -> None:
    """Wrapped like a paragraph, it is shown as one: its second line has to be nothing but the rule."""
    assert not [line for line in page.read_text().splitlines() if "|---|" in line.strip().lstrip("|-")]
