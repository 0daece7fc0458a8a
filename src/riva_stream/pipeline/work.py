"""What a run stages: where its bytes come from, and how it is described.

There are two kinds: an archive, which is streamed and unpacked, and a staging, which is promoted. Nothing in here changes
what readers see; :mod:`~riva_stream.pipeline.protocol` is the same for both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from riva_stream.destination import Destination
from riva_stream.documents.compare import ContradictionError, retry_contradictions
from riva_stream.errors import DigestMismatchError, SourceChangedError, Where, first_of
from riva_stream.lease import SENT_INSTEAD, Identity
from riva_stream.manifest import Artifact
from riva_stream.report import PlannedObject
from riva_stream.run import Run
from riva_stream.s3 import Bucket, Reader, WritableBucket
from riva_stream.sink import NotCopiedError, Upload
from riva_stream.source import PinnedSource

__all__ = ["Payload", "TransferMethod", "Work"]


@dataclass(frozen=True, slots=True)
class TransferMethod:
    """How the objects will be made."""

    how: str
    """``sent``, or the proof of the copies that the store makes; see :class:`~riva_stream.manifest.Validation`."""
    reason: str
    """Why they are sent, if the store was asked to copy."""


@dataclass(frozen=True, slots=True)
class Payload:
    """Objects of which every byte is durable and verified as far as possible; nothing is visible yet."""

    uploads: Sequence[Upload]
    """Archive and models, in the order of ``checksums.sha256``."""
    sha256: Sequence[str]
    """SHA-256 of each."""
    has_archive: bool
    """Whether the first of them is the archive; a bare model has none."""


@dataclass(eq=False)
class Work(ABC):
    """One staging to be made. By default the source itself is read; a subclass may differ."""

    run: Run
    source: PinnedSource
    """As ``artifact.json`` describes it."""
    container: PinnedSource | None
    """The image that the deployment documents name; None: there are none."""

    @property
    def uri(self) -> str:
        """``s3://`` URI of what is read."""
        return self.source.uri

    @property
    def size(self) -> int:
        """Bytes of what is read."""
        return self.source.size

    @property
    def pin(self) -> tuple[str, str | None]:
        """ETag and VersionId of what is read."""
        return self.source.etag, self.source.version_id

    @property
    def largest(self) -> int:
        """Bytes of the largest object that passes through here, as far as planned; 0 if none does."""
        return self.source.size

    @property
    @abstractmethod
    def first(self) -> PinnedSource | None:
        """An object whose bytes are needed, for testing read permission; None by reference."""

    @property
    @abstractmethod
    def own_keys(self) -> frozenset[str]:
        """Keys of the objects that hold the source's own bytes; empty by reference."""

    @property
    @abstractmethod
    def method(self) -> TransferMethod:
        """How the objects are made, as planned."""

    @abstractmethod
    def reads(self) -> list[tuple[Bucket, str]]:
        """Bucket and key of every object that is read or referred to."""

    @abstractmethod
    async def plan(self, bucket: WritableBucket, check: str) -> None:
        """Decide how the objects are made.

        Args:
            bucket: the destination, for scratch uploads.
            check: the checksum of parts; see ``--upload-check``.

        Raises:
            ConfigurationError: the request demands copies by the store, which are not possible.
        """

    @abstractmethod
    def send_instead(self, reason: str) -> None:
        """Send the objects, whatever was planned."""

    @abstractmethod
    def planned(self) -> list[PlannedObject]:
        """Archive and models, as far as known before anything is read."""

    @abstractmethod
    def describe(self, upload_check: str) -> Artifact:
        """``artifact.json`` of what was moved, or of what is referred to."""

    @abstractmethod
    def _store_of(self, pinned: PinnedSource) -> Reader:
        """The store of the source, or of the image."""

    @abstractmethod
    async def _moved(self, destination: Destination) -> Payload:
        """Do what :meth:`move` does, as planned."""

    def _bucket_of(self, pinned: PinnedSource) -> Bucket:
        return Bucket(self._store_of(pinned), pinned.bucket, self.run.retrier)

    async def move(self, destination: Destination) -> Payload:
        """Make every object durable as an open upload, and verify what can be verified.

        If it turns out that the store does not copy after all, the objects are sent instead.

        Raises:
            IntegrityError: the bytes are not the expected ones.
            NotCopiedError: the request demands a copy by the store.
        """
        try:
            return await self._moved(destination)
        except (BaseExceptionGroup, NotCopiedError) as error:
            first = first_of(error)
            if not isinstance(first, NotCopiedError):
                raise
            if self.run.request.source_copy == "store":
                raise first from first.__cause__
            reason = first.what
        self.run.warn("source-copy", f"{reason}: the source is read once more, and sent")
        await destination.uploads.start_over()
        destination.checkpoints = []  # none describes what is sent
        # A run that copies must not resume what is sent from here on; one that sends instead may.
        if destination.identity is not None:
            destination.identity = destination.identity.model_copy(update={"source_copy": SENT_INSTEAD})
        self.send_instead(reason)
        return await self._moved(destination)

    async def confirm(self) -> None:
        """Check again what is only referred to, just before the marker.

        Raises:
            SourceChangedError: it was replaced meanwhile.
        """
        for one in (self.container, None if self.first else self.source):
            if one is not None:
                await _require_unchanged(self._bucket_of(one), one)

    def identity(self, check: str) -> Identity:
        """What two runs must have in common for one to resume the other's uploads."""
        request, (etag, version_id) = self.run.request, self.pin
        return Identity(
            source=self.uri,
            etag=etag,
            version_id=version_id,
            size=self.size,
            include=sorted(set(request.include)),
            part_size=request.part_size,
            check=check,
            options=[
                *(str(option) for option in (request.sse, request.kms_key_id, request.storage_class)),
                *([f"acl={request.acl}"] if request.acl else []),
                *(f"{name}={value}" for name, value in request.tags.items()),
            ],
            source_copy=self.method.how,
        )


async def _require_unchanged(bucket: Bucket, pinned: PinnedSource) -> None:
    """Check that what is only referred to is unchanged: whoever uses the staging reads what has that name by then.

    Raises:
        SourceChangedError: it was replaced, or removed.
        AccessDeniedError: it may no longer be read, or it may not be told that it was removed.
    """
    changed = ContradictionError(
        f"{pinned.uri} was replaced or removed after it was found",
        where=Where("HeadObject", pinned.bucket, pinned.key),
        hint="run again to stage what is there now",
    )

    async def look() -> None:
        info = await bucket.once.head_confirming_absence(pinned.key, listed=True)  # it could be read before
        if info is None or (info.etag, info.version_id) != (pinned.etag, pinned.version_id):
            raise changed

    try:
        await retry_contradictions(bucket, "HeadObject", look)
    except DigestMismatchError as error:
        raise SourceChangedError(error.what, where=error.where, hint=error.hint) from error
