"""``read_staging()``: a committed staging as its marker vouches for it, not as the objects happen to be.

::

    marker ──SHA-256──► artifact.json, upload_manifest.json ──ETag, VersionId, digests──► every object
      └── checked again at the end: the same ETag, or nothing that was read counts

A store may let two stagings mix (docs/semantics.md); a reader that follows these two lines notices. ``verify`` is one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from riva_stream import clock
from riva_stream.arguments import require, require_whole
from riva_stream.deployment import DeploymentDocument
from riva_stream.documents.compare import differences
from riva_stream.documents.read import Documents, read_documents
from riva_stream.errors import (
    AccessDeniedError,
    DigestMismatchError,
    HeldError,
    IntegrityError,
    SourceChangedError,
    SourceNotFoundError,
    Where,
    first_of,
)
from riva_stream.events import Observer, ignore, warning
from riva_stream.flow.buffers import Credits, Piece
from riva_stream.flow.digest import Hash
from riva_stream.flow.lanes import Lane
from riva_stream.inspection.crosscheck import Ledger, StagedObject, crosscheck
from riva_stream.inspection.deep import RANGE, fetching
from riva_stream.inspection.find import no_staging_error
from riva_stream.inspection.uris import split_staging
from riva_stream.layout import ARTIFACT_JSON, DEPLOYMENT_READY, MANIFEST_JSON, Layout
from riva_stream.manifest import Artifact, Mode, UploadManifest
from riva_stream.naming import option
from riva_stream.retry import Retrier
from riva_stream.s3 import (
    Bucket,
    ObjectInfo,
    Reader,
    StoreSettings,
    open_store,
    require_session,
    require_store,
)
from riva_stream.source import PinnedSource, SourceChecksums, SourceReader

__all__ = ["STAGING_REPLACED", "StagedObject", "Staging", "compare", "find_staging", "pinned", "read_staging"]

STAGING_REPLACED = "StagingReplaced"
"""This package's own code, for a staging whose marker is no longer the one that was read."""


@asynccontextmanager
async def read_staging(
    place: str,
    store: StoreSettings | Reader | None = None,
    *,
    session: Any = None,
    observer: Observer = ignore,
    connections: int = 4,
) -> AsyncIterator[Staging]:
    """Read a staging's documents, each compared with what vouches for it; within the block its objects can be read.

    At the end of the block the marker is checked again. No object is read until it is requested.

    Args:
        place: ``s3://BUCKET/PREFIX/`` of the staging, as ``StageReport.destination`` has it.
        store: how to reach the store, or an open one (see :func:`riva_stream.open_store`), which stays open; by default
            according to the AWS SDK's environment.
        session: the caller's own ``aioboto3.Session``, to open the store with.
        observer: is told of retries.
        connections: ranges of one object that are requested at once; each takes 8 MiB of memory.

    Raises:
        SourceNotFoundError: nothing is staged there; the message says what is there instead.
        IntegrityError: the documents, or an object that was read, are not those of one staging; ``where`` names it.
        HeldError: the staging was replaced since it was first read (``where.code`` is ``StagingReplaced``): read
            it again.
        ConfigurationError: ``place`` is not such a URI.
        TypeError: an argument is of the wrong kind.
    """
    require(isinstance(place, str), "place", "text, s3://BUCKET/PREFIX/", place)
    require(callable(observer), "observer", "callable with one event", observer)
    require_whole("connections", connections)
    require_session("session", session)
    if store is not None and not isinstance(store, StoreSettings):
        require_store("store", store)
    bucket, prefix = split_staging(place)
    async with (
        open_store(store or StoreSettings(), session=session, warn=warning(observer, "profile"))
        if store is None or isinstance(store, StoreSettings)
        else nullcontext(store)
    ) as opened:
        there = Bucket(opened, bucket, Retrier(observer=observer, renew=opened.renew))
        staging = await find_staging(there, prefix, observer, connections=connections)
        await staging.require_agreement()
        yield staging
        await staging.still_stands()


async def find_staging(
    bucket: Bucket, prefix: str, observer: Observer = ignore, *, connections: int = 4
) -> Staging:
    """The staging at a prefix. Contradictions between its documents are recorded in its ledger, and not raised.

    Raises:
        SourceNotFoundError: there is none.
    """
    try:
        # listed: the caller expects it to exist
        documents = await read_documents(bucket, prefix, listed=True, sure=True)
    except BaseExceptionGroup as group:
        raise first_of(group) from None
    if not documents.is_marked:
        raise await no_staging_error(bucket, prefix)
    ledger, layout = Ledger(), Layout(bucket.name, prefix)
    objects = {item.path: item for item in crosscheck(documents, layout, ledger)}
    return Staging(layout, documents, objects, ledger, bucket, observer, connections)


@dataclass(eq=False)
class Staging:
    """A staging as its marker vouches for it."""

    layout: Layout
    documents: Documents
    objects: Mapping[str, StagedObject]
    """Path below the prefix → archive, models and documents, as in the manifest; empty for a staging by reference."""
    ledger: Ledger
    """The results of the comparisons."""
    bucket: Bucket = field(repr=False)
    observer: Observer = field(repr=False)
    connections: int

    @property
    def destination(self) -> str:
        """``s3://bucket/prefix/``."""
        return self.layout.uri

    @property
    def mode(self) -> Mode | None:
        """How it was staged."""
        return self.documents.mode

    @property
    def run_id(self) -> str | None:
        """Of the run that staged it."""
        return self.documents.run_id

    @property
    def staged_at(self) -> datetime | None:
        """When it was committed."""
        return self.documents.staged_at

    @property
    def artifact(self) -> Artifact | None:
        """None for a bintarball reference, which has only ``deployment``."""
        return self.documents.artifact

    @property
    def manifest(self) -> UploadManifest | None:
        """None for a staging by reference."""
        return self.documents.manifest

    @property
    def deployment(self) -> DeploymentDocument | None:
        """``deployment.json``; None where no container image was handed over.

        Raises:
            AccessDeniedError: it is unknown whether there is one: the store refuses to show it, and to list it.
        """
        if self.documents.hidden:
            raise AccessDeniedError(
                f"whether {self.destination} has a {' and a '.join(self.documents.hidden)} is not known: it may not be "
                "read",
                where=Where("GetObject", self.layout.bucket, self.layout.prefix + self.documents.hidden[0]),
                hint="grant s3:GetObject on it; and s3:ListBucket, without which a missing object is refused as well",
            )
        return self.documents.deployment

    @property
    def vouched(self) -> bool:
        """Whether the marker vouches for the manifest, too. One of version 0.1 does not.

        Digests are then as reliable as ever, as ``artifact.json`` has them; ETags and VersionIds are not vouched for.
        """
        marker = self.documents.marker
        return self.manifest is None or (marker is not None and marker.manifest_sha256 is not None)

    @asynccontextmanager
    async def read(self, path: str) -> AsyncIterator[AsyncIterator[Piece]]:
        """Yield the bytes of one object in order, of exactly the object that was staged or not at all.

        Each range is requested with If-Match. Size and SHA-256 are compared before the last range (8 MiB at most) is
        yielded, so whoever reads to the end has what was staged; stopping earlier means unverified bytes. The pieces
        are valid only until the next one is requested.

        Args:
            path: below the prefix, such as ``models/parakeet.riva``; see ``objects``.

        Raises:
            SourceNotFoundError: there is no such object in the staging.
            IntegrityError: the object is gone, was replaced, or has other bytes.
            HeldError: the whole staging was replaced meanwhile.
        """
        item = self.objects.get(path)
        if item is None:
            raise SourceNotFoundError(
                f"{self.destination} has no {path!r}",
                hint=f"it has: {', '.join(self.objects) or 'no objects of its own; it is by reference'}",
            )
        try:
            info = await self.bucket.head_confirming_absence(item.key, listed=True)
            compared = Ledger()
            compare(item, info, compared)
            self._require(compared, item.key)
            assert info is not None  # noqa: S101 - one that is gone was raised
            async with self._fetched(item, info) as pieces:
                yield pieces
        except SourceChangedError as error:
            if error.where.key != item.key:
                raise  # the caller's own, about another object
            await self.still_stands()
            raise IntegrityError(
                f"it was replaced or removed while it was read ({error.what})",
                where=Where("GetObject", self.layout.bucket, item.key),
                hint=f"see what is there now: riva-stream verify {self.layout.uri}",
            ) from error
        except IntegrityError:
            await self.still_stands()
            raise

    @asynccontextmanager
    async def _fetched(self, item: StagedObject, info: ObjectInfo) -> AsyncIterator[AsyncIterator[Piece]]:
        source = pinned(self.layout.bucket, info)
        reader = SourceReader(
            self.bucket,
            source,
            RANGE,
            Credits(self.connections * RANGE),
            Lane("read"),
            lambda _: None,
            self.observer,
        )
        digest = Hash("sha256")

        def require_same() -> None:
            if digest.text() != item.sha256:
                raise DigestMismatchError(
                    f"its SHA-256 is {digest.text()}, but {item.sha256} was staged",
                    where=Where("GetObject", source.bucket, source.key),
                    hint=f"stage it again with {option('force')}",
                )

        async def pieces() -> AsyncGenerator[Piece]:
            async for chunk in chunks:
                await clock.in_thread(digest.update, chunk.pieces)
                if chunk.offset + chunk.size == source.size:
                    require_same()
                for piece in chunk.pieces:
                    yield piece
                chunk.release()
            if not source.size:
                require_same()

        async with fetching(reader, self.connections) as chunks, aclosing(pieces()) as given:
            yield given

    async def still_stands(self) -> None:
        """Check the marker again (and ``deployment_ready.txt``, if it was there).

        Raises:
            HeldError: it is another one, or gone: what was read in between may belong to two stagings.
        """
        for name in dict.fromkeys((self.layout.marker_name, DEPLOYMENT_READY)):
            etag = self.documents.etags.get(name) if self.documents.has(name) else None
            if etag is not None:
                info = await self.bucket.head_confirming_absence(self.layout.prefix + name, listed=True)
                if info is None or info.etag != etag:
                    raise self.replaced(name)

    def replaced(self, name: str) -> HeldError:
        """The error for a document that changed since it was read."""
        return HeldError(
            f"{self.destination} was replaced, or is being replaced, while it was read",
            where=Where("HeadObject", self.layout.bucket, self.layout.prefix + name, code=STAGING_REPLACED),
            hint="read it again when that run is done",
        )

    async def require_agreement(self) -> None:
        """Raise the first contradiction between the documents.

        Raises:
            IntegrityError: they are not those of one staging.
            HeldError: the staging is being replaced.
        """
        try:
            # In the order in which they vouch for each other: the first is at fault, the rest only differs from it.
            chain = (self.layout.marker_name, ARTIFACT_JSON, MANIFEST_JSON, DEPLOYMENT_READY)
            for entry in self.ledger.objects([self.layout.prefix + name for name in chain]):
                self._require(self.ledger, entry.key)
        except IntegrityError:
            await self.still_stands()
            raise

    def _require(self, ledger: Ledger, key: str) -> None:
        if difference := ledger.difference(key):
            raise IntegrityError(
                f"the staging no longer matches its manifest: {difference}",
                where=Where("GetObject", self.layout.bucket, key),
                hint=f"see all that differs: riva-stream verify {self.destination}; or stage it again with {option('force')}",
            )


def compare(item: StagedObject, info: ObjectInfo | None, ledger: Ledger) -> None:
    """Record how an object differs from what the documents describe."""
    key = item.key
    if info is None:
        ledger.differs(key, "gone", "it is missing")
        return
    ledger.size(key, info.size)
    if item.entry is not None:
        by, different = differences(item.entry, info)
        ledger.same(key, *by)
        for found in different:
            ledger.differs(key, found.code, found.message)
        if item.version_id is not None:
            ledger.compare(key, "version-id", info.version_id, item.version_id)
    if info.size != item.size:
        ledger.differs(key, "size", f"it has {info.size} bytes, {item.size} were staged")


def pinned(bucket: str, info: ObjectInfo) -> PinnedSource:
    """Pin an object by ETag alone: a VersionId would need another permission, and If-Match pins it as well."""
    return PinnedSource(
        bucket, info.key, info.size, info.etag, None, info.last_modified, SourceChecksums.of(info)
    )
