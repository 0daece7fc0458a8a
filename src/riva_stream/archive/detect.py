"""What the source is, by its first bytes and never by its name."""

from __future__ import annotations

from typing import Literal

from riva_stream.archive.looks import DEEP, chunked, not_a_tar
from riva_stream.archive.tar import BLOCK, looks_like_tar
from riva_stream.archive.zstd import is_zstd

__all__ = ["HEAD", "ContainerName", "detect"]

HEAD = DEEP
"""Bytes that are always enough to tell."""

ContainerName = Literal["gzip", "zstd", "tar"]


def detect(head: bytes, *, final: bool = False) -> ContainerName | None:
    """Tell the container by the first bytes of the source; None while there are too few.

    Args:
        head: what is known of it, from its first byte; ``HEAD`` bytes are always enough.
        final: there are no more.

    Raises:
        ArchiveError: it is none that is read; the text says what it looks like.
    """
    if head[:2] == b"\x1f\x8b":
        return "gzip"
    if len(head) >= 4 and is_zstd(head):  # noqa: PLR2004 - the length of its magic
        return "zstd"
    if len(head) < BLOCK and not final:
        return None
    block = head[:BLOCK]
    if looks_like_tar(block) or block[257:262] == b"ustar" or (len(block) == BLOCK and not any(block)):
        return "tar"
    if chunked(head) and len(head) < DEEP and not final:
        return None
    raise not_a_tar(head)
