"""An archive, or a bare model: read once, hashed, unpacked and sent or copied."""

from __future__ import annotations

from dataclasses import dataclass, field

from riva_stream.destination import Destination
from riva_stream.manifest import Artifact
from riva_stream.pipeline.bintarball import require_content
from riva_stream.pipeline.copies import SourceCopy, plan_copies
from riva_stream.pipeline.deployment_docs import find_container, store_of_container
from riva_stream.pipeline.documents import artifact_of
from riva_stream.pipeline.stream import Streamed, archive_key, is_bare_model, stream
from riva_stream.pipeline.work import Payload, TransferMethod, copied_or_sent, require_unchanged
from riva_stream.report import PlannedObject
from riva_stream.run import Run
from riva_stream.s3 import Bucket, Reader, WritableBucket
from riva_stream.source import PinnedSource, find_source

__all__ = ["FromArchive"]


@dataclass(eq=False)
class FromArchive:
    """See :class:`~riva_stream.pipeline.work.Work`."""

    run: Run
    source: PinnedSource
    container: PinnedSource | None
    _copy: SourceCopy = field(default_factory=lambda: SourceCopy(None), init=False)
    _streamed: Streamed | None = field(default=None, init=False)

    @classmethod
    async def find(cls, run: Run) -> FromArchive:
        """Pin the source, and the container image if one is named.

        Raises:
            SourceNotFoundError: one of them is not there.
        """
        request = run.request
        source = await find_source(run.source_store, request.source_bucket, request.source_key, run.retrier)
        container = await find_container(run)
        referred = [*([] if request.mode == "full" else [source]), *([container] if container else [])]
        require_content(*referred)
        if request.mode != "bintarball_reference":
            request.plan_for(source.size)
        return cls(run, source, container)

    @property
    def uri(self) -> str:
        """Of the source."""
        return self.source.uri

    @property
    def size(self) -> int:
        """Of the source."""
        return self.source.size

    @property
    def pin(self) -> tuple[str, str | None]:
        """The source's own."""
        return self.source.etag, self.source.version_id

    @property
    def largest(self) -> int:
        """The source's."""
        return self.source.size

    @property
    def first(self) -> PinnedSource | None:
        """The source itself."""
        return self.source if self.run.request.mode == "full" else None

    @property
    def own_keys(self) -> frozenset[str]:
        """Where the source's own bytes go."""
        is_full = self.run.request.mode == "full"
        return frozenset({archive_key(self.run, self.source)} if is_full else ())

    def reads(self) -> list[tuple[Bucket, str]]:
        """The source, and the image."""
        pinned = [self.source, *([self.container] if self.container else [])]
        return [(Bucket(self._store_of(one), one.bucket, self.run.retrier), one.key) for one in pinned]

    async def plan(self, bucket: WritableBucket, check: str) -> TransferMethod:
        """Whether the store copies the source."""
        self._copy = await plan_copies(self.run, bucket, self.source, check)
        return TransferMethod(self._copy.how, self._copy.reason)

    def send_instead(self, reason: str) -> TransferMethod:
        """Let the source be sent, whatever was planned."""
        self._copy = SourceCopy(None, reason)
        return TransferMethod(self._copy.how, reason)

    def planned(self) -> list[PlannedObject]:
        """The archive, and a pattern for its models."""
        run, source = self.run, self.source
        bare, part_size = is_bare_model(source), run.part_size_for(source.size)
        archive = PlannedObject(
            key=archive_key(run, source),
            kind="model" if bare else "archive",
            part_size=part_size,
            parts=-(-source.size // part_size),
        )
        patterns = " ".join(run.request.include)
        models = PlannedObject(key=f"{run.request.prefix}models/<{patterns}>", kind="models")
        return [archive] if bare else [archive, models]

    async def move(self, destination: Destination) -> Payload:
        """Stream the source; once more, and sent, where it turns out that the store does not copy it after all."""
        run, source = self.run, self.source
        streamed = self._streamed = await copied_or_sent(
            run,
            destination,
            lambda: stream(run, source, destination, self._copy),
            lambda reason: stream(run, source, destination, SourceCopy(None, reason)),
        )
        members = streamed.members
        return Payload(
            [streamed.archive, *(staged.upload for staged in members)],
            [streamed.digest.sha256, *(staged.digest.record().sha256 for staged in members)],
            has_archive=not is_bare_model(source),
        )

    def describe(self, upload_check: str) -> Artifact:
        """What was streamed, or what is pointed at."""
        return artifact_of(
            self.run, self.source, self._streamed, upload_check=upload_check, objects_verified=True
        )

    async def confirm(self) -> None:
        """Look again at what is only pointed at. Of a source that was read every range was asked for with its ETag."""
        for one in (self.container, self.source if self.run.request.mode != "full" else None):
            if one is not None:
                await require_unchanged(Bucket(self._store_of(one), one.bucket, self.run.retrier), one)

    def _store_of(self, pinned: PinnedSource) -> Reader:
        return store_of_container(self.run) if pinned is self.container else self.run.source_store
