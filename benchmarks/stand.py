"""What every peer works on: a server, a bucket, and archives of each kind in it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from boto3.s3.transfer import TransferConfig

from tests.support.archives import Archive, make_archive
from tests.support.seaweedfs import SeaweedServer
from tests.support.servers import GatewayServer, MotoProcess, S3Server, ram_or_disk_folder

__all__ = ["KINDS", "Source", "Stand"]

KINDS = {"weights6": 6, "weights1": 1, "stored": 0}
"""Kinds of archives and their gzip levels: float weights at -6 and at -1, and a payload that is compressed already
(stored blocks)."""

_TRANSFER = TransferConfig(max_concurrency=4, multipart_chunksize=16 << 20)
_STEP = 8 << 20


class ExternalServer(S3Server):
    """A store that runs already, reached with the credentials of the environment."""

    name = "external"

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self.access_key = os.environ.get("AWS_ACCESS_KEY_ID", self.access_key)
        self.secret_key = os.environ.get("AWS_SECRET_ACCESS_KEY", self.secret_key)
        self.region = os.environ.get("AWS_REGION", self.region)

    @property
    def endpoint_url(self) -> str:
        return self._url

    def _start(self) -> None:
        pass

    def _stop(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Source:
    """An archive in the bucket, and what is in it."""

    kind: str
    mib: int
    key: str
    archive: Archive

    @property
    def name(self) -> str:
        """Its file name."""
        return self.key.rpartition("/")[2]

    @property
    def expected(self) -> dict[str, tuple[int, str]]:
        """File name → (bytes, SHA-256) of all that a full staging writes."""
        members = {member.basename: (member.size, member.sha256) for member in self.archive.rivas}
        return {self.name: (self.archive.size, self.archive.sha256), **members}


@dataclass(eq=False)
class Stand:
    """The server and the bucket, as long as it is open; everything goes away with it."""

    server_name: str
    seed: int
    server: S3Server = field(init=False)
    bucket: str = field(init=False)
    folder: Path = field(init=False)
    """On a tmpfs where there is room."""

    def __enter__(self) -> Self:
        match self.server_name:
            case "juicefs":
                self.server = GatewayServer()
            case "moto":
                self.server = MotoProcess()
            case "seaweedfs":
                self.server = SeaweedServer()
            case url:
                self.server = ExternalServer(url)
        self.folder = ram_or_disk_folder("riva-benchmark-")
        try:
            self.server.start()
            self.bucket = self.server.new_bucket("riva-benchmark")
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.server.remove_bucket(self.bucket)
        finally:
            self.server.stop()
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def pid(self) -> int | None:
        """The server's process, where it is ours."""
        return getattr(self.server, "pid", None)

    def environment(self, endpoint_url: str | None = None) -> dict[str, str]:
        """All that a peer's process gets to see."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C.UTF-8",
            "NO_PROXY": "*",
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            **self.server.environment(endpoint_url),
        }

    def add(self, kind: str, mib: int) -> Source:
        """Make an archive with one model of ``mib`` MiB, and put it in the bucket."""
        key, path = f"from/{kind}-{mib}.tar.gz", self.folder / "archive"
        archive = make_archive(
            path, mib << 20, level=KINDS[kind], members=1, seed=f"{self.seed}/{kind}/{mib}"
        )
        self.server.client().upload_file(str(path), self.bucket, key, Config=_TRANSFER)
        path.unlink()
        return Source(kind, mib, key, archive)

    def remove(self, prefix: str) -> None:
        """Remove everything below a prefix, open uploads too."""
        client: Any = self.server.client()
        for key in self.sizes(prefix):
            client.delete_object(Bucket=self.bucket, Key=key)
        listed = client.list_multipart_uploads(Bucket=self.bucket, Prefix=prefix)
        for upload in listed.get("Uploads", ()):
            client.abort_multipart_upload(Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"])

    def sizes(self, prefix: str) -> dict[str, int]:
        """Key → bytes of the objects below a prefix."""
        listed = self.server.client().list_objects_v2(Bucket=self.bucket, Prefix=prefix)
        return {entry["Key"]: entry["Size"] for entry in listed.get("Contents", ())}

    def sha256(self, key: str) -> str:
        """SHA-256 of an object as the store gives it out."""
        hasher = hashlib.sha256()
        body = self.server.client().get_object(Bucket=self.bucket, Key=key)["Body"]
        for piece in body.iter_chunks(_STEP):
            hasher.update(piece)
        return hasher.hexdigest()

    @contextmanager
    def local(self, source: Source) -> Iterator[Path]:
        """The archive as a local file, while it is needed."""
        path = self.folder / source.name
        self.server.client().download_file(self.bucket, source.key, str(path), Config=_TRANSFER)
        try:
            yield path
        finally:
            path.unlink()
