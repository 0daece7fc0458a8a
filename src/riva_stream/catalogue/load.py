"""Read a catalogue, and say all that is wrong with it at once, each with its line."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from pydantic import BaseModel, ValidationError

from riva_stream.catalogue.model import Catalogue
from riva_stream.config import ProblemCode, Wrong
from riva_stream.errors import ConfigurationError

__all__ = [
    "CatalogueError",
    "Lines",
    "LoadedCatalogue",
    "Path",
    "Problem",
    "given",
    "lines_of_json",
    "lines_of_toml",
    "parse",
    "wrong_of",
]

Path = tuple[str | int, ...]
"""Keys and indexes from the root: ``("staging", 2, "source")``."""

_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})'  # strings: basic and literal, of several lines and of one
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|\#[^\n]*"
    r"|\n|[\[\]{}=:,]"
    r"""|[^\s\[\]{}=:,"'#]+""",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of a file's values."""

    known: dict[Path, int] = field(default_factory=dict)

    def find(self, path: Path) -> tuple[Path, int | None]:
        """The value at ``path``, or the nearest one around it, and its line; None where there is none."""
        while path and path not in self.known:
            path = path[:-1]
        return path, self.known.get(path)


def lines_of_json(text: str) -> Lines:
    """Of a JSON document."""
    reader = _Reader(text)
    reader.value(())
    return reader.lines


def lines_of_toml(text: str) -> Lines:
    """Of a TOML document."""
    reader = _Reader(text)
    table: Path = ()
    while (word := reader.peek()) is not None:
        if word == "[":
            table = reader.header()
        else:
            reader.pair(table)
    return reader.lines


class _Reader:
    def __init__(self, text: str) -> None:
        self.lines = Lines()
        self._tokens: list[tuple[str, int]] = []
        self._at = 0
        self._entries: dict[Path, int] = {}
        """Of each array of tables the index of its latest table."""
        line, end = 1, 0
        for match in _TOKEN.finditer(text):
            line += text.count("\n", end, match.start())
            end = match.start()
            if not match[0].startswith("#"):
                self._tokens.append((match[0], line))

    def peek(self) -> str | None:
        """The next token that is no line break."""
        while self._at < len(self._tokens) and self._tokens[self._at][0] == "\n":
            self._at += 1
        return self._tokens[self._at][0] if self._at < len(self._tokens) else None

    def header(self) -> Path:
        """``[table]`` or ``[[array]]``; gives the path of the table that begins."""
        line = self._take()[1]
        is_array = self.peek() == "["
        if is_array:
            self._take()
        *parents, last = self._key("]")
        path: Path = ()
        for part in parents:
            path = self._latest((*path, part))
        path = (*path, last)
        if is_array:
            self._take()
            self._entries[path] = self._entries.get(path, -1) + 1
        path = self._latest(path)
        self.lines.known[path] = line
        return path

    def pair(self, table: Path) -> None:
        """``key = value``, or ``"key": value``."""
        line = self._tokens[self._at][1]
        path = table
        for part in self._key("=:"):
            path = (*path, part)
            self.lines.known.setdefault(path, line)
        self.value(path)

    def value(self, path: Path) -> None:
        """A value and all that is in it."""
        opening = self.peek()
        if opening is None:
            return
        self.lines.known.setdefault(path, self._tokens[self._at][1])
        if opening not in {"[", "{"}:
            while self._at < len(self._tokens) and self._tokens[self._at][0] not in {",", "]", "}", "\n"}:
                self._at += 1
            return
        self._take()
        index = 0
        while (word := self.peek()) not in {"]", "}", None}:
            if word == ",":
                self._take()
            elif opening == "{":
                self.pair(path)
            else:
                self.value((*path, index))
                index += 1
        if self._at < len(self._tokens):
            self._take()

    def _latest(self, path: Path) -> Path:
        return (*path, self._entries[path]) if path in self._entries else path

    def _take(self) -> tuple[str, int]:
        self.peek()
        word = self._tokens[self._at]
        self._at += 1
        return word

    def _key(self, closing: str) -> list[str]:
        parts: list[str] = []
        while (word := self._take()[0]) not in closing:
            if word[0] in "\"'":
                parts.append(json.loads(word, strict=False) if word[0] == '"' else word[1:-1])
            else:
                parts += [part for part in word.split(".") if part]
        return parts


_LINE = re.compile(r"at line (\d+)")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a catalogue."""

    line: int | None
    """None for a catalogue that comes from no file."""
    setting: str
    """``staging[2].source``; empty for the file itself."""
    code: ProblemCode
    wrong: str

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line is not None else ""
        return f"{place}{self.setting} {self.wrong}" if self.setting else f"{place}{self.wrong}"


class CatalogueError(ConfigurationError):
    """A catalogue cannot be staged as it is; ``problems`` are all that is wrong with it."""

    problems: tuple[Problem, ...] = ()

    @classmethod
    def of(cls, name: str, problems: list[Problem]) -> CatalogueError:
        """The error for ``problems``, those of the first lines first."""
        found = sorted(dict.fromkeys(problems), key=lambda problem: problem.line or 0)
        count = "1 problem" if len(found) == 1 else f"{len(found)} problems"
        error = cls(f"{name} has {count}", hint="correct the catalogue; nothing was started")
        error.problems = tuple(found)
        return error


@dataclass(frozen=True, slots=True)
class LoadedCatalogue:
    """A catalogue, where it comes from, and what is wrong with single entries of it."""

    catalogue: Catalogue
    name: str = "the catalogue"
    lines: Lines = field(default_factory=Lines)
    problems: tuple[Problem, ...] = ()
    bad: frozenset[int] = frozenset()
    """Entries that have ``problems`` already, and stand empty in the catalogue."""

    def problem(self, path: Path, code: ProblemCode, wrong: str) -> Problem:
        """What is wrong with the value at ``path``."""
        return _problem(self.lines, path, Wrong(code, wrong))


def parse(path: FilePath | str) -> LoadedCatalogue:
    """Read a file: TOML, or JSON where its name ends in ``.json``.

    Raises:
        CatalogueError: it cannot be read, or what all entries share is wrong.
    """
    path = FilePath(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise CatalogueError(
            f"the catalogue {path} cannot be read: {reason}", hint="name a file that exists"
        ) from error
    try:
        if path.suffix == ".json":
            document: Any = json.loads(text)
            lines = lines_of_json(text)
        else:
            document = tomllib.loads(text)
            lines = lines_of_toml(text)
    except json.JSONDecodeError as error:
        raise CatalogueError.of(str(path), [Problem(error.lineno, "", "syntax", error.msg)]) from error
    except tomllib.TOMLDecodeError as error:
        found = _LINE.search(str(error))
        line = int(found[1]) if found else text.count("\n") + 1
        raise CatalogueError.of(str(path), [Problem(line, "", "syntax", str(error))]) from error
    try:
        return LoadedCatalogue(Catalogue.model_validate(document), str(path), lines)
    except ValidationError as error:
        return _without_bad_entries(document, str(path), lines, error)


def _without_bad_entries(document: Any, name: str, lines: Lines, error: ValidationError) -> LoadedCatalogue:
    """The same with nothing in the entries that are wrong by themselves, so that the others are looked at as well."""
    problems = [_problem(lines, tuple(item["loc"]), wrong_of(item)) for item in error.errors()]
    places = [item["loc"][:2] for item in error.errors()]
    bad = frozenset(int(place[1]) for place in places if place[:1] == ("staging",) and len(place) > 1)
    if any(place[:1] != ("staging",) or len(place) == 1 for place in places):
        raise CatalogueError.of(name, problems) from error
    rest = [{} if index in bad else entry for index, entry in enumerate(document["staging"])]
    catalogue = Catalogue.model_validate({**document, "staging": rest})
    return LoadedCatalogue(catalogue, name, lines, tuple(problems), bad)


def _problem(lines: Lines, path: Path, wrong: Wrong) -> Problem:
    nearest, line = lines.find(path)
    return Problem(line, _setting(nearest if line is not None else path), *wrong)


def wrong_of(item: Mapping[str, Any]) -> Wrong:
    """What one of pydantic's errors says, which never repeats the value."""
    name = item["loc"][-1] if item["loc"] else ""
    if item["type"] == "missing":
        return Wrong("missing", f"is missing {name}")
    if item["type"] == "extra_forbidden":
        return Wrong("unknown", f"has no field {name}")
    cause = item.get("ctx", {}).get("error")
    text = str(item["msg"] if cause is None else cause)
    return Wrong("malformed" if item["loc"] else "contradiction", text)


def _setting(path: Path) -> str:
    """``staging[2].source``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def given(model: BaseModel) -> dict[str, Any]:
    """The fields that were given, none of the defaults."""
    return model.model_dump(exclude_unset=True)
