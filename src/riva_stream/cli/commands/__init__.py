"""One module per command, in the order in which ``--help`` lists them."""

from __future__ import annotations

from riva_stream.cli.command import Command
from riva_stream.cli.commands import (
    check,
    completion,
    docs,
    gc,
    ls,
    next,  # noqa: A004 - the command's name
    policy,
    promote,
    retention,
    schema,
    stage,
    stage_all,
    status,
    verify,
)

__all__ = ["COMMANDS"]

COMMANDS: tuple[Command, ...] = (
    check,
    stage,
    stage_all,
    promote,
    next,
    status,
    verify,
    ls,
    gc,
    retention,
    policy,
    schema,
    docs,
    completion,
)
