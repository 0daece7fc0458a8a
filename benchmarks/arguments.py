"""Arguments that are lists, with commas between."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import TypeVar

__all__ = ["names_of", "numbers"]

Number = TypeVar("Number", int, float)


def names_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """A parser of some of the names that are known."""

    def parse(text: str) -> list[str]:
        names = [name for name in text.split(",") if name]
        unknown = sorted(set(names) - set(known))
        if unknown or not names:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
        return names

    return parse


def numbers(number: type[Number]) -> Callable[[str], list[Number]]:
    """A parser of positive numbers."""

    def parse(text: str) -> list[Number]:
        found = [number(one) for one in text.split(",")]
        if min(found) <= 0:
            raise argparse.ArgumentTypeError("each has to be more than 0")
        return found

    return parse
