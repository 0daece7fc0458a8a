"""The peers: for each the command that stages one archive, and where it says the digests.

Each writes the archive to ``source/`` and the model to ``models/`` below the prefix it is given, computes the SHA-256
of both, and ends with a status other than 0 when any of its parts failed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.measure import Usage
from benchmarks.stand import Source
from benchmarks.tools import package_version, program, version

__all__ = ["COPYING", "PEERS", "PROMOTING", "Command", "Job", "Peer", "aws_settings", "riva_stream"]

_SCRIPTS = Path(__file__).with_name("scripts")
_SHA256_LINE = re.compile(r"^\\?([0-9a-f]{64}) [ *](.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Job:
    """One staging for a peer to do."""

    source: Source
    bucket: str
    prefix: str
    """With its closing slash."""
    folder: Path
    """Empty, to work in; what is left there is removed afterwards."""
    staged: str = ""
    """Prefix of a staging of the same archive, with its closing slash, for what begins with one."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to run, and what to add to its environment."""

    argv: list[str]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to do it."""

    name: str
    label: str
    make: Callable[[Job], Command]
    digests: Callable[[Usage], dict[str, str]]
    """File name → SHA-256 that it computed, out of what it printed."""
    versions: Callable[[], dict[str, str]]
    on_disk: bool = False
    """It works on a disk, as its users have it, and not on a tmpfs."""
    computes: bool = True
    """Whether it computes digests at all; of what does not, the objects alone are looked at."""


def _printed(usage: Usage) -> dict[str, str]:
    """Lines as sha256sum prints them."""
    return {name.rpartition("/")[2]: digest for digest, name in _SHA256_LINE.findall(usage.stdout)}


def _told(usage: Usage) -> dict[str, str]:
    """The report that ``--json`` prints."""
    artifact = json.loads(usage.stdout)["artifact"]
    models = {model["filename"]: model["sha256"] for model in artifact["models"]}
    return {artifact["source"]["filename"]: artifact["source"]["sha256"], **models}


def riva_stream(name: str, label: str, check: str, *more: str, copy: str = "send") -> Peer:
    """The tool itself, with more arguments. ``copy``: by default every byte goes through the client, as in the peers."""

    def make(job: Job) -> Command:
        env, model_name, model_version = job.prefix.strip("/").rsplit("/", 2)
        argv = [
            program("python"),
            "-m",
            "riva_stream",
            "stage",
            f"--source=s3://{job.bucket}/{job.source.key}",
            f"--bucket={job.bucket}",
            f"--env={env}",
            f"--model-name={model_name}",
            f"--model-version={model_version}",
            f"--upload-check={check}",
            f"--source-copy={copy}",
            f"--state-dir={job.folder / 'state'}",
            "--json",
            "--quiet",
            *more,
        ]
        return Command(argv)

    return Peer(name, label, make, _told, _own_version)


def _script(
    name: str, *tools: str, env: Callable[[Job], Mapping[str, str]] = lambda _: {}
) -> Callable[[Job], Command]:
    """A bash script, with the paths of its tools in the environment."""

    def make(job: Job) -> Command:
        model = job.source.archive.rivas[0].name
        settings = {
            "BUCKET": job.bucket,
            "SOURCE": job.source.key,
            "ARCHIVE": job.source.name,
            "MODEL": model,
            "PREFIX": job.prefix,
            **{tool.upper(): program(tool) for tool in tools},
            **env(job),
        }
        return Command([program("bash"), str(_SCRIPTS / name)], settings)

    return make


def _python(name: str) -> Callable[[Job], Command]:
    def make(job: Job) -> Command:
        argv = [program("peers-python"), str(_SCRIPTS / name), job.bucket, job.source.key, job.prefix]
        return Command(argv)

    return make


def aws_settings(job: Job) -> dict[str, str]:
    """awscli as its users tune it: more requests at once, larger parts. Checksums only where they are required,
    because compatible stores break on the newer ones."""
    config = job.folder / "aws-config"
    config.write_text(
        "[default]\ns3 =\n  max_concurrent_requests = 20\n  multipart_threshold = 16MB\n  multipart_chunksize = 16MB\n"
    )
    return {
        "AWS_CONFIG_FILE": str(config),
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }


def _piped(inflate: str, digest: str, *, copies: bool = False) -> Callable[[Job], Command]:
    """The one pass in a shell: which programs inflate and digest, and whether the store copies the archive."""
    tool = "OPENSSL" if digest == "openssl" else "SHA256SUM"

    def env(job: Job) -> dict[str, str]:
        options = "dgst -sha256 -r" if digest == "openssl" else ""
        copying = {"AWS": program("aws"), **aws_settings(job)} if copies else {}
        return {
            **copying,
            "INFLATE": program(inflate),
            "DIGEST": f"{program(digest)} {options}".strip(),
            "DIGEST_TOOL": tool,
        }

    return _script("pipeline.sh", "s5cmd", "tar", "tee", env=env)


def _of(*tools: str) -> Callable[[], dict[str, str]]:
    return lambda: {tool: version(tool) for tool in tools}


def _of_packages(*packages: str) -> Callable[[], dict[str, str]]:
    return lambda: {package: package_version(package) for package in packages}


def _own_version() -> dict[str, str]:
    from riva_stream import __version__  # noqa: PLC0415

    return {"riva_stream": __version__, "python": version("python")}


_ALL = (
    riva_stream("riva", "riva_stream, no upload check", "none"),
    riva_stream("riva-check", "riva_stream, enforced upload check", "auto"),
    Peer(
        "pipe-best",
        "shell pipeline: s5cmd, igzip, openssl",
        _piped("igzip", "openssl"),
        _printed,
        _of("s5cmd", "igzip", "openssl", "tar"),
    ),
    Peer(
        "pipe-igzip",
        "shell pipeline: s5cmd, igzip, sha256sum",
        _piped("igzip", "sha256sum"),
        _printed,
        _of("s5cmd", "igzip", "sha256sum", "tar"),
    ),
    Peer(
        "pipe-gzip",
        "shell pipeline: s5cmd, gzip, sha256sum",
        _piped("gzip", "sha256sum"),
        _printed,
        _of("s5cmd", "gzip", "sha256sum", "tar"),
    ),
    Peer(
        "old-aws",
        "old script's steps, awscli",
        _script("old-aws.sh", "aws", "tar", "sha256sum", env=aws_settings),
        _printed,
        _of("aws", "sha256sum", "tar"),
    ),
    Peer(
        "old-aws-disk",
        "old script's steps, awscli, on a disk",
        _script("old-aws.sh", "aws", "tar", "sha256sum", env=aws_settings),
        _printed,
        _of("aws", "sha256sum", "tar"),
        on_disk=True,
    ),
    Peer(
        "old-s5cmd",
        "old script's steps, s5cmd",
        _script("old-s5cmd.sh", "s5cmd", "tar", "sha256sum"),
        _printed,
        _of("s5cmd", "sha256sum", "tar"),
    ),
    Peer("boto3", "boto3 and tarfile script", _python("with_boto3.py"), _printed, _of_packages("boto3")),
    Peer(
        "obstore", "obstore script, one pass", _python("with_obstore.py"), _printed, _of_packages("obstore")
    ),
)

PEERS: dict[str, Peer] = {peer.name: peer for peer in _ALL}
"""By name, in the order in which they run."""

_COPYING = (
    riva_stream("riva-copy", "riva_stream, the store copies the archive", "auto", copy="auto"),
    Peer(
        "pipe-copy",
        "shell pipeline, aws s3 cp copies the archive",
        _piped("igzip", "openssl", copies=True),
        _printed,
        _of("s5cmd", "igzip", "openssl", "tar", "aws"),
    ),
)

COPYING: dict[str, Peer] = {peer.name: peer for peer in _COPYING}
"""Those that have the store copy the archive within itself, which spares the client half of what it sends."""


def _promoted(usage: Usage) -> dict[str, str]:
    """The same of the one place that ``promote`` was given."""
    (place,) = json.loads(usage.stdout)["places"]
    return _told(replace(usage, stdout=json.dumps(place["report"])))


def _promote(job: Job) -> Command:
    argv = [program("python"), "-m", "riva_stream", "promote", f"s3://{job.bucket}/{job.staged}"]
    argv += [
        f"--to=s3://{job.bucket}/{job.prefix}",
        f"--state-dir={job.folder / 'state'}",
        "--json",
        "--quiet",
    ]
    return Command(argv)


def _sync(job: Job) -> Command:
    places = [f"s3://{job.bucket}/{prefix}" for prefix in (job.staged, job.prefix)]
    return Command([program("aws"), "s3", "sync", "--only-show-errors", *places], aws_settings(job))


_PROMOTING = (
    Peer("aws-sync", "aws s3 sync between the prefixes", _sync, lambda _: {}, _of("aws"), computes=False),
    Peer("riva-promote", "riva_stream promote", _promote, _promoted, _own_version),
    riva_stream("riva-anew", "riva_stream, staged anew, copied by the store", "auto", copy="auto"),
)

PROMOTING: dict[str, Peer] = {peer.name: peer for peer in _PROMOTING}
"""Ways to have a staging at another place, too."""
