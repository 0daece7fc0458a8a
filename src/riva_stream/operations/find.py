"""Find stagings by where they lie, without listing what is in them: ENV/MODEL/VERSION, of the bucket or of ``DEPLOYMENTS``.

The latter are bintarball references.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from riva_stream.layout import DEPLOYMENTS, LEVELS
from riva_stream.run import each
from riva_stream.s3 import Bucket

__all__ = ["DEPTH", "each_folder", "is_above", "levels_of"]

DEPTH = LEVELS
"""Folders from the bucket (or ``DEPLOYMENTS``) to a staging: environment, model, version."""
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")


async def each_folder(bucket: Bucket, prefix: str, visit: Callable[[str], Awaitable[None]]) -> int:
    """Visit every folder that lies where a staging would, a few at a time; give how many were listed on the way.

    A page of a thousand names is done before the next one is asked for, so memory does not grow with the bucket.

    Args:
        bucket: where to look; its retrier bounds how many requests run at once.
        prefix: "" or a prefix of up to three folders, with its closing slash; or one of these below ``DEPLOYMENTS``.
        visit: is given the prefix of each.
    """
    if len(levels_of(prefix)) == DEPTH:
        await visit(prefix)
        return 0
    listed = 0
    async for page in bucket.folders(prefix):
        inside = [name for name in page.names if _is_of_a_staging(name, prefix)]
        listed += 1 + sum(await each(inside, lambda folder: each_folder(bucket, folder, visit)))
    return listed


def levels_of(prefix: str) -> list[str]:
    """Environment, model and version, as far as a prefix names them; ``DEPLOYMENTS`` itself names none."""
    return prefix.removeprefix(DEPLOYMENTS).split("/")[:-1]


def is_above(prefix: str) -> bool:
    """Whether stagings lie below a prefix, and none at it."""
    return len(levels_of(prefix)) < DEPTH


def _is_of_a_staging(folder: str, above: str) -> bool:
    return bool(_SEGMENT.fullmatch(folder.removeprefix(above).rstrip("/")))
