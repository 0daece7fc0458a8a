"""``completion``: a script that completes this command line in a shell."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from riva_stream.cli.command import Help, Invocation
from riva_stream.cli.commands.docs import pages
from riva_stream.cli.output import print_result

HELP = Help(
    summary="print a completion script for bash, zsh or fish",
    usage="bash|zsh|fish",
    description="""\
Print a script that completes riva-stream in your shell: commands, flags, their choices, files where a flag takes
one. It is made from the flags of this very version and runs no program when it completes.
""",
    examples="""\
  eval "$(riva-stream completion bash)"
      in this shell; as a line of ~/.bashrc in every one
  riva-stream completion bash > ~/.local/share/bash-completion/completions/riva-stream
      where bash-completion is installed
  riva-stream completion zsh > "${fpath[1]}/_riva-stream"
      then start a new zsh; its compinit must be on
  riva-stream completion fish > ~/.config/fish/completions/riva-stream.fish
""",
)


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell to complete in")


def run(args: Namespace, invocation: Invocation) -> int:
    """Print the script."""
    import shtab

    program, *commands = invocation.parsers
    program.prog = "riva-stream"
    for command in commands:
        for action in command._actions:  # noqa: SLF001 - argparse has no other way to be asked
            if action.type is Path:
                action.complete = shtab.DIRECTORY if action.metavar == "DIR" else shtab.FILE  # type: ignore[attr-defined]
            elif action.dest == "topic":
                action.choices = list(pages())
    return print_result(shtab.complete(program, args.shell), closed_is_fine=True, for_a_shell=True)
