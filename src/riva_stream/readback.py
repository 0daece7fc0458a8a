"""JSON read back from a bucket, where others may have changed it: an invalid document costs no more than a valid one.

A parser builds objects many times the size of a document, and pydantic creates an error for each invalid item. So the
values are counted before anything is built, validation of a list stops at its first invalid item (``fail_fast`` of its
field), and only the first of the remaining errors is ever put into words.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, TypeVar

from pydantic import BaseModel, Field, ValidationError
from pydantic_core import from_json

__all__ = ["Items", "UnreadableError", "read_back", "read_model"]

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

Items = Annotated[list[T], Field(fail_fast=True)]
"""A list whose validation stops at its first invalid item: each would be an error of its own."""

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
"""A string, even one that is not terminated: each byte is scanned once."""
_MOST_ERRORS = 100
"""Maximum number of errors that are listed in order to report the first."""
_MOST_PLACE = 100
"""Maximum characters of the location in an error; a key of the document may be of any length, and hold anything."""


class UnreadableError(ValueError):
    """A document is not what it should be; the text says why, in one line."""


def read_back(validate: Callable[[bytes], T], data: bytes, *, size: int, values: int) -> T:
    """Read a small document.

    Args:
        validate: pydantic's own JSON reader. For each missing field it creates an error that holds the whole input, as
            new objects: ``values`` must be small.
        data: the document.
        size: maximum bytes.
        values: maximum number of values in it, containers included.

    Raises:
        UnreadableError: it is too large, or ``validate`` rejects it.
    """
    if len(data) > size:
        raise UnreadableError(f"it has {len(data)} bytes, and can have {size}")
    if _values(data) > values and _values(_STRING.sub(b"", data)) > values:
        raise UnreadableError(f"it has more than {values} values")
    try:
        return validate(data)
    except ValidationError as error:
        problem = _first_of(error)
    except ValueError as error:
        problem = f"it is not valid JSON: {error}"
    raise UnreadableError(problem)


def read_model(model: type[M], data: bytes, *, size: int, values: int) -> M:
    """Read a document of any size: it is parsed once, and all errors share the result. Not for a strict model.

    Raises:
        UnreadableError: as for :func:`read_back`.
    """
    return read_back(lambda text: model.model_validate(from_json(text)), data, size=size, values=values)


def _first_of(error: ValidationError) -> str:
    """The first of the errors, with its location, in one line."""
    if error.error_count() > _MOST_ERRORS:
        return f"it is wrong in {error.error_count()} places"
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"])) or "the document"
    if len(place) > _MOST_PLACE or not place.isprintable():
        place = ascii(place[:_MOST_PLACE])
    return f"{place}: {first['msg']}"


def _values(data: bytes) -> int:
    """The number of values if ``data`` holds no strings; otherwise it may be too high."""
    return data.count(b",") + data.count(b"[") + data.count(b"{") + 1
