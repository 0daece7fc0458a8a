"""The line number of each value in a file. Neither ``tomllib`` nor ``json`` reports it.

The file has been parsed before: the text is well-formed, so only its structure is followed, and no value is built.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

__all__ = ["LineNumbers", "Path", "deepest_line", "json_line_numbers", "toml_line_numbers"]

Path = tuple[str | int, ...]
"""Keys and indexes from the root: ``("staging", 2, "source")``."""

_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})'  # strings: basic and literal, multi-line and single-line
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|\#[^\n]*"
    r"|[\[\]{}=:,]"
    r"""|[^\s\[\]{}=:,"'#]+""",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class LineNumbers:
    """The lines of a file's values."""

    known: dict[Path, int] = field(default_factory=dict)
    repeated: dict[Path, int] = field(default_factory=dict)
    """Keys that a table repeats, with the line of the second occurrence: JSON allows that, and the last one counts."""

    def find(self, path: Path) -> tuple[Path, int | None]:
        """The value at ``path``, or the nearest one around it, and its line; None where there is none."""
        while path and path not in self.known:
            path = path[:-1]
        return path, self.known.get(path)


def json_line_numbers(text: str) -> LineNumbers:
    """The line numbers of a JSON document."""
    reader = _Reader(text, json.loads)
    reader.value(())
    return reader.lines


def toml_line_numbers(text: str) -> LineNumbers:
    """The line numbers of a TOML document."""
    reader = _Reader(text, _unquoted)
    table: Path = ()
    while word := reader.peek():
        if word == "[":
            table = reader.header()
        else:
            reader.pair(table)
    return reader.lines


def deepest_line(text: str) -> int:
    """The line of the innermost value of a document, well-formed or not."""
    depth, deepest, found = 0, 0, 1
    for word, line in _tokens(text):
        depth += (word in "[{") - (word in "]}")
        if depth > deepest:
            deepest, found = depth, line
    return found


def _unquoted(word: str) -> str:
    """Decode a TOML key: its escapes are not quite those of JSON."""
    return str(tomllib.loads(f"key = {word}")["key"])


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    line, end = 1, 0
    for match in _TOKEN.finditer(text):
        line += text.count("\n", end, match.start())
        end = match.start()
        if not match[0].startswith("#"):
            yield match[0], line


class _Reader:
    def __init__(self, text: str, unquoted: Callable[[str], str]) -> None:
        self.lines = LineNumbers()
        self._unquoted = unquoted
        self._tokens = [*_tokens(text), ("", 0)]
        self._at = 0
        self._entries: dict[Path, int] = {}
        """For each array of tables, the index of its latest table."""
        self._values: set[Path] = set()
        """Paths that have a value already."""

    def peek(self) -> str:
        """The next token; empty at the end."""
        return self._tokens[self._at][0]

    def header(self) -> Path:
        """Read ``[table]`` or ``[[array]]``; return the path of the table that begins."""
        line = self._take()[1]
        is_array = self.peek() == "["
        if is_array:
            self._take()
        path: Path = ()
        for part in self._key("]"):
            path = (*self._latest(path), part)
        if is_array:
            self._take()
            self._entries[path] = self._entries.get(path, -1) + 1
        path = self._latest(path)
        self.lines.known[path] = line
        return path

    def pair(self, table: Path) -> None:
        """Read ``key = value``, or ``"key": value``."""
        line = self._tokens[self._at][1]
        path = table
        for part in self._key("=:"):
            path = (*path, part)
            self.lines.known.setdefault(path, line)
        if path in self._values:
            self.lines.repeated.setdefault(path, line)
        self._values.add(path)
        self.value(path)

    def value(self, path: Path) -> None:
        """Read a value and everything in it."""
        opening, line = self._take()
        self.lines.known.setdefault(path, line)
        if opening not in {"[", "{"}:
            # A date may consist of several tokens, all on one line.
            while self._tokens[self._at][1] == line and self.peek() not in {",", "]", "}"}:
                self._at += 1
            return
        index = 0
        while (word := self.peek()) not in {"]", "}"}:
            if word == ",":
                self._take()
            elif opening == "{":
                self.pair(path)
            else:
                self.value((*path, index))
                index += 1
        self._take()

    def _latest(self, path: Path) -> Path:
        return (*path, self._entries[path]) if path in self._entries else path

    def _take(self) -> tuple[str, int]:
        self._at += 1
        return self._tokens[self._at - 1]

    def _key(self, closing: str) -> list[str]:
        parts: list[str] = []
        while (word := self._take()[0]) not in closing:
            if word[0] in "\"'":
                parts.append(self._unquoted(word))
            else:
                parts += [part for part in word.split(".") if part]
        return parts
