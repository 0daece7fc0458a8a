"""What the tests of `stage` share: a source in place, a request for it, and a look at what was staged."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from isal import isal_zlib

from riva_stream import StageRequest
from riva_stream.sizes import MIB
from tests.support.archives import Archive, archive_bytes
from tests.support.servers import S3Server

PREFIX = "prod/parakeet-rnnt-en-us/v2025.09/"
SOURCE_KEY = "bintarball/parakeet-rnnt-riva-1-1b-en-us-deployable_v8.1.tar.gz"


@dataclass(frozen=True, slots=True)
class Place:
    """A server, the bucket that a test has on it, and how to look into it."""

    server: S3Server
    bucket: str

    @property
    def client(self) -> Any:
        return self.server.client()

    def put(self, key: str, data: bytes) -> str:
        """Put an object and give its ETag."""
        return str(self.client.put_object(Bucket=self.bucket, Key=key, Body=data)["ETag"])

    def read(self, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read())

    def head(self, key: str) -> Mapping[str, Any]:
        return dict(self.client.head_object(Bucket=self.bucket, Key=key))

    def names(self, prefix: str = PREFIX) -> list[str]:
        """All keys below *prefix*, without it."""
        found: list[str] = []
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        for page in pages:
            found += [entry["Key"].removeprefix(prefix) for entry in page.get("Contents", [])]
        # the gateway keeps folders, and lists one that has become empty
        return sorted(name for name in found if not name.endswith("/"))

    def open_uploads(self) -> list[str]:
        answer = self.client.list_multipart_uploads(Bucket=self.bucket)
        return [entry["Key"] for entry in answer.get("Uploads", [])]

    def source(self, size: int = 3 * MIB, key: str = SOURCE_KEY, **options: Any) -> tuple[Archive, bytes]:
        """Put a made-up archive as the source."""
        data, archive = archive_bytes(size, **options)
        self.put(key, data)
        return archive, data

    def request(self, **fields: Any) -> StageRequest:
        """A request for the source, with the variables of the issue as defaults."""
        given: dict[str, Any] = {
            "source": f"s3://{self.bucket}/{SOURCE_KEY}",
            "bucket": self.bucket,
            "env": "prod",
            "model_name": "parakeet-rnnt-en-us",
            "model_version": "v2025.09",
            "region": self.server.region,
            "endpoint_url": self.server.endpoint_url,
            "retries": 2,
            # What is looked at is what is sent; copies in the store are looked at in test_copies.
            "source_copy": "send",
        }
        return StageRequest.model_validate(given | fields)

    def assert_nothing_left(self) -> None:
        """No object below the prefix and no upload open: what a refused run must leave."""
        assert self.names() == []
        assert self.open_uploads() == []

    def assert_staged(
        self, archive: Archive, data: bytes, members: Mapping[str, bytes] | None = None
    ) -> None:
        """The whole staging: exact keys, exact bytes, checksums that agree, no upload left."""
        models = sorted(f"models/{member.basename}" for member in archive.rivas)
        source = f"source/{SOURCE_KEY.rpartition('/')[2]}"
        assert self.names() == sorted(
            [
                *models,
                source,
                "artifact.json",
                "checksums.sha256",
                "staging_complete.txt",
                "upload_manifest.json",
            ]
        )
        assert self.read(PREFIX + source) == data
        for member in archive.rivas:
            staged = self.read(f"{PREFIX}models/{member.basename}")
            assert (len(staged), hashlib.sha256(staged).hexdigest()) == (member.size, member.sha256)
        for line in self.read(PREFIX + "checksums.sha256").decode().splitlines():
            digest, _, name = line.partition("  ")
            assert hashlib.sha256(self.read(PREFIX + name)).hexdigest() == digest
        assert self.open_uploads() == []


@pytest.fixture
def credentials(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's credentials where the SDK looks for them."""
    put_credentials(s3_server, monkeypatch)


def put_credentials(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)


def tar_gz(members: Sequence[tuple[str, bytes]], level: int = 1) -> bytes:
    """A small archive of the given members."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return gzipped(raw.getvalue(), level)


def gzipped(data: bytes, level: int = 1) -> bytes:
    return bytes(isal_zlib.compress(data, level, wbits=31))
