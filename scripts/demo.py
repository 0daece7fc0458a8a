"""The main job, for real, on an embedded S3: make an archive, stage it, and look at what is there.

Everything runs on this machine: moto's S3 in this process on a free loopback port, and the command line in a process
of its own, as a user would start it. Nothing of the caller's AWS set-up is read, and nothing is left behind.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the archives and servers of the tests serve here too

from rich.console import Console  # noqa: E402

MIB = 1 << 20
SOURCE_KEY = "parakeet-rnnt-riva-1-1b-en-us-deployable_v8.1.tar.gz"
ENV, NAME, VERSION = "dev", "parakeet-rnnt-en-us", "v8.1"
PREFIX = f"{ENV}/{NAME}/{VERSION}/"
FROM, TO = "models", "deployments"
STAGE = ("python", "-m", "riva_stream", "stage")
_FOREIGN = ("AWS_", "RIVA_", "NVIDIA_", "BOTO")
_FOREIGN_NAMES = {"ENV", "MODEL_VERSION", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}
_NARROW = 80
_MOMENT = 3.0
"""Seconds that an interrupted command line gets before it is told again, and again before it is ended."""

console = Console(highlight=False, soft_wrap=True)


class DemoError(Exception):
    """Something is not as it must be."""


def main() -> int:
    """Run the demo and give its exit code."""
    parser = argparse.ArgumentParser(prog="./scripts/demo", description=str(__doc__).splitlines()[0])
    parser.add_argument(
        "--size", type=_mebibytes, default=64, metavar="MiB", help="of the models (default: 64)"
    )
    size = parser.parse_args().size * MIB
    signal.signal(signal.SIGTERM, _ended)
    if sys.stdout.encoding.lower().replace("-", "") != "utf8":
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        with tempfile.TemporaryDirectory(prefix="riva-stream-demo-") as folder:
            _forget_the_callers_settings(Path(folder))
            _demonstrate(size, Path(folder))
    except KeyboardInterrupt:
        # With what the command line may have said of its log and of how to go on.
        console.print("\ninterrupted; the embedded S3 and all files of the demo are gone")
        return 130
    except DemoError as error:
        console.print(f"\n[bold red]The demo failed:[/] {error}")
        return 1
    return 0


def _demonstrate(size: int, folder: Path) -> None:
    from tests.support.servers import MotoServer  # noqa: PLC0415 - moto takes a second; --help need not wait

    with MotoServer() as server:
        # An interrupted client is no error of the store's, though moto tells it as one, at length.
        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
        store = server.client()
        for bucket in (FROM, TO):
            store.create_bucket(Bucket=bucket)
        _title(1, "A model archive in S3", f"embedded, at {server.endpoint_url}")
        archive = _put_source(store, size)
        settings = {
            "RIVA_ASR_MODEL_S3_URI": f"s3://{FROM}/{SOURCE_KEY}",
            "RIVA_ASR_MODEL_SHA256": archive.sha256,
            "NVIDIA_DRIVERS_S3_BUCKET": TO,
            "ENV": ENV,
            "RIVA_ASR_MODEL_NAME": NAME,
            "MODEL_VERSION": VERSION,
            **server.environment(),
        }
        (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

        _title(2, "Stage it", "in one pass, nothing on disk")
        # Bars on a terminal; elsewhere its lines of progress would only be in the way.
        _show(_stage(folder, *(() if sys.stderr.isatty() else ("--quiet",))))

        _title(3, "Look at it", "without riva_stream")
        look(store, folder, {member.basename: member.sha256 for member in archive.rivas})

        _title(4, "Stage it again", "nothing is moved twice")
        began = time.monotonic()
        again = _stage(folder, "--quiet")
        if not again.startswith("Already staged"):
            raise DemoError("the second run did not find that everything is there")
        console.print(f"{again.splitlines()[0]}  [dim]({time.monotonic() - began:.1f} s)[/]")
    console.print(
        "\n[bold green]All as it should be.[/] Next: README.md, or python -m riva_stream stage --help"
    )


def _put_source(store: Any, size: int) -> Any:
    from tests.support.archives import write_archive  # noqa: PLC0415 - see above

    with tempfile.TemporaryFile() as file:  # the source's own; the command line never sees it
        archive = write_archive(file, size, members=3)
        file.seek(0)
        store.put_object(Bucket=FROM, Key=SOURCE_KEY, Body=file)
    console.print(f"s3://{FROM}/{SOURCE_KEY}")
    for member in archive.members:
        console.print(f"    {member.name:<34}{_human(member.size):>11}")
    console.print(f"    {'as .tar.gz':<34}{_human(archive.size):>11}")
    return archive


def _stage(folder: Path, *flags: str) -> str:
    """Run the command line as a user would, its progress on this terminal, and give its summary."""
    console.print(f"[cyan]$ {' '.join((*STAGE, *flags))}[/]")
    argv = [sys.executable, *STAGE[1:], *flags]
    with _running(argv, folder) as process:
        summary = process.communicate()[0].decode(errors="replace")
    if process.returncode:
        raise DemoError(f"{' '.join(STAGE)} ended with exit code {process.returncode}")
    return summary


@contextmanager
def _running(argv: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is waited for when this one is interrupted: Ctrl-C reaches both, and it has uploads to abort."""
    process = None
    try:
        with _signals_held_back():
            process = subprocess.Popen(argv, cwd=folder, stdout=subprocess.PIPE)
        yield process
    except BaseException:
        if process is not None:
            _end(process)
        raise
    finally:
        if process is not None and process.stdout is not None:
            process.stdout.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    for end in (None, process.terminate, process.kill):
        if end is not None:
            end()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_MOMENT)
            return


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """A signal that comes while a process is being started would leave it without a name to end it by."""
    late: list[int] = []
    numbers = [
        number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN
    ]
    handlers = {n: signal.signal(n, lambda number, _: late.append(number)) for n in numbers}
    try:
        yield
    finally:
        for held, handler in handlers.items():
            signal.signal(held, handler)
    for came in late:
        signal.raise_signal(came)


def look(store: Any, folder: Path, models: Mapping[str, str]) -> None:
    """Show the staging, and verify it by what stands in the bucket alone.

    Args:
        store: a plain S3 client.
        folder: where the command line ran.
        models: what must be there, file name → SHA-256.

    Raises:
        DemoError: something is missing, or is not what it should be.
    """
    listed = store.list_objects_v2(Bucket=TO, Prefix=PREFIX).get("Contents", [])
    names = [entry["Key"].removeprefix(PREFIX) for entry in listed]
    documents = ["artifact.json", "checksums.sha256", "staging_complete.txt", "upload_manifest.json"]
    expected = sorted([*documents, *(f"models/{name}" for name in models), f"source/{SOURCE_KEY}"])
    if sorted(names) != expected:
        raise DemoError(f"the keys are {sorted(names)}, they should be {expected}")
    if store.list_multipart_uploads(Bucket=TO).get("Uploads"):
        raise DemoError("a multipart upload was left open")

    text = _read(store, "artifact.json")
    console.print("[cyan]artifact.json[/], the main fields")
    artifact = json.loads(text)
    for name, value in _main_fields(artifact).items():
        console.print(f"    {name:<28}{_cut(str(value), 28 + 4)}")

    console.print("[cyan]staging_complete.txt[/], whole")
    marker = _read(store, "staging_complete.txt").decode()
    _show(marker, indent=4)
    if hashlib.sha256(text).hexdigest() not in marker:
        raise DemoError("the marker was not written for this artifact.json")

    console.print("[cyan]checksums.sha256[/], each line against the bytes in the bucket")
    check_checksums(store, models)

    left = [path for path in folder.rglob("*") if path.is_file() and path.name != ".env"]
    size = sum(path.stat().st_size for path in left)
    if size >= MIB:
        raise DemoError(f"{_human(size)} were left on the local disk: {left}")
    console.print(f"\n{len(names)} keys, no upload left open; on the local disk {_human(size)} of state")


def check_checksums(store: Any, models: Mapping[str, str]) -> None:
    """Hash every object that ``checksums.sha256`` names, streaming, and compare.

    Raises:
        DemoError: a digest differs, or a model has no line.
    """
    named = {}
    for line in _read(store, "checksums.sha256").decode().splitlines():
        digest, _, name = line.partition("  ")
        hasher = hashlib.sha256()
        for block in store.get_object(Bucket=TO, Key=PREFIX + name)["Body"].iter_chunks(MIB):
            hasher.update(block)
        if hasher.hexdigest() != digest:
            raise DemoError(f"the bytes of {name} are not those that checksums.sha256 names")
        named[name] = digest
        console.print(f"    {_cut(name, 8)}: [green]OK[/]")
    for name, sha256 in models.items():
        if named.get(f"models/{name}") != sha256:
            raise DemoError(f"models/{name} is not what went into the archive")


def _main_fields(artifact: dict[str, Any]) -> dict[str, Any]:
    primary, checked = artifact["primary_model"], artifact["validation"]
    return {
        "artifact_id": artifact["artifact_id"],
        "model.language_code": artifact["model"]["language_code"],
        "model.architecture": artifact["model"]["architecture"],
        "source.sha256": artifact["source"]["sha256"],
        "primary_model.relative_path": primary["relative_path"],
        "primary_model.size_human": primary["size_human"],
        "primary_model.sha256": primary["sha256"],
        "deployment.staging_mode": artifact["deployment"]["staging_mode"],
        "validation.source_integrity": checked["source_integrity"],
        "validation.upload_check": f"{checked['upload_check']} (this embedded S3 checks no parts)"
        if checked["upload_check"] == "none"
        else checked["upload_check"],
    }


def _read(store: Any, name: str) -> bytes:
    return bytes(store.get_object(Bucket=TO, Key=PREFIX + name)["Body"].read())


def _forget_the_callers_settings(folder: Path) -> None:
    """Neither the caller's profile, keys, endpoint, proxies nor settings reach the demo or what it starts."""
    for name in list(os.environ):
        if name.startswith(_FOREIGN) or name.upper() in _FOREIGN_NAMES:
            del os.environ[name]
    os.environ |= {
        "AWS_CONFIG_FILE": str(folder / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "*",
    }


def _title(number: int, text: str, more: str) -> None:
    console.print(f"\n[bold]{number}. {text}[/] [dim]({more})[/]")


def _show(text: str, indent: int = 0) -> None:
    """Print lines as they are, each cut to the width there is; a narrow terminal wraps them instead."""
    for line in text.splitlines():
        console.print(" " * indent + _cut(line, indent), markup=False)


def _cut(text: str, taken: int) -> str:
    room = max(_NARROW, min(100, shutil.get_terminal_size().columns)) - taken - 1
    return text if len(text) <= room else text[: room - 3] + "..."


def _human(size: int) -> str:
    return f"{size / MIB:.1f} MiB" if size >= MIB else f"{size / 1024:.1f} KiB"


def _mebibytes(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 4096:  # noqa: PLR2004 - moto keeps each part in memory
        raise argparse.ArgumentTypeError(f"{text} is not a number of MiB from 1 to 4096")
    return int(text)


def _ended(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
