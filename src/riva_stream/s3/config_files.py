"""The AWS configuration and credentials files, read before they are used for anything else.

The SDK reads them regardless of the source of the credentials, at times of its own. A file that it cannot parse is for
the user to fix, so it is named with the line, and so is a value that it cannot use, with its profile. The line's
content is never quoted: it may be a secret.
"""

from __future__ import annotations

import configparser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ConfigParseError,
    InvalidIMDSEndpointError,
    InvalidIMDSEndpointModeError,
)

from riva_stream.errors import ConfigurationError, Where

__all__ = ["malformed", "understood_values"]

_NOT_UNDERSTOOD = (ValueError, TypeError, AttributeError, LookupError, OverflowError)
"""The SDK's exceptions for a value of an unexpected kind, raised wherever it is used first."""
_KEYS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")


@contextmanager
def understood_values(core: Any) -> Iterator[None]:
    """Wrap only code that makes the SDK read the values of a session's configuration.

    Raises:
        ConfigurationError: it cannot use one of them.
    """
    try:
        yield
    except (InvalidIMDSEndpointError, InvalidIMDSEndpointModeError) as error:
        raise _odd_value(core, error) from error
    except BotoCoreError:  # some are also ValueErrors
        raise
    except _NOT_UNDERSTOOD as error:
        raise _odd_value(core, error) from error


def _odd_value(core: Any, error: Exception) -> ConfigurationError:
    profile, path, names = "default", "~/.aws/config", list[str]()
    with suppress(BotoCoreError, *_NOT_UNDERSTOOD):
        profile = core.get_config_variable("profile") or profile
        path = core.get_config_variable("config_file") or path
        names = sorted(name for name in core.get_scoped_config() if name not in _KEYS)
    has = f", which sets {', '.join(names)}" if names else ""
    return ConfigurationError(
        f"the SDK cannot use a value in the AWS configuration ({type(error).__name__}): {path}, profile "
        f"{profile}{has}",
        where=Where(operation="ReadConfiguration"),
        hint="check the values of that profile, of its services section, and of the AWS_ variables that are set",
    )


def malformed(error: ConfigParseError, where: Where) -> ConfigurationError:
    """The error with the file, the line, and what is wrong there."""
    path = str(error.kwargs.get("path", "a file"))
    wrong, line = _wrong(path, error.kwargs.get("error"))
    place = f", line {line}" if line else ""
    return ConfigurationError(
        f"the AWS configuration cannot be read: {path}{place} {wrong}",
        where=where,
        hint="fix that line, or name another file with AWS_CONFIG_FILE or AWS_SHARED_CREDENTIALS_FILE",
    )


def _wrong(path: str, error: object) -> tuple[str, int | None]:
    match error:
        case configparser.DuplicateOptionError():
            return "sets a key a second time in its section", error.lineno
        case configparser.DuplicateSectionError():
            return "begins a section that already exists", error.lineno
        case configparser.MissingSectionHeaderError():
            return "is before the first [section]", error.lineno
        case configparser.ParsingError():
            return "is not KEY = VALUE", error.errors[0][0] if error.errors else None
        case UnicodeDecodeError():
            return "is not UTF-8", _first_line(path, _is_no_text)
        case _:
            return "is not KEY = VALUE below a key that has a list of its own", _first_line(path, _is_no_pair)


def _first_line(path: str, is_bad: Any) -> int | None:
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError:
        return None
    return next((number for number, line in enumerate(lines, start=1) if is_bad(line)), None)


def _is_no_text(line: bytes) -> bool:
    return line.decode(errors="ignore").encode() != line


def _is_no_pair(line: bytes) -> bool:
    return (
        line[:1].isspace()
        and bool(line.strip())
        and b"=" not in line
        and line.strip()[:1] not in {b"#", b";"}
    )
