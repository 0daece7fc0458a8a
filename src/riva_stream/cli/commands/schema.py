"""``schema``: the JSON Schema of a document."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace

from riva_stream.cli.command import Invocation
from riva_stream.cli.output import print_result

NAME = "schema"
SUMMARY = "print the JSON Schema of artifact.json and its kin"
USAGE = "[artifact|manifest|report|deployment]"
DESCRIPTION = "Print the JSON Schema (2020-12) of a document that this tool writes."
EXAMPLES = """\
  PROG schema artifact > artifact.schema.json
  PROG schema report                 what stage --json prints
"""


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "document",
        nargs="?",
        choices=("artifact", "manifest", "report", "deployment"),
        default="artifact",
        help="artifact.json (the default), upload_manifest.json, what stage --json prints, or deployment.json",
    )


def run(args: Namespace, invocation: Invocation) -> int:  # noqa: ARG001 - the same for every command
    """Print it."""
    from riva_stream.report import schema_of  # noqa: PLC0415 - pydantic is not for --help to load

    return print_result(json.dumps(schema_of(args.document), indent=2) + "\n")
