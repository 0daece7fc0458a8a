"""Four S3 servers on loopback, for tests, benchmarks and demos.

=================  =====================================================================================
`MotoServer`       in this very process, on a thread; starts in no time, slow with bytes
`MotoProcess`      the same in a process of its own, where its memory and CPU must not count as ours
`GatewayServer`    the JuiceFS gateway, a real server process with MinIO's S3 handlers; quick
`LocalStackServer` LocalStack's S3, the strictest about checksums (in `tests.support.localstack`)
`SeaweedServer`    SeaweedFS, a real server process, much like AWS (in `tests.support.seaweedfs`)
=================  =====================================================================================

Each is a context manager::

    with GatewayServer() as server:
        bucket = server.new_bucket()
        server.client().put_object(Bucket=bucket, Key="key", Body=b"bytes")
"""

from __future__ import annotations

import abc
import secrets
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from tests.support.daemons import (
    LOOPBACK,
    Daemon,
    ServerStartError,
    binary,
    free_port,
    minimal_environment,
    ram_or_disk_folder,
)
from tests.support.moto_front import MotoFront

__all__ = [
    "GatewayServer",
    "MotoProcess",
    "MotoServer",
    "S3Server",
    "ram_or_disk_folder",
    "random_bucket_name",
]

_ATTEMPTS = 3
"""Starts on a fresh port each, because somebody may take a free port before the server binds it."""


def random_bucket_name(prefix: str = "riva") -> str:
    """A bucket name that no other test has."""
    return f"{prefix}-{secrets.token_hex(8)}"


class S3Server(abc.ABC):
    """One running S3 endpoint and what a client needs in order to speak to it."""

    name: ClassVar[str]
    access_key: str = "riva-test-access-key"
    secret_key: str = "riva-test-secret-key"
    region: str = "us-east-1"

    def __init__(self) -> None:
        self._port = 0
        self._clients: dict[str, Any] = {}

    @property
    def endpoint_url(self) -> str:
        return f"http://{LOOPBACK}:{self._port}"

    @property
    def port(self) -> int:
        """The loopback port it listens on."""
        if not self._port:
            raise ServerStartError(f"{self.name} is not running")
        return self._port

    def start(self) -> Self:
        """Start it and return once it answers."""
        self._start()
        return self

    def stop(self) -> None:
        """Stop it and remove what it stored. Safe to call twice."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        self._stop()
        self._port = 0

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @abc.abstractmethod
    def _start(self) -> None: ...

    @abc.abstractmethod
    def _stop(self) -> None: ...

    def client(self, endpoint_url: str | None = None) -> Any:
        """A plain boto3 S3 client, one per endpoint and closed with the server.

        *endpoint_url* is for a proxy in front of the server. No retries, so that a test sees what the server
        answered; checksums only where required, because two of the three servers do not know the newer ones.
        """
        url = endpoint_url or self.endpoint_url
        if url not in self._clients:
            self._clients[url] = boto3.session.Session().client(
                "s3",
                endpoint_url=url,
                region_name=self.region,
                aws_access_key_id=self.access_key,
                aws_secret_access_key=self.secret_key,
                config=Config(
                    s3={"addressing_style": "path"},
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                    retries={"total_max_attempts": 1, "mode": "standard"},
                    proxies={},
                ),
            )
        return self._clients[url]

    def new_bucket(self, prefix: str = "riva") -> str:
        """Make a bucket with a random name and return that name."""
        name = random_bucket_name(prefix)
        self.client().create_bucket(Bucket=name)
        return name

    def remove_bucket(self, name: str) -> None:
        """Remove a bucket with everything in it, open uploads too. One key at a time, since the gateway refuses
        botocore's DeleteObjects."""
        client, bucket = self.client(), {"Bucket": name}
        for page in client.get_paginator("list_multipart_uploads").paginate(**bucket):
            for upload in page.get("Uploads", ()):
                client.abort_multipart_upload(**bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        for page in client.get_paginator("list_objects_v2").paginate(**bucket):
            for entry in page.get("Contents", ()):
                client.delete_object(**bucket, Key=entry["Key"])
        client.delete_bucket(**bucket)

    def environment(self, endpoint_url: str | None = None) -> dict[str, str]:
        """The environment variables with which a process of its own finds this server."""
        return {
            "AWS_ENDPOINT_URL": endpoint_url or self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def answers(self) -> bool:
        """Whether something speaks HTTP at the port. The status does not matter: unsigned requests are refused."""
        host, port = urlsplit(self.endpoint_url).hostname, urlsplit(self.endpoint_url).port
        try:
            with socket.create_connection((host, port), timeout=5) as connection:
                connection.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                return connection.recv(5) == b"HTTP/"
        except OSError:
            return False


class MotoServer(S3Server):
    """moto in this process. Its state is one per process: two of them see the same buckets."""

    name = "moto"

    def _start(self) -> None:
        self._front = MotoFront()
        self._front.start()
        self._port = self._front.port

    def _stop(self) -> None:
        if self._port:
            self._front.stop()


class ProcessServer(S3Server):
    """A server in a process group of its own, with a folder that goes away with it."""

    _daemon: Daemon | None = None
    _folder: Path | None = None

    @property
    def pid(self) -> int:
        """The process id of the server, to read its CPU seconds or memory from /proc."""
        if self._daemon is None:
            raise ServerStartError(f"{self.name} is not running")
        return self._daemon.pid

    @property
    def log(self) -> str:
        """The last lines the server logged."""
        return "" if self._daemon is None else self._daemon.log_tail()

    def _start(self) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            self._folder = ram_or_disk_folder(f"riva-{self.name}-")
            try:
                self._port = free_port()
                self._daemon = self._launch(self._folder)
                self._daemon.wait_ready(self.answers)
            except BaseException as error:
                self._stop()
                self._port = 0
                if attempt == _ATTEMPTS or not isinstance(error, ServerStartError):
                    raise
            else:
                return

    def _stop(self) -> None:
        if self._daemon is not None:
            self._daemon.stop()
            self._daemon = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    @abc.abstractmethod
    def _launch(self, folder: Path) -> Daemon:
        """Start the process on ``self._port``, keeping everything it writes in *folder*."""


class MotoProcess(ProcessServer):
    """moto in a process of its own."""

    name = "moto-process"

    def _launch(self, folder: Path) -> Daemon:
        argv = [sys.executable, "-m", "moto.server", "--host", LOOPBACK, "--port", str(self._port)]
        return Daemon(argv, env=minimal_environment(folder), cwd=folder, log=folder / "log")


class GatewayServer(ProcessServer):
    """The JuiceFS gateway: MinIO's S3 handlers over files, with the metadata in Badger: SQLite took more than twice the CPU.

    It checks signatures, Content-MD5 and signed payload hashes; it ignores conditional writes and the newer
    ``x-amz-checksum-*`` headers.
    """

    name = "gateway"

    def _launch(self, folder: Path) -> Daemon:
        juicefs, meta = binary("juicefs"), f"badger://{folder}/meta"
        environment = minimal_environment(folder) | {
            "MINIO_ROOT_USER": self.access_key,
            "MINIO_ROOT_PASSWORD": self.secret_key,
        }
        formatted = subprocess.run(
            [
                juicefs,
                "format",
                "--storage",
                "file",
                "--bucket",
                f"{folder}/data/",
                "--trash-days",
                "0",
                meta,
                "riva",
            ],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if formatted.returncode:
            raise ServerStartError(f"juicefs format ended with {formatted.returncode}\n{formatted.stdout}")
        flags = [
            "--multi-buckets",
            "--keep-etag",
            "--object-meta",
            "--object-tag",
            "--no-usage-report",
            "--no-bgjob",
        ]
        values = ["--backup-meta", "0", "--cache-size", "0", "--cache-dir", f"{folder}/cache"]
        # Port 0: any free one for its metrics, so that two gateways do not quarrel over the default.
        values += ["--metrics", f"{LOOPBACK}:0", "--log", f"{folder}/log"]
        argv = [juicefs, "gateway", *flags, *values, meta, f"{LOOPBACK}:{self._port}"]
        return Daemon(argv, env=environment, cwd=folder, log=folder / "log")
