"""The file of settings: which one it is, and what stands in it.

``--env-file`` names it, else RIVA_ENV_FILE; else it is ``.env`` in :func:`root`, where there is one.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from riva_stream.errors import ConfigurationError
from riva_stream.events import Warned

__all__ = ["ENV_FILE", "ROOT", "EnvFile", "on_read", "read_env_file", "root"]

ENV_FILE = "RIVA_ENV_FILE"
ROOT = "RIVA_STREAM_ROOT"

_listeners: list[Callable[[Mapping[str, str]], None]] = []


@dataclass(frozen=True, slots=True)
class EnvFile:
    """What was read."""

    path: Path | None = None
    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Empty ones are left out: they count as not set."""
    warnings: tuple[Warned, ...] = ()


def root() -> Path:
    """Where ``.env`` and ``state/`` are: here, or in the folder that RIVA_STREAM_ROOT names.

    The scripts of a repository name its root there, so that they work from anywhere.
    """
    return Path(os.environ.get(ROOT, ""))


def on_read(listener: Callable[[Mapping[str, str]], None]) -> None:
    """Hand what stands in a file to ``listener`` too, whoever reads it: a message may hold its secrets from then on."""
    if listener not in _listeners:
        _listeners.append(listener)


def read_env_file(wanted: Path | None) -> EnvFile:
    """Read ``wanted``, or the file that is meant when that is None.

    Raises:
        ConfigurationError: a file that was named cannot be read.
    """
    named = wanted or os.environ.get(ENV_FILE, "").strip()
    path = (Path(named) if named else root() / ".env").expanduser()
    if not named and not path.is_file():
        return EnvFile()
    from dotenv import dotenv_values  # noqa: PLC0415 - not for a command without such a file to load
    from dotenv.parser import parse_stream  # noqa: PLC0415

    try:
        # Once: --env-file <(decrypt .env.gpg) is a pipe.
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a UTF-8 text"
        by = "" if wanted or not named else f" (named by {ENV_FILE})"
        raise ConfigurationError(
            f"the environment file {path}{by} cannot be read: {reason}",
            hint="name a file that exists with --env-file FILE, or leave --env-file out to use ./.env if there is one",
        ) from error
    bad = [str(item.original.line) for item in parse_stream(io.StringIO(text)) if item.error]
    lines = f"line {', '.join(bad)} is" if len(bad) == 1 else f"lines {', '.join(bad)} are"
    told = Warned(code="env-file-line", message=f"{path}: {lines} not NAME=value and ignored")
    values = {k: v for k, v in dotenv_values(stream=io.StringIO(text)).items() if v}
    for listener in _listeners:
        listener(values)
    return EnvFile(path, values, (told,) if bad else ())
