"""``ls``: what is staged in a bucket."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import TYPE_CHECKING

from riva_stream.cli import options
from riva_stream.cli.command import Help
from riva_stream.cli.output import section, table_text, text_of
from riva_stream.cli.running import session_command
from riva_stream.errors import ConfigurationError
from riva_stream.layout import DEPLOYMENTS
from riva_stream.sizes import human_size

if TYPE_CHECKING:
    from riva_stream.cli.session import Session
    from riva_stream.inspection.reports import ListedStaging, ListReport

HELP = Help(
    summary="environments, models and versions staged in a bucket",
    usage="[s3://BUCKET[/ENV[/MODEL]]] [flags]",
    description="""\
List what is staged in a bucket, or below one environment or model of it, as a table. It is found by its place,
ENV/MODEL/VERSION, and described by its documents; other keys are skipped, and no object is listed one by one.
Bintarball references (bintarball/deployment-metadata/ENV/MODEL/VERSION) are listed with their environment.

A version is staged; in flight (its journal was written within its lease, by the store's clock); incomplete (a run
stopped or died before its marker; run it again, or collect it with gc); or damaged (verify says how).
""",
    examples="""\
  PROG ls s3://deployments
  PROG ls s3://deployments/prod/parakeet-rnnt-en-us
  PROG ls
      the bucket that the settings of stage name
  PROG ls s3://deployments/bintarball/deployment-metadata
      bintarball references alone
  PROG ls s3://deployments --json | jq -r '.stagings[] | select(.state == "staged") | .destination'
""",
)


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    text = "where to look (default: the bucket that the settings of stage name)"
    options.add(parser, {"prefix": options.value("s3://BUCKET[/ENV[/MODEL]]", text, nargs="?")})
    options.add_reading(parser)


_HEAD = ("ENV", "MODEL", "VERSION", "STATE", "MODE", "SIZE", "MODELS", "STAGED AT", "RUN")
_MOST_SEGMENTS = 3
_MODES = {"full": "full", "reference_only": "reference", "bintarball_reference": "bintarball"}


def _list(session: Session) -> ListReport:
    endpoint = session.endpoint()
    from riva_stream.inspection.ls import list_stagings
    from riva_stream.inspection.uris import split_prefix

    example = "s3://deployments"
    place = session.args.prefix or (f"s3://{endpoint.bucket}" if endpoint.bucket else None)
    if place is None:
        raise ConfigurationError(
            "no bucket is named, and the settings of stage do not name one either",
            hint=f"for example: {example}; or set NVIDIA_DRIVERS_S3_BUCKET",
        )
    bucket, prefix = split_prefix(place, example)
    if prefix.removeprefix(DEPLOYMENTS).count("/") > _MOST_SEGMENTS:
        raise ConfigurationError(
            f"{place} is deeper than a staging, which is at ENV/MODEL/VERSION",
            hint=f"for example: s3://{bucket}/{'/'.join(prefix.split('/')[:2])}",
        )
    return session.run(list_stagings, endpoint.store(), bucket, prefix, observer=session.observe)


def _text(report: ListReport, _: Session) -> str:
    more = [f"note: {note.message}" for note in report.notes]
    if not report.stagings:
        return text_of([f"nothing is staged below {report.place}", *more])
    numbers = (_HEAD.index("SIZE"), _HEAD.index("MODELS"))
    lines = table_text([_HEAD, *map(_row, report.stagings)], right=numbers)
    lines += section("Notes", (f"{s.destination}: {s.note}" for s in report.stagings if s.note))
    staged = sum(staging.state == "staged" for staging in report.stagings)
    lines += ["", f"{staged} staged, {len(report.stagings) - staged} not, below {report.place}", *more]
    return text_of(lines)


def _row(staging: ListedStaging) -> tuple[str, ...]:
    return (
        staging.env,
        staging.model,
        staging.version,
        staging.state.replace("_", " ") + (", restaging" if staging.restaged_by else ""),
        _MODES[staging.mode] if staging.mode else "-",
        "-" if staging.size_bytes is None else human_size(staging.size_bytes),
        "-" if staging.models is None else str(staging.models),
        f"{staging.staged_at:%Y-%m-%d %H:%M}Z" if staging.staged_at else "-",
        staging.run_id or "-",
    )


run = session_command(_list, _text)
