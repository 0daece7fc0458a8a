"""What is wrong with what stands in the bucket."""

from __future__ import annotations

import hashlib
import json
import re

from tests.crash.kit import Source
from tests.staging import PREFIX, Place

__all__ = ["wrong_with"]

_DOCUMENTS = ("artifact.json", "checksums.sha256", "staging_complete.txt", "upload_manifest.json")


def wrong_with(place: Place, source: Source, prefix: str = PREFIX) -> list[str]:
    """Every way in which the prefix is not the whole staging of *source* and of nothing else; empty: it is."""
    name = f"source/{source.uri.rpartition('/')[2]}"
    expected = {name: source.archive.sha256} | {
        f"models/{member.basename}": member.sha256 for member in source.archive.rivas
    }
    wrong = [f"an upload is open: {key}" for key in place.open_uploads() if key.startswith(prefix)]
    names = place.names(prefix)
    if names != sorted([*expected, *_DOCUMENTS]):
        return [*wrong, f"the keys are {names}"]
    digests = {each: hashlib.sha256(place.read(prefix + each)).hexdigest() for each in names}
    wrong += [f"{each} has other bytes" for each, sha256 in expected.items() if digests[each] != sha256]
    lines = place.read(prefix + "checksums.sha256").decode().splitlines()
    if sorted(lines) != sorted(f"{sha256}  {each}" for each, sha256 in expected.items()):
        wrong.append(f"checksums.sha256 says {lines}")
    artifact = json.loads(place.read(prefix + "artifact.json"))
    if artifact["source"]["sha256"] != source.archive.sha256 or artifact["source"]["uri"] != source.uri:
        wrong.append("artifact.json speaks of another source")
    marker = place.read(prefix + "staging_complete.txt").decode()
    if not re.search(rf"^SHA-256 of artifact\.json:\s*{digests['artifact.json']}$", marker, re.MULTILINE):
        wrong.append("the marker was written for another artifact.json")
    return wrong + _wrong_manifest(place, prefix, digests)


def _wrong_manifest(place: Place, prefix: str, digests: dict[str, str]) -> list[str]:
    files = json.loads(place.read(prefix + "upload_manifest.json"))["files"]
    listed = [files["source_archive"], *files["models"], files["checksums"], files["metadata"]]
    wrong = []
    for file in listed:
        head = place.head(file["s3_key"])
        if file["checksum"] != f"sha256:{digests[file['s3_key'].removeprefix(prefix)]}":
            wrong.append(f"the manifest has another checksum of {file['s3_key']}")
        if (file["etag"], file["size_bytes"]) != (head["ETag"].strip('"'), head["ContentLength"]):
            wrong.append(f"the manifest has another ETag or size of {file['s3_key']}")
    return wrong
