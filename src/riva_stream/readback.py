"""JSON that is read back from a bucket, where somebody may have changed it: what is wrong in it costs no more than what is right.

A parser makes many times the size of a document out of it, and pydantic an error of its own out of each item that is
wrong. So the values are counted before anything is made of them, lists end at their first wrong item (``fail_fast`` of
their fields), and of the errors that are left only the first is ever put into words.
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
"""A list that is over at its first wrong item when it is read back: each would be an error of its own."""

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
"""A string, be it one that does not end: each byte is looked at once."""
_MOST_ERRORS = 100
"""That are put into a list in order to tell the first of them."""
_MOST_PLACE = 100
"""Characters of the place that an error names; a key of the document may be of any length, and hold anything."""


class UnreadableError(ValueError):
    """A document is not what it should be; the text says in one line why."""


def read_back(validate: Callable[[bytes], T], data: bytes, *, size: int, values: int) -> T:
    """Read a small document.

    Args:
        validate: pydantic's own reader of JSON. Of each field that is missing it makes an error that has all that is there, as
            objects of its own: ``values`` have to be few.
        data: the document.
        size: bytes that it may have.
        values: that may be in it, containers and what is in them.

    Raises:
        UnreadableError: it is larger, or not what ``validate`` takes.
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
        problem = f"the document: {error}"
    raise UnreadableError(problem)


def read_model(model: type[M], data: bytes, *, size: int, values: int) -> M:
    """Read a document of any size: objects are made of it once, and all errors have those. Not for a strict model.

    Raises:
        UnreadableError: as for :func:`read_back`.
    """
    return read_back(lambda text: model.model_validate(from_json(text)), data, size=size, values=values)


def _first_of(error: ValidationError) -> str:
    """The first of the things that are wrong, with its place, in one line."""
    if error.error_count() > _MOST_ERRORS:
        return f"it is wrong in {error.error_count()} places"
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"])) or "the document"
    if len(place) > _MOST_PLACE or not place.isprintable():
        place = ascii(place[:_MOST_PLACE])
    return f"{place}: {first['msg']}"


def _values(data: bytes) -> int:
    """How many values there are, strings being left out; more where they are not."""
    return data.count(b",") + data.count(b"[") + data.count(b"{") + 1
