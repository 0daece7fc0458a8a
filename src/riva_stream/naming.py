"""What hints call the options of a staging: ``--max-ratio`` on the command line, ``max_ratio`` in a catalogue."""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["fields_named", "option"]

_fields = False


@contextmanager
def fields_named() -> Iterator[None]:
    """Name fields in place of flags, in the whole process: for one that runs a catalogue, or stages an entry of one."""
    global _fields  # noqa: PLW0603 - of the process, like its arguments: threads raise errors too
    before, _fields = _fields, True
    try:
        yield
    finally:
        _fields = before


def option(field: str, variable: str = "") -> str:
    """The name of what sets a field of a request.

    Args:
        field: its name, such as ``max_ratio``.
        variable: the environment variable that sets it too, if the hint is to mention it.
    """
    if _fields:
        return field
    flag = f"--{field.replace('_', '-')}"
    return f"{flag} ({variable})" if variable else flag
