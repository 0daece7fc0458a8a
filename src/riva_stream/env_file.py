"""Reading a ``.env``: once, since ``--env-file <(decrypt .env.gpg)`` is a pipe. Values are kept out of messages."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from riva_stream.errors import ConfigurationError
from riva_stream.events import Warned

__all__ = ["EnvFile", "read_env_file"]


@dataclass(frozen=True, slots=True)
class EnvFile:
    """What a ``.env`` holds; an empty value counts as none."""

    path: Path | None = None
    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    warnings: tuple[Warned, ...] = ()


def read_env_file(wanted: Path | None) -> EnvFile:
    """Read ``wanted``, which must exist; None: ``./.env`` where there is one.

    Raises:
        ConfigurationError: it cannot be read.
    """
    path = (wanted or Path(".env")).expanduser()
    if wanted is None and not path.is_file():
        return EnvFile()
    from dotenv import dotenv_values  # noqa: PLC0415 - not for a command without such a file to load
    from dotenv.parser import parse_stream  # noqa: PLC0415

    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a UTF-8 text"
        raise ConfigurationError(
            f"the environment file {path} cannot be read: {reason}",
            hint="name a file that exists with --env-file FILE, or leave --env-file out to use ./.env if there is one",
        ) from error
    bad = [str(item.original.line) for item in parse_stream(io.StringIO(text)) if item.error]
    warnings: list[Warned] = []
    if bad:
        lines = f"line {bad[0]} is" if len(bad) == 1 else f"lines {', '.join(bad)} are"
        warnings.append(Warned(code="env-file-line", message=f"{path}: {lines} not NAME=value and ignored"))
    values = {name: value for name, value in dotenv_values(stream=io.StringIO(text)).items() if value}
    return EnvFile(path, values, tuple(warnings))
