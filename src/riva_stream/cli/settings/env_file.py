"""The file of settings: which one it is, and its content.

``--env-file`` names it, or else RIVA_ENV_FILE; otherwise it is ``.env`` in :func:`root`, where there is one. It may be
a pipe, named or from a process substitution: some users keep secrets that way.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from riva_stream.errors import ConfigurationError
from riva_stream.events import Warned
from riva_stream.files import read_given
from riva_stream.redact import remember

if TYPE_CHECKING:
    from dotenv.parser import Binding

__all__ = ["ENV_FILE", "ROOT", "EnvFile", "read_env_file", "root"]

# These two say which file it is: they are read before there are settings, and only from the environment.
ENV_FILE = "RIVA_ENV_FILE"
ROOT = "RIVA_STREAM_ROOT"

_PIPE_SECONDS = 30.0
"""Seconds that a named pipe may be without a writer. A writer may take any time: a person may be typing."""
_MAX_BYTES = 1 << 20
"""Maximum bytes: far more than settings need; ``/dev/zero`` has no end."""


@dataclass(frozen=True, slots=True)
class EnvFile:
    """What was read."""

    path: Path | None = None
    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Without empty ones, which count as not set."""
    warnings: tuple[Warned, ...] = ()


def root() -> Path:
    """The folder of ``.env`` and ``state/``: the current one, or the one that RIVA_STREAM_ROOT names.

    The scripts of a repository set it to the repository's root, so that they work from anywhere.
    """
    return Path(os.environ.get(ROOT, ""))


def read_env_file(wanted: Path | None) -> EnvFile:
    """Read ``wanted``, or the default file if that is None; its secrets are redacted from then on.

    Raises:
        ConfigurationError: a named file cannot be read.
    """
    named = wanted or os.environ.get(ENV_FILE, "").strip()
    path = (Path(named) if named else root() / ".env").expanduser()
    if not named and not os.path.lexists(path):
        return EnvFile()
    if not named and path.is_dir():
        # Often a virtual environment. Nobody named it, so it does not stop the run.
        return EnvFile(
            warnings=(
                Warned(
                    code="env-file-folder",
                    message=f"{path} is a folder, not a file of settings: it is ignored",
                ),
            )
        )
    from dotenv import dotenv_values  # noqa: PLC0415 - not for a command without such a file to load
    from dotenv.parser import parse_stream  # noqa: PLC0415

    try:
        # Only once: --env-file <(decrypt .env.gpg) is a pipe.
        text = _text_of(read_given(path, _MAX_BYTES, patience=_PIPE_SECONDS))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a UTF-8 text, or holds a NUL"
        by = "" if wanted or not named else f" (named by {ENV_FILE})"
        raise ConfigurationError(
            f"the environment file {path}{by} cannot be read: {reason}",
            hint=f"name another file with {'--env-file FILE' if wanted else ENV_FILE}, or none, to use ./.env if there is one"
            if named
            else "correct or remove it, or name another file with --env-file FILE",
        ) from error
    lines = list(parse_stream(io.StringIO(text)))
    bad = [str(line.original.line) for line in lines if _is_odd(line)]
    named_lines = f"line {', '.join(bad)} is" if len(bad) == 1 else f"lines {', '.join(bad)} are"
    told = Warned(code="env-file-line", message=f"{path}: {named_lines} not NAME=value and ignored")
    # Without bare names, as in "A=1; export A": they would unset the value again.
    setting = "".join(line.original.string for line in lines if line.value is not None)
    values = {k: v for k, v in dotenv_values(stream=io.StringIO(setting)).items() if v}
    remember(values)
    return EnvFile(path, values, (told,) if bad else ())


def _is_odd(item: Binding) -> bool:
    """Whether it sets nothing, though it looks as if it should; ``export NAME`` is fine for a shell."""
    bare = item.key is not None and item.value is None
    return item.error or (bare and not item.original.string.lstrip().startswith("export"))


def _text_of(data: bytes) -> str:
    """Decode a file.

    Raises:
        ValueError: it is not UTF-8, or holds a NUL, which no variable can.
    """
    text = data.decode("utf-8-sig")
    if "\0" in text:
        raise ValueError("NUL")
    return text
