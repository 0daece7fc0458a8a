"""The limits and modules in ``docs/archives.md`` are the real ones."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from riva_stream.archive import Limits

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "archives.md").read_text(encoding="utf-8")


def test_every_limit_is_on_the_page() -> None:
    section = PAGE.partition("\n## Limits")[2].partition("\n## ")[0]
    assert {field.name for field in fields(Limits) if f"`{field.name}`" not in section} == set()


def test_every_module_is_on_the_page() -> None:
    section = PAGE.partition("\n## How it reads")[2].partition("\n## ")[0]
    modules = {path.name for path in (ROOT / "src/riva_stream/archive").glob("[!_]*.py")}
    assert {name for name in modules if f"`{name}`" not in section} == set()
