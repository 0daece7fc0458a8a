"""From ``argv`` to a command's exit code."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from argparse import (
    SUPPRESS,
    Action,
    ArgumentError,
    ArgumentParser,
    HelpFormatter,
    RawDescriptionHelpFormatter,
)
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

from riva_stream.cli.command import SCRIPT, Command, Invocation
from riva_stream.cli.commands import COMMANDS
from riva_stream.cli.output import error_document, failed_line, json_text, print_result, write_stderr
from riva_stream.naming import flags_named
from riva_stream.redact import is_secret, redact, remember

__all__ = ["build_parser", "main"]

_USAGE = 2
_PARSE_ONLY = "RIVA_STREAM_PARSE_ONLY"
"""Set by a script to check whether a command line is valid, before it creates an environment to run it in; like
:data:`~riva_stream.cli.command.SCRIPT`, it is not a setting."""

_EPILOG = """\
examples:
  PROG stage --reference-only        pin the model where it is; seconds
  PROG stage                         copy, unpack, verify and commit; settings from .env
  PROG stage --dry-run               check everything, write nothing
  PROG COMMAND --help                flags and examples of one command

exit codes:
  0 done and verified   1 a bug of ours    2 usage            65 integrity         66 source missing
  73 destination taken  75 run it again    77 access denied   78 configuration     130/143 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments without the program's name; None: those of the process.

    Returns:
        The exit code, as in the table in the help.
    """
    # Importing creates a hundred thousand objects and hardly any garbage; searching for it takes a tenth of the start.
    gc.disable()
    try:
        _open_standard_streams()
        remember(os.environ)
        words = tuple(sys.argv[1:] if argv is None else argv)
        started_as = Path(sys.argv[0]).name
        prog = "python -m riva_stream" if started_as == "__main__.py" else "riva-stream"
        parser = build_parser(prog, words)
        args, unknown = parser.parse_known_args(words)
        if unknown:
            parser.unrecognized(unknown)
        if os.environ.get(_PARSE_ONLY):
            return 0
        command: Command | None = args.command
        if command is None:
            parser.print_help(sys.stderr)
            return _USAGE
        # A catalogue, and whoever stages an entry of one, has fields in place of flags.
        is_of_a_catalogue = started_as == "child.py" or command is COMMANDS["stage-all"]
        with nullcontext() if is_of_a_catalogue else flags_named():
            return command.run(args, Invocation(prog, words, (parser, *parser.commands.values())))
    except KeyboardInterrupt:
        return 130
    except SystemExit as done:  # argparse raises it once everything has been printed
        return done.code if isinstance(done.code, int) else _USAGE
    finally:
        gc.enable()


def build_parser(prog: str, argv: Sequence[str] = ()) -> _Parser:
    """Build the parser of the whole command line; ``argv`` is used only in error messages."""
    parser = _Parser(
        prog=prog,
        argv=argv,
        description="Stage model archives from S3 to S3 in one verified streaming pass, with nothing on disk.",
        epilog=_EPILOG.replace("PROG", prog),
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, command in COMMANDS.items():
        sub = commands.add_parser(
            name,
            argv=argv,
            help=command.HELP.summary,
            usage=f"{prog} {name} {command.HELP.usage}",
            description=command.HELP.description.replace("PROG", prog),
            epilog="examples:\n" + command.HELP.examples.replace("PROG", prog),
        )
        command.configure(sub)
        parser.commands[name] = sub
        sub.set_defaults(command=command)
    return parser


class _Formatter(RawDescriptionHelpFormatter):
    """Fills prose to the terminal's width, at most 100 columns; indented text stays as typed."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=min(shutil.get_terminal_size().columns, 100) - 2)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = HelpFormatter._fill_text  # noqa: SLF001 - what the class between has switched off
        as_typed = super()._fill_text
        return "\n\n".join(
            as_typed(part, width, indent) if "\n " in part else fill(self, part, width, indent)
            for part in text.split("\n\n")
        )


class _Parser(ArgumentParser):
    """argparse with examples left as typed, no abbreviated flags, and a guess at the flag that was meant.

    A flag whose value is empty or blank, such as ``--include "$INCLUDE"`` without that variable, counts as not given.
    """

    def __init__(self, *, argv: Sequence[str], **options: Any) -> None:
        super().__init__(formatter_class=_Formatter, allow_abbrev=False, **options)
        self.suggest_on_error = True  # for choices, from Python 3.14 on
        self._argv = argv
        self.commands: dict[str, _Parser] = {}
        """The commands' parsers: the main parser reports unknown flags, and needs them for its guess."""
        self._malformed: list[str] = []

    def parse_known_args(self, *args: Any) -> Any:  # type: ignore[override]
        found = super().parse_known_args(*args)
        if self._malformed:
            self.error("")
        return found

    def _get_values(self, action: Action, arg_strings: list[str]) -> Any:
        if action.option_strings and arg_strings and not "".join(arg_strings).strip():
            return SUPPRESS
        try:
            return super()._get_values(action, arg_strings)
        except ArgumentError as error:
            if not action.option_strings:
                raise
            self._malformed.append(str(error))  # all of them are reported at once
            return SUPPRESS

    def print_help(self, file: Any = None) -> None:
        # argparse would leave it in a buffer, and notice a closed pipe too late to report it.
        if file is not None:
            write_stderr(self.format_help())
        elif code := print_result(self.format_help()):
            raise SystemExit(code)

    def unrecognized(self, words: Sequence[str]) -> NoReturn:
        """Reject arguments that no parser accepted, suggesting the flag that was meant or the command that has it."""
        import difflib  # noqa: PLC0415 - only a wrong command line pays for it

        wrong = next((word for word in words if word.startswith("--")), "").partition("=")[0]
        owners = [name for name, sub in self.commands.items() if wrong in sub.flags()]
        # Without the hyphens, which all flags have in common.
        flags = {flag.lstrip("-"): flag for flag in self.commands.get(self._command(), self).flags()}
        near = [flags[name] for name in difflib.get_close_matches(wrong.lstrip("-"), flags, n=1)]
        guess = (
            f"{wrong} is a flag of {', '.join(owners)}."
            if owners
            else "".join(f"did you mean {flag}?" for flag in near)
        )
        self.error(f"unrecognized arguments: {' '.join(_without_secrets(words))}", guess)

    def flags(self) -> list[str]:
        """Every flag of this parser."""
        return list(self._option_string_actions)

    def _command(self) -> str:
        return next((word for word in self._argv if word in self.commands), "")

    def error(self, message: str, guess: str = "") -> NoReturn:
        message = "\n  ".join([*self._malformed, *([message] if message else [])])
        script = os.environ.get(SCRIPT, "")
        program = Path(script).name if script else f"{self.prog} {self._command()}".rstrip()
        hint = f"{guess} See {program} --help" if guess else f"see {program} --help"
        document = error_document("UsageError", "usage", message, hint, _USAGE)
        if "--json" in self._argv:
            command = self.commands.get(self._command(), self).get_default("command")
            print_result(json_text(document, as_line=command is not None and command.HELP.json_lines))
        as_lines = _flag_value(self._argv, "--log-format") == "json"
        write_stderr(failed_line(document) if as_lines else redact(f"{program}: {message}\n  {hint}\n"))
        raise SystemExit(_USAGE)


def _without_secrets(words: Sequence[str]) -> Iterator[str]:
    """The words, with the values of flags whose names mark a secret replaced."""
    hides = False
    for word in words:
        name, has_value, _ = word.partition("=")
        if not word.startswith("--"):
            yield "***" if hides else word
        elif has_value and is_secret(name.lstrip("-").replace("-", "_")):
            yield f"{name}=***"
        else:
            yield word
        hides = word.startswith("--") and not has_value and is_secret(name.lstrip("-").replace("-", "_"))


def _flag_value(argv: Sequence[str], flag: str) -> str:
    """The last value given to a flag, in a command line that no parser accepts."""
    found = ""
    for word, after in zip(argv, (*argv[1:], ""), strict=True):
        name, has_value, value = word.partition("=")
        if name == flag:
            found = value if has_value else after
    return found


class _Version(Action):
    """``--version``, looked up only when requested: reading the package's metadata takes a while."""

    def __call__(self, parser: ArgumentParser, *_: object) -> None:
        from importlib.metadata import version  # noqa: PLC0415

        parser.exit(print_result(f"riva_stream {version('riva-stream')}\n"))


def _open_standard_streams() -> None:
    """Open /dev/null in place of closed standard streams.

    Otherwise the next socket would get such a number, and writing to standard error would write into S3. A closed
    standard output stays one that cannot be written: nobody would get the result.
    """
    for number, flags in ((0, os.O_RDWR), (1, os.O_RDONLY), (2, os.O_RDWR)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest free number, which is this one
