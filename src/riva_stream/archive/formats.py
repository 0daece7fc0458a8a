"""The table of supported formats. To add one: a row here, its decoder, and its signature in `looks`.

A source's format is determined by its first bytes, never by its name; names only say what was intended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from riva_stream.archive.decoder import ContainerName, Decoder
from riva_stream.archive.gzip import GzipPlace, GzipStream
from riva_stream.archive.plain import PlainPlace, PlainStream
from riva_stream.archive.policy import Limits
from riva_stream.archive.sniff import DEEP, chunked, not_a_tar
from riva_stream.archive.tar import BLOCK, begins_tar
from riva_stream.archive.zstd import ZstdPlace, ZstdStream, is_zstd

__all__ = ["FORMATS", "HEAD", "AnyPlace", "ContainerName", "Format", "content_type_of", "detect"]

HEAD = DEEP
"""Bytes that are always enough to determine the format."""

AnyPlace = GzipPlace | ZstdPlace | PlainPlace


@dataclass(frozen=True, slots=True)
class Format:
    """One format, from its name to its decoder."""

    name: ContainerName
    suffixes: tuple[str, ...]
    content_type: str
    begins: Callable[[bytes], bool]
    """Whether these are its first bytes, at most a block of them."""
    open: Callable[[Limits, AnyPlace | None], Decoder]
    """Opens a decoder, at the beginning or at a place of this format."""


def _is_plain(head: bytes) -> bool:
    return begins_tar(head) or (len(head) == BLOCK and not any(head))


FORMATS = (
    Format(
        "gzip",
        (".gz", ".tgz"),
        "application/gzip",
        lambda head: head[:2] == b"\x1f\x8b",
        lambda limits, place: GzipStream(streams=limits.streams, place=cast("GzipPlace | None", place)),
    ),
    Format(
        "zstd",
        (".zst", ".tzst"),
        "application/zstd",
        lambda head: len(head) >= 4 and is_zstd(head),  # noqa: PLR2004 - the length of its magic
        lambda limits, place: ZstdStream(
            streams=limits.streams, window=limits.zstd_window, place=cast("ZstdPlace | None", place)
        ),
    ),
    Format(
        "tar",
        (".tar",),
        "application/x-tar",
        _is_plain,
        lambda _, place: PlainStream(cast("PlainPlace | None", place)),
    ),
)


def content_type_of(filename: str) -> str:
    """The content type of an archive of that name; that of gzip where the name does not say."""
    return next((f.content_type for f in FORMATS if filename.endswith(f.suffixes)), FORMATS[0].content_type)


def detect(head: bytes, *, final: bool = False) -> Format | None:
    """Determine the format from the first bytes of the source; None while there are too few.

    Args:
        head: the bytes known so far, from the first one; ``HEAD`` bytes are always enough.
        final: there are no more.

    Raises:
        ArchiveError: it is not a supported format; the text says what it looks like.
    """
    found = next((f for f in FORMATS if f.begins(head[:BLOCK])), None)
    if found is not None:
        return found
    if not final and (len(head) < BLOCK or (chunked(head) and len(head) < DEEP)):
        return None
    raise not_a_tar(head)
