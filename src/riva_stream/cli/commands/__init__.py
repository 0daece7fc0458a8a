"""One module per command, in the order in which ``--help`` lists them."""

from __future__ import annotations

from riva_stream.cli.command import Command
from riva_stream.cli.commands import gc, next, schema, stage  # noqa: A004 - the command's name

__all__ = ["COMMANDS"]

COMMANDS: tuple[Command, ...] = (stage, next, gc, schema)
