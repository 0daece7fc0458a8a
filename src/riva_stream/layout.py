"""Every key and prefix, made and parsed in one place. No I/O.

::

    <prefix>source/<archive>        <prefix>checksums.sha256      <prefix>deployment.json
    <prefix>models/<name>           <prefix>artifact.json         <prefix>deployment_ready.txt
    <prefix>.riva-stream/…          <prefix>upload_manifest.json  <prefix>staging_complete.txt

A prefix is ``ENV/NAME/VERSION/``, or ``bintarball/deployment-metadata/ENV/NAME/VERSION/`` for a bintarball reference,
which has only the deployment documents.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = [
    "ARTIFACT_JSON",
    "CHECKPOINT",
    "CHECKSUMS",
    "DEPLOYMENTS",
    "DEPLOYMENT_DOCUMENTS",
    "DEPLOYMENT_JSON",
    "DEPLOYMENT_READY",
    "FOLDERS",
    "JOURNAL",
    "LEVELS",
    "LONGEST_KEY",
    "LONGEST_PLACE",
    "MANIFEST_JSON",
    "MARKER",
    "OF_FULL",
    "OWN_FOLDER",
    "SCRATCH",
    "Layout",
    "is_bintarball",
    "is_model",
    "is_segment",
    "layout_around",
    "layout_of",
    "marker_at",
    "prefix_of",
]

ARTIFACT_JSON = "artifact.json"
MANIFEST_JSON = "upload_manifest.json"
CHECKSUMS = "checksums.sha256"
MARKER = "staging_complete.txt"
DEPLOYMENT_JSON = "deployment.json"
DEPLOYMENT_READY = "deployment_ready.txt"

OF_FULL = (CHECKSUMS, MANIFEST_JSON)
"""Documents that only a full staging has."""
DEPLOYMENT_DOCUMENTS = (DEPLOYMENT_JSON, DEPLOYMENT_READY)
_DOCUMENTS = frozenset({CHECKSUMS, ARTIFACT_JSON, *DEPLOYMENT_DOCUMENTS, MANIFEST_JSON, MARKER})

FOLDERS = ("source/", "models/")
"""Below the prefix: the folders of the archive and of its models, and of nothing else."""
OWN_FOLDER = ".riva-stream/"
"""Below the prefix: the folder of a run's own objects while it is in progress; readers ignore it."""
JOURNAL = OWN_FOLDER + "journal.json"
SCRATCH = (OWN_FOLDER + "probe", OWN_FOLDER + "dry-run")
"""Uploads that are created only to be aborted: they show what the store can do."""
CHECKPOINT = OWN_FOLDER + "checkpoint-"
"""The token of the process that wrote the checkpoint, and a number, follow."""

DEPLOYMENTS = "bintarball/deployment-metadata/"
"""A bintarball reference writes its two files below it."""
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
LEVELS = 3
"""Environment, model and version."""
LONGEST_KEY = 1024
"""Bytes (Amazon S3 User Guide, "Creating object key names")."""
LONGEST_PLACE = 900
"""Bytes of ``ENV/NAME/VERSION/``: with ``DEPLOYMENTS`` before it, and the name of a checkpoint after it, still a key."""


def is_segment(text: str) -> bool:
    """Whether it may be one level of a prefix."""
    return bool(_SEGMENT.fullmatch(text)) and text not in {".", ".."}


def prefix_of(mode: str | None, env: str, model_name: str, model_version: str) -> str:
    """Key prefix of a staging, with its closing slash, for each of the three modes."""
    folder = DEPLOYMENTS if mode == "bintarball_reference" else ""
    return f"{folder}{env}/{model_name}/{model_version}/"


def is_bintarball(prefix: str) -> bool:
    """Whether it is the prefix of a bintarball reference, whose marker is ``deployment_ready.txt``."""
    return prefix.startswith(DEPLOYMENTS) and prefix.removeprefix(DEPLOYMENTS).count("/") == LEVELS


def is_model(name: str) -> bool:
    """Whether it names a model, not an archive of models: a bare model is its own source, and is stored once."""
    return name.endswith(".riva")


def marker_at(prefix: str) -> str:
    """Name of the marker of the staging at a prefix."""
    return DEPLOYMENT_READY if is_bintarball(prefix) else MARKER


@dataclass(frozen=True, slots=True)
class Layout:
    """The keys of one staging."""

    bucket: str
    prefix: str
    """With its closing slash."""

    @property
    def uri(self) -> str:
        """``s3://bucket/prefix/``."""
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def marker_name(self) -> str:
        """Name of the document whose existence is the commit."""
        return marker_at(self.prefix)

    @property
    def marker(self) -> str:
        """Key of the marker."""
        return self.prefix + self.marker_name

    @property
    def journal(self) -> str:
        """Key of the journal."""
        return self.prefix + JOURNAL

    def of_source(self, name: str) -> str:
        """Key of the source's own bytes, from its name."""
        return self.of_model(name) if is_model(name) else f"{self.prefix}{FOLDERS[0]}{name}"

    def of_model(self, name: str) -> str:
        """Key of a model."""
        return f"{self.prefix}{FOLDERS[1]}{name}"

    def checkpoint(self, token: str, number: int) -> str:
        """Key of a checkpoint of one process."""
        return f"{self.prefix}{CHECKPOINT}{token}-{number}.json"

    def is_own(self, key: str) -> bool:
        """Whether a key belongs to a run while it is in progress, and not to readers."""
        return key.startswith(self.prefix + OWN_FOLDER)

    def is_checkpoint(self, key: str) -> bool:
        """Whether a key is that of a checkpoint, of any process."""
        return key.startswith(self.prefix + CHECKPOINT)

    def is_probe(self, key: str) -> bool:
        """Whether a key is that of a probe: an object there was completed by a probe that was killed."""
        return key.removeprefix(self.prefix) in SCRATCH and key.startswith(self.prefix)

    @property
    def documents(self) -> frozenset[str]:
        """Names of all documents that may be at this prefix."""
        return frozenset(DEPLOYMENT_DOCUMENTS) if is_bintarball(self.prefix) else _DOCUMENTS

    def owns(self, key: str) -> bool:
        """Whether this tool writes such a key here; no other key is ever overwritten, deleted or aborted."""
        is_document = key.startswith(self.prefix) and key.removeprefix(self.prefix) in self.documents
        return is_document or self.is_payload(key) or self.is_own(key)

    def is_in_payload_folder(self, key: str) -> bool:
        """Whether a key is in the folders of archive and models, at any depth: copying the folder copies it too."""
        return not is_bintarball(self.prefix) and key.startswith(tuple(self.prefix + it for it in FOLDERS))

    def is_payload(self, key: str) -> bool:
        """Whether a key is that of the archive or of a model, whose parts are worth resuming."""
        if not key.startswith(self.prefix) or is_bintarball(self.prefix):
            return False
        folder, _, name = key.removeprefix(self.prefix).partition("/")
        return f"{folder}/" in FOLDERS and name != "" and "/" not in name


def layout_around(bucket: str, key: str) -> Layout | None:
    """The staging whose prefix contains a key, or equals it; None where the key has too few levels."""
    root = DEPLOYMENTS if key.startswith(DEPLOYMENTS) else ""
    levels = key.removeprefix(root).split("/", LEVELS)
    if len(levels) <= LEVELS or not all(levels[:LEVELS]):
        return None
    return Layout(bucket, root + "/".join(levels[:LEVELS]) + "/")


def layout_of(bucket: str, key: str) -> Layout | None:
    """The staging that a key belongs to, or None where it is not one of this tool's keys."""
    layout = layout_around(bucket, key)
    return layout if layout is not None and layout.owns(key) else None
