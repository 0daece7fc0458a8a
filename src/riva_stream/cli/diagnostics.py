"""What a maintainer wants to see of a failed run, in one file that can be attached to a report."""

from __future__ import annotations

import io
import json
import os
import platform
import re
import sys
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from riva_stream.cli.failure import Failure
from riva_stream.handover import put
from riva_stream.redact import Redactor, is_secret

__all__ = ["Evidence", "write_bundle"]

_MOST = 4 << 20
"""Bytes of the log that go in: its end, which is where it says how it ended."""
_NAMES = ("AWS_", "RIVA_", "NVIDIA_", "LOG_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "MALLOC_", "PYTHON")
_EXACT = {"ENV", "MODEL_VERSION", "TERM", "LANG", "TZ", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a failed run."""

    run_id: str
    command: str
    failure: Failure
    settings: Mapping[str, Any]
    """As they were understood, or, when that failed, the flags."""
    env_file: Mapping[str, str]
    events: Iterable[Mapping[str, Any]]
    """The last of them."""
    requests: Iterable[Mapping[str, Any]]
    """Those that failed, with the ids that the store gave them."""
    log: Path | None


def write_bundle(path: Path, evidence: Evidence, redactor: Redactor) -> None:
    """Write it, as a whole or not at all; blocks.

    Raises:
        OSError: it cannot be written.
    """
    bundle = io.BytesIO()
    with tarfile.open(fileobj=bundle, mode="w:gz") as tar:
        for name, text in _files(evidence, redactor).items():
            data = text.encode(errors="backslashreplace")
            info = tarfile.TarInfo(f"{evidence.run_id}/{name}")
            info.size, info.mode = len(data), 0o644
            tar.addfile(info, io.BytesIO(data))
    path.parent.mkdir(parents=True, exist_ok=True)
    put(path, bundle.getvalue())


def _files(evidence: Evidence, redactor: Redactor) -> dict[str, str]:
    def document(content: Any) -> str:
        return json.dumps(redactor.value(content), indent=2, ensure_ascii=False, default=str) + "\n"

    def lines(items: Iterable[Mapping[str, Any]]) -> str:
        return "".join(
            json.dumps(redactor.value(item), ensure_ascii=False, default=str) + "\n" for item in items
        )

    return {
        "error.json": document(evidence.failure.document(evidence.run_id)),
        "traceback.txt": redactor.text(evidence.failure.trace),
        "settings.json": document({"command": evidence.command, "settings": evidence.settings}),
        "environment.json": document(
            {"environment": _chosen(os.environ), "env_file": _chosen(evidence.env_file)}
        ),
        "versions.json": document(_versions()),
        "events.jsonl": lines(evidence.events),
        "requests.jsonl": lines(evidence.requests),
        "run.log": redactor.text(_tail(evidence.log)),
    }


def _chosen(variables: Mapping[str, str]) -> dict[str, str]:
    """Those that bear on a run; of a secret only that it is set."""
    return {
        name: "***" if is_secret(name) else value
        for name, value in sorted(variables.items())
        if name.startswith(_NAMES) or name in _EXACT
    }


def _versions() -> dict[str, Any]:
    packages: dict[str, str] = {}
    for requirement in [
        "riva-stream",
        *(requires("riva-stream") or ()),
        "aiobotocore",
        "botocore",
        "aiohttp",
    ]:
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        if "extra ==" not in requirement:
            try:
                packages[name] = version(name)
            except PackageNotFoundError:
                packages[name] = "missing"
    return {
        "python": sys.version,
        "executable": sys.executable,
        "platform": platform.platform(),
        "libc": " ".join(platform.libc_ver()),
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "packages": dict(sorted(packages.items())),
    }


def _tail(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _MOST))
            return file.read(_MOST).decode(errors="replace")
    except OSError as error:
        return f"(the log cannot be read: {error})\n"
