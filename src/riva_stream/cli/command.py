"""The command interface: a module with these names. To add one, write the module and list it in ``commands``."""

from __future__ import annotations

import os
import re
import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple, Protocol

from riva_stream.cli.settings.env_file import ROOT
from riva_stream.redact import without_userinfo

__all__ = ["SCRIPT", "Command", "HandsOver", "Help", "Invocation"]

HandsOver = Literal["always", "success"]
"""When a run replaces the state for the next step: whatever its outcome, or only after a success."""

SCRIPT = "RIVA_STREAM_CALLED_AS"
"""Set by a script that calls one command on a user's behalf: the script's own name as it was typed. Not a setting, so
it is read only from the environment."""
_CANONICAL = re.compile(r"(?<![\w./-])riva-stream(?= [a-z])")
"""The program's name in messages of lower layers, which cannot know how it was called."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """How the program was called, so that messages can name the exact command to run next."""

    prog: str
    """``python -m riva_stream`` or ``riva-stream``."""
    argv: tuple[str, ...]
    parsers: tuple[ArgumentParser, ...] = ()
    """The parser of the whole command line, then that of each command, for the command that describes them."""

    def again(self, *extra: str, **values: str) -> str:
        """The same command as one shell line, plus those ``extra`` flags that it does not have yet, and with ``values``.

        A flag among ``values``, such as ``only``, is given just once.
        """
        words = _without(self.argv, *(f"--{name}" for name in values))
        words += [flag for flag in extra if flag not in self.argv]
        words += [word for name, value in values.items() for word in (f"--{name}", value)]
        # A user who called the script of one command does not know the program by another name.
        script = os.environ.get(SCRIPT, "")
        prog, words = (shlex.quote(script), words[1:]) if script else (self.prog, words)
        return " ".join([prog, *(shlex.quote(without_userinfo(word)) for word in words)])

    def other(self, command: str, *without: str) -> str:
        """Another command with the same flags, except those ``without``, which it does not know, and their values."""
        words = [command, *_without(self.argv[1:], *without)]
        return " ".join([self._program(), *(shlex.quote(without_userinfo(word)) for word in words)])

    def with_program_name(self, text: str) -> str:
        """``text`` with commands in it, such as ``riva-stream ls s3://b``, as this user can type them."""
        return _CANONICAL.sub(lambda _: self._program(), text)

    def _program(self) -> str:
        """How to call any command, from any folder: the script of one command cannot run the others."""
        if not os.environ.get(SCRIPT):
            return self.prog
        # The script has chosen the interpreter, and which ``.env`` is used.
        root = os.environ.get(ROOT, "")
        return (
            f"{ROOT}={shlex.quote(root)} " * bool(root) + f"{shlex.quote(sys.executable)} -P -m riva_stream"
        )


def _without(argv: Sequence[str], *flags: str) -> list[str]:
    """The words, except these flags and their values."""
    return [
        word
        for before, word in pairwise(("", *argv))
        if before not in flags and word.partition("=")[0] not in flags
    ]


class Help(NamedTuple):
    """The help texts of a command; ``PROG`` stands for the program's name."""

    summary: str
    """One line, for the list of commands."""
    usage: str
    """The text after the command's name in the first line."""
    description: str
    examples: str
    """Command lines as a user would type them."""
    json_lines: bool = False
    """``--json`` prints lines, each a document: the error that ends it has to be one too."""


class Command(Protocol):
    """A module of :mod:`riva_stream.cli.commands`; at import it may use only the standard library."""

    HELP: Help

    def configure(self, parser: ArgumentParser) -> None:
        """Add the command's arguments."""

    def run(self, args: Namespace, invocation: Invocation, /) -> int:
        """Run it and return the exit code; usually made by :func:`~riva_stream.cli.running.session_command`."""
