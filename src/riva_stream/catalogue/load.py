"""Read a catalogue, and report everything that is wrong with it at once, each problem with its line."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import getitem
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from riva_stream.catalogue.line_numbers import (
    LineNumbers,
    Path,
    deepest_line,
    json_line_numbers,
    toml_line_numbers,
)
from riva_stream.catalogue.model import Catalogue
from riva_stream.config import ProblemCode, Wrong, reason_of
from riva_stream.errors import ConfigurationError
from riva_stream.files import read_given

__all__ = ["CatalogueError", "LoadedCatalogue", "Problem", "parse", "wrong_of"]


_MAX_BYTES = 64 << 20
_PIPE_SECONDS = 60.0
"""Seconds for which a catalogue that is a pipe may be silent; its writer may have to ask somebody first."""
_LINE = re.compile(r"at line (\d+)")
_LONG = re.compile(r"[0-9_]{1000}")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a catalogue."""

    line: int | None
    """None for a catalogue that does not come from a file, and where the line is unknown."""
    setting: str
    """``staging[2].source``; empty for the file itself."""
    code: ProblemCode
    wrong: str

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line is not None else ""
        # A parser's message is a sentence of its own.
        what = self.setting or ("" if self.code == "syntax" else "the catalogue")
        return f"{place}{what} {self.wrong}" if what else f"{place}{self.wrong}"


class CatalogueError(ConfigurationError):
    """A catalogue cannot be staged as it is; ``problems`` lists everything that is wrong with it."""

    problems: tuple[Problem, ...] = ()

    @classmethod
    def of(cls, name: str, problems: list[Problem]) -> CatalogueError:
        """The error for ``problems``, sorted by line."""
        found = sorted(dict.fromkeys(problems), key=lambda problem: problem.line or 0)
        count = "1 problem" if len(found) == 1 else f"{len(found)} problems"
        error = cls(f"{name} has {count}", hint="correct the catalogue; nothing was started")
        error.problems = tuple(found)
        return error


@dataclass(frozen=True, slots=True)
class LoadedCatalogue:
    """A catalogue, where it comes from, and what is wrong with single values."""

    catalogue: Catalogue
    name: str = "the catalogue"
    lines: LineNumbers = field(default_factory=LineNumbers)
    problems: tuple[Problem, ...] = ()
    dropped: frozenset[Path] = frozenset()
    """Fields, entries and environments that have ``problems``, and are left out of the catalogue; an entry is empty."""

    def problem(self, path: Path, code: ProblemCode, wrong: str) -> Problem:
        """The problem with the value at ``path``."""
        return _problem(self.lines, path, Wrong(code, wrong))


def parse(path: FilePath | str) -> LoadedCatalogue:
    """Read a file: TOML, or JSON where its name ends in ``.json``.

    Raises:
        CatalogueError: it cannot be read, or has the wrong structure.
    """
    path = FilePath(path)
    try:
        text = read_given(path, _MAX_BYTES, patience=_PIPE_SECONDS, silence=_PIPE_SECONDS).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise CatalogueError(
            f"the catalogue {path} cannot be read: {reason}", hint="name a TOML or JSON file in UTF-8"
        ) from error
    is_json = path.suffix == ".json"
    try:
        document: Any = json.loads(text) if is_json else tomllib.loads(text)
        lines = json_line_numbers(text) if is_json else toml_line_numbers(text)
    except json.JSONDecodeError as error:
        raise CatalogueError.of(str(path), [Problem(error.lineno, "", "syntax", error.msg)]) from error
    except tomllib.TOMLDecodeError as error:
        found = _LINE.search(str(error))
        line = int(found[1]) if found else text.count("\n") + 1
        raise CatalogueError.of(str(path), [Problem(line, "", "syntax", str(error))]) from error
    except ValueError as error:  # Python refuses to convert so many digits
        long = _LONG.search(text)
        problem = Problem(text.count("\n", 0, long.start()) + 1 if long else None, "", "syntax", str(error))
        raise CatalogueError.of(str(path), [problem]) from error
    except RecursionError as error:
        what = "it nests tables or lists too deeply"
        raise CatalogueError.of(str(path), [Problem(deepest_line(text), "", "syntax", what)]) from error
    if is_json and lines.repeated:  # TOML itself forbids that
        twice = [
            Problem(line, _setting(place), "syntax", "appears twice")
            for place, line in lines.repeated.items()
            # The content of the second one is repeated as well, and not worth reporting.
            if not any(place[:end] in lines.repeated for end in range(len(place)))
        ]
        raise CatalogueError.of(str(path), twice)
    try:
        return LoadedCatalogue(Catalogue.model_validate(document), str(path), lines)
    except ValidationError as error:
        return _without_what_is_wrong(document, str(path), lines, error)


def _without_what_is_wrong(
    document: Any, name: str, lines: LineNumbers, error: ValidationError
) -> LoadedCatalogue:
    """The same without the fields that are wrong, which are taken out of ``document``, so that all else is checked."""
    items = [(tuple(item["loc"]), wrong_of(item)) for item in error.errors()]
    problems = [
        _problem(lines, place[:-1] if wrong.code == "missing" else place, wrong) for place, wrong in items
    ]
    dropped = {
        place[:2] if place[0] == "defaults" or place[-1] == "[key]" else place[:3]
        for place, _ in items
        if place
    }
    if any(len(place) <= 1 for place, _ in items):
        raise CatalogueError.of(name, problems) from error
    for place in sorted(dropped, key=len, reverse=True):
        *path, last = place
        parent = reduce(getitem, path, document)
        if isinstance(last, int):  # the others keep their numbers
            parent[last] = {}
        else:
            parent.pop(last, None)
    return LoadedCatalogue(
        Catalogue.model_validate(document), name, lines, tuple(problems), frozenset(dropped)
    )


def _problem(lines: LineNumbers, path: Path, wrong: Wrong) -> Problem:
    nearest, line = lines.find(path)
    return Problem(line, _setting(nearest if line is not None else path), *wrong)


def wrong_of(item: Mapping[str, Any]) -> Wrong:
    """What one of pydantic's errors says, never repeating the value."""
    name = item["loc"][-1] if item["loc"] else ""
    if item["type"] == "missing":
        return Wrong("missing", f"is missing {name}")
    if item["type"] == "extra_forbidden":
        return Wrong("unknown", "is not a known field")
    return Wrong("malformed" if item["loc"] else "contradiction", reason_of(item))


def _setting(path: Path) -> str:
    """``staging[2].source``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
