"""Tags on what a run writes: asked for, never forced.

A tag is a wish beside the staging. Whatever the store or the credentials make of it, the staging succeeds; but it is
said in a warning when an object has none, and ``artifact.json`` names the tags only if every object has them.

AWS takes tags along with PutObject and CreateMultipartUpload, and refuses both as a whole where the right is missing
(s3:PutObjectTagging): they are sent again without. Other stores are also known to take the header and forget it, so
what they have of the first objects is read back, and is set by PutObjectTagging where it is not there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from riva_stream.errors import AccessDeniedError, ConfigurationError, HeldError, RivaStreamError
from riva_stream.s3 import NO_TAGS, Bucket
from riva_stream.s3.scratch import discard_message

__all__ = ["Tagging"]

T = TypeVar("T")


@dataclass(eq=False)
class Tagging:
    """The tags of one run's objects, and what became of them."""

    wanted: Mapping[str, str] = field(default_factory=dict)
    """Empty: none are asked for."""
    warn: Callable[[str], None] = discard_message
    refused: bool = field(default=False, init=False)
    """Not every object has them, and that was said."""
    _beside: bool = field(default=False, init=False)
    """The store does not take them along with what creates an object: they are set afterwards."""
    _trusted: bool = field(default=False, init=False)
    """Tags that went along with an object were found on it."""

    @property
    def tags(self) -> Mapping[str, str]:
        """What every object has, as far as is known now."""
        return NO_TAGS if self.refused else self.wanted

    async def along(self, make: Callable[[Mapping[str, str]], Awaitable[T]]) -> T:
        """Create an object or an upload with the tags; without them where they are what is refused.

        Raises:
            RivaStreamError: it cannot be created without tags either.
        """
        if not self.tags or self._beside:
            return await make(NO_TAGS)
        try:
            return await make(self.wanted)
        except (AccessDeniedError, ConfigurationError) as error:
            made = await make(NO_TAGS)  # refused for another reason, this raises what the run has to end with
            if isinstance(error, AccessDeniedError):
                self._give_up(error)
            else:
                self._beside = True
            return made

    async def settle(
        self,
        bucket: Bucket,
        put: Callable[[str], Awaitable[None]],
        keys: Iterable[str],
        *,
        older: Iterable[str] = (),
    ) -> None:
        """Make sure that these objects, which exist now, have the tags.

        Args:
            bucket: that has them.
            put: gives the object of a key the wanted tags.
            keys: objects that this run has created, with the tags if the store took them.
            older: objects whose uploads an earlier run had created, perhaps when the tags were refused.
        """
        if not self.tags:
            return
        bare = [key for key in keys if self._beside or not await self._is_tagged(bucket, key)]
        for key in sorted({*older, *bare}):
            try:
                await put(key)
            except HeldError:
                raise
            except RivaStreamError as error:
                self._give_up(error)
                return

    async def _is_tagged(self, bucket: Bucket, key: str) -> bool:
        """Whether the tags that went along with ``key`` are there; read once, and not at all on AWS."""
        if bucket.is_aws or self._trusted:
            return True
        try:
            found = await bucket.get_tags(key)
        except RivaStreamError:
            found = NO_TAGS  # setting them again does no harm
        self._trusted = dict(found) == dict(self.wanted)
        self._beside = not self._trusted
        return self._trusted

    def _give_up(self, error: RivaStreamError) -> None:
        if self.refused:
            return
        self.refused = True
        reason = (
            "the right s3:PutObjectTagging is missing" if isinstance(error, AccessDeniedError) else error.what
        )
        self.warn(
            f"not all objects are tagged: {reason}; the staging is as good without, but a lifecycle rule by tag "
            "does not see it"
        )
