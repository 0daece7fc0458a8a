"""What must hold, judged at the moment a request takes effect, by nothing but what is in the store.

The documents are read by a parser of the judge's own: it shares no line with the code under test.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from typing import Any

from riva_stream.s3.memory import MemoryObject, MemoryStore
from tests.sim.network import Request
from tests.sim.process import Process
from tests.sim.scenarios import Promotion
from tests.sim.sources import SOURCE_BUCKET, Source

__all__ = ["NOT_PROMISED", "PROPERTIES", "Judge", "Violation"]

PROPERTIES: Mapping[str, str] = {
    "P1": "nothing that a standing marker promises is deleted or replaced",
    "P1r": "nothing that a standing deployment_ready.txt vouches for is deleted or replaced",
    "P1m": "a marker goes only by a run that was asked to replace it and has seen this very one",
    "P2": "nothing outside the prefix changes",
    "P3": "a marker appears only over a complete, unmixed set whose bytes are right",
    "P4": "no archive and no model is visible before its source was read to the end and found good",
    "P5": "no run says that something is staged already where nothing stood when it looked last",
    "E1": "two plain runs later it is staged, or refused for what stands there (a run that took a journal that a killed run "
    "had under way for a heartbeat does not count)",
    "E2": "no upload is left open",
    "E3": "no journal is left",
    "E4": "no run ends in a bug, or hangs",
    "E5": "one failure that passes does not end a run",
    "E6": "what could not be found out is not taken for wrong",
    "L2": "(not promised) an upload that came late, or that neither listing nor journal tells of, is found",
    "L3": "(not promised) what a dead run's late request has written is found",
}

NOT_PROMISED = frozenset({"L2", "L3"})
_MIXED = frozenset({"P1", "P1m", "P3"})

_MARKER, _READY, _PAIRED = "staging_complete.txt", "deployment_ready.txt", "deployment.json"
_ARTIFACT, _MANIFEST, _CHECKSUMS = "artifact.json", "upload_manifest.json", "checksums.sha256"
_JOURNAL = ".riva-stream/journal.json"
_STAGED = ("source/", "models/")


@dataclass(frozen=True, slots=True)
class Violation:
    """One promise that was broken."""

    kind: str
    text: str
    is_beside: bool = False
    """Whether it was a run of another version that broke it."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}" + (" (another version)" if self.is_beside else "")


class _WrongError(Exception):
    """What is not as the marker says."""


class Judge:
    """Looks at every request that changes something.

    Args:
        store: what it judges.
        bucket: where the staging is.
        prefix: of the staging.
        sources: what there is to stage, by URI.
    """

    def __init__(self, store: MemoryStore, bucket: str, prefix: str, sources: Mapping[str, Source]) -> None:
        self.store, self.bucket, self.prefix = store, bucket, prefix
        self._sources = sources
        self._is_pair = prefix.startswith("bintarball/")
        self._marker = prefix + (_READY if self._is_pair else _MARKER)
        self.violations: list[Violation] = []
        self.promised: dict[str, MemoryObject] = {}
        """What the marker that stands promises; itself among it."""
        self._ready: dict[str, MemoryObject] = {}
        """What the deployment documents that stand vouch for; there may be no marker beside them."""
        self._seen: dict[int, list[MemoryObject]] = {}
        """Markers that each process was shown, by its pid."""
        self._late: set[str] = set()
        """Keys, and UploadIds, that came to be by requests of runs that were over by then."""
        self._thawed: dict[str, Process] = {}
        """By UploadId, which process had created it though it was suspended, with its request or just before, until the
        prefix was another's."""
        self._unheard: dict[str, Request] = {}
        """By which request those came to be whose runs no longer waited for the answer, and that no listing has shown since to
        a run that could abort them."""
        self._listings: set[tuple[int, int, str]] = set()
        """By pid, the number of each listing of uploads, and what it asked for."""
        self._named: set[str] = set()
        """UploadIds that a journal has named."""
        self._answerable: dict[str, bool] = {}
        """For each UploadId: whether a run of another version had to abort it."""
        self._shown: dict[tuple[int, str], MemoryObject | None] = {}
        """What each process, by its pid, saw last at a key, or has put there."""
        self._changed_beside: dict[str, bool] = {}
        """For each key: whether a run of another version has made the last change."""
        self._is_struck = False
        """Whether a late request has struck a journal on a store that has nothing to hold it back."""
        self._holder = 0
        """Pid of the process whose journal is there."""
        self._creators: dict[str, Process] = {}
        """Of each upload."""
        self._lost_journals: set[int] = set()
        """Pids of those whose journal another run has deleted for its own, on a store that has no conditions to prevent it."""
        self._stood: dict[int, bool] = {}
        """For each process, by its pid: whether a marker stood when its last request took effect, or came later."""
        marker = self._look(self._marker)
        if marker is not None:
            with suppress(_WrongError):
                self.promised = self._complete(marker)
        self._look_at_the_pair()

    def gone_on(self, store: MemoryStore) -> Judge:
        """Another judge, of a copy of the store, that knows what this one has seen."""
        other = copy(self)
        for name, known in vars(self).items():
            if isinstance(known, dict | set | list):
                setattr(other, name, copy(known))
        other._seen = {pid: list(shown) for pid, shown in self._seen.items()}
        other.store = store
        return other

    @property
    def noted(self) -> list[list[str]]:
        """Keys that are promised, that are vouched for, and that came late, be it that they are gone again."""
        return [
            sorted(self.promised),
            sorted(self._ready),
            sorted(name for name in self._late if "/" in name),
        ]

    def is_noted(self, name: str) -> tuple[bool, bool]:
        """Of a key or an UploadId: whether it came late, and whether a journal has named it."""
        is_late = name in self._late or name in self._thawed or self._is_lost_with_its_journal(name)
        return is_late, name in self._named

    # ---- while it goes on

    def carry_out(self, request: Request) -> Any:
        """Let a request take effect, and judge what it did."""
        self._stood[request.process.pid] = self._look(self._marker) is not None
        if request.bucket != self.bucket:
            if request.changes:
                self._blame(request, "P2", f"s3://{request.bucket}/{request.key} is written")
            return request.carry_out(self.store)
        if not request.changes:
            result = request.carry_out(self.store)
            self._show(request, result)
            return result
        if not request.key.startswith(self.prefix):
            self._blame(request, "P2", f"{request.key} is outside of {self.prefix}")
        before = self._look(request.key)
        result = request.carry_out(self.store)
        after = self._look(request.key)
        if request.process.is_over:
            self._late.add(str(result) if request.operation == "CreateMultipartUpload" else request.key)
        if request.operation == "CreateMultipartUpload":
            self._created(request, str(result))
        if before is not after:
            self._shown[request.process.pid, request.key] = after
            self._changed_beside[request.key] = request.process.is_beside
            if request.key == self.prefix + _JOURNAL:
                self._is_struck |= request.process.is_over and not self._holds_back
                if after is None and self._holder != request.process.pid and not self.store.keeps_conditions:
                    self._lost_journals.add(self._holder)
                self._journaled(request.process, before, after)
            self._judge_ready(request, after)
            self._changed(request, before, after)
        return result

    def _created(self, request: Request, upload_id: str) -> None:
        process = request.process
        self._answerable[upload_id] = process.is_beside
        self._creators[upload_id] = process
        if process.has_slept and self._holder != process.pid:
            self._thawed[upload_id] = process
        if request.dropped:
            self._unheard[upload_id] = request

    def _show(self, request: Request, answer: Any) -> None:
        """Its process knows from here on what is there."""
        process, keys = request.process, [request.key]
        if request.operation == "ListObjectsV2":
            keys = self.store.keys(self.bucket, request.key)
        elif request.operation == "ListMultipartUploads":
            found = [upload.upload_id for upload in answer]
            self._listings.add((process.pid, request.number, request.key))
            for upload_id in found:
                created = self._unheard.get(upload_id)
                is_own = created is not None and created.process is process and self._holder == 0
                if is_own or self._holder == process.pid:
                    self._unheard.pop(upload_id, None)
            if self._holder == process.pid:
                self._answerable |= dict.fromkeys(found, process.is_beside)
        for key in keys:
            self._shown[process.pid, key] = shown = self._look(key)
            if key == self._marker == request.key and shown is not None:
                self._seen.setdefault(process.pid, []).append(shown)

    def _journaled(self, process: Process, before: MemoryObject | None, after: MemoryObject | None) -> None:
        self._holder = process.pid if after is not None else 0
        self._named |= _named(after)
        # Whoever takes the last word of an upload away has to have aborted it, or does so next.
        self._answerable |= dict.fromkeys(_named(before) - _named(after), process.is_beside)

    def standing(self) -> dict[str, Any] | None:
        """``artifact.json`` (``deployment.json`` of a bintarball reference) under a marker that is right, or None.

        ``include`` is the manifest's.
        """
        marker = self._look(self._marker)
        if marker is None:
            return None
        try:
            self._complete(marker)
        except _WrongError:
            return None
        told = self._json(_PAIRED if self._is_pair else _ARTIFACT)
        if self._look(self.prefix + _MANIFEST) is not None:
            told["include"] = self._json(_MANIFEST)["include"]
        return told

    def _changed(self, request: Request, before: MemoryObject | None, after: MemoryObject | None) -> None:
        key = request.key
        if key == self._marker:
            if before is not None:
                self._judge_removal(request, before)
            self.promised = {}
            if after is not None:
                self._judge_marker(request, after)
            return
        verb = "deleted" if after is None else "replaced"
        if key in self.promised:
            self._blame(request, "P1", f"{key} is {verb} under a standing marker")
            self.promised.pop(key)  # told once
        elif self.promised and after is not None and self._is_staged(key) and self._is_full():
            self._blame(request, "P1", f"{key} appears beside a standing marker")
        elif self.promised and key == self.prefix + _READY and after is not None:
            self._judge_pair(request)
        if self.promised and key == self.prefix + _READY and after is None:
            self.promised.pop(self.prefix + _PAIRED, None)
        if after is not None and self._is_staged(key):
            self._judge_visible(request, after)

    def _judge_ready(self, request: Request, after: MemoryObject | None) -> None:
        if request.key == self.prefix + _READY:
            self._look_at_the_pair()
        elif request.key in self._ready:
            self._blame(request, "P1r", f"{request.key} is {'deleted' if after is None else 'replaced'}")
            self._ready.pop(request.key)  # told once

    def _look_at_the_pair(self) -> None:
        """Note what ``deployment_ready.txt`` vouches for, by way of ``deployment.json``."""
        self._ready = {}
        ready, document = self._look(self.prefix + _READY), self._look(self.prefix + _PAIRED)
        if ready is None or document is None:
            return
        if _lines(ready.data).get("SHA-256 of deployment.json") != _sha256(document):
            return
        archive = self._json(_PAIRED)["bintarball_references"]["model_archive"]
        there = self._look(archive["s3_uri"].removeprefix(f"s3://{self.bucket}/"))
        self._ready = {document.key: document}
        if there is not None and there.etag == archive["etag"]:
            self._ready[there.key] = there

    def _judge_removal(self, request: Request, marker: MemoryObject) -> None:
        process = request.process
        if not any(shown is marker for shown in self._seen.get(process.pid, ())):
            self._blame(request, "P1m", f"{self._marker} goes, and {process.name} has never seen this one")
        elif self.promised and not self._may_replace(process):
            self._blame(
                request, "P1m", f"{self._marker} goes, and {process.name} was not asked to replace it"
            )

    def _may_replace(self, process: Process) -> bool:
        asked = process.request
        upgrade = not self._is_full() and asked.mode == "full"
        return asked.force or upgrade or asked.server_path is not None

    def _judge_marker(self, request: Request, marker: MemoryObject) -> None:
        self._seen.setdefault(request.process.pid, [])
        self._stood = dict.fromkeys(self._stood, True)
        try:
            self.promised = self._complete(marker)
        except _WrongError as wrong:
            self._blame(request, "P3", str(wrong), is_beside=self._is_meddled_with(request.process))

    def _is_meddled_with(self, process: Process) -> bool:
        """Whether another version has changed something under this process's hold, since it looked there last."""
        return self._holder == process.pid and any(
            is_beside and self._look(key) is not self._shown.get((process.pid, key))
            for key, is_beside in self._changed_beside.items()
        )

    def _judge_pair(self, request: Request) -> None:
        try:
            self.promised |= self._pair()
        except _WrongError as wrong:
            self._blame(request, "P3", str(wrong), is_beside=self._is_meddled_with(request.process))

    def _judge_visible(self, request: Request, after: MemoryObject) -> None:
        """An archive or a model has appeared."""
        asked = request.process.request
        source = self._sources[asked.source]
        kept = self.store.look(SOURCE_BUCKET, source.key)
        if not source.is_good:
            self._blame(request, "P4", f"{request.key} of a source that is bad")
        elif asked.expect_sha256 not in {None, source.sha256}:
            self._blame(
                request, "P4", f"{request.key} of a source with another SHA-256 than the expected one"
            )
        elif isinstance(asked, Promotion):
            if _sha256(after) not in {source.sha256, *source.members.values()}:
                self._blame(request, "P4", f"{request.key} with bytes that were never staged")
        elif kept is not None:
            read = request.process.has_read(SOURCE_BUCKET, source.key, kept.etag)
            if read < len(source.data):
                self._blame(request, "P4", f"{request.key} after {read} of {len(source.data)} bytes")

    def judge_outcome(self, process: Process) -> None:
        """A run has ended, and says how."""
        if process.outcome == "already_staged" and not self._stood.get(process.pid):
            text = f"{process.name} says so, and {self._marker} is not there"
            self.violations.append(Violation("P5", text, process.is_beside))

    # ---- in the end

    def judge_end(self) -> None:
        """Nothing may be left over once a plain run has ended well."""
        for upload in self.store.open_uploads(self.bucket):
            found = self.store.lists_uploads_by_prefix or upload.upload_id in self._named
            kind = "E2" if found and not self._is_late(upload.upload_id) else "L2"
            is_beside = self._answerable.get(upload.upload_id, False)
            self.violations.append(Violation(kind, f"{upload.key} has an open upload", is_beside))
        for key in self.store.keys(self.bucket, self.prefix + ".riva-stream/"):
            self.violations.append(Violation("L3" if key in self._late else "E3", f"{key} is left"))

    def _is_late(self, upload_id: str) -> bool:
        """Whether nobody could know of an upload once it was there, the run that had created it among them."""
        creator = self._thawed.get(upload_id)
        is_cut_off = creator is not None and (creator.outcome == "killed" or creator.down_until > 0)
        is_cut_off |= self._has_looked_too_early(upload_id)
        if self.store.checks_windows:
            is_cut_off = False  # what was frozen for so long does not take effect any more
        return (
            upload_id in self._late
            or is_cut_off
            or self._is_struck
            or self._is_lost_with_its_journal(upload_id)
        )

    def _is_lost_with_its_journal(self, upload_id: str) -> bool:
        """Whether it is of a run that was killed, and had lost its journal before it could see that."""
        creator = self._creators.get(upload_id)
        return creator is not None and creator.outcome == "killed" and creator.pid in self._lost_journals

    def _has_looked_too_early(self, upload_id: str) -> bool:
        """Whether the run that had created an upload has looked for it, and did not find it yet."""
        created = self._unheard.get(upload_id)
        return created is not None and any(
            pid == created.process.pid and number > created.number and created.key.startswith(key)
            for pid, number, key in self._listings
        )

    @property
    def _holds_back(self) -> bool:
        """Whether a condition or a window can keep a late request out."""
        return self.store.checks_windows or self.store.keeps_conditions

    def blame_end(self, kind: str, text: str) -> None:
        """Something is wrong in the end; if another version has left a mixture, it comes of that."""
        is_beside = any(v.is_beside for v in self.violations if v.kind in _MIXED)
        self.violations.append(Violation(kind, text, is_beside))

    # ---- what a marker says

    def _complete(self, marker: MemoryObject) -> dict[str, MemoryObject]:
        """All that the marker promises.

        Raises:
            _WrongError: it is not there, or not right.
        """
        if self._is_pair:
            return {marker.key: marker, **self._pair()}
        says = _lines(marker.data)
        artifact = self._there(_ARTIFACT)
        _same("SHA-256 of artifact.json", says.get("SHA-256 of artifact.json"), _sha256(artifact))
        promised = {marker.key: marker, artifact.key: artifact}
        described = self._json(_ARTIFACT)
        source = self._sources.get(described["source"]["uri"])
        if source is None:
            raise _WrongError(f"the source {described['source']['uri']} is unknown")
        kept = self.store.look(SOURCE_BUCKET, source.key)
        _same("ETag of the source", described["source"]["etag"], kept.etag if kept else None)
        run_id = says.get("Run ID")
        _same("run id of artifact.json", described["build_info"]["run_id"], run_id)
        _same("run id of artifact.json's metadata", artifact.metadata.get("run-id"), run_id)
        _same("run id of the marker's metadata", marker.metadata.get("run-id"), run_id)
        mode = described["deployment"]["staging_mode"]
        _same("mode", says.get("Mode"), mode)
        staged = {key for key in self.store.keys(self.bucket, self.prefix) if self._is_staged(key)}
        if mode == "full":
            listed = self._listed(source, described, run_id, says)
            promised |= listed
            staged -= set(listed)
        if staged:
            raise _WrongError(f"{min(staged)} is there, and no manifest names it")
        if self._look(self.prefix + _READY) is not None:
            promised |= self._pair()
        return promised

    def _listed(
        self, source: Source, described: Mapping[str, Any], run_id: str | None, says: Mapping[str, str]
    ) -> dict[str, MemoryObject]:
        """What ``upload_manifest.json`` lists, and itself."""
        manifest = self._there(_MANIFEST)
        expected = says.get("SHA-256 of upload_manifest.json")
        if expected is not None:
            _same("SHA-256 of upload_manifest.json", expected, _sha256(manifest))
        lists = self._json(_MANIFEST)
        _same("run id of upload_manifest.json", lists["upload_id"], run_id)
        _same("run id of upload_manifest.json's metadata", manifest.metadata.get("run-id"), run_id)
        promised = {manifest.key: manifest}
        digests: dict[str, str] = {}
        for file in _files(lists):
            there = self._look(file["s3_key"])
            if there is None:
                raise _WrongError(f"{file['s3_key']} is missing")
            _same(f"ETag of {there.key}", file["etag"], there.etag)
            _same(f"size of {there.key}", file["size_bytes"], len(there.data))
            _same(f"checksum of {there.key}", file["checksum"], f"sha256:{_sha256(there)}")
            digests[there.key.removeprefix(self.prefix)] = _sha256(there)
            promised[there.key] = there
        name = "source/" + source.key.rpartition("/")[2]
        parted = {path: digest for path, digest in digests.items() if path.startswith(_STAGED)}
        models = {f"models/{m}": d for m, d in source.matching(lists["include"]).items()}
        _same("archive and models", parted, {name: source.sha256, **models})
        _same("SHA-256 of the source", described["source"]["sha256"], source.sha256)
        told = {model["relative_path"]: model["sha256"] for model in described["models"]}
        _same("models of artifact.json", told, models)
        lines = self._there(_CHECKSUMS).data.decode().splitlines()
        sums = {path: digest for digest, _, path in (line.partition("  ") for line in lines)}
        _same("checksums.sha256", sums, parted)
        for name in (_ARTIFACT, _CHECKSUMS):
            if self.prefix + name not in promised:
                raise _WrongError(f"upload_manifest.json does not list {name}")
        return promised

    def _pair(self) -> dict[str, MemoryObject]:
        """``deployment.json``, if ``deployment_ready.txt`` is right about it."""
        ready, document = self._there(_READY), self._there(_PAIRED)
        says = _lines(ready.data).get("SHA-256 of deployment.json")
        _same("SHA-256 of deployment.json", says, _sha256(document))
        if self._is_pair:
            return {document.key: document}
        belongs = self._json(_PAIRED)["deployment"]["artifact_sha256"]
        _same("artifact.json of deployment.json", belongs, _sha256(self._there(_ARTIFACT)))
        return {document.key: document}

    # ---- small things

    def _is_staged(self, key: str) -> bool:
        return key.startswith(tuple(self.prefix + folder for folder in _STAGED))

    def _is_full(self) -> bool:
        return self.prefix + _MANIFEST in self.promised

    def _look(self, key: str) -> MemoryObject | None:
        return self.store.look(self.bucket, key)

    def _there(self, name: str) -> MemoryObject:
        found = self._look(self.prefix + name)
        if found is None:
            raise _WrongError(f"{name} is missing")
        return found

    def _json(self, name: str) -> dict[str, Any]:
        try:
            return dict(json.loads(self._there(name).data))
        except ValueError as error:
            raise _WrongError(f"{name} is not JSON") from error

    def _blame(self, request: Request, kind: str, text: str, *, is_beside: bool = False) -> None:
        is_beside |= request.process.is_beside
        self.violations.append(Violation(kind, f"{text}, by {request}", is_beside))


def _files(manifest: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for entry in manifest["files"].values():
        yield from entry if isinstance(entry, list) else [entry] if entry else []


def _named(journal: MemoryObject | None) -> set[str]:
    """UploadIds in a journal; none in what is no journal."""
    try:
        told = json.loads(journal.data) if journal else {}
    except ValueError:
        return set()
    return {upload["upload_id"] for upload in told.get("uploads", ())}


def _lines(text: bytes) -> dict[str, str]:
    pairs = (line.partition(": ") for line in text.decode(errors="replace").splitlines())
    return {name: value for name, _, value in pairs}


def _sha256(found: MemoryObject) -> str:
    return hashlib.sha256(found.data).hexdigest()


def _same(what: str, said: object, real: object) -> None:
    if said != real:
        raise _WrongError(f"{what} is {real}, not {said}")
