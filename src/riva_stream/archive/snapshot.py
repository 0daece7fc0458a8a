"""What a snapshot is made of: plain data alone, each value with its bounds, so that a hostile one is only bad input.

The state of each layer is a dataclass of such values. A snapshot is their JSON; pydantic reads it back strictly, and each
layer then holds its own state against what can be (``check``). Nothing of it is ever taken for an address, a length of
memory that is not there, or code.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, ClassVar
from urllib.parse import quote_from_bytes, unquote_to_bytes

from pydantic import ConfigDict, Field, PlainSerializer, PlainValidator

__all__ = [
    "BOUNDED",
    "MOST_STATE",
    "Buffer",
    "Bytes",
    "Count",
    "InvalidSnapshotError",
    "Name",
    "Strict",
    "require",
]

MOST_STATE = 256 << 10
"""Bytes of a snapshot, apart from what was found in the archive."""
BOUNDED = Field(fail_fast=True, max_length=MOST_STATE // 4)
"""For each list of a snapshot: ``[0],`` is the shortest that an item of one can be. It is over at its first wrong item, each of
which would be an error of its own."""


class Strict:
    """What the dataclasses of a snapshot are: read back as they are or not at all."""

    __slots__ = ()
    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", strict=True)


class InvalidSnapshotError(ValueError):
    """A snapshot is damaged, made up, of another version, or taken with other options: begin at the start."""


def require(holds: object, what: str) -> None:
    """Refuse a snapshot that cannot be.

    Raises:
        InvalidSnapshotError: ``holds`` is false.
    """
    if not holds:
        raise InvalidSnapshotError(f"{what} cannot be")


def _decoded(value: Any) -> bytes:
    if not isinstance(value, str):
        raise ValueError("not base64")  # noqa: TRY004 - pydantic wants a ValueError
    return base64.b64decode(value, validate=True)


def _encoded(value: bytes | bytearray) -> str:
    return base64.b64encode(value).decode()


def _quoted(name: str) -> str:
    return quote_from_bytes(name.encode("utf-8", "surrogateescape"), safe="/ ")


def _unquoted(value: Any) -> str:
    name = unquote_to_bytes(value).decode("utf-8", "surrogateescape") if isinstance(value, str) else None
    if name is None or _quoted(name) != value:
        raise ValueError("not a quoted name")
    return name


Count = Annotated[int, Field(ge=0, le=(1 << 63) - 1)]
"""Bytes, or how many."""
Bytes = Annotated[bytes, PlainValidator(_decoded), PlainSerializer(_encoded)]
Buffer = Annotated[
    bytearray, PlainValidator(lambda value: bytearray(_decoded(value))), PlainSerializer(_encoded)
]
Name = Annotated[str, PlainValidator(_unquoted), PlainSerializer(_quoted)]
"""A name of the archive; bytes that are not UTF-8 are lone surrogates, which JSON has no place for: percent-encoded."""
