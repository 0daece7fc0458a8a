"""How a command with a result is run. Heavy imports happen only then: ``--help`` has to be instant."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from riva_stream.cli.command import HandsOver, Invocation

if TYPE_CHECKING:
    from pydantic import BaseModel

    from riva_stream.cli.session import Session

    R = TypeVar("R", bound=BaseModel)

__all__ = ["session_command"]


def session_command(
    work: Callable[[Session], R],
    text: Callable[[R, Session], str],
    exit_code: Callable[[R, Session], int] | None = None,
    *,
    hands_over: HandsOver | None = None,
) -> Callable[[Namespace, Invocation], int]:
    """The ``run`` of a command; see :func:`~riva_stream.cli.session.execute`."""

    def run(args: Namespace, invocation: Invocation) -> int:
        from riva_stream.cli.session import execute  # noqa: PLC0415

        return execute(args, invocation, work, text, exit_code, hands_over=hands_over)

    return run
