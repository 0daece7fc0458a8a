"""The house as designed: which room may know which, what importing costs, which names are public."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import riva_stream
from riva_stream.deployment import DOCUMENTS

SOURCE = Path(riva_stream.__file__).parent

# Each room, and the rooms it may know: arrows point down only.
FLOOR = {
    "arguments",
    "errors",
    "events",
    "sizes",
    "rights",
    "clock",
    "layout",
    "tasks",
    "uris",
    "readback",
    "redact",
    "printable",
    "files",
    "naming",
}
_BELOW_RUN = (
    FLOOR
    | {"config", "flow", "retry", "archive"}
    | {"manifest", "deployment", "report", "s3", "source", "sink", "state"}
)
_BELOW_PIPELINE = _BELOW_RUN | {"run", "lease", "documents", "destination"}
ROOMS: dict[str, set[str]] = {
    "errors": {"printable", "naming"},
    "arguments": set(),
    "naming": set(),
    "events": {"arguments"},
    "sizes": set(),
    "uris": set(),
    "rights": {"uris"},
    "clock": set(),
    "tasks": set(),
    "layout": set(),
    "readback": set(),
    "redact": set(),
    "printable": set(),
    "files": set(),
    "retry": FLOOR,
    "config": FLOOR | {"flow"},
    "handover": {"errors", "files", "layout"},
    "flow": {"arguments", "errors", "sizes", "clock", "naming"},
    "archive": {"errors", "sizes", "flow", "readback", "naming"},
    "manifest": FLOOR,
    "deployment": FLOOR | {"manifest"},
    "report": FLOOR | {"manifest", "deployment"},
    "s3": FLOOR | {"flow"},
    "source": FLOOR | {"archive", "s3", "retry", "flow"},  # of archive: what is no file of one's own
    "sink": FLOOR | {"s3", "retry", "flow"},
    "state": FLOOR,
    "run": FLOOR | {"config", "deployment", "flow", "retry", "s3", "sink", "state"},
    "lease": FLOOR | {"retry", "s3"},
    "documents": FLOOR | {"manifest", "deployment", "report", "retry", "run", "s3", "sink", "source"},
    "destination": FLOOR
    | {"deployment", "manifest", "report", "retry", "run", "lease", "documents", "s3", "sink"},
    "pipeline": _BELOW_PIPELINE | {"inspection"},  # a staging that is promoted is read as any other
    "log_place": {"config", "handover"},
    "log_delivery": FLOOR | {"config", "log_place", "retry", "s3", "sink"},
    "inspection": _BELOW_RUN - {"archive", "config", "sink"}
    | {"handover", "run", "lease", "documents"},  # neither what changes a staging nor what makes one
    "preflight": FLOOR
    | {"config", "log_delivery", "log_place", "manifest", "flow", "pipeline", "retry", "s3", "source"},
    "catalogue": FLOOR | {"config", "manifest", "inspection", "preflight", "pipeline", "report"},
    "cli": FLOOR
    | {"s3", "inspection", "preflight", "log_delivery", "log_place", "config", "flow", "catalogue"}
    | {"manifest", "deployment", "report", "state", "handover", "pipeline"},
    "__main__": {"cli"},
    "child": {"__main__", "redact"},
}
WRITERS = {
    "destination": "changes what readers can see",
    "sink": "its uploads",
    "lease": "the journal",
    "s3": "the probe, with its scratch; and the stores themselves",
    "pipeline/stores.py": "opens the store",
    "pipeline/__init__.py": "takes the caller's open stores",
    "pipeline/promotion.py": "the same",
    "pipeline/protocol.py": "hands it to the destination and the probe",
    "pipeline/work.py": "says that whoever plans is given it",
    "pipeline/from_archive.py": "hands it to the plan of copies",
    "pipeline/from_staging.py": "the same",
    "pipeline/copies.py": "hands it to the probe of copies",
    "pipeline/planning.py": "hands it to the scratch upload of a dry run",
    "inspection/gc.py": "aborts what dead runs left, under the lease",
    "log_delivery.py": "the log of a run",
    "preflight/scratch.py": "the scratch object of `check`, and requests that cannot succeed",
    "preflight/uploads.py": "the scratch uploads of `check`",
    "preflight/destination.py": "hands it to the scratch object",
    "preflight/log.py": "the same, where the log shall go",
}
"""What may name the half of the port that changes anything, and what for."""
SDK = {"aioboto3", "aiobotocore", "botocore", "boto3", "aiohttp"}


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            module = node.module or ""
            found |= (
                {f"{module}.{alias.name}" for alias in node.names} if module == "riva_stream" else {module}
            )
    return found


FILES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_arrows_point_down_only(path: Path) -> None:
    room = room_of(path)
    known = {name.split(".")[1] for name in imports(path) if name.startswith("riva_stream.")} - {room}
    assert known <= ROOMS[room], f"{room} must not know {sorted(known - ROOMS[room])}"


def test_there_is_no_circle_in_the_command_line() -> None:
    """Neither at import nor later: what is imported inside a function counts as well."""
    names = {
        ".".join(("riva_stream", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): path
        for path in FILES
        if room_of(path) == "cli"
    }
    graph = {
        name: {
            full if (full := f"{node.module}.{alias.name}") in names else str(node.module)
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for name, path in names.items()
    }
    assert len(graph) > 20
    list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_few_are_handed_a_writer(path: Path) -> None:
    place = str(path.relative_to(SOURCE))
    names = {
        alias.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("riva_stream.s3")
        for alias in node.names
    }
    if names & {"Store", "Writer", "WritableBucket"}:
        assert place in WRITERS or room_of(path) in WRITERS


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_only_s3_imports_the_sdk(path: Path) -> None:
    if room_of(path) != "s3":
        assert not {name.split(".")[0] for name in imports(path)} & SDK


def test_the_names_of_documents_stand_in_one_place() -> None:
    """What a staging consists of is the table in `layout`; a list of one's own would fall behind it."""
    naming = {
        str(path.relative_to(SOURCE))
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in DOCUMENTS
    }
    assert naming == {"layout.py"}


ENVIRONMENT = {
    "cli/settings/places.py": "every setting, for whoever asks for one",
    "cli/settings/env_file.py": "which file the settings are in",
    "cli/command.py": "the script that calls on a user's behalf, which is no setting",
    "cli/app.py": "the same, and what must be redacted before there are settings",
    "cli/session.py": "hands the AWS libraries what the settings have found; the host's name, which must be text",
    "cli/logs.py": "TERM, the terminal's own",
    "cli/diagnostics.py": "writes down what it was, beside what the file was",
    "cli/commands/docs.py": "tells the pager how to show a page",
    "catalogue/local.py": "what a child process inherits",
    "catalogue/ray_engine.py": "Ray's own switch, which is set there",
    "run.py": "the host's name, which is the process's and not a request's",
    "lease/journal.py": "the same",
    "preflight/check.py": "AWS_PROFILE as botocore sees it",
    "redact.py": "the secrets of the AWS libraries, whenever they come",
    "s3/credentials.py": "a token's file, where botocore looks for it",
    "s3/diagnostics.py": "botocore's own endpoint of STS",
    "s3/session.py": "AWS_PROFILE as botocore would take it",
}
"""What may name the process's environment, and what for. A setting of ours is asked for in the first of them."""


def test_settings_are_read_from_the_environment_in_one_place() -> None:
    naming = {
        str(path.relative_to(SOURCE))
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv"}
    }
    assert naming == set(ENVIRONMENT)


SENTENCE = re.compile(r"[A-Za-z]{2,} [A-Za-z]{2,}")
ASKING = {
    "startswith",
    "endswith",
    "partition",
    "rpartition",
    "removeprefix",
    "removesuffix",
    "split",
    "find",
}
OTHERS_WORDS = {
    "errors.py": "CPython has neither a type nor a number for a thread that could not be started",
    "s3/windows.py": "a store's answer, which has no code of its own for it",
}
"""Where the words of somebody else are all that there is to go by."""


def test_nothing_decides_by_a_sentence() -> None:
    """What code tells apart has a type, an enum or a code; sentences are for people, and may change."""
    found = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            asked: list[ast.expr] = []
            if isinstance(node, ast.Compare):
                asked = [node.left, *node.comparators]
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ASKING:
                asked = node.args
            texts = [part.value for one in asked for part in ast.walk(one) if isinstance(part, ast.Constant)]
            if any(isinstance(text, str) and SENTENCE.search(text) for text in texts):
                found.add(str(path.relative_to(SOURCE)))
    assert found == set(OTHERS_WORDS)


def test_only_the_command_line_prints() -> None:
    printing = {
        room_of(path)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert printing <= {"cli"}


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = {"aioboto3", "botocore", "pydantic", "anyio", "asyncio", "rich", "isal", "awscrt", "uvloop"}
    assert not modules_after("import riva_stream") & heavy


def test_public_names_are_pinned() -> None:
    assert sorted(riva_stream.__all__) == [
        "AccessDeniedError",
        "ArchiveError",
        "Catalogue",
        "CatalogueReport",
        "ConfigurationError",
        "DestinationConflictError",
        "DigestMismatchError",
        "Event",
        "HeldError",
        "IntegrityError",
        "LocalEngine",
        "MemoryBudget",
        "Observer",
        "PromoteReport",
        "PromoteRequest",
        "RayEngine",
        "RivaStreamError",
        "SourceChangedError",
        "SourceNotFoundError",
        "StageReport",
        "StageRequest",
        "StagedObject",
        "Staging",
        "StalledError",
        "StoreSettings",
        "ThrottledError",
        "TransientError",
        "__version__",
        "load_catalogue",
        "open_store",
        "promote",
        "read_staging",
        "stage",
        "stage_all",
        "throttled",
    ]
    for name in riva_stream.__all__:
        assert getattr(riva_stream, name) is not None


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        riva_stream.nonsense  # noqa: B018
