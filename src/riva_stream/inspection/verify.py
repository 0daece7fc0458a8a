"""``verify``: is everything still what was staged? Nothing is written, and all differences are reported."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from riva_stream.deployment import DOCUMENTS, ObjectReference
from riva_stream.documents.read import Documents
from riva_stream.errors import AccessDeniedError, DigestMismatchError
from riva_stream.events import ObjectVerified, Observer, ignore
from riva_stream.flow.digest import DigestRecord
from riva_stream.inspection.crosscheck import StagedObject, check_reference
from riva_stream.inspection.deep import DeepReader, Target
from riva_stream.inspection.find import open_bucket
from riva_stream.inspection.reports import NOT_STAGED, DeepRead, VerifyReport
from riva_stream.inspection.staging import Staging, compare, find_staging, pinned
from riva_stream.inspection.uris import split
from riva_stream.layout import DEPLOYMENT_DOCUMENTS, JOURNAL, MANIFEST_JSON, OF_FULL, is_model
from riva_stream.manifest import Finding, Source
from riva_stream.run import gather_bounded
from riva_stream.s3 import Bucket, ObjectInfo, Reader, StoreSettings
from riva_stream.sizes import MIB

__all__ = ["verify"]

_MOST_EXTRA = 1000


async def verify(
    settings: StoreSettings | Reader,
    bucket: str,
    prefix: str,
    *,
    deep: bool = False,
    connections: int = 8,
    memory: int = 256 * MIB,
    source_settings: StoreSettings | None = None,
    observer: Observer = ignore,
    session: Any = None,
) -> VerifyReport:
    """Compare everything that is staged below ``prefix`` with what was staged.

    Args:
        settings: the store, or an open one.
        bucket: its bucket.
        prefix: of one staging, with its closing slash.
        deep: read every object whole and compare its digests, too.
        connections: with ``deep``, ranges of one object that are requested at once.
        memory: with ``deep``, bytes that the whole process may use.
        source_settings: the store of the source, when it is another one; only used for a staging by reference.
        observer: is told of each comparison, and of progress.
        session: the caller's own ``aioboto3.Session``; not for a source with its own profile.

    Returns:
        One entry per object; ``ok`` says whether all of them are the same.

    Raises:
        SourceNotFoundError: nothing is staged there; the message says what is there instead.
        HeldError: the staging was replaced meanwhile.
        AccessDeniedError: something may not be read.
    """
    slots = max(16, 2 * connections)
    async with (
        open_bucket(settings, bucket, observer, session, slots=slots) as there,
        nullcontext(there)
        if source_settings is None
        else open_bucket(
            source_settings,
            bucket,
            observer,
            None if source_settings.profile else session,
            slots=slots,
        ) as source_bucket,
    ):
        staging = await find_staging(there, prefix, observer)
        reading = partial(DeepReader, observer=observer, connections=connections, memory=memory)
        return await _Verification(staging, there, source_bucket, observer).run(reading if deep else None)


@dataclass(eq=False)
class _Verification:
    staging: Staging
    bucket: Bucket
    source_bucket: Bucket
    """In the store of the objects that the staging points at; its name does not matter."""
    observer: Observer
    notes: list[Finding] = field(default_factory=list, init=False)
    source_sha256: str | None = field(default=None, init=False)
    extra: list[str] = field(default_factory=list, init=False)
    _reported: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self.prefix = self.staging.layout.prefix
        self.ledger = self.staging.ledger

    async def run(self, reading: partial[DeepReader] | None) -> VerifyReport:
        """Run the steps, in order."""
        began = time.perf_counter()
        staging, documents = self.staging, self.staging.documents
        expected = list(staging.objects.values())
        there = await gather_bounded(expected, self._compare)
        unnamed = [name for name in DOCUMENTS if name not in staging.objects and name in documents.texts]
        await gather_bounded(unnamed, partial(self._compare_document, documents))
        targets = self._targets(expected, there)
        targets += await self._references(documents, deep=reading is not None)
        await self._find_extra(expected, documents)
        if documents.marker is not None and not staging.vouched:
            self._note(
                "manifest-unvouched",
                f"nothing vouches for {MANIFEST_JSON}: version 0.1, which staged it, left its SHA-256 out of the marker",
            )
        read = None if reading is None else await self._deep(reading, targets)
        await staging.still_stands()
        written = [item.key for item in expected if not item.is_document]
        objects = self.ledger.objects([*written, *(self.prefix + name for name in DOCUMENTS)])
        references = documents.deployment.bintarball_references if documents.deployment else None
        for entry in objects:
            if not entry.ok:
                self._report(entry.key, entry.size_bytes or 0)
        return VerifyReport(
            ok=all(entry.ok for entry in objects),
            destination=staging.destination,
            depth="quick" if reading is None else "deep",
            mode=documents.mode,
            run_id=documents.run_id,
            staged_at=documents.staged_at,
            source=documents.source,
            container=references.container_image.s3_uri if references else None,
            objects=objects,
            extra=self.extra,
            notes=self.notes,
            source_sha256=self.source_sha256,
            read=read,
            seconds=round(time.perf_counter() - began, 3),
        )

    def _note(self, code: str, message: str) -> None:
        self.notes.append(Finding(code=code, message=message))

    async def _compare(self, item: StagedObject) -> ObjectInfo | None:
        """HEAD one object that the documents describe."""
        info = await self.bucket.head_confirming_absence(item.key, listed=True)
        compare(item, info, self.ledger)
        if info is not None:
            self._run_id(info, self.staging.run_id, must_be=item.is_document)
        return info

    async def _compare_document(self, documents: Documents, name: str) -> None:
        """HEAD one that no manifest lists: the manifest and the marker, and by reference all the others."""
        run_id = documents.run_id
        if name in DEPLOYMENT_DOCUMENTS:  # it may have been added by a later run
            run_id = documents.ready.run_id if documents.ready else None
        info = await self.bucket.head(self.prefix + name)
        if info is not None:  # otherwise it was deleted since it was read: the check of the marker shows that
            self._run_id(info, run_id, must_be=True)

    def _run_id(self, info: ObjectInfo, run_id: str | None, *, must_be: bool) -> None:
        """Check the id of the run that created an object. Only an object other than a document may be older."""
        found = info.metadata.get("run-id")
        if found is None:
            self.ledger.differs(
                info.key, "no-run-id", "it was not written by this tool: it carries no run id"
            )
        elif found == run_id:
            self.ledger.same(info.key, "run-id")
        elif must_be and run_id is not None:
            self.ledger.differs(info.key, "run-id", f"it was written by run {found}, not by {run_id}")

    def _targets(self, expected: list[StagedObject], there: list[ObjectInfo | None]) -> list[Target]:
        """What ``--deep`` has to read: all but the documents, and what cannot match any more."""
        return [
            Target(self.bucket, pinned(self.bucket.name, info), item.sha256, item.blake3)
            for item, info in zip(expected, there, strict=True)
            if info is not None and not item.is_document and info.size == item.size
        ]

    async def _references(self, documents: Documents, *, deep: bool) -> list[Target]:
        """Are the objects that the documents point at still the same? Return those that ``--deep`` has to read."""
        targets: list[Target] = []
        if documents.mode == "reference_only" and documents.artifact is not None:
            source = documents.artifact.source
            targets += await self._pointed_at(source.uri, source)
        if documents.deployment is None:
            return targets
        references = documents.deployment.bintarball_references
        image, archive = references.container_image, references.model_archive
        # As when it was staged: in the destination's bucket with its credentials, any other where the source is.
        here = split(image.s3_uri)[0] in {self.bucket.name, documents.deployment.deployment.s3_bucket}
        await check_reference(self.ledger, self.bucket if here else self.source_bucket, image.s3_uri, image)
        if deep:
            self._note(
                "image-not-read", "the container image was compared by size, ETag and version, and not read"
            )
        if documents.is_bintarball:  # otherwise its archive was checked: in the staging, or as its source
            targets += await self._pointed_at(archive.s3_uri, archive)
        return targets

    async def _pointed_at(self, uri: str, was: Source | ObjectReference) -> list[Target]:
        info = await check_reference(self.ledger, self.source_bucket, uri, was)
        if info is None:
            return []
        bucket = self.source_bucket.named(split(uri)[0])
        return [Target(bucket, pinned(bucket.name, info), use_store_checksums=True)]

    async def _find_extra(self, expected: list[StagedObject], documents: Documents) -> None:
        """Find what is below the prefix but was not staged."""
        if documents.hidden:
            self._note(
                "may-not-read",
                f"whether there is a {' and a '.join(documents.hidden)} is not known: they may not be read",
            )
        if documents.artifact is None and documents.manifest is None and documents.deployment is None:
            self._note("no-document", "extra keys were not checked: no document says what was staged")
            return
        written = {*DOCUMENTS} - {
            *DEPLOYMENT_DOCUMENTS,
            *(OF_FULL if documents.mode == "reference_only" else ()),
        }
        written |= {name for name in DEPLOYMENT_DOCUMENTS if documents.has(name)}
        named = {item.key for item in expected} | {self.prefix + name for name in written}
        more = 0
        try:
            async for entry in self.bucket.objects(self.prefix):
                is_folder_marker = entry.key.endswith("/") and not entry.size
                if entry.key not in named and not is_folder_marker:
                    more += not self._record_extra(entry, documents)
        except AccessDeniedError:
            self._note(
                "may-not-list",
                f"extra keys were not checked: s3:ListBucket on {self.bucket.name} is missing",
            )
        if more:
            self._note("more-keys", f"{more} more keys were not staged")

    def _record_extra(self, entry: ObjectInfo, documents: Documents) -> bool:
        """Report one key; False: there were too many before it."""
        name = entry.key.removeprefix(self.prefix)
        if name in DEPLOYMENT_DOCUMENTS and name not in {*documents.foreign, *documents.hidden}:
            raise self.staging.replaced(name)  # it was not there when the documents were read
        if name == JOURNAL:
            self._note("journal", "a run has begun to replace it, or has left its journal: see status")
        elif self.staging.layout.is_in_payload_folder(entry.key) and is_model(name):
            self.ledger.size(entry.key, entry.size)
            self.ledger.differs(entry.key, NOT_STAGED, "not listed in any manifest")
        elif len(self.extra) < _MOST_EXTRA:
            self.extra.append(entry.key)
        else:
            return False
        return True

    async def _deep(self, reading: partial[DeepReader], targets: list[Target]) -> DeepRead:
        """Read all targets, and compare the digests."""

        def done(target: Target, result: dict[str, str] | str) -> None:
            key = target.pinned.uri if target.use_store_checksums else target.pinned.key
            if isinstance(result, str):
                self.ledger.differs(key, "replaced", result)
            elif target.use_store_checksums:
                self._compare_source_checksums(target, result)
            else:
                for name, wanted in (("sha256", target.sha256), ("blake3", target.blake3)):
                    if wanted is not None:
                        self.ledger.compare(key, name, result[name], wanted)
            self._report(key, target.pinned.size)

        return await reading(done=done).run(targets)

    def _report(self, key: str, size: int) -> None:
        if key not in self._reported:
            self._reported.add(key)
            codes = tuple(found.code for found in self.ledger.differences(key))
            self.observer(
                ObjectVerified(key=key, size=size, difference=self.ledger.difference(key), codes=codes)
            )

    def _compare_source_checksums(self, target: Target, digests: dict[str, str]) -> None:
        """Compare the source of a staging by reference: it was never read, so only its own store vouches for it."""
        uri, checksums = target.pinned.uri, target.pinned.checksums
        record = DigestRecord(target.pinned.size, digests["sha256"], None, digests)
        try:
            names = checksums.compare(record, uri=uri)
        except DigestMismatchError as error:
            if (
                "md5" in checksums.values and not self.source_bucket.is_aws
            ):  # elsewhere an ETag may be anything
                self._note(
                    "etag",
                    f"the source's ETag looks like an MD5 but is not that of its bytes: {error.what}",
                )
            else:
                self.ledger.differs(uri, "checksum", error.what)
            return
        self.ledger.same(uri, *names)
        if not names:
            self._note(
                "source-integrity",
                "nothing vouches for the source's bytes: it was read, and compared with nothing",
            )
        self.source_sha256 = digests["sha256"]
