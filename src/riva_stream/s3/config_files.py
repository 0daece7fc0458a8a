"""The AWS configuration and credentials files, read before anything else is done with them.

The SDK reads them whatever the credentials come from, at moments of its own; a file that it cannot parse is the
user's to mend, so it is named with the line. What stands in the line is never repeated: it may be a secret.
"""

from __future__ import annotations

import configparser
from pathlib import Path
from typing import Any

from botocore.exceptions import ConfigParseError

from riva_stream.errors import ConfigurationError, Where

__all__ = ["malformed", "read_configuration"]


def read_configuration(core: Any) -> None:
    """Have a session read both files. Blocks; for a worker thread.

    Raises:
        ConfigurationError: one of them cannot be parsed.
    """
    try:
        core.full_config  # noqa: B018 - it is kept by the session
    except ConfigParseError as error:
        raise malformed(error) from error


def malformed(error: ConfigParseError, where: Where | None = None) -> ConfigurationError:
    """The file, the line, and what is wrong there."""
    details = getattr(error, "kwargs", {})
    path, inner = str(details.get("path", "a file")), details.get("error")
    wrong, line = _wrong(path, inner)
    place = f", line {line}" if line else ""
    return ConfigurationError(
        f"the AWS configuration cannot be read: {path}{place} {wrong}",
        where=where or Where(operation="ReadConfiguration"),
        hint="mend that line, or name another file with AWS_CONFIG_FILE or AWS_SHARED_CREDENTIALS_FILE",
    )


def _wrong(path: str, error: object) -> tuple[str, int | None]:
    match error:
        case configparser.DuplicateOptionError():
            return "sets a key a second time in its section", error.lineno
        case configparser.DuplicateSectionError():
            return "begins a section that was there already", error.lineno
        case configparser.MissingSectionHeaderError():
            return "stands before the first [section]", error.lineno
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
    try:
        line.decode()
    except UnicodeDecodeError:
        return True
    return False


def _is_no_pair(line: bytes) -> bool:
    return (
        line[:1].isspace()
        and bool(line.strip())
        and b"=" not in line
        and line.strip()[:1] not in {b"#", b";"}
    )
