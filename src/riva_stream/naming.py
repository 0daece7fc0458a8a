"""What hints call the options of a staging: ``--max-ratio`` on the command line, else ``max_ratio``."""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["flags_named", "option", "raise_option"]

_command_lines = 0
"""How many blocks of :func:`flags_named` are entered."""


@contextmanager
def flags_named() -> Iterator[None]:
    """Name flags in place of fields, in the whole process: while it runs a command whose flags they are."""
    global _command_lines  # noqa: PLW0603 - of the process, like its arguments: threads raise errors too
    _command_lines += 1
    try:
        yield
    finally:
        _command_lines -= 1


def option(field: str, variable: str = "") -> str:
    """The name of what sets a field of a request.

    Args:
        field: its name, such as ``max_ratio``.
        variable: the environment variable that sets it too on the command line, if the hint is to mention it.
    """
    if not _command_lines:
        return field
    flag = f"--{field.replace('_', '-')}"
    return f"{flag} ({variable})" if variable else flag


def raise_option(field: str) -> str:
    """What to do about an archive that exceeds a limit: the hint for a field of a request that sets it."""
    return f"if that is how the archive should be, raise {option(field)}"
