"""Completion scripts for bash, zsh and fish from the parsers: all words are in the script, nothing runs later."""

from __future__ import annotations

import re
from argparse import Action, ArgumentParser, _SubParsersAction
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from riva_stream.cli.manual import topics

__all__ = ["PROGRAM", "Argument", "Words", "bash", "fish", "words_of", "zsh"]

PROGRAM = "riva-stream"
_FUNCTION = "_riva_stream"
Kind = Literal["none", "text", "choice", "file", "folder"]


@dataclass(frozen=True, slots=True)
class Argument:
    """A flag or a positional argument."""

    flags: tuple[str, ...]
    """Empty for a positional one."""
    kind: Kind
    """What follows it: nothing, something that nobody can guess, one of ``choices``, a file, a folder."""
    choices: tuple[str, ...]
    help: str
    repeats: bool = False


@dataclass(frozen=True, slots=True)
class Words:
    """What may be typed: the program's own flags, and each command's summary and arguments."""

    flags: list[Argument]
    commands: dict[str, tuple[str, list[Argument]]]


def words_of(parser: ArgumentParser) -> Words:
    """Everything that ``parser`` takes."""
    own, commands = [], {}
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to be asked
        if isinstance(action, _SubParsersAction):
            summaries = {sub.dest: sub.help or "" for sub in action._choices_actions}  # noqa: SLF001
            for name, sub in action.choices.items():
                arguments = [_argument(inner) for inner in sub._actions]  # noqa: SLF001
                commands[name] = (summaries[name], arguments)
        else:
            own.append(_argument(action))
    return Words(own, commands)


def _argument(action: Action) -> Argument:
    choices = tuple(map(str, action.choices or ()))
    kind: Kind = "text"
    if action.option_strings and action.nargs == 0:
        kind = "none"
    elif action.dest == "topic":
        kind, choices = "choice", tuple(page.topic for page in topics())
    elif choices:
        kind = "choice"
    elif action.type is Path:
        kind = "folder" if action.metavar == "DIR" else "file"
    text = re.sub(r"\s+", " ", (action.help or "").replace("%%", "%")).strip()
    return Argument(tuple(action.option_strings), kind, choices, text, action.nargs in {"*", "+"})


# --- bash


def bash(words: Words) -> str:
    """A function for ``complete -F``. It needs nothing but bash: not even the bash-completion package."""
    cases = []
    for name, (_, arguments) in words.commands.items():
        values = [_bash_value(argument, "|".join(argument.flags)) for argument in arguments if argument.flags]
        positional = [argument for argument in arguments if not argument.flags]
        cases.append(
            f"    {name})\n"
            '      case "$prev" in\n' + "".join(values) + "      esac\n"
            f'      flags="{" ".join(_flags(arguments))}"\n'
            f'      words="{" ".join(word for argument in positional for word in argument.choices)}"\n'
            "      ;;\n"
        )
    return _BASH.format(
        program=PROGRAM,
        function=_FUNCTION,
        commands=" ".join(words.commands),
        own=" ".join(_flags(words.flags)),
        cases="".join(cases),
        names="|".join(words.commands),
    )


def _bash_value(argument: Argument, pattern: str) -> str:
    match argument.kind:
        case "none":
            return ""
        case "choice":
            found = f'COMPREPLY=($(compgen -W "{" ".join(argument.choices)}" -- "$cur"))'
        case "file":
            found = f'{_FUNCTION}_files -f "$cur"'
        case "folder":
            found = f'{_FUNCTION}_files -d "$cur"'
        case "text":
            found = ":"
    return f"        {pattern}) {found}; return ;;\n"


_BASH = """\
# bash completion of {program}; made by: {program} completion bash

{function}_files() {{
  compopt -o filenames 2>/dev/null
  local IFS=$'\\n'
  COMPREPLY=($(compgen "$1" -- "$2"))
}}

{function}() {{
  local cur="${{COMP_WORDS[COMP_CWORD]}}" prev="${{COMP_WORDS[COMP_CWORD-1]}}" command="" word flags="" words=""
  COMPREPLY=()
  # --flag=value comes as three words
  if [[ $cur == "=" ]]; then
    cur=""
  elif [[ $prev == "=" ]]; then
    prev="${{COMP_WORDS[COMP_CWORD-2]}}"
  fi
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "$word" in
      {names}) command="$word"; break ;;
    esac
  done
  case "$command" in
    "") flags="{own}"; words="{commands}" ;;
{cases}  esac
  if [[ $cur == -* ]]; then
    COMPREPLY=($(compgen -W "$flags" -- "$cur"))
  else
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
  fi
}}

complete -F {function} {program}
"""


# --- zsh


def zsh(words: Words) -> str:
    """A function for compinit, which ``_arguments`` does the work for."""
    listed = "".join(
        f"    {_zsh_quoted(f'{name}:{summary}')}\n" for name, (summary, _) in words.commands.items()
    )
    cases = "".join(
        f"        {name})\n          _arguments -s \\\n"
        + " \\\n".join(f"            {_zsh_spec(argument)}" for argument in arguments)
        + " && return 0\n          ;;\n"
        for name, (_, arguments) in words.commands.items()
    )
    own = "".join(f"    {_zsh_spec(argument)} \\\n" for argument in words.flags)
    return _ZSH.format(program=PROGRAM, function=_FUNCTION, listed=listed, cases=cases, own=own)


def _zsh_spec(argument: Argument) -> str:
    told = re.sub(r"([\[\]:\\])", r"\\\1", argument.help)
    action = {
        "none": "",
        "text": ":value: ",
        "choice": f":value:({' '.join(argument.choices)})",
        "file": ":file:_files",
        "folder": ":folder:_files -/",
    }[argument.kind]
    if not argument.flags:
        return _zsh_quoted(f"{'*' if argument.repeats else ''}:{told}{action.replace(':value', '', 1)}")
    if len(argument.flags) == 1:
        takes = "" if argument.kind == "none" else "="  # --flag value, or --flag=value
        return _zsh_quoted(f"*{argument.flags[0]}{takes}[{told}]{action}")
    return "{" + ",".join(argument.flags) + "}" + _zsh_quoted(f"[{told}]{action}")


def _zsh_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


_ZSH = """\
#compdef {program}
# zsh completion of {program}; made by: {program} completion zsh

{function}() {{
  local context state state_descr line
  typeset -A opt_args
  local -a commands
  commands=(
{listed}  )
  _arguments -C \\
{own}    '1:command:->command' \\
    '*::argument:->argument' && return 0
  case $state in
    command)
      _describe -t commands command commands
      ;;
    argument)
      case $words[1] in
{cases}      esac
      ;;
  esac
}}

if [ "$funcstack[1]" = "_{program}" ]; then
  {function} "$@"
else
  compdef {function} {program}
fi
"""


# --- fish


def fish(words: Words) -> str:
    """A list of ``complete`` commands."""
    lines = [
        f"# fish completion of {PROGRAM}; made by: {PROGRAM} completion fish",
        f"complete -c {PROGRAM} -f",
    ]
    outside = "__fish_use_subcommand"
    lines += [_fish(argument, outside) for argument in words.flags]
    for name, (summary, arguments) in words.commands.items():
        lines.append(f"complete -c {PROGRAM} -n {outside} -a {name} -d {_fish_quoted(summary)}")
        inside = f"'__fish_seen_subcommand_from {name}'"
        lines += [_fish(argument, inside) for argument in arguments]
    return "\n".join(line for line in lines if line) + "\n"


def _fish(argument: Argument, condition: str) -> str:
    parts = [f"complete -c {PROGRAM} -n {condition}"]
    parts += [f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in argument.flags]
    match argument.kind:
        case "choice":
            listed = _fish_quoted(" ".join(argument.choices))
            parts.append(f"-x -a {listed}" if argument.flags else f"-a {listed}")
        case "file":
            parts.append("-r -F")
        case "folder":
            parts.append("-x -a '(__fish_complete_directories)'")
        case "text":
            parts.append("-x")
    if not argument.flags and argument.kind != "choice":
        return ""  # nothing to offer for it
    return " ".join([*parts, f"-d {_fish_quoted(argument.help)}"] if argument.help else parts)


def _fish_quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _flags(arguments: Iterable[Argument]) -> list[str]:
    return [flag for argument in arguments for flag in argument.flags]
