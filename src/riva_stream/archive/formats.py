"""The formats that are read: the one table of them. Another one is a row here, its decoder, and what it looks like in `looks`.

What a source is, is told by its first bytes, never by its name; names only say what a thing is meant to be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, cast

from riva_stream.archive.gzip import GzipPlace, GzipStream
from riva_stream.archive.plain import PlainPlace, PlainStream
from riva_stream.archive.policy import Limits
from riva_stream.archive.sniff import DEEP, chunked, not_a_tar
from riva_stream.archive.tar import BLOCK, looks_like_tar
from riva_stream.archive.zstd import ZstdPlace, ZstdStream, is_zstd

__all__ = ["FORMATS", "HEAD", "ContainerName", "Decoder", "Format", "Place", "content_type_of", "detect"]

HEAD = DEEP
"""Bytes that are always enough to tell."""

ContainerName = Literal["gzip", "zstd", "tar"]
Place = GzipPlace | ZstdPlace | PlainPlace
"""Where a decoder can be begun anew; ``offset`` is the byte of the archive that it needs first, ``produced`` how many
bytes everything before it came to."""


class Decoder(Protocol):
    """The layer around the tar: pieces of the archive in, blocks of the tar out."""

    @property
    def checksum(self) -> str | None:
        """What vouches for the bytes: ``gzip-crc32``, ``zstd-checksum``, or None."""

    @property
    def consumed(self) -> int:
        """Archive bytes that have been worked on."""

    @property
    def window(self) -> int:
        """Bytes that decoding holds, of which nothing else tells."""

    @property
    def place(self) -> Place:
        """The latest place from which the rest could be read."""

    @property
    def needs_input(self) -> bool:
        """Whether there is nothing more to get from what was pushed."""

    def mark(self) -> None:
        """Let :attr:`place` be the next such place."""

    def push(self, piece: bytes | memoryview) -> None:
        """Hand over the next piece of the archive; only when it is needed."""

    def pull(self, max_output: int) -> bytes | memoryview:
        """The next block, of at most ``max_output`` bytes or 128 KiB; empty when the pushed piece gives no more.

        Raises:
            ArchiveError: the data is damaged; all output before that was given.
        """

    def finish(self) -> None:
        """The archive has no more bytes.

        Raises:
            ArchiveError: it is cut.
        """


@dataclass(frozen=True, slots=True)
class Format:
    """One format, from its name to its decoder."""

    name: ContainerName
    suffixes: tuple[str, ...]
    content_type: str
    begins: Callable[[bytes], bool]
    """Whether these are its first bytes, at most a block of them."""
    open: Callable[[Limits, Place | None], Decoder]
    """A decoder, from the beginning or from a place of this format."""


def _is_plain(head: bytes) -> bool:
    return looks_like_tar(head) or head[257:262] == b"ustar" or (len(head) == BLOCK and not any(head))


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
    """The content type of an archive of that name; that of a gzip where the name says nothing."""
    found = next((f for f in FORMATS if filename.endswith(f.suffixes)), FORMATS[0])
    return found.content_type


def detect(head: bytes, *, final: bool = False) -> Format | None:
    """Tell the format by the first bytes of the source; None while there are too few.

    Args:
        head: what is known of it, from its first byte; ``HEAD`` bytes are always enough.
        final: there are no more.

    Raises:
        ArchiveError: it is none that is read; the text says what it looks like.
    """
    found = next((f for f in FORMATS if f.begins(head[:BLOCK])), None)
    if found is not None:
        return found
    if not final and (len(head) < BLOCK or (chunked(head) and len(head) < DEEP)):
        return None
    raise not_a_tar(head)
