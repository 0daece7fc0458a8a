"""Do the documents of a staging agree with each other? And what objects do they promise? No I/O.

The marker vouches for ``artifact.json`` by its SHA-256; that one tells the digests of everything else, so an edit of
any other document contradicts it. ``deployment.json`` is vouched for by ``deployment_ready.txt``, and names in turn the
``artifact.json`` that it was written for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from riva_stream.deployment import DOCUMENTS, DeploymentDocument, DeploymentReady
from riva_stream.layout import (
    ARTIFACT_JSON,
    CHECKSUMS,
    DEPLOYMENT_JSON,
    DEPLOYMENT_READY,
    MANIFEST_JSON,
    MARKER,
    OF_FULL,
)
from riva_stream.manifest import Artifact, Marker, StagedFile, UploadManifest
from riva_stream.operations.documents import Documents
from riva_stream.operations.ledger import Ledger

__all__ = ["Expected", "crosscheck"]

_DIFFER = "their SHA-256 differ"


@dataclass(frozen=True, slots=True)
class Expected:
    """An object that the documents promise. None: they do not tell."""

    key: str
    size: int | None
    sha256: str | None
    blake3: str | None = None
    staged: StagedFile | None = None
    """Its entry in the manifest."""

    @property
    def is_document(self) -> bool:
        """Whether it is one of the documents, which are read whole."""
        return self.key.rpartition("/")[2] in DOCUMENTS


def crosscheck(documents: Documents, bucket: str, prefix: str, ledger: Ledger) -> list[Expected]:
    """Note in the ledger what the documents contradict each other in; give the objects that they promise."""
    for name, text in documents.texts.items():
        ledger.size(prefix + name, len(text))
    for name, why in documents.wrong.items():
        ledger.differs(prefix + name, why)
    artifact, manifest = documents.artifact, documents.manifest
    full = documents.mode not in {"reference_only", "bintarball_reference"}
    _gone(documents, prefix, ledger, full=full)
    _pair(documents, bucket, prefix, ledger)
    if documents.marker is not None:
        _marker(documents, documents.marker, prefix, ledger)
    if artifact is not None:
        place = f"s3://{bucket}/{prefix}"
        _same_place(ledger, prefix + ARTIFACT_JSON, artifact.deployment.s3_prefix, place)
    if manifest is not None:
        _manifest(documents, manifest, bucket, prefix, ledger)
    if not full:
        return []
    expected = _expected(artifact, manifest, prefix)
    if CHECKSUMS in documents.texts:
        _checksums(documents.texts[CHECKSUMS], expected, prefix, ledger)
    return expected


def _marker(documents: Documents, marker: Marker, prefix: str, ledger: Ledger) -> None:
    artifact = documents.artifact
    written_for = f"it is not the one that the marker was written for: {_DIFFER}"
    _vouches(documents, prefix, ledger, ARTIFACT_JSON, marker.artifact_sha256, written_for)
    told: list[tuple[str, object, object]] = []
    if artifact is not None:
        told = [
            ("run id", marker.run_id, artifact.build_info.run_id),
            ("mode", marker.mode, artifact.deployment.staging_mode),
            ("source", marker.source, artifact.source.uri),
        ]
    _tells(documents, prefix, ledger, MARKER, marker.text(), told, ARTIFACT_JSON)


def _gone(documents: Documents, prefix: str, ledger: Ledger, *, full: bool) -> None:
    named = () if documents.is_bintarball else (ARTIFACT_JSON, *(OF_FULL if full else ()))
    paired = (DEPLOYMENT_JSON,) if documents.has(DEPLOYMENT_READY) else ()
    for name in (*named, *paired):
        if not documents.has(name) and name not in documents.hidden:
            ledger.differs(prefix + name, "it is gone")


def _pair(documents: Documents, bucket: str, prefix: str, ledger: Ledger) -> None:
    if documents.ready is not None:
        _ready(documents, documents.ready, prefix, ledger)
    if documents.deployment is not None:
        _deployment(documents, documents.deployment, bucket, prefix, ledger)


def _ready(documents: Documents, ready: DeploymentReady, prefix: str, ledger: Ledger) -> None:
    deployment = documents.deployment
    written_for = f"it is not the one that {DEPLOYMENT_READY} was written for: {_DIFFER}"
    _vouches(documents, prefix, ledger, DEPLOYMENT_JSON, ready.deployment_sha256, written_for)
    told: list[tuple[str, object, object]] = []
    if deployment is not None:
        references = deployment.bintarball_references
        told = [
            ("run id", ready.run_id, deployment.build_info.run_id),
            ("type", ready.deployment_type, deployment.deployment_type),
            ("model archive", ready.model_archive, references.model_archive.s3_uri),
            ("container image", ready.container_image, references.container_image.s3_uri),
        ]
    _tells(documents, prefix, ledger, DEPLOYMENT_READY, ready.text(), told, DEPLOYMENT_JSON)


def _vouches(
    documents: Documents, prefix: str, ledger: Ledger, name: str, sha256: str, otherwise: str
) -> None:
    """Is a document the one whose SHA-256 its mark tells?"""
    data = documents.texts.get(name)
    if data is not None:
        ledger.compare(prefix + name, "content", hashlib.sha256(data).hexdigest(), sha256, otherwise)


def _tells(
    documents: Documents,
    prefix: str,
    ledger: Ledger,
    mark: str,
    text: str,
    told: list[tuple[str, object, object]],
    by: str,
) -> None:
    """Does a mark hold the lines that were written, and what the document ``by`` tells as well?"""
    key = prefix + mark
    ledger.compare(
        key, "content", documents.texts[mark], text.encode(), "it holds other lines than were written"
    )
    for name, here, there in told:
        if here != there:
            ledger.differs(key, f"its {name} is {here}, {by} has {there}")


def _deployment(
    documents: Documents, deployment: DeploymentDocument, bucket: str, prefix: str, ledger: Ledger
) -> None:
    """Is it of this very staging, and does it hand over what is staged there?"""
    key, artifact, marker = prefix + DEPLOYMENT_JSON, documents.artifact, documents.marker
    _same_place(ledger, key, deployment.deployment.s3_prefix, f"s3://{bucket}/{prefix}")
    told, mode = deployment.deployment_type, documents.mode
    if mode is not None and told != mode:
        ledger.differs(key, f"its type is {told}, what is staged there is {mode}")
    if documents.is_bintarball:
        return
    if marker is not None:
        ledger.compare(
            key,
            ARTIFACT_JSON,
            deployment.deployment.artifact_sha256,
            marker.artifact_sha256,
            f"it was written for another {ARTIFACT_JSON}: it is of another staging",
        )
    if artifact is None:
        return
    archive, source = deployment.bintarball_references.model_archive, artifact.source
    if artifact.deployment.staging_mode == "full":
        path, size, sha256, _ = _described(artifact)[0]
        found: tuple[object, ...] = (archive.path, archive.size_bytes, archive.sha256)
        wanted: tuple[object, ...] = (prefix + path, size, sha256)
    else:
        found = (archive.s3_uri, archive.size_bytes, archive.etag, archive.version_id)
        wanted = (source.uri, source.size_bytes, source.etag, source.version_id)
    if found != wanted:
        ledger.differs(key, f"it hands over {archive.text()}, which is not what {ARTIFACT_JSON} describes")


def _same_place(ledger: Ledger, key: str, told: str, place: str) -> None:
    """Compare prefixes, not buckets: one and the same bucket may be reached through an access point's name."""

    def below(uri: str) -> str:
        return uri.removeprefix("s3://").partition("/")[2]

    if below(told) != below(place):
        ledger.differs(key, f"it was written for {told}")


def _manifest(
    documents: Documents, manifest: UploadManifest, bucket: str, prefix: str, ledger: Ledger
) -> None:
    key, artifact = prefix + MANIFEST_JSON, documents.artifact
    _same_place(ledger, key, manifest.s3_base, f"s3://{bucket}/{prefix}")
    outside = [file.s3_key for file in manifest.files.all() if not file.s3_key.startswith(prefix)]
    ledger.differs(key, *(f"it names {name}, which lies elsewhere" for name in outside))
    files = manifest.files
    for name, file in (
        (CHECKSUMS, files.checksums),
        (ARTIFACT_JSON, files.metadata),
        (DEPLOYMENT_JSON, files.deployment),
        (DEPLOYMENT_READY, files.deployment_ready),
    ):
        if file is not None and name in documents.texts and file.s3_key == prefix + name:
            digest = f"sha256:{hashlib.sha256(documents.texts[name]).hexdigest()}"
            ledger.compare(
                prefix + name,
                "content",
                digest,
                file.checksum,
                "its SHA-256 is not that in upload_manifest.json",
            )
    if artifact is None:
        return
    if manifest.upload_id != artifact.build_info.run_id:
        ledger.differs(
            key, f"its run id is {manifest.upload_id}, artifact.json has {artifact.build_info.run_id}"
        )
    entries = {f.s3_key: (f.size_bytes, f.checksum) for f in _archives(manifest)}
    known = {prefix + path: (size, f"sha256:{sha256}") for path, size, sha256, _ in _described(artifact)}
    for name in sorted(known.keys() - entries.keys()):
        ledger.differs(key, f"it does not name {name}, which artifact.json has")
    for name in sorted(entries.keys() - known.keys()):
        ledger.differs(key, f"it names {name}, which artifact.json does not have")
    for name in sorted(entries.keys() & known.keys()):
        if entries[name] != known[name]:
            ledger.differs(key, f"it has another size or SHA-256 for {name} than artifact.json")
    if ARTIFACT_JSON not in ledger.difference(key):
        ledger.same(key, ARTIFACT_JSON)


def _archives(manifest: UploadManifest) -> list[StagedFile]:
    archive = [manifest.files.source_archive] if manifest.files.source_archive else []
    return [*archive, *manifest.files.models]


def _described(artifact: Artifact) -> list[tuple[str, int, str | None, str | None]]:
    """Path, size, SHA-256 and BLAKE3 of the archive and of each model, as ``artifact.json`` has them."""
    rows: list[tuple[str, int, str | None, str | None]] = [
        (model.relative_path, model.size_bytes, model.sha256, model.blake3) for model in artifact.models
    ]
    # A bare model is its own source, and lies once: among the models.
    if not artifact.source.filename.endswith(".riva"):
        source = artifact.source
        rows.insert(0, (f"source/{source.filename}", source.size_bytes, source.sha256, source.blake3))
    return rows


def _expected(artifact: Artifact | None, manifest: UploadManifest | None, prefix: str) -> list[Expected]:
    entries = {file.s3_key: file for file in manifest.files.all()} if manifest else {}
    found = {
        prefix + path: Expected(prefix + path, size, sha256, blake3, entries.get(prefix + path))
        for path, size, sha256, blake3 in (_described(artifact) if artifact else [])
    }
    for key, file in entries.items():
        if key.startswith(prefix) and key not in found:
            found[key] = Expected(key, file.size_bytes, file.checksum.removeprefix("sha256:"), None, file)
    return list(found.values())


def _checksums(data: bytes, expected: list[Expected], prefix: str, ledger: Ledger) -> None:
    """Every line against what the other documents say."""
    key = prefix + CHECKSUMS
    known = {item.key.removeprefix(prefix): item.sha256 for item in expected if not item.is_document}
    seen: set[str] = set()
    for number, line in enumerate(data.decode(errors="replace").splitlines(), 1):
        digest, _, path = line.partition("  ")
        if path not in known:
            ledger.differs(key, f"line {number} names {path or line[:80]!r}, which is not staged")
        elif digest != known[path]:
            ledger.differs(key, f"line {number} has another SHA-256 for {path} than artifact.json")
        seen.add(path)
    for path in sorted(known.keys() - seen):
        ledger.differs(key, f"it has no line for {path}")
    if not ledger.difference(key):
        ledger.same(key, "lines")
