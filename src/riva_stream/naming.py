"""What hints call the options of a staging: ``--max-ratio`` on the command line, ``max_ratio`` in a catalogue."""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["fields_named", "option"]

_catalogues = 0
"""How many blocks of :func:`fields_named` are entered."""


@contextmanager
def fields_named() -> Iterator[None]:
    """Name fields in place of flags, in the whole process: while it runs a catalogue, or stages an entry of one."""
    global _catalogues  # noqa: PLW0603 - of the process, like its arguments: threads raise errors too
    _catalogues += 1
    try:
        yield
    finally:
        _catalogues -= 1


def option(field: str, variable: str = "") -> str:
    """The name of what sets a field of a request.

    Args:
        field: its name, such as ``max_ratio``.
        variable: the environment variable that sets it too, if the hint is to mention it.
    """
    if _catalogues:
        return field
    flag = f"--{field.replace('_', '-')}"
    return f"{flag} ({variable})" if variable else flag
