"""``schema``: the JSON Schema of a document."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace

from riva_stream.cli.command import Invocation
from riva_stream.cli.output import print_result

NAME = "schema"
SUMMARY = "print the JSON Schema of artifact.json and its kin"
USAGE = "[DOCUMENT]"
DESCRIPTION = "Print the JSON Schema (2020-12) of a document that this tool writes."
EXAMPLES = """\
  PROG schema artifact > artifact.schema.json
  PROG schema report                 what stage --json prints
"""


_REPORTS = {"verify": "VerifyReport", "status": "StatusReport", "ls": "ListReport"}
"""Commands, and the documents of operations/reports.py that they print."""


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "document",
        nargs="?",
        choices=("artifact", "manifest", "deployment", "report", *_REPORTS),
        default="artifact",
        help="artifact.json (the default), upload_manifest.json, deployment.json, or what stage (report), verify, "
        "status or ls --json prints",
    )


def run(args: Namespace, invocation: Invocation) -> int:  # noqa: ARG001 - the same for every command
    """Print it."""
    from riva_stream.operations import reports  # noqa: PLC0415 - pydantic is not for --help to load
    from riva_stream.report import SCHEMAS, json_schema  # noqa: PLC0415

    name = _REPORTS.get(args.document)
    kind = SCHEMAS[args.document] if name is None else getattr(reports, name)
    return print_result(json.dumps(json_schema(kind), indent=2) + "\n")
