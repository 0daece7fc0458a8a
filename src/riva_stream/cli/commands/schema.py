"""``schema``: the JSON Schema of a document."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from riva_stream.cli import options
from riva_stream.cli.command import Help, Invocation
from riva_stream.cli.output import json_text, print_result

HELP = Help(
    summary="print the JSON Schema of artifact.json and its kin",
    usage="[DOCUMENT] [--json]",
    description="""\
Print the JSON Schema (2020-12) of a document that this tool writes, or of what a command prints with --json.

artifact.json says what is staged, from where, and what was checked; its validation.archive_container is the format of
the archive by its first bytes, validation.containers that of each model, and neither of them the container image.
upload_manifest.json names every object of a full staging.

deployment.json pins the archive and the container image. It is part of every staging that was made with
--server-path (RIVA_SERVER_PATH), and is all that there is of a bintarball reference. It counts only with its marker
beside it, deployment_ready.txt, whose last line is its SHA-256; that one is lines of "name: value", and has no schema.
""",
    examples="""\
  PROG schema artifact > artifact.schema.json
  PROG schema deployment | jq '."$defs".ObjectReference'
  PROG schema report                 what stage --json prints
  PROG schema catalogue              the file that stage-all reads
""",
)


_REPORTS = {"verify": "VerifyReport", "status": "StatusReport", "ls": "ListReport"}
"""Commands, and the documents of inspection/reports.py that they print."""


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "document",
        nargs="?",
        choices=("artifact", "manifest", "deployment", "report", "promotion", *_REPORTS, "catalogue"),
        default="artifact",
        help="artifact.json (the default), upload_manifest.json, deployment.json, or what stage (report), promote "
        "(promotion), verify, status or ls --json prints, or the catalogue that stage-all takes",
    )
    options.add(
        parser, {"--json": options.flag("accepted for uniformity: a schema is one JSON document anyway")}
    )


def run(args: Namespace, invocation: Invocation) -> int:  # noqa: ARG001 - the same for every command
    """Print the schema."""
    from riva_stream.inspection import reports
    from riva_stream.report import SCHEMAS, json_schema

    if args.document == "catalogue":
        from riva_stream.catalogue.model import catalogue_schema

        return print_result(json_text(catalogue_schema()))
    name = _REPORTS.get(args.document)
    kind = SCHEMAS[args.document] if name is None else getattr(reports, name)
    return print_result(json_text(json_schema(kind)))
