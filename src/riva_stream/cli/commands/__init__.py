"""One module per command, in the order in which ``--help`` lists them."""

from __future__ import annotations

from riva_stream.cli.command import Command
from riva_stream.cli.commands import check, completion, docs, gc, policy, retention, schema, stage

__all__ = ["COMMANDS"]

COMMANDS: tuple[Command, ...] = (check, stage, gc, retention, policy, schema, docs, completion)
