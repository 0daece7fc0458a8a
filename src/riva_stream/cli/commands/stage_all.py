"""``stage-all``: everything that a catalogue lists."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from riva_stream.cli import options
from riva_stream.cli.command import Invocation

NAME = "stage-all"
SUMMARY = "stage everything that a catalogue lists, here or on Ray"
USAGE = "CATALOGUE [flags]"
DESCRIPTION = """\
Stage every entry of a catalogue (TOML, or JSON by its name), as many at once as this host or a Ray cluster can. One that
fails holds up no other. Running the same command again is always safe, from any host: what is staged already takes one
look each, what was interrupted is resumed.

The catalogue alone says what to stage. The flags of S3, the environment and .env say how to reach it, where the
catalogue does not.
"""
EXAMPLES = """\
  PROG stage-all catalogue.toml
      everything; running it again resumes
  PROG stage-all catalogue.toml --dry-run
      looks at each source, destination and right, writes nothing
  PROG stage-all catalogue.toml --only 'prod/parakeet-*/*' --at-once 4
  PROG stage-all catalogue.toml --engine ray --ray-address ray-head:6379 --json
"""


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "catalogue", type=Path, metavar="CATALOGUE", help="a TOML file; .json: JSON (schema catalogue)"
    )
    group = parser.add_argument_group("stagings")
    group.add_argument("--engine", choices=("local", "ray"), default="local", help="default: local")
    group.add_argument(
        "--ray-address",
        metavar="HOST:PORT",
        help="of a cluster; default: $RAY_ADDRESS, else one on this host",
    )
    group.add_argument(
        "--at-once",
        type=_count,
        metavar="N",
        help="stagings at the same time (default: as memory and cores allow; ray: all, as the cluster has room)",
    )
    group.add_argument(
        "--only", metavar="PATTERN", help="entries whose ENV/MODEL_NAME/MODEL_VERSION, or whole URI, fits"
    )
    group.add_argument("--dry-run", action="store_true", help="look at everything, write nothing")
    ending = group.add_mutually_exclusive_group()
    ending.add_argument(
        "--keep-going",
        action="store_false",
        dest="fail_fast",
        default=False,
        help="after a failure too (the default)",
    )
    ending.add_argument("--fail-fast", action="store_true", help="stop the others at the first failure")
    reach = parser.add_argument_group("S3", "where the catalogue says nothing")
    options.add_reach(reach)
    options.add_source_reach(reach)
    options.add_output(parser)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def run(args: Namespace, invocation: Invocation) -> int:
    """Stage it all and show what it came to."""
    from riva_stream.cli.stage_all_run import run_stage_all  # noqa: PLC0415 - all that is heavy comes with it

    return run_stage_all(args, invocation)
