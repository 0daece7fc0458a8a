"""What a maintainer needs to know about a failed run, in one file that can be attached to a report."""

from __future__ import annotations

import io
import json
import os
import platform
import re
import sys
import tarfile
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from riva_stream.cli.failure import Failure
from riva_stream.cli.settings.env_file import ENV_FILE
from riva_stream.cli.settings.model import TRACE, Settings
from riva_stream.files import read_end
from riva_stream.handover import put
from riva_stream.redact import Redactor, is_secret

__all__ = ["write_bundle"]

_MAX_BYTES = 4 << 20
"""Bytes of the log that are included: its end, which says how the run ended."""
_PROXIES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"})
_SHOWN = {
    *(
        variable
        for name in Settings.model_fields
        for variable in (*Settings.variables(name), *Settings.aliases(name))
    ),
    *(TRACE, ENV_FILE, "TERM", "LANG", "TZ", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"),
    *("PYTHONHOME", "PYTHONPATH", "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONMALLOC", "PYTHONWARNINGS"),
    *("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    *("AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME", "AWS_EC2_METADATA_DISABLED"),
    *("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_ENDPOINT_URL_STS", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"),
    *("AWS_STS_REGIONAL_ENDPOINTS", "AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT"),
    *("AWS_RETRY_MODE", "AWS_MAX_ATTEMPTS"),
    *("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"),
}
"""Variables that this program and its libraries read, and whose values explain a failure."""
_OF_THIS_PROGRAM = ("RIVA_STREAM_", "LOG_", "MALLOC_")
_RELATED = (*_OF_THIS_PROGRAM, "AWS_", "RIVA_", "NVIDIA_", "PYTHON")
"""Others that begin like this may be of any program, and hold anything: only that they are set is told."""


def write_bundle(
    path: Path,
    redactor: Redactor,
    run_id: str,
    failure: Failure,
    *,
    settings: Mapping[str, Any],
    env_file: Mapping[str, str],
    events: Iterable[Mapping[str, Any]],
    requests: Iterable[Mapping[str, Any]],
    log: Path | None,
) -> None:
    """Write what is known about a failed run, as a whole or not at all; blocks.

    Args:
        path: of the bundle.
        redactor: removes what it must not contain.
        run_id: of the run.
        failure: how it ended.
        settings: as they were understood, or, when that failed, the flags; with the command.
        env_file: the content of the file of settings.
        events: the last events.
        requests: the failed requests, with the ids that the store gave them.
        log: the run's log, where there is one.

    Raises:
        OSError: it cannot be written.
    """

    def line(content: Any, indent: int | None = None) -> str:
        return json.dumps(redactor.value(content), indent=indent, ensure_ascii=False, default=str) + "\n"

    files = {
        "error.json": line(failure.document(run_id), 2),
        "traceback.txt": redactor.text(failure.trace),
        "settings.json": line(settings, 2),
        "environment.json": line({"environment": _chosen(os.environ), "env_file": _chosen(env_file)}, 2),
        "versions.json": line(_versions(), 2),
        "events.jsonl": "".join(map(line, events)),
        "requests.jsonl": "".join(map(line, requests)),
        "run.log": redactor.text(_tail(log)),
    }
    bundle = io.BytesIO()
    with tarfile.open(fileobj=bundle, mode="w:gz") as tar:
        for name, text in files.items():
            data = text.encode(errors="backslashreplace")
            info = tarfile.TarInfo(f"{run_id}/{name}")
            info.size, info.mode = len(data), 0o644
            tar.addfile(info, io.BytesIO(data))
    path.parent.mkdir(parents=True, exist_ok=True)
    put(path, bundle.getvalue())


def _chosen(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables that may matter to a run, as far as they may be shown."""
    return {
        name: _shown(name, value)
        for name, value in sorted(variables.items())
        if name.startswith(_RELATED) or name in _SHOWN or name.upper() in _PROXIES
    }


def _shown(name: str, value: str) -> str:
    if is_secret(name):
        return "***"
    if name.upper() in _PROXIES:
        return value.rpartition("@")[2]  # without a scheme, nothing else says that there is a password
    return value if name.startswith(_OF_THIS_PROGRAM) or name in _SHOWN else "set"


def _versions() -> dict[str, Any]:
    ours = [text for text in requires("riva-stream") or () if "extra ==" not in text]
    names = {re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0] for text in ours}
    return {
        "python": sys.version,
        "executable": sys.executable,
        "platform": platform.platform(),
        "libc": " ".join(platform.libc_ver()),
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "packages": {
            name: _version_of(name)
            for name in sorted({*names, "riva-stream", "aiobotocore", "botocore", "aiohttp"})
        },
    }


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _tail(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return read_end(path, _MAX_BYTES).decode(errors="replace")
    except OSError as error:
        return f"(the log cannot be read: {error})\n"
