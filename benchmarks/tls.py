"""What TLS adds: the same staging in plain and through a TLS front, and the event loop's two kernels both ways.

The gateway speaks no TLS itself, so stunnel (OpenSSL, as most clients have it) stands in front of it. Its work is
the server's, not ours: compare the client's CPU seconds. On two cores it also takes from what the client gets of the
machine, so the walls say less.
"""

from __future__ import annotations

import argparse
import datetime as dt
import ipaddress
import json
import statistics
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from benchmarks.compare import kernel_job, run_checked, run_kernel
from benchmarks.machine import describe
from benchmarks.measure import tree_cpu
from benchmarks.peers import PEERS, Job
from benchmarks.results import GIB, table
from benchmarks.stand import KINDS, Source, Stand
from benchmarks.tools import program, version
from tests.support.daemons import Daemon, free_port, minimal_environment

__all__ = ["add_arguments", "main"]

_LOOPBACK = "127.0.0.1"
_KERNELS = ("get", "put", "put-pieces")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its own arguments."""
    parser.add_argument("--kind", choices=list(KINDS), default="weights6", help="default: %(default)s")
    parser.add_argument("--size", type=int, default=512, metavar="MIB", help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, interleaved (default: 3)")


def main(args: argparse.Namespace) -> int:
    """Measure, print, write."""
    repeats, size = (1, 24) if args.quick else (args.repeats, args.size)
    with Stand(args.server, args.seed) as stand:
        source = stand.add(args.kind, size)
        runs = _measure(stand, source, repeats)
    gib = source.archive.size / GIB
    document: dict[str, Any] = {
        "schema_version": 1,
        "machine": describe(args.server),
        "front": version("stunnel4"),
        "seed": args.seed,
        "repeats": repeats,
        "kind": args.kind,
        "model_mib": size,
        "archive_bytes": source.archive.size,
        "runs": runs,
    }
    (args.out / "tls.json").write_text(json.dumps(document, indent=1) + "\n")
    rows = []
    for figure in runs["plain"]:
        plain, tls = (statistics.median(runs[way][figure]) for way in ("plain", "tls"))
        rows.append([figure, f"{plain / gib:.2f}", f"{tls / gib:.2f}", f"{(tls - plain) / gib:+.2f}"])
    heads = (f"per GiB of archive ({args.kind})", "plain", "TLS", "TLS adds")
    print("\n".join(table(heads, rows)))
    return 0


def _measure(stand: Stand, source: Source, repeats: int) -> dict[str, dict[str, list[float]]]:
    runs: dict[str, dict[str, list[float]]] = {"plain": {}, "tls": {}}
    with _front(stand) as (front, over_tls), kernel_job(stand, source) as job:
        for number in range(repeats):
            for way, environment in (("plain", stand.environment()), ("tls", over_tls)):

                def note(figure: str, seconds: float, way: str = way) -> None:
                    runs[way].setdefault(figure, []).append(round(seconds, 3))

                for kernel in _KERNELS:
                    note(f"{kernel}, CPU s", run_kernel(kernel, job, environment))
                prefix = f"to/{way}/{number}/"
                argv = PEERS["riva"].make(Job(source, stand.bucket, prefix, job.parent)).argv
                before = tree_cpu(front)
                usage = run_checked(argv, environment, job.parent)
                note("staging, client CPU s", usage.cpu)
                note("staging, front CPU s", tree_cpu(front) - before)
                note("staging, wall s", usage.wall)
                stand.remove(prefix)
            print(f"  {number + 1}/{repeats}", file=sys.stderr, flush=True)
    return runs


@contextmanager
def _front(stand: Stand) -> Iterator[tuple[int, Mapping[str, str]]]:
    """A TLS end before the stand's server: its process id, and the environment in which a client finds it."""
    folder = stand.folder / "tls"
    folder.mkdir()
    certificate = _certificate(folder)
    port = free_port()
    configuration = folder / "stunnel.conf"
    configuration.write_text(
        "foreground = yes\npid =\nsyslog = no\n[s3]\n"
        f"accept = {_LOOPBACK}:{port}\nconnect = {_LOOPBACK}:{stand.server.port}\n"
        f"cert = {certificate}\nkey = {folder / 'key.pem'}\n"
    )
    daemon = Daemon(
        [program("stunnel4"), str(configuration)],
        env=minimal_environment(folder),
        cwd=folder,
        log=folder / "log",
    )
    try:
        daemon.wait_ready(lambda: "Configuration successful" in daemon.log_tail())
        yield (
            daemon.pid,
            {**stand.environment(f"https://{_LOOPBACK}:{port}"), "AWS_CA_BUNDLE": str(certificate)},
        )
    finally:
        daemon.stop()


def _certificate(folder: Path) -> Path:
    """A self-signed certificate of the loopback address, with its key beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _LOOPBACK)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(_LOOPBACK))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    path = folder / "certificate.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return path
