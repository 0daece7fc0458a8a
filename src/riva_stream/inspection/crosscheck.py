"""Do the documents of a staging agree with each other, and which objects do they describe? No I/O.

The marker vouches for ``artifact.json`` and ``upload_manifest.json`` by their SHA-256; between them these give the
ETag, VersionId and digests of everything else. A marker of version 0.1 vouches for ``artifact.json`` alone: a manifest
is then trusted only as far as it agrees with that. ``deployment_ready.txt`` vouches for ``deployment.json``, which in
turn names the ``artifact.json`` that it was written for.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from riva_stream.deployment import DOCUMENTS, DeploymentDocument, ObjectReference
from riva_stream.documents.compare import artifact_differences, deployment_differences, disagreements
from riva_stream.documents.read import Documents
from riva_stream.inspection.reports import VerifiedObject
from riva_stream.inspection.uris import split
from riva_stream.layout import (
    ARTIFACT_JSON,
    CHECKSUMS,
    DEPLOYMENT_JSON,
    DEPLOYMENT_READY,
    MANIFEST_JSON,
    MARKER,
    Layout,
)
from riva_stream.manifest import Artifact, Finding, Lines, Source, StagedFile, UploadManifest, payload_of
from riva_stream.printable import some_of
from riva_stream.s3 import Bucket, ObjectInfo
from riva_stream.uris import key_of

__all__ = ["Ledger", "StagedObject", "check_reference", "crosscheck"]

_DIFFER = "their SHA-256 differ"


@dataclass(frozen=True, slots=True)
class StagedObject:
    """An object of a staging, as its documents describe it."""

    key: str
    path: str
    """The key below the staging's prefix."""
    size: int
    sha256: str | None
    blake3: str | None = None
    """None for a document."""
    entry: StagedFile | None = None
    """Its manifest entry; None only where the manifest cannot be used."""

    @property
    def etag(self) -> str | None:
        """As the store returned it when the object was completed."""
        return self.entry.etag if self.entry else None

    @property
    def version_id(self) -> str | None:
        """Likewise; None in a bucket without versions."""
        return self.entry.version_id if self.entry else None

    @property
    def is_document(self) -> bool:
        """Whether it is one of the documents, which are read whole."""
        return self.path in DOCUMENTS


def crosscheck(documents: Documents, layout: Layout, ledger: Ledger) -> list[StagedObject]:
    """Record in the ledger where the documents contradict each other; return the objects that they describe."""
    prefix = layout.prefix
    for name, text in documents.texts.items():
        ledger.size(prefix + name, len(text))
    for name, why in documents.wrong.items():
        ledger.differs(prefix + name, "malformed", why)
    artifact, manifest = documents.artifact, documents.manifest
    for name in documents.missing:
        ledger.differs(prefix + name, "gone", "it is missing")
    _check_marker_files(documents, prefix, ledger)
    if documents.deployment is not None:
        _deployment(documents, documents.deployment, layout, ledger)
    if artifact is not None:
        for found in artifact_differences(artifact, prefix):
            ledger.differs(prefix + ARTIFACT_JSON, found.code, found.message)
    if manifest is not None:
        _manifest(documents, manifest, layout, ledger)
    if not documents.is_full:
        return []
    expected = _expected(artifact, manifest, prefix)
    if CHECKSUMS in documents.texts:
        written = documents.texts[CHECKSUMS].decode(errors="replace").splitlines()
        split = (line.partition("  ") for line in written)
        lines = {path or digest: digest for digest, _, path in split}
        known = {item.path: item.sha256 for item in expected if not item.is_document}
        other = sorted({path for path, _ in lines.items() ^ known.items()})
        _agree(ledger, prefix + CHECKSUMS, "lines", other)
    return expected


def _check_marker_files(documents: Documents, prefix: str, ledger: Ledger) -> None:
    """Do the documents have the SHA-256 that the two marker files record, and do these agree with them?"""
    marker, artifact = documents.marker, documents.artifact
    if marker is not None:
        told: list[tuple[str, object, object]] = (
            []
            if artifact is None
            else [
                ("run-id", marker.run_id, artifact.build_info.run_id),
                ("mode", marker.mode, artifact.deployment.staging_mode),
                ("source", marker.source, artifact.source.uri),
            ]
        )
        vouched = {ARTIFACT_JSON: marker.artifact_sha256, MANIFEST_JSON: marker.manifest_sha256}
        _check_marker_file(documents, prefix, ledger, MARKER, marker, vouched, told)
    ready, deployment = documents.ready, documents.deployment
    if ready is not None:
        told = []
        if deployment is not None:
            references = deployment.bintarball_references
            told = [
                ("run-id", ready.run_id, deployment.build_info.run_id),
                ("mode", ready.deployment_type, deployment.deployment_type),
                ("model-archive", ready.model_archive, references.model_archive.s3_uri),
                ("container-image", ready.container_image, references.container_image.s3_uri),
            ]
        vouched = {DEPLOYMENT_JSON: ready.deployment_sha256}
        _check_marker_file(documents, prefix, ledger, DEPLOYMENT_READY, ready, vouched, told)


def _check_marker_file(
    documents: Documents,
    prefix: str,
    ledger: Ledger,
    name: str,
    mark: Lines,
    vouched: Mapping[str, str | None],
    told: Sequence[tuple[str, object, object]],
) -> None:
    """Compare what one marker file vouches for, and the values that it shares with the first of these documents."""
    for document, sha256 in vouched.items():
        data = documents.texts.get(document)
        if data is not None and sha256 is not None:
            text = f"it is not the one that {name} was written for: {_DIFFER}"
            ledger.compare(prefix + document, "content", hashlib.sha256(data).hexdigest(), sha256, text)
    key, by = prefix + name, next(iter(vouched))
    text = "its lines differ from those written"
    ledger.compare(key, "content", documents.texts[name], mark.text().encode(), text)
    for code, here, there in () if ledger.difference(prefix + by) else told:
        if here != there:
            ledger.differs(key, code, f"its {code.replace('-', ' ')} is {here}, {by} has {there}")


def _deployment(documents: Documents, deployment: DeploymentDocument, layout: Layout, ledger: Ledger) -> None:
    """Does it belong to this very staging, and does it hand over what is staged there?"""
    key, marker = layout.prefix + DEPLOYMENT_JSON, documents.marker
    for found in deployment_differences(documents, layout.prefix):
        ledger.differs(key, found.code, found.message)
    if not documents.is_bintarball and marker is not None:
        ledger.compare(
            key,
            ARTIFACT_JSON,
            deployment.deployment.artifact_sha256,
            marker.artifact_sha256,
            f"it was written for another {ARTIFACT_JSON}: it is of another staging",
        )


def _same_place(ledger: Ledger, layout: Layout, name: str, told: str) -> None:
    """Compare prefixes, not buckets: the same bucket may be reached through an access point's name."""

    def below(uri: str) -> str:
        try:
            return key_of(uri)
        except ValueError:  # the document may hold anything
            return uri

    if below(told) != below(layout.uri):
        ledger.differs(layout.prefix + name, "place", f"it was written for {told}")


def _manifest(documents: Documents, manifest: UploadManifest, layout: Layout, ledger: Ledger) -> None:
    prefix, artifact, files = layout.prefix, documents.artifact, manifest.files
    key = prefix + MANIFEST_JSON
    _same_place(ledger, layout, MANIFEST_JSON, manifest.s3_base)
    if elsewhere := [file.s3_key for file in files.all() if not file.s3_key.startswith(prefix)]:
        ledger.differs(key, "outside", f"it names keys outside the staging: {some_of(elsewhere)}")
    for name, entry in (
        (ARTIFACT_JSON, files.metadata),
        (CHECKSUMS, files.checksums),
        (DEPLOYMENT_JSON, files.deployment),
        (DEPLOYMENT_READY, files.deployment_ready),
    ):
        if entry is not None and name in documents.texts and entry.s3_key == prefix + name:
            same = f"sha256:{hashlib.sha256(documents.texts[name]).hexdigest()}" == entry.checksum
            if same:
                ledger.same(prefix + name, "content")
            elif name != ARTIFACT_JSON:
                ledger.differs(prefix + name, "content", f"its SHA-256 is not that in {MANIFEST_JSON}")
            elif not ledger.difference(prefix + name):  # the marker vouches for it, so the manifest is wrong
                ledger.differs(key, ARTIFACT_JSON, f"it was written for another {ARTIFACT_JSON}: {_DIFFER}")
    if artifact is None:
        return
    if manifest.upload_id != artifact.build_info.run_id:
        ledger.differs(
            key,
            "run-id",
            f"its run id is {manifest.upload_id}, artifact.json has {artifact.build_info.run_id}",
        )
    _agree(ledger, key, ARTIFACT_JSON, disagreements(artifact, manifest, prefix))


def _agree(ledger: Ledger, key: str, name: str, other: Sequence[str]) -> None:
    """Does a document describe the archive and the models as ``artifact.json`` does?"""
    ledger.compare(key, name, other, [], f"it disagrees with {ARTIFACT_JSON} about {some_of(other)}")


def _expected(artifact: Artifact | None, manifest: UploadManifest | None, prefix: str) -> list[StagedObject]:
    entries = {file.s3_key: file for file in manifest.files.all()} if manifest else {}
    found = {
        prefix + path: StagedObject(prefix + path, path, size, sha256, blake3, entries.get(prefix + path))
        for path, size, sha256, blake3 in (payload_of(artifact) if artifact else [])
    }
    for key, file in entries.items():
        if key.startswith(prefix) and key not in found:
            path, sha256 = key.removeprefix(prefix), file.checksum.removeprefix("sha256:")
            found[key] = StagedObject(key, path, file.size_bytes, sha256, None, file)
    return list(found.values())


@dataclass(eq=False, slots=True)
class _Entry:
    size: int | None = None
    by: list[str] = field(default_factory=list)
    differences: list[Finding] = field(default_factory=list)


@dataclass(eq=False)
class Ledger:
    """The result of every comparison, by key, in the order in which the keys were first mentioned."""

    _entries: dict[str, _Entry] = field(default_factory=lambda: defaultdict(_Entry), init=False)

    def size(self, key: str, size: int) -> None:
        """Record the size of the object in bytes."""
        self._entries[key].size = size

    def same(self, key: str, *names: str) -> None:
        """Record that each of these was compared and agrees."""
        by = self._entries[key].by
        by += [name for name in names if name not in by]

    def differs(self, key: str, code: str, text: str) -> None:
        """Record one difference of the object."""
        found, differences = Finding(code=code, message=text), self._entries[key].differences
        if found not in differences:
            differences.append(found)

    def compare(self, key: str, name: str, found: object, wanted: object, text: str = "") -> None:
        """Record whether ``found`` equals ``wanted``; ``text`` says so when it does not."""
        if found == wanted:
            self.same(key, name)
        else:
            self.differs(key, name, text or f"its {name} is {found}, but {wanted} was staged")

    def differences(self, key: str) -> list[Finding]:
        """All differences of the object."""
        return self._entries[key].differences

    def difference(self, key: str) -> str:
        """The same for people; empty when there are none."""
        return "; ".join(found.message for found in self.differences(key))

    def objects(self, first: Sequence[str] = ()) -> list[VerifiedObject]:
        """Every entry; those in ``first`` before the others, in that order."""
        order = {key: index for index, key in enumerate(first)}
        return [
            VerifiedObject(
                key=key,
                size_bytes=entry.size,
                by=entry.by,
                ok=not entry.differences,
                differences=entry.differences,
            )
            for key, entry in sorted(self._entries.items(), key=lambda pair: order.get(pair[0], len(order)))
        ]


async def check_reference(
    ledger: Ledger, bucket: Bucket, uri: str, was: Source | ObjectReference
) -> ObjectInfo | None:
    """HEAD an object that a document refers to, in any bucket of the store; None when it is no longer the same."""
    name, key = split(uri)
    info = await bucket.named(name).head_confirming_absence(key, listed=True)
    if info is None:
        ledger.differs(uri, "gone", "it is missing")
        return None
    ledger.size(uri, info.size)
    for name, found, pinned in (
        ("size", info.size, was.size_bytes),
        ("etag", info.etag, was.etag),
        ("version-id", info.version_id, was.version_id),
    ):
        ledger.compare(uri, name, found, pinned, f"its {name} is {found}, the staging refers to {pinned}")
    return None if ledger.difference(uri) else info
