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

COMMANDS: dict[str, Command] = {
    "check": check,
    "stage": stage,
    "stage-all": stage_all,
    "promote": promote,
    "next": next,
    "status": status,
    "verify": verify,
    "ls": ls,
    "gc": gc,
    "retention": retention,
    "policy": policy,
    "schema": schema,
    "docs": docs,
    "completion": completion,
}
