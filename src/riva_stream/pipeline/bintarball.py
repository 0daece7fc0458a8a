"""A bintarball reference: archive and container image stay where they are, and one document pins both.

Two files below ``bintarball/deployment-metadata/``, of which ``deployment_ready.txt`` is the marker.
"""

from __future__ import annotations

from riva_stream.errors import IntegrityError, Where
from riva_stream.source import PinnedSource

__all__ = ["require_content"]


def require_content(*referred: PinnedSource) -> None:
    """Refuse to refer to what is empty.

    Raises:
        IntegrityError: archive or image is empty.
    """
    for pinned in referred:
        if pinned.size == 0:
            raise IntegrityError(
                f"{pinned.uri} is empty",
                where=Where("HeadObject", pinned.bucket, pinned.key),
                hint="upload it again; nothing was written",
            )
