"""Tags on a run's objects: requested, never required.

A tag is optional. Whatever the store or the credentials make of it, the staging succeeds; but a warning says if an
object has no tags, and ``artifact.json`` names the tags only if every object has them.

AWS accepts tags in PutObject and CreateMultipartUpload, and refuses either as a whole if the permission is missing
(s3:PutObjectTagging): it is sent again without. Some other stores accept the header and forget it, so the tags of the
first objects are read back, and set by PutObjectTagging where they are missing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from riva_stream.errors import AccessDeniedError, ConfigurationError, HeldError, RivaStreamError
from riva_stream.s3 import NO_TAGS, Bucket
from riva_stream.s3.bucket import confirm_refusal
from riva_stream.s3.scratch import discard_message

__all__ = ["Tagging"]

T = TypeVar("T")


@dataclass(eq=False)
class Tagging:
    """The tags of one run's objects, and whether they were applied."""

    wanted: Mapping[str, str] = field(default_factory=dict)
    """Empty: no tags are requested."""
    warn: Callable[[str], None] = discard_message
    refused: bool = field(default=False, init=False)
    """Whether some object lacks the tags, which was reported."""
    _beside: bool = field(default=False, init=False)
    """Whether the store does not accept them in the request that creates an object: they are set afterwards."""
    _trusted: bool = field(default=False, init=False)
    """Whether tags that were sent with an object were found on it."""

    @property
    def tags(self) -> Mapping[str, str]:
        """The tags that every object has, as far as is known now."""
        return NO_TAGS if self.refused else self.wanted

    async def along(self, make: Callable[[Mapping[str, str]], Awaitable[T]]) -> T:
        """Create an object or an upload with the tags; without them if it is the tags that are refused.

        Raises:
            RivaStreamError: it cannot be created without tags either.
        """
        if not self.tags or self._beside:
            return await make(NO_TAGS)
        try:
            return await confirm_refusal(partial(make, self.wanted))
        except (AccessDeniedError, ConfigurationError) as error:
            made = await make(NO_TAGS)  # if refused for another reason, this raises what the run ends with
            if isinstance(error, AccessDeniedError):
                self._give_up(error)
            else:
                self._beside = True
            return made

    async def ensure_tagged(
        self,
        bucket: Bucket,
        put: Callable[[str], Awaitable[None]],
        keys: Iterable[str],
        *,
        older: Iterable[str] = (),
    ) -> None:
        """Make sure that these objects, which exist now, have the tags.

        Args:
            bucket: the bucket of the objects.
            put: sets the wanted tags on the object of a key.
            keys: objects that this run has created, with the tags if the store accepted them.
            older: objects whose uploads were created by an earlier run, perhaps when the tags were refused.
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
        """Whether the tags sent with ``key`` are on it; read only once, and not at all on AWS."""
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
            f"not all objects are tagged: {reason}; the staging is complete, but lifecycle rules by tag do not apply "
            "to it"
        )
