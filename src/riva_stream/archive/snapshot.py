"""What a snapshot consists of: plain data alone, each value with its bounds, so that a hostile one is only bad input.

The state of each layer is a dataclass of such values. A snapshot is their JSON; pydantic reads it back strictly, and each
layer then checks that its state is possible (``check``). Nothing in it is ever used as an address, as a length of
memory that does not exist, or as code.
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
"""Maximum bytes of a snapshot, apart from what was found in the archive."""
BOUNDED = Field(fail_fast=True, max_length=MOST_STATE // 4)
"""For each list of a snapshot: its shortest possible item is ``[0],``. Validation stops at the first invalid item,
since each would be an error of its own."""


class Strict:
    """Base of the dataclasses of a snapshot: they are read back exactly or not at all."""

    __slots__ = ()
    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", strict=True)


class InvalidSnapshotError(ValueError):
    """A snapshot is damaged, forged, of another version, or was taken with other options: begin at the start."""


def require(holds: object, what: str) -> None:
    """Refuse an impossible snapshot.

    Raises:
        InvalidSnapshotError: ``holds`` is false.
    """
    if not holds:
        raise InvalidSnapshotError(f"{what} is invalid")


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
"""A number of bytes or of items."""
Bytes = Annotated[bytes, PlainValidator(_decoded), PlainSerializer(_encoded)]
Buffer = Annotated[
    bytearray, PlainValidator(lambda value: bytearray(_decoded(value))), PlainSerializer(_encoded)
]
Name = Annotated[str, PlainValidator(_unquoted), PlainSerializer(_quoted)]
"""A name in the archive; invalid UTF-8 becomes lone surrogates, which JSON cannot hold, so it is percent-encoded."""
