"""The manual: the pages of ``docs/`` and the README, which the package ships.

In a wheel they lie in ``riva_stream/manual``; in a checkout, and in an editable install, which is one, they are
read where they are written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import riva_stream

__all__ = ["Page", "find", "nearest", "sections", "topics"]

_PREFIXES = ("from-",)
"""Left out of a page's other name: docs/from-riva-130.md is found by riva-130 as well."""
_HEADING = re.compile(r"^(#+) +(.+?)\s*#*$")
_FENCE = re.compile(r"^\s*(```|~~~)")


@dataclass(frozen=True, slots=True)
class Page:
    """One page."""

    topic: str
    path: Path
    aliases: tuple[str, ...]

    @property
    def text(self) -> str:
        """Its Markdown."""
        return self.path.read_text(encoding="utf-8")

    @property
    def title(self) -> str:
        """Its first heading, or else its topic."""
        for line in _prose(self.text):
            if match := _HEADING.match(line):
                return match[2].replace("`", "")
        return self.topic

    @property
    def summary(self) -> str:
        """The first sentence of its first paragraph, without marks of Markdown; "" where there is none."""
        paragraph: list[str] = []
        for line in _prose(self.text):
            if re.match(r"[\w*`\[\"(]", line):
                paragraph.append(line)
            elif paragraph:
                break
        text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", " ".join(paragraph)).replace("`", "").replace("**", "")
        return re.split(r"(?<=[.:;]) ", text)[0].rstrip(".:;")


def topics() -> list[Page]:
    """Every page, the README first, then by name."""
    folders = _folders()
    files = sorted({path.name: path for folder in folders for path in folder.glob("*.md")}.items())
    pages = []
    for name, path in files:
        stem = path.stem.lower()
        aliases = [stem.removeprefix(prefix) for prefix in _PREFIXES if stem.startswith(prefix)]
        if name == "README.md":
            aliases += ["overview", "tour"]
        if name != "CHANGELOG.md":
            pages.append(Page(stem, path, tuple(aliases)))
    return sorted(pages, key=lambda page: (page.topic != "readme", page.topic))


def find(name: str) -> str | None:
    """The Markdown of a page, by topic, alias or file name, or else of a section of one, by its heading.

    ``exit-codes`` is the section "Exit codes", wherever it stands; ``readme#exit-codes`` is that of one page.
    """
    wanted, _, anchor = name.strip().lower().rpartition("/")[2].partition("#")
    wanted = wanted.removesuffix(".md").replace("_", "-").replace(" ", "-")
    pages = topics()
    for page in pages:
        if wanted in (page.topic.replace("_", "-"), *page.aliases):
            return _section(page, anchor) if anchor else page.text
    if not anchor:
        for page in pages:
            if (found := _section(page, wanted)) is not None:
                return found
    return None


def sections() -> list[str]:
    """The anchors of all headings of all pages."""
    return [anchor for page in topics() for _, _, anchor in _headings(page)]


def nearest(name: str) -> list[str]:
    """Topics and sections whose names are much like ``name``, the nearest first."""
    import difflib  # noqa: PLC0415 - only a wrong name pays for it

    names = [name for page in topics() for name in (page.topic, *page.aliases)]
    wanted = name.strip().lower().replace(" ", "-")
    close = difflib.get_close_matches(wanted, names, n=3)
    inside = [name for name in dict.fromkeys([*names, *sections()]) if wanted and wanted in name]
    found = [*close, *inside, *difflib.get_close_matches(wanted, sections(), n=3)]
    return list(dict.fromkeys(found))[:5]


def _folders() -> list[Path]:
    package = Path(riva_stream.__file__).parent
    shipped = package / "manual"
    if shipped.is_dir():
        return [shipped]
    root = package.parent.parent
    return [root, root / "docs"] if (root / "pyproject.toml").is_file() else []


def _prose(text: str) -> Iterator[str]:
    """Lines that are not inside a block of code; those come as empty ones."""
    fenced = False
    for line in text.splitlines():
        if _FENCE.match(line):
            fenced = not fenced
            yield ""
        else:
            yield "" if fenced else line


def _headings(page: Page) -> list[tuple[int, int, str]]:
    """Line, level and anchor (as GitHub makes it) of each heading below the title."""
    found = []
    for number, line in enumerate(_prose(page.text)):
        if match := _HEADING.match(line):
            anchor = re.sub(r"[^\w\- ]", "", match[2].lower()).replace(" ", "-")
            found.append((number, len(match[1]), anchor))
    return found


def _section(page: Page, anchor: str) -> str | None:
    headings = _headings(page)
    for index, (first, level, name) in enumerate(headings):
        if name == anchor:
            ends = (at for at, other, _ in headings[index + 1 :] if other <= level)
            lines = page.text.splitlines()
            return "\n".join(lines[first : next(ends, len(lines))]).rstrip() + "\n"
    return None
