"""An archive, or a bare model: read once, hashed, unpacked, and sent or copied."""

from __future__ import annotations

from dataclasses import dataclass, field

from riva_stream.destination import Destination
from riva_stream.errors import IntegrityError, Where
from riva_stream.layout import is_model
from riva_stream.manifest import Artifact
from riva_stream.pipeline.copies import SourceCopy, plan_copies
from riva_stream.pipeline.documents import artifact_of
from riva_stream.pipeline.stream import Streamed, stream
from riva_stream.pipeline.work import Payload, TransferMethod, Work
from riva_stream.report import PlannedObject
from riva_stream.run import Run
from riva_stream.s3 import Bucket, Reader, WritableBucket
from riva_stream.source import PinnedSource, find_source

__all__ = ["FromArchive"]


@dataclass(eq=False)
class FromArchive(Work):
    """See :class:`~riva_stream.pipeline.work.Work`."""

    _copy: SourceCopy = field(default_factory=lambda: SourceCopy(None), init=False)
    _streamed: Streamed | None = field(default=None, init=False)

    @classmethod
    async def find(cls, run: Run) -> FromArchive:
        """Pin the source, and the container image if one is named.

        Raises:
            SourceNotFoundError: one of them does not exist.
            IntegrityError: an object that is only referred to is empty.
        """
        request = run.request
        source = await find_source(run.source_store, request.source_bucket, request.source_key, run.retrier)
        container = await _find_container(run)
        for referred in (None if request.mode == "full" else source, container):
            if referred is not None and referred.size == 0:
                raise IntegrityError(
                    f"{referred.uri} is empty",
                    where=Where("HeadObject", referred.bucket, referred.key),
                    hint="upload it again; nothing was written",
                )
        if request.mode != "bintarball_reference":
            request.plan_for(source.size)
        return cls(run, source, container)

    @property
    def first(self) -> PinnedSource | None:
        """The source itself."""
        return self.source if self.run.request.mode == "full" else None

    @property
    def own_keys(self) -> frozenset[str]:
        """The key of the source's own bytes."""
        return frozenset({self.run.layout.of_source(self.source.filename)} if self.first else ())

    @property
    def method(self) -> TransferMethod:
        """Whether the store copies the source."""
        return TransferMethod(self._copy.how, self._copy.reason)

    def reads(self) -> list[tuple[Bucket, str]]:
        """The source, and the image."""
        return [(self._bucket_of(one), one.key) for one in (self.source, self.container) if one is not None]

    async def plan(self, bucket: WritableBucket, check: str) -> None:
        """See :func:`~riva_stream.pipeline.copies.plan_copies`."""
        self._copy = await plan_copies(self.run, bucket, self.source, check)

    def send_instead(self, reason: str) -> None:
        """Send the source instead of copying it."""
        self._copy = SourceCopy(None, reason)

    def planned(self) -> list[PlannedObject]:
        """The archive, and a pattern for its models."""
        run, source = self.run, self.source
        bare, part_size = is_model(source.key), run.part_size_for(source.size)
        archive = PlannedObject(
            key=run.layout.of_source(source.filename),
            kind="model" if bare else "archive",
            part_size=part_size,
            parts=-(-source.size // part_size),
        )
        models = run.layout.of_model(f"<{' '.join(run.request.include)}>")
        return [archive, *([] if bare else [PlannedObject(key=models, kind="models")])]

    async def _moved(self, destination: Destination) -> Payload:
        streamed = self._streamed = await stream(self.run, self.source, destination, self._copy)
        members = streamed.members
        return Payload(
            [streamed.archive, *(staged.upload for staged in members)],
            [streamed.digest.sha256, *(staged.digest.record().sha256 for staged in members)],
            has_archive=not is_model(self.source.key),
        )

    def describe(self, upload_check: str) -> Artifact:
        """``artifact.json`` of what was streamed, or of what is referred to."""
        return artifact_of(self.run, self.source, self._streamed, upload_check)

    def _store_of(self, pinned: PinnedSource) -> Reader:
        return _store_of_container(self.run) if pinned is self.container else self.run.source_store


def _store_of_container(run: Run) -> Reader:
    """The destination's store for an image in its bucket; the source's store for any other."""
    request = run.request
    return run.destination.store if request.server_bucket == request.bucket else run.source_store


async def _find_container(run: Run) -> PinnedSource | None:
    """Pin the container image by one HEAD; None if none was named.

    Raises:
        SourceNotFoundError: it does not exist; the message names the nearest keys.
    """
    request = run.request
    if request.server_path is None:
        return None
    return await find_source(
        _store_of_container(run),
        request.server_bucket,
        request.server_key,
        run.retrier,
        field="server_path",
    )
