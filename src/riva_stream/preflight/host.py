"""What ``check`` inspects on this host: memory, open files, the disk of the state directory, versions.

All of it reads local files and blocks briefly: for worker threads.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
import resource
import shutil
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from riva_stream.errors import ConfigurationError, out_of_resources, raise_limits
from riva_stream.flow.memory import plan_memory
from riva_stream.preflight.report import CheckRecord, failed, passed, warned
from riva_stream.sizes import MIB, human_size

__all__ = ["FreeMemory", "check_files", "check_memory", "check_state", "check_versions", "free_memory"]

_PACKAGES = (
    *("aioboto3", "aiobotocore", "botocore", "aiohttp", "anyio", "awscrt", "blake3", "isal"),
    *("pydantic", "uvloop", "xxhash", "zstandard"),
)
_OTHER_FILES = 64
"""Descriptors of the interpreter, its libraries and the log; measured: about 20."""
_STATE_BYTES = 64 * MIB
"""The journal of the largest staging, its copy and a log."""
_UNLIMITED = 1 << 60
"""cgroup v1 writes "no limit" as a number about this large."""


@dataclass(frozen=True, slots=True)
class FreeMemory:
    """Free memory of this process, in bytes."""

    available: int
    """Memory available now without swapping, within every limit."""
    limit: int | None
    """Limit of the control group, such as a container's; None for none."""
    limited_by: str
    """What determines ``available``."""


def free_memory(root: Path = Path("/")) -> FreeMemory | None:
    """The memory that this process may still use; None where the system does not say.

    Args:
        root: the root of the file system, for tests.
    """
    kib = _number(root / "proc/meminfo", "MemAvailable:")
    if kib is None:
        return None
    host, groups = kib * 1024, list(_limits(root))
    left = min((max(limit - used, 0) for limit, used in groups), default=host)
    limited_by = "the control group" if left < host else "the host"
    return FreeMemory(min(left, host), min((limit for limit, _ in groups), default=None), limited_by)


def check_memory(memory: int, part_size: int, root: Path = Path("/"), *, forced: str = "") -> CheckRecord:
    """Whether ``--memory`` is enough for parts of this size, and available.

    Args:
        memory: the requested ceiling, in bytes.
        part_size: that of this source, in bytes.
        root: the root of the file system, for tests.
        forced: why parts must be that large, where the size is not the requested one.
    """
    try:
        plan_memory(memory, part_size, forced=forced)
    except ConfigurationError as error:
        return failed("memory", error.what, code="too-little-memory", fix=error.hint, part_size=part_size)
    free = free_memory(root)
    wanted = human_size(memory)
    if free is None:
        return warned("memory", f"a run takes {wanted}; how much is free this system does not say")
    facts: dict[str, Any] = {
        "memory": memory,
        "available": free.available,
        "limit": free.limit,
        "part_size": part_size,
    }
    if free.limit is not None and free.limit < memory:
        return failed(
            "memory",
            f"a run may take {wanted}, but this control group (container) is limited to {human_size(free.limit)}",
            fix=f"pass --memory {max(free.limit * 9 // 10 // MIB, 1)}MiB or less, or give the container more",
            **facts,
        )
    if free.available < memory:
        return warned(
            "memory",
            f"a run may take {wanted}, and {free.limited_by} has {human_size(free.available)} free",
            fix="free some, or pass a smaller --memory",
            **facts,
        )
    return passed(
        "memory",
        f"a run takes at most {wanted}; {human_size(free.available)} free ({free.limited_by})",
        **facts,
    )


def check_files(connections: int) -> CheckRecord:
    """Whether this many connections each way, to two stores, may be open at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 3 * connections + 8 + _OTHER_FILES
    unlimited = soft == resource.RLIM_INFINITY
    if unlimited or soft >= needed:
        limit = "any number of" if unlimited else str(soft)
        return passed(
            "open-files", f"{limit} files may be open, a run needs {needed}", limit=soft, needed=needed
        )
    return failed(
        "open-files",
        f"only {soft} files may be open at once, a run with --connections {connections} needs {needed}",
        fix=f"ulimit -n {needed}, or a smaller --connections",
        limit=soft,
        hard_limit=hard,
        needed=needed,
    )


def check_state(folder: Path) -> CheckRecord:
    """Whether the state directory can be written. What is written for that is removed at once."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    fix = "pass --state-dir DIR with a folder you may write to"
    try:
        with tempfile.TemporaryDirectory(prefix=".riva-stream-check-", dir=place) as scratch:
            Path(scratch, "scratch").write_bytes(bytes(4096))
            free = shutil.disk_usage(place).free
    except OSError as error:
        fix = raise_limits() if out_of_resources(error) else fix
        return failed(
            "state-directory", f"{folder} cannot be written: {error.strerror}", fix=fix, path=str(folder)
        )
    facts: dict[str, Any] = {"path": str(folder), "free": free}
    if free < _STATE_BYTES:
        return warned(
            "state-directory",
            f"{folder} can be written, but its disk has only {human_size(free)} left",
            fix="free some space there, or " + fix,
            **facts,
        )
    return passed("state-directory", f"{folder} can be written, {human_size(free)} free", **facts)


def check_versions() -> CheckRecord:
    """The installed versions."""
    versions: dict[str, Any] = {"python": platform.python_version()}
    missing = []
    for name in ("riva-stream", *_PACKAGES):
        try:
            versions[name.replace("-", "_")] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    versions |= {
        "openssl": ssl.OPENSSL_VERSION.split()[1],
        "system": f"{platform.system()} {platform.release()}",
    }
    if missing:
        return failed(
            "versions",
            f"not installed: {', '.join(missing)}",
            fix="install it again: pip install --force-reinstall riva-stream",
            **versions,
        )
    told = ", ".join(f"{name} {versions[name]}" for name in ("riva_stream", "python", "botocore"))
    return passed("versions", told, **versions)


def _limits(root: Path) -> Iterator[tuple[int, int]]:
    """``(limit, used)`` of every control group that this process is in; reclaimable memory does not count as used."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # Inside a container the group's own path often does not exist, and its files are at the top.
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):
            limit = _number(folder / names[0])
            if limit is not None and limit < _UNLIMITED:
                used, spare = _number(folder / names[1]), _number(folder / "memory.stat", names[2])
                yield limit, max((used or 0) - (spare or 0), 0)
            if folder == base:
                break


def _number(path: Path, name: str = "") -> int | None:
    """The number in a kernel file, or after a name in it; None where there is none."""
    found = re.search(rf"^{name}\s*([0-9]+)\b", _text(path), re.MULTILINE)
    return int(found[1]) if found else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
