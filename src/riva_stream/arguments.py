"""Arguments of the public functions: one of the wrong kind is refused at the door, by its name."""

from __future__ import annotations

__all__ = ["require", "require_whole"]


def require(fits: object, name: str, expected: str, value: object) -> None:
    """Refuse an argument unless it ``fits``.

    Args:
        fits: whether it is what it should be.
        name: of the argument.
        expected: what it should be, such as ``an open store``.
        value: what was given; only its type is named, as it may be a secret.

    Raises:
        TypeError: it does not fit.
    """
    if not fits:
        kind = type(value)
        given = (
            kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        )
        raise TypeError(f"{name} must be {expected}, not {given}")


def require_whole(name: str, value: object) -> None:
    """Refuse an argument that is not a whole number of 1 or more.

    Raises:
        TypeError: it is not a whole number.
        ValueError: it is less.
    """
    require(isinstance(value, int) and not isinstance(value, bool), name, "a whole number", value)
    if isinstance(value, int) and value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")
